"""Whether scores are probabilities: calibration error, Brier score and its parts, and what the temperature changed.

In: a table of predictions of one side and its record, or a score and a truth per image. Out: JSON-able numbers, lists
and notes. Writes: nothing.

With a positive class named, the event is "the image is of a positive class" and the score its probability. Without one,
the event is "the highest score is that of the true class" and the score that highest one; the Brier score is then that of
all classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from leukolens.artifacts import Record
from leukolens.decision.temperature import probabilities
from leukolens.evaluation.metrics import Flags, Floats, Indices, Scored, scored_of

# Guo et al. 2017 and most since use 10 to 20 bins.
MAX_BINS = 10
# A share of 20 images has a standard error of up to 0.11: with fewer, a bin measures chance.
MIN_IMAGES_PER_BIN = 20

_SMALLEST_SCORE = 1e-300  # near the smallest double, so that the logarithm of a score of 0 is finite
_NO_TEMPERATURE = "No temperature was fitted: scores are taken as they came."


@dataclass(frozen=True)
class BrierParts:
    """`brier = reliability - resolution + uncertainty + within_bins`, each 0 or more but for `within_bins`."""

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float


def ece_equal_mass(score: Floats, truth: Flags, bins: int | None = None, weights: Floats | None = None) -> float:
    """Expected calibration error over bins of equal mass: mean distance between a bin's score and its share of events.

    Naeini et al. 2015 for the error, Nixon et al. 2019 for bins of equal mass. It is never negative, so chance makes it
    larger: a perfectly calibrated model measures about 0.8 standard errors of a bin's share (Roelofs et al. 2022).

    Args:
        score: float64 [n], probability of the event, 0–1.
        truth: bool [n], whether it happened.
        bins: how many bins, None for `bins_for(n)`. Equal scores share a bin, so there may be fewer.
        weights: float64 [n], how often each image counts, as in a bootstrap resample; None counts each once.

    Returns:
        0–1; NaN where nothing has weight.
    """
    weight = np.ones(len(score)) if weights is None else weights
    if not weight.sum() > 0:
        return float("nan")
    gap = np.bincount(equal_mass_bins(score, bins, weight), weight * (truth - score))
    return float(np.abs(gap).sum() / weight.sum())


def bins_for(images: int) -> int:
    """Give the number of bins: MAX_BINS, fewer where that leaves under MIN_IMAGES_PER_BIN images each, at least one."""
    return max(1, min(MAX_BINS, images // MIN_IMAGES_PER_BIN))


def equal_mass_bins(score: Floats, bins: int | None = None, weights: Floats | None = None) -> Indices:
    """Cut the images, ranked by score, into bins of as equal weight as ties allow.

    All images of one score go to the bin that the middle of their joint weight falls into, so that the result does not
    hang on the order of the rows.

    Args:
        score: float64 [n].
        bins: at most so many, None for `bins_for(n)`.
        weights: float64 [n], 0 or more, not all 0; None counts each image once.

    Returns:
        int64 [n], bin of each image, 0 the lowest; ties may leave some numbers unused.
    """
    count = bins_for(len(score)) if bins is None else bins
    _, level = np.unique(score, return_inverse=True)
    mass = np.bincount(level, weights)
    # Twice the middle, as a whole number where the weights are: no rounding at the edge of a bin.
    twice_middle = 2 * np.cumsum(mass) - mass
    bin_of_level: Indices = np.minimum(count * twice_middle // (2 * mass.sum()), count - 1).astype(np.int64)
    return bin_of_level[level]


def reliability_bins(score: Floats, truth: Flags, bins: int | None = None) -> list[dict[str, Any]]:
    """Give the points of a reliability diagram (Murphy & Winkler 1977; DeGroot & Fienberg 1983), lowest score first.

    Args:
        score: float64 [n], probability of the event, 0–1.
        truth: bool [n], whether it happened.
        bins: how many bins of equal mass, None for `bins_for(n)`.

    Returns:
        Entries `low` and `high` (least and largest score), `mean_score`, `share_positive` (of events), `images`.
    """
    return [
        {
            "low": float(score[members].min()),
            "high": float(score[members].max()),
            "mean_score": float(score[members].mean()),
            "share_positive": float(truth[members].mean()),
            "images": len(members),
        }
        for members in _members(score, bins)
    ]


def brier_decomposition(score: Floats, truth: Flags, bins: int | None = None) -> BrierParts:
    """Part the Brier score into reliability, resolution, uncertainty and what the bins hide.

    Brier 1950 for the score, Murphy 1973 for the three parts. Murphy's sum is exact where all images of a bin have one
    score; else the spread of the scores within the bins, less twice their covariance with the events, remains (Stephenson,
    Coelho & Jolliffe 2008), here `within_bins`. With `bins` = n, one bin per distinct score, it is 0.

    Args:
        score: float64 [n], probability of the event, 0–1, n at least 1.
        truth: bool [n], whether it happened.
        bins: how many bins of equal mass, None for `bins_for(n)`.
    """
    rate, images = float(truth.mean()), len(score)
    reliability = resolution = within = 0.0
    for members in _members(score, bins):
        mean_score, share = score[members].mean(), truth[members].mean()
        reliability += len(members) / images * (mean_score - share) ** 2
        resolution += len(members) / images * (share - rate) ** 2
        off = score[members] - mean_score
        within += float((off**2 - 2 * off * (truth[members] - share)).sum()) / images
    brier = float(np.mean((score - truth) ** 2))
    return BrierParts(brier, float(reliability), float(resolution), rate * (1 - rate), within)


def event_of(scored: Scored) -> tuple[Floats, Flags]:
    """Give what calibration is measured on: a probability for each image, and whether its event happened.

    Returns:
        With a positive class named, float64 [n] probability of the positive class or classes, bool [n] whether the image
        is of one. Without, float64 [n] highest score, bool [n] whether it is the true class's (Guo et al. 2017).
    """
    if scored.positive:
        # Three float32 probabilities may sum to a hair above 1.
        return np.clip(scored.positive_score, 0.0, 1.0), scored.is_positive
    return scored.scores.max(axis=1), scored.scores.argmax(axis=1) == scored.y_true


def brier_of_images(scored: Scored) -> Floats:
    """Give each image's share of the Brier score, whose mean is the score (Brier 1950).

    Returns:
        float64 [n]. With a positive class named, (probability - event)², 0–1. Without, the sum of that over the classes,
        0–2, as Brier wrote it and as scikit-learn's `brier_score_loss` with `scale_by_half=False`.
    """
    if scored.positive:
        score, truth = event_of(scored)
        squares: Floats = (score - truth) ** 2
        return squares
    truth_of_class = np.arange(len(scored.classes)) == scored.y_true[:, None]
    total: Floats = ((scored.scores - truth_of_class) ** 2).sum(axis=1)
    return total


def brier_parts(scored: Scored) -> BrierParts:
    """Part the Brier score of `brier_of_images`; without a positive class each part is summed over the classes."""
    if scored.positive:
        return brier_decomposition(*event_of(scored))
    each = [brier_decomposition(scored.scores[:, k], scored.y_true == k) for k in range(len(scored.classes))]
    return BrierParts(*np.sum([astuple(parts) for parts in each], axis=0).tolist())


def uncalibrated(table: pd.DataFrame, record: Record) -> Floats | None:
    """Take the temperature out of the scores: softmax(T·log(score)) undoes softmax(logits / T) (Guo et al. 2017).

    Args:
        table: rows of predictions.
        record: theirs; `decisions` has the temperature of each repeat and fold.

    Returns:
        float64 [n, classes] probabilities before calibration, or None where any row's repeat and fold has no temperature.
    """
    known = {(each["repeat"], each["fold"]): each["temperature"] for each in record["decisions"]}
    fitted = [known.get(key) for key in zip(table["repeat"].tolist(), table["fold"].tolist(), strict=True)]
    if any(value is None for value in fitted):
        return None
    logits = np.log(np.maximum(scored_of(table, record).scores, _SMALLEST_SCORE))
    raw: Floats = probabilities(logits * np.array(fitted, np.float64)[:, None], 1.0)
    return raw


def calibration_figures(table: pd.DataFrame, record: Record) -> Record:
    """Give the record `calibration` of one side.

    Args:
        table: the side's rows of predictions, at least one; with several repeats, scalar figures are means over them.
        record: theirs; `decisions` has the temperature of each repeat and fold, and is empty where none was fitted.

    Returns:
        `ece`, `ece_uncalibrated`, `brier`, `brier_uncalibrated` (None where a temperature is not known), `reliability`,
        `resolution`, `uncertainty`, `within_bins` (see `BrierParts`), `bins` (of the first repeat), `decisions`, `notes`.
    """
    repeats = [rows for _, rows in table.groupby("repeat", sort=True)]
    scored = [scored_of(rows, record) for rows in repeats]
    raw_scores = [uncalibrated(rows, record) for rows in repeats]
    raw = [replace(each, scores=before) for each, before in zip(scored, raw_scores, strict=True) if before is not None]
    known = len(raw) == len(scored)
    parts = _mean_parts(scored)
    return {
        "ece": _mean_ece(scored),
        "ece_uncalibrated": _mean_ece(raw) if known else None,
        "brier": parts.brier,
        "brier_uncalibrated": _mean_parts(raw).brier if known else None,
        "reliability": parts.reliability,
        "resolution": parts.resolution,
        "uncertainty": parts.uncertainty,
        "within_bins": parts.within_bins,
        "bins": reliability_bins(*event_of(scored[0])),
        "decisions": list(record["decisions"]),
        "notes": _notes(scored[0], record, known),
    }


def _members(score: Floats, bins: int | None) -> Iterator[Indices]:
    bin_of = equal_mass_bins(score, bins)
    yield from (np.flatnonzero(bin_of == number) for number in np.unique(bin_of))


def _mean_ece(repeats: list[Scored]) -> float:
    return float(np.mean([ece_equal_mass(*event_of(scored)) for scored in repeats]))


def _mean_parts(repeats: list[Scored]) -> BrierParts:
    """Average each part; the sum still holds, being linear."""
    return BrierParts(*np.mean([astuple(brier_parts(scored)) for scored in repeats], axis=0).tolist())


def _notes(scored: Scored, record: Record, known: bool) -> list[str]:
    sentences = []
    images, bins = len(scored.y_true), bins_for(len(scored.y_true))
    if not record["decisions"]:
        sentences.append(_NO_TEMPERATURE)
    elif not known:
        sentences.append("Some folds have no temperature on record: the scores before calibration are not known.")
    if not scored.positive:
        sentences.append("No positive class is named: the calibration error is that of the highest score, and the Brier "
                         "score is summed over the classes (0 to 2).")  # fmt: skip
    if bins < MAX_BINS:
        sentences.append(f"{bins} bins instead of {MAX_BINS}: {images} images leave fewer than {MIN_IMAGES_PER_BIN} for each.")
    return sentences
