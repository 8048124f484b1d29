"""Tests of differences: Holm's adjustment of several p-values, DeLong's test of two areas under the ROC curve.

In: p-values; true labels and scores of n images by two models. Out: adjusted p-values; areas, z and p. Writes: nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukolens.errors import ArtifactError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# A sample variance needs two values.
LEAST_IMAGES_PER_CLASS = 2


@dataclass(frozen=True)
class AreaComponents:
    """DeLong's structural components of one model's area under the ROC curve.

    `of_positives` float64 [m]: for each positive image the share of the negatives that score below it, ties one half;
    `of_negatives` float64 [n]: for each negative image the share of the positives that score above it. The mean of
    either is the area.
    """

    of_positives: Floats
    of_negatives: Floats

    @classmethod
    def of(cls, truth: Flags, score: Floats) -> AreaComponents:
        """Compare every positive with every negative image by two sorted searches, as Sun & Xu (2014) do by ranks.

        Args:
            truth: bool [m + n].
            score: float64 [m + n], higher for the positive ones.

        Raises:
            ArtifactError: fewer than LEAST_IMAGES_PER_CLASS positives or negatives.
        """
        positives, negatives = np.sort(score[truth]), np.sort(score[~truth])
        if min(len(positives), len(negatives)) < LEAST_IMAGES_PER_CLASS:
            raise ArtifactError(
                "DeLong's test has no variance to go by.",
                expected=f"at least {LEAST_IMAGES_PER_CLASS} positive and {LEAST_IMAGES_PER_CLASS} negative images",
                received=f"{len(positives)} positive and {len(negatives)} negative",
                remedy="compare on more images, or leave this test out",
            )
        return cls(_share_below(negatives, score[truth]), 1 - _share_below(positives, score[~truth]))

    @property
    def area(self) -> float:
        """Area under the ROC curve, 0–1."""
        return float(self.of_positives.mean())


def holm(p: Sequence[float]) -> list[float]:
    """Adjust the p-values of one family so that the chance of any false claim stays below the level (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1; none falls below the one before it, none rises above 1.

    Args:
        p: m p-values, 0–1.

    Returns:
        m adjusted p-values in the order given; empty for none.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]


def delong(truth: Flags, score_a: Floats, score_b: Floats) -> tuple[float, float, float, float]:
    """Test whether two models on the same images differ in area under the ROC curve (DeLong et al. 1988).

    Each image counts as an independent draw. Cells of one subject are none, so p is too small on clustered data.

    Args:
        truth: bool [n].
        score_a: float64 [n], higher for the positive ones.
        score_b: the same of the other model.

    Returns:
        Area of a, area of b (0–1), z = (a - b) / standard error, two-sided p of the normal distribution.

    Raises:
        ArtifactError: fewer than two positives or negatives.
    """
    a, b = AreaComponents.of(truth, score_a), AreaComponents.of(truth, score_b)
    z, p = delong_test(a, b)
    return a.area, b.area, z, p


def delong_test(a: AreaComponents, b: AreaComponents) -> tuple[float, float]:
    """Test two models from their components, which one computes once per model.

    The variance of a difference of means is that of the differences: Var(a) + Var(b) - 2 Cov(a, b) of DeLong et al.

    Args:
        a: components on m positives and n negatives.
        b: those of the other model on the same images in the same order.

    Returns:
        z and two-sided p. Equal areas without variance give 0 and 1; unequal ones the limit, ±infinity and 0.
    """
    difference = a.area - b.area
    variance = _variance_of_mean(a.of_positives - b.of_positives) + _variance_of_mean(a.of_negatives - b.of_negatives)
    if variance == 0:
        return (0.0, 1.0) if difference == 0 else (math.copysign(math.inf, difference), 0.0)
    z = difference / math.sqrt(variance)
    return z, math.erfc(abs(z) / math.sqrt(2))


def _share_below(others: Floats, values: Floats) -> Floats:
    """Give for each value the share of the sorted others below it, equal ones counted one half."""
    below = np.searchsorted(others, values, side="left") + np.searchsorted(others, values, side="right")
    share: Floats = below / (2 * len(others))
    return share


def _variance_of_mean(values: Floats) -> float:
    return float(values.var(ddof=1)) / len(values)
