"""Scores of any tool: read from a CSV or from predictions.parquet, and checked row by row before anything is measured.

In: a Parquet file of leukolens, or a CSV with columns image, subject, y_true, y_score and perhaps side, y_pred, group,
repeat, fold, area_px, optical_density, outlier_score, format. Out: `Predictions` whose rows are indexed by the number under
which the user finds them. Writes: nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leukolens.artifacts import PREDICTIONS_COLUMNS, SIDES, TEST, Predictions, Record
from leukolens.errors import ArtifactError

REQUIRED_COLUMNS = ("image", "subject", "y_true", "y_score")
DEFAULT_THRESHOLD = 0.5

_Classes = tuple[tuple[str, str], Mapping[str, str]]

_NUMBERED_CLASSES = {"0": "negative", "1": "positive"}
_SUM_TOLERANCE = 1e-3  # float32 softmax over a few classes sums to 1 within 1e-6; other tools round to 3 or 4 digits
_REMEDY = "correct the table and evaluate it again"
_COUNTED_COLUMNS = ("repeat", "fold")
_MEASURED_COLUMNS = ("area_px", "optical_density", "outlier_score")  # an empty cell means: not known
_OTHER_SEPARATORS = (";", "\t", "|")


def load_scores(path: Path, positive: tuple[str, ...] | None) -> Predictions:
    """Read predictions.parquet (the file or its folder) or another tool's CSV, and check every row.

    Args:
        path: a path ending in .csv is read as another tool's table, any other as leukolens's own.
        positive: class or classes that count as positive; None means what the file says, or ALL against HEM.

    Raises:
        ArtifactError: names the file and the row (its line in a CSV, counted from 1 in Parquet).
    """
    if path.suffix.lower() == ".csv":
        predictions = _from_csv(path, positive)
    else:
        predictions = with_positive(Predictions.load(path), positive, str(path))
    check_scores(predictions, str(path))
    return predictions


def with_positive(predictions: Predictions, positive: tuple[str, ...] | None, source: str) -> Predictions:
    """Number the rows from 1, leave out images without a label, and let the classes in `positive` (if any) be positive.

    The record says under `unlabelled_images` how many were left out: leukolens scores unlabelled images too, and there is
    nothing to measure them against.
    """
    table = predictions.table.copy()
    table.index = pd.RangeIndex(1, len(table) + 1)
    labelled = table["y_true"].notna()
    record = {**predictions.record, "unlabelled_images": int((~labelled).sum())}
    table = table[labelled]
    if positive is None:
        return Predictions(table, record)
    _check_positive(positive, record["classes"], source)
    of_positive = table[[f"score_{name}" for name in positive]].sum(axis=1)
    return Predictions(table.assign(y_score=of_positive), {**record, "positive": list(positive)})


def check_scores(predictions: Predictions, source: str) -> None:
    """Raise ArtifactError, naming `source` and the row, at the first row or column that cannot be measured."""
    table, classes = predictions.table, predictions.record["classes"]
    _check_columns(table, [*PREDICTIONS_COLUMNS, *(f"score_{name}" for name in classes)], source)
    if table.empty:
        raise _bad_table(source, "at least one row of scores", "no row")
    _first_bad(table, table["image"].isna() | (table["image"] == ""), "image", "the name of an image", source)
    _first_bad(table, ~table["side"].isin(SIDES), "side", f"one of {', '.join(SIDES)}", source)
    for column in ("y_true", "y_pred"):
        _first_bad(table, ~table[column].isin(classes), column, f"one of the classes {', '.join(classes)}", source)
    _check_probabilities(table, classes, source)
    _check_duplicates(table, source)
    _check_subjects(table, source)
    if table["y_true"].nunique() == 1:
        raise _bad_table(source, "images of two classes or more", f"{table['y_true'].iloc[0]} in every row")


def _check_probabilities(table: pd.DataFrame, classes: list[str], source: str) -> None:
    for name in classes:
        scores = table[f"score_{name}"]
        _first_bad(table, ~scores.between(0, 1), f"score_{name}", "a probability from 0 to 1", source)
    total = table[[f"score_{name}" for name in classes]].sum(axis=1)
    wrong = (total - 1).abs() > _SUM_TOLERANCE
    if wrong.any():
        row = table.index[wrong][0]
        raise _bad_row(source, row, "scores of all classes that sum to 1", f"a sum of {total[row]:g}")


def _check_duplicates(table: pd.DataFrame, source: str) -> None:
    again = table.duplicated(["repeat", "fold", "side", "image"])
    if again.any():
        row = table.index[again][0]
        image, side, fold, repeat = table.loc[row, ["image", "side", "fold", "repeat"]]
        received = f"{image} again (side {side}, fold {fold}" + (f", repeat {repeat})" if repeat else ")")
        raise _bad_row(source, row, "each image once per fold and side", received)


def _check_subjects(table: pd.DataFrame, source: str) -> None:
    """A subject is ill or is not: with two labels, clusters and figures over subjects would mean nothing."""
    known = table[table["subject"].notna()]
    first = known.groupby("subject")["y_true"].transform("first")
    wrong = known["y_true"] != first
    if wrong.any():
        row = known.index[wrong][0]
        subject = known.loc[row, "subject"]
        earlier = known.index[known["subject"] == subject][0]
        received = f"{known.loc[row, 'y_true']}, where row {earlier} has {first[row]}"
        raise _bad_row(source, row, f"one class for all images of subject {subject}", received)


def _from_csv(path: Path, positive: tuple[str, ...] | None) -> Predictions:
    text = _read_text(path)
    score = _numbers(text, "y_score", "a probability from 0 to 1", str(path))
    _first_bad(text, ~score.between(0, 1), "y_score", "a probability from 0 to 1", str(path))
    classes, names = _classes(text, positive, str(path))
    negative, positive_name = classes
    predicted = pd.Series(np.where(score >= DEFAULT_THRESHOLD, positive_name, negative), index=text.index)
    subject = text["subject"].where(text["subject"] != "", None)
    table = pd.DataFrame({
        "image": text["image"],
        "subject": subject,
        "group": text["group"].where(text["group"] != "", None) if "group" in text else subject,
        **{column: _numbers(text, column, "a whole number", str(path)).astype("int16") if column in text else 0
           for column in _COUNTED_COLUMNS},
        "side": text.get("side", TEST),
        "y_true": text["y_true"].replace(dict(names)),
        "y_pred": text["y_pred"].replace(dict(names)) if "y_pred" in text else predicted,
        "y_score": score,
        f"score_{negative}": 1 - score,
        f"score_{positive_name}": score,
        **_optional(text, str(path)),
    })  # fmt: skip
    return Predictions(table, _foreign_record(path, classes))


def _optional(text: pd.DataFrame, source: str) -> dict[str, pd.Series[Any]]:
    """Give the columns that subgroups and abstention need, where the table has them."""
    columns: dict[str, pd.Series[Any]] = {"format": text["format"].replace("", None)} if "format" in text else {}
    for column in _MEASURED_COLUMNS:
        if column in text:
            filled = text[text[column] != ""]
            columns[column] = _numbers(filled, column, "a number or nothing", source).reindex(text.index)
    return columns


def _foreign_record(path: Path, classes: tuple[str, str]) -> Record:
    """Give the record of scores whose training leukolens did not see."""
    return {"classes": list(classes), "positive": [classes[1]], "architecture": None, "display_name": path.stem,
            "kind": None, "trained_on": "unknown", "split_label": "unknown", "optimistic": None, "synthetic": None,
            "run_hash": None, "decisions": []}  # fmt: skip


def _read_text(path: Path) -> pd.DataFrame:
    """Read every cell as text; the index is the line in the file, the header being line 1. Blank lines are no rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, list(map(str.strip, row))) for row in reader if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _bad_table(str(path), "a CSV file in UTF-8 with a header", str(error).strip()) from error
    if len(header) == 1 and (separator := next((each for each in _OTHER_SEPARATORS if each in header[0]), None)):
        named = {";": "semicolons", "\t": "tabs", "|": "bars"}[separator]
        raise _bad_table(str(path), "cells separated by commas", f"cells separated by {named}")
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise _bad_table(str(path), "each column once", f"column {twice[0]} twice")
    for line, row in rows:
        if len(row) != len(header):
            raise _bad_row(str(path), line, f"{len(header)} cells, as in the header", f"{len(row)} cells")
    lines = pd.Index([line for line, _ in rows], dtype="int64")
    text = pd.DataFrame([row for _, row in rows], index=lines, columns=header, dtype=str)
    _check_columns(text, list(REQUIRED_COLUMNS), str(path))
    if text.empty:
        raise _bad_table(str(path), "at least one row of scores", "no row")
    return text


