"""`leukolens crossval`: every image tested, by a network that has seen nothing of its subject, over folds and seeds.

In: a manifest and CrossvalSettings. Out: one Predictions per architecture (and one more with test-time augmentation), with
the validation and test rows of all repeats and folds. Writes, below `out`: `splits-<repeat>.parquet`, and per architecture
a folder with `key.json`, `predictions.parquet` and, last, `crossval.json` (what it was made of and how long it took); where
networks are fine-tuned also `repeat-<r>/fold-<f>/`, a run directory each. The same call on a finished folder returns what
is there, on an interrupted one it goes on; with other data or settings it raises RunError.

Without fine-tuning each architecture's features are computed once for all folds and seeds, and heads of seconds are fitted
on them; the features of one architecture are in memory at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import (
    CROSSVAL_FILE,
    POOL,
    PREDICTIONS_FILE,
    TEST,
    TRAIN,
    TTA_SUFFIX,
    VALIDATION,
    Manifest,
    Predictions,
    Record,
    Splits,
    hash_json,
    write_json,
)
from leukolens.data.pixel_cache import cache_pixels
from leukolens.data.splits import split
from leukolens.decision.rule import Decision
from leukolens.errors import LeakError, RunError, SplitError
from leukolens.models.architectures import FIVE_ARCHITECTURES
from leukolens.models.compute import tune_allocator
from leukolens.prediction.predict import predict_once
from leukolens.prediction.table import Scored, predictions_table
from leukolens.progress import logger, track
from leukolens.settings import CrossvalSettings, PredictSettings, SplitSettings, TrainSettings
from leukolens.training.deciding import DecisionData, Logits, bank_of, fit_on_validation, validation_scores
from leukolens.training.features import VIEWS, FeatureExtractor, Features, frozen_features
from leukolens.training.head import FittedHead, Side, fit_head, linear_logits
from leukolens.training.runs import KEY_FILE, Run
from leukolens.training.train import (
    CACHE_FOLDER,
    Task,
    build,
    check_key,
    extractor_of,
    frozen_extractor,
    prepare,
    record_of,
    train,
)
from leukolens.training.warm_start import refuse_seen


@dataclass(frozen=True)
class Study:
    """One cross-validation: the data, the `splits` of each repeat, where things go, and the settings."""

    manifest: Manifest
    splits: tuple[Splits, ...]
    out: Path
    cache_folder: Path
    settings: CrossvalSettings

    @property
    def images(self) -> list[str]:
        """All images that are tested, in path order."""
        return sorted(self.splits[0].of_fold(0).index)

    @property
    def label(self) -> str:
        """What the report calls the protocol."""
        how = "by image: optimistic" if self.settings.strategy == "image" else "by subject"
        repeats = self.settings.repeats
        return f"cross-validated {how}, {self.settings.folds} folds × {repeats} seed{'s' if repeats > 1 else ''}"

    @property
    def augmentations(self) -> tuple[bool, ...]:
        """Without test-time augmentation, and perhaps with it."""
        return (False, True) if self.settings.tta else (False,)

    def folder(self, architecture: str, tta: bool) -> Path:
        """Where the result of one architecture goes."""
        return self.out / (folder_name(architecture) + (TTA_SUFFIX if tta else ""))

    def task(self, architecture: str) -> Task:
        """The training of one architecture; finds its weights."""
        settings = self.settings.train.model_copy(
            update={"architecture": architecture, "seed": self.settings.seed, "fold": 0}
        )
        return prepare(self.manifest, self.splits[0], self.folder(architecture, tta=False), settings, self.cache_folder)

    def tasks(self, task: Task) -> Iterator[tuple[int, Task]]:
        """The training of each repeat and fold: repeat r has the seed + r."""
        for repeat, splits in enumerate(self.splits):
            for fold in range(self.settings.folds):
                settings = task.settings.model_copy(update={"seed": self.settings.seed + repeat, "fold": fold})
                yield repeat, replace(task, splits=splits, settings=settings)

    def key(self, task: Task, tta: bool) -> Record:
        """What a result depends on; a folder made with another key is never written into.

        The splits follow from the rest; they stand beside the results and are compared there.
        """
        names = {"strategy", "folds", "repeats", "seed"}
        left_out = {"weights_dir", "weights", "start_from", "device", "seed", "fold"}
        return {
            **{name: value for name, value in task.key().items() if name != "splits"},
            "crossval": {**self.settings.model_dump(mode="json", include=names), "tta": tta},
            "settings": task.settings.model_dump(mode="json", exclude=left_out),
        }


@dataclass(frozen=True)
class NamedFeatures:
    """`values` float32 [images, width] of the images in `index`, and the `seconds` that computing them took."""

    values: Features
    index: pd.Index[str]
    seconds: float

    def of(self, images: Sequence[str] | pd.Series[str]) -> Features:
        """Features of images by name, in that order."""
        return self.values[self.index.get_indexer(pd.Index(images))]


@dataclass(frozen=True)
class FrozenBackbone:
    """The backbone that all folds of a study share."""

    study: Study
    extractor: FeatureExtractor

    def features(self, view: int) -> NamedFeatures:
        """Features of all images of the study in one of their 8 views."""
        cache = cache_pixels(self.study.manifest, self.study.cache_folder, self.extractor.preprocessing)
        rows = cache.rows_of(self.study.images).tolist()
        found = frozen_features(self.extractor.of_view(view), cache, rows, self.study.cache_folder)
        return NamedFeatures(found.values, pd.Index(self.study.images), found.seconds)


@dataclass(frozen=True)
class ScoredFold:
    """One repeat and fold: manifest `rows` of its validation and test images, what the network gave, and its decision."""

    rows: pd.DataFrame
    logits: Logits
    outlier_score: NDArray[np.float64]
    head: FittedHead
    decision: Decision

    def logits_of(self, features: NamedFeatures) -> Logits:
        """Logits of the fold's rows for other features of the same images."""
        return linear_logits(features.of(self.rows["image"]), self.head.weight, self.head.bias)


