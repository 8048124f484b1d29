"""Decode each image once and keep what tells it from others: two hashes, its size, the cell's area and colour.

In: image files. Out: one `Fingerprint` or ImageError per file, in the order given. Writes: nothing. The pixels are let
go at once: one decoded image per worker is in memory, however large the data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leukolens.data.preprocessing import Pixels, foreground, read_pixels
from leukolens.data.threads import in_order
from leukolens.data.trimmed import Trimmed
from leukolens.errors import ImageError

VERSION = 2  # raise it when a field changes its meaning, so that earlier manifests are made again


@dataclass(frozen=True)
class Fingerprint:
    """What one decoded image is; the fields are the columns of the manifest that have these names.

    `area_px` counts foreground pixels; the means are over these, 0–255, NaN where there are none.
    """

    content_hash: str
    pixel_hash: str
    format: str
    width_px: int
    height_px: int
    area_px: int
    mean_red: float
    mean_green: float
    mean_blue: float
    bytes: int


def take_fingerprints(paths: Iterable[Path], max_pixels: int, workers: int) -> Iterator[Fingerprint | ImageError]:
    """Decode in `workers` threads; gives one outcome per path, in their order."""
    return in_order(lambda path: _outcome(path, max_pixels), paths, workers)


def take_fingerprint(path: Path, max_pixels: int) -> Fingerprint:
    """Decode one file; raises ImageError where it cannot be used."""
    decoded = read_pixels(path, max_pixels)
    # All that is foreground lies in the window, a fifth of a segmented cell's picture.
    window = decoded.trimmed.window
    cell = foreground(window)
    area_px = int(np.count_nonzero(cell))
    red, green, blue = (_mean(window[..., channel], cell, area_px) for channel in range(3))
    pixel_hash = hash_pixels(window)
    height_px, width_px = decoded.trimmed.size_px
    return Fingerprint(
        content_hash=hash_placed(pixel_hash, decoded.trimmed),
        pixel_hash=pixel_hash,
        format=decoded.format,
        width_px=width_px,
        height_px=height_px,
        area_px=area_px,
        mean_red=red,
        mean_green=green,
        mean_blue=blue,
        bytes=path.stat().st_size,
    )


def hash_pixels(pixels: Pixels) -> str:
    """SHA-256 over the shape and the values of uint8 [height, width, 3], in hexadecimal."""
    digest = hashlib.sha256("x".join(map(str, pixels.shape)).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def hash_content(trimmed: Trimmed) -> str:
    """SHA-256, in hexadecimal, that two pictures share when they are equal pixel by pixel.

    It is taken of the window's own hash, the window's place and the size of the picture, which together are the picture:
    black is not hashed again.
    """
    return hash_placed(hash_pixels(trimmed.window), trimmed)


def hash_placed(pixel_hash: str, trimmed: Trimmed) -> str:
    """Give `hash_content` where `hash_pixels` of the window is known already."""
    (height, width), (top, left) = trimmed.size_px, trimmed.corner
    return hashlib.sha256(f"{pixel_hash} at {top},{left} of {height}x{width}".encode()).hexdigest()


def _outcome(path: Path, max_pixels: int) -> Fingerprint | ImageError:
    try:
        return take_fingerprint(path, max_pixels)
    except ImageError as error:
        return error


def _mean(channel: Pixels, cell: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], area_px: int) -> float:
    return float(channel[cell].sum(dtype=np.int64)) / area_px if area_px else float("nan")
