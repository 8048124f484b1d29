"""The verb `evaluate`: scores of one model in, every figure of every side out.

In: predictions.parquet, or any tool's CSV (see `score_tables`). Out: one JSON-able record. Writes: metrics.json.

Of a repeated cross-validation the scalar figures are means over the repeats, and what cannot be averaged (confusion matrix,
curves, accuracy per subject) is that of the first repeat, so that counts add up to the number of images.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leukolens.artifacts import (
    METRICS_FILE,
    PREDICTIONS_FILE,
    SIDES,
    TEST,
    Predictions,
    Record,
    hash_file,
    hash_json,
    read_json,
    write_json,
)
from leukolens.evaluation.abstention import abstention_figures
from leukolens.evaluation.calibration import calibration_figures
from leukolens.evaluation.intervals import figure_intervals
from leukolens.evaluation.metrics import (
    accuracy_per_subject,
    has_folds,
    macro_one_vs_rest,
    measure,
    overall,
    positive_against_rest,
    scored_of,
    within_folds,
)
from leukolens.evaluation.score_tables import check_scores, load_scores, with_positive
from leukolens.evaluation.subgroups import subgroup_figures
from leukolens.evaluation.subjects import subject_figures
from leukolens.settings import EvaluateSettings

FOLD_FIGURES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc", "auroc_macro_ovr")

_IN_MEMORY = "The table of predictions"


def evaluate(
    predictions: Predictions | Path | str,
    out: Path | str | None = None,
    *,
    positive: tuple[str, ...] | None = None,
    settings: EvaluateSettings | None = None,
) -> Record:
    """Measure one model on every side that its predictions cover.

    Args:
        predictions: `Predictions`, or a path to predictions.parquet, to the folder that holds it, or to a CSV with
            columns image, subject, y_true (class names or 0/1), y_score (probability of the positive class, 0–1) and
            perhaps more (docs/data-formats.md).
        out: folder that metrics.json is written to, or a path ending in .json; None writes nothing.
        positive: class or classes that count as positive; None means what the predictions say (a CSV: ALL, or 1).
        settings: how intervals are drawn.

    Returns:
        `record` (that of the predictions, `predictions_hash`: SHA-256 of the file, or of the table's content when it
        was handed over in memory, and `evaluation`: the settings) and `sides`: for each side `images`, `subjects`,
        `groups`, the figures of `metrics.measure` (of several folds also of `metrics.within_folds`), `ece`, `brier`,
        `calibration`, `repeats`, `folds` and `per_subject`; for the test side (or for each, where there is no test side)
        also `intervals`, `subject_level`, `subgroups` and `abstention`.

    Raises:
        ArtifactError: the table is missing, lacks columns, or holds a row that cannot be measured.
    """
    settings = settings or EvaluateSettings()
    loaded, digest = _loaded(predictions, positive)
    result = {
        "record": {**loaded.record, "predictions_hash": digest, "evaluation": settings.model_dump()},
        "sides": {side: _side(loaded, side, settings) for side in SIDES if (loaded.table["side"] == side).any()},
    }
    if out is not None:
        write_json(_target(Path(out)), result)
    return result


def evaluate_once(folder: Path, settings: EvaluateSettings) -> Record:
    """Give the metrics of the predictions in `folder`: those in its metrics.json where they are of this very file."""
    path = folder / METRICS_FILE
    if path.is_file():
        metrics: Record = read_json(path)
        made_of = (metrics["record"].get("predictions_hash"), metrics["record"].get("evaluation"))
        if made_of == (hash_file(folder / PREDICTIONS_FILE), settings.model_dump()):
            return metrics
    return evaluate(folder, folder, settings=settings)


def content_hash(predictions: Predictions) -> str:
    """SHA-256 over the rows and the record of predictions held in memory."""
    rows = predictions.table.astype(object).where(predictions.table.notna(), None)
    return hash_json([predictions.record, list(rows.columns), rows.to_numpy().tolist()])


def _loaded(predictions: Predictions | Path | str, positive: tuple[str, ...] | None) -> tuple[Predictions, str]:
    if not isinstance(predictions, Predictions):
        path = Path(predictions)
        return load_scores(path, positive), hash_file(path / PREDICTIONS_FILE if path.is_dir() else path)
    loaded = with_positive(predictions, positive, _IN_MEMORY)
    check_scores(loaded, _IN_MEMORY)
    return loaded, content_hash(predictions)


def _side(predictions: Predictions, side: str, settings: EvaluateSettings) -> dict[str, Any]:
    table, record = predictions.table[predictions.table["side"] == side], predictions.record
    repeats = [rows for _, rows in table.groupby("repeat")]
    several = has_folds(table)
    measured = [_measured(rows, record, several) for rows in repeats]
    calibration = calibration_figures(table, record)
    figures = {
        "subjects": int(table["subject"].nunique()),
        "groups": int(table["group"].nunique()),
        **measured[0],
        **_means(measured),
        **{name: calibration[name] for name in ("ece", "brier")},
        "calibration": calibration,
        "repeats": _repeats(measured),
        "folds": _folds(table, record),
        "per_subject": accuracy_per_subject(_subjects(repeats[0]), scored_of(repeats[0], record)),
    }
    figures["notes"] = [*measured[0]["notes"], *_table_notes(predictions, table)]
    if side == TEST or not (predictions.table["side"] == TEST).any():
        figures |= _statistics(predictions, table, settings)
    return figures


def _measured(rows: pd.DataFrame, record: Record, several_folds: bool) -> dict[str, Any]:
    """Give the figures of one repeat; of several folds also those that compare images of one fold only."""
    scored = scored_of(rows, record)
    return {**measure(scored), **(within_folds(scored, rows["fold"].to_numpy(np.int64)) if several_folds else {})}


def _statistics(predictions: Predictions, table: pd.DataFrame, settings: EvaluateSettings) -> dict[str, Any]:
    """Give what is worth its time on the side that answers the question: how sure, for whom, and when not to answer."""
    record = predictions.record
    return {
        "intervals": figure_intervals(table, record, settings),
        "subject_level": subject_figures(table, record, settings),
        "subgroups": subgroup_figures(table, record, settings),
        "abstention": abstention_figures(predictions.table, record),
    }


def _means(measured: list[dict[str, Any]]) -> dict[str, float | None]:
    """Give the mean over the repeats of every scalar figure, None where a repeat leaves it undefined."""
    return {name: None if None in values else statistics.fmean(values) for name, values in _values(measured).items()}


def _values(measured: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Give the values over the repeats of every scalar figure (counts are of one repeat, and equal in all)."""
    names = [name for name, value in measured[0].items() if value is None or isinstance(value, float)]
    return {name: [each[name] for each in measured] for name in names}


