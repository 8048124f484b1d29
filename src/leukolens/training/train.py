"""`leukolens train`: manifest and splits in, a run directory out.

In: Manifest, Splits, TrainSettings. Out: Run. Writes: the run directory (see `runs.py`) and, beside it, the caches of
pixels and frozen features. The same call on an unfinished directory goes on where it stopped; on a finished one it returns
the run, after fitting the decision again where other settings of it are wished; on one made with other data or other
settings of the training it raises RunError.

Where torchrun started several processes, all call `train` and fine-tune together; the first alone does the rest and writes
every file. They need the same folders: on several hosts, on a file system that all of them see.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from leukolens.artifacts import (
    EPOCHS_FILE,
    RUN_FILE,
    TRAIN,
    VALIDATION,
    WEIGHTS_FILE,
    Manifest,
    Record,
    Splits,
    hash_file,
    hash_json,
    read_json,
    write_json,
    write_text,
)
from leukolens.data.leak_door import check_disjoint
from leukolens.data.pixel_cache import PixelCache, cache_pixels
from leukolens.data.preprocessing import Preprocessing
from leukolens.errors import RunError, SettingsError
from leukolens.models.architectures import check_stages, find_architecture
from leukolens.models.classifier import Classifier, build_classifier
from leukolens.models.compute import Compute, choose_compute, tune_allocator
from leukolens.models.weights import PretrainedWeights
from leukolens.processes import started_processes
from leukolens.progress import logger
from leukolens.provenance import git_commit, hardware, versions
from leukolens.settings import TrainSettings
from leukolens.training.batches import TrainingImages
from leukolens.training.deciding import DecisionData, bank_of, fit_on_validation, is_decided, save_decision, validation_scores
from leukolens.training.features import FeatureExtractor, Features, computed_features, frozen_features
from leukolens.training.finetuning import (
    BEST_FILE,
    LAST_FILE,
    RESUME_FOLDER,
    FineTuned,
    fine_tune,
    save_weights,
)
from leukolens.training.head import FittedHead, Side, fit_head, linear_logits
from leukolens.training.process_group import ProcessGroup, process_group
from leukolens.training.runs import KEY_FILE, SEEN_BEFORE_FILE, TRAINING_IMAGES_FILE, Run
from leukolens.training.selection import Epoch, Selection
from leukolens.training.warm_start import find_start, refuse_seen

CACHE_FOLDER = "cache"

_FINISHED = "finished"
# Where weights come from and where they are computed with may change between two sittings; their hash may not.
_NOT_IN_KEY = {"weights_dir", "weights", "start_from", "device"}


@dataclass(frozen=True)
class Task:
    """What one training works on: the data and how each image is used, the network, and where things go."""

    manifest: Manifest
    splits: Splits
    settings: TrainSettings
    weights: PretrainedWeights
    preprocessing: Preprocessing
    compute: Compute
    folder: Path
    cache_folder: Path

    def images_of(self, side: str) -> list[str]:
        """Images on one side of the fold that is trained, in path order."""
        sides = self.splits.of_fold(self.settings.fold)
        return sorted(sides.index[sides == side])

    def labels_of(self, images: list[str]) -> NDArray[np.int64]:
        """Class indices of images."""
        label_of = self.manifest.images.set_index("image")["label"]
        return np.array([self.manifest.classes.index(label) for label in label_of[images]], dtype=np.int64)

    def key(self) -> Record:
        """What the network depends on; a directory made with another key is never written into.

        The settings of the decision are none of it: a decision is fitted again in a second.
        """
        return {
            "settings": self.settings.model_dump(mode="json", exclude=_NOT_IN_KEY | {"decision"}),
            "manifest": self.manifest.content_hash,
            "splits": self.splits.content_hash,
            "weights": self.weights.sha256 or self.weights.origin,
            "preprocessing": self.preprocessing.to_record(),
            "precision": self.compute.precision,
            "asked_by": [self.compute.engine, self.compute.inference_precision],
        }


@dataclass(frozen=True)
class _Trained:
    """What both phases gave, which of them was kept, and the seconds that the frozen features took."""

    head: FittedHead
    tuned: FineTuned
    best_phase: str
    feature_seconds: float

    def chosen(self) -> Record:
        """What options of the training chose on validation; nothing where none was asked for."""
        penalty = {} if self.head.penalty is None else {"head_penalty": self.head.penalty}
        is_average = self.best_phase == "finetune" and self.tuned.averaged_epochs
        return {**penalty, **({"averaged_epochs": self.tuned.averaged_epochs} if is_average else {})}


def train(
    manifest: Manifest | Path | str,
    splits: Splits | Path | str,
    out: Path | str,
    settings: TrainSettings | None = None,
    cache_dir: Path | None = None,
) -> Run:
    """Train one network: a head on frozen features, then fine-tuning; keep what was best on validation.

    What turns its logits into answers is fitted there too, at the end.

    Args:
        manifest: a Manifest or the path of its file.
        splits: Splits or the path of their file; refused where a group or duplicate is on two sides.
        out: the run directory to write, or to go on with.
        settings: which architecture and how; defaults of TrainSettings.
        cache_dir: where pixels and frozen features are cached; None means `cache` beside `out`.

    Returns:
        The finished run.

    Raises:
        LeakError, SplitError: the splits do not fit the manifest, or the run to start from has seen what they judge on.
        WeightsError: no pretrained weights are to be had.
        RunError: `out` was made with other data or settings, or is not the same folder in every process; the run to start
            from is of another architecture, pooling or stages.
    """
    tune_allocator()
    task = prepare(manifest, splits, Path(out), settings or TrainSettings(), cache_dir)
    with process_group(task.compute.device) as group:
        if group.processes.is_leader:
            _lead(task, group)
        else:
            _follow(task, group)
        group.wait()
    return Run.load(task.folder)


def _lead(task: Task, group: ProcessGroup) -> None:
    """What the first process does, and one process alone: everything."""
    if _is_finished(task):
        logger.info("%s: already trained, read from %s", task.weights.architecture.display_name, task.folder)
        group.tell({_FINISHED: True})
        _decide_again(task, Run.load(task.folder))
        return
    write_json(task.folder / KEY_FILE, task.key())
    _note_start(task)
    cache = cache_pixels(task.manifest, task.cache_folder, task.preprocessing)
    classifier = build(task)
    head, feature_seconds = _fit_head(task, cache, classifier)
    _install(head, classifier)
    group.tell({_FINISHED: False, **_whereabouts(task)})
    tuned = _fine_tune(task, cache, classifier)
    best_phase = _keep_best(task, classifier, head, tuned)
    _decide(task, cache, classifier, best_phase)
    _write_run(task, classifier, _Trained(head, tuned, best_phase, feature_seconds))


def _note_start(task: Task) -> None:
    """Keep what the run that this one starts from has seen: its folder may be gone when this network is tested."""
    if task.settings.start_from is not None:
        seen = Run.load(task.settings.start_from).all_seen().assign(side=TRAIN)
        write_text(task.folder / SEEN_BEFORE_FILE, seen.to_csv(index=False))


def _follow(task: Task, group: ProcessGroup) -> None:
    """What any other process does: wait for the leader's head, then fine-tune with it and write nothing."""
    told = group.tell({})
    if told[_FINISHED] or task.settings.finetune_epochs == 0:
        return
    if (found := _whereabouts(task)) != {name: told[name] for name in found}:
        raise RunError(
            f"{task.folder} is not the same folder in every process.",
            expected="key.json and the state to go on from as the first process has them",
            received=f"others in process {group.processes.rank}",
            remedy="put data and results on a file system that all hosts see under one path, and use one version everywhere",
        )
    cache = cache_pixels(task.manifest, task.cache_folder, task.preprocessing)
    # The head is still zero here: Lightning gives every process the weights of the first.
    _fine_tune(task, cache, build(task))


