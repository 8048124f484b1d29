"""Tables of predictions from logits, with the decision of each fold fitted on that fold's own validation rows.

In: rows (image, subject, group, repeat, fold, side, y_true, …) and their logits. Out: the rows of a predictions table and
the record of the decisions. Writes: nothing. Baselines and ensembles are scored through here, so that they get the same
temperature and threshold fitting as the networks that they stand beside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import PREDICTIONS_COLUMNS, PREDICTIONS_OPTIONAL_COLUMNS, VALIDATION, Record
from leukolens.decision.rule import Decision, fit_decision
from leukolens.decision.validation import ValidationScores
from leukolens.settings import DecisionSettings

Floats = NDArray[np.float64]

_FOLD = ["repeat", "fold"]
_CARRIED = [name for name in (*PREDICTIONS_COLUMNS, *PREDICTIONS_OPTIONAL_COLUMNS)
            if name not in ("y_pred", "y_score", "outlier_score", "refusal")]  # fmt: skip


def decide(
    rows: pd.DataFrame, logits: Floats, classes: Sequence[str], positive: Sequence[str], settings: DecisionSettings
) -> tuple[pd.DataFrame, list[Record]]:
    """Fit the decision of each (repeat, fold) on its validation rows and apply it to all its rows.

    Args:
        rows: n rows with PREDICTIONS_COLUMNS but y_pred and y_score, and perhaps optional ones.
        logits: float64 [n, classes].
        classes: names in the order of the logits.
        positive: names of the positive classes; may be empty.
        settings: what the threshold is chosen for.

    Returns:
        The table of predictions, in the order of `rows`, and one entry per (repeat, fold) as `Predictions.record` holds
        them under `decisions`.
    """
    rows = rows.reset_index(drop=True)
    parts, decisions = [], []
    for _, part in rows.groupby(_FOLD):
        of_fold = logits[part.index]
        decision = _fit(part, of_fold, (tuple(classes), tuple(positive)), settings)
        parts.append(_answered(part, of_fold, decision))
        decisions.append(decision.entry(int(part["repeat"].iloc[0]), int(part["fold"].iloc[0])))
    return pd.concat(parts).sort_index(), decisions


def _fit(
    part: pd.DataFrame, logits: Floats, names: tuple[tuple[str, ...], tuple[str, ...]], settings: DecisionSettings
) -> Decision:
    chosen = ((part["side"] == VALIDATION) & part["y_true"].notna()).to_numpy()
    return fit_decision(ValidationScores.of_rows(part[chosen], logits[chosen], *names), settings)


def _answered(part: pd.DataFrame, logits: Floats, decision: Decision) -> pd.DataFrame:
    answers = decision.apply(logits).columns(decision.classes, decision.positive)
    return part[[name for name in _CARRIED if name in part]].assign(**answers)
