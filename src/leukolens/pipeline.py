"""`leukolens compare`: from image folders to a compared, reported result, in one process.

In: a folder of images and CompareSettings. Out: Comparison. Writes, below the results folder: everything that the verbs it
runs write, `comparison.json` (what was compared, for the report), `comparison.csv` (the table) and `report.html`. The same
call on an unfinished folder goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from leukolens.artifacts import (
    COMPARISON_FILE,
    COMPARISON_RECORD_FILE,
    PREDICTIONS_FILE,
    SPLITS_FILE,
    Manifest,
    Predictions,
    Record,
    Splits,
    write_json,
    write_text,
)
from leukolens.data.manifest import index
from leukolens.data.splits import split
from leukolens.errors import RunError
from leukolens.evaluation.comparison import comparison_table
from leukolens.evaluation.evaluate import evaluate
from leukolens.models.architectures import FIVE_ARCHITECTURES, find_architecture
from leukolens.models.weights import find_weights
from leukolens.prediction.predict import predict
from leukolens.progress import logger
from leukolens.provenance import git_commit, hardware, peak_memory_gib, versions
from leukolens.reporting.html import report
from leukolens.settings import CompareSettings, SplitSettings
from leukolens.training.runs import Run
from leukolens.training.train import CACHE_FOLDER, train


@dataclass(frozen=True)
class Comparison:
    """`table` (see `evaluation.comparison.comparison_table`), the `report` and the folder of all `results`."""

    table: pd.DataFrame
    report: Path
    results: Path


def compare(directory: Path | str, out: Path | str, settings: CompareSettings | None = None) -> Comparison:
    """Index, split, train every architecture, predict, evaluate and report.

    Args:
        directory: the image folders, in any layout that `index` knows.
        out: the results folder; a finished or interrupted one is gone on with.
        settings: which architectures, which protocol, and the settings of each verb.

    Raises:
        LeukolensError: what the verbs raise; nothing that was finished before is lost.
    """
    began, settings, results = time.perf_counter(), _with_architectures(settings or CompareSettings()), Path(out)
    _check_architectures(settings)
    manifest = index(directory, results, settings.index)
    rows = [
        _one_network(manifest, splits, results / protocol / _folder_name(architecture), architecture, settings)
        for protocol, splits in _splits(manifest, results, settings)
        for architecture in settings.architectures
    ]
    table = comparison_table(rows)
    write_text(results / COMPARISON_FILE, table.to_csv(index=False))
    write_json(results / COMPARISON_RECORD_FILE, _record(manifest, rows, settings, time.perf_counter() - began))
    return Comparison(table, report(results), results)


def _with_architectures(settings: CompareSettings) -> CompareSettings:
    return settings if settings.architectures else settings.model_copy(update={"architectures": FIVE_ARCHITECTURES})


def _check_architectures(settings: CompareSettings) -> None:
    """Find every name and every file of weights before hours are spent on the first network."""
    for name in settings.architectures:
        find_weights(find_architecture(name), settings.train)


def _splits(manifest: Manifest, results: Path, settings: CompareSettings) -> Iterator[tuple[str, Splits]]:
    strategies = ("subject", "image") if settings.protocol == "both" else (settings.protocol,)
    for strategy in strategies:
        wanted = SplitSettings.model_validate({**settings.split.model_dump(), "strategy": strategy})
        splits = split(manifest, None, wanted)
        path = results / strategy / SPLITS_FILE
        if path.is_file() and not splits.sides.equals(Splits.load(path).sides):
            raise RunError(
                f"{path} was made of other data, another seed or other fractions.",
                expected="the split that the runs beside it were trained on",
                received=splits.record["label"] + f", seed {splits.record['seed']}",
                remedy="choose another --out, or delete that folder to train anew",
            )
        splits.save(path)
        for line in splits.record["audit"]:
            logger.info("%s", line)
        yield strategy, splits


def _one_network(
    manifest: Manifest, splits: Splits, folder: Path, architecture: str, settings: CompareSettings
) -> dict[str, Any]:
    """Train, predict and evaluate one network; give its row."""
    cache_folder = folder.parent.parent / CACHE_FOLDER
    train_settings = settings.train.model_copy(update={"architecture": architecture})
    run = train(manifest, splits, folder, train_settings, cache_folder)
    predictions = _predict_once(run, manifest, splits, cache_folder)
    metrics = evaluate(folder / PREDICTIONS_FILE, folder)
    weights = run.record["weights"]
    return {
        "protocol": splits.record["label"],
        "optimistic": splits.record["optimistic"],
        "architecture": architecture,
        "display_name": run.record["display_name"],
        "trained_on": weights["trained_on"] + (f" ({weights['note']})" if weights["note"] else ""),
        "phase": run.record["best_phase"],
        "parameters": run.record["parameters"],
        "train_seconds": run.record["train_seconds"],
        "images_per_second": predictions.record["images_per_second"],
        "epochs": run.record["best_epoch"],
        "source_document_accuracy": run.record["source_document_accuracy"] if _is_cnmc(manifest) else None,
        "run": f"{folder.parent.name}/{folder.name}",
        "metrics": metrics,
    }


def _folder_name(architecture: str) -> str:
    return architecture.replace(":", "_").replace("/", "_")


def _predict_once(run: Run, manifest: Manifest, splits: Splits, cache_folder: Path) -> Predictions:
    path = run.folder / PREDICTIONS_FILE
    if path.is_file():
        predictions = Predictions.load(path)
        made_of = (run.record["run_hash"], manifest.content_hash, splits.content_hash)
        if made_of == tuple(predictions.record.get(name) for name in ("run_hash", "manifest_hash", "splits_hash")):
            return predictions
    return predict(run, manifest, splits, cache_dir=cache_folder)


def _is_cnmc(manifest: Manifest) -> bool:
    """The source document's figures belong beside real C-NMC cells only."""
    return set(manifest.classes) == {"ALL", "HEM"} and not manifest.record["synthetic"]


def _record(manifest: Manifest, rows: list[dict[str, Any]], settings: CompareSettings, seconds: float) -> Record:
    return {
        "title": manifest.root.name,
        "settings": settings.model_dump(mode="json"),
        "rows": [{name: value for name, value in row.items() if name != "metrics"} for row in rows],
        "hardware": hardware(),
        "versions": versions(),
        "git_commit": git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "peak_memory_gib": peak_memory_gib(),
    }
