"""One study: everything that is scored on the same images, beside what it has to beat, measured and compared.

In: Predictions of networks, and the protocol that they were scored under. Out: one row per model. Writes, below the study's
folder: `<model>/predictions.parquet` of baselines and ensembles, `<model>/metrics.json` of every model, and `analysis.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from leukolens.artifacts import (
    ANALYSIS_FILE,
    PREDICTIONS_FILE,
    Predictions,
    Record,
    hash_file,
    hash_json,
    read_json,
    write_json,
)
from leukolens.crossvalidation import folder_name, frozen_feature_table
from leukolens.evaluation.baselines import FEATURES, SHORTCUTS, Protocol, feature_baseline, shortcut_baseline
from leukolens.evaluation.ensembles import ensemble, ensemble_over_repeats
from leukolens.evaluation.evaluate import evaluate_once, figure_of_merit
from leukolens.evaluation.paired import compare_models
from leukolens.progress import logger
from leukolens.reporting.wording import augmented
from leukolens.settings import EvaluateSettings, TrainSettings

ENSEMBLE, ENSEMBLE_OF_SEEDS = "ensemble", "ensemble_seeds"


@dataclass(frozen=True)
class Study:
    """Where a study lies and what it is of: `key` is its folder below the results ("subject", "crossval/subject")."""

    key: str
    results: Path
    protocol: Protocol
    cache_dir: Path

    @property
    def folder(self) -> Path:
        """The folder that holds one folder per model."""
        return self.results / self.key


def complete(
    study: Study, networks: Mapping[str, Predictions], train: TrainSettings, settings: EvaluateSettings
) -> list[Record]:
    """Set baselines and ensembles beside networks, measure all of them, and compare them on the same images.

    Args:
        study: where, and under which protocol.
        networks: Predictions by folder name below the study; those with test-time augmentation among them.
        train: settings that the networks share; where their weights come from.
        settings: how intervals are drawn.

    Returns:
        One row per model, as `evaluation.comparison.comparison_table` takes them.
    """
    models = {**networks, **dict(_ensembles(study, networks)), **dict(_baselines(study, networks, train))}
    metrics = {name: evaluate_once(study.folder / name, settings) for name in models}
    _analyse(study, models, [each["record"]["predictions_hash"] for each in metrics.values()], settings)
    return [_row(study, name, models[name].record, metrics[name]) for name in models]


def _ensembles(study: Study, networks: Mapping[str, Predictions]) -> Iterator[tuple[str, Predictions]]:
    members = {name: each for name, each in networks.items() if not each.record["tta"]}
    if len(members) < 2:
        return
    made_of = hash_json({name: hash_file(study.folder / name / PREDICTIONS_FILE) for name in members})
    joint = _once(study.folder / ENSEMBLE, made_of, lambda: ensemble(members, study.protocol.decision))
    yield ENSEMBLE, joint
    if len(study.protocol.splits) > 1:
        yield ENSEMBLE_OF_SEEDS, _once(study.folder / ENSEMBLE_OF_SEEDS, made_of, lambda: ensemble_over_repeats(joint))


def _baselines(
    study: Study, networks: Mapping[str, Predictions], train: TrainSettings
) -> Iterator[tuple[str, Predictions]]:
    protocol = study.protocol
    splits = [each.content_hash for each in protocol.splits]
    key = [protocol.manifest.content_hash, splits, protocol.decision.model_dump()]
    for shortcut in SHORTCUTS:
        folder = study.folder / f"baseline_{shortcut}"
        yield folder.name, _once(folder, hash_json([key, shortcut]), partial(shortcut_baseline, shortcut, protocol))
    for each in networks.values():
        if not each.record["tta"]:
            yield _feature_baseline(study, each.record, train, hash_json([key, each.record["trained_on"]]))


def _feature_baseline(study: Study, record: Record, train: TrainSettings, key: str) -> tuple[str, Predictions]:
    architecture, name = record["architecture"], record["display_name"]
    folder = study.folder / f"baseline_{FEATURES}_{folder_name(architecture)}"

    def make() -> Predictions:
        settings = train.model_copy(update={"architecture": architecture})
        images = sorted({image for splits in study.protocol.splits for image in splits.sides["image"]})
        features = frozen_feature_table(study.protocol.manifest, architecture, settings, study.cache_dir, images)
        return feature_baseline(features, architecture, name, study.protocol)

    made_of = [key, architecture, train.input_px, train.pooling, train.input.model_dump(), *filter(None, [train.stages_named])]
    return folder.name, _once(folder, hash_json(made_of), make)


def _once(folder: Path, made_of: str, make: Callable[[], Predictions]) -> Predictions:
    """Read what was made of the very same things before; make and write it otherwise."""
    path = folder / PREDICTIONS_FILE
    if path.is_file() and (found := Predictions.load(path)).record.get("made_of") == made_of:
        return found
    logger.info("%s: %s", folder.parent.name, folder.name)
    made = make()
    predictions = Predictions(made.table, {**made.record, "made_of": made_of})
    predictions.save(path)
    return predictions


def _analyse(study: Study, models: Mapping[str, Predictions], hashes: list[str], settings: EvaluateSettings) -> None:
    """Compare all models pair by pair, unless analysis.json is of the same tables."""
    path = study.folder / ANALYSIS_FILE
    made_of = hash_json([list(models), hashes, settings.model_dump()])
    if path.is_file() and read_json(path).get("made_of") == made_of:
        return
    logger.info("%s: comparing %d models", study.key, len(models))
    figure = figure_of_merit(next(iter(models.values())).record)
    write_json(path, {**compare_models(models, figure, settings), "made_of": made_of})


def _row(study: Study, name: str, record: Record, metrics: Record) -> dict[str, Any]:
    return {
        "study": study.key,
        "protocol": study.protocol.label,
        "optimistic": study.protocol.splits[0].record["optimistic"],
        "kind": record["kind"],
        "tta": record["tta"],
        "architecture": record["architecture"] if record["kind"] == "network" else None,
        "model": name,
        "display_name": augmented(record["display_name"]) if record["tta"] else record["display_name"],
        "trained_on": record["trained_on"],
        "phase": record.get("phase"),
        "parameters": record.get("parameters"),
        "train_seconds": record.get("train_seconds"),
        "images_per_second": record.get("images_per_second"),
        "epochs": record.get("epochs"),
        "source_document_accuracy": None,
        "run": f"{study.key}/{name}",
        "metrics": metrics,
    }

