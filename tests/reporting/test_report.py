"""The page: what it says, that it is safe to open, and that it says so where a piece is absent."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from leukolens.errors import ArtifactError
from leukolens.evaluation.comparison import comparison_table
from leukolens.reporting.html import report
from leukolens.reporting.results import read_results
from leukolens.reporting.wording import percent
from reporting.example_results import Example, build_results

ODD = '<script>alert("x")</script> $a_b$ & 細胞'
OPTIMISTIC = "split by image: optimistic"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what a browser would: tags in order, ids, addresses, and tags that are not closed in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.mismatched: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.opened.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]

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


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    return build_results(tmp_path_factory.mktemp("binary"), Example(odd_subject=ODD))


@pytest.fixture(scope="module")
def binary_page(binary):
    return read(report(binary))


@pytest.fixture(scope="module")
def four_page(tmp_path_factory):
    example = Example(classes=("Benign", "Early", "Pre", "Pro"), positive=("Early", "Pre", "Pro"), protocols=("image",),
                      known_subjects=False, synthetic=False)  # fmt: skip
    return read(report(str(build_results(tmp_path_factory.mktemp("four"), example))))


def test_the_answer_is_the_network_chosen_on_validation_with_its_test_figures(binary, binary_page):
    text, _ = binary_page
    table = comparison_table([each.row for each in read_results(binary).trained])
    honest = table[table["is_best"] & ~table["optimistic"].astype(bool)].iloc[0]
    answer = text[text.index("The answer") : text.index("<h2>Results</h2>")]
    assert answer.index("Split by subject") < answer.index("Split by image: optimistic")
    first = answer[: answer.index("Split by image: optimistic")]
    assert f"<strong>{honest['display_name']}</strong>" in first
    assert percent(honest["validation_balanced_accuracy"]) in first
    assert f"On {honest['test_images']:.0f} test images of {honest['test_subjects']:.0f} subjects, none of whom" in first
    for figure in ("test_balanced_accuracy", "test_sensitivity", "test_specificity"):
        assert f"<b>{percent(honest[figure])}</b>" in first
    assert f"<b>{honest['test_auroc']:.3f}</b>" in first


def test_what_to_beware_of_is_said(binary_page):
    text, _ = binary_page
    assert "SYNTHETIC DATA." in text
    assert "Research software, not a medical device" in text
    few = "the validation images come from 4 subjects and the test images come from 8 subjects only"
    assert f"“split by subject”: {few}" in text
    assert "images of the same subject are on the training and the test side" in text
    assert "RegNetY: not started from ImageNet weights" in text
    assert "ResNet-50: not started" not in text


def test_every_result_of_the_split_by_image_is_labelled(binary_page):
    text, _ = binary_page
    captions = re.findall(r"<caption>([^<]*)</caption>", text)
    assert sum(OPTIMISTIC in caption for caption in captions) == 2
    headings = re.findall(r'<h4>.*?<span class="soft">([^<]*)</span>', text)
    assert [OPTIMISTIC in heading for heading in headings] == [False, False, True, True]
    assert text.count('<th scope="col">by image: optimistic</th>') == 4


def test_numbers_of_the_tables_are_those_of_metrics_json(binary, binary_page):
    text, _ = binary_page
    for folder in ("subject/resnet50", "image/regnet_y_400mf"):
        test = json.loads((binary / folder / "metrics.json").read_text())["sides"]["test"]
        row = "".join(f"<td>{percent(test[name])}</td>" for name in ("balanced_accuracy", "sensitivity", "specificity"))
        assert row in re.sub(r"\s*\n\s*", "", text)


def test_all_figures_are_there_and_no_id_is_used_twice(binary_page):
    text, page = binary_page
    # Overview; 2 curves and 2 counts for each protocol; for each of 4 networks 2 learning curves, confusion, subjects.
    assert page.tags.count("svg") == 1 + 2 * 2 + 2 * 2 + 4 * 4
    assert len(page.ids) == len(set(page.ids))
    for reference in re.findall(r"url\(#([^)]+)\)", text) + [a[1:] for a in page.addresses if a.startswith("#")]:
        assert reference in page.ids
    assert page.tags.count("img") == 2 * 6


def test_names_are_escaped_everywhere(binary_page):
    text, page = binary_page
    assert "script" not in page.tags
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "&lt;broken&gt;" in text
    assert page.mismatched == []
    assert page.opened == []


def test_nothing_is_loaded_from_elsewhere(binary_page, four_page):
    for text, page in (binary_page, four_page):
        assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
        assert not re.search(r"url\((?!#)|@import|<link|<iframe|<object", text)
        assert "default-src 'none'" in text


def test_reference_and_difference(binary, binary_page):
    text, _ = binary_page
    assert "accuracy in the source document*" in text
    assert "95.3\u202f%" in text
    section = text[text.index('id="difference"') : text.index('id="data"')]
    metrics = {name: json.loads((binary / name / "resnet50/metrics.json").read_text())["sides"]["test"]
               for name in ("subject", "image")}  # fmt: skip
    difference = 100 * (metrics["image"]["accuracy"] - metrics["subject"]["accuracy"])
    assert f"<b>{difference:+.1f}</b>".replace("-", "\u2212") in section


def test_flow_audit_settings_and_hashes_are_shown(binary, binary_page):
    text, _ = binary_page
    metrics = json.loads((binary / "subject/resnet50/metrics.json").read_text())
    for piece in ("files found", "Files set aside", "subjects 20 + 21", "subjects on two sides: 0", "train.batch_size",
                  "f" * 64, metrics["record"]["predictions_hash"], "3.1 GiB", "12.6\u202fmin"):  # fmt: skip
        assert piece in text


def test_four_classes(four_page):
    text, page = four_page
    assert "SYNTHETIC" not in text
    assert "sensitivity for Early, Pre, Pro" in text
    assert "AUROC, macro" in text
    assert "each class against the rest" in text
    assert "no subject is known" in text
    assert "of unknown subjects" in text
    assert 'id="difference"' not in text
    # Overview, 2 of the protocol, 1 count (no subjects); per network 2 learning, confusion, 2 curves.
    assert page.tags.count("svg") == 1 + 2 + 1 + 2 * 5


def test_no_positive_class(tmp_path):
    example = Example(classes=("Benign", "Early", "Pre"), positive=(), architectures=("resnet50",), protocols=("subject",))
    text, page = read(report(build_results(tmp_path, example)))
    assert "No curve of all networks is drawn" in text
    assert "F1, macro" in text
    assert "is the only network here" in text
    assert page.mismatched == []


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return build_results(tmp_path_factory.mktemp("small"), Example(architectures=("resnet50",), protocols=("subject",)))


def test_one_run_directory_alone(small, tmp_path):
    shutil.copytree(small / "subject" / "resnet50", tmp_path / "run")
    text, _ = read(report(tmp_path))
    assert "ResNet-50" in text
    assert "comparison.json is absent" in text
    assert "manifest.parquet is absent" in text
    assert "splits.parquet of “split by subject” is absent" in text
    text, _ = read(report(tmp_path / "run"))
    assert "is the only network here" in text


def test_absent_pieces_are_named(binary, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(binary, folder)
    (folder / "subject/resnet50/epochs.csv").unlink()
    (folder / "subject/regnet_y_400mf/metrics.json").unlink()
    (folder / "image/resnet50/run.json").unlink()
    text, page = read(report(folder))
    assert "subject/resnet50/epochs.csv is absent" in text
    assert "subject/regnet_y_400mf/metrics.json is absent, so the network is in no table or figure" in text
    assert "image/resnet50/run.json is absent" in text
    assert page.mismatched == []


def test_moved_images_are_said_and_not_shown(small, tmp_path):
    (small / "cells").rename(tmp_path / "elsewhere")
    text, page = read(report(small))
    (tmp_path / "elsewhere").rename(small / "cells")
    assert "img" not in page.tags
    assert "12 of the cells chosen here could not be read again" in text


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        report(tmp_path)
    assert caught.value.received == "no run directory"
    assert not (tmp_path / "report.html").exists()


def test_the_same_results_give_the_same_page(small):
    assert report(small).read_bytes() == report(small).read_bytes()
