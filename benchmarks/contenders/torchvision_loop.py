"""torchvision's networks and a plain PyTorch loop, as tutorials have it: float32, eager, the C library's own allocator.

In: a job. Out: one JSON line. Writes: nothing. Pixels lie in memory as uint8 and are normalised batch by batch; no image is
augmented. The networks are those of leukolens: the library's trunk, average pooling and a new linear layer.

On a GPU the contenders `channels-last-bf16` (autocast, channels last, fused Adam) and `compiled-bf16` (the same through
`torch.compile` with CUDA graphs) show what plain PyTorch can be brought to by hand.

    python -m contenders.torchvision_loop train --contender torchvision --architecture resnet50 --work FOLDER
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models
from torchvision.transforms import v2

from contenders.measuring import Clock, Job, Measured, run, timed

_CLASSES = 2
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, in every tutorial
_LEARNING_RATE = 1e-4
_WORKERS = 2

EAGER, TUNED, COMPILED = "torchvision", "channels-last-bf16", "compiled-bf16"


def train(job: Job) -> Measured:
    """Forward, loss, backward, Adam."""
    clock = _clock(job)
    network = _placed(build(job.architecture), job).train()
    # Fused Adam is asked for in the tuned forms only: the plain loop takes what the class gives by default.
    optimiser = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE, fused=None if job.contender == EAGER else True)
    loss_of = nn.CrossEntropyLoss()
    forward = _compiled(network, job)

    def work() -> None:
        for images, labels in batches(job):
            optimiser.zero_grad()
            with _autocast(job):
                loss = loss_of(forward(images), labels)
            loss.backward()
            optimiser.step()
            clock.tick()

    return timed(clock, work, _described(job))


def features(job: Job) -> Measured:
    """The network without its last layer."""
    network = build(job.architecture)
    last = "fc" if hasattr(network, "fc") else "classifier"
    setattr(network, last, nn.Flatten())
    return _forward(job, network)


def infer(job: Job) -> Measured:
    """Logits in evaluation mode without gradients."""
    return _forward(job, build(job.architecture))


def data_cold(job: Job) -> Measured:
    """A DataLoader of two worker processes that decode, resize and hand over uint8 batches."""
    files = ImageFiles(job.cells(), job.input_px)
    loader = DataLoader(files, batch_size=job.batch, num_workers=_WORKERS, persistent_workers=True)
    clock = Clock(len(files), job.seconds)

    def work() -> None:
        while True:
            for _ in loader:
                pass
            clock.tick()

    return timed(clock, work, f"DataLoader, {_WORKERS} workers, PIL and torchvision.transforms.v2.Resize")


class ImageFiles(Dataset[Tensor]):
    """Image files as uint8 [3, side, side]."""

    def __init__(self, paths: list[str], side_px: int) -> None:
        self.paths = paths
        self.transform = v2.Compose([v2.Resize((side_px, side_px), antialias=True), v2.PILToTensor()])

    def __len__(self) -> int:
        """Give the number of files."""
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        """Decode and resize one file."""
        with Image.open(self.paths[position]) as image:
            pixels: Tensor = self.transform(image.convert("RGB"))
        return pixels


def build(architecture: str) -> nn.Module:
    """Give torchvision's network with average pooling and a new last layer."""
    network: Any = models.get_model(architecture, weights=None)
    if architecture in ("vgg16", "alexnet"):
        # Their own heads hold nine tenths of their weights; all contenders here pool and have one linear layer instead.
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.classifier = nn.Linear(512 if architecture == "vgg16" else 256, _CLASSES)
    elif architecture == "resnet50":
        network.fc = nn.Linear(network.fc.in_features, _CLASSES)
    elif architecture == "densenet121":
        network.classifier = nn.Linear(network.classifier.in_features, _CLASSES)
    else:
        network.classifier[1] = nn.Linear(network.classifier[1].in_features, _CLASSES)
    built: nn.Module = network
    return built


def batches(job: Job) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised float batches [batch, 3, side, side] and labels, on and on."""
    pixels = job.few_pixels()
    labels = torch.from_numpy(np.arange(len(pixels)) % _CLASSES)
    start = 0
    while True:
        stop = start + job.batch
        yield normalised(pixels[start:stop], job), labels[start:stop].to(job.device)
        start = stop % (len(pixels) // job.batch * job.batch)


def normalised(pixels: NDArray[np.uint8], job: Job) -> Tensor:
    """Scale uint8 [batch, side, side, 3] as tutorials do: to 0–1, then by ImageNet's mean and standard deviation."""
    levels = torch.from_numpy(pixels).to(job.device).permute(0, 3, 1, 2)
    if job.contender == EAGER:
        levels = levels.contiguous()  # what ToTensor gives
    mean, std = (torch.tensor(each, device=job.device).view(1, 3, 1, 1) for each in (_MEAN, _STD))
    return (levels.float() / 255 - mean) / std


def _forward(job: Job, network: nn.Module) -> Measured:
    clock = _clock(job)
    forward = _compiled(_placed(network, job).eval(), job)

    def work() -> None:
        with torch.no_grad():
            for images, _ in batches(job):
                with _autocast(job):
                    forward(images).float().cpu()
                clock.tick()

    return timed(clock, work, _described(job))


def _placed(network: nn.Module, job: Job) -> nn.Module:
    if job.contender != EAGER:
        network = network.to(memory_format=torch.channels_last)
    return network.to(job.device)


def _compiled(network: nn.Module, job: Job) -> Callable[[Tensor], Tensor]:
    if job.contender != COMPILED:
        return network
    # Without a GPU there are no graphs to capture: only the tracing is tried, which takes seconds in place of minutes.
    on_gpu = job.device == "cuda"
    forward: Callable[[Tensor], Tensor] = torch.compile(
        network, mode="reduce-overhead" if on_gpu else None, backend="inductor" if on_gpu else "aot_eager"
    )
    return forward


def _autocast(job: Job) -> AbstractContextManager[object]:
    return nullcontext() if job.contender == EAGER else torch.autocast(job.device, dtype=torch.bfloat16)


def _clock(job: Job) -> Clock:
    return Clock(job.batch, job.seconds, torch.cuda.synchronize if job.device == "cuda" else lambda: None)


def _described(job: Job) -> str:
    graphs = "with CUDA graphs" if job.device == "cuda" else "traced only"
    by_hand = "bfloat16, channels last, fused Adam in training"
    return {EAGER: "eager, float32", TUNED: f"eager, {by_hand}", COMPILED: f"torch.compile, {graphs}, {by_hand}"}[job.contender]


if __name__ == "__main__":
    run({"train": train, "features": features, "infer": infer, "data_cold": data_cold}, ["torch", "torchvision", "pillow"])
