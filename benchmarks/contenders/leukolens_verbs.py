"""leukolens, measured through what its verbs call: fine-tuning, feature extraction, `compare`.

In: a job. Out: one JSON line. Writes: a run directory or results in a temporary folder, as the verbs do.

Nothing is rebuilt here: `train` times the steps of `fine_tune` from one end of a batch to the next, so that reading
pixels, augmentation, schedule and Lightning's own work are in it; `features` and `infer` time `computed_features`.
Weights are random, for none can be downloaded everywhere. Batch normalisation stands on the statistics of one batch, as
that of pretrained networks stands on theirs.

    python -m contenders.leukolens_verbs train --contender leukolens --architecture resnet50 --work FOLDER
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from contenders.measuring import COMPUTE_IMAGES, MANIFEST_FILE, Clock, Job, Measured, run, timed
from leukolens.artifacts import Manifest
from leukolens.data.pixel_cache import PixelCache
from leukolens.models.classifier import Classifier
from leukolens.models.compute import tune_allocator
from leukolens.pipeline import compare as compare_verb
from leukolens.settings import CompareSettings, TrainSettings
from leukolens.training.batches import TrainingImages
from leukolens.training.features import FeatureExtractor, computed_features, to_levels
from leukolens.training.finetuning import FineTuning, fine_tune
from leukolens.training.head import linear_logits
from leukolens.training.train import frozen_extractor

# More steps than any clock waits for, so that no end of an epoch falls into the measurement.
_STEPS_PER_EPOCH = 5_000
# C-NMC 2019: 10,661 cells, 70 % for training and 15 % for validation, six epochs.
_WHOLE_TRAIN, _WHOLE_VALIDATION, _WHOLE_EPOCHS = 7_463, 1_599, 6
_QUICK_STEPS = 2


def train(job: Job) -> Measured:
    """Steps of the fine-tuning, from the end of one batch to the end of the next."""
    clock = Clock(job.batch, job.seconds, _synchroniser(job.device))
    settings = _settings(job)
    extractor = _extractor(job, settings)
    _settle_norms(extractor.classifier, job)
    rows = np.arange(_STEPS_PER_EPOCH * job.batch) % min(COMPUTE_IMAGES, len(job.pixels()))
    images = TrainingImages(job.few_pixels(), rows, rows % 2, rows[:2], rows[:2] % 2)
    _tick_after_each_batch(clock)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            fine_tune(extractor.classifier, images, settings, extractor.compute, Path(folder))

    return timed(clock, work, _described(extractor))


def features(job: Job) -> Measured:
    """Frozen features of cached pixels, as head training and cross-validation ask for them."""
    return _forward(job, with_head=False)


def infer(job: Job) -> Measured:
    """Logits of cached pixels, as `predict` gives them: features, then the head."""
    return _forward(job, with_head=True)


def compare(job: Job) -> Measured:
    """The whole verb: index, cache, cross-validation, one epoch of fine-tuning, prediction, intervals, report."""
    root = Path(Manifest.load(job.work / MANIFEST_FILE).root)
    names = () if job.architecture == "all" else (job.architecture,)
    settings = CompareSettings(architectures=names, train=TrainSettings(weights="none", finetune_epochs=1, device=job.device))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=job.work) as folder:
        comparison = compare_verb(root, Path(folder), settings)
    seconds, images = time.perf_counter() - began, len(Manifest.load(job.work / MANIFEST_FILE).images)
    detail = f"{images} images, {len(comparison.table)} rows, 5 folds x 3 repeats, one epoch of fine-tuning, report"
    return Measured(None, 0.0, detail, {"seconds": seconds, "images": images})


def whole(job: Job) -> Measured:
    """A complete fine-tuning at the size of C-NMC 2019, validation and checkpoints included."""
    is_quick = job.seconds == 0
    train_images, validation = (job.batch * _QUICK_STEPS, job.batch) if is_quick else (_WHOLE_TRAIN, _WHOLE_VALIDATION)
    epochs = 1 if is_quick else _WHOLE_EPOCHS
    settings = _settings(job).model_copy(update={"finetune_epochs": epochs, "patience": epochs})
    extractor = _extractor(job, settings)
    _settle_norms(extractor.classifier, job)
    seen, unseen = (np.arange(images) % len(job.pixels()) for images in (train_images, validation))
    images = TrainingImages(job.pixels(), seen, seen % 2, unseen, unseen % 2)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fine_tune(extractor.classifier, images, settings, extractor.compute, Path(folder))
    seconds = time.perf_counter() - began
    detail = f"{train_images} training and {validation} validation images, {epochs} epochs; {_described(extractor)}"
    return Measured(train_images * epochs / seconds, 0.0, detail, {"seconds": seconds})


def _forward(job: Job, *, with_head: bool) -> Measured:
    """A first call warms up, a second one tells how many images fill the time, the third is measured."""
    began = time.perf_counter()
    extractor = _extractor(job, _settings(job))
    pixels = job.few_pixels()
    cache = PixelCache(pixels, tuple(map(str, range(len(pixels)))), tuple(map(str, range(len(pixels)))))
    head = extractor.classifier.head

    def seconds_for(images: int) -> float:
        found = computed_features(extractor, cache, (np.arange(images) % len(pixels)).tolist())
        started = time.perf_counter()
        if with_head:
            linear_logits(found.values, head.weight, head.bias)
        return found.seconds + time.perf_counter() - started

    seconds_for(job.batch)
    warmup = time.perf_counter() - began
    rate = 2 * job.batch / seconds_for(2 * job.batch)
    images = max(2, round(rate * job.seconds / job.batch)) * job.batch
    return Measured(images / seconds_for(images), warmup, _described(extractor))


def _settings(job: Job) -> TrainSettings:
    return TrainSettings.model_validate({
        "architecture": job.architecture, "weights": "none", "finetune_epochs": 1, "batch_size": job.batch,
        "input_px": job.input_px, "device": job.device,
    })  # fmt: skip


def _extractor(job: Job, settings: TrainSettings) -> FeatureExtractor:
    tune_allocator()
    logging.getLogger("leukolens").setLevel(logging.ERROR)
    return frozen_extractor(Manifest.load(job.work / MANIFEST_FILE), settings)


def _settle_norms(classifier: Classifier, job: Job) -> None:
    """Give batch normalisation the statistics of one batch and keep them, as is done with pretrained networks."""
    layers = [layer for layer in classifier.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean of the batches seen
    classifier.train()
    with torch.no_grad():
        classifier(to_levels(job.few_pixels()[: job.batch], "cpu"))
    classifier.norm_layers_frozen = True


def _tick_after_each_batch(clock: Clock) -> None:
    """Hook the clock to the end of the training step, after the optimiser's."""
    then: Callable[..., Any] = FineTuning.on_train_batch_end

    def ticking(tuning: FineTuning, *arguments: object) -> None:
        then(tuning, *arguments)
        clock.tick()

    FineTuning.on_train_batch_end = ticking  # type: ignore[method-assign, assignment]


def _described(extractor: FeatureExtractor) -> str:
    return f"{extractor.compute.device}, {extractor.compute.precision}"


def _synchroniser(device: str) -> Callable[[], object]:
    return torch.cuda.synchronize if device == "cuda" else lambda: None


if __name__ == "__main__":
    run(
        {"train": train, "features": features, "infer": infer, "compare": compare, "whole": whole},
        ["leukolens", "torch", "torchvision", "timm", "lightning", "pillow", "numpy"],
    )  # fmt: skip
