"""Read a folder of results: what the report may say, and what it must say is missing.

In: RESULTS with comparison.json, manifest.parquet, `<protocol>/splits.parquet` and one folder per trained network; or,
without comparison.json, any folder that holds run directories, or a run directory itself. Out: `Results`. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from leukolens.artifacts import (
    COMPARISON_RECORD_FILE,
    EPOCHS_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    RUN_FILE,
    SPLITS_FILE,
    Manifest,
    Record,
    Splits,
    read_json,
)
from leukolens.errors import ArtifactError

_DEPTHS = (RUN_FILE, f"*/{RUN_FILE}", f"*/*/{RUN_FILE}")


@dataclass(frozen=True)
class Trained:
    """One trained network: its `row` as `comparison_table` wants it, and what lies in its run directory."""

    row: Record
    run: Record
    epochs: pd.DataFrame | None

    @property
    def protocol(self) -> str:
        """Label of the split."""
        return str(self.row["protocol"])

    @property
    def sides(self) -> dict[str, Any]:
        """Figures of each side, from metrics.json."""
        sides: dict[str, Any] = self.row["metrics"]["sides"]
        return sides


@dataclass(frozen=True)
class Results:
    """Everything that the report reads; `missing` holds one sentence for each piece that is not there."""

    folder: Path
    record: Record
    trained: tuple[Trained, ...]
    manifest: Manifest | None
    splits: dict[str, Splits]
    missing: list[str] = field(default_factory=list)


def read_results(folder: Path) -> Results:
    """Read a folder of results.

    Raises:
        ArtifactError: the folder holds no trained network with metrics.json, or a file in it is damaged.
    """
    missing: list[str] = []
    record = read_json(folder / COMPARISON_RECORD_FILE) if (folder / COMPARISON_RECORD_FILE).is_file() else {}
    if not record:
        missing.append(f"{COMPARISON_RECORD_FILE} is absent: networks are listed as their run directories say.")
    rows = record.get("rows") or list(_rows_of_runs(folder))
    trained = tuple(each for row in rows if (each := _trained(folder, row, missing)) is not None)
    if not trained:
        raise ArtifactError(
            f"{folder} holds no results to report.",
            expected=f"run directories with {RUN_FILE} and {METRICS_FILE}, as written by compare, or by train and evaluate",
            received=f"{len(rows)} run directories, none with {METRICS_FILE}" if rows else "no run directory",
            remedy="run `leukolens compare`, or `leukolens evaluate` on the run, and report again",
        )
    return Results(
        folder=folder,
        record=record,
        trained=trained,
        manifest=_manifest(folder, missing),
        splits=_splits(folder, trained, missing),
        missing=missing,
    )


def _rows_of_runs(folder: Path) -> Iterator[Record]:
    for pattern in _DEPTHS:
        for path in sorted(folder.glob(pattern)):
            yield {"run": path.parent.relative_to(folder).as_posix()}


def _trained(folder: Path, row: Record, missing: list[str]) -> Trained | None:
    directory = folder / row["run"]
    run = read_json(directory / RUN_FILE) if (directory / RUN_FILE).is_file() else {}
    name = row.get("display_name") or run.get("display_name") or row["run"]
    if not run:
        missing.append(f"{name}: {row['run']}/{RUN_FILE} is absent, so its settings and weights are not described.")
    if not (directory / METRICS_FILE).is_file():
        missing.append(f"{name}: {row['run']}/{METRICS_FILE} is absent, so the network is in no table or figure.")
        return None
    epochs = pd.read_csv(directory / EPOCHS_FILE) if (directory / EPOCHS_FILE).is_file() else None
    if epochs is None or epochs.empty:
        missing.append(f"{name}: {row['run']}/{EPOCHS_FILE} is absent, so no learning curve is drawn.")
        epochs = None
    metrics = read_json(directory / METRICS_FILE)
    return Trained({**_row_of_run(run, metrics["record"], row["run"]), **row, "metrics": metrics}, run, epochs)


def _row_of_run(run: Record, predictions: Record, name: str) -> Record:
    """Give what the run itself, or else its predictions, say where comparison.json is silent."""
    split = run.get("split", {})
    weights = run.get("weights", {})
    return {
        "protocol": split.get("label") or predictions.get("split_label") or "split unknown",
        "optimistic": bool(split.get("optimistic", predictions.get("optimistic"))),
        "architecture": run.get("architecture") or predictions.get("architecture") or name,
        "display_name": run.get("display_name") or predictions.get("display_name") or name,
        "trained_on": weights.get("trained_on") or predictions.get("trained_on") or "unknown",
        "phase": run.get("best_phase"),
        "epochs": run.get("best_epoch"),
        "parameters": run.get("parameters"),
        "train_seconds": run.get("train_seconds"),
        "images_per_second": predictions.get("images_per_second"),
        "source_document_accuracy": None,
    }


def _manifest(folder: Path, missing: list[str]) -> Manifest | None:
    if (folder / MANIFEST_FILE).is_file():
        return Manifest.load(folder / MANIFEST_FILE)
    missing.append(f"{MANIFEST_FILE} is absent: the data, their flow and sample cells are not shown.")
    return None


def _splits(folder: Path, trained: tuple[Trained, ...], missing: list[str]) -> dict[str, Splits]:
    """Give the splits of each protocol: beside the run directories, or in the folder itself."""
    found: dict[str, Splits] = {}
    for each in trained:
        places = [(folder / each.row["run"]).parent / SPLITS_FILE, folder / SPLITS_FILE]
        place = next((path for path in places if path.is_file()), None)
        if place is not None:
            found.setdefault(each.protocol, Splits.load(place))
    absent = dict.fromkeys(each.protocol for each in trained if each.protocol not in found)
    missing += [f"{SPLITS_FILE} of “{name}” is absent: its audit and counts per side are not shown." for name in absent]
    return found