def _classes(text: pd.DataFrame, positive: tuple[str, ...] | None, source: str) -> _Classes:
    """Give the class names (negative first) and the names to put for what is written in the table."""
    _first_bad(text, text["y_true"] == "", "y_true", "the name of a class", source)
    counts = text["y_true"].value_counts()
    numbered = any(number in counts for number in _NUMBERED_CLASSES)
    # Of three names or more the rare ones are the misspelt ones.
    found = list(_NUMBERED_CLASSES) if numbered else list(counts.index[:2])
    _first_bad(text, ~text["y_true"].isin(found), "y_true", f"one of two classes, {' or '.join(found)}", source)
    if len(counts) == 1:
        raise _bad_table(source, "images of two classes", f"{counts.index[0]} in every row")
    if numbered:
        names = tuple(_NUMBERED_CLASSES.values())
        if positive is not None and positive not in (names[1:], ("1",)):
            raise _bad_table(source, "positive 1 where y_true is 0 or 1", f"positive {', '.join(positive)}")
        return (names[0], names[1]), _NUMBERED_CLASSES
    chosen = _positive_name(found, positive, source)
    return (next(name for name in found if name != chosen), chosen), {}


def _positive_name(classes: list[str], positive: tuple[str, ...] | None, source: str) -> str:
    if positive is not None:
        _check_positive(positive, classes, source)
        return positive[0]
    if sorted(name.upper() for name in classes) == ["ALL", "HEM"]:
        return next(name for name in classes if name.upper() == "ALL")
    raise ArtifactError(
        f"{source} does not say which class is positive.",
        expected="y_true of ALL and HEM, of 0 and 1, or a positive class given",
        received=f"classes {' and '.join(classes)}",
        remedy="name the class that y_score is the probability of: --positive NAME",
    )


