"""One temperature for all logits, so that a score of 0.8 is right in about 80 % of cases like it.

In: ValidationScores. Out: a temperature, and probabilities by it. Writes: nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from leukolens.decision.validation import ValidationScores

# A temperature outside means logits of another scale than any network's, or a validation side that says nothing.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
_TOLERANCE = 1e-6
_LEAST_GAIN_NATS = 1e-9


def fit_temperature(validation: ValidationScores) -> float:
    """Find the temperature that makes the labels most likely (Guo et al. 2017, "On calibration of modern neural networks").

    The labels are softened as Platt (1999, "Probabilistic outputs for support vector machines") softens them: the true
    one of an image of class c counts (n_c + 1) / (n_c + C), each other one 1 / (n_c + C), n_c images of that class and C
    classes. Without that, a small validation side that a network separates wholly would call for a temperature of 0.

    Returns:
        A temperature between 0.05 and 20, to divide logits by; 1 where validation holds one class only
        (`validation.lack` says so) or where no temperature does better than 1.
    """
    if validation.lack:
        return 1.0
    targets = _soft_labels(validation)

    def loss(log_temperature: float) -> float:
        scaled = validation.logits / np.exp(log_temperature)
        return -float((targets * log_softmax(scaled, axis=1)).sum(axis=1).mean())

    bounds = (np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE))
    # The loss is convex in 1 / temperature, so that it has one minimum in the logarithm as well.
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": _TOLERANCE})
    return float(np.exp(found.x)) if loss(0.0) - found.fun > _LEAST_GAIN_NATS else 1.0


def probabilities(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Softmax of logits [n, C] / temperature: float64 [n, C], rows that sum to 1."""
    scores: NDArray[np.float64] = softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return scores


def _soft_labels(validation: ValidationScores) -> NDArray[np.float64]:
    count = len(validation.classes)
    of_class = np.bincount(validation.y_true, minlength=count)[validation.y_true]
    targets = np.repeat(1 / (of_class + count), count).reshape(-1, count)
    targets[np.arange(len(targets)), validation.y_true] *= of_class + 1
    return targets
