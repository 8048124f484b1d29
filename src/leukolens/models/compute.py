"""Where and how a network computes: device, precision, engine, memory allocator.

In: settings and the machine. Out: a Compute record. Writes: nothing.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch

from leukolens import extras
from leukolens.errors import SettingsError
from leukolens.models.architectures import Architecture
from leukolens.progress import logger
from leukolens.settings import Engine, EngineChoice, TrainSettings

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 << 20
_LARGEST_INT = 2**31 - 1

TORCH: Literal["torch"] = "torch"
OPENVINO: Literal["openvino"] = "openvino"
ONNX: Literal["onnx"] = "onnx"
INT8: Literal["int8"] = "int8"
EXPORTED_ENGINES = (ONNX, INT8)
"""Those that run an exported network, on a processor and from a bundle only."""


@dataclass(frozen=True)
class Compute:
    """How one network computes on this machine.

    `device` is "cpu", "cuda" or "mps"; `precision` ("bf16" or "fp32") is that of the training. Where the network is only
    asked, as for frozen features and predictions, it is run by `engine` in `inference_precision`.
    """

    device: str
    precision: str
    engine: Engine = TORCH
    asked_in: str | None = None
    """Precision in which the network is asked where that is another than in training."""

    @property
    def inference_precision(self) -> str:
        """Precision of frozen features and predictions: "bf16" or "fp32"; "int8" of an 8-bit network."""
        return self.asked_in or self.precision

    def inference_autocast(self) -> AbstractContextManager[object]:
        """The context in which PyTorch computes features."""
        if self.inference_precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)


def choose_compute(architecture: Architecture, settings: TrainSettings) -> Compute:
    """Choose the device, then bfloat16 where the device has it and this network gains by it, then the engine.

    The number of images is no part of the choice: the same network gives the same scores for one cell and for a million.
    """
    device = _choose_device(settings.device)
    engine = architecture.cpu_engine if device == "cpu" else TORCH
    if settings.precision != "auto":
        return Compute(device, settings.precision, engine)
    if device == "cuda":
        return Compute(device, "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")
    has_bf16 = device == "cpu" and _cpu_has_bf16()
    training, asking = (
        "bf16" if has_bf16 and pays else "fp32"
        for pays in (architecture.cpu_bf16_pays, architecture.cpu_bf16_inference_pays)
    )
    return Compute(device, training, engine, asking if asking != training else None)


def choose_engine(compute: Compute, wished: EngineChoice, exported: Collection[str]) -> Compute:
    """Take the engine that was wished, or for "auto" the fastest that keeps to the network's own precision.

    Args:
        compute: what `choose_compute` gave.
        wished: an engine by name, or "auto". That takes on a processor OpenVINO where its row says so or the network is
            there in OpenVINO's format; else ONNX Runtime where its format and the package are there; else PyTorch. The 8-bit
            network has to be asked for by name, because it answers some cells otherwise.
        exported: engines whose network lies in the bundle; none of a run.

    Raises:
        SettingsError: the engine needs a processor and another device was named, its network was not exported, or its package
            is not installed.
    """
    if wished == "auto":
        return replace(compute, engine=_fastest(compute, exported))
    if wished != TORCH and compute.device != "cpu":
        raise SettingsError(
            f"The engine {wished} computes on a processor only.",
            expected="--device cpu or auto",
            received=f"--device {compute.device}",
            remedy=f"leave --device out, or take --engine {TORCH}",
        )
    if wished not in EXPORTED_ENGINES:
        return replace(compute, engine=wished)
    if wished not in exported:
        raise SettingsError(
            f"There is no network for the engine {wished} here.",
            expected=f"a bundle with the format {wished}",
            received=f"one with {', '.join(exported)}" if exported else "a run, or a bundle without exported networks",
            remedy=f"`leukolens export RUN --manifest RESULTS --format {wished} --out BUNDLE` makes it; or take another engine",
        )
    if wished == ONNX:
        extras.require_package("onnxruntime", f"The engine {wished} needs onnxruntime.", remedy=extras.GET_EXPORT)
    return replace(compute, engine=wished, asked_in="fp32" if wished == ONNX else INT8)


def _fastest(compute: Compute, exported: Collection[str]) -> Engine:
    if compute.device != "cpu" or compute.engine == OPENVINO:
        return compute.engine
    if OPENVINO in exported:
        return OPENVINO
    # ONNX Runtime was never the fastest of those measured, but faster than PyTorch layer by layer.
    can_run_onnx = ONNX in exported and compute.inference_precision == "fp32" and extras.is_installed("onnxruntime")
    return ONNX if can_run_onnx else compute.engine


@cache
def tune_allocator() -> None:
    """Tell glibc to keep freed memory: worth 1.3x to 2.5x in PyTorch on a CPU (306,000 page faults a step without).

    Measured on 2 cores. A no-op where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, _TOP_PAD_BYTES)):
        mallopt(parameter, value)


def _choose_device(wanted: str) -> str:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[wanted]:
        usable = ", ".join(name for name, is_there in available.items() if is_there)
        raise SettingsError(
            f"The device {wanted} is not to be had on this machine.",
            expected=f"one of {usable}, or auto",
            received=wanted,
            remedy="leave --device at auto, or install a PyTorch build and driver for that device",
        )
    return wanted


@cache
def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    has = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    logger.debug("processor computes in bfloat16: %s", has)
    return has
