"""The verb `evaluate`: scores of one model in, every figure of every side out.

In: predictions.parquet, or any tool's CSV (see `score_tables`). Out: one JSON-able record. Writes: metrics.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leukolens.artifacts import (
    METRICS_FILE,
    PREDICTIONS_FILE,
    SIDES,
    Predictions,
    Record,
    hash_file,
    hash_json,
    write_json,
)
from leukolens.evaluation.metrics import Scored, accuracy_per_subject, measure
from leukolens.evaluation.score_tables import check_scores, load_scores, with_positive

_IN_MEMORY = "The table of predictions"


def evaluate(
    predictions: Predictions | Path | str,
    out: Path | str | None = None,
    *,
    positive: tuple[str, ...] | None = None,
) -> Record:
    """Measure one model on every side that its predictions cover.

    Args:
        predictions: `Predictions`, or a path to predictions.parquet, to the folder that holds it, or to a CSV with
            columns image, subject, y_true (class names or 0/1), y_score (probability of the positive class, 0–1) and
            perhaps side, y_pred, group, fold.
        out: folder that metrics.json is written to, or a path ending in .json; None writes nothing.
        positive: class or classes that count as positive; None means what the predictions say (a CSV: ALL, or 1).

    Returns:
        `record` (that of the predictions, and `predictions_hash`: SHA-256 of the file, or of the table's content when
        it was handed over in memory) and `sides`: for each side the figures of `metrics.measure`, and `subjects`,
        `groups` (counts) and `per_subject`.

    Raises:
        ArtifactError: the table is missing, lacks columns, or holds a row that cannot be measured.
    """
    if isinstance(predictions, Predictions):
        loaded, digest = with_positive(predictions, positive, _IN_MEMORY), content_hash(predictions)
        check_scores(loaded, _IN_MEMORY)
    else:
        loaded = load_scores(Path(predictions), positive)
        digest = hash_file(_file(Path(predictions)))
    result = {
        "record": {**loaded.record, "predictions_hash": digest},
        "sides": {side: _side(loaded, side) for side in SIDES if (loaded.table["side"] == side).any()},
    }
    if out is not None:
        write_json(_target(Path(out)), result)
    return result


def content_hash(predictions: Predictions) -> str:
    """SHA-256 over the rows and the record of predictions held in memory."""
    rows = predictions.table.astype(object).where(predictions.table.notna(), None)
    return hash_json([predictions.record, list(rows.columns), rows.to_numpy().tolist()])


def scored_of(table: pd.DataFrame, record: Record) -> Scored:
    """Turn rows of predictions into arrays: class positions [n] and scores [n, classes]."""
    classes = tuple(record["classes"])
    position = {name: index for index, name in enumerate(classes)}
    return Scored(
        classes=classes,
        positive=tuple(record["positive"]),
        y_true=np.array([position[name] for name in table["y_true"]], np.int64),
        y_pred=np.array([position[name] for name in table["y_pred"]], np.int64),
        scores=table[[f"score_{name}" for name in classes]].to_numpy(np.float64),
    )


def _side(predictions: Predictions, side: str) -> dict[str, Any]:
    table = predictions.table[predictions.table["side"] == side]
    scored = scored_of(table, predictions.record)
    subjects = [None if pd.isna(subject) else str(subject) for subject in table["subject"]]
    figures = measure(scored)
    figures["notes"] += _table_notes(table, subjects)
    return {
        "subjects": int(table["subject"].nunique()),
        "groups": int(table["group"].nunique()),
        **figures,
        "per_subject": accuracy_per_subject(subjects, scored),
    }


def _table_notes(table: pd.DataFrame, subjects: list[str | None]) -> list[str]:
    sentences = []
    unknown, folds = subjects.count(None), table["fold"].nunique()
    if unknown:
        sentences.append(f"{unknown} of {len(subjects)} images have no known subject and are in no figure by subject.")
    if folds > 1:
        sentences.append(f"The images of {folds} folds are pooled.")
    return sentences


def _file(path: Path) -> Path:
    return path / PREDICTIONS_FILE if path.is_dir() else path


def _target(out: Path) -> Path:
    return out if out.suffix == ".json" else out / METRICS_FILE
