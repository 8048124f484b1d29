"""Decode each image once and keep what tells it from others: two hashes, its size, the cell's area and colour.

In: image files. Out: one `Fingerprint` or ImageError per file, in the order given. Writes: nothing. The pixels are let
go at once: one decoded image per worker is in memory, however large the data set.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leukolens.data.preprocessing import Pixels, foreground, read_pixels
from leukolens.errors import ImageError

VERSION = 1  # raise it when a field changes its meaning, so that earlier manifests are made again
# Files handed to the pool ahead of the one waited for: enough to keep it busy past one slow file.
_AHEAD_PER_WORKER = 8


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
    waiting: deque[Future[Fingerprint | ImageError]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        for path in paths:
            waiting.append(pool.submit(_outcome, path, max_pixels))
            if len(waiting) >= workers * _AHEAD_PER_WORKER:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def take_fingerprint(path: Path, max_pixels: int) -> Fingerprint:
    """Decode one file; raises ImageError where it cannot be used."""
    decoded = read_pixels(path, max_pixels)
    pixels = decoded.pixels
    cell = foreground(pixels)
    area_px = int(cell.sum())
    red, green, blue = (_mean(pixels[..., channel], cell, area_px) for channel in range(3))
    return Fingerprint(
        content_hash=hash_pixels(pixels),
        pixel_hash=hash_pixels(trim_black(pixels)),
        format=decoded.format,
        width_px=pixels.shape[1],
        height_px=pixels.shape[0],
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


def trim_black(pixels: Pixels) -> Pixels:
    """Drop the rows and columns at the borders that are exactly 0, so that padded copies of a cell are equal.

    Exactly 0 and not the background level: a lossy copy must not equal another cell that differs in its rim.
    """
    rows = np.flatnonzero(pixels.any(axis=(1, 2)))
    columns = np.flatnonzero(pixels.max(axis=0).any(axis=1))  # any(axis=(0, 2)) is 50 times as slow
    if rows.size == 0:
        return pixels[:0, :0]
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _outcome(path: Path, max_pixels: int) -> Fingerprint | ImageError:
    try:
        return take_fingerprint(path, max_pixels)
    except ImageError as error:
        return error


def _mean(channel: Pixels, cell: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], area_px: int) -> float:
    return float(channel[cell].sum(dtype=np.int64)) / area_px if area_px else float("nan")
