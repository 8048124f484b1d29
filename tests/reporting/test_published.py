"""Published values stand beside ours where they mean the same, with their source, and nowhere else."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from leukolens import terminal
from leukolens.artifacts import Manifest, Splits
from leukolens.data.cnmc_2019 import C_NMC_2019, class_of
from leukolens.reporting import published
from leukolens.reporting.html import report
from leukolens.reporting.published import BY_IMAGE, OFFICIAL, PUBLISHED, beside_published, published_in
from leukolens.reporting.results import Results, read_results
from leukolens.reporting.wording import percent, percent_interval
from reporting.example_results import Example, build_results

FIVE = ("vgg16", "efficientnet_b0", "resnet50", "densenet121", "alexnet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five networks by an official split and by image, with cells that are said to be real. Read only."""
    example = Example(architectures=FIVE, protocols=("subject", "image", "crossval/subject"), tta=False, synthetic=False)
    folder = build_results(tmp_path_factory.mktemp("published"), example)
    say_official(folder / "subject")
    return folder


def say_official(study: Path) -> None:
    splits = Splits.load(study)
    Splits(splits.sides, {**splits.record, "strategy": "official"}).save(study / "splits.parquet")


def with_whole_set(results: Results, synthetic: bool = False) -> Results:
    """The same results, their manifest holding as many cells of each subject as C-NMC 2019."""
    rows = [("train", fold, name) for fold, names in C_NMC_2019.training.items() for name, n in names.items() for _ in range(n)]
    rows += [("preliminary", None, name) for name, n in C_NMC_2019.preliminary.items() for _ in range(n)]
    images = pd.DataFrame(rows, columns=["part", "fold", "subject"]).astype("string")
    images["label"] = images["subject"].map(class_of).astype("string")
    assert results.manifest is not None
    return replace(results, manifest=Manifest(images, {**results.manifest.record, "synthetic": synthetic}))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Results:
    return with_whole_set(read_results(folder))


def side_of(folder: Path, model: str) -> dict[str, Any]:
    side: dict[str, Any] = json.loads((folder / model / "metrics.json").read_text())["sides"]["test"]
    return side


def test_weighted_f1_of_every_model_stands_beside_the_published_ones(folder: Path, whole: Results) -> None:
    (official,) = [each for each in beside_published(whole) if each["kind"] == OFFICIAL]
    titles = [row["title"] for row in official["rows"]]
    assert set(titles) == {"VGG16", "EfficientNet-B0", "ResNet-50", "DenseNet-121", "AlexNet", "Ensemble of the networks",
                           "Majority class", "Cell area alone", "Cell area + mean colour"}  # fmt: skip
    assert [row["is_baseline"] for row in official["rows"]] == [False] * 6 + [True] * 3
    side = side_of(folder, "subject/resnet50")
    row = official["rows"][titles.index("ResNet-50")]
    assert (row["value"], row["interval"]) == (
        percent(side["f1_weighted"]), percent_interval(side["intervals"]["intervals"]["f1_weighted"]))  # fmt: skip
    networks = [float(row["value"].split("\u202f")[0]) for row in official["rows"][:6]]
    assert networks == sorted(networks, reverse=True)


def test_published_values_are_quoted_as_printed(whole: Results) -> None:
    official = beside_published(whole)[0]
    shown = {row["work"].removesuffix(" †"): (row["preliminary"], row["final"]) for row in official["published"]}
    assert shown == {
        "Pan et al. 2019": ("92.50\u202f%", "91.04\u202f%"),
        "Honnalgere & Nayak 2019": ("91.70\u202f%", "–"),
        "Xiao et al. 2019": ("90.30\u202f%", "88.56\u202f%"),
        "Verma & Singh 2019": ("89.47\u202f%", "–"),
        "Prellberg & Kramer 2019": ("88.7–89.8\u202f%", "88.91\u202f%"),
        "Marzahl et al. 2019": ("87.46\u202f%", "82.84\u202f%"),
        "Ding et al. 2019": ("86.74\u202f%", "85.52\u202f%"),
    }
    assert [row["work"] for row in official["published"] if row["work"].endswith("†")] == [
        "Honnalgere & Nayak 2019 †", "Verma & Singh 2019 †", "Ding et al. 2019 †"]  # fmt: skip
    assert official["caveats"][-1].endswith("doi 10.1007/978-981-15-0798-4.")
    largest_fall = max(work.preliminary[0] - work.final for work in PUBLISHED if work.final)
    assert f"by up to {100 * largest_fall:.1f} points" in " ".join(official["caveats"])


