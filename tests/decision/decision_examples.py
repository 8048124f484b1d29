"""Validation scores to fit on, made of labels and logits."""

import numpy as np

from leukolens.decision.validation import ValidationScores


def validation(y_true, logits, groups=None, classes=("HEM", "ALL"), positive=("ALL",)):
    """Validation scores; a vector of logits is that of the second class against 0."""
    logits = np.asarray(logits, dtype=np.float64)
    logits = np.stack([np.zeros_like(logits), logits], axis=1) if logits.ndim == 1 else logits
    groups = (None,) * len(logits) if groups is None else tuple(groups)
    sides = ("validation",) * len(logits)
    return ValidationScores(classes, positive, np.asarray(y_true, dtype=np.int64), logits, groups, sides)


def validation_of_scores(y_true, scores, **options):
    """The same of probabilities of the second class."""
    scores = np.asarray(scores, dtype=np.float64)
    return validation(y_true, np.log(scores) - np.log1p(-scores), **options)
