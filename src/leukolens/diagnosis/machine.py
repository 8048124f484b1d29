"""Processor, cores, memory, graphics, threads, allocator, clock: what this process may use, not what the machine has.

In: the operating system and PyTorch. Out: Findings. Writes: nothing.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from leukolens import provenance
from leukolens.diagnosis.findings import NOTE, OK, PROBLEM, Finding

TOPIC = "machine"

# Peak memory, measured on 2 cores: predict with AlexNet 1.3 GiB, fine-tuning DenseNet-121 at batch size 32 3.2 GiB.
_LEAST_MEMORY_BYTES = int(1.5 * 2**30)
_ENOUGH_MEMORY_BYTES = 4 * 2**30
_FAST_INSTRUCTIONS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Limits:
    """What control groups leave to this process: `cores` (may be a fraction) and `memory_bytes`; None where nothing is said."""

    cores: float | None = None
    memory_bytes: int | None = None


def cgroup_limits(root: Path = Path("/")) -> Limits:
    """Read the tightest limits of the control groups that this process is in, of version 2 or 1; none where there are none.

    Args:
        root: the root of the file system; another one in tests.
    """
    cores, memory = [], []
    for folder in _groups(root):
        cores += [value for value in (_quota_of_two(folder), _quota_of_one(folder)) if value]
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(folder / name)
            # Version 1 writes a number near 2**63 where there is no limit.
            if text.isdecimal() and int(text) < 2**60:
                memory.append(int(text))
    return Limits(min(cores, default=None), min(memory, default=None))


def usable_cores(limits: Limits) -> int:
    """Whole cores that this process may keep busy: those it may run on, and no more than its control group's share."""
    # Not on every system can a process be bound to some cores.
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, bound if limits.cores is None else min(bound, int(limits.cores)))


def check_hardware(limits: Limits) -> list[Finding]:
    """Cores, memory and clock; asks nothing but the operating system."""
    return [_cores(limits), _memory(limits), _clock()]


def check_compute(limits: Limits) -> list[Finding]:
    """Instructions, graphics, threads and allocator, as PyTorch sees them; loads PyTorch."""
    return [_instructions(), _graphics(), _threads(usable_cores(limits)), _allocator()]


def memory_bytes(limits: Limits) -> int:
    """Memory of the machine, or what the control group leaves of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total if limits.memory_bytes is None else min(total, limits.memory_bytes)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups and of those above them."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for mount in (controllers, *controllers.split(",")) if controllers else ("",):
            top = root / "sys/fs/cgroup" / mount
            folder = top / path.lstrip("/")
            yield from (each for each in (folder, *folder.parents) if each == top or top in each.parents)


def _quota_of_two(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _quota_of_one(folder: Path) -> float | None:
    quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cores(limits: Limits) -> Finding:
    hardware, usable = provenance.hardware(), usable_cores(limits)
    limit = "" if limits.cores is None else f" (control group: {limits.cores:g})"
    found = f"{hardware['processor']}; {usable} of {hardware['cores']} cores usable{limit}; {hardware['system']}"
    return Finding(TOPIC, "processor", OK, found, figures={**hardware, "usable_cores": usable, "cgroup_cores": limits.cores})


def _memory(limits: Limits) -> Finding:
    usable = memory_bytes(limits)
    figures = {"usable_bytes": usable, "cgroup_bytes": limits.memory_bytes}
    limit = "" if limits.memory_bytes is None else ", the limit of the control group"
    found = f"{usable / 2**30:.1f} GiB{limit}"
    if usable < _LEAST_MEMORY_BYTES:
        remedy = "give it 4 GiB: even to score with the smallest network takes 1.3"
        return Finding(TOPIC, "memory", PROBLEM, found, remedy, figures)
    if usable < _ENOUGH_MEMORY_BYTES:
        remedy = "enough to predict; fine-tuning takes up to 3.2 GiB: train with --head-only, or a smaller --batch-size"
        return Finding(TOPIC, "memory", NOTE, found, remedy, figures)
    return Finding(TOPIC, "memory", OK, found, figures=figures)


def _clock() -> Finding:
    """The clock stands in every record; one that was never set is before the files of this package were written."""
    now = time.time()
    written = max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))
    shown = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    figures = {"utc": shown}
    if now < written - _DAY_SECONDS:
        remedy = "set the clock: dates in every record, and encrypted connections, depend on it"
        return Finding(TOPIC, "clock", NOTE, f"{shown}, before leukolens was installed", remedy, figures)
    return Finding(TOPIC, "clock", OK, shown, figures=figures)


def _instructions() -> Finding:
    import torch

    there = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    has = {name: bool(there.get(name)) for name in _FAST_INSTRUCTIONS}
    has_bf16 = has["avx512_bf16"] or has["amx_bf16"]
    named = ", ".join(name for name, is_there in has.items() if is_there) or "none of those that make networks faster"
    computes = "bfloat16 is computed by the processor" if has_bf16 else "no bfloat16: the processor computes in float32"
    return Finding(TOPIC, "instructions", OK, f"{named}; {computes}", figures={**has, "bf16": has_bf16})


def _graphics() -> Finding:
    import torch

    names = [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        names.append("Apple GPU (mps)")
    figures = {"gpus": names, "cuda_build": torch.version.cuda}
    if names:
        return Finding(TOPIC, "graphics", OK, ", ".join(names), figures=figures)
    if _NVIDIA_DRIVER.is_file():
        found = f"an NVIDIA driver, but PyTorch {torch.__version__} cannot use it"
        remedy = "a PyTorch built for CUDA, and a driver as new as it asks for; in a container also --gpus all"
        return Finding(TOPIC, "graphics", NOTE, found, remedy, figures)
    return Finding(TOPIC, "graphics", OK, "none; everything runs on the processor", figures=figures)


def _threads(usable: int) -> Finding:
    import torch

    threads, asked = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    figures = {"threads": threads, "OMP_NUM_THREADS": asked, "usable_cores": usable}
    found = f"{threads} of PyTorch and OpenVINO" + (f" (OMP_NUM_THREADS={asked})" if asked else "")
    if threads > usable:
        remedy = f"OMP_NUM_THREADS={usable}: more threads than cores wait for each other"
        return Finding(TOPIC, "threads", NOTE, f"{found}, on {usable} usable cores", remedy, figures)
    return Finding(TOPIC, "threads", OK, found, figures=figures)


def _allocator() -> Finding:
    preloaded, (library, version) = os.environ.get("LD_PRELOAD", ""), platform.libc_ver()
    figures = {"c_library": f"{library} {version}".strip(), "preloaded": preloaded}
    if preloaded:
        return Finding(TOPIC, "allocator", OK, f"preloaded: {preloaded}", figures=figures)
    if library == "glibc":
        return Finding(TOPIC, "allocator", OK, f"glibc {version}, which leukolens tells to keep freed memory", figures=figures)
    return Finding(TOPIC, "allocator", OK, f"that of {platform.system()}, left as it is", figures=figures)