@dataclass(frozen=True)
class Cost:
    """What a result took: `seconds` are those of features, training and scoring together."""

    phase: str
    parameters: int
    train_seconds: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Scores:
    """All rows of one result, the `decisions` behind them and what they cost."""

    table: pd.DataFrame
    decisions: list[Record]
    cost: Cost


def cross_validate(
    manifest: Manifest | Path | str,
    out: Path | str,
    settings: CrossvalSettings | None = None,
    cache_dir: Path | None = None,
) -> dict[str, Predictions]:
    """Cross-validate every architecture over folds and seeds.

    Args:
        manifest: a Manifest or the path of its file; its labelled training images are used.
        out: the folder to write, or to go on with.
        settings: architectures, folds, repeats and the settings of each training.
        cache_dir: where pixels and frozen features are cached; None means `cache` beside `out`.

    Returns:
        Predictions by folder name: "resnet50", and "resnet50+tta" where test-time augmentation was asked for. Each used
        image is tested once per repeat.

    Raises:
        SplitError: the manifest has too few subjects for so many folds.
        LeakError: the run to start from has seen images of this data.
        WeightsError: no pretrained weights are to be had.
        RunError: `out` was made with other data or settings.
    """
    tune_allocator()
    study = _study(Manifest.of(manifest), Path(out), settings or CrossvalSettings(), cache_dir)
    _check_all(study)
    _save_splits(study)
    found: dict[str, Predictions] = {}
    for architecture in study.settings.architectures:
        found |= _one_architecture(study, architecture)
    return found


def frozen_feature_table(
    manifest: Manifest, architecture: str, settings: TrainSettings, cache_dir: Path, images: Sequence[str] | None = None
) -> pd.DataFrame:
    """Features of an architecture's backbone before any training, from the cache that `train` and `cross_validate` share.

    Args:
        manifest: the data.
        architecture: a name as in TrainSettings.
        settings: weights, input (size, crop, colours), batch size, precision, device; of random weights the seed.
        cache_dir: where pixels and frozen features are cached.
        images: which images; None means the labelled training images, as `cross_validate` uses them. An official split
            tests on others.

    Returns:
        float32 [images, width], indexed by image in the order asked for (path order for None).
    """
    pool = manifest.images[(manifest.images["part"] == POOL) & manifest.images["label"].notna()]
    wanted = sorted(pool["image"]) if images is None else list(images)
    extractor = frozen_extractor(manifest, settings.model_copy(update={"architecture": architecture}))
    cache = cache_pixels(manifest, cache_dir, extractor.preprocessing)
    features = frozen_features(extractor, cache, cache.rows_of(wanted).tolist(), cache_dir)
    # Nobody else holds them: a copy would be the largest thing in memory a second time.
    return pd.DataFrame(features.values, index=pd.Index(wanted, name="image"), copy=False)


def folder_name(architecture: str) -> str:
    """A name for the folder of an architecture: "timm:x/y" is "timm_x_y"."""
    return architecture.replace(":", "_").replace("/", "_")


def _study(manifest: Manifest, out: Path, settings: CrossvalSettings, cache_dir: Path | None) -> Study:
    settings = settings.model_copy(update={"architectures": settings.architectures or FIVE_ARCHITECTURES})
    return Study(manifest, _splits(manifest, settings), out, cache_dir or out.parent / CACHE_FOLDER, settings)


