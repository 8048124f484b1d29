"""The whole network as one graph, from pixels to probabilities, and the engines that run it from a file.

In: a classifier and a temperature; later a file of a bundle and pixels uint8 [images, side, side, 3], cropped and resized by
`data/preprocessing.py`. Out: Outputs. Writes: nothing (`serving/formats.py` writes the files).

The resize is not in the graph: no format has Pillow's antialiased filter bit by bit, and resizers differ by up to 50 levels.
Everything after it is: normalisation, network, head, temperature.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leukolens import extras
from leukolens.errors import ExportError
from leukolens.models.classifier import Classifier
from leukolens.models.compute import Compute
from leukolens.models.openvino_graphs import compile_for_processor, openvino_core
from leukolens.models.portions import Features as Features
from leukolens.models.portions import Pixels as Pixels
from leukolens.models.portions import Shape, in_portions

if TYPE_CHECKING:
    import onnxruntime

INPUT_NAME = "pixels"
OUTPUT_NAMES = ("probabilities", "logits", "features")

_ERRORS_ONLY = 3  # of onnxruntime's severities, 0 to 4


@dataclass(frozen=True)
class Outputs:
    """What the graph gives for n images and C classes.

    `probabilities` float32 [n, C]: softmax of the logits over the temperature; `logits` float32 [n, C]; `features` float32
    [n, width]: what outlier scores are computed from.
    """

    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    features: Features


class Answering(nn.Module):
    """The graph that is exported: pixels as they lie in the cache to probabilities, logits and features."""

    temperature: Tensor

    def __init__(self, classifier: Classifier, temperature: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer for uint8 [batch, height, width, 3]."""
        features = self.classifier.features(pixels.permute(0, 3, 1, 2)).float()
        # Not through the dropout in front of the head, which some converters keep as a layer.
        logits = self.classifier.head(features)
        return (logits / self.temperature).softmax(dim=1), logits, features


class ExportedEngine(ABC):
    """An exported network, asked in portions of one fixed `shape` (see `in_portions`)."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def __call__(self, levels: Tensor) -> Features:
        """Features of levels uint8 [images, 3, side, side], as any engine gives them."""
        return self.outputs(levels.permute(0, 2, 3, 1).contiguous().numpy()).features

    def outputs(self, pixels: Pixels) -> Outputs:
        """All outputs for pixels uint8 [images, side, side, 3], one image at least."""
        return Outputs(*in_portions(pixels, self.shape, self._ask))

    @abstractmethod
    def _ask(self, pixels: Pixels) -> list[Any]:
        """Give OUTPUT_NAMES, in that order, for a portion of the fixed size."""


class OnnxEngine(ExportedEngine):
    """ONNX Runtime on `network.onnx`, on this processor; also on the 8-bit copy, which OpenVINO runs faster.

    Raises SettingsError where the package is missing, ExportError where it cannot read the file.
    """

    def __init__(self, file: Path, batch_size: int, side_px: int) -> None:
        super().__init__((batch_size, side_px, side_px, 3))
        self.session = onnx_session(file)

    def _ask(self, pixels: Pixels) -> list[Any]:
        return list(self.session.run(list(OUTPUT_NAMES), {INPUT_NAME: pixels}))


class OpenVinoFileEngine(ExportedEngine):
    """OpenVINO on `network.xml` or an ONNX file, compiled for this processor in the precision of `compute`.

    The 8-bit network is run by it too: 1.4 to 2.7 times as fast as by ONNX Runtime (docs/export.md).

    Raises ExportError where it cannot read the file.
    """

    def __init__(self, file: Path, compute: Compute, batch_size: int, side_px: int) -> None:
        super().__init__((batch_size, side_px, side_px, 3))
        try:
            model = openvino_core().read_model(file)
            model.reshape(list(self.shape))
        except RuntimeError as error:
            raise _unreadable(file, error) from error
        self.compiled = compile_for_processor(model, compute)

    def _ask(self, pixels: Pixels) -> list[Any]:
        answers = self.compiled(pixels)
        return [answers[name] for name in OUTPUT_NAMES]


class LiteRtEngine(ExportedEngine):
    """LiteRT on `network.tflite`, which reads one image at a time: to try an export by, no engine of `predict`.

    Raises ExportError where it cannot read the file.
    """

    def __init__(self, file: Path, side_px: int) -> None:
        super().__init__((1, side_px, side_px, 3))
        from ai_edge_litert.interpreter import Interpreter

        try:
            self.runner = Interpreter(str(file), num_threads=torch.get_num_threads()).get_signature_runner()
        except (RuntimeError, ValueError) as error:
            raise _unreadable(file, error) from error

    def _ask(self, pixels: Pixels) -> list[Any]:
        answers = self.runner(**{INPUT_NAME: pixels})
        return [answers[f"output_{position}"] for position in range(len(OUTPUT_NAMES))]


def onnx_session(file: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file on this processor, with as many threads as PyTorch uses."""
    extras.require_package("onnxruntime", f"Reading {file.name} needs onnxruntime.", remedy=extras.GET_EXPORT)
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as problems

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    known = (problems.Fail, problems.InvalidArgument, problems.InvalidGraph, problems.InvalidProtobuf, problems.NoSuchFile,
             problems.NotImplemented, problems.RuntimeException)  # fmt: skip
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except known as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ExportError:
    return ExportError(
        f"{file} cannot be run.",
        expected="a network that this version of leukolens exported",
        received=str(error).strip().splitlines()[0],
        remedy="export the run again on this machine, or choose another --engine",
    )
