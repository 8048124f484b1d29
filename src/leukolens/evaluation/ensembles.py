"""Several models as one: the mean of their calibrated logits.

In: Predictions of models on the same images. Out: Predictions. Writes: nothing.

Within one fold the members' temperatures were fitted on the same validation rows, so their logits are on one scale; the
temperature and threshold of the mean are fitted on those rows again. Over repeats (other folds and another seed for each)
every image is scored by models none of which has seen its subject, and the mean over them is an ensemble over folds and seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import TEST, Predictions, Record, hash_json
from leukolens.decision.rule import Answers
from leukolens.decision.temperature import probabilities
from leukolens.decision.validation import log_scores
from leukolens.errors import ArtifactError
from leukolens.evaluation.decided import decide
from leukolens.evaluation.subjects import LEAST_MARGIN, positive_margin
from leukolens.settings import DecisionSettings

Floats = NDArray[np.float64]

_KEYS = ["repeat", "fold", "side", "image"]


def ensemble(members: Mapping[str, Predictions], settings: DecisionSettings) -> Predictions:
    """Average the calibrated logits of several models over each repeat, fold, side and image.

    Args:
        members: two models or more by name, with the same rows in any order.
        settings: what the threshold of the mean is chosen for, on validation.

    Raises:
        ArtifactError: fewer than two members, other classes, or rows that one member lacks.
    """
    _check_members(members)
    tables = {name: each.table.sort_values(_KEYS, ignore_index=True) for name, each in members.items()}
    first_name, first = next(iter(tables.items()))
    for name, table in tables.items():
        _check_rows(first_name, first, name, table)
    record = next(iter(members.values())).record
    logits = np.mean([_log_scores(table, record["classes"]) for table in tables.values()], axis=0)
    rows = first.drop(columns=[name for name in ("outlier_score", "refusal") if name in first])
    table, decisions = decide(rows, logits, record["classes"], record["positive"], settings)
    name = f"Ensemble of {len(members)} networks"
    return Predictions(table, {**_record(members, name), "decisions": decisions})


def ensemble_over_repeats(predictions: Predictions) -> Predictions:
    """Average the calibrated logits that the repeats of a cross-validation gave each test image.

    The call is by the mean margin, the log odds above the threshold of the fold that gave them, so that no image's own
    label has a say in it; with more than two classes the highest mean decides. There are no validation rows: nothing is
    left to be fitted on them.

    Raises:
        ArtifactError: there is one repeat only.
    """
    table, record = predictions.table[predictions.table["side"] == TEST], predictions.record
    repeats = table["repeat"].nunique()
    if repeats < 2:
        raise ArtifactError(
            "An ensemble over seeds needs several repeats.",
            expected="a cross-validation of two repeats or more",
            received=f"{repeats} repeat",
            remedy="repeat the cross-validation: --repeats 3",
        )
    classes = record["classes"]
    members = table.reset_index(drop=True)
    logits = pd.DataFrame(_log_scores(members, classes), columns=classes).groupby(members["image"]).mean()
    rows = members[members["repeat"] == members["repeat"].min()].sort_values("image", ignore_index=True)
    scores = probabilities(logits.loc[rows["image"]].to_numpy(), 1.0)
    answers = Answers(scores, _calls(members, record, rows["image"], scores))
    rows = rows.drop(columns=[name for name in ("outlier_score", "refusal") if name in rows])
    rows = rows.assign(repeat=0, fold=0, **answers.columns(classes, record["positive"]))
    name = f"{record['display_name']} × {repeats} seeds"
    kept = {**record, "kind": "ensemble", "display_name": name, "architecture": None, "decisions": []}
    return Predictions(rows, {**kept, "run_hash": hash_json([name, record.get("run_hash")])})


def _calls(members: pd.DataFrame, record: Record, images: pd.Series[str], scores: Floats) -> NDArray[np.int64]:
    """Position of the class that each image is called."""
    classes, names = record["classes"], record["positive"]
    if len(classes) > 2 or not names or None in (each["threshold"] for each in record["decisions"]):
        return np.asarray(scores.argmax(axis=1), np.int64)
    mean = pd.Series(positive_margin(members, record)).groupby(members["image"]).mean()[images].to_numpy()
    positive = classes.index(names[0])
    return np.asarray(np.where(mean >= LEAST_MARGIN, positive, 1 - positive), np.int64)


def _check_members(members: Mapping[str, Predictions]) -> None:
    if len(members) < 2:
        raise ArtifactError(
            "An ensemble has too few members.",
            expected="two models or more",
            received=", ".join(members) or "none",
            remedy="name more models",
        )
    kinds = {name: (each.record["classes"], each.record["positive"]) for name, each in members.items()}
    first_name, first = next(iter(kinds.items()))
    for name, kind in kinds.items():
        if kind != first:
            raise ArtifactError(
                f"{name} has other classes than {first_name}.",
                expected=f"classes {', '.join(first[0])}, positive {', '.join(first[1]) or 'none'}",
                received=f"classes {', '.join(kind[0])}, positive {', '.join(kind[1]) or 'none'}",
                remedy="join models of one data set",
            )


def _check_rows(first_name: str, first: pd.DataFrame, name: str, table: pd.DataFrame) -> None:
    ours, theirs = (pd.MultiIndex.from_frame(each[_KEYS]) for each in (first, table))
    differing = ours.symmetric_difference(theirs)
    if len(differing) or len(ours) != len(theirs):
        where = dict(zip(_KEYS, differing[0], strict=True)) if len(differing) else {}
        raise ArtifactError(
            f"{name} scores other images than {first_name}.",
            expected=f"the same {len(ours)} rows",
            received=f"{len(theirs)} rows" + (f"; only one of them has {where['image']} ({where['side']})" if where else ""),
            remedy="score the same images with every member",
        )


def _record(members: Mapping[str, Predictions], name: str) -> Record:
    records = [each.record for each in members.values()]
    first = records[0]
    shared = ("classes", "positive", "split_label", "optimistic", "synthetic", "manifest_hash", "splits_hash")
    seconds = [record.get("seconds") for record in records]
    known: Sequence[float] = [each for each in seconds if each is not None]
    return {
        **{key: first.get(key) for key in shared},
        "kind": "ensemble",
        "architecture": None,
        "display_name": name,
        "members": [record["display_name"] for record in records],
        "trained_on": "see its members",
        "tta": False,
        "seconds": sum(known) if len(known) == len(records) else None,
        "run_hash": hash_json([record.get("run_hash") for record in records]),
    }


def _log_scores(table: pd.DataFrame, classes: Sequence[str]) -> Floats:
    return log_scores(table[[f"score_{name}" for name in classes]].to_numpy(np.float64))
