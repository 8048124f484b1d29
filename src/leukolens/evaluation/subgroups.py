"""Accuracy by what should not matter: the size of the cell, the strength of its stain, the format of its file.

In: a table of predictions of one side, its record, and how intervals are drawn. Out: JSON-able entries. Writes: nothing.

Of a repeated cross-validation, the first repeat is measured, so that counts add up to the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pandas as pd

from leukolens.artifacts import Record
from leukolens.evaluation.intervals import interval_of, refusal
from leukolens.evaluation.metrics import Flags, overall, scored_of
from leukolens.evaluation.resampling import Clusters, resample
from leukolens.settings import EvaluateSettings

UNKNOWN = "not known"

_QUARTERS = (0.25, 0.5, 0.75)
_SEVERAL = 2  # with one value only there is nothing to compare
_LEAST_DIGITS, _MOST_DIGITS = 3, 17  # 17 digits tell any two doubles apart
# How a quartile is said: "quartile 1: up to 24,000 px".
_QUARTILES: dict[str, tuple[str, str, str]] = {
    "area_px": ("cell area", "", " px"),
    "optical_density": ("stain", "optical density ", ""),
}


def subgroup_figures(table: pd.DataFrame, record: Record, settings: EvaluateSettings) -> list[Record]:
    """Give the entries `subgroups` of one side.

    Args:
        table: the side's rows of predictions; a column that is absent, or that would put all images into one
            subgroup, gives no entry.
        record: theirs.
        settings: confidence, resamples, seed, and the subject groups that a class needs for an interval.

    Returns:
        Entries `by` ("cell area", "stain", "image format"), `name` ("quartile 1: up to 24,000 px"; "not known" for images
        without a value), `images`, `groups`, `accuracy`, `balanced_accuracy` (None where all are of one class),
        `interval` (of the accuracy, or None), `counts` by class. Quartiles are those of the images measured; an image at
        the edge belongs to the lower one.
    """
    first = table[table["repeat"] == table["repeat"].min()]
    parts = [*_quartile_parts(first), *_format_parts(first)]
    return [{"by": by, "name": name, **_figures(rows, record, settings)} for by, name, rows in parts]


def quartile_names(edges: list[float], before: str, after: str) -> list[str]:
    """Name four ranges by three edges, with as few digits (3 or more) as tell the edges apart.

    Args:
        edges: ascending, perhaps equal.
        before: what stands before the range, such as "optical density ".
        after: what stands after it, such as " px".
    """
    said = _distinct(edges)
    between = [f"{low} to {high}" for low, high in pairwise(said)]
    ranges = [f"up to {said[0]}", *between, f"above {said[-1]}"]
    return [f"quartile {number}: {before}{text}{after}" for number, text in enumerate(ranges, start=1)]


def _quartile_parts(first: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for column, (by, before, after) in _QUARTILES.items():
        if column not in first or not first[column].notna().any():
            continue
        values = first[column].to_numpy(np.float64, na_value=np.nan)
        known = ~np.isnan(values)
        edges = np.quantile(values[known], _QUARTERS).tolist()
        quartile = np.searchsorted(edges, values, side="left")  # "left": a value at an edge belongs below it
        # Smear fields fill the canvas: nearly all have one area, and with it one quartile.
        if len(np.unique(quartile[known])) < _SEVERAL:
            continue
        for number, name in enumerate(quartile_names(edges, before, after)):
            if (inside := known & (quartile == number)).any():
                yield by, name, first[inside]
        if not known.all():
            yield by, UNKNOWN, first[~known]


def _format_parts(first: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    if "format" not in first or first["format"].nunique() < _SEVERAL:
        return
    for name in sorted(first["format"].dropna().unique()):
        yield "image format", str(name), first[first["format"] == name]
    if first["format"].isna().any():
        yield "image format", UNKNOWN, first[first["format"].isna()]


def _figures(rows: pd.DataFrame, record: Record, settings: EvaluateSettings) -> Record:
    scored = scored_of(rows, record)
    figures = overall(scored)
    return {
        "images": len(rows),
        "groups": int(rows["group"].nunique()),
        "accuracy": figures["accuracy"],
        "balanced_accuracy": figures["balanced_accuracy"],
        "interval": _interval(rows, scored.y_true == scored.y_pred, settings),
        "counts": {name: int((scored.y_true == index).sum()) for index, name in enumerate(scored.classes)},
    }


def _interval(rows: pd.DataFrame, right: Flags, settings: EvaluateSettings) -> list[float] | None:
    """Interval of the accuracy by resampling subject groups; None where a class that occurs has too few of them."""
    clusters = Clusters.of(rows)
    if refusal(clusters, settings):
        return None
    weights = resample(clusters, settings)
    groups = weights.shape[1]
    images = weights @ np.bincount(clusters.of_row, minlength=groups)
    samples = weights @ np.bincount(clusters.of_row, right, minlength=groups) / images
    interval = interval_of(samples, float(right.mean()), clusters, settings, "accuracy")
    return None if interval is None else [float(end) for end in interval]


def _distinct(edges: list[float]) -> list[str]:
    """Write the edges with just as many digits as keep different ones different."""
    written = ([_said(edge, digits) for edge in edges] for digits in range(_LEAST_DIGITS, _MOST_DIGITS + 1))
    return next(said for said in written if len(set(said)) == len(set(edges)))


def _said(value: float, digits: int) -> str:
    """Write 24213.4 as "24,200" and 0.31416 as "0.314" with three digits."""
    return f"{Decimal(f'{value:.{digits}g}'):,f}"
