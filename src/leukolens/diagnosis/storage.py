"""Where results go, how much room is there, and what lies in caches that may be cleared.

In: the folder of the results. Out: Findings. Writes: a file without a name in the folder of the results, or in the first
folder above it that exists, to see whether it may; it is gone when the check ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from leukolens.diagnosis.findings import NOTE, OK, PROBLEM, Finding

TOPIC = "storage"

# The pixel cache of all of C-NMC 2019 at 224 px is 2.3 GB, five runs and their frozen features about as much again.
_LEAST_FREE_BYTES = 10**9
_ENOUGH_FREE_BYTES = 6 * 10**9


@dataclass(frozen=True)
class _Cache:
    """A folder that grows; `holds` says what with."""

    name: str
    folder: Path
    holds: str


def check_storage(out: Path) -> list[Finding]:
    """Whether results and temporary files can be written, and the size of each cache."""
    return [_results(out), _temporary(), *(_size(cache) for cache in _caches(out))]


def _results(out: Path) -> Finding:
    folder = next(each for each in (out, *out.resolve().parents) if each.exists())
    try:
        free = _free_if_writable(folder)
    except OSError as error:
        remedy = "name another folder with --out, or change who may write there"
        return Finding(TOPIC, "results", PROBLEM, f"{out} cannot be written: {error.strerror}", remedy, {"folder": str(out)})
    found, figures = f"{out}: {free / 1e9:.1f} GB free", {"folder": str(out), "free_bytes": free}
    if free < _LEAST_FREE_BYTES:
        return Finding(TOPIC, "results", PROBLEM, found, "make room, or name a folder on another disk with --out", figures)
    if free < _ENOUGH_FREE_BYTES:
        remedy = "enough for some thousand cells; all of C-NMC 2019 takes about 5 GB of caches and runs"
        return Finding(TOPIC, "results", NOTE, found, remedy, figures)
    return Finding(TOPIC, "results", OK, found, figures=figures)


def _temporary() -> Finding:
    try:
        folder = Path(tempfile.gettempdir())
        free = _free_if_writable(folder)
    except OSError as error:
        remedy = "set TMPDIR to a folder that may be written; in a container --tmpfs"
        return Finding(TOPIC, "temporary", NOTE, f"no folder for temporary files: {error.strerror}", remedy)
    figures = {"folder": str(folder), "free_bytes": free}
    return Finding(TOPIC, "temporary", OK, f"{folder}: {free / 1e9:.1f} GB free", figures=figures)


def _free_if_writable(folder: Path) -> int:
    """Free bytes of a folder; OSError where nothing can be written there."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"leukolens doctor")
        file.flush()
    return shutil.disk_usage(folder).free


def _caches(out: Path) -> list[_Cache]:
    # As PyTorch, Hugging Face and kagglehub look for them; asking the libraries would take seconds.
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    torch_home = Path(os.environ.get("TORCH_HOME", home / "torch"))
    hugging_face = Path(os.environ.get("HF_HOME", home / "huggingface"))
    return [
        _Cache("cache of results", out / "cache", "pixels and frozen features of these results"),
        _Cache("torchvision cache", torch_home / "hub", "weights that torchvision downloaded"),
        _Cache("timm cache", Path(os.environ.get("HF_HUB_CACHE", hugging_face / "hub")), "weights that timm downloaded"),
    ]


def _size(cache: _Cache) -> Finding:
    size = sum(_bytes(Path(where) / name) for where, _, names in os.walk(cache.folder) for name in names)
    figures = {"folder": str(cache.folder), "bytes": size}
    if not size:
        return Finding(TOPIC, cache.name, OK, f"{cache.folder}: empty", figures=figures)
    found = f"{cache.folder}: {size / 1e9:.2f} GB, {cache.holds}; may be deleted, it is made again"
    return Finding(TOPIC, cache.name, OK, found, figures=figures)


def _bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # gone since it was listed: another program works there
        return 0
