"""Pixels of a whole data set as one memory-mapped uint8 array, keyed by content: decoded once, never again.

In: a manifest and an input size. Out: PixelCache. Writes: `pixels-<key>.npy` (uint8 [images, input_px, input_px, 3],
rows in manifest order) below the cache folder. The key hashes the decoded pixels of every image and the canvas, so that a
changed image, canvas or size can never be served from an old file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import Manifest, atomic_path, hash_json
from leukolens.data.fingerprints import hash_content
from leukolens.data.preprocessing import Pixels, Preprocessing, read_pixels
from leukolens.data.threads import in_order
from leukolens.errors import ImageError, ManifestError
from leukolens.progress import logger, track

_KEY_LENGTH = 16


@dataclass(frozen=True)
class PixelCache:
    """`pixels` uint8 [images, input_px, input_px, 3] (memory-mapped), `images` their names, `content_hashes` likewise."""

    pixels: Pixels
    images: tuple[str, ...]
    content_hashes: tuple[str, ...]

    def rows_of(self, images: pd.Index[str] | list[str]) -> NDArray[np.int64]:
        """Row numbers of images given by name."""
        row_of = {image: row for row, image in enumerate(self.images)}
        return np.array([row_of[image] for image in images], dtype=np.int64)


def cache_pixels(manifest: Manifest, folder: Path, input_px: int) -> PixelCache:
    """Open the cache of this manifest at this size, decoding every image in parallel where there is none yet.

    Raises ManifestError where a file no longer decodes to what the manifest says.
    """
    canvas_px = tuple(manifest.record["canvas_px"])
    preprocessing = Preprocessing((canvas_px[0], canvas_px[1]), input_px)
    images = tuple(manifest.images["image"])
    hashes = tuple(manifest.images["content_hash"])
    key = hash_json([images, hashes, preprocessing.to_record()])[:_KEY_LENGTH]
    path = folder / f"pixels-{key}.npy"
    if path.is_file():
        logger.debug("pixels: %d images read from the cache", len(images))
    else:
        _fill(path, manifest, preprocessing)
    return PixelCache(np.load(path, mmap_mode="r"), images, hashes)


def release(pixels: Pixels) -> None:
    """Take memory-mapped pixels that were read out of this process's memory; they stay in the system's cache of files.

    A pass over a large cache then needs no more memory than a batch. Nothing happens to pixels that are not mapped, or
    where the system cannot do it (Windows).
    """
    mapped = pixels.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _fill(path: Path, manifest: Manifest, preprocessing: Preprocessing) -> None:
    """Write the array row by row; written through a mapping, all of it would count as this process's memory."""
    shape = (len(manifest.images), preprocessing.input_px, preprocessing.input_px, 3)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for pixels in track(_prepare(manifest, preprocessing), "caching pixels", len(manifest.images)):
            file.write(pixels.data)


def _prepare(manifest: Manifest, preprocessing: Preprocessing) -> Iterator[Pixels]:
    """Decoded, cropped and resized pixels in manifest order, each image checked against the manifest."""
    columns = manifest.images[["image", "height_px", "width_px", "content_hash"]]

    def prepare(row: tuple[str, int, int, str]) -> Pixels:
        image, height_px, width_px, content_hash = row
        path, expected = manifest.root / image, f"{width_px} x {height_px} pixels"
        try:
            trimmed = read_pixels(path, max_pixels=height_px * width_px).trimmed
        except ImageError as error:
            raise _changed(path, expected, error.received) from error
        # The size first: it says more than two hashes.
        if trimmed.size_px != (height_px, width_px):
            raise _changed(path, expected, f"{trimmed.size_px[1]} x {trimmed.size_px[0]} pixels")
        if (found := hash_content(trimmed)) != content_hash:
            raise _changed(path, f"pixels of content hash {content_hash}", found)
        return preprocessing.apply(trimmed)

    return in_order(prepare, columns.itertuples(index=False, name=None))


def _changed(path: Path, expected: str, received: str) -> ManifestError:
    return ManifestError(
        f"{path} has changed since it was indexed.",
        expected=expected,
        received=received,
        remedy="run `leukolens index` again",
    )
