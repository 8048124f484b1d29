from __future__ import annotations

import logging
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort import draw_cell, write_image
from leukolens import cli
from leukolens.artifacts import INPUT_SCORES_COLUMNS, read_table
from leukolens.data.layouts import is_image_name
from leukolens.data.preprocessing import read_pixels
from leukolens.errors import ImageError, RunError, SettingsError
from leukolens.prediction.predict import predict
from leukolens.prediction.stream import (
    Failure,
    InputScorer,
    Outcome,
    Picture,
    ScoredInputs,
    batches,
    predict_inputs,
    summary_lines,
)
from leukolens.settings import PredictSettings
from leukolens.training.runs import Run

DOCUMENT = Path(__file__).parents[2] / "docs" / "predict.md"
REAL_CELLS = Path(__file__).parents[2] / ".." / "shared" / "data" / "c-nmc-sample"
SCORES = ["score", "probability_HEM", "probability_ALL", "outlier_score"]


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """The command line gives the package's logger a handler of its own."""
    logger = logging.getLogger("leukolens")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def scored(run: Run, inputs: Sequence[Path | str], folder: Path, settings: PredictSettings | None = None) -> pd.DataFrame:
    """The table as it was written, in Parquet, which keeps every bit and name."""
    return pd.read_parquet(predict_inputs(run, inputs, folder / "scores.parquet", settings).path)


def cells(folder: Path, count: int) -> Path:
    for number in range(count):
        write_image(folder / f"{number:03}.bmp", draw_cell(5000 + number, radius_px=8 + number % 8))
    return folder


def same_row(table: pd.DataFrame, name: str) -> Any:
    rows = table[table["input"] == name].drop(columns="input")
    assert len(rows) == 1
    return rows.iloc[0].dropna().to_dict()


# One row per input


def test_every_kind_of_input_has_one_row_in_the_order_given(
    head_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells(Path("folder"), 3)
    write_image(Path("one.png"), draw_cell(1))
    Path("bad.bmp").write_bytes(b"no image")
    with zipfile.ZipFile("cells.zip", "w") as archive:
        archive.write("folder/001.bmp", "001.bmp")
        archive.writestr("../out.bmp", b"")
    given = ["one.png", "bad.bmp", "cells.zip", "nowhere.png", "folder", "one.*"]
    table = scored(head_run, given, tmp_path)
    assert table["input"].tolist() == [
        "one.png", "bad.bmp", "cells.zip/../out.bmp", "cells.zip/001.bmp", "nowhere.png",
        "folder/000.bmp", "folder/001.bmp", "folder/002.bmp", "one.png",
    ]  # fmt: skip
    failed = table[table["status"] == "failed"]
    assert failed["error"].tolist() == ["not_an_image", "unsafe_name", "missing"]
    assert failed["detail"].tolist()[::2] == ["bytes of no such format", "No such file or directory"]
    assert failed[[*SCORES, "decision", "prediction_set", "refusal", "seen_in"]].isna().all(axis=None)
    good = table[table["status"] == "scored"]
    assert good[[*SCORES, "decision", "prediction_set"]].notna().all(axis=None)
    assert good[["error", "detail"]].isna().all(axis=None)
    assert set(table["status"]) == {"scored", "failed"}


def test_same_cell_has_the_same_row_by_whatever_way_it_came(head_run: Run, tmp_path: Path) -> None:
    folder = cells(tmp_path / "folder", 1)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "000.bmp", "in/000.bmp")
    names = [str(folder / "000.bmp"), str(tmp_path / "a.zip" / "in" / "000.bmp")]
    table = scored(head_run, [folder, tmp_path / "a.zip"], tmp_path)
    assert table["input"].tolist() == names
    assert same_row(table, names[0]) == same_row(table, names[1])