def _check_positive(positive: tuple[str, ...], classes: list[str], source: str) -> None:
    unknown = [name for name in positive if name not in classes]
    if unknown or not 0 < len(set(positive)) < len(classes):
        raise ArtifactError(
            f"{source} has no such positive class.",
            expected=f"some, not all, of {', '.join(classes)}",
            received=", ".join(positive) or "none",
            remedy="correct --positive",
        )


def _numbers(text: pd.DataFrame, column: str, expected: str, source: str) -> pd.Series[float]:
    numbers = pd.to_numeric(text[column], errors="coerce").astype("float64")
    wrong = numbers.isna() | numbers.isin([np.inf, -np.inf])
    if column in _COUNTED_COLUMNS:
        wrong |= numbers % 1 != 0
    _first_bad(text, wrong, column, expected, source)
    return numbers


def _check_columns(table: pd.DataFrame, wanted: list[str], source: str) -> None:
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise ArtifactError(
            f"{source} lacks column {', '.join(missing)}.",
            expected=f"columns {', '.join(wanted)}",
            received=f"columns {', '.join(map(str, table.columns))}",
            remedy=_REMEDY,
        )


def _first_bad(table: pd.DataFrame, bad: pd.Series[bool], column: str, expected: str, source: str) -> None:
    if bad.any():
        row = table.index[bad][0]
        value = table.loc[row, column]
        received = "nothing" if pd.isna(value) or value == "" else str(value)
        raise _bad_row(source, row, f"{expected} in column {column}", received)


def _bad_row(source: str, row: object, expected: str, received: str) -> ArtifactError:
    return ArtifactError(f"{source}, row {row} cannot be used.", expected=expected, received=received, remedy=_REMEDY)


def _bad_table(source: str, expected: str, received: str) -> ArtifactError:
    return ArtifactError(f"{source} cannot be evaluated.", expected=expected, received=received, remedy=_REMEDY)
