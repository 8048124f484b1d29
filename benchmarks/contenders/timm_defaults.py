"""timm, with the defaults of its own training and validation scripts: float32, eager, SGD with momentum.

In: a job. Out: one JSON line. Writes: nothing. Of the scripts' defaults the optimiser (SGD, momentum 0.9, weight decay 2e-5)
and the label smoothing (0.1) are kept; mixed precision, channels last and compilation are options there and stay off.
Pixels come as to the plain PyTorch loop. timm has no AlexNet, and its VGG16 keeps the two wide layers of its head.

    python -m contenders.timm_defaults train --contender timm --architecture resnet50 --work FOLDER
"""

from __future__ import annotations

import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2

from contenders.measuring import Clock, Job, Measured, run, timed
from contenders.torchvision_loop import batches

_CLASSES = 2
_SMOOTHING = 0.1
_LEARNING_RATE, _MOMENTUM, _WEIGHT_DECAY = 0.05, 0.9, 2e-5


def train(job: Job) -> Measured:
    """Forward, smoothed loss, backward, SGD."""
    clock = Clock(job.batch, job.seconds)
    network = timm.create_model(job.architecture, num_classes=_CLASSES).train()
    optimiser = create_optimizer_v2(network, opt="sgd", lr=_LEARNING_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
    loss_of = LabelSmoothingCrossEntropy(smoothing=_SMOOTHING)

    def work() -> None:
        for images, labels in batches(job):
            loss = loss_of(network(images), labels)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            clock.tick()

    return timed(clock, work, "eager, float32, SGD with momentum")


def features(job: Job) -> Measured:
    """The network without a classifier."""
    return _forward(job, classes=0)


def infer(job: Job) -> Measured:
    """Logits, as in the validation script."""
    return _forward(job, classes=_CLASSES)


def _forward(job: Job, classes: int) -> Measured:
    clock = Clock(job.batch, job.seconds)
    network = timm.create_model(job.architecture, num_classes=classes).eval()

    def work() -> None:
        with torch.inference_mode():
            for images, _ in batches(job):
                network(images)
                clock.tick()

    return timed(clock, work, "eager, float32")


if __name__ == "__main__":
    run({"train": train, "features": features, "infer": infer}, ["timm", "torch"])
