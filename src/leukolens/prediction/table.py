"""From logits to the rows of predictions.parquet: calibrated scores, answers, refusals, and what subgroups need.

In: manifest rows with side, repeat and fold; logits, a Decision and outlier scores. Out: the table of Predictions.
Writes: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.decision.rule import Decision

_CHANNELS = ("mean_red", "mean_green", "mean_blue")
# Grey levels 0–255, one added so that black has a logarithm.
_LEVELS = 256


@dataclass(frozen=True)
class Scored:
    """What a network gave for images.

    `logits` float32 [images, classes]; `outlier_score` float64 [images], above 1: unlike the training images.
    """

    logits: NDArray[np.float32]
    outlier_score: NDArray[np.float64]


def predictions_table(rows: pd.DataFrame, scored: Scored, decision: Decision, abstain: float | None = None) -> pd.DataFrame:
    """Rows of PREDICTIONS_COLUMNS with the scores of each class and the optional columns.

    Args:
        rows: manifest rows with `side`, `repeat` and `fold`, in the order of `scored`.
        scored: what the network gave for them.
        decision: the temperature, threshold and prediction sets that were fitted on its validation side.
        abstain: largest share of wrong prediction sets that is accepted; None answers always and writes no `refusal`.
    """
    answers = decision.apply(scored.logits)
    positive = decision.positive_probability(answers.probabilities)
    table = rows[["image", "subject", "group", "repeat", "fold", "side"]].assign(
        y_true=rows["label"],
        y_pred=np.array(decision.classes)[answers.y_pred],
        y_score=np.nan if positive is None else positive,
        outlier_score=scored.outlier_score,
    )
    if abstain is not None:
        refusals = decision.refusals(answers.probabilities, scored.outlier_score, abstain)
        table["refusal"] = pd.Series(refusals, index=table.index, dtype="string")
    table = table.assign(
        area_px=rows["area_px"].astype("float64"), optical_density=optical_density(rows), format=rows["format"]
    )
    return table.assign(
        **{f"score_{name}": answers.probabilities[:, index] for index, name in enumerate(decision.classes)}
    )


def optical_density(rows: pd.DataFrame) -> pd.Series[float]:
    """Depth of the stain: mean over the channels of -log10((mean grey level of the cell + 1) / 256), as in artifacts.py."""
    levels = rows[list(_CHANNELS)].astype("float64")
    density: pd.Series[float] = (-np.log10((levels + 1) / _LEVELS)).mean(axis=1)
    return density
