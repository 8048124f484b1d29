"""What made a result: versions, hardware, commit, memory.

In: nothing. Out: JSON objects. Writes: nothing.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

LIBRARIES = ("leukolens", "torch", "torchvision", "timm", "lightning", "numpy", "pandas", "pyarrow", "scikit-learn",
             "pillow", "safetensors")  # fmt: skip

_MACOS = "darwin"


def versions() -> dict[str, str]:
    """Version of Python and of each library that touches a number."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}


def hardware() -> dict[str, str | int]:
    """Processor, cores and system."""
    return {"processor": _processor(), "cores": os.cpu_count() or 1, "system": platform.platform()}


def git_commit() -> str | None:
    """Commit of the source tree that runs, with "+changes" where it is dirty; None where it is installed elsewhere."""
    folder = Path(__file__).parent
    top, described = _git(folder, "rev-parse", "--show-toplevel"), _git(folder, "rev-parse", "HEAD")
    if top is None or described is None or Path(top) / "src" / folder.name != folder:
        return None
    return described + ("+changes" if _git(folder, "status", "--porcelain", "--", str(folder)) else "")


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == _MACOS else peak / 2**20


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
