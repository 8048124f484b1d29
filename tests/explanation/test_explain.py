from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import leukolens
from cohort import build_cohort
from leukolens import cli, extras
from leukolens.artifacts import Manifest, Predictions, read_json, write_json
from leukolens.data.manifest import index
from leukolens.data.preprocessing import Preprocessing, foreground, read_pixels
from leukolens.errors import LeakError, SettingsError
from leukolens.explanation import explain as module
from leukolens.explanation import pictures
from leukolens.explanation.explain import COLUMNS, Explanation, explain
from leukolens.explanation.pictures import csv_of
from leukolens.settings import ExplainSettings
from leukolens.training.runs import Run

# The tiny network of the tests is one of timm's, for which the table names no layer.
LAYER = "layer2"
SMALL = ExplainSettings(layer=LAYER, count=5, device="cpu")


@pytest.fixture(scope="module")
def explanation(head_run: Run, cohort: Any, tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    """Read only."""
    return explain(head_run, cohort.manifest, cohort.splits, tmp_path_factory.mktemp("maps"), cohort.cache, SMALL)


# What is written


def test_one_row_per_image_and_method(explanation: Explanation) -> None:
    table = explanation.table
    assert tuple(table.columns) == COLUMNS
    assert table["method"].tolist() == ["gradcam", "eigencam"] * 5
    assert table["image"].nunique() == 5
    assert set(table["side"]) == {"test"}
    assert set(table["class"]) == {"ALL"}
    assert table["margin"].is_monotonic_increasing
    assert table["outlier_score"].notna().all()


def test_probability_and_decision_are_those_of_predict(explanation: Explanation) -> None:
    predicted = Predictions.load(explanation.folder).table.set_index("image").loc[explanation.table["image"]]
    assert explanation.table["probability"].tolist() == predicted["score_ALL"].tolist()
    assert explanation.table["decision"].tolist() == predicted["y_pred"].tolist()
    assert explanation.table["label"].tolist() == predicted["y_true"].tolist()
    threshold = explanation.record["decisions"][0]["threshold"]
    assert explanation.table["margin"].tolist() == pytest.approx((predicted["score_ALL"] - threshold).abs().tolist())


def test_network_of_the_maps_gives_the_probabilities_of_predict(explanation: Explanation) -> None:
    assert explanation.record["largest_probability_difference"] < 1e-3
    assert explanation.table["probability"].std() > 0.01


def test_cell_share_is_that_of_the_pixels_that_the_network_reads(explanation: Explanation, cohort: Any) -> None:
    preprocessing = Preprocessing((48, 48), 32)
    for row in explanation.table.to_dict("records"):
        pixels = preprocessing.apply(read_pixels(cohort.cells / row["image"], 10**6).trimmed)
        assert row["cell_share"] == foreground(pixels).mean()
    drawn = explanation.table.dropna(subset="inside_share")
    assert set(drawn["method"]) >= {"eigencam"}
    assert drawn["inside_share"].between(0, 1).all()


def test_files_hold_what_is_returned(explanation: Explanation) -> None:
    assert sorted(path.name for path in explanation.folder.iterdir()) == [
        "contact_sheet.png", "maps.csv", "maps.json", "overlays", "predictions.parquet"]  # fmt: skip
    assert (explanation.folder / "maps.csv").read_text(encoding="utf-8") == csv_of(explanation.table)
    assert read_json(explanation.folder / "maps.json") == explanation.record
    named = sorted(explanation.table["overlay"])
    assert named == sorted(path.relative_to(explanation.folder).as_posix() for path in explanation.folder.glob("overlays/*"))
    for name in named:
        with Image.open(explanation.folder / name) as image:
            image.load()
            assert image.info["Source"] in set(explanation.table["image"])


def test_names_from_strangers_are_safe_in_a_spreadsheet() -> None:
    table = pd.DataFrame({"image": ["=1+1/a\nb.bmp", "c.bmp"], "probability": [0.5, -0.25], "subject": [pd.NA, "7"]})
    assert csv_of(table) == "image,probability,subject\n'=1+1/a\\nb.bmp,0.5,\nc.bmp,-0.25,7\n"


def test_record_says_what_the_maps_are_of(explanation: Explanation, head_run: Run) -> None:
    record = explanation.record
    assert record["explained_classes"] == ["ALL"]
    assert (record["layer"], record["precision"], record["synthetic"]) == (LAYER, "fp32", False)
    assert record["run_hash"] == head_run.record["run_hash"]
    assert record["library"].startswith("grad-cam ")
    assert record["settings"]["methods"] == ["gradcam", "eigencam"]


def test_the_run_is_left_as_it_was(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in head_run.folder.rglob("*") if path.is_file()}
    explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, SMALL)
    assert {path: path.read_bytes() for path in head_run.folder.rglob("*") if path.is_file()} == before


