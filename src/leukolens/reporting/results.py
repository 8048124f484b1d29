"""Read a folder of results: the studies in it, the models of each, and what is missing.

In: RESULTS with comparison.json, manifest.parquet, leak.json and, per study, analysis.json, splits and one folder per model;
or, without comparison.json, any folder that holds metrics.json somewhere below: runs of one's own, or another tool's scores
that `evaluate` measured. Out: `Results`. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from leukolens.artifacts import (
    ANALYSIS_FILE,
    COMPARISON_RECORD_FILE,
    CROSSVAL_FILE,
    EPOCHS_FILE,
    FOREIGN_FILE,
    LEAK_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    RUN_FILE,
    SPLITS_FILE,
    TEST,
    VALIDATION,
    Manifest,
    Record,
    Splits,
    read_json,
)
from leukolens.errors import ArtifactError
from leukolens.reporting.wording import augmented

NETWORK, BASELINE, ENSEMBLE = "network", "baseline", "ensemble"
_CROSSVAL_SPLITS = "splits-0.parquet"

_DEPTHS = (METRICS_FILE, f"*/{METRICS_FILE}", f"*/*/{METRICS_FILE}", f"*/*/*/{METRICS_FILE}")
_OF_A_SIDE = ("images", "subjects", "groups", "ece", "brier", "intervals", "repeats", "folds", "calibration", "subject_level",
              "subgroups", "abstention", "per_class", "confusion_matrix", "per_subject", "curves", "notes")  # fmt: skip


@dataclass(frozen=True)
class Model:
    """One model of a study: its `row` of comparison.json, its `metrics`, and what else lies in its `folder`.

    `run` is run.json or crossval.json ({} where the scores are not leukolens's own), `foreign` the table of FOREIGN_FILE.
    """

    row: Record
    metrics: Record
    folder: Path
    run: Record
    epochs: pd.DataFrame | None
    foreign: pd.DataFrame | None

    @property
    def name(self) -> str:
        """Name of its folder, by which analysis.json knows it."""
        return self.folder.resolve().name

    @property
    def title(self) -> str:
        """Name for a reader."""
        shown = str(self.row["display_name"])
        return augmented(shown) if self.row.get("tta") else shown

    @property
    def kind(self) -> str | None:
        """NETWORK, BASELINE, ENSEMBLE, or None for another tool's scores."""
        kind: str | None = self.row["kind"]
        return kind

    @property
    def is_candidate(self) -> bool:
        """Whether it is a single model that may be chosen: no baseline, no ensemble, no repeat with augmentation."""
        return self.kind in (NETWORK, None) and not self.row.get("tta")

    @property
    def record(self) -> Record:
        """The record of its predictions."""
        return dict(self.metrics["record"])

    @property
    def sides(self) -> Mapping[str, Any]:
        """Figures of each side."""
        sides: Mapping[str, Any] = self.metrics["sides"]
        return sides

    @property
    def shown_side(self) -> str:
        """The side whose figures are shown: test, or what there is."""
        return _shown_side(self.sides)

    @property
    def side(self) -> Mapping[str, Any]:
        """The figures that are shown."""
        figures: Mapping[str, Any] = self.sides[self.shown_side]
        return figures

    @property
    def confidence(self) -> float:
        """Confidence of its intervals, 0–1."""
        return float(self.record.get("evaluation", {}).get("confidence", 0.95))


@dataclass(frozen=True)
class Study:
    """Models that were scored on the same images: one split, or one cross-validation.

    `place` is its folder below RESULTS, `optimistic` None where nobody knows, `analysis` the content of analysis.json.
    """

    place: str
    models: tuple[Model, ...]
    analysis: Record | None
    splits: Splits | None

    @property
    def label(self) -> str:
        """The protocol, as its splits name it."""
        return str(self.models[0].row["protocol"])

    @property
    def optimistic(self) -> bool | None:
        """Whether images of one subject were on both sides; None where it is not recorded."""
        said: bool | None = self.models[0].row["optimistic"]
        return said

    @property
    def subjects(self) -> int:
        """Known subjects among the images that are shown."""
        return int(self.models[0].side["subjects"])

    @property
    def crossvalidated(self) -> bool:
        """Whether its figures are pooled over several folds."""
        return len(self.models[0].side["folds"]) > 1

    @property
    def figure(self) -> str:
        """The figure that its models are compared by, under its name in metrics.json."""
        named = "auroc" if self.models[0].record.get("positive") else "balanced_accuracy"
        return str(self.analysis["figure"]) if self.analysis else named

    def titles(self) -> dict[str, str]:
        """Name for a reader of each model, by the name of its folder."""
        return {model.name: model.title for model in self.models}


@dataclass(frozen=True)
class Results:
    """Everything that the report reads; `missing` holds one sentence for each piece that is not there.

    `studies` begin with the one that answers: no subject on two sides, and the most subjects.
    """

    folder: Path
    record: Record
    studies: tuple[Study, ...]
    leak: Record | None
    manifest: Manifest | None
    missing: list[str] = field(default_factory=list)

    @property
    def models(self) -> tuple[Model, ...]:
        """The models of all studies."""
        return tuple(model for study in self.studies for model in study.models)


def read_results(folder: Path) -> Results:
    """Read a folder of results.

    Raises:
        ArtifactError: the folder holds no evaluated model, a file in it is damaged, or it was evaluated by an older
            leukolens whose metrics.json lacks the intervals and what else the page shows.
    """
    missing: list[str] = []
    record = read_json(folder / COMPARISON_RECORD_FILE) if (folder / COMPARISON_RECORD_FILE).is_file() else {}
    rows = _rows_of_comparison(folder, record) or list(_rows_of_folders(folder))
    models = [model for row in rows if (model := _model(folder, row, missing)) is not None]
    if not models:
        raise ArtifactError(
            f"{folder} holds no results to report.",
            expected=f"folders with {METRICS_FILE}, as written by compare, crossval or evaluate",
            received=f"{len(rows)} models, none with {METRICS_FILE}" if rows else f"no {METRICS_FILE}",
            remedy="run `leukolens compare`, or `leukolens evaluate` on the run or the table of scores, and report again",
        )
    if not record and any(model.kind is not None for model in models):
        missing.append(f"{COMPARISON_RECORD_FILE} is absent: models are listed as their own folders say.")
    return Results(
        folder=folder,
        record=record,
        studies=_studies(folder, models, missing),
        leak=read_json(folder / LEAK_FILE) if (folder / LEAK_FILE).is_file() else None,
        manifest=_manifest(folder, missing),
        missing=missing,
    )


def _rows_of_comparison(folder: Path, record: Record) -> list[Record]:
    rows: list[Record] = record.get("rows", [])
    lacking = [key for key in ("study", "kind") if any(key not in row for row in rows)]
    if lacking:
        raise ArtifactError(
            f"{folder / COMPARISON_RECORD_FILE} was not written by this version of leukolens.",
            expected="rows that say of which study and kind each model is",
            received=f"rows without {', '.join(lacking)}",
            remedy=f"run the same `leukolens compare` with --out {folder} again (what is trained is kept), or report one of "
            "its run folders",
        )
    return rows


def _shown_side(sides: Mapping[str, Any]) -> str:
    return next((side for side in (TEST, VALIDATION) if side in sides), next(iter(sides)))


def _rows_of_folders(folder: Path) -> Iterator[Record]:
    for pattern in _DEPTHS:
        for path in sorted(folder.glob(pattern)):
            yield {"run": path.parent.relative_to(folder).as_posix()}


def _model(folder: Path, row: Record, missing: list[str]) -> Model | None:
    directory = folder / row["run"]
    run = _run(directory)
    name = row.get("display_name") or run.get("display_name") or row["run"]
    if not (directory / METRICS_FILE).is_file():
        missing.append(f"{name}: {row['run']}/{METRICS_FILE} is absent, so the model is in no table or figure.")
        return None
    metrics = _metrics(directory / METRICS_FILE)
    complete = {**_row_of_folder(run, metrics["record"], directory, row["run"]), **row}
    if complete["kind"] == NETWORK and not run and not complete.get("tta"):
        missing.append(f"{name}: {row['run']}/{RUN_FILE} is absent, so its settings and weights are not described.")
    epochs = pd.read_csv(directory / EPOCHS_FILE) if (directory / EPOCHS_FILE).is_file() else None
    foreign = pd.read_csv(directory / FOREIGN_FILE) if (directory / FOREIGN_FILE).is_file() else None
    return Model(complete, metrics, directory, run, epochs, foreign)


def _run(directory: Path) -> Record:
    """Read what made the model: run.json, or what a cross-validation leaves in its place; {} for another tool's."""
    path = next((directory / name for name in (RUN_FILE, CROSSVAL_FILE) if (directory / name).is_file()), None)
    run: Record = read_json(path) if path else {}
    return run


def _metrics(path: Path) -> Record:
    """Read metrics.json and refuse one that lacks what the page shows."""
    metrics: Record = read_json(path)
    sides = metrics.get("sides", {}) if "record" in metrics else {}
    lacking = [key for key in _OF_A_SIDE if key not in sides[_shown_side(sides)]] if sides else []
    if sides and not lacking:
        return metrics
    raise ArtifactError(
        f"{path} was not written by this version of leukolens.",
        expected="a record, and figures with intervals, calibration and subgroups",
        received=f"a {_shown_side(sides)} side without {', '.join(lacking)}" if lacking else "no record, or no side",
        remedy=f"run `leukolens evaluate {path.parent}` (or evaluate the table of scores) again, then report again",
    )


def _row_of_folder(run: Record, predictions: Record, directory: Path, place: str) -> Record:
    """Give what the run itself, or else its predictions, say where comparison.json is silent."""
    split, weights = run.get("split", {}), run.get("weights", {})
    name = directory.resolve().name
    return {
        "run": place,
        "protocol": split.get("label") or _unless_unknown(predictions.get("split_label")) or "split not recorded",
        "optimistic": split.get("optimistic", predictions.get("optimistic")),
        "kind": predictions.get("kind"),
        "tta": bool(predictions.get("tta")),
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


def _unless_unknown(said: str | None) -> str | None:
    """Give what was said, but not the word that `evaluate` writes for a table of scores which says nothing."""
    return None if said == "unknown" else said


def _studies(folder: Path, models: list[Model], missing: list[str]) -> tuple[Study, ...]:
    """Group the models by the folder that theirs lie in, the answering study first."""
    places: dict[str, list[Model]] = {}
    for model in models:
        # A model in RESULTS itself has no folder above it that belongs to the results: it is a study of its own.
        own = model.row["run"] == "."
        places.setdefault("." if own else Path(model.row["run"]).parent.as_posix(), []).append(model)
    studies = [_study(folder, place, members, missing) for place, members in places.items()]
    return tuple(sorted(studies, key=lambda study: (_doubt(study), -study.subjects, not study.crossvalidated, study.place)))


def _doubt(study: Study) -> int:
    """Rank what speaks against a study: nothing, an unknown protocol, or subjects that are mixed or unknown."""
    if study.optimistic or (study.optimistic is not None and not study.subjects):
        return 2
    return 0 if study.optimistic is False else 1


def _study(folder: Path, place: str, models: list[Model], missing: list[str]) -> Study:
    path, label = folder / place / ANALYSIS_FILE, models[0].row["protocol"]
    if not path.is_file() and len(models) > 1:
        missing.append(f"{ANALYSIS_FILE} of “{label}” is absent: its models are not compared with each other.")
    places = [folder / place / SPLITS_FILE, folder / place / _CROSSVAL_SPLITS, folder / SPLITS_FILE]
    splits = next((Splits.load(each) for each in places if each.is_file()), None)
    if splits is None and any(model.run for model in models):
        missing.append(f"{SPLITS_FILE} of “{label}” is absent: its audit and counts per side are not shown.")
    return Study(place, tuple(models), read_json(path) if path.is_file() else None, splits)


def _manifest(folder: Path, missing: list[str]) -> Manifest | None:
    if (folder / MANIFEST_FILE).is_file():
        return Manifest.load(folder / MANIFEST_FILE)
    missing.append(f"{MANIFEST_FILE} is absent: the data, their flow and cells are not shown.")
    return None