def _splits(manifest: Manifest, settings: CrossvalSettings) -> tuple[Splits, ...]:
    """The folds of each repeat; where a single split could be made, the error says how to go on without them."""
    wanted = [
        SplitSettings(strategy=settings.strategy, folds=settings.folds, seed=settings.seed + repeat)
        for repeat in range(settings.repeats)
    ]
    try:
        return tuple(split(manifest, None, each) for each in wanted)
    except LeakError:
        raise
    except SplitError as error:
        # Raises anew where the folds are not to blame, as where no subject is known: without them it would fail as well.
        split(manifest, None, SplitSettings(strategy=settings.strategy, seed=settings.seed))
        raise SplitError(
            error.what,
            expected=error.expected,
            received=error.received,
            remedy=f"{error.remedy}, or leave the cross-validation out of `leukolens compare`: --folds 0",
        ) from error


def _check_all(study: Study) -> None:
    """Find every name, every file of weights and every folder of other settings before hours are spent."""
    if study.settings.train.start_from is not None:
        for splits in study.splits:
            refuse_seen(study.settings.train.start_from, study.manifest, splits, range(study.settings.folds))
    for architecture in study.settings.architectures:
        task = study.task(architecture)
        for tta in study.augmentations:
            check_key(study.folder(architecture, tta), study.key(task, tta))


def _save_splits(study: Study) -> None:
    for repeat, splits in enumerate(study.splits):
        path = study.out / f"splits-{repeat}.parquet"
        if path.is_file() and Splits.load(path).content_hash != splits.content_hash:
            raise RunError(
                f"{path} was made of other data, another seed or another number of folds.",
                expected="the folds that the results beside it were made with",
                received=f"{study.label}, seed {splits.record['seed']}",
                remedy="choose another --out, or delete that folder to cross-validate anew",
            )
        splits.save(path)
        for line in splits.record["audit"]:
            logger.info("%s", line)


def _one_architecture(study: Study, architecture: str) -> dict[str, Predictions]:
    task = study.task(architecture)
    folders = {tta: study.folder(architecture, tta) for tta in study.augmentations}
    missing = [tta for tta, folder in folders.items() if not (folder / CROSSVAL_FILE).is_file()]
    for tta in missing:
        write_json(folders[tta] / KEY_FILE, study.key(task, tta))
    if not missing:
        logger.info("%s: already cross-validated, read from %s", task.weights.architecture.display_name, task.folder)
    elif task.settings.finetune_epochs:
        for tta in missing:
            _write(study, task, tta, _trained_scores(study, task, tta))
    else:
        for tta, scores in _frozen_scores(study, task, with_tta=True in missing):
            if tta in missing:
                _write(study, task, tta, scores)
    return {folder.name: Predictions.load(folder) for folder in folders.values()}


def _frozen_scores(study: Study, task: Task, with_tta: bool) -> Iterator[tuple[bool, Scores]]:
    """Heads on frozen features: what the plain images give and, with test-time augmentation, the mean over their views."""
    classifier = build(task)
    backbone = FrozenBackbone(study, extractor_of(task, classifier))
    views = [backbone.features(view) for view in range(task.settings.head_views)]
    began = time.perf_counter()
    folds = _fit_folds(study, task, views)
    fitting = time.perf_counter() - began
    seconds, learned_from = views[0].seconds, sum(view.seconds for view in views)

    def cost(seconds: float) -> Cost:
        speed = len(study.images) / seconds
        both = max(seconds, learned_from)
        return Cost("head", classifier.parameter_count(), learned_from + fitting, both + fitting, speed)

    yield False, _assembled(folds, cost(seconds))
    if with_tta:
        sums: list[Logits] = [fold.logits for fold in folds]
        # One view is in memory at a time.
        del views
        for view in range(1, VIEWS):
            seen = backbone.features(view)
            sums = [total + fold.logits_of(seen) for total, fold in zip(sums, folds, strict=True)]
            seconds += seen.seconds
        means = [replace(fold, logits=total / np.float32(VIEWS)) for fold, total in zip(folds, sums, strict=True)]
        yield True, _assembled(means, cost(seconds))


def _fit_folds(study: Study, task: Task, views: list[NamedFeatures]) -> list[ScoredFold]:
    name, count = task.weights.architecture.display_name, study.settings.repeats * study.settings.folds
    tasks = track(study.tasks(task), f"{name}: heads", count)
    return [_fit_fold(repeat, each, views) for repeat, each in tasks]