def _whereabouts(task: Task) -> Record:
    """What all processes must find in the run directory, or they would train different things."""
    key, last = task.folder / KEY_FILE, task.folder / RESUME_FOLDER / LAST_FILE
    is_same_task = key.is_file() and read_json(key) == json.loads(json.dumps(task.key()))
    return {"is_same_task": is_same_task, "resume": hash_file(last) if last.is_file() else None}


def prepare(
    manifest: Manifest | Path | str, splits: Splits | Path | str, out: Path, settings: TrainSettings, cache_dir: Path | None
) -> Task:
    """Check what `train` is given, find the weights and choose how to compute; raises what `train` raises."""
    manifest, splits = Manifest.of(manifest), Splits.of(splits)
    check_disjoint(manifest, splits)
    if settings.fold >= splits.record["folds"]:
        raise SettingsError(
            f"The splits have no fold {settings.fold}.",
            expected=f"a fold from 0 to {splits.record['folds'] - 1}",
            received=str(settings.fold),
            remedy="correct --fold, or make a k-fold split with `leukolens split --folds`",
        )
    weights = find_start(settings)
    check_stages(weights.architecture, settings)
    if settings.start_from is not None:
        refuse_seen(settings.start_from, manifest, splits, [settings.fold])
    preprocessing = _preprocessing(manifest, settings, weights)
    compute = choose_compute(weights.architecture, settings)
    cache_folder = cache_dir or out.parent / CACHE_FOLDER
    return Task(manifest, splits, settings, weights, preprocessing, compute, out, cache_folder)


