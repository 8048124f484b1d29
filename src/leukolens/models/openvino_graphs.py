"""Networks as OpenVINO's graphs, compiled for this processor.

In: a network that reads pixels uint8 [batch, height, width, 3], or a graph. Out: a graph, or a compiled one. Writes: nothing.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from leukolens.models.compute import Compute

if TYPE_CHECKING:
    import openvino

# Of an 8-bit network, what is not in 8 bits stays in float32.
_PRECISION_HINTS = {"bf16": "bf16", "fp32": "f32", "int8": "f32"}


def to_openvino(network: nn.Module, shape: tuple[int, int, int, int]) -> openvino.Model:
    """Translate a network that reads uint8 pixels to OpenVINO's graph, for `shape` [batch, height, width, 3]; -1 is any batch.

    Through the front end itself and not through `openvino.convert_model`, which reports its use to its maker.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    one_image = torch.zeros((1, *shape[1:]), dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        # OpenVINO 2026.4 reads what torch.export gives only with tracebacks on the log, and AlexNet is then 20 % slower.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.trace\w*` is deprecated")
        traced = torch.jit.trace(network, (one_image,), check_trace=False)  # type: ignore[no-untyped-call]
        # Weights are copied: fine-tuning changes the classifier's own in place.
        decoder = TorchScriptPythonDecoder(traced, shared_memory=False)
    front_end = FrontEndManager().load_by_framework("pytorch")
    model = front_end.convert(front_end.load(decoder))
    model.reshape(list(shape))
    return model


def compile_for_processor(model: openvino.Model, compute: Compute) -> openvino.CompiledModel:
    """Make OpenVINO's graph ready for this processor, in the precision of `compute`."""
    return openvino_core().compile_model(model, "CPU", _configuration(compute))


@cache
def openvino_core() -> openvino.Core:
    """OpenVINO, one for the process."""
    # A tenth of a second to import, and needed on processors only.
    import openvino

    return openvino.Core()


def _configuration(compute: Compute) -> dict[str, str]:
    return {
        "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[compute.inference_precision],
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time on all threads
        "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
    }
