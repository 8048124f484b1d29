"""The threshold on the score of the positive class, chosen on validation for a stated aim.

In: ValidationScores, a temperature and DecisionSettings. Out: Threshold, and what other thresholds would do. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from leukolens.decision.temperature import probabilities
from leukolens.decision.validation import ValidationScores
from leukolens.settings import DecisionSettings

UNTUNED = 0.5
_TWO_CLASSES = 2
_STEPS = 100


@dataclass(frozen=True)
class Threshold:
    """An image is called positive where the score of the positive class is at least `value`.

    `aim` and `sensitivity` are those of DecisionSettings. `reached` is what validation showed: the balanced accuracy, or
    for the aim "sensitivity" the sensitivity; None where the threshold was not fitted.
    """

    value: float
    aim: str
    sensitivity: float | None
    reached: float | None


@dataclass(frozen=True)
class OperatingPoint:
    """What validation showed with a `threshold`: `sensitivity` and `specificity`, shares of its images, 0–1."""

    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True)
class OperatingPoints:
    """`points` in the order of their thresholds; `positives` and `negatives` are the validation images behind them."""

    positives: int
    negatives: int
    points: tuple[OperatingPoint, ...]

    def nearest(self, threshold: float) -> OperatingPoint:
        """Give the point whose threshold is nearest, the lower one of two."""
        return min(self.points, key=lambda point: abs(point.threshold - threshold))


@dataclass(frozen=True)
class _Outcome:
    """What one candidate does: shares as exact fractions, so that ties are ties."""

    value: float
    sensitivity: Fraction
    specificity: Fraction


def choose_threshold(validation: ValidationScores, temperature: float, settings: DecisionSettings) -> Threshold | None:
    """Choose among the midpoints between neighbouring distinct scores, 0 and 1 among them, and 0 itself.

    For the aim "balanced_accuracy" the best mean of sensitivity and specificity; for "sensitivity" the highest
    specificity with at least that sensitivity, then the higher sensitivity. Ties go to the value nearest to 0.5. No
    sensitivity is out of reach: at 0 every image is positive.

    Returns:
        None with other than two classes, or where not exactly one of them is positive: the highest score decides. A
        threshold of 0.5 that reached nothing where validation holds one class only (`validation.lack` says so).
    """
    if len(validation.classes) != _TWO_CLASSES or len(validation.positive) != 1:
        return None
    if validation.lack:
        return Threshold(UNTUNED, settings.aim, settings.sensitivity, None)
    scores = probabilities(validation.logits, temperature)[:, validation.positive_positions[0]]
    outcomes = _outcomes(scores, validation.y_true == validation.positive_positions[0])
    best = _most_accurate(outcomes) if settings.sensitivity is None else _most_specific(outcomes, settings.sensitivity)
    balanced_accuracy = (best.sensitivity + best.specificity) / 2
    reached = balanced_accuracy if settings.sensitivity is None else best.sensitivity
    return Threshold(best.value, settings.aim, settings.sensitivity, float(reached))


def operating_points(validation: ValidationScores, temperature: float, chosen: Threshold | None) -> OperatingPoints | None:
    """Say what each hundredth from 0 to 1 would do as a threshold, and the one that was `chosen`.

    Returns None where no threshold was fitted: without exactly one positive class of two, or without images of both.
    """
    if chosen is None or chosen.reached is None:
        return None
    scores = probabilities(validation.logits, temperature)[:, validation.positive_positions[0]]
    is_positive = validation.y_true == validation.positive_positions[0]
    positives, negatives = scores[is_positive], scores[~is_positive]
    thresholds = sorted({*(step / _STEPS for step in range(_STEPS + 1)), chosen.value})
    points = tuple(
        OperatingPoint(value, float((positives >= value).mean()), float((negatives < value).mean())) for value in thresholds
    )
    return OperatingPoints(len(positives), len(negatives), points)


def positive_probability(scores: NDArray[np.float64], positions: Sequence[int]) -> NDArray[np.float64]:
    """Sum of the scores [n, C] of the positive classes, whose columns are `positions`: float64 [n] in 0–1."""
    total: NDArray[np.float64] = np.clip(scores[:, list(positions)].sum(axis=1), 0.0, 1.0)
    return total


def _outcomes(scores: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> list[_Outcome]:
    levels = np.unique(np.concatenate([[0.0], scores, [1.0]]))
    candidates = np.concatenate([[0.0], (levels[:-1] + levels[1:]) / 2])
    hits, false_alarms = (
        len(part) - np.searchsorted(np.sort(part), candidates) for part in (scores[is_positive], scores[~is_positive])
    )
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    return [
        _Outcome(float(value), Fraction(int(hit), positives), 1 - Fraction(int(alarm), negatives))
        for value, hit, alarm in zip(candidates, hits, false_alarms, strict=True)
    ]


def _most_accurate(outcomes: list[_Outcome]) -> _Outcome:
    return max(outcomes, key=lambda one: (one.sensitivity + one.specificity, -abs(one.value - UNTUNED)))


def _most_specific(outcomes: list[_Outcome], sensitivity: float) -> _Outcome:
    # 0.9 as written, not as the nearest binary number: 9 of 10 reach it.
    least = Fraction(str(sensitivity))
    sensitive = [one for one in outcomes if one.sensitivity >= least]
    return max(sensitive, key=lambda one: (one.specificity, one.sensitivity, -abs(one.value - UNTUNED)))