def frozen_extractor(manifest: Manifest, settings: TrainSettings) -> FeatureExtractor:
    """The backbone of an architecture as it is before any training; raises WeightsError where it has no weights."""
    weights = find_start(settings)
    preprocessing = _preprocessing(manifest, settings, weights)
    classifier = build_classifier(weights, preprocessing, len(manifest.classes), settings.dropout, settings.seed)
    compute, name = choose_compute(weights.architecture, settings), weights.architecture.display_name
    return FeatureExtractor(classifier, preprocessing, compute, settings.batch_size, name)


def _preprocessing(manifest: Manifest, settings: TrainSettings, weights: PretrainedWeights) -> Preprocessing:
    return Preprocessing(manifest.canvas_px, settings.input_px, weights.mean, weights.std, treatment=settings.input)


def _is_finished(task: Task) -> bool:
    check_key(task.folder, task.key())
    return (task.folder / RUN_FILE).is_file()


def check_key(folder: Path, key: Record) -> None:
    """Raise RunError naming what differs where `folder` was started with another key; an empty folder has none yet."""
    if not (folder / KEY_FILE).is_file():
        return
    then, now = _flat(_completed(read_json(folder / KEY_FILE))), _flat(key)
    differing = [name for name in now if then.get(name) != now[name]]
    if differing:
        raise RunError(
            f"{folder} was made with other {' and '.join(differing)}.",
            expected=f"the {differing[0]} that it was started with: {then.get(differing[0])}",
            received=str(now[differing[0]]),
            remedy="choose another --out, or delete that folder to train anew",
        )


def _completed(key: Record) -> Record:
    """A key of an earlier version did not know all settings: it was made with what are now their defaults."""

    def over(defaults: Record, given: Record) -> Record:
        inner = {name: over(defaults[name], value) for name, value in given.items()
                 if isinstance(value, dict) and isinstance(defaults.get(name), dict)}  # fmt: skip
        return {**defaults, **given, **inner}

    return {**key, "settings": over(TrainSettings().model_dump(mode="json"), key.get("settings", {}))}


