"""Split-conformal prediction sets, calibrated by subject group: the promise is for a cell of a new subject.

In: ValidationScores and a temperature. Out: Conformal, and sets of classes by it. Writes: nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukolens.decision.temperature import probabilities
from leukolens.decision.validation import ValidationScores

# Sums of a few thousand weights are off by less; MAPIE compares scores with the same slack.
_ROUNDING = 1e-8


@dataclass(frozen=True)
class Conformal:
    """Scores of the validation images that prediction sets are made by.

    Args:
        scores: float64 [m], ascending: 1 - probability of the true class.
        weights: float64 [m], of each score; they sum to groups / (groups + 1).
        groups: number of subject groups, K.
    """

    scores: NDArray[np.float64]
    weights: NDArray[np.float64]
    groups: int

    def quantile(self, alpha: float) -> float:
        """Smallest score whose weight from below is at least 1 - alpha; infinite where there are too few groups."""
        reached = np.cumsum(self.weights) >= 1 - alpha - _ROUNDING
        return float(self.scores[np.argmax(reached)]) if reached.any() else math.inf

    def prediction_sets(self, scores: NDArray[np.float64], alpha: float) -> NDArray[np.bool_]:
        """Sets of classes, bool [n, C], for calibrated probabilities [n, C].

        A set holds the true class of a random cell of a new subject with probability 1 - alpha or more, over the draw of
        the validation subjects and the new one, who must come from the same population. It may be empty.
        """
        sets: NDArray[np.bool_] = 1 - scores <= self.quantile(alpha) + _ROUNDING
        return sets


def fit_conformal(validation: ValidationScores, temperature: float) -> Conformal:
    """Calibrate sets that hold each class whose probability is high enough.

    The score is that of Sadinle, Lei & Wasserman (2019, "Least ambiguous set-valued classifiers with bounded error
    levels"). Every one of the K subject groups weighs 1 / (K + 1), shared equally by its images, and the subject to
    come 1 / (K + 1) at infinity (Lee, Barber & Willett 2023, "Distribution-free inference with hierarchical data";
    Dunn, Wasserman & Ramdas 2022). With one image per group that is standard split conformal prediction (Vovk et al.
    2005).
    """
    scores = 1 - probabilities(validation.logits, temperature)[np.arange(len(validation.y_true)), validation.y_true]
    sizes = np.bincount(validation.clusters)
    weights = 1 / ((len(sizes) + 1) * sizes[validation.clusters])
    order = np.argsort(scores, kind="stable")
    return Conformal(scores[order], weights[order], len(sizes))


def groups_needed(alpha: float) -> int:
    """Fewest subject groups with which a set can leave a class out: ceil(1 / alpha) - 1, 19 for alpha 0.05."""
    return math.ceil(1 / alpha - _ROUNDING) - 1