def _repeats(measured: list[dict[str, Any]]) -> dict[str, Any]:
    values = {name: each for name, each in _values(measured).items() if None not in each}
    several = len(measured) > 1
    return {
        "count": len(measured),
        "spread": {name: statistics.stdev(each) for name, each in values.items()} if several else {},
        "values": values if several else {},
    }


def _folds(table: pd.DataFrame, record: Record) -> list[dict[str, Any]]:
    """Give the figures of each fold of each repeat; empty where all images are of one fold."""
    keys = ["repeat", "fold"]
    if len(table[keys].drop_duplicates()) == 1:
        return []
    folds = []
    for key, rows in table.groupby(keys):
        repeat, fold = _pair(key)
        scored = scored_of(rows, record)
        figures = {**overall(scored), **positive_against_rest(scored), **macro_one_vs_rest(scored)}
        folds.append({"repeat": repeat, "fold": fold, "images": len(rows), "groups": int(rows["group"].nunique()),
                      **{name: figures[name] for name in FOLD_FIGURES if name in figures}})  # fmt: skip
    return folds


def _pair(key: Any) -> tuple[int, int]:  # noqa: ANN401 - pandas does not say what a group's key is
    repeat, fold = key
    return int(repeat), int(fold)


def _table_notes(predictions: Predictions, table: pd.DataFrame) -> list[str]:
    sentences = []
    rows = table[table["repeat"] == table["repeat"].min()]
    unknown, folds = int(rows["subject"].isna().sum()), rows["fold"].nunique()
    if unknown:
        sentences.append(f"{unknown} of {len(rows)} images have no known subject and are in no figure by subject.")
    if folds > 1:
        sentences.append(f"The images of {folds} folds are pooled.")
    return [*sentences, *_fold_notes(rows, predictions.record), *_leak_notes(predictions)]


def _fold_notes(rows: pd.DataFrame, record: Record) -> list[str]:
    """Say which folds of one repeat are in no AUROC within folds."""
    if not record["positive"] or not has_folds(rows):
        return []
    kinds = rows["y_true"].isin(record["positive"]).groupby(rows["fold"]).nunique()
    lacking = int((kinds == 1).sum())
    if lacking == len(kinds):
        return ["No fold holds both positive and other images: auroc_within_folds is undefined."]
    if lacking:
        return [f"{lacking} of {len(kinds)} folds hold only positive or only other images and are not in auroc_within_folds."]
    return []


def _leak_notes(predictions: Predictions) -> list[str]:
    """Name a subject that stands on two sides of one fold, where nobody has said that this is so."""
    if predictions.record.get("optimistic"):
        return []
    known = predictions.table[predictions.table["group"].notna()]
    sides = known.groupby(["repeat", "fold", "group"])["side"].nunique()
    torn = sorted(set(sides[sides > 1].index.get_level_values("group").astype(str)))
    if not torn:
        return []
    more = f" and {len(torn) - 1} more" if len(torn) > 1 else ""
    return [f"Subject group {torn[0]}{more} on two sides: the figures may be too high for new patients."]


def _subjects(table: pd.DataFrame) -> list[str | None]:
    return [None if pd.isna(subject) else str(subject) for subject in table["subject"]]


def _target(out: Path) -> Path:
    return out if out.suffix == ".json" else out / METRICS_FILE


def figure_of_merit(record: Mapping[str, Any]) -> str:
    """Name the figure by which models are compared: AUROC where a positive class is named, else balanced accuracy."""
    return "auroc" if record["positive"] else "balanced_accuracy"