def _flat(key: Record) -> Record:
    """Give inner fields names of their own ("settings.seed"), so that an error can name what differs."""
    flat = {name: value for name, value in key.items() if not isinstance(value, dict)}
    inner = {f"{name}.{field}": value[field] for name, value in key.items() if isinstance(value, dict) for field in value}
    return {**flat, **inner}


def build(task: Task) -> Classifier:
    """The network with its pretrained (or seeded random) weights and a head of zeros."""
    settings = task.settings
    return build_classifier(
        task.weights, task.preprocessing, len(task.manifest.classes), settings.dropout, settings.seed
    )


def _fit_head(task: Task, cache: PixelCache, classifier: Classifier) -> tuple[FittedHead, float]:
    """Phase one; also gives the seconds that the frozen features took."""
    name = task.weights.architecture.display_name
    extractor = extractor_of(task, classifier)
    train, validation = task.images_of(TRAIN), task.images_of(VALIDATION)
    rows = cache.rows_of([*train, *validation]).tolist()
    features = frozen_features(extractor, cache, rows, task.cache_folder)
    turned = [
        frozen_features(extractor.of_view(view), cache, rows[: len(train)], task.cache_folder)
        for view in range(1, task.settings.head_views)
    ]
    head = fit_head(
        Side.of_views([features.values[: len(train)], *(view.values for view in turned)], task.labels_of(train)),
        Side(features.values[len(train) :], task.labels_of(validation)),
        len(task.manifest.classes),
        task.settings,
    )
    logger.info("%s: head on frozen features, validation balanced accuracy %.3f", name, head.selection.balanced_accuracy)
    return head, features.seconds + sum(view.seconds for view in turned)


def extractor_of(task: Task, classifier: Classifier) -> FeatureExtractor:
    """The task's way from pixels to features."""
    name = task.weights.architecture.display_name
    return FeatureExtractor(classifier, task.preprocessing, task.compute, task.settings.batch_size, name)


def _install(head: FittedHead, classifier: Classifier) -> None:
    with torch.no_grad():
        classifier.head.weight.copy_(head.weight)
        classifier.head.bias.copy_(head.bias)


def _fine_tune(task: Task, cache: PixelCache, classifier: Classifier) -> FineTuned:
    """Phase two, unless the backbone stays frozen."""
    if task.settings.finetune_epochs == 0:
        return FineTuned([], Selection())
    train, validation = task.images_of(TRAIN), task.images_of(VALIDATION)
    images = TrainingImages(
        cache.pixels, cache.rows_of(train), task.labels_of(train), cache.rows_of(validation), task.labels_of(validation)
    )
    return fine_tune(classifier, images, task.settings, task.compute, task.folder)


def _keep_best(task: Task, classifier: Classifier, head: FittedHead, tuned: FineTuned) -> str:
    """Leave the better of the two phases in the classifier; phase one wins ties, being the simpler model."""
    if tuned.selection > head.selection:
        classifier.load_state_dict(load_file(task.folder / RESUME_FOLDER / BEST_FILE))
        return "finetune"
    if tuned.epochs:
        classifier.load_state_dict(build(task).state_dict())
        _install(head, classifier)
    return "head"


def _decide_again(task: Task, run: Run) -> None:
    """Fit the decision of a finished run anew where it has none or one of other settings; the weights stay."""
    if not is_decided(task.folder, task.settings.decision):
        cache = cache_pixels(task.manifest, task.cache_folder, task.preprocessing)
        _decide(task, cache, run.classifier(), run.record["best_phase"])
        logger.info("%s: decision fitted, in %s", run.record["display_name"], task.folder)


