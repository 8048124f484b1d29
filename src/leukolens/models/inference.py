"""Asking a network without training it: from grey levels to features on the engine that is fastest for it.

In: a classifier, a Compute and uint8 levels [images, 3, side, side]. Out: float32 features [images, width].
Writes: nothing.

Which engine runs is a matter of the machine and the architecture, never of the number of images: a cell's score must not
depend on how many others are scored beside it. docs/decisions/0016 has the measurements.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from leukolens.errors import ExportError
from leukolens.models.classifier import Classifier, hash_backbone
from leukolens.models.compute import EXPORTED_ENGINES, ONNX, OPENVINO, Compute, tune_allocator
from leukolens.models.exported import OnnxEngine, OpenVinoFileEngine
from leukolens.models.openvino_graphs import compile_for_processor, to_openvino
from leukolens.models.portions import Features as Features
from leukolens.models.portions import Pixels, in_portions
from leukolens.progress import logger

PORTION = 32
"""Images of a portion where no other number is given."""


class Engine(Protocol):
    """Anything that gives features float32 [images, width] of levels uint8 [images, 3, side, side] in any memory format."""

    def __call__(self, levels: Tensor) -> Features:
        """Compute one batch."""


class EagerEngine:
    """PyTorch layer by layer, on the classifier itself: any network, any device; in portions of one fixed size."""

    def __init__(self, classifier: Classifier, compute: Compute, batch_size: int = PORTION) -> None:
        self.classifier = classifier.to(memory_format=torch.channels_last).to(compute.device).eval()
        self.compute = compute
        self.batch_size = batch_size

    def __call__(self, levels: Tensor) -> Features:
        """Features of any number of images, brought back from the device."""
        with torch.inference_mode(), self.compute.inference_autocast():
            starts = range(0, len(levels), self.batch_size)
            return np.concatenate([self._portion(levels[start : start + self.batch_size]) for start in starts])

    def _portion(self, levels: Tensor) -> Features:
        """As `in_portions` does, on the device."""
        filled = torch.zeros((self.batch_size, *levels.shape[1:]), dtype=torch.uint8, device=self.compute.device)
        # Copied even where the portion is full: turned images lie otherwise in memory, and would be computed otherwise.
        filled = filled.contiguous(memory_format=torch.channels_last)
        filled[: len(levels)] = levels.to(self.compute.device)
        features: Features = self.classifier.features(filled)[: len(levels)].float().cpu().numpy()
        return features


class CompiledEngine:
    """Normalisation and backbone compiled by OpenVINO for this processor, on a copy of the weights.

    Batch normalisation is folded into the convolutions. The batch is of one fixed size (see `in_portions`), which compiles to
    the fastest code.
    """

    def __init__(self, classifier: Classifier, compute: Compute, batch_size: int, side_px: int) -> None:
        self.shape = (batch_size, side_px, side_px, 3)
        self.compiled = compile_for_processor(to_openvino(_FromPixels(classifier.cpu().eval()), self.shape), compute)

    def __call__(self, levels: Tensor) -> Features:
        """Features of any number of images, in portions of the fixed size."""
        pixels = levels.permute(0, 2, 3, 1).contiguous().numpy()
        return in_portions(pixels, self.shape, self._ask)[0]

    def _ask(self, pixels: Pixels) -> list[Features]:
        return [self.compiled(pixels)[0]]


class Network:
    """A classifier ready to be asked: its engine is made when first needed and again when the weights have changed.

    `file` is the exported network that the engine runs; None where it is made from the classifier itself.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.engine: Engine | None = None
        self.weights = ""

    def prepare(self, classifier: Classifier, compute: Compute, batch_size: int, side_px: int) -> Engine:
        """Give the engine for these weights; seconds where it has to be compiled, else what hashing the weights takes."""
        tune_allocator()
        weights = hash_backbone(classifier)
        if self.engine is None or weights != self.weights:
            self.engine, self.weights = self._engine(classifier, compute, batch_size, side_px), weights
        return self.engine

    def _engine(self, classifier: Classifier, compute: Compute, batch_size: int, side_px: int) -> Engine:
        logger.debug("features computed by %s in %s on %s", compute.engine, compute.inference_precision, compute.device)
        if compute.engine == ONNX:
            return OnnxEngine(self._exported(compute), batch_size, side_px)
        if compute.engine in EXPORTED_ENGINES or (compute.engine == OPENVINO and self.file is not None):
            return OpenVinoFileEngine(self._exported(compute), compute, batch_size, side_px)
        if compute.engine == OPENVINO:
            return CompiledEngine(classifier, compute, batch_size, side_px)
        return EagerEngine(classifier, compute, batch_size)

    def _exported(self, compute: Compute) -> Path:
        if self.file is None:
            raise ExportError(
                f"The engine {compute.engine} runs an exported network, and none was given.",
                expected="a file of a bundle",
                received="a classifier only",
                remedy="open the bundle with Run.load and take the extractor that it gives",
            )
        return self.file


class _FromPixels(nn.Module):
    """Features of pixels as they lie in the cache, uint8 [batch, height, width, 3]."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier.features(pixels.permute(0, 3, 1, 2))
