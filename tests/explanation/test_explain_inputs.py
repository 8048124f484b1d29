"""`explain` of loose images: the least certain of all inputs, a row for what cannot be read, bounded memory, bundles."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from leukolens import cli, extras
from leukolens.artifacts import read_json
from leukolens.errors import ImageError, LeukolensError, SettingsError
from leukolens.explanation import explain_inputs as module
from leukolens.explanation import pictures
from leukolens.explanation.explain import explain
from leukolens.explanation.explain_inputs import INPUT_COLUMNS, InputsExplanation, explain_inputs
from leukolens.prediction.stream import Failure, Picture, predict_inputs
from leukolens.settings import ExplainSettings, PredictSettings
from leukolens.training.runs import Run

SMALL = ExplainSettings(layer="layer2", count=5, device="cpu")


@pytest.fixture(scope="module")
def made(head_run: Run, cohort: Any, tmp_path_factory: pytest.TempPathFactory) -> InputsExplanation:
    """All 60 cells of the cohort, loose, and two files that are no images in between. Read only."""
    folder = tmp_path_factory.mktemp("loose")
    (folder / "=broken.bmp").write_bytes(b"BM but no picture")
    given = [folder / "=broken.bmp", cohort.cells, folder / "absent.png"]
    return explain_inputs(head_run, given, folder / "maps", SMALL)


def maps_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "maps.csv", keep_default_na=False, na_values=[""])


# Which images


def test_the_least_certain_of_all_inputs_are_on_the_sheet(made: InputsExplanation, head_run: Run) -> None:
    table = made.maps.table
    scores = pd.read_csv(made.scored.path).query("status == 'scored'")
    assert len(scores) == 60
    threshold = head_run.decision().threshold.value  # type: ignore[union-attr]
    margin = (scores["probability_ALL"] - threshold).abs()
    wanted = scores.assign(margin=margin).sort_values("margin", kind="stable").head(5)
    assert table["input"].tolist() == np.repeat(wanted["input"].to_numpy(), 2).tolist()
    assert table["margin"].tolist() == pytest.approx(np.repeat(wanted["margin"].to_numpy(), 2).tolist())
    assert table["method"].tolist() == ["gradcam", "eigencam"] * 5
    assert set(table["chosen_as"]) == {"uncertain"}
    for name in ("decision", "prediction_set", "outlier_score", "refusal", "seen_in"):
        assert table[name].fillna("").tolist() == np.repeat(wanted[name].fillna("").to_numpy(), 2).tolist()
    assert table["probability"].tolist() == np.repeat(wanted["probability_ALL"].to_numpy(), 2).tolist()


def test_scores_are_those_of_predict(made: InputsExplanation, head_run: Run, tmp_path: Path) -> None:
    given = [made.maps.folder.parent / "=broken.bmp", *_cells(made), made.maps.folder.parent / "absent.png"]
    wanted = predict_inputs(head_run, given, tmp_path, PredictSettings(device="cpu"))
    assert made.scored.path.read_bytes() == wanted.path.read_bytes()
    assert (made.scored.scored, made.scored.failed) == (60, 2)


def _cells(made: InputsExplanation) -> list[str]:
    scores = pd.read_csv(made.scored.path).query("status == 'scored'")
    return scores["input"].tolist()


def test_maps_are_those_of_the_same_cells_in_a_manifest(
    made: InputsExplanation, head_run: Run, cohort: Any, tmp_path: Path
) -> None:
    names = [Path(each).relative_to(cohort.cells).as_posix() for each in made.maps.table["input"].unique()]
    asked = SMALL.model_copy(update={"images": tuple(names)})
    wanted = explain(head_run, cohort.manifest, None, tmp_path, cohort.cache, asked).table
    assert wanted["image"].tolist() == np.repeat(names, 2).tolist()
    for column in ("cell_share", "inside_share", "peak_inside", "probability", "margin"):
        assert made.maps.table[column].tolist() == pytest.approx(wanted[column].tolist(), nan_ok=True), column
    for mine, other in zip(made.maps.table["overlay"], wanted["overlay"], strict=True):
        with Image.open(made.maps.folder / mine) as first, Image.open(tmp_path / other) as second:
            np.testing.assert_array_equal(np.asarray(first)[:224], np.asarray(second)[:224])


def chosen_of(scores: list[float | None], count: int, cells: str = "abcdefghi") -> list[tuple[str, float]]:
    """Input and margin of those chosen from images of these cells, with these probabilities; None could not be read.

    The threshold is 0.5.
    """
    decision: Any = SimpleNamespace(classes=("HEM", "ALL"), positive=("ALL",), threshold=SimpleNamespace(value=0.5))
    explainer: Any = SimpleNamespace(decision=decision, classes=("ALL",), side_px=2)
    chosen = module._Chosen(explainer, count, io.StringIO())
    for start in range(0, len(scores), 3):
        batch = scores[start : start + 3]
        names = [str(start + place) for place in range(len(batch))]
        error = ImageError("x", reason="empty", expected="", received="", remedy="")
        pixels = [np.full((2, 2, 3), int(name), np.uint8) for name in names]
        outcomes = [
            Failure(name, error) if score is None else Picture(name, picture, cells[int(name)])
            for name, score, picture in zip(names, batch, pixels, strict=True)
        ]
        rows = {
            "input": names,
            "status": ["failed" if score is None else "scored" for score in batch],
            "probability_HEM": [None if score is None else 1 - score for score in batch],
            "probability_ALL": batch,
            **dict.fromkeys(("seen_in", "decision"), [None] * len(batch)),
        }
        chosen.watch(outcomes, rows)
    table = chosen.rows()
    if table.empty:
        return []
    assert chosen.pixels()[:, 0, 0, 0].tolist() == [int(name) for name in table["input"]]
    return list(zip(table["input"], table["margin"].round(6), strict=True))


def test_choice_by_hand() -> None:
    scores = [0.9, 0.5, None, 0.25, 0.75, 0.5, 0.0, 0.25, None]
    assert chosen_of(scores, 4) == [("1", 0.0), ("5", 0.0), ("3", 0.25), ("4", 0.25)]  # and not 7, as near but later
    assert chosen_of(scores, 2) == [("1", 0.0), ("5", 0.0)]
    assert chosen_of(scores, 1) == [("1", 0.0)]
    assert [name for name, _ in chosen_of(scores, 99)] == ["1", "5", "3", "4", "7", "0", "6"]
    assert chosen_of([None, None], 3) == []


def test_copies_of_a_cell_are_on_the_sheet_once() -> None:
    scores: list[float | None] = [0.75, 0.75, 0.5, 0.25, 0.75]
    assert chosen_of(scores, 9, "aabca") == [("2", 0.0), ("0", 0.25), ("3", 0.25)]
    # One that was pushed out may not come back by its copy, which is as certain.
    assert chosen_of(scores, 1, "aabca") == [("2", 0.0)]


def test_only_as_many_pictures_as_the_sheet_holds_are_kept(
    head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    real = module._Chosen.watch

    def watched(chosen: Any, *arguments: Any) -> None:
        real(chosen, *arguments)
        kept.append(len(chosen.kept))

    monkeypatch.setattr(module._Chosen, "watch", watched)
    explain_inputs(head_run, [cohort.cells], tmp_path, SMALL.model_copy(update={"count": 2}))
    assert kept == [2, 2]


def test_three_classes_are_ordered_by_the_first_over_the_second() -> None:
    rows: Any = {
        "status": ["scored", "failed", "scored"],
        "probability_a": [0.5, None, 0.2],
        "probability_b": [0.3, None, 0.7],
        "probability_c": [0.2, None, 0.1],
    }
    decision: Any = type("Decision", (), {"classes": ("a", "b", "c"), "positive": ("b", "c"), "threshold": None})
    assert module._margins(rows, decision) == {0: pytest.approx(0.2), 2: pytest.approx(0.5)}


# What is written


def test_files_hold_what_is_returned(made: InputsExplanation) -> None:
    folder = made.maps.folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "contact_sheet.png", "maps.csv", "maps.json", "overlays", "scores.csv"]  # fmt: skip
    table = maps_of(folder)
    assert tuple(table.columns) == INPUT_COLUMNS
    assert table["status"].tolist() == ["scored"] * 10 + ["failed"] * 2
    assert (folder / "maps.csv").read_text(encoding="utf-8").startswith(pictures.csv_of(made.maps.table))
    assert sorted(made.maps.table["overlay"]) == sorted(f"overlays/{path.name}" for path in (folder / "overlays").iterdir())
    record = read_json(folder / "maps.json")
    assert record == made.maps.record
    assert (record["split_label"], record["manifest_hash"]) == ("images without a manifest", None)
    assert record["largest_probability_difference"] < 1e-3


def test_what_could_not_be_read_has_its_row_and_reason(made: InputsExplanation) -> None:
    failed = maps_of(made.maps.folder).iloc[10:]
    folder = made.maps.folder.parent
    assert failed["input"].tolist() == [str(folder / "=broken.bmp"), str(folder / "absent.png")]
    assert failed["error"].tolist() == ["not_an_image", "missing"]
    assert failed["detail"].tolist() == ["bytes of no such format", "No such file or directory"]
    empty = [name for name in INPUT_COLUMNS if name not in ("input", "status", "error", "detail")]
    assert failed[empty].isna().all(axis=None)


def test_archives_and_patterns_are_inputs_too(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    cells = sorted(cohort.cells.rglob("*.bmp"))[:6]
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as archive:
        for number, cell in enumerate(cells[:3]):
            archive.write(cell, f"{number}.bmp")
        archive.writestr("../out.bmp", cells[0].read_bytes())
    (tmp_path / "more").mkdir()
    for number, cell in enumerate(cells[3:]):
        (tmp_path / "more" / f"{number}.bmp").write_bytes(cell.read_bytes())
    given = [tmp_path / "cells.zip", f"{tmp_path}/more/*.bmp"]
    asked = SMALL.model_copy(update={"count": 60, "methods": ("gradcam",)})
    explain_inputs(head_run, given, tmp_path / "maps", asked)
    table = maps_of(tmp_path / "maps")
    assert sorted(table["input"]) == sorted(
        [f"{tmp_path}/cells.zip/{name}" for name in ("../out.bmp", "0.bmp", "1.bmp", "2.bmp")]
        + [f"{tmp_path}/more/{name}" for name in ("0.bmp", "1.bmp", "2.bmp")]
    )
    assert table["error"].dropna().tolist() == ["unsafe_name"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no names that are not UTF-8")
def test_names_from_strangers_do_no_harm(head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = sorted(cohort.cells.rglob("*.bmp"))
    names = [b"=1+1.bmp", b"$x^2$.bmp", b"two\nlines.bmp", b"not\xff\xfeutf8.bmp", "Zelle-細胞.bmp".encode(), b'a,b".bmp']
    (tmp_path / "in").mkdir()
    for name, cell in zip(names, cells, strict=False):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(cell.read_bytes())
    monkeypatch.chdir(tmp_path)
    explain_inputs(head_run, ["in"], "maps", SMALL.model_copy(update={"count": 60, "methods": ("eigencam",)}))
    table = maps_of(tmp_path / "maps")
    assert sorted(table["input"]) == sorted(
        [
            "in/=1+1.bmp",
            "in/$x^2$.bmp",
            "in/two\\nlines.bmp",
            "in/not\\udcff\\udcfeutf8.bmp",
            "in/Zelle-細胞.bmp",
            'in/a,b".bmp',
        ]
    )
    assert table["overlay"].nunique() == len(names)
    for overlay in table["overlay"]:
        with Image.open(tmp_path / "maps" / overlay) as image:
            image.load()
            assert image.info["Source"].startswith("in/")


def test_the_sheet_says_what_is_known_of_a_loose_image(
    head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = []
    monkeypatch.setattr(pictures, "write_contact_sheet", lambda *arguments: sheets.append(arguments))
    table = explain_inputs(head_run, [cohort.cells], tmp_path, SMALL).maps.table
    _, title, notes, tiles = sheets[0]
    assert title == "test_resnet: what the score of ALL is sensitive to · 5 images"
    assert "; images without a manifest; pretrained on: nothing: random weights." in notes[0]
    for row, tile in zip(table[table["method"] == "gradcam"].to_dict("records"), tiles, strict=True):
        assert tile.words[0] == Path(row["input"]).name
        assert tile.words[1] == f"P(ALL) {row['probability']:.2f} · called {row['decision']} · no label"
        assert tile.words[2] == ("answered" if pd.isna(row["refusal"]) else f"refused: {row['refusal']}")
        seen = "not seen before" if pd.isna(row["seen_in"]) else f"seen in {row['seen_in']}"
        assert tile.panels[0][1].splitlines()[0] == f"{seen}, uncertain"
        assert not tile.is_wrong
    assert table["seen_in"].notna().any()


def test_what_an_earlier_call_left_is_replaced(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    explain_inputs(head_run, [cohort.cells], tmp_path, SMALL)
    (tmp_path / "overlays" / "mine.png").touch()
    (tmp_path / "empty.bmp").touch()
    made = explain_inputs(head_run, [tmp_path / "empty.bmp"], tmp_path, SMALL)
    assert made.maps.table.empty
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["mine.png"]
    assert not (tmp_path / "contact_sheet.png").exists()
    assert maps_of(tmp_path)["error"].tolist() == ["empty"]
    assert read_json(tmp_path / "maps.json")["largest_probability_difference"] is None


def test_interrupted_it_leaves_the_earlier_table(
    head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain_inputs(head_run, [cohort.cells], tmp_path, SMALL)
    before = (tmp_path / "maps.csv").read_bytes()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "write_contact_sheet", stop)
    with pytest.raises(KeyboardInterrupt):
        explain_inputs(head_run, [cohort.cells], tmp_path, SMALL.model_copy(update={"target_class": "HEM"}))
    assert (tmp_path / "maps.csv").read_bytes() == before
    assert not list(tmp_path.rglob("*.partial"))


# Errors and the command line


def test_errors_come_before_anything_is_written(
    head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "maps"
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="There is no image in"):
        explain_inputs(head_run, [tmp_path / "empty"], out, SMALL)
    with pytest.raises(SettingsError, match="is a manifest, or a folder that holds one"):
        explain_inputs(head_run, [cohort.cells, cohort.results], out, SMALL)
    with pytest.raises(SettingsError, match="--images chooses among the images of a manifest"):
        explain_inputs(head_run, [cohort.cells], out, SMALL.model_copy(update={"images": ("*",)}))
    with pytest.raises(SettingsError, match="It is not known which class"):
        explain_inputs(head_run, [cohort.cells], out, SMALL.model_copy(update={"target_class": "blast"}))
    monkeypatch.setattr(extras, "is_installed", lambda _: False)
    with pytest.raises(SettingsError, match="Maps need pytorch-grad-cam"):
        explain_inputs(head_run, [cohort.cells], out, SMALL)
    assert not out.exists()


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["explain", *map(str, arguments)], env={"COLUMNS": "200"})


def test_command_line_says_what_could_not_be_read_by_its_exit_status(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    cells = sorted(cohort.cells.rglob("*.bmp"))[:4]
    flags = ("--out", out, "--layer", "layer2", "--device", "cpu", "--count", 2)
    done = invoke(head_run.folder, *cells, *flags)
    assert done.exit_code == 0, done.output
    assert "4 inputs: 4 scored, 0 could not be\n" in done.output
    assert "2 images; median share of a map on its cell" in done.output
    written = "".join(f"written: {out / name}\n" for name in ("contact_sheet.png", "overlays", "maps.csv", "scores.csv"))
    assert done.output.endswith(written)
    done = invoke(head_run.folder, cells[0], tmp_path / "absent.bmp", *flags)
    assert done.exit_code == 3, done.output
    assert "2 inputs: 1 scored, 1 could not be\n  1 missing\n" in done.output
    done = invoke(head_run.folder, tmp_path / "absent.bmp", *flags)
    assert done.exit_code == 3, done.output
    assert f"written: {out / 'maps.csv'}\nwritten: {out / 'scores.csv'}\n" in done.output
    assert "contact_sheet" not in done.output


def test_flags_of_a_manifest_do_not_go_with_loose_images(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    cells = sorted(cohort.cells.rglob("*.bmp"))[:2]
    assert invoke(head_run.folder, *cells, "--all", "--out", tmp_path / "maps").exit_code == 2
    assert invoke(head_run.folder, *cells, "--splits", cohort.results, "--out", tmp_path / "maps").exit_code == 2
    done = invoke(head_run.folder, cells[0], "--images", "*", "--out", tmp_path / "maps")
    assert isinstance(done.exception, LeukolensError)
    assert "--images chooses among the images of a manifest." in str(done.exception)
    assert not (tmp_path / "maps").exists()
