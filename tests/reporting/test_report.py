"""The page: what it says, that it is safe to open, and that it says so where a piece is absent."""

from __future__ import annotations

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leukolens.artifacts import Predictions, write_json
from leukolens.errors import ArtifactError
from leukolens.evaluation.evaluate import evaluate
from leukolens.evaluation.paired import compare_models, leak_difference
from leukolens.reporting.html import report
from leukolens.reporting.wording import (
    decimal,
    decimal_interval,
    difference,
    difference_interval,
    percent,
    percent_interval,
)
from leukolens.settings import EvaluateSettings
from reporting.example_results import FEW, Example, build_results

ODD = '<script>alert("x")</script> $a_b$ & 細胞'
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what a browser would: tags in order, ids, addresses, and tags that are not closed in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.mismatched: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.opened.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "open"]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.opened.pop()

    def handle_endtag(self, tag):
        if not self.opened or self.opened.pop() != tag:
            self.mismatched.append(tag)


def read(path: Path) -> tuple[str, Page]:
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    return text, page


def words(text: str) -> str:
    """What a reader sees: no tags, one space between words."""
    return re.sub(r"[ \n\t]+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()


def first_page(text: str) -> str:
    return text[text.index('<section id="answer"') : text.index('<section id="details"')]


def fold(text: str, name: str) -> str:
    start = text.index(f'<div id="{name}">')
    return text[start : text.find('<details class="fold', start)]


def test_side(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())["sides"]["test"]


test_side.__test__ = False


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    return build_results(tmp_path_factory.mktemp("binary"), Example(odd_subject=ODD, claim=("regnet_y_400mf",)))


@pytest.fixture(scope="module")
def binary_page(binary):
    return read(report(binary))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    example = Example(classes=("Benign", "Early", "Pre", "Pro"), positive=("Early", "Pre", "Pro"), beats=False, tta=False,
                      protocols=("crossval/image", "image"), known_subjects=False, synthetic=False)  # fmt: skip
    return build_results(tmp_path_factory.mktemp("four"), example)


@pytest.fixture(scope="module")
def four_page(four):
    return read(report(str(four)))


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    example = Example(subjects=200, cells=1, rare=3, intervals=False, beats=None, synthetic=False, tta=False,
                      protocols=("crossval/subject", "crossval/image"))  # fmt: skip
    return build_results(tmp_path_factory.mktemp("rare"), example)


@pytest.fixture(scope="module")
def rare_page(rare):
    return read(report(rare))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    example = Example(architectures=("resnet50",), protocols=("subject",), tta=False)
    return build_results(tmp_path_factory.mktemp("small"), example)


def test_the_answer_comes_from_the_cross_validation_by_subject(binary, binary_page):
    text = first_page(binary_page[0])
    side = test_side(binary / "crossval/subject/resnet50")
    metrics = json.loads((binary / "crossval/subject/resnet50/metrics.json").read_text())
    validated = metrics["sides"]["validation"]["balanced_accuracy"]
    assert "<strong>ResNet-50</strong>" in text
    assert (
        "was chosen among 2 networks for the highest balanced accuracy on the validation images "
        f"({percent(validated)}). Cross-validated by subject, 3 folds × 2 seeds: 192 test images of 24 subjects, "
        "each scored by networks that were trained on none of that subject’s images."
    ) in text
    for figure, write, ends in (("auroc", decimal, decimal_interval), ("balanced_accuracy", percent, percent_interval),
                                ("sensitivity", percent, percent_interval), ("specificity", percent, percent_interval),
                                ("ece", decimal, decimal_interval)):  # fmt: skip
        interval = ends(side["intervals"]["intervals"][figure])
        assert f'<b>{write(side[figure])}</b> <span class="ends">{interval}</span>' in text


def test_numbers_of_the_main_tables_are_those_of_metrics_json(binary, binary_page):
    text, _ = binary_page
    titles = {"resnet50": "ResNet-50 ★", "resnet50+tta": "ResNet-50 + flips and turns", "ensemble": "Ensemble of the networks",
              "baseline_area": "Cell area alone"}  # fmt: skip
    for model, title in titles.items():
        side = test_side(binary / "crossval/subject" / model)
        ends = side["intervals"]["intervals"]
        row = " ".join([
            title, decimal(side["auroc"]), decimal_interval(ends["auroc"]), percent(side["balanced_accuracy"]),
            percent_interval(ends["balanced_accuracy"]), percent(side["sensitivity"]), percent(side["specificity"]),
            percent(side["f1_weighted"]), percent(side["accuracy"]), decimal(side["ece"]),
        ])  # fmt: skip
        assert row in words(first_page(text))
    trained = test_side(binary / "subject/regnet_y_400mf")
    assert re.search(rf"RegNetY (★ )?{decimal(trained['auroc'])} ", words(fold(text, "trained")))


def test_claims_are_those_of_the_analysis(binary, binary_page):
    analysis = json.loads((binary / "crossval/subject/analysis.json").read_text())
    page = words(first_page(binary_page[0]))
    assert "Its AUROC is higher than that of RegNetY (paired differences in AUROC, 95\u202f% intervals, Holm-adjusted)." in page
    hardest = min((each for each in analysis["against_baselines"] if each["model"] == "resnet50"),
                  key=lambda each: each["interval"][0])  # fmt: skip
    shown = f"{difference(hardest['difference'])} {difference_interval(hardest['interval'])}"
    assert re.search(rf"It beats every shortcut baseline \(the hardest, “[^”]+”: {re.escape(shown)} AUROC\)\.", page)
    leak = json.loads((binary / "leak.json").read_text())["mean"]
    assert (f"A split by image would flatter: {difference(leak['difference'])} {difference_interval(leak['interval'])} AUROC "
            "on average for the same recipe.") in page  # fmt: skip
    gain = next(each for each in analysis["gains"] if (each["model"], each["against"]) == ("ensemble", "resnet50"))
    shown = f"{difference(gain['difference'])} {difference_interval(gain['interval'])} AUROC"
    assert f"“Ensemble of the networks” against ResNet-50: {shown}, " in page
    assert page.count("beats them") == 3


def test_no_ranking_is_claimed_where_none_is_shown(four_page):
    page = words(first_page(four_page[0]))
    sentence = r"It cannot be told apart from (RegNetY|ResNet-50) \(paired differences in AUROC, 95\u202f% intervals"
    assert re.search(sentence, page)
    assert "is higher than that of" not in page
    assert re.search(r"It does not beat the shortcuts \(the hardest, “[^”]+”: ", page)
    assert page.count(" does not beat the shortcuts") == 4  # the sentence, two networks, the ensemble
    assert "<b>better</b>" not in fold(four_page[0], "differences")


def test_without_intervals_the_reason_stands_in_their_place(rare_page):
    text, page = rare_page
    shown = words(first_page(text))
    assert FEW in shown
    assert "Whether it is better than the others cannot be said: the differences in AUROC have no interval." in shown
    assert "It is not shown to beat the shortcut baselines: the differences have no interval (the hardest, " in shown
    assert "how much of that is chance is not known: no interval." in shown
    assert "HEM rests on 3 of 200 images, in 3 subject groups: another draw can give quite different figures." in shown
    assert "not shown to beat them" in shown
    assert "P(best)" not in shown
    assert "; no intervals; ★ chosen on validation" in shown
    assert not re.search(r"\[[+\u2212]?\d", shown.replace("in brackets", ""))
    assert page.mismatched == []


def test_what_to_beware_of_is_said(binary_page, four_page):
    text = words(first_page(binary_page[0]))
    assert "SYNTHETIC DATA." in binary_page[0]
    assert "Research software, not a medical device" in binary_page[0]
    assert "the choice is not independent of the test" in text
    assert "RegNetY: not started from ImageNet weights, as is usual, but trained on: NOT ImageNet" in text
    assert "ResNet-50: not started" not in text
    answered = "Images of another kind that would be answered and not refused, at worst: photographs: 10.0\u202f% (RegNetY)."
    assert answered in text
    assert "noise" not in text
    assert "SYNTHETIC" not in four_page[0]
    assert "No subject is known for these images." in four_page[0]
    assert "192 test images of unknown subjects." in four_page[0]


def test_every_result_of_a_split_by_image_is_labelled(binary_page):
    text, _ = binary_page
    tables = re.findall(r'<table class="main">\s*<caption><span>([^<]*)</span></caption>', text)
    assert ["optimistic" in caption for caption in tables] == [False, False, True, True]
    headings = re.findall(r'<h4><span class="dot".*?<span class="soft">([^<]*)</span>', fold(text, "networks"))
    assert ["optimistic" in heading for heading in headings] == [False] * 4 + [True] * 4
    assert "by image: optimistic" in fold(text, "leak")
    # What an optimistic split proves is nothing: no evidence is printed from it beside an honest one.
    assert "optimistic" not in fold(text, "differences") + fold(text, "calibration") + fold(text, "patients")


def test_the_folds_hold_what_the_files_hold(binary, binary_page):
    text, _ = binary_page
    analysis = json.loads((binary / "crossval/subject/analysis.json").read_text())
    pair = analysis["differences"][0]
    assert (f"{difference(pair['difference'])} {difference_interval(pair['interval'])} <0.001 <0.001 0.012 0.024 better"
            ) in words(fold(text, "differences"))  # fmt: skip
    gain = analysis["gains"][0]
    shown = f"{difference(gain['difference'])} {difference_interval(gain['interval'])} 1.0\u202fmin"
    assert shown in words(fold(text, "gains"))
    assert "0.041 [0.001, 0.081] 0.093 0.152 0.171 0.003 0.087 0.237 1.100 to 1.300 0.410" in words(fold(text, "calibration"))
    assert "Threshold chosen on validation for the highest balanced accuracy." in words(fold(text, "calibration"))
    patients = words(fold(text, "patients"))
    assert "24 subjects (12 HEM, 12 ALL), each judged by all its cells" in patients
    assert "0.931 [0.812, 0.987] 87.5\u202f% [52.9, 97.8] 75.0\u202f% 62.5\u202f% [52.9, 97.8] 75.0\u202f%" in patients
    abstention = words(fold(text, "abstention"))
    assert "5\u202f% no promise: 12 of 19 groups needed – – – – –" in abstention
    assert "10\u202f% 90.0\u202f% 87.4\u202f% 91.3\u202f% 62.1\u202f% 88.9\u202f% 1.38" in abstention
    assert "RegNetY split by subject 100.0\u202f% 90.0\u202f%" in abstention
    side = test_side(binary / "crossval/subject/resnet50")
    subgroup = side["subgroups"][3]
    assert (f"{subgroup['name']} {subgroup['images']} {subgroup['groups']} {subgroup['counts']['HEM']} "
            f"{subgroup['counts']['ALL']} {percent(subgroup['accuracy'])} {percent_interval(subgroup['interval'])} –"
            ) in words(fold(text, "subgroups"))  # fmt: skip
    one = side["folds"][4]
    assert f"1 1 {one['images']} {one['groups']} {decimal(one['auroc'])}" in words(fold(text, "folds"))
    assert f"{decimal(side['auroc'])} ± 0.012" in words(fold(text, "folds"))


def test_coverage_is_told_by_group_as_it_was_promised(binary, binary_page, tmp_path):
    said = words(fold(binary_page[0], "abstention"))
    assert "errors accepted promised, by group kept, by group kept, by image answered" in said
    assert "“Kept, by group” is that mean on these images." in said
    shutil.copytree(binary / "subject/resnet50", tmp_path / "older")
    metrics = json.loads((tmp_path / "older/metrics.json").read_text())
    for entry in metrics["sides"]["test"]["abstention"]["conformal"]:
        del entry["covered_by_group"]
    (tmp_path / "older/metrics.json").write_text(json.dumps(metrics))
    older = words(fold(read(report(tmp_path / "older"))[0], "abstention"))
    assert "10\u202f% 90.0\u202f% 91.3\u202f% 62.1\u202f% 88.9\u202f% 1.38" in older
    assert "kept, by group" not in older
    assert "“Kept, by group”" not in older


def test_auroc_within_folds_stands_beside_the_pooled_one(binary, binary_page, rare_page):
    said = words(fold(binary_page[0], "folds"))
    for model, title in {"resnet50": "ResNet-50", "baseline_area": "Cell area alone"}.items():
        side = test_side(binary / "crossval/subject" / model)
        ends = side["intervals"]["intervals"]
        pooled = f"{decimal(side['auroc'])} {decimal_interval(ends['auroc'])}"
        within = f"{decimal(side['auroc_within_folds'])} {decimal_interval(ends['auroc_within_folds'])}"
        assert f"{title} {pooled} {within}" in said
    assert "Each fold has a network, a scale of scores and a share of classes of its own" in said
    side = words(fold(rare_page[0], "folds"))
    assert "within folds" in side
    assert "[" not in side.split("within folds")[1].split("The AUROC elsewhere")[0]


def test_an_older_cross_validation_says_nothing_of_pairs_within_folds(binary, tmp_path):
    shutil.copytree(binary / "crossval/subject", tmp_path / "study")
    for path in (tmp_path / "study").glob("*/metrics.json"):
        metrics = json.loads(path.read_text())
        del metrics["sides"]["test"]["auroc_within_folds"]
        path.write_text(json.dumps(metrics))
    text, _ = read(report(tmp_path))
    assert "fold by fold" in words(fold(text, "folds"))
    assert "within folds" not in words(fold(text, "folds"))


def test_weights_of_another_architecture_are_something_to_beware_of(binary, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(binary, folder)
    record = json.loads((folder / "comparison.json").read_text())
    for row in record["rows"]:
        if row["model"] == "resnet50":
            row["trained_on"] = "ImageNet-1k (stands in for ResNet-152: no such file)"
    (folder / "comparison.json").write_text(json.dumps(record))
    assert "ResNet-50 stands in for ResNet-152, whose weights were not to be had." in words(first_page(read(report(folder))[0]))


def test_one_file_of_metrics_is_reported_beside_itself(other_tool):
    assert report(other_tool / "metrics.json") == other_tool / "report.html"


def test_refusals_of_the_predictions_are_told(other_tool, tmp_path):
    metrics = json.loads((other_tool / "metrics.json").read_text())
    metrics["sides"]["test"]["abstention"]["refusals"] = {
        "answered": 0.25, "accuracy_answered": 0.9, "reasons": {"uncertain: a or b": 3}}  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    shown = words(fold(read(report(tmp_path))[0], "abstention"))
    assert f"{percent(0.25)} are answered, {percent(0.9)} of them right. All other" in shown
    assert "count every image. uncertain: a or b: 3." in shown


def test_augmentation_is_named_in_every_table(binary, binary_page):
    text, _ = binary_page
    analysis = json.loads((binary / "crossval/subject/analysis.json").read_text())
    assert all("flips" not in each["display_name"] for each in analysis["models"])  # so that the report has to know
    ranked = sorted(analysis["models"], key=lambda each: -each["value"])
    ranks = fold(text, "differences").split("<table>")[1].split("</table>")[0]
    rows = [words(row) for row in ranks.split("<tr>")[2:]]
    titles = ["ResNet-50", "ResNet-50 + flips and turns", "RegNetY", "RegNetY + flips and turns"]
    named = {"resnet50": titles[0], "resnet50+tta": titles[1], "regnet_y_400mf": titles[2], "regnet_y_400mf+tta": titles[3]}
    for each, row in zip(ranked, rows, strict=True):
        shown = named.get(each["model"], each["display_name"])
        assert row.startswith(f"{shown} {decimal(each['value'])}")
    gains = words(fold(text, "gains"))
    assert "ResNet-50 + flips and turns ResNet-50 " in gains
    assert "RegNetY + flips and turns RegNetY " in gains
    assert "TTA" not in words(text)
    alone = binary / "crossval/subject/resnet50+tta"
    assert "<title>ResNet-50 + flips and turns: evaluation</title>" in read(report(alone))[0]
    (alone / "report.html").unlink()


def test_own_features_share_a_column_and_long_names_have_two_lines(binary, tmp_path):
    folder, study = tmp_path / "results", "crossval/subject"
    shutil.copytree(binary, folder)
    record = json.loads((folder / "comparison.json").read_text())
    analysis = json.loads((folder / study / "analysis.json").read_text())
    for model, name in {"resnet50": "ResNet-50", "regnet_y_400mf": "RegNetY"}.items():
        baseline, title = f"baseline_features_{model}", f"{name}: frozen features + logistic regression"
        shutil.copytree(folder / study / "baseline_area", folder / study / baseline)
        row = next(row for row in record["rows"] if row["run"] == f"{study}/baseline_area")
        record["rows"].append({**row, "model": baseline, "run": f"{study}/{baseline}", "display_name": title})
        analysis["against_baselines"].append({"model": model, "baseline": baseline, "difference": 0.0123, "interval": None,
                                              "beats": None})  # fmt: skip
    (folder / "comparison.json").write_text(json.dumps(record))
    (folder / study / "analysis.json").write_text(json.dumps(analysis))
    text, page = read(report(folder))
    against = fold(text, "differences")
    assert against.count('<th scope="col">its own frozen features + logistic regression</th>') == 1
    assert len(re.findall(r"\+0\.012 <span class=\"said\">not shown", against)) == 2
    assert '<span class="whole">RegNetY:</span> <span class="how">frozen features + logistic regression</span>' in text
    assert page.mismatched == []


def test_the_worst_subjects_are_named_and_their_cells_shown(binary, binary_page):
    text, _ = binary_page
    section = fold(text, "patients")
    side = test_side(binary / "crossval/subject/resnet50")
    table = Predictions.load(binary / "crossval/subject/resnet50").table
    table = table[(table["side"] == "test") & (table["repeat"] == 0)]
    for entry in side["per_subject"][:5]:
        named = f"Subject {entry['subject']} ({entry['label']}): {entry['correct']} of {entry['images']}"
        part = html.unescape(section).split(named)[1].split("<h4>")[0].split("<h3>")[0]
        wrong = int((table.loc[table["subject"] == entry["subject"], "y_true"]
                     != table.loc[table["subject"] == entry["subject"], "y_pred"]).sum())  # fmt: skip
        assert wrong == entry["images"] - entry["correct"]
        assert part.count("<img") == 6
        assert part.count('class="wrong"') == min(wrong, 6)
        assert [mark == "✗" for mark in re.findall("[✗✓]", part)] == [place < wrong for place in range(6)]


def test_all_figures_are_there_and_no_id_is_used_twice(binary_page):
    text, page = binary_page
    # First page: leak. Evidence of two studies: forest, reliability, subjects, subgroups, risk. Four studies: two curves;
    # per network 2 learning curves, confusion, subjects. Data: counts of images and subjects of the two single splits.
    assert page.tags.count("svg") == 1 + 2 * 5 + 4 * 2 + 8 * 4 + 2 * 2
    assert len(page.ids) == len(set(page.ids))
    for reference in re.findall(r"url\(#([^)]+)\)", text) + [a[1:] for a in page.addresses if a.startswith("#")]:
        assert reference in page.ids


def test_names_are_escaped_everywhere(binary_page):
    text, page = binary_page
    assert "script" not in page.tags
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "&lt;broken&gt;" in text
    assert page.mismatched == []
    assert page.opened == []


def test_nothing_is_loaded_from_elsewhere_and_folds_are_closed(binary_page, four_page, rare_page):
    for text, page in (binary_page, four_page, rare_page):
        assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
        assert not re.search(r"url\((?!#)|@import|<link|<iframe|<object", text)
        assert "default-src 'none'" in text
        assert page.handlers == []


def test_the_leak_is_also_a_picture_of_its_own(binary, binary_page):
    from PIL import Image

    with Image.open(binary / "leak.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 1400
    assert not (binary / "leak.svg").exists()


def test_reference_flow_audit_settings_and_hashes_are_shown(binary, binary_page):
    text, _ = binary_page
    metrics = json.loads((binary / "subject/resnet50/metrics.json").read_text())
    for piece in ("files found", "Files set aside", "subjects 20 + 21", "subjects on two sides: 0", "train.batch_size",
                  "f" * 64, metrics["record"]["predictions_hash"], "3.1 GiB", "12.6\u202fmin", "95.3\u202f%"):  # fmt: skip
        assert piece in text


def test_four_classes(four_page):
    text, page = four_page
    assert "sensitivity for Early, Pre, Pro" in text
    assert "each class against the rest" in text
    assert '<div id="leak">' not in text
    assert "No figure over subjects: no subject is known for these images." in words(text)
    assert page.mismatched == []


def test_no_positive_class(tmp_path):
    example = Example(classes=("Benign", "Early", "Pre"), positive=(), architectures=("resnet50",), protocols=("subject",))
    folder = build_results(tmp_path, example)
    text, page = read(report(folder))
    shown = words(first_page(text))
    side = test_side(folder / "subject/resnet50")
    assert "No curve of all networks is drawn" in text
    assert "ResNet-50 is the only network here; its balanced accuracy on the validation images is" in shown
    assert f"{percent(side['f1_macro'])} {percent_interval(side['intervals']['intervals']['f1_macro'])} F1, macro" in shown
    assert "sensitivity" not in shown
    assert shown.index("model balanced accuracy AUROC, macro") > 0
    assert page.mismatched == []


def test_one_run_directory_alone(small, tmp_path):
    shutil.copytree(small / "subject" / "resnet50", tmp_path / "run")
    text, _ = read(report(tmp_path))
    assert "<title>ResNet-50: evaluation</title>" in text
    assert "comparison.json is absent" in text
    assert "manifest.parquet is absent" in text
    assert "splits.parquet of “split by subject” is absent" in text
    text, _ = read(report(tmp_path / "run"))
    assert "is the only network here" in text


def test_models_that_were_not_compared_are_not_ranked(binary, tmp_path):
    shutil.copytree(binary / "subject", tmp_path / "subject")
    (tmp_path / "subject/analysis.json").unlink()
    text, _ = read(report(tmp_path))
    assert "Whether it is better than the others was not measured" in first_page(text)
    assert "analysis.json of “split by subject” is absent" in text


def test_absent_pieces_are_named(binary, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(binary, folder)
    (folder / "subject/regnet_y_400mf/metrics.json").unlink()
    (folder / "image/resnet50/run.json").unlink()
    (folder / "crossval/subject/resnet50/predictions.parquet").unlink()
    text, page = read(report(folder))
    assert "subject/regnet_y_400mf/metrics.json is absent, so the model is in no table or figure" in text
    assert "image/resnet50/run.json is absent" in text
    assert page.mismatched == []


def test_moved_images_are_said_and_not_shown(small, tmp_path):
    (small / "cells").rename(tmp_path / "elsewhere")
    text, page = read(report(small))
    (tmp_path / "elsewhere").rename(small / "cells")
    assert "img" not in page.tags
    assert "12 of the cells chosen here could not be read again" in text
    assert "6 of the cells chosen here could not be read again" in fold(text, "patients")


@pytest.fixture(scope="module")
def other_tool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    random = np.random.default_rng(3)
    subject = np.repeat(np.arange(24), 8)
    score = 1 / (1 + np.exp(-(random.normal(size=192) + 2.0 * (subject % 2) - 1)))
    table = pd.DataFrame({"image": [f"{n}.png" for n in range(192)], "subject": [f"s{n}" for n in subject],
                          "y_true": np.where(subject % 2, "ALL", "HEM"), "y_score": score})  # fmt: skip
    table.to_csv(folder / "their_model.csv", index=False)
    evaluate(folder / "their_model.csv", folder / "out", settings=EvaluateSettings(resamples=200))
    return folder / "out"


def test_scores_of_another_tool_get_the_same_first_page(other_tool):
    text, page = read(report(other_tool))
    shown, side = words(first_page(text)), test_side(other_tool)
    assert (
        "their_model is another tool’s model, measured from its table of scores; how it was chosen is not recorded. "
        "Split not recorded: 192 test images of 24 subjects; whether it was trained on some of them is not recorded."
    ) in shown
    assert f"{decimal(side['auroc'])} {decimal_interval(side['intervals']['intervals']['auroc'])} AUROC" in shown
    assert "Whether the test subjects were kept out of the training is not recorded." in shown
    assert "★" not in shown
    assert "<title>their_model: evaluation</title>" in text
    assert page.mismatched == []
    assert page.tags.count("img") == 0


def test_what_evaluate_and_compare_models_write_is_read(binary, tmp_path):
    folder, settings = tmp_path / "results", EvaluateSettings(resamples=200)
    shutil.copytree(binary, folder)
    studies = {}
    for study in ("crossval/subject", "crossval/image"):
        models = {name: Predictions.load(folder / study / name)
                  for name in ("resnet50", "regnet_y_400mf", "ensemble", "baseline_area")}  # fmt: skip
        for name in models:
            evaluate(folder / study / name, folder / study / name, settings=settings)
        write_json(folder / study / "analysis.json", compare_models(models, "auroc", settings))
        studies[study] = models
    leak = leak_difference(studies["crossval/subject"], studies["crossval/image"], "auroc", settings)
    write_json(folder / "leak.json", leak)
    text, page = read(report(folder))
    side, shown = test_side(folder / "crossval/subject/resnet50"), words(first_page(text))
    assert f"{decimal(side['auroc'])} {decimal_interval(side['intervals']['intervals']['auroc'])} AUROC" in shown
    assert f"{difference(leak['mean']['difference'])} {difference_interval(leak['mean']['interval'])} AUROC on average" in shown
    level = side["subject_level"]
    rule = level["rules"]["mean_logit"]
    assert f"{percent(rule['specificity'])} {percent_interval(rule['specificity_interval'])}" in words(fold(text, "patients"))
    assert page.mismatched == []


def test_metrics_of_an_older_leukolens_are_refused(small, tmp_path):
    shutil.copytree(small / "subject" / "resnet50", tmp_path / "run")
    path = tmp_path / "run" / "metrics.json"
    metrics = json.loads(path.read_text())
    for key in ("intervals", "calibration"):
        del metrics["sides"]["test"][key]
    path.write_text(json.dumps(metrics))
    with pytest.raises(ArtifactError) as caught:
        report(tmp_path)
    assert caught.value.what == f"{path} was not written by this version of leukolens."
    assert caught.value.received == "a test side without intervals, calibration"
    assert caught.value.remedy == (f"run `leukolens evaluate {path.parent}` (or evaluate the table of scores) again, "
                                   "then report again")  # fmt: skip
    path.write_text("{}")
    with pytest.raises(ArtifactError) as caught:
        report(tmp_path)
    assert caught.value.received == "no record, or no side"


def test_a_comparison_of_an_older_leukolens_is_refused(small, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(small, folder)
    record = json.loads((folder / "comparison.json").read_text())
    for row in record["rows"]:
        del row["study"], row["kind"]
    (folder / "comparison.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError) as caught:
        report(folder)
    assert caught.value.received == "rows without study, kind"
    assert caught.value.remedy == (f"run the same `leukolens compare` with --out {folder} again (what is trained is kept), or "
                                   "report one of its run folders")  # fmt: skip


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        report(tmp_path)
    assert caught.value.received == "no metrics.json"
    assert not (tmp_path / "report.html").exists()


def test_the_same_results_give_the_same_page(small):
    assert report(small).read_bytes() == report(small).read_bytes()