def _fit_fold(repeat: int, task: Task, views: list[NamedFeatures]) -> ScoredFold:
    """Fit a head as `train` does, decide on its validation images, and score validation and test; the plain view first."""
    features, train_images, validation = views[0], task.images_of(TRAIN), task.images_of(VALIDATION)
    train_side = Side.of_views([view.of(train_images) for view in views], task.labels_of(train_images))
    validation_side = Side(features.of(validation), task.labels_of(validation))
    head = fit_head(train_side, validation_side, len(task.manifest.classes), task.settings)
    logits = linear_logits(validation_side.features, head.weight, head.bias)
    sides, seed = task.splits.of_fold(task.settings.fold), task.settings.seed
    scores = validation_scores(task.manifest, sides, validation, logits)
    data = DecisionData(scores, validation_side.features, features.of(bank_of(train_images, seed)))
    fitted = fit_on_validation(data, task.settings.decision, seed)
    rows = _rows(repeat, task, sides)
    of_rows = features.of(rows["image"])
    logits = linear_logits(of_rows, head.weight, head.bias)
    return ScoredFold(rows, logits, fitted.outliers.scores(of_rows), head, fitted.decision)


def _rows(repeat: int, task: Task, sides: pd.Series[str]) -> pd.DataFrame:
    """Manifest rows of the validation and test images of one fold, in path order."""
    images = task.manifest.images.sort_values("image")
    rows = images[images["image"].isin(sides.index[sides.isin([VALIDATION, TEST])])].reset_index(drop=True)
    return rows.assign(side=sides[rows["image"]].to_numpy(), repeat=repeat, fold=task.settings.fold)


def _assembled(folds: list[ScoredFold], cost: Cost) -> Scores:
    tables = [predictions_table(fold.rows, Scored(fold.logits, fold.outlier_score), fold.decision) for fold in folds]
    decisions = [fold.decision.entry(int(fold.rows["repeat"].iloc[0]), int(fold.rows["fold"].iloc[0])) for fold in folds]
    return Scores(pd.concat(tables, ignore_index=True), decisions, cost)


def _trained_scores(study: Study, task: Task, tta: bool) -> Scores:
    """Train, or read, a run of every repeat and fold, score its validation and test images and put them together."""
    tables, decisions, costs = [], [], []
    for repeat, each in study.tasks(task):
        place = Path(f"repeat-{repeat}") / f"fold-{each.settings.fold}"
        run = train(study.manifest, each.splits, task.folder / place, each.settings, study.cache_folder)
        out = study.folder(task.settings.architecture, tta) / place
        settings = PredictSettings(tta=tta, device=task.settings.device)
        found = predict_once(run, study.manifest, each.splits, out, study.cache_folder, settings)
        tables.append(found.table.assign(repeat=repeat))
        decisions += [{**decision, "repeat": repeat} for decision in found.record["decisions"]]
        costs.append(_cost_of_run(run, found))
    return Scores(pd.concat(tables, ignore_index=True), decisions, _total(costs))


def _cost_of_run(run: Run, predictions: Predictions) -> Cost:
    training, scoring = run.record["train_seconds"], predictions.record["seconds"]
    speed = predictions.record["images_per_second"]
    return Cost(run.record["best_phase"], run.record["parameters"], training, training + scoring, speed)


def _total(costs: list[Cost]) -> Cost:
    """Seconds add up; speeds are averaged; one fold whose fine-tuning was kept makes it a fine-tuned result."""
    return Cost(
        phase="finetune" if any(cost.phase == "finetune" for cost in costs) else "head",
        parameters=costs[0].parameters,
        train_seconds=sum(cost.train_seconds for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        images_per_second=float(np.mean([cost.images_per_second for cost in costs])),
    )


def _write(study: Study, task: Task, tta: bool, scores: Scores) -> None:
    folder = study.folder(task.settings.architecture, tta)
    record = _record(study, task, tta, scores)
    Predictions(scores.table, record).save(folder / PREDICTIONS_FILE)
    settings = study.settings.model_dump(mode="json", exclude={"evaluate"})
    made = {**record_of(task), **record, "settings": settings, "images": len(study.images)}
    made["split"] = {**made["split"], "label": study.label}
    write_json(folder / CROSSVAL_FILE, made)


def _record(study: Study, task: Task, tta: bool, scores: Scores) -> Record:
    settings, weights = study.settings, task.weights
    splits_hashes = [splits.content_hash for splits in study.splits]
    return {
        "classes": list(study.manifest.classes),
        "positive": list(study.manifest.positive),
        "kind": "network",
        "architecture": task.settings.architecture,
        "display_name": weights.architecture.display_name,
        "trained_on": weights.trained_on + (f" ({weights.note})" if weights.note else ""),
        "split_label": study.label,
        "optimistic": settings.strategy == "image" or study.splits[0].record["optimistic"],
        "synthetic": study.manifest.record["synthetic"],
        "run_hash": hash_json([study.key(task, tta), splits_hashes]),
        "manifest_hash": study.manifest.content_hash,
        "splits_hashes": splits_hashes,
        "decisions": scores.decisions,
        "decision_hash": hash_json(scores.decisions),
        "tta": tta,
        "abstain": None,
        "folds": settings.folds,
        "repeats": settings.repeats,
        "seed": settings.seed,
        **asdict(scores.cost),
    }