def test_the_same_call_gives_the_same_files(explanation: Explanation, head_run: Run, cohort: Any, tmp_path: Path) -> None:
    explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, SMALL)
    for name in ("maps.csv", "contact_sheet.png", *explanation.table["overlay"]):
        assert (tmp_path / name).read_bytes() == (explanation.folder / name).read_bytes(), name


def test_what_an_earlier_call_left_is_replaced(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, SMALL)
    (tmp_path / "overlays" / "mine.png").touch()
    fewer = SMALL.model_copy(update={"count": 1, "methods": ("eigencam",)})
    table = explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, fewer).table
    left = sorted(path.name for path in (tmp_path / "overlays").iterdir())
    assert left == sorted([Path(table["overlay"].iloc[0]).name, "mine.png"])


def test_interrupted_it_leaves_the_earlier_table(
    head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, SMALL).table

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "write_contact_sheet", stop)
    other = SMALL.model_copy(update={"target_class": "HEM"})
    with pytest.raises(KeyboardInterrupt):
        explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, other)
    assert pd.read_csv(tmp_path / "maps.csv")["image"].tolist() == table["image"].tolist()
    assert all((tmp_path / name).is_file() for name in table["overlay"])
    assert not list(tmp_path.rglob("*.partial"))


# Which images, of which class


def test_images_are_named_by_pattern_of_any_side(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    asked = SMALL.model_copy(update={"images": ("*/UID_*_2_1_*",), "methods": ("eigencam",)})
    table = explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, asked).table
    sides = cohort.splits.of_fold(0)
    assert sorted(table["image"]) == sorted(name for name in sides.index[sides != "train"] if "_2_1_" in name)
    assert set(table["side"]) == {"validation", "test"}
    assert set(table["chosen_as"]) == {"named"}


def test_training_images_are_explained_when_all_are_asked_for(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    name = cohort.splits.of_fold(0).pipe(lambda sides: sides.index[sides == "train"])[0]
    asked = SMALL.model_copy(update={"images": (name,)})
    with pytest.raises(SettingsError, match="No image to explain is called"):
        explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, asked)
    assert list(tmp_path.iterdir()) == []
    table = explain(head_run, cohort.manifest, None, tmp_path, cohort.cache, asked).table
    assert table["side"].tolist() == ["train", "train"]


def test_the_other_class_is_explained_when_asked(explanation: Explanation, head_run: Run, cohort: Any, tmp_path: Path) -> None:
    asked = SMALL.model_copy(update={"target_class": "HEM"})
    table = explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, asked).table
    assert table["image"].tolist() == explanation.table["image"].tolist()
    assert (table["probability"] + explanation.table["probability"]).tolist() == pytest.approx([1.0] * 10)
    assert set(table["class"]) == {"HEM"}


