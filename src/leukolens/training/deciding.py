"""The last step of a training: what turns logits into answers and refusals, fitted on the validation side alone.

In: features of training and validation images, and the head. Out: FittedDecision. Writes, into a run directory,
`outliers.safetensors` and then `decision.json`: the record of the Decision with the `settings` that it was fitted by, the
hash of the outliers file and the `hash` of all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import (
    DECISION_FILE,
    OUTLIERS_FILE,
    Manifest,
    Record,
    hash_file,
    hash_json,
    read_json,
    write_json,
)
from leukolens.decision.outliers import BANK_IMAGES, OutlierModel, fit_outliers
from leukolens.decision.rule import Decision, fit_decision
from leukolens.decision.validation import ValidationScores
from leukolens.settings import DecisionSettings
from leukolens.training.features import Features

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class DecisionData:
    """What a decision is fitted on.

    `scores` and `validation_features` float32 [n, width] are of the same validation images in the same order; `bank`
    float32 [at most 2,000, width] are features of training images.
    """

    scores: ValidationScores
    validation_features: Features
    bank: Features


@dataclass(frozen=True)
class FittedDecision:
    """The rule for logits and the limit for features."""

    decision: Decision
    outliers: OutlierModel


def fit_on_validation(data: DecisionData, settings: DecisionSettings, seed: int) -> FittedDecision:
    """Fit temperature, threshold, prediction sets and the outlier limit; raises what the decision room raises."""
    outliers = fit_outliers(data.bank, data.validation_features, settings, seed)
    return FittedDecision(fit_decision(data.scores, settings), outliers)


def validation_scores(manifest: Manifest, sides: pd.Series[str], images: Sequence[str], logits: Logits) -> ValidationScores:
    """Logits [n, classes] of `images` with their labels, subject groups and `sides` (indexed by image).

    Raises LeakError where an image is on another side than validation.
    """
    rows = manifest.images.set_index("image").loc[list(images)].reset_index().rename(columns={"label": "y_true"})
    rows = rows.assign(side=sides[list(images)].to_numpy())
    return ValidationScores.of_rows(rows, logits, manifest.classes, manifest.positive)


def bank_of(images: list[str], seed: int) -> list[str]:
    """The training images that others are compared with: all, or a seeded sample of 2,000 in path order."""
    if len(images) <= BANK_IMAGES:
        return images
    chosen = np.random.default_rng(seed).choice(len(images), BANK_IMAGES, replace=False)
    return [images[position] for position in np.sort(chosen)]


def save_decision(fitted: FittedDecision, settings: DecisionSettings, folder: Path) -> None:
    """Write OUTLIERS_FILE, then DECISION_FILE, which names its hash: the two belong together or count as absent."""
    fitted.outliers.save(folder / OUTLIERS_FILE)
    record: Record = {
        **fitted.decision.to_record(),
        "outliers": {
            "sha256": hash_file(folder / OUTLIERS_FILE),
            "images": len(fitted.outliers.bank),
            "neighbours": fitted.outliers.neighbours,
            "limit": fitted.outliers.limit,
            "notes": list(fitted.outliers.notes),
        },
        "settings": settings.model_dump(mode="json"),
    }
    write_json(folder / DECISION_FILE, {**record, "hash": hash_json(record)})


def is_decided(folder: Path, settings: DecisionSettings) -> bool:
    """Whether a run directory holds a decision that was fitted by these settings, and the outliers file of it."""
    if not (folder / DECISION_FILE).is_file() or not (folder / OUTLIERS_FILE).is_file():
        return False
    record = read_json(folder / DECISION_FILE)
    same = record.get("settings") == settings.model_dump(mode="json")
    return same and bool(record["outliers"]["sha256"] == hash_file(folder / OUTLIERS_FILE))
