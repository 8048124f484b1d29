"""Model card and data sheet: what is there is said, what is absent is named, and nothing of the user's files escapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from leukolens.artifacts import MANIFEST_COLUMNS, Manifest, Splits, hash_file, read_json, write_json
from leukolens.errors import ArtifactError
from leukolens.reporting import cards
from leukolens.reporting.cards import code, escape, fence, plain, table, write_data_sheet, write_model_card
from leukolens.reporting.checklists import CHECKLISTS, COVERED, HEADINGS, NUMBERING

HOME = "/home/jane doe/private"
SUBJECTS = {"1": "ALL", "2": "ALL", "H1": "HEM", "H2": "HEM"}
# Area of the five cells of each subject, in px.
AREAS = {"1": (60, 70, 80, 90, 100), "2": (60, 70, 80, 90, 100), "H1": (10, 20, 30, 40, 50), "H2": (10, 20, 30, 40, 50)}


def manifest(classes: Mapping[str, str] | None = None, subject: str = "1", *, synthetic: bool = False) -> Manifest:
    """20 cells of four subjects; `classes` renames ALL and HEM, `subject` the first subject."""
    name = {"ALL": "ALL", "HEM": "HEM", **(classes or {})}
    rows = [{"image": f"{who}_{cell}.bmp", "label": name[label], "subject": subject if who == "1" else who,
             "group": subject if who == "1" else who, "part": "train", "area_px": area, "format": "BMP", "width_px": 450,
             "height_px": 450, "pixel_hash": f"{who}{cell}", "content_hash": f"{who}{cell}", "mean_red": 100.0,
             "mean_green": 90.0, "mean_blue": 80.0, "bytes": 1_048_576}
            for who, label in SUBJECTS.items() for cell, area in enumerate(AREAS[who])]  # fmt: skip
    flow = {"found": 22, "set_aside": {"truncated": 2}, "usable": 20, "labelled": 20, "unlabelled": 0, "subjects": 4,
            "groups": 4,
            "set_aside_images": [{"image": "a.bmp", "reason": "truncated", "detail": f"cannot identify {HOME}/a.bmp"}],
            "csv_rows_without_image": 0, "images_without_csv_row": 0, "duplicate_images": 3, "duplicate_sets": 2,
            "duplicate_sets_across_subjects": 1, "duplicate_sets_across_folds": 0, "duplicate_sets_across_parts": 0,
            "merged_groups": [["7", "14"]],
            "counts": [{"part": "train", "fold": None, "label": label, "images": 10, "subjects": 2}
                       for label in name.values()]}  # fmt: skip
    record = {"root": f"{HOME}/cells", "layout": "flat", "classes": [name["HEM"], name["ALL"]], "positive": [name["ALL"]],
              "canvas_px": [450, 450], "synthetic": synthetic, "flow": flow}  # fmt: skip
    return Manifest(pd.DataFrame(rows).reindex(columns=list(MANIFEST_COLUMNS)), record)


def splits(data: Manifest, **record: Any) -> Splits:
    sides = ["test" if image.startswith(("1_", "H1_")) else "train" for image in data.images["image"]]
    return Splits(
        pd.DataFrame({"fold": 0, "image": data.images["image"], "side": sides}),
        {"strategy": "subject", "label": "split by subject", "optimistic": False, "seed": 3, "folds": 1,
         "fractions": [0.7, 0.15, 0.15], "manifest_hash": data.content_hash,
         "audit": ["split by subject, seed 3", "groups on two sides: 0"], **record},
    )  # fmt: skip


def run_record(data: Manifest) -> dict[str, Any]:
    return {
        "architecture": "resnet50", "display_name": "ResNet-50", "classes": data.record["classes"],
        "positive": data.record["positive"], "synthetic": data.record["synthetic"], "manifest_hash": data.content_hash,
        "weights": {"trained_on": "ImageNet-1k", "origin": "folder: r.safetensors", "source": "torchvision",
                    "licence": "BSD-3-Clause", "note": "", "sha256": "b" * 64, "paper": "He et al. 2016"},
        "preprocessing": {"canvas_px": [450, 450], "input_px": 224, "mean": [0.4], "std": [0.2], "resizer": "bilinear"},
        "settings": {"weights_dir": f"{HOME}/weights", "finetune_epochs": 6, "class_weights": True, "fold": 0},
        "split": {"strategy": "subject", "label": "split by subject", "optimistic": False, "seed": 3},
        "best_phase": "finetune", "best_epoch": 4, "validation_balanced_accuracy": 0.9, "parameters": 23_510_081,
        "train_seconds": 90.0, "run_hash": "c" * 64, "seed": 3, "device": "cpu", "precision": "fp32", "git_commit": "d" * 40,
        "versions": {"torch": "2.15.0"}, "hardware": {"cores": 2},
    }  # fmt: skip


def side_figures(classes: list[str], subject: str = "1") -> dict[str, Any]:
    """Figures of ten test images as the contract of metrics.json has them; no two are alike, so none can stand for another."""
    return {
        "images": 10, "subjects": 2, "groups": 2, "counts": {classes[0]: 5, classes[1]: 5},
        "accuracy": 0.8, "balanced_accuracy": 0.81, "sensitivity": 0.82, "specificity": 0.83, "auroc": 0.9123, "auprc": 0.884,
        "mcc": -0.25, "precision_weighted": 0.71, "recall_weighted": 0.72, "f1_weighted": 0.73, "precision_macro": 0.74,
        "recall_macro": 0.75, "f1_macro": 0.76, "ece": 0.061, "brier": 0.122,
        "intervals": {"unit": "subject group", "groups": {classes[0]: 9, classes[1]: 11},
                      "effective_groups": {classes[0]: 6.24, classes[1]: 8.46},
                      "intervals": {"auroc": [0.7012, 0.9534], "balanced_accuracy": [0.6, 0.95], "sensitivity": None},
                      "note": "HEM has 9 groups: the interval is fragile."},
        "repeats": {"count": 1, "spread": {}, "values": {}},
        "folds": [{"repeat": 0, "fold": 0, "images": 10, "groups": 2, "accuracy": 0.8, "balanced_accuracy": 0.81}],
        "calibration": {"ece": 0.061, "ece_uncalibrated": 0.093, "brier": 0.122, "brier_uncalibrated": 0.141,
                        "reliability": 0.0001, "resolution": 0.087, "uncertainty": 0.237, "within_bins": 0.0, "bins": [],
                        "decisions": [], "notes": ["2 bins instead of 15."]},
        "subject_level": {"subjects": 2, "classes": {classes[0]: 1, classes[1]: 1}, "rows": [], "auroc": 0.931,
                          "auroc_interval": [0.812, 0.987], "notes": ["Two subjects."],
                          "rules": {"mean_logit": {"sensitivity": 0.875, "sensitivity_interval": [0.529, 0.978],
                                                   "specificity": 0.75, "specificity_interval": None}}},
        "subgroups": [{"by": "cell area", "name": "quartile 1: up to 24,000 px", "images": 5, "groups": 2, "accuracy": 0.77,
                       "balanced_accuracy": None, "interval": [0.5, 0.9], "counts": {classes[0]: 5}}],
        "abstention": {"risk_coverage": {"coverage": [], "risk": []}, "aurc": 0.052,
                       "conformal": [{"alpha": 0.1, "promised": 0.9, "groups": 12, "groups_needed": 9, "covered": 0.913,
                                      "answered": 0.621, "accuracy_answered": 0.889, "mean_set_size": 1.384},
                                     {"alpha": 0.05, "promised": None, "groups": 12, "groups_needed": 19, "covered": None,
                                      "answered": None, "accuracy_answered": None, "mean_set_size": None}],
                       "outliers": {"refused": 0.021, "images": 10}, "notes": []},
        "per_class": {name: {"precision": 0.7, "recall": 0.8, "f1": 0.75, "support": 5} for name in classes},
        "confusion_matrix": [[4, 1], [2, 3]],
        "per_subject": [{"subject": subject, "label": classes[1], "images": 5, "correct": 3, "accuracy": 0.6}],
        "curves": {}, "notes": ["One sentence of the evaluation."],
    }  # fmt: skip


def metrics(data: Manifest, subject: str = "1", **record: Any) -> dict[str, Any]:
    classes = list(data.record["classes"])
    decision = {"repeat": 0, "fold": 0, "temperature": 1.4, "threshold": 0.41, "aim": "sensitivity", "sensitivity": 0.95}
    return {
        "record": {"classes": classes, "positive": data.record["positive"], "display_name": "ResNet-50", "kind": "network",
                   "split_label": "split by subject", "optimistic": False, "synthetic": data.record["synthetic"], "tta": False,
                   "manifest_hash": data.content_hash, "predictions_hash": "e" * 64, "decisions": [decision],
                   "evaluation": {"resamples": 2000, "confidence": 0.95, "minimum_groups": 8, "seed": 0}, **record},
        "sides": {"validation": {"images": 4, "balanced_accuracy": 0.99, "counts": {}}, "test": side_figures(classes, subject)},
    }  # fmt: skip


ANALYSIS = {
    "figure": "auroc", "unit": "subject group", "note": None, "notes": ["Area alone comes close."], "differences": [],
    "models": [{"model": "resnet50", "display_name": "ResNet-50", "kind": "network", "value": 0.9123,
                "interval": [0.7012, 0.9534]},
               {"model": "baseline_area", "display_name": "Cell area alone", "kind": "baseline", "value": 0.85,
                "interval": None}],
    "against_baselines": [{"model": "resnet50", "baseline": "baseline_area", "difference": 0.0623,
                           "interval": [-0.0212, 0.1434], "beats": False}],
    "beats_baselines": {"resnet50": False},
    "gains": [],
}  # fmt: skip
DECISION = {"temperature": 1.4, "validation_images": 36, "validation_groups": 7, "classes": [], "positive": [], "notes": [],
            "threshold": {"value": 0.41, "aim": "sensitivity", "sensitivity": 0.95, "reached": 0.967}, "conformal": {},
            "outliers": {"images": 200, "neighbours": 10, "limit": 0.3, "notes": []}, "hash": "a" * 64}  # fmt: skip


def build(folder: Path, data: Manifest, subject: str = "1") -> Path:
    """A results folder with one run and everything beside it; gives the run folder."""
    run = folder / "subject" / "resnet50"
    run.mkdir(parents=True)
    data.save(folder / "manifest.parquet")
    splits(data).save(folder / "subject" / "splits.parquet")
    for path, value in {run / "run.json": run_record(data), run / "metrics.json": metrics(data, subject),
                        run / "decision.json": DECISION, run.parent / "analysis.json": ANALYSIS}.items():  # fmt: skip
        write_json(path, value)
    rows = ("kind,image,outlier_score,refused", "noise,n0,3.1,True", "noise,n1,2.0,True", "photographs,cat,0.9,False")
    (run / "foreign.csv").write_text("\n".join(rows))
    (run / "weights.safetensors").write_bytes(b"weights")
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return build(tmp_path / "results", manifest())


def card(run: Path, results: Path | None = None) -> str:
    return write_model_card(run, results).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def cells(text: str, first: str) -> list[str]:
    """Cells of the table row that begins with `first`."""
    line = next(line for line in text.splitlines() if re.match(rf"\| {re.escape(first)} +\|", line))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def rewrite(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def headings(text: str, level: str = "h2") -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    places = [place for place, token in enumerate(tokens) if token.type == "heading_open" and token.tag == level]
    return [tokens[place + 1].content for place in places]


def test_card_has_every_heading_in_order_and_says_that_nothing_is_absent(run):
    text = card(run)
    assert headings(text) == [*HEADINGS, "Reporting checklists"]
    assert headings(text, "h1") == ["Model card: ResNet-50"]
    assert "Absent" not in text
    assert "is empty" in text  # one split, one seed: the spread is not measured
    assert '"Variation" is empty: 30 robustness.' in text


@pytest.mark.parametrize("checklist", CHECKLISTS, ids=lambda checklist: checklist.name)
def test_every_item_stands_in_the_card_under_a_heading_that_exists_or_with_people(run, checklist):
    text = card(run)
    own = text.split(f"\n### {checklist.name}\n")[1].split("\n### ")[0]
    for item in checklist.items:
        if item.status == COVERED:
            assert f"\n## {item.section}\n" in text
            line = next(line for line in own.splitlines() if f'"{item.section}"' in line)
            assert re.search(rf"[:;] {item.number} {re.escape(item.name)}[;.]", line), item
        left = f"- [ ] to be filled by people: {item.number}, {item.name}" + (f": {item.left}" if item.left else "")
        assert (f"{left}\n" in own) == bool(item.status != COVERED or item.left), item
    assert NUMBERING in text


def test_figures_are_taken_over_with_their_intervals(run):
    figures = section(card(run), "Figures")
    assert cells(figures, "figure") == ["figure", "test", "95 % interval", "validation (tuned on)"]
    assert cells(figures, "AUROC") == ["AUROC", "0.912", "0.701 to 0.953", "–"]
    assert cells(figures, "balanced accuracy") == ["balanced accuracy", "81.0 %", "60.0 % to 95.0 %", "99.0 %"]
    assert cells(figures, "sensitivity")[:3] == ["sensitivity", "82.0 %", "none"]
    assert cells(figures, "MCC")[1] == "−0.250"
    assert "here ALL 5 of 10 images" in figures
    assert "One sentence of the evaluation." in figures


def test_intervals_say_how_they_were_made_and_what_is_frail(run):
    text = section(card(run), "Intervals")
    assert "resampled by subject group, stratified by class (2,000 resamples, seed 0)" in text
    assert "Groups per class: HEM 9, ALL 11; groups of equal size that would say as much (Kish): HEM 6.2, ALL 8.5." in text
    assert "**Beware:** HEM has 9 groups: the interval is fragile." in text


def test_reason_stands_where_no_interval_is_given(run):
    values = read_json(run / "metrics.json")
    values["sides"]["test"]["intervals"].update(intervals={"auroc": None}, note="HEM has 2 groups, 8 are needed.")
    write_json(run / "metrics.json", values)
    text = card(run)
    assert "No interval is given." in section(text, "Intervals")
    assert "HEM has 2 groups, 8 are needed." in section(text, "Intervals")
    assert "- AUROC: 0.912, no interval\n" in text


def test_first_lines_hold_the_answer(run):
    first = card(run).split("## Model details")[0]
    assert "measured on 10 images of 2 subjects in 2 subject groups (side: test)" in first
    assert "- AUROC: 0.912, 95 % interval 0.701 to 0.953\n" in first.replace("\u202f", " ")
    assert "- baselines: **not all beaten** by more than the paired interval" in first
    assert "not a medical device" in first


def test_the_other_sections_say_what_their_files_say(run):
    text = card(run).replace("\u202f", " ")
    assert cells(section(text, "Errors"), "ALL") == ["ALL", "2", "3"]
    assert cells(section(text, "Errors"), "1") == ["1", "ALL", "3", "5"]
    assert "AUROC over subjects 0.931, interval 0.812 to 0.987" in section(text, "Subjects")
    rule = cells(section(text, "Subjects"), "mean logit of the cells")
    assert rule[1:] == ["87.5 % (52.9 % to 97.8 %)", "75.0 % (none)"]
    assert cells(section(text, "Subgroups"), "cell area")[2:] == ["5", "2", "77.0 %", "50.0 % to 90.0 %", "–"]
    assert cells(section(text, "Baselines"), "Cell area alone") == ["Cell area alone", "+0.062", "−0.021 to +0.143", "no"]
    calibration = section(text, "Calibration and threshold")
    assert "Temperature: 1.400, fitted on 36 validation images of 7 groups." in calibration
    assert ("positive from a score of 0.410, chosen on validation for the highest specificity with a sensitivity of at least "
            "95.0 %; sensitivity reached there: 96.7 %.") in calibration  # fmt: skip
    assert cells(calibration, "Brier: reliability (less is better)")[1] == "<0.001"
    abstention = section(text, "Abstention and foreign images")
    assert cells(abstention, "10 %") == ["10 %", "90.0 %", "12 (9)", "91.3 %", "62.1 %", "88.9 %", "1.38"]
    assert cells(abstention, "5 %") == ["5 %", "–", "12 (19)", "–", "–", "–", "–"]
    assert cells(abstention, "noise") == ["noise", "2", "2"]
    assert cells(abstention, "photographs") == ["photographs", "0", "1"]
    assert "2.1 % of 10 images" in abstention


def test_hashes_are_those_of_the_files(run):
    text = card(run)
    data = Manifest.load(run.parents[1])
    assert f"`{data.content_hash}`" in section(text, "Data")
    assert f"`{Splits.load(run.parent).content_hash}`" in section(text, "Protocol")
    assert cells(section(text, "Reproduction"), "trained weights")[1] == f"`{hash_file(run / 'weights.safetensors')}`"
    assert cells(section(text, "Reproduction"), "predictions")[1] == f"`{'e' * 64}`"


def test_protocol_shows_audit_and_counts(run):
    text = section(card(run), "Protocol")
    assert "```text\nsplit by subject, seed 3\ngroups on two sides: 0\n```" in text
    assert "| test       | HEM   | 5      | 1        | 1      |" in text
    assert "All cells of a subject group are on one side." in text


def test_the_same_files_give_the_same_card_and_nothing_half_written_stays(run):
    first = card(run)
    assert card(run) == first
    assert [path.name for path in run.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_open_both_documents(tmp_path, synthetic):
    run = build(tmp_path / "results", manifest(synthetic=synthetic))
    for text in (card(run), write_data_sheet(tmp_path / "results").read_text(encoding="utf-8")):
        assert text.split("\n\n")[1].startswith("**SYNTHETIC DATA.**") is synthetic
        assert ("says anything about leukemia" in text) is synthetic


@pytest.mark.parametrize(
    ("name", "sentence", "heading", "empty"),
    [
        ("metrics.json", "metrics.json: no figure is reported.", "Figures", "No figures: metrics.json is absent."),
        ("foreign.csv", "foreign.csv: nothing is known of images that are no cells.", "Data", None),
        ("../analysis.json", "analysis.json: no comparison with baselines", "Baselines", "Not reported"),
        ("../splits.parquet", "splits.parquet: the audit of the split is not shown.", "Protocol", "How the images were"),
        ("../../manifest.parquet", "manifest.parquet: the data and their flow are not", "Data", "Not described here"),
    ],
)
def test_absent_files_are_named_and_nothing_is_invented(run, name, sentence, heading, empty):
    (run / name).unlink()
    text = card(run)
    assert f"- {sentence}" in text.split("## Model details")[0]
    assert empty is None or empty in section(text, heading)
    assert headings(text) == [*HEADINGS, "Reporting checklists"]


def test_items_of_an_empty_section_are_open_and_not_covered(run):
    (run.parents[1] / "manifest.parquet").unlink()
    claim = card(run).split("### CLAIM")[1].split("### STARD")[0]
    assert 'Covered under "Data"' not in claim
    assert '- [ ] "Data" is empty: 7 sources of the data; 8 inclusion and exclusion; 12 missing data; 35 numbers' in claim


def test_scores_of_another_tool_make_a_card_that_says_what_is_not_known(tmp_path):
    unknown = dict.fromkeys(("kind", "optimistic", "split_label", "manifest_hash"))
    values = metrics(manifest(), decisions=[], display_name="scores", **unknown)
    old = ("intervals", "repeats", "folds", "calibration", "subject_level", "subgroups", "abstention")
    for name in old:
        del values["sides"]["test"][name]
    write_json(tmp_path / "there" / "metrics.json", values)
    manifest().save(tmp_path / "manifest.parquet")  # of something else: no hash ties it to the scores
    text = card(tmp_path / "there")
    for name in ("run.json", "decision.json", "analysis.json", "foreign.csv", "manifest.parquet", "splits.parquet"):
        assert f"- {name}: " in text
    assert "Not known: the scores came without a run of leukolens." in section(text, "Model details")
    assert "No interval was computed, and the reason is not on record." in section(text, "Intervals")
    assert "How training and test images were separated is not known" in section(text, "Limits")
    assert "another place than the training images is not known" in section(text, "Limits")
    assert 'Covered under "Intervals"' not in text
    assert "Not described here" in section(text, "Data")


def test_a_manifest_that_is_handed_over_describes_scores_without_a_hash(tmp_path):
    write_json(tmp_path / "there" / "metrics.json", metrics(manifest(), kind=None, manifest_hash=None))
    manifest().save(tmp_path / "results" / "manifest.parquet")
    assert "Data set: cells, layout flat." in section(card(tmp_path / "there", tmp_path / "results"), "Data")


def test_data_and_splits_of_another_version_are_left_out(run):
    other = manifest({"HEM": "normal"})
    other.save(run.parents[1] / "manifest.parquet")
    splits(other).save(run.parent / "splits.parquet")
    text = card(run)
    assert "- manifest.parquet: the one found describes other data (its hash differs) and is left out." in text
    assert "- splits.parquet: the one found splits other data (its hash differs) and is left out." in text
    assert " normal " not in text


def test_analysis_of_other_models_says_nothing_about_this_one(run):
    rewrite(run.parent / "analysis.json", models=[{"model": "vgg16", "display_name": "VGG16", "value": 0.99}])
    text = card(run)
    assert "- analysis.json: no comparison with baselines" in text
    assert "VGG16" not in text


def test_cross_validation_has_no_run_but_a_card(run):
    made = run_record(manifest())
    (run / "run.json").unlink()
    (run / "decision.json").unlink()
    (run / "weights.safetensors").unlink()
    (run.parent / "splits.parquet").rename(run.parent / "splits-0.parquet")
    settings = {"folds": 5, "train": {"finetune_epochs": 0, "class_weights": False, "architecture": "vgg16", "seed": 0}}
    write_json(run / "crossval.json", {**made, "settings": settings})
    values = read_json(run / "metrics.json")
    test = values["sides"]["test"]
    test["repeats"] = {"count": 3, "spread": {"auroc": 0.0214}, "values": {}}
    test["folds"] = [{**test["folds"][0], "repeat": repeat, "fold": fold} for repeat in range(3) for fold in range(2)]
    values["record"]["split_label"] = "cross-validated by subject, 2 folds × 3 seeds"
    values["record"]["decisions"] = [{**values["record"]["decisions"][0], "repeat": repeat} for repeat in range(3)]
    write_json(run / "metrics.json", values)
    text = card(run)
    assert "There is no one set of" in section(text, "Model details")
    assert cells(section(text, "Figures"), "AUROC")[3] == "0.021"
    assert "Each figure is the mean over 3 repetitions." in section(text, "Figures")
    assert len(re.findall(r"^\| \d", section(text, "Variation"), re.MULTILINE)) == 6
    assert len(re.findall(r"^\| \d", section(text, "Calibration and threshold"), re.MULTILINE)) == 3
    assert "Of the first repetition" in section(text, "Errors")
    assert "the backbone stays as it was" in section(text, "Training")
    assert "the loss is not weighted" in section(text, "Training")
    assert "vgg16" not in text  # the default of a setting that the cross-validation overrides
    assert "- protocol: cross-validated by subject, 2 folds × 3 seeds\n" in text
    assert "is empty" not in text


@pytest.mark.parametrize(("kind", "words"), [("baseline", "A baseline, measured"), ("ensemble", "An ensemble: the mean")])
def test_baselines_and_ensembles_need_no_run(run, kind, words):
    for name in ("run.json", "decision.json", "foreign.csv"):
        (run / name).unlink()
    write_json(run / "metrics.json", metrics(manifest(), kind=kind))
    text = card(run)
    assert words in section(text, "Model details")
    assert "Absent" not in text


def test_optimistic_split_is_said_to_be_too_high(run):
    write_json(run / "metrics.json", metrics(manifest(), optimistic=True))
    assert "the figures are too high for new patients" in section(card(run), "Limits")


def test_three_classes_have_no_threshold(run):
    rewrite(run / "decision.json", threshold=None)
    assert "Threshold: none; the highest probability decides." in section(card(run), "Calibration and threshold")


def test_two_models_of_one_name_are_told_apart_by_their_folders(run):
    both = [ANALYSIS["models"][0], {**ANALYSIS["models"][0], "model": "resnet50+tta"}]
    rewrite(run.parent / "analysis.json", models=both, against_baselines=[])
    text = section(card(run), "Baselines")
    assert "| ResNet-50 (resnet50) " in text
    assert "| ResNet-50 (resnet50+tta) " in text


def test_a_folder_with_nothing_to_report_is_refused(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        write_model_card(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds nothing to write a model card from.\n"
        "  expected: run.json, crossval.json or metrics.json\n"
        "  received: none of them\n"
        "  remedy:   run `leukolens train`, or `leukolens evaluate` on the scores, and write the card again"
    )
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_refused_by_name(run):
    (run / "foreign.csv").write_text("kind,image\nnoise,n0\n")
    with pytest.raises(ArtifactError, match=r"foreign\.csv cannot be used\.[\s\S]*no column refused"):
        write_model_card(run)
    (run / "metrics.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"metrics\.json cannot be read"):
        write_model_card(run)
    assert not (run / "model_card.md").exists()


def test_data_sheet_counts_and_describes(run):
    results = run.parents[1]
    text = write_data_sheet(results).read_text(encoding="utf-8")
    assert headings(text) == ["Motivation", "Composition", "Collection", "Preprocessing and labels", "Splits", "Uses",
                              "Distribution", "Maintenance"]  # fmt: skip
    assert f"`{Manifest.load(results).content_hash}`" in text
    assert "Files found: 22; usable: 20; labelled: 20; unlabelled: 0; 20 MiB in all." in text
    # Quartiles of 10, 20, 30, 40, 50 twice, and of 60 … 100 twice, by linear interpolation (numpy's default).
    assert cells(text, "area of the cell, px")[1:] == ["30 (20 to 40)", "80 (70 to 90)"]
    assert cells(text, "450") == ["450", "450", "BMP", "20"]
    assert "7 = 14" in text
    assert "`subject/splits.parquet`:\n\n```text\nsplit by subject, seed 3" in text
    for name in headings(text):
        if name not in ("Splits",):
            assert "- [ ] to be filled by people:" in section(text, name)


def test_data_sheet_shows_no_split_of_other_data(run):
    splits(manifest({"HEM": "normal"})).save(run.parent / "splits.parquet")
    assert "No split of these data lies in this folder." in write_data_sheet(run.parents[1]).read_text(encoding="utf-8")


def test_data_sheet_needs_a_manifest(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest\.parquet does not exist"):
        write_data_sheet(tmp_path)
    assert list(tmp_path.iterdir()) == []


HOSTILE = ("<script>alert(1)</script>", "|x|", "# h", "`a` **b** _c_", "[x](http://x)", "![i](i)", "a\n## Limits\n", "&lt;",
           "\\|", "~~s~~", "- [x] done", "1. one", "$a$", "<!-- c", "\u202eabc", "a\x1b[31m")  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_names(tmp_path, name):
    """Rendered by a Markdown parser with HTML switched on: no tag, no link, no further heading, no broken table."""
    data = manifest({"HEM": name}, subject=name)
    run = build(tmp_path / "results", data, subject=name)
    for text in (card(run), write_data_sheet(tmp_path / "results").read_text(encoding="utf-8")):
        tokens = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").parse(text)
        inner = [child for token in tokens for child in token.children or []]
        types = {token.type for token in (*tokens, *inner)}
        assert not types & {"html_block", "html_inline", "link_open", "image", "em_open", "s_open"}, types
        assert headings(text).count("Limits") <= 1
        words = " ".join("".join(child.content for child in token.children or []) for token in tokens if token.type == "inline")
        assert plain(name) in words
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_keep_their_columns(name):
    tokens = MarkdownIt("commonmark").enable("table").parse(table(["subject", name], [[name, "1"], ["b", "2"]]))
    assert [token.type for token in tokens].count("th_open") == 2
    assert [token.type for token in tokens].count("td_open") == 4


def test_no_path_of_the_machine_is_written(run):
    text = card(run) + write_data_sheet(run.parents[1]).read_text(encoding="utf-8")
    assert "Data set: cells, layout flat." in text
    assert cells(text, "weights_dir") == ["weights_dir", "weights"]
    for part in ("jane", "private", "/home", str(run.parents[2])):
        assert part not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("/home/jane doe/weights", "weights"),
        (r"C:\Users\jane\weights", "weights"),
        ("~/private/weights/", "weights"),
        (r"\\server\share\cells", "cells"),
        ("cannot read /home/jane/a.bmp: damaged", "cannot read a.bmp: damaged"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("fold_0/all/a.bmp", "fold_0/all/a.bmp"),
        ("2/3 of 4 / 5", "2/3 of 4 / 5"),
        ("two\n lines", "two lines"),
        ("a\x1b[0m", "a\ufffd[0m"),
        (None, "None"),
    ],
)
def test_plain(value, text):
    assert plain(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("efficientnet_b0", "efficientnet_b0"),
        ("_x_", r"\_x\_"),
        ("a|b", r"a\|b"),
        ("<b>", "&lt;b>"),
        ("</b>", "&lt;/b>"),
        ("<!-- c", "&lt;!-- c"),
        ("&lt; &#60;", "&amp;lt; &amp;#60;"),
        ("<0.001 & less", "<0.001 & less"),
        ("> q", r"\> q"),
        ("2026-01-31", "2026-01-31"),
        ("# h", r"\# h"),
        ("12. x", r"12\. x"),
        ("12.5 px", "12.5 px"),
    ],
)
def test_escape(value, text):
    assert escape(value) == text
    assert escape(escape(value)) == text


def test_code_is_escaped_where_it_could_end():
    assert code("a" * 64) == f"`{'a' * 64}`"
    assert code("a`|b") == r"a\`\|b"


def test_fence_is_longer_than_what_it_holds():
    assert fence(["```", "# h"]) == "````text\n```\n# h\n````"
    assert fence([]) == ""


def test_the_name_of_a_cross_validation_is_that_which_crossval_writes():
    writers = Path(cards.__file__).parents[1].glob("crossval*.py")  # importing it would load PyTorch
    assert [f'"{cards.CROSSVAL_FILE}"' in path.read_text(encoding="utf-8") for path in writers] == [True]
