"""From logits to the rows of predictions.parquet: calibrated scores, answers, refusals, and what subgroups need.

In: manifest rows with side, repeat and fold; logits, a Decision and outlier scores. Out: the table of Predictions.
Writes: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import PREDICTIONS_COLUMNS, PREDICTIONS_OPTIONAL_COLUMNS
from leukolens.data.covariates import image_covariates
from leukolens.decision.rule import Decision


@dataclass(frozen=True)
class Scored:
    """What a network gave for images.

    `logits` float32 [images, classes]; `outlier_score` float64 [images], above 1: unlike the training images.
    """

    logits: NDArray[np.float32]
    outlier_score: NDArray[np.float64]


def predictions_table(rows: pd.DataFrame, scored: Scored, decision: Decision, abstain: float | None = None) -> pd.DataFrame:
    """Rows of PREDICTIONS_COLUMNS, the optional columns and the scores of each class, in the order of the file.

    Args:
        rows: manifest rows with `side`, `repeat` and `fold`, in the order of `scored`.
        scored: what the network gave for them.
        decision: the temperature, threshold and prediction sets that were fitted on its validation side.
        abstain: largest share of wrong prediction sets that is accepted; None answers always and writes no `refusal`.
    """
    answers = decision.apply(scored.logits)
    table = rows[["image", "subject", "group", "repeat", "fold", "side"]].assign(
        y_true=rows["label"],
        **answers.columns(decision.classes, decision.positive),
        outlier_score=scored.outlier_score,
        **image_covariates(rows),
    )
    if abstain is not None:
        refusals = decision.refusals(answers.probabilities, scored.outlier_score, abstain)
        table["refusal"] = pd.Series(refusals, index=table.index, dtype="string")
    scores = [f"score_{name}" for name in decision.classes]
    optional = [name for name in PREDICTIONS_OPTIONAL_COLUMNS if name in table]
    return table[[*PREDICTIONS_COLUMNS, *optional, *scores]]
