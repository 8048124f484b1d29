"""Does an exported network answer as the one it was made from? Asked before it is kept.

In: Outputs of the exported network and of PyTorch in float32 for the same cells, and the Decision. Out: a record of how far
they are apart, or ExportError. Writes: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukolens.artifacts import Record
from leukolens.decision.outliers import OutlierModel
from leukolens.decision.rule import Decision
from leukolens.decision.threshold import positive_probability
from leukolens.errors import ExportError
from leukolens.evaluation.metrics import auroc
from leukolens.models.exported import Outputs
from leukolens.settings import ExportSettings

# The limit is the distance of a validation cell, whose own score is 1 but for rounding: it says nothing on either side.
_AT_THE_LIMIT = 1e-3


@dataclass(frozen=True)
class Judged:
    """What the answers are judged by: the rule, what is unlike the training cells, and `y_true` int64 [n], class positions."""

    decision: Decision
    outliers: OutlierModel
    y_true: NDArray[np.int64]

    def auroc(self, probabilities: NDArray[np.floating]) -> float | None:
        """AUROC of positive against the rest on these cells; None where no class is positive or one kind is missing."""
        positions = [self.decision.classes.index(name) for name in self.decision.positive]
        if not positions:
            return None
        return auroc(np.isin(self.y_true, positions), positive_probability(probabilities.astype(np.float64), positions))


def differences(found: Outputs, wanted: Outputs, judged: Judged) -> Record:
    """Say how far `found` is from `wanted`, of the same n cells.

    Returns:
        `cells` (n); `probability` and `logit` (largest difference); `features` (length of the difference over the length of
        the features); `changed_decisions` and `changed_outliers` (cells that fall into another class, or on the other side of
        the limit of what is like the training cells; those on the limit itself left out); `auroc` and `auroc_float32` (None
        where there is none).
    """
    classes = [judged.decision.predicted(each.probabilities.astype(np.float64)) for each in (found, wanted)]
    distances = [judged.outliers.scores(each.features) for each in (found, wanted)]
    refused = (distances[0] > 1) != (distances[1] > 1)
    at_limit = np.abs(distances[1] - 1) <= _AT_THE_LIMIT
    return {
        "cells": len(wanted.logits),
        "probability": float(np.abs(found.probabilities - wanted.probabilities).max()),
        "logit": float(np.abs(found.logits - wanted.logits).max()),
        "features": float(np.linalg.norm(found.features - wanted.features) / (np.linalg.norm(wanted.features) or 1.0)),
        "changed_decisions": int((classes[0] != classes[1]).sum()),
        "changed_outliers": int((refused & ~at_limit).sum()),
        "auroc": judged.auroc(found.probabilities),
        "auroc_float32": judged.auroc(wanted.probabilities),
    }


def require_same(name: str, found: Record, settings: ExportSettings) -> None:
    """Raise ExportError unless a float network gives the same probabilities, within the tolerance, and the same decisions.

    What is unlike the training cells, and so refused, has to be the same as well.
    """
    changed = found["changed_decisions"] + found["changed_outliers"]
    # Not "greater than": a probability that is no number is no probability.
    if not found["probability"] <= settings.tolerance or changed:
        raise ExportError(
            f"The network in the format {name} does not answer as the one it was made from; nothing was kept.",
            expected=f"probabilities within {settings.tolerance:g} of PyTorch's in float32, the same decisions and refusals",
            received=f"a difference of {found['probability']:.2g}, {found['changed_decisions']} other decisions and "
            f"{found['changed_outliers']} other refusals for {found['cells']} cells",
            remedy=f"leave --format {name} out; and tell the maintainers, with the versions that `pip list` gives",
        )


def require_small_loss(found: Record, settings: ExportSettings) -> None:
    """Raise ExportError where the 8-bit network costs more than the settings allow, unless that was accepted."""
    loss = 0.0 if found["auroc"] is None else found["auroc_float32"] - found["auroc"]
    # A network to which no cell is like the training cells decides nothing, however well it would.
    share = max(found["changed_decisions"], found["changed_outliers"]) / found["cells"]
    is_small = share <= settings.changed_decisions and loss <= settings.auroc_loss
    # What is no number is no answer, and nobody can accept it.
    if np.isfinite(found["probability"]) and (is_small or settings.accept_loss):
        return
    raise ExportError(
        "The 8-bit network costs more accuracy than is allowed; nothing was kept.",
        expected=f"at most {settings.changed_decisions:.0%} of decisions and of refusals changed, "
        f"{settings.auroc_loss:g} of AUROC lost",
        received=f"{found['changed_decisions']} decisions and {found['changed_outliers']} refusals of {found['cells']} "
        f"changed, {loss:.3f} of AUROC lost",
        remedy="leave --format int8 out, calibrate on more cells (calibration_images), or say --accept-loss",
    )