def test_unknown_class_is_an_error_before_anything_is_written(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    asked = SMALL.model_copy(update={"target_class": "all"})
    with pytest.raises(SettingsError) as caught:
        explain(head_run, cohort.manifest, cohort.splits, tmp_path / "maps", cohort.cache, asked)
    assert str(caught.value) == (
        "It is not known which class the maps are to be of.\n"
        "  expected: one of HEM, ALL\n"
        "  received: all\n"
        "  remedy:   give --class"
    )
    assert not (tmp_path / "maps").exists()


def test_a_layer_must_be_named_where_the_table_has_none(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"The layer of test_resnet to be explained is not known\."):
        explain(head_run, cohort.manifest, cohort.splits, tmp_path / "maps", cohort.cache, ExplainSettings(device="cpu"))
    assert not (tmp_path / "maps").exists()


def test_the_leak_door_of_predict_holds(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    splits = leukolens.split(cohort.manifest, tmp_path, leukolens.SplitSettings(seed=5))
    assert splits.content_hash != cohort.splits.content_hash
    with pytest.raises(LeakError):
        explain(head_run, cohort.manifest, splits, tmp_path / "maps", cohort.cache, SMALL)


# Refusals and warnings


def redecided(run: Run, folder: Path, **changes: Any) -> Run:
    """A copy of a run whose decision was changed by hand."""
    copy = Path(shutil.copytree(run.folder, folder))
    write_json(copy / "decision.json", {**read_json(copy / "decision.json"), **changes})
    return Run.load(copy)


def test_without_abstaining_only_strangers_are_refused(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    strangers = index(build_cohort(tmp_path / "others", first_seed=500), tmp_path / "index")
    asked = SMALL.model_copy(update={"count": 60, "methods": ("eigencam",)})
    table = explain(head_run, strangers, None, tmp_path / "maps", tmp_path / "cache", asked).table
    refused = table["refusal"].notna()
    assert (refused == (table["outlier_score"] > 1)).all()
    assert set(table["refusal"].dropna()) <= {"unlike the training images"}


def test_with_abstaining_refusals_are_those_of_predict(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    # Two subject groups in validation: half of the answers may be wrong.
    asked = SMALL.model_copy(update={"abstain": 0.5})
    table = explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, asked).table
    predicted = Predictions.load(tmp_path).table.set_index("image").loc[table["image"]]
    assert table["refusal"].fillna("").tolist() == predicted["refusal"].fillna("").tolist()


def test_scores_of_another_network_than_that_of_the_maps_are_told(
    head_run: Run, cohort: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.predict_once

    def shifted(*arguments: Any) -> Predictions:
        predictions = real(*arguments)
        return Predictions(predictions.table.assign(score_ALL=predictions.table["score_ALL"] / 4), predictions.record)

    monkeypatch.setattr(module, "predict_once", shifted)
    with caplog.at_level(logging.WARNING, "leukolens"):
        made = explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, SMALL)
    assert made.record["largest_probability_difference"] > 0.05
    assert "The maps are of the network in float32, whose probabilities differ by up to 0." in caplog.text


def test_synthetic_cells_are_marked_everywhere(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    manifest = Manifest(cohort.manifest.images, {**cohort.manifest.record, "synthetic": True})
    made = explain(head_run, manifest, cohort.splits, tmp_path, cohort.cache, SMALL)
    assert made.record["synthetic"]
    for name in made.table["overlay"]:
        with Image.open(tmp_path / name) as image:
            assert image.info["Description"].endswith(", synthetic cell")


# The sheet


def test_sheet_says_of_each_cell_what_the_model_said(
    head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = []
    monkeypatch.setattr(pictures, "write_contact_sheet", lambda *arguments: sheets.append(arguments))
    table = explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, SMALL).table
    _, title, notes, tiles = sheets[0]
    assert title == "test_resnet: what the score of ALL is sensitive to · 5 images"
    assert notes[0].startswith("Least certain first; called ALL from a probability of 0.")
    assert notes[0].endswith("; split by subject; pretrained on: nothing: random weights.")
    assert notes[1].startswith("Grad-CAM: where the picture speaks for ALL more than black would. Eigen-CAM: ")
    rows = table[table["method"] == "eigencam"].to_dict("records")
    for row, tile in zip(rows, tiles, strict=True):
        wrong = row["label"] != row["decision"]
        assert tile.words[0] == f"{Path(row['image']).name} · subject {row['subject']}"
        assert tile.words[1] == (f"P(ALL) {row['probability']:.2f} · called {row['decision']} · labelled {row['label']}"
                                 + " · WRONG" * wrong)  # fmt: skip
        assert tile.words[2] == ("answered" if pd.isna(row["refusal"]) else f"refused: {row['refusal']}")
        assert tile.is_wrong == wrong
        assert [words.splitlines()[0] for _, words in tile.panels[1:]] == ["Grad-CAM", "Eigen-CAM"]
        place = f"{row['inside_share']:.0%} on the cell, peak {'on' if row['peak_inside'] else 'off'} it"
        expected = "no place stands out for ALL" if pd.isna(row["inside_share"]) else place
        assert tile.panels[2][1] == f"Eigen-CAM\n{expected}"
        assert np.asarray(tile.panels[0][0]).shape == (32, 32, 3)


# The command line and what it needs


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["explain", *map(str, arguments)], env={"COLUMNS": "200"})


def test_command_line_prints_shares_and_paths(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    done = invoke(head_run.folder, cohort.results, "--out", out, "--count", 3, "--layer", LAYER, "--device", "cpu",
                  "--method", "eigencam")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "3 images; median share of a map on its cell, beside the cell's share of the picture:\n  Eigen-CAM: " in done.output
    assert f"written: {out / 'contact_sheet.png'}\nwritten: {out / 'maps.csv'}\nwritten: {out / 'overlays'}\n" in done.output
    assert len(list((out / "overlays").iterdir())) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "saliency"], "methods.0: Input should be 'gradcam' or 'eigencam'."),
        (["--method", "gradcam,gradcam"], "each method can be named once"),
        (["--count", "0"], "count: Input should be greater than 0."),
        (["--count", "201"], "count: Input should be less than or equal to 200."),
        (["--class", "blast"], "expected: one of HEM, ALL"),
        (["--images", "nothing*"], "No image to explain is called nothing*."),
        (["--layer", "layer9"], "received: layer9"),
    ],
)
def test_wrong_flags_are_errors(head_run: Run, cohort: Any, tmp_path: Path, flags: list[str], message: str) -> None:
    done = invoke(head_run.folder, cohort.results, "--out", tmp_path, "--layer", LAYER, "--device", "cpu", *flags)
    assert isinstance(done.exception, leukolens.LeukolensError)
    assert message in str(done.exception)
    assert not (tmp_path / "maps.csv").exists()


def test_a_place_to_write_to_is_needed(head_run: Run, cohort: Any) -> None:
    assert invoke(head_run.folder, cohort.results).exit_code == 2


def test_without_the_library_the_error_says_how_to_get_it(
    head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda _: False)
    with pytest.raises(SettingsError) as caught:
        explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, SMALL)
    assert str(caught.value) == (
        "Maps need pytorch-grad-cam.\n"
        "  expected: the package grad-cam\n"
        "  received: a Python without it\n"
        "  remedy:   pip install 'leukolens[explain]'"
    )
