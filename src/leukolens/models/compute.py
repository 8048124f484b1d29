"""Where and how a network computes: device, precision, memory allocator.

In: settings and the machine. Out: a Compute record. Writes: nothing.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch

from leukolens.errors import SettingsError
from leukolens.models.architectures import Architecture
from leukolens.progress import logger
from leukolens.settings import TrainSettings

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 << 20
_LARGEST_INT = 2**31 - 1


@dataclass(frozen=True)
class Compute:
    """`device` ("cpu", "cuda", "mps") and `precision` ("bf16" or "fp32") as chosen for one network."""

    device: str
    precision: str

    def autocast(self) -> AbstractContextManager[object]:
        """The context that a forward pass runs in."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)


def choose_compute(architecture: Architecture, settings: TrainSettings) -> Compute:
    """Choose the device, then bfloat16 where the device has it and this network gains by it."""
    device = _choose_device(settings.device)
    if settings.precision != "auto":
        return Compute(device, settings.precision)
    if device == "cuda":
        return Compute(device, "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")
    pays = device == "cpu" and _cpu_has_bf16() and architecture.cpu_bf16_pays
    return Compute(device, "bf16" if pays else "fp32")


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
