"""The verb: predictions of leukolens and tables of other tools, and every way in which a table can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leukolens.artifacts import Predictions, hash_file
from leukolens.errors import ArtifactError
from leukolens.evaluation.evaluate import evaluate

RECORD = {"classes": ["HEM", "ALL"], "positive": ["ALL"], "architecture": "resnet50", "display_name": "ResNet-50",
          "trained_on": "ImageNet-1k", "split_label": "split by subject", "optimistic": False, "synthetic": False,
          "run_hash": "0"}  # fmt: skip

HEADER = "image,subject,y_true,y_score"
GOOD = [HEADER, "a.bmp,1,ALL,0.9", "b.bmp,1,ALL,0.3", "c.bmp,H1,HEM,0.2", "d.bmp,H2,HEM,0.5"]


def make_predictions(images: int = 24) -> Predictions:
    random = np.random.default_rng(0)
    score = random.uniform(size=images).round(3)
    names = np.array(["HEM", "ALL"])
    true = np.arange(images) % 2
    table = pd.DataFrame({
        "image": [f"{number}.bmp" for number in range(images)],
        "subject": [f"S{number % 6}" for number in range(images)],
        "group": [f"S{number % 6}" for number in range(images)],
        "fold": 0,
        "side": np.where(np.arange(images) < images // 2, "validation", "test"),
        "y_true": names[true],
        "y_pred": names[(score >= 0.5).astype(int)],
        "y_score": score,
        "score_HEM": 1 - score,
        "score_ALL": score,
    })  # fmt: skip
    return Predictions(table, RECORD)


def write_csv(folder: Path, lines: list[str]) -> Path:
    path = folder / "other.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_parquet_to_metrics_json(tmp_path):
    make_predictions().save(tmp_path / "predictions.parquet")
    result = evaluate(tmp_path, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result
    assert list(result["sides"]) == ["validation", "test"]
    file_hash = hash_file(tmp_path / "predictions.parquet")
    assert result["record"] == {**RECORD, "unlabelled_images": 0, "predictions_hash": file_hash}
    test = result["sides"]["test"]
    assert (test["images"], test["subjects"], test["groups"]) == (12, 6, 6)
    assert sum(entry["images"] for entry in test["per_subject"]) == 12


def test_in_memory_gives_the_same_figures_and_writes_a_named_json(tmp_path):
    predictions = make_predictions()
    predictions.save(tmp_path / "predictions.parquet")
    from_file = evaluate(str(tmp_path / "predictions.parquet"))
    in_memory = evaluate(predictions, tmp_path / "figures.json")
    assert in_memory["sides"] == from_file["sides"]
    assert (tmp_path / "figures.json").is_file()
    assert len(in_memory["record"]["predictions_hash"]) == 64


def test_positive_can_be_turned_round():
    turned = evaluate(make_predictions(), positive=("HEM",))["sides"]["test"]
    given = evaluate(make_predictions())["sides"]["test"]
    assert turned["sensitivity"] == given["specificity"]
    assert turned["auroc"] == pytest.approx(given["auroc"])
    assert turned["auprc"] != pytest.approx(given["auprc"])


def test_csv_of_another_tool(tmp_path):
    result = evaluate(write_csv(tmp_path, GOOD))
    test = result["sides"]["test"]
    # y_pred = y_score >= 0.5: a right, b wrong, c right, d wrong.
    assert test["confusion_matrix"] == [[1, 1], [1, 1]]
    assert result["record"]["classes"] == ["HEM", "ALL"]
    assert result["record"]["positive"] == ["ALL"]
    assert result["record"]["display_name"] == "other"
    # Of the four pairs 0.9 beats both, 0.3 beats 0.2 only.
    assert test["auroc"] == pytest.approx(3 / 4)


def test_csv_with_numbers_and_optional_columns(tmp_path):
    lines = ["\ufeffimage,subject,group,fold,side,y_true,y_pred,y_score", "a,1,1+2,0,test,1,0,0.9", "a,1,1+2,1,test,1,1,0.9",
             "", "b,2,1+2,0,test,0,0,0.1", "c,,,0,validation,0,0,0.1"]  # fmt: skip
    result = evaluate(write_csv(tmp_path, lines))
    assert result["record"]["classes"] == ["negative", "positive"]
    test = result["sides"]["test"]
    assert test["confusion_matrix"] == [[1, 0], [1, 1]]
    assert (test["subjects"], test["groups"]) == (2, 1)
    assert test["notes"] == ["The images of 2 folds are pooled."]
    assert "1 of 1 images have no known subject and are in no figure by subject." in result["sides"]["validation"]["notes"]


def test_csv_of_named_classes_needs_a_positive_one(tmp_path):
    path = write_csv(tmp_path, [line.replace("ALL", "blast").replace("HEM", "normal") for line in GOOD])
    with pytest.raises(ArtifactError, match="does not say which class is positive"):
        evaluate(path)
    assert evaluate(path, positive=("blast",))["record"]["classes"] == ["normal", "blast"]
    with pytest.raises(ArtifactError, match="no such positive class"):
        evaluate(path, positive=("blasts",))


@pytest.mark.parametrize(
    ("line", "text", "row", "expected", "received"),
    [
        (2, "b.bmp,1,ALL,1.3", 3, "a probability from 0 to 1 in column y_score", "1.3"),
        (2, "b.bmp,1,ALL,-0.1", 3, "a probability from 0 to 1 in column y_score", "-0.1"),
        (4, "d.bmp,H2,HEM,", 5, "a probability from 0 to 1 in column y_score", "nothing"),
        (4, "d.bmp,H2,HEM,nan", 5, "a probability from 0 to 1 in column y_score", "nan"),
        (3, "c.bmp,H1,HEMM,0.2", 4, "one of two classes, ALL or HEM in column y_true", "HEMM"),
        (3, "c.bmp,H1,,0.2", 4, "the name of a class in column y_true", "nothing"),
        (3, ",H1,HEM,0.2", 4, "the name of an image in column image", "nothing"),
        (3, "c.bmp,H1,HEM,0.2,7", 4, "4 cells, as in the header", "5 cells"),
        (1, "a.bmp,1,ALL", 2, "4 cells, as in the header", "3 cells"),
        (3, "\na.bmp,H1,HEM,0.2", 5, "each image once per fold and side", "a.bmp again (side test, fold 0)"),
    ],
)
def test_bad_rows_are_named_as_the_user_sees_them(tmp_path, line, text, row, expected, received):
    path = write_csv(tmp_path, [*GOOD[:line], text, *GOOD[line + 1 :], "e.bmp,H2,HEM,0.4", "f.bmp,1,ALL,0.4"])
    with pytest.raises(ArtifactError) as caught:
        evaluate(path)
    assert str(caught.value) == (
        f"{path}, row {row} cannot be used.\n  expected: {expected}\n  received: {received}\n"
        "  remedy:   correct the table and evaluate it again"
    )


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [("side", "dev", "one of train, validation, test in column side"), ("fold", "x", "a whole number in column fold"),
     ("fold", "0.5", "a whole number in column fold"), ("y_pred", "AL", "one of the classes HEM, ALL in column y_pred")],
)  # fmt: skip
def test_bad_optional_cells(tmp_path, column, value, expected):
    good = {"side": "test", "fold": "0", "y_pred": "ALL"}[column]
    lines = [f"{HEADER},{column}", *(f"{line},{good}" for line in GOOD[1:-1]), f"{GOOD[-1]},{value}"]
    with pytest.raises(ArtifactError) as caught:
        evaluate(write_csv(tmp_path, lines))
    assert (caught.value.expected, caught.value.received) == (expected, value)
    assert "row 5 " in caught.value.what


@pytest.mark.parametrize(
    ("lines", "received"),
    [
        ([HEADER], "no row"),
        ([HEADER, "a,1,ALL,0.9", "b,1,ALL,0.8"], "ALL in every row"),
        ([HEADER, "a,1,1,0.9", "b,1,1,0.8"], "1 in every row"),
        (["image,subject,y_true", "a,1,ALL"], "columns image, subject, y_true"),
        (["image,image,subject,y_true,y_score"], "column image twice"),
        ([""], None),
    ],
)
def test_tables_that_cannot_be_evaluated(tmp_path, lines, received):
    path = write_csv(tmp_path, lines)
    with pytest.raises(ArtifactError) as caught:
        evaluate(path)
    assert str(path) in caught.value.what
    assert received is None or caught.value.received == received


def test_missing_file_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere\.csv cannot be evaluated"):
        evaluate(tmp_path / "nowhere.csv")
    with pytest.raises(ArtifactError, match="does not exist"):
        evaluate(tmp_path / "nowhere.parquet")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ArtifactError, match=r"bytes\.csv cannot be evaluated"):
        evaluate(tmp_path / "bytes.csv")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("y_true", "Pro", "one of the classes HEM, ALL in column y_true"),
        ("score_ALL", float("nan"), "a probability from 0 to 1 in column score_ALL"),
        ("score_HEM", 0.9999, "scores of all classes that sum to 1"),
        ("image", "2.bmp", "each image once per fold and side"),
    ],
)
def test_predictions_are_checked_too(column, value, expected):
    predictions = make_predictions()
    predictions.table.loc[4, column] = value
    with pytest.raises(ArtifactError) as caught:
        evaluate(predictions)
    assert caught.value.expected == expected
    assert caught.value.what == "The table of predictions, row 5 cannot be used."


def test_nothing_is_written_for_a_bad_table(tmp_path):
    with pytest.raises(ArtifactError):
        evaluate(write_csv(tmp_path, [HEADER]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_without_a_label_are_scored_but_not_measured() -> None:
    table = pd.DataFrame({
        "image": ["a", "b", "c"], "subject": ["1", "H1", None], "group": ["1", "H1", None], "fold": 0, "side": "test",
        "y_true": ["ALL", "HEM", None], "y_pred": ["ALL", "HEM", "ALL"], "y_score": [0.9, 0.2, 0.8],
        "score_HEM": [0.1, 0.8, 0.2], "score_ALL": [0.9, 0.2, 0.8],
    })  # fmt: skip
    metrics = evaluate(Predictions(table, {"classes": ["HEM", "ALL"], "positive": ["ALL"]}))
    assert metrics["record"]["unlabelled_images"] == 1
    assert (metrics["sides"]["test"]["images"], metrics["sides"]["test"]["accuracy"]) == (2, 1.0)
