"""What the machine can do at most, and what the networks ask of it.

In: a job. Out, as one JSON line: floating-point operations per second of a matrix product in bfloat16 and float32, or
operations of each network per image, forward and in a training step. Writes: nothing. A multiplication and an addition
count as two operations, in both.

    python -m contenders.arithmetic limit --contender limit --work FOLDER
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from contenders.measuring import Job, Measured, run

_CPU_SIDE, _CUDA_SIDE = 4096, 8192
_FEWEST_PRODUCTS = 3
_TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def limit(job: Job) -> Measured:
    """Operations per second of a product of two square matrices, in each of both types."""
    side = _CUDA_SIDE if job.device == "cuda" else _CPU_SIDE
    seconds = max(1.0, job.seconds / 4)
    found = {f"{name}_flops": _product_flops(side, kind, job.device, seconds) for name, kind in _TYPES.items()}
    where = torch.cuda.get_device_name() if job.device == "cuda" else job.device
    return Measured(None, 0.0, f"product of two {side} x {side} matrices on {where}", found)


def flops(job: Job) -> Measured:
    """Operations of each of the five networks per image: `forward`, and `train` with the backward pass."""
    from leukolens.models.architectures import FIVE_ARCHITECTURES

    return Measured(None, 0.0, "counted on one image", {"flops": {name: _counted(name, job) for name in FIVE_ARCHITECTURES}})


def _product_flops(side: int, kind: torch.dtype, device: str, seconds: float) -> float:
    synchronise: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    left, right = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
    torch.mm(left, right)
    synchronise()
    products, began = 0, time.perf_counter()
    while products < _FEWEST_PRODUCTS or time.perf_counter() - began < seconds:
        torch.mm(left, right)
        synchronise()
        products += 1
    return products * 2 * side**3 / (time.perf_counter() - began)


def _counted(name: str, job: Job) -> dict[str, float]:
    from leukolens.data.preprocessing import Preprocessing
    from leukolens.models.architectures import find_architecture
    from leukolens.models.classifier import build_classifier
    from leukolens.models.weights import find_weights
    from leukolens.settings import TrainSettings

    weights = find_weights(find_architecture(name), TrainSettings(weights="none"))
    preprocessing = Preprocessing((job.input_px, job.input_px), job.input_px, weights.mean, weights.std)
    classifier = build_classifier(weights, preprocessing, classes=2, dropout=0.0, seed=0).eval()
    first = next(layer for layer in classifier.modules() if isinstance(layer, nn.Conv2d))
    outputs: list[int] = []
    first.register_forward_hook(lambda layer, inputs, output: outputs.append(output.numel()))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        classifier(torch.zeros(1, 3, job.input_px, job.input_px))
    forward = float(counter.get_total_flops())
    of_first = 2.0 * outputs[0] * first.weight[0].numel()
    # Each layer gives a gradient to its weights and one to its input, at the price of a forward pass each; the image needs
    # none. Counted by hand, because the counter takes the backward pass of grouped convolutions for that of full ones.
    return {"forward": forward, "train": 3 * forward - of_first}


if __name__ == "__main__":
    run({"limit": limit, "flops": flops}, ["torch"])