def test_csv_and_parquet_hold_the_same(head_run: Run, tmp_path: Path) -> None:
    folder = cells(tmp_path / "folder", 5)
    (folder / "bad.bmp").write_bytes(b"")
    tables = []
    for name in ("scores.csv", "scores.parquet"):
        path = predict_inputs(head_run, [folder], tmp_path / name).path
        tables.append(pd.read_csv(path) if name.endswith("csv") else pd.read_parquet(path))
    pd.testing.assert_frame_equal(*tables, check_dtype=False)


def test_only_failures_make_a_table_too(head_run: Run, tmp_path: Path) -> None:
    done = predict_inputs(head_run, ["a.bmp", "b.bmp"], tmp_path)
    assert done.path == tmp_path / "scores.csv"
    assert pd.read_csv(done.path)["error"].tolist() == ["missing", "missing"]
    assert (done.scored, done.failed, dict(done.errors)) == (0, 2, {"missing": 2})


# The scores are those of a manifest


@pytest.mark.parametrize("kind", ["head_run", "finetuned_run"])
@pytest.mark.parametrize("tta", [False, True])
def test_scores_are_those_of_the_manifest_to_the_last_bit(
    kind: str, tta: bool, cohort: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """60 cells in the same order, so in the same batches; the cache is a new one, so that features are computed here."""
    run: Run = request.getfixturevalue(kind)
    settings = PredictSettings(abstain=0.4, tta=tta)
    wanted = predict(run, cohort.manifest, None, tmp_path / "predicted", tmp_path / "cache", settings).table
    table = scored(run, [cohort.cells], tmp_path, settings)
    assert table["input"].tolist() == [str(cohort.cells / image) for image in wanted["image"]]
    columns = {"decision": "y_pred", "probability_ALL": "score_ALL", "probability_HEM": "score_HEM",
               "outlier_score": "outlier_score"}  # fmt: skip
    for column, source in columns.items():
        assert table[column].tolist() == wanted[source].tolist(), column
    refusals = [None if pd.isna(reason) else reason for reason in wanted["refusal"]]
    assert [None if pd.isna(reason) else reason for reason in table["refusal"]] == refusals
    assert any(refusals)
    assert not all(refusals)


def test_failures_between_do_not_move_scores(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    images = sorted(path for path in cohort.cells.rglob("*.bmp"))
    plain = scored(head_run, images, tmp_path)
    mixed = scored(head_run, [each for image in images for each in ("nowhere.bmp", image)], tmp_path)
    assert mixed["status"].tolist() == ["failed", "scored"] * len(images)
    pd.testing.assert_frame_equal(mixed[mixed["status"] == "scored"].reset_index(drop=True), plain)


def test_score_is_the_probability_before_calibration(head_run: Run, tmp_path: Path) -> None:
    """Odds of the calibrated probability are those of the score to the power 1 / temperature."""
    table = scored(head_run, [cells(tmp_path / "folder", 10)], tmp_path)
    temperature = head_run.decision_record["temperature"]
    assert temperature != pytest.approx(1, abs=0.01)
    before = np.log(table["score"] / (1 - table["score"]))
    after = np.log(table["probability_ALL"] / table["probability_HEM"])
    np.testing.assert_allclose(after * temperature, before, rtol=1e-6)


def test_decision_is_that_of_the_threshold(head_run: Run, tmp_path: Path) -> None:
    table = scored(head_run, [cells(tmp_path / "folder", 20)], tmp_path)
    threshold = head_run.decision_record["threshold"]["value"]
    assert table["decision"].tolist() == np.where(table["probability_ALL"] >= threshold, "ALL", "HEM").tolist()


def test_score_is_empty_where_no_class_is_positive(head_run: Run, tmp_path: Path) -> None:
    scorer = InputScorer(head_run, PredictSettings())
    scorer.decision = replace(scorer.decision, positive=(), threshold=None)
    rows = scorer.rows([scorer.read(Unread(write_image(tmp_path / "a.bmp", draw_cell(1))))])
    assert rows["score"] == [None]
    assert rows["decision"][0] in ("HEM", "ALL")


class Unread:
    """An input that is a file of the test."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)

    def read(self, max_pixels: int) -> Any:
        return read_pixels(Path(self.name), max_pixels)


# Prediction sets and refusals


def test_sets_and_refusals_are_those_of_the_level(head_run: Run, tmp_path: Path) -> None:
    folder = cells(tmp_path / "folder", 30)
    table = scored(head_run, [folder], tmp_path, PredictSettings(abstain=0.4))
    scores = table[["probability_HEM", "probability_ALL"]].to_numpy()
    sets = head_run.decision().prediction_sets(scores, 0.4)
    names = {(False, False): "", (True, False): "HEM", (False, True): "ALL", (True, True): "HEM|ALL"}
    assert table["prediction_set"].tolist() == [names[bool(hem), bool(all_)] for hem, all_ in sets]
    assert {"HEM", "ALL"} & set(table["prediction_set"])
    wanted = head_run.decision().refusals(scores, table["outlier_score"].to_numpy(), 0.4)
    assert [None if pd.isna(reason) else reason for reason in table["refusal"]] == wanted
    unlike = table["outlier_score"] > 1
    assert set(table.loc[unlike, "refusal"]) <= {"unlike the training images"}


def test_level_is_a_tenth_unless_said_and_a_small_validation_is_told(
    head_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cohort's validation side has fewer than the nine subject groups that a tenth takes: nothing is answered."""
    with caplog.at_level(logging.WARNING, logger="leukolens"):
        done = predict_inputs(head_run, [cells(tmp_path / "folder", 4)], tmp_path / "a.parquet")
    assert re.search(r"No image is answered: 0\.1 wrong takes 9 subject groups in validation", caplog.text)
    table, record = read_table(done.path, INPUT_SCORES_COLUMNS)
    assert record["abstain"] == 0.1
    assert table["refusal"].notna().all()
    assert set(table["prediction_set"]) == {"HEM|ALL"}
    assert done.refusals.total() == 4


def test_record_says_what_made_the_scores(finetuned_run: Run, tmp_path: Path) -> None:
    settings = PredictSettings(tta=True)
    done = predict_inputs(finetuned_run, [cells(tmp_path / "folder", 1)], tmp_path / "a.parquet", settings)
    record = read_table(done.path, INPUT_SCORES_COLUMNS)[1]
    run, decision = finetuned_run.record, finetuned_run.decision_record
    assert {name: record[name] for name in ("run_hash", "classes", "positive", "synthetic")} == {
        name: run[name] for name in ("run_hash", "classes", "positive", "synthetic")
    }
    assert (record["decision_hash"], record["tta"], record["phase"]) == (decision["hash"], True, "finetune")
    assert record["preprocessing"] == finetuned_run.preprocessing.to_record()
    assert record["decisions"][0]["temperature"] == decision["temperature"]
    assert record["engine"] == finetuned_run.compute().engine


# Cells that the run has seen


def test_cells_that_the_run_has_seen_say_on_which_side(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    table = scored(head_run, [cohort.cells], tmp_path)
    seen = head_run.training_images().set_index("image")["side"]
    names = [Path(name).relative_to(cohort.cells).as_posix() for name in table["input"]]
    found = [None if pd.isna(side) else side for side in table["seen_in"]]
    assert found == [seen.get(name) for name in names]
    assert {side: found.count(side) for side in ("train", "validation")} == seen.value_counts().to_dict()
    assert None in found


def test_seen_cell_is_known_in_another_format_and_on_another_canvas(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    image = head_run.training_images().iloc[0]
    pixels = read_pixels(cohort.cells / image["image"], 48 * 48).pixels
    write_image(tmp_path / "again.png", np.pad(pixels, ((7, 7), (9, 9), (0, 0))))
    assert scored(head_run, [tmp_path / "again.png"], tmp_path)["seen_in"].tolist() == [image["side"]]


# Streaming


def test_batches_hold_32_pictures_and_the_failures_between() -> None:
    error = ImageError("x", reason="missing", expected="", received="", remedy="")
    pixels = np.zeros((1, 1, 3), np.uint8)
    outcomes: list[Outcome] = []
    for number in range(70):
        outcomes += [Failure(f"bad {number}", error), Picture(f"good {number}", pixels, "")]
    cut = list(batches(iter(outcomes)))
    assert [len(batch) for batch in cut] == [64, 64, 12]
    assert [outcome for batch in cut for outcome in batch] == outcomes
    assert [len(batch) for batch in batches([Failure("bad", error)] * 5000)] == [4096, 904]
    assert list(batches([])) == []


def test_what_waits_in_memory_does_not_grow_with_the_inputs(
    head_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 inputs of which never more than a batch and a few per thread are decoded and not yet in rows."""
    image, lock = write_image(tmp_path / "a.bmp", draw_cell(1)), threading.Lock()
    counts = {"read": 0, "written": 0, "most": 0}
    read, rows = InputScorer.read, InputScorer.rows

    def counted_read(self: InputScorer, source: Any) -> Outcome:
        with lock:
            counts["read"] += 1
            counts["most"] = max(counts["most"], counts["read"] - counts["written"])
        return read(self, source)

    def counted_rows(self: InputScorer, batch: Sequence[Outcome]) -> Any:
        with lock:
            counts["written"] += len(batch)
        return rows(self, batch)

    monkeypatch.setattr(InputScorer, "read", counted_read)
    monkeypatch.setattr(InputScorer, "rows", counted_rows)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert predict_inputs(head_run, [image] * 400, tmp_path).scored == 400
    assert counts["read"] == counts["written"] == 400
    assert counts["most"] <= 32 + 8 * (2 * 2 + 2)


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_interrupted_prediction_leaves_nothing(
    head_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder, rows = cells(tmp_path / "folder", 40), InputScorer.rows
    batches_seen = []

    def interrupted(self: InputScorer, batch: Sequence[Outcome]) -> Any:
        batches_seen.append(batch)
        if len(batches_seen) == 2:
            raise KeyboardInterrupt
        return rows(self, batch)

    monkeypatch.setattr(InputScorer, "rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_inputs(head_run, [folder], tmp_path / "out" / name)
    assert list((tmp_path / "out").iterdir()) == []


# What is refused before anything is scored


def test_nothing_is_written_where_nothing_can_be_scored(head_run: Run, tmp_path: Path) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    with pytest.raises(SettingsError, match="There is no image in"):
        predict_inputs(head_run, [empty], out)
    with pytest.raises(SettingsError, match="cannot be written to"):
        predict_inputs(head_run, [empty], tmp_path / "scores.xlsx")
    with pytest.raises(RunError, match="holds no finished run"):
        predict_inputs(empty, [empty], out)
    undecided = Path(shutil.copytree(head_run.folder, tmp_path / "run"))
    (undecided / "decision.json").unlink()
    with pytest.raises(RunError, match=r"has no decision\.json"):
        predict_inputs(undecided, [empty], out)
    assert not out.exists()


def test_summary_counts_what_became_of_the_inputs(tmp_path: Path) -> None:
    done = ScoredInputs(tmp_path, skipped=3)
    done.count({"status": ["scored", "failed", "scored"], "error": [None, "blank", None],
                "refusal": ["uncertain: HEM or ALL", None, None], "seen_in": [None, None, "train"]})  # fmt: skip
    assert summary_lines(done) == [
        "3 inputs: 2 scored, 1 could not be",
        "  1 blank",
        "left out: 3 files of folders and archives, hidden or without an image's suffix",
        "not answered: 1 of those scored",
        "  1 uncertain: HEM or ALL",
        "seen by the model before: 1 in train (column seen_in); do not measure it on these",
    ]


def test_model_of_drawn_cells_is_told_first(head_run: Run, tmp_path: Path) -> None:
    drawn = Run(head_run.folder, {**head_run.record, "synthetic": True})
    image = write_image(tmp_path / "a.bmp", draw_cell(1))
    assert summary_lines(predict_inputs(drawn, [image], tmp_path))[0].startswith("SYNTHETIC: the model has learned from drawn")
    assert "SYNTHETIC" not in "".join(summary_lines(predict_inputs(head_run, [image], tmp_path)))


# The command line


def run_predict(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["predict", *map(str, arguments)])


def test_exit_status_says_whether_all_were_scored(head_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cells(tmp_path / "folder", 2)
    monkeypatch.chdir(tmp_path)
    every = run_predict(head_run.folder, "folder")
    assert every.exit_code == 0, every.output
    assert every.stdout.splitlines()[0] == "2 inputs: 2 scored, 0 could not be"
    assert every.stdout.splitlines()[-1] == "written: scores.csv"
    (folder / "bad.bmp").write_bytes(b"")
    some = run_predict(head_run.folder, "folder", "--out", "new/scores.parquet", "--abstain", 0.4)
    assert some.exit_code == 3, some.output
    assert some.stdout.splitlines()[:2] == ["3 inputs: 2 scored, 1 could not be", "  1 empty"]
    assert pd.read_parquet("new/scores.parquet")["status"].tolist() == ["scored", "scored", "failed"]


@pytest.mark.parametrize("flags", [["--all"], ["--ray"], ["--splits", "splits.parquet"]])
def test_flags_of_a_manifest_with_many_inputs_are_wrong_usage(head_run: Run, tmp_path: Path, flags: list[str]) -> None:
    wrong = run_predict(head_run.folder, "a.bmp", "b.bmp", "--out", tmp_path / "out", *flags)
    assert wrong.exit_code == 2
    assert "go with one manifest and nothing else" in re.sub(r"[\s│]+", " ", wrong.output)
    assert run_predict(head_run.folder).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_manifest_is_scored_as_ever(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    for number, given in enumerate((cohort.results, cohort.results / "manifest.parquet")):
        outcome = run_predict(head_run.folder, given, "--out", tmp_path / str(number))
        assert outcome.exit_code == 0, outcome.output
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == ["predictions.parquet"]


def test_earlier_table_is_replaced(head_run: Run, tmp_path: Path) -> None:
    folder, out = cells(tmp_path / "folder", 1), tmp_path / "scores.csv"
    out.write_text("earlier")
    assert run_predict(head_run.folder, folder, "--out", out).exit_code == 0
    assert len(pd.read_csv(out)) == 1


# Documentation


def test_document_names_every_column() -> None:
    lines = re.findall(r"^\| (`.+?`) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for line in lines for name in re.findall(r"`([^`]+)`", line)]
    assert [name for name in named if name in INPUT_SCORES_COLUMNS] == list(INPUT_SCORES_COLUMNS)


# Real cells


@pytest.mark.real
@pytest.mark.skipif(not REAL_CELLS.is_dir(), reason="../shared/data/c-nmc-sample is not there")
def test_real_cells_are_scored_from_folder_and_zip_alike(head_run: Run, tmp_path: Path) -> None:
    files = [path for path in sorted(REAL_CELLS.rglob("*")) if path.is_file() and is_image_name(path.name)][:40]
    with zipfile.ZipFile(tmp_path / "cells.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, path in enumerate(files):
            archive.write(path, f"{number:03}{path.suffix}")
    loose = scored(head_run, files, tmp_path)
    packed = scored(head_run, [tmp_path / "cells.zip"], tmp_path)
    assert set(loose["status"]) == {"scored"}
    pd.testing.assert_frame_equal(loose.drop(columns="input"), packed.drop(columns="input"))
