"""Features on disk, in parts of a few hundred images each, found by the content of the images.

In: features and content hashes. Out: the features of the images asked for. Writes: `<first content hash>.npz` in the
folder given: `hashes` S64 [images], `values` float32 [images, width], `seconds` that they took. Of parts on disk only the
hashes are held in memory; values are read part by part into the one array that is asked for.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukolens.artifacts import atomic_path
from leukolens.errors import ArtifactError

Features = NDArray[np.float32]

_NAME_LENGTH = 16
# What numpy and Python's zipfile raise on damaged files.
_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, LookupError, ValueError, EOFError, OSError, RuntimeError,
           OverflowError, MemoryError)  # fmt: skip


@dataclass(frozen=True)
class FeatureParts:
    """What one folder holds: its part files, (part, row) of each image by content hash, and the `seconds` of them all."""

    paths: tuple[Path, ...]
    places: dict[str, tuple[int, int]]
    seconds: float

    def read(self, hashes: Sequence[str]) -> Features:
        """Give float32 [images, width] of images by content hash, in that order; only the parts that hold them are read.

        Raises KeyError where an image is in no part, ArtifactError where a part is damaged or of another width.
        """
        places = np.array([self.places[content] for content in hashes], dtype=np.int64).reshape(-1, 2)
        by_part = np.argsort(places[:, 0], kind="stable")
        found, first = np.unique(places[by_part, 0], return_index=True)
        gathered: Features | None = None
        for part, start, stop in zip(found, first, [*first[1:], len(by_part)], strict=False):
            wanted = by_part[start:stop]
            values = _member(self.paths[part], "values")
            if gathered is None:
                gathered = np.empty((len(hashes), values.shape[1]), np.float32)
            if values.shape[1] != gathered.shape[1] or not np.issubdtype(values.dtype, np.floating):
                raise _damaged(self.paths[part], f"features of width {values.shape[1]} among {gathered.shape[1]}")
            gathered[wanted] = values[places[wanted, 1]]
        return np.empty((0, 0), np.float32) if gathered is None else gathered


def find_parts(folder: Path) -> FeatureParts:
    """Read which images the parts in a folder hold; raises ArtifactError where one is damaged."""
    paths = tuple(sorted(folder.glob("*.npz")))
    places = {
        content.decode(): (part, row)
        for part, path in enumerate(paths)
        for row, content in enumerate(_hashes(path))
    }
    return FeatureParts(paths, places, sum(float(_member(path, "seconds")) for path in paths))


def write_part(folder: Path, hashes: Sequence[str], values: Features, seconds: float) -> None:
    """Write one part: features float32 [images, width] of the images with these content hashes."""
    with atomic_path(folder / f"{hashes[0][:_NAME_LENGTH]}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, hashes=np.array(hashes, dtype="S64"), values=values, seconds=np.float64(seconds))


def _hashes(path: Path) -> list[bytes]:
    """Content hashes of one part; raises ArtifactError where they are none, or values are not one row for each."""
    hashes = _member(path, "hashes")
    if hashes.ndim != 1 or hashes.dtype.kind != "S":
        raise _damaged(path, f"hashes that are {hashes.dtype} {hashes.shape}")
    found: list[bytes] = hashes.tolist()
    return found


def _member(path: Path, name: str) -> NDArray[np.generic]:
    """One array of a part; the others are not read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as part:
            member: NDArray[np.generic] = part[name]
            return member
    except _ERRORS as error:
        raise _damaged(path, str(error) or type(error).__name__) from error


def _damaged(path: Path, received: str) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be read as cached features.",
        expected="a part that an earlier run wrote",
        received=received,
        remedy="delete this file; its features are computed again",
    )