def test_accuracies_of_the_source_document_stand_beside_the_split_by_image(folder: Path, whole: Results) -> None:
    official, by_image = beside_published(whole)
    assert (official["kind"], by_image["kind"], by_image["study"].place) == (OFFICIAL, BY_IMAGE, "image")
    rows = {row["title"]: (row["value"], row["printed"]) for row in by_image["rows"]}
    printed = {row["display_name"]: row["source_document_accuracy"]
               for row in json.loads((folder / "comparison.json").read_text())["rows"] if row["study"] == "image"}  # fmt: skip
    for name, title in zip(FIVE, ("VGG16", "EfficientNet-B0", "ResNet-50", "DenseNet-121", "AlexNet"), strict=True):
        assert rows[title] == (percent(side_of(folder, f"image/{name}")["accuracy"]), percent(printed[title]))
    assert len(rows) == 5


def test_other_data_and_other_splits_have_no_such_table(folder: Path, tmp_path: Path, whole: Results) -> None:
    assert [each["kind"] for each in beside_published(read_results(folder))] == [BY_IMAGE]  # 192 cells are not C-NMC 2019
    assert beside_published(replace(whole, manifest=None)) == []
    assert whole.manifest is not None
    fewer = replace(whole, manifest=Manifest(whole.manifest.images.iloc[1:], whole.manifest.record))
    assert [each["kind"] for each in beside_published(fewer)] == [BY_IMAGE]
    shutil.copytree(folder, tmp_path / "results")
    splits = Splits.load(tmp_path / "results/subject")
    Splits(splits.sides, {**splits.record, "strategy": "subject"}).save(tmp_path / "results/subject/splits.parquet")
    by_subject = with_whole_set(read_results(tmp_path / "results"))
    assert [each["kind"] for each in beside_published(by_subject)] == [BY_IMAGE]


def test_a_synthetic_set_says_so_first(whole: Results) -> None:
    tables = beside_published(with_whole_set(whole, synthetic=True))
    assert len(tables) == 2
    for each in tables:
        assert each["caption"].startswith("SYNTHETIC CELLS. ")
        assert each["caveats"][0].startswith("SYNTHETIC: our rows are of drawn cells, the published ones of real cells.")
    assert not any(line.startswith("SYNTHETIC") for each in beside_published(whole) for line in each["caveats"])


def test_the_page_has_both_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "is_complete", lambda _: True)
    text = report(folder).read_text(encoding="utf-8")
    fold = text[text.index('<div id="published">'):]
    words = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", fold[: fold.index("</details>")])))
    assert "model or work method preliminary set final set" in words
    assert "Marzahl et al. 2019 ResNet18 with a region-proposal branch 87.46 % 82.84 %" in words
    assert "Cell area alone a baseline, here" in words
    assert "network trained here source document" in words
    assert "a higher figure is no claim." in words
    monkeypatch.setattr(published, "is_complete", lambda _: False)
    assert "Marzahl" not in report(folder).read_text(encoding="utf-8")


def test_the_terminal_prints_them_and_their_first_caveat(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(published, "is_complete", lambda _: True)
    terminal.print_published(published_in(folder))
    lines = [re.sub(r"\s+", " ", line).strip() for line in capsys.readouterr().out.splitlines()]
    assert "Pan et al. 2019 92.50 % 91.04 %" in lines
    side = side_of(folder, "image/vgg16")
    shown = f"VGG16 {percent(side['accuracy'])} {percent_interval(side['intervals']['intervals']['accuracy'])} 95.3 %"
    assert shown.replace("\u202f", " ") in lines
    assert any(line.startswith("Quoted, not reproduced.") for line in lines)
    terminal.print_published([])
    assert capsys.readouterr().out == ""