def _decide(task: Task, cache: PixelCache, classifier: Classifier, best_phase: str) -> None:
    """Fit on validation what turns logits into answers, and what is unlike the training images."""
    settings, validation = task.settings, task.images_of(VALIDATION)
    bank = bank_of(task.images_of(TRAIN), settings.seed)
    features = _features(task, cache, extractor_of(task, classifier), best_phase, [*bank, *validation])
    of_validation = features[len(bank) :]
    logits = linear_logits(of_validation, classifier.head.weight, classifier.head.bias)
    scores = validation_scores(task.manifest, task.splits.of_fold(settings.fold), validation, logits)
    data = DecisionData(scores, of_validation, features[: len(bank)])
    save_decision(fit_on_validation(data, settings.decision, settings.seed), settings.decision, task.folder)


def _features(
    task: Task, cache: PixelCache, extractor: FeatureExtractor, best_phase: str, images: list[str]
) -> Features:
    """Of the backbone that was kept: cached where it stayed frozen, computed where it was fine-tuned."""
    rows = cache.rows_of(images).tolist()
    if best_phase == "head":
        return frozen_features(extractor, cache, rows, task.cache_folder).values
    return computed_features(extractor, cache, rows).values


def _write_run(task: Task, classifier: Classifier, trained: _Trained) -> None:
    epochs, best_phase = [*trained.head.epochs, *trained.tuned.epochs], trained.best_phase
    best = max((epoch for epoch in epochs if epoch.phase == best_phase), key=Epoch.selection)
    save_weights(classifier, task.folder / WEIGHTS_FILE)
    rows = [epoch.to_record() for epoch in epochs]
    write_text(task.folder / EPOCHS_FILE, pd.DataFrame(rows).to_csv(index=False))
    write_text(task.folder / TRAINING_IMAGES_FILE, _training_images(task).to_csv(index=False))
    record = {
        **record_of(task),
        "phase": "finetune" if task.settings.finetune_epochs else "head",
        "best_phase": best_phase,
        "best_epoch": best.epoch,
        "validation_balanced_accuracy": best.validation_balanced_accuracy,
        "parameters": classifier.parameter_count(),
        "feature_seconds": trained.feature_seconds,
        "train_seconds": trained.feature_seconds + sum(epoch.seconds for epoch in epochs),
        **trained.chosen(),
    }
    write_json(task.folder / RUN_FILE, {**record, "run_hash": hash_json(record)})
    shutil.rmtree(task.folder / RESUME_FOLDER, ignore_errors=True)


def _training_images(task: Task) -> pd.DataFrame:
    sides = task.splits.of_fold(task.settings.fold)
    seen = sides[sides.isin([TRAIN, VALIDATION])].sort_index().rename_axis("image").reset_index(name="side")
    return seen.merge(task.manifest.images[["image", "group", "pixel_hash"]], on="image", validate="one_to_one")


def record_of(task: Task) -> Record:
    """What a result was made of and on: network, weights, data, settings, versions, machine; a JSON object."""
    architecture = find_architecture(task.settings.architecture)
    return {
        "architecture": architecture.name,
        # What was really built: a stand-in goes by its own name.
        "display_name": task.weights.architecture.display_name,
        "weights": {**task.weights.to_record(), "architecture": task.weights.architecture.name,
                    "display_name": task.weights.architecture.display_name,
                    "paper": task.weights.architecture.paper},
        "source_document_accuracy": architecture.source_document_accuracy,
        "preprocessing": task.preprocessing.to_record(),
        "settings": task.settings.model_dump(mode="json", exclude={"decision"}),
        "classes": list(task.manifest.classes),
        "positive": list(task.manifest.positive),
        "synthetic": task.manifest.record["synthetic"],
        "split": {name: task.splits.record[name] for name in ("strategy", "label", "optimistic", "seed")},
        "manifest_hash": task.manifest.content_hash,
        "seed": task.settings.seed,
        "device": task.compute.device,
        "precision": task.compute.precision,
        "engine": task.compute.engine,
        "inference_precision": task.compute.inference_precision,
        "processes": started_processes().count,
        "git_commit": git_commit(),
        "versions": versions(),
        "hardware": hardware(),
    }  # fmt: skip
