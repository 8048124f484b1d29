"""The verb: predictions of leukolens and tables of other tools, and every way in which a table can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from leukolens.artifacts import Predictions, hash_file
from leukolens.errors import ArtifactError
from leukolens.evaluation.evaluate import evaluate, evaluate_once
from leukolens.evaluation.resampling import measured_figures
from leukolens.settings import EvaluateSettings

RECORD = {"classes": ["HEM", "ALL"], "positive": ["ALL"], "architecture": "resnet50", "display_name": "ResNet-50",
          "trained_on": "ImageNet-1k", "split_label": "split by subject", "optimistic": False, "synthetic": False,
          "kind": "network", "decisions": [], "run_hash": "0"}  # fmt: skip

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
        "repeat": 0,
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
    evaluation = EvaluateSettings().model_dump()
    assert result["record"] == {**RECORD, "unlabelled_images": 0, "predictions_hash": file_hash, "evaluation": evaluation}
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
    assert test["notes"] == [
        "The images of 2 folds are pooled.",
        "1 of 2 folds hold only positive or only other images and are not in auroc_within_folds.",
    ]
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
        "image": ["a", "b", "c"], "subject": ["1", "H1", None], "group": ["1", "H1", None], "repeat": 0, "fold": 0,
        "side": "test", "y_true": ["ALL", "HEM", None], "y_pred": ["ALL", "HEM", "ALL"], "y_score": [0.9, 0.2, 0.8],
        "score_HEM": [0.1, 0.8, 0.2], "score_ALL": [0.9, 0.2, 0.8],
    })  # fmt: skip
    metrics = evaluate(Predictions(table, {"classes": ["HEM", "ALL"], "positive": ["ALL"], "decisions": []}))
    assert metrics["record"]["unlabelled_images"] == 1
    assert (metrics["sides"]["test"]["images"], metrics["sides"]["test"]["accuracy"]) == (2, 1.0)


def test_a_subject_with_two_labels_is_named_with_both_rows(tmp_path):
    lines = [HEADER, "a.bmp,7,ALL,0.9", "b.bmp,8,HEM,0.3", "c.bmp,7,HEM,0.2"]
    with pytest.raises(ArtifactError) as raised:
        evaluate(write_csv(tmp_path, lines))
    assert "row 4 cannot be used" in str(raised.value)
    assert "one class for all images of subject 7" in str(raised.value)
    assert "HEM, where row 2 has ALL" in str(raised.value)


def test_a_bad_score_is_named_even_where_there_is_one_class_only(tmp_path):
    with pytest.raises(ArtifactError, match="row 3 cannot be used"):
        evaluate(write_csv(tmp_path, [HEADER, "a.bmp,1,ALL,0.9", "b.bmp,1,ALL,1.3"]))


@pytest.mark.parametrize(("separator", "named"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_another_separator_is_named(tmp_path, separator, named):
    with pytest.raises(ArtifactError) as raised:
        evaluate(write_csv(tmp_path, [line.replace(",", separator) for line in GOOD]))
    assert f"cells separated by {named}" in str(raised.value)


def test_a_subject_on_two_sides_is_remarked(tmp_path):
    lines = ["image,subject,side,y_true,y_score", "a,1,validation,ALL,0.9", "b,1,test,ALL,0.8", "c,H1,test,HEM,0.2",
             "d,H2,validation,HEM,0.1"]  # fmt: skip
    notes = evaluate(write_csv(tmp_path, lines))["sides"]["test"]["notes"]
    assert "Subject group 1 on two sides: the figures may be too high for new patients." in notes


def test_optional_columns_of_a_csv_reach_the_subgroups(tmp_path):
    lines = ["image,subject,y_true,y_score,area_px,format"]
    lines += [f"{n},{n if n % 2 else f'H{n}'},{'ALL' if n % 2 else 'HEM'},0.{n % 10},{1000 + n},{'BMP' if n < 12 else 'JPEG'}"
              for n in range(24)]  # fmt: skip
    subgroups = evaluate(write_csv(tmp_path, lines))["sides"]["test"]["subgroups"]
    assert {each["by"] for each in subgroups} == {"cell area", "image format"}
    assert sum(each["images"] for each in subgroups if each["by"] == "cell area") == 24


def test_a_measurement_that_is_no_number_is_named(tmp_path):
    lines = [f"{HEADER},area_px", "a.bmp,1,ALL,0.9,12", "b.bmp,H1,HEM,0.3,", "c.bmp,H2,HEM,0.3,big"]
    with pytest.raises(ArtifactError, match="row 4 cannot be used"):
        evaluate(write_csv(tmp_path, lines))


def repeated(repeats: int = 2) -> Predictions:
    """The same 24 images in every repeat; in the second one all calls of the first 12 are wrong."""
    parts = []
    for repeat in range(repeats):
        part = make_predictions(24).table.assign(side="test", repeat=repeat, fold=np.arange(24) // 12)
        part = part.assign(y_pred=part["y_true"])
        if repeat:
            other = part["y_true"].map({"ALL": "HEM", "HEM": "ALL"})
            part = part.assign(y_pred=part["y_true"].where(part["fold"] == 1, other))
        parts.append(part)
    return Predictions(pd.concat(parts), RECORD)


def test_repeats_are_averaged_and_their_spread_and_folds_are_told():
    test = evaluate(repeated())["sides"]["test"]
    assert (test["images"], test["accuracy"], test["sensitivity"]) == (24, 0.75, 0.75)
    assert test["repeats"]["count"] == 2
    assert test["repeats"]["values"]["accuracy"] == [1.0, 0.5]
    assert test["repeats"]["spread"]["accuracy"] == pytest.approx(np.std([1, 0.5], ddof=1))
    assert [(each["repeat"], each["fold"], each["accuracy"]) for each in test["folds"]] == [
        (0, 0, 1.0), (0, 1, 1.0), (1, 0, 0.0), (1, 1, 1.0),
    ]  # fmt: skip
    # Counts are those of the first repeat, so that they add up to the number of images.
    assert np.sum(test["confusion_matrix"]) == 24
    assert np.trace(test["confusion_matrix"]) == 24


def test_several_folds_have_an_auroc_within_them():
    test = evaluate(repeated())["sides"]["test"]
    table = repeated().table
    first = table[(table["repeat"] == 0) & (table["fold"] == 0)]
    # Every fold has 6 images of each class, hence as many pairs; both repeats have the same scores.
    each = [entry["auroc"] for entry in test["folds"]]
    assert each[0] == pytest.approx(roc_auc_score(first["y_true"] == "ALL", first["y_score"]))
    assert test["auroc_within_folds"] == pytest.approx(np.mean(each))
    assert test["repeats"]["values"]["auroc_within_folds"] == [pytest.approx(np.mean(each[:2]))] * 2
    assert "auroc_within_folds" in test["intervals"]["intervals"]
    assert "auroc_within_folds" not in evaluate(make_predictions())["sides"]["test"]


def test_folds_of_one_kind_are_counted(tmp_path):
    lines = [f"{HEADER},fold", "a,1,ALL,0.9,0", "b,H1,HEM,0.1,1", "c,2,ALL,0.7,2", "d,H2,HEM,0.8,2"]
    test = evaluate(write_csv(tmp_path, lines))["sides"]["test"]
    assert test["notes"] == [
        "The images of 3 folds are pooled.",
        "2 of 3 folds hold only positive or only other images and are not in auroc_within_folds.",
    ]
    assert (test["auroc"], test["auroc_within_folds"]) == (0.75, 0.0)
    undefined = evaluate(write_csv(tmp_path, lines[:3]))["sides"]["test"]
    assert undefined["auroc_within_folds"] is None
    assert "No fold holds both positive and other images: auroc_within_folds is undefined." in undefined["notes"]


def test_scalar_figures_are_those_that_the_intervals_are_drawn_around():
    for predictions in (repeated(), make_predictions()):
        result = evaluate(predictions)["sides"]["test"]
        table = predictions.table[predictions.table["side"] == "test"]
        for name, value in measured_figures(table, RECORD).items():
            assert result[name] == pytest.approx(value), name


def test_metrics_are_made_anew_only_for_other_predictions_or_settings(tmp_path):
    make_predictions().save(tmp_path / "predictions.parquet")
    settings = EvaluateSettings(resamples=200)
    first = evaluate_once(tmp_path, settings)
    written = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert evaluate_once(tmp_path, settings) == first
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == written
    assert evaluate_once(tmp_path, EvaluateSettings(resamples=300))["record"]["evaluation"]["resamples"] == 300
    make_predictions(22).save(tmp_path / "predictions.parquet")
    assert evaluate_once(tmp_path, settings)["sides"]["test"]["images"] == 11
