"""Models as a server holds them: loaded once, tried, and exchanged for a newer version while requests go on.

In: run folders or bundles. Out: `ServedModel`s by name. Writes: nothing.

A model is read from the folder that its path leads to at that moment; a symbolic link that is switched to a new version takes
effect at the next reload. Requests under way keep the version that they began with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leukolens import extras
from leukolens.errors import RequestError, SettingsError
from leukolens.models.compute import tune_allocator
from leukolens.prediction.scores_file import scores_schema
from leukolens.prediction.stream import InputScorer, Picture
from leukolens.serving.service.logs import log
from leukolens.serving.service.metrics import Metrics
from leukolens.settings import PredictSettings, ServeSettings
from leukolens.training.runs import Run

_NAME_LENGTH = 100
_CHANNELS = 3


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One version of a model: its `run`, the `scorer` that `predict` uses too, and `info`, what /v1/models says of it."""

    name: str
    path: Path
    run: Run
    scorer: InputScorer
    info: dict[str, Any]

    @property
    def columns(self) -> list[str]:
        """Columns of its table, in their order."""
        names: list[str] = scores_schema(self.run.record["classes"]).names
        return names


class Shelf:
    """The models of a server, by name; the first is the one that is meant where none is named.

    Args:
        paths: where each model lies, by name.
        settings: engine, device, miscoverage.
        metrics: where models and reloads are told.
    """

    def __init__(self, paths: dict[str, Path], settings: ServeSettings, metrics: Metrics) -> None:
        self.paths = paths
        self.settings = settings
        self.metrics = metrics
        self.models: dict[str, ServedModel] = {}

    def load(self) -> None:
        """Load all; raises what `Run.load` and the engine raise."""
        self.models = {name: load_model(name, path, self.settings) for name, path in self.paths.items()}
        self.metrics.serve(self.models.values())

    async def reload(self) -> None:
        """Load each again beside the one that serves, and put it in its place; where that fails the one before goes on."""
        for name, path in self.paths.items():
            loading = asyncio.get_running_loop().run_in_executor(None, load_model, name, path, self.settings)
            # Not awaited by itself: whatever is wrong with the new one, the server has the old one to go on with.
            await asyncio.wait([loading])
            if error := loading.exception():
                self.metrics.reloads.labels("failed").inc()
                log("model not reloaded, the version before goes on", logging.ERROR, model=name,
                    error=f"{type(error).__name__}: {error}")  # fmt: skip
                continue
            model = loading.result()
            # A new dictionary: whoever looks meanwhile sees the one or the other.
            self.models = {**self.models, name: model}
            self.metrics.reloads.labels("done").inc()
            self.metrics.serve(self.models.values())
            log("model reloaded", model=name, run_hash=model.info["run_hash"], decision_hash=model.info["decision_hash"])

    def find(self, name: str | None) -> ServedModel:
        """Give the model of a name, the first for None; raises RequestError (404) where there is none."""
        models = self.models
        if name is None:
            return next(iter(models.values()))
        if name not in models:
            raise RequestError(
                "There is no such model here.",
                status=404,
                expected=f"one of {', '.join(models)}",
                received="another name",
                remedy="GET /v1/models lists them; leave `model` out for the first",
            )
        return models[name]


def named_paths(given: Sequence[str]) -> dict[str, Path]:
    """Read PATH or NAME=PATH; a name is that of the folder where none is given.

    Raises SettingsError where there is none, or a name is empty, too long, unprintable or given twice.
    """
    paths: dict[str, Path] = {}
    for each in given:
        before, separator, after = each.partition("=")
        is_named = bool(separator) and not Path(each).exists()
        path = Path(after if is_named else each)
        name = before if is_named else path.absolute().name
        if not name or len(name) > _NAME_LENGTH or not name.isprintable() or name in paths:
            raise SettingsError(
                f"{each} cannot be served under the name {name!r}.",
                expected=f"models with names of their own, of at most {_NAME_LENGTH} printable letters",
                received="the same name twice" if name in paths else "another name",
                remedy="name it: NAME=PATH",
            )
        paths[name] = path
    if not paths:
        raise SettingsError("There is no model to serve.", expected="a run or a bundle", received="none", remedy="name one")
    return paths


def load_model(name: str, path: Path, settings: ServeSettings) -> ServedModel:
    """Load a model and score one grey picture with it, so that whatever is wrong with it is wrong now.

    Raises:
        RunError: the run is unfinished or has no decision.
        ArtifactError: a file of it is damaged.
        SettingsError: the engine or the device is not to be had.
    """
    tune_allocator()
    # Resolved once: a link that is switched meanwhile must not give half of each version.
    run = Run.load(path.resolve())
    scorer = InputScorer(run, PredictSettings(abstain=settings.abstain, device=settings.device, engine=settings.engine))
    side_px = scorer.preprocessing.input_px
    scorer.rows([Picture("probe", np.full((side_px, side_px, _CHANNELS), 128, np.uint8), "")])
    return ServedModel(name, path, run, scorer, _info(name, scorer))


def _info(name: str, scorer: InputScorer) -> dict[str, Any]:
    """What /v1/models says of a model."""
    record, decision, said = scorer.run.record, scorer.decision, scorer.run.decision_record
    threshold, points = decision.threshold, decision.operating_points
    caution = decision.caution(scorer.miscoverage)
    return {
        "name": name,
        "display_name": record["display_name"],
        "architecture": record["architecture"],
        "classes": list(decision.classes),
        "positive": list(decision.positive),
        "positive_name": " or ".join(decision.positive),
        "synthetic": record["synthetic"],
        "trained_on": record["weights"]["trained_on"],
        "optimistic": record["split"]["optimistic"],
        "engine": scorer.extractor.compute.engine,
        "precision": scorer.extractor.compute.inference_precision,
        "threshold": threshold.value if threshold else None,
        "aim": threshold.aim if threshold else None,
        "temperature": decision.temperature,
        "miscoverage": scorer.miscoverage,
        "operating_points": [asdict(point) for point in points.points] if points else None,
        "validation_positives": points.positives if points else None,
        "validation_negatives": points.negatives if points else None,
        "validation_images": decision.validation_images,
        "validation_groups": decision.validation_groups,
        "notes": [*decision.notes, *([caution] if caution else [])],
        "run_hash": record["run_hash"],
        "decision_hash": said["hash"],
        "explain": bool(decision.positive and scorer.run.architecture.cam_layer) and extras.is_installed("pytorch_grad_cam"),
    }
