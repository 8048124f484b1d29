"""What a network has to beat: the majority class, the cell's area, area and colour, and logistic regression on features.

In: a manifest, splits (one per repeat), and numbers known of each image. Out: Predictions, like those of a network. Writes:
nothing. On C-NMC 2019 the area of the cell alone separates the classes with an AUROC of about 0.8 (FACTS: computed from the
areas that ChristianMarzahl/ISBI2019_WhiteBloodCancer prints); a network that does no better has learned nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from leukolens.artifacts import SIDES, TEST, TRAIN, VALIDATION, Manifest, Predictions, Record, Splits, hash_json
from leukolens.data.covariates import image_covariates
from leukolens.evaluation.decided import decide
from leukolens.settings import DecisionSettings

Floats = NDArray[np.float64]

MAJORITY, AREA, AREA_COLOUR, FEATURES = "majority", "area", "area_colour", "features"

# Columns of the manifest that each shortcut reads.
SHORTCUTS: Mapping[str, tuple[str, ...]] = {
    MAJORITY: (),
    AREA: ("area_px",),
    AREA_COLOUR: ("area_px", "mean_red", "mean_green", "mean_blue"),
}
_NAMES: Mapping[str, str] = {
    MAJORITY: "Majority class",
    AREA: "Cell area alone",
    AREA_COLOUR: "Cell area + mean colour",
}
# Thousands of standardised features for hundreds of cells: a strong ridge, where scikit-learn's 1.0 is made for tens.
_FEATURE_RIDGE = 0.01
_SHORTCUT_RIDGE = 1.0
_MOST_STEPS = 1000


@dataclass(frozen=True)
class Protocol:
    """What a model is scored on: the images, and the sides of each repeat (one Splits for a single split)."""

    manifest: Manifest
    splits: tuple[Splits, ...]
    label: str
    decision: DecisionSettings


def shortcut_baseline(name: str, protocol: Protocol) -> Predictions:
    """Score the images of a protocol by what needs no network.

    Args:
        name: a key of SHORTCUTS.
        protocol: images and sides.

    Returns:
        Predictions of logistic regression on the standardised columns, classes weighted alike; "majority", which has no
        columns, calls the most frequent class of the training side and gives all images equal scores.
    """
    columns = list(SHORTCUTS[name])
    numbers = protocol.manifest.images.set_index("image")[columns].astype("float64")
    return _baseline(numbers, _SHORTCUT_RIDGE, protocol, {"display_name": _NAMES[name], "architecture": None})


def feature_baseline(features: pd.DataFrame, architecture: str, display_name: str, protocol: Protocol) -> Predictions:
    """Score the images of a protocol by logistic regression on the frozen features of a network.

    Args:
        features: float [images, width], indexed by image.
        architecture: name of the network that they come from.
        display_name: its name for readers.
        protocol: images and sides.
    """
    names = {"display_name": f"{display_name}: frozen features + logistic regression", "architecture": architecture}
    return _baseline(features, _FEATURE_RIDGE, protocol, names)


def _baseline(numbers: pd.DataFrame, ridge: float, protocol: Protocol, names: Record) -> Predictions:
    classes, positive = protocol.manifest.classes, protocol.manifest.positive
    parts = [
        _scored_fold(placed, numbers, ridge, classes)
        for repeat, splits in enumerate(protocol.splits)
        for placed in _folds(protocol.manifest, splits, repeat)
    ]
    rows, logits = pd.concat([part for part, _ in parts]), np.concatenate([each for _, each in parts])
    table, decisions = decide(rows, logits, classes, positive, protocol.decision)
    if numbers.shape[1] == 0:
        table = table.assign(y_pred=_majority_calls(table, protocol))
    return Predictions(table, {**_record(protocol), **names, "decisions": decisions})


def _majority_calls(table: pd.DataFrame, protocol: Protocol) -> list[str]:
    """Give each row the class that most training images of its repeat and fold are of."""
    label = protocol.manifest.images.set_index("image")["label"]
    calls: dict[tuple[int, int], str] = {}
    for repeat, splits in enumerate(protocol.splits):
        train = splits.sides[splits.sides["side"] == TRAIN]
        for fold, images in train.groupby("fold")["image"]:
            calls[repeat, int(str(fold))] = str(label[images].value_counts().index[0])
    return [calls[key] for key in zip(table["repeat"].astype(int), table["fold"].astype(int), strict=True)]


def _folds(manifest: Manifest, splits: Splits, repeat: int) -> list[pd.DataFrame]:
    """Give the placed images of each fold, with what predictions carry along."""
    images = manifest.images[["image", "subject", "group", "label"]].rename(columns={"label": "y_true"})
    images = pd.concat([images, image_covariates(manifest.images)], axis=1).astype({"image": "string"})
    placed = splits.sides.astype({"image": "string"}).merge(images, on="image", how="left", validate="many_to_one")
    return [fold.sort_values("image") for _, fold in placed.assign(repeat=repeat).groupby("fold")]


def _scored_fold(
    placed: pd.DataFrame, numbers: pd.DataFrame, ridge: float, classes: Sequence[str]
) -> tuple[pd.DataFrame, Floats]:
    """Fit on the training side of one fold; give its validation and test rows with their logits."""
    sides = {side: placed[placed["side"] == side] for side in SIDES}
    rows = pd.concat([sides[VALIDATION], sides[TEST]])
    train = sides[TRAIN]
    labels = np.array([list(classes).index(name) for name in train["y_true"]])
    if numbers.shape[1] == 0:
        # The shares of the classes would differ from fold to fold, against those of the test rows: pooled over folds, such
        # scores would rank images (an AUROC of 0.23 on real cells) though nothing of them is known.
        return rows, np.zeros((len(rows), len(classes)))
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=ridge, class_weight="balanced", max_iter=_MOST_STEPS)
    ).fit(numbers.loc[train["image"]].to_numpy(), labels)
    return rows, _logits(np.asarray(model.decision_function(numbers.loc[rows["image"]].to_numpy()), np.float64))


def _logits(decision: Floats) -> Floats:
    """Two classes have one number, the log odds of the second: give it as two logits."""
    return decision if decision.ndim > 1 else np.stack([-decision / 2, decision / 2], axis=1)


def _record(protocol: Protocol) -> Record:
    manifest, first = protocol.manifest, protocol.splits[0].record
    record: Record = {
        "classes": list(manifest.classes),
        "positive": list(manifest.positive),
        "kind": "baseline",
        "trained_on": "this data alone",
        "split_label": protocol.label,
        "optimistic": first["optimistic"],
        "synthetic": manifest.record["synthetic"],
        "manifest_hash": manifest.content_hash,
        "splits_hash": hash_json([splits.content_hash for splits in protocol.splits]),
        "tta": False,
    }
    return {**record, "run_hash": hash_json(record)}
