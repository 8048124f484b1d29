"""fastai, as its tutorials have it: `vision_learner`, `fit_one_cycle`, `get_preds`; float32.

In: a job. Out: one JSON line. Writes: nothing. The head is fastai's own (two poolings, two linear layers). Pixels lie in
memory; scaling and normalisation are fastai's batch transforms; no image is augmented.

    python -m contenders.fastai_learner train --contender fastai --architecture resnet50 --work FOLDER
"""

from __future__ import annotations

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner  # importing it gives Learner its fit_one_cycle
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorCategory
from fastai.vision.core import TensorImage, imagenet_stats
from fastai.vision.learner import vision_learner
from torchvision import models

from contenders.measuring import Clock, Job, Measured, run, timed

_CLASSES = 2
_STEPS_PER_EPOCH = 5_000


class Ticking(Callback):  # type: ignore[misc]  # fastai has no types
    """Ticks the clock after each batch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def after_batch(self) -> None:
        """One step, the optimiser's included."""
        self.clock.tick()


class InMemory:
    """Images uint8 [3, side, side] and labels, the same few over and over."""

    def __init__(self, job: Job) -> None:
        self.pixels = torch.from_numpy(job.few_pixels()).permute(0, 3, 1, 2).contiguous()
        self.items = range(_STEPS_PER_EPOCH * job.batch)

    def __len__(self) -> int:
        """Give the number of images in an epoch."""
        return len(self.items)

    def __getitem__(self, position: int) -> tuple[TensorImage, TensorCategory]:
        """Give one image and its label."""
        image = self.pixels[position % len(self.pixels)]
        return TensorImage(image), TensorCategory(np.int64(position % _CLASSES))


def train(job: Job) -> Measured:
    """Steps of `fit_one_cycle`."""
    clock = Clock(job.batch, job.seconds)
    learner = _learner(job, clock)

    def work() -> None:
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(1)

    return timed(clock, work, "fit_one_cycle, float32")


def infer(job: Job) -> Measured:
    """Steps of `get_preds`."""
    clock = Clock(job.batch, job.seconds)
    learner = _learner(job, clock)

    def work() -> None:
        with learner.no_bar(), learner.no_logging():
            learner.get_preds(dl=learner.dls.valid)

    return timed(clock, work, "get_preds, float32")


def _learner(job: Job, clock: Clock) -> Learner:
    images = InMemory(job)
    on_batches = [IntToFloatTensor, Normalize.from_stats(*imagenet_stats)]
    loaders = [TfmdDL(images, bs=job.batch, num_workers=0, after_batch=on_batches) for _ in range(2)]
    architecture = models.get_model_builder(job.architecture)
    return vision_learner(
        DataLoaders(*loaders), architecture, pretrained=False, n_out=_CLASSES, normalize=False,
        loss_func=CrossEntropyLossFlat(), cbs=[Ticking(clock)],
    )  # fmt: skip


if __name__ == "__main__":
    run({"train": train, "infer": infer}, ["fastai", "torch", "torchvision"])
