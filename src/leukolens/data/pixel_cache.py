"""Pixels of a whole data set as one memory-mapped uint8 array, keyed by content: decoded once, never again.

In: a manifest and an input size. Out: PixelCache. Writes: `pixels-<key>.npy` (uint8 [images, input_px, input_px, 3],
rows in manifest order) below the cache folder. The key hashes the decoded pixels of every image and the canvas, so that a
changed image, canvas or size can never be served from an old file.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import Manifest, atomic_path, hash_json
from leukolens.data.fingerprints import hash_pixels
from leukolens.data.preprocessing import Pixels, Preprocessing, read_pixels
from leukolens.errors import ImageError, ManifestError
from leukolens.progress import logger, track

_KEY_LENGTH = 16
_IMAGES_PER_ROUND = 256


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


def _fill(path: Path, manifest: Manifest, preprocessing: Preprocessing) -> None:
    shape = (len(manifest.images), preprocessing.input_px, preprocessing.input_px, 3)
    with atomic_path(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        prepared = track(_prepare(manifest, preprocessing), "caching pixels", len(manifest.images))
        for row, pixels in enumerate(prepared):
            array[row] = pixels
        array.flush()
        del array


def _prepare(manifest: Manifest, preprocessing: Preprocessing) -> Iterator[Pixels]:
    """Decoded, cropped and resized pixels in manifest order; at most one round of images waits in memory."""

    def prepare(image: str, size_px: tuple[int, int], content_hash: str) -> Pixels:
        path = manifest.root / image
        try:
            pixels = read_pixels(path, max_pixels=size_px[0] * size_px[1]).pixels
        except ImageError as error:
            raise _changed(path, f"{size_px[1]} x {size_px[0]} pixels", error.received) from error
        # The size first: it says more than two hashes.
        if pixels.shape[:2] != size_px:
            found = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
            raise _changed(path, f"{size_px[1]} x {size_px[0]} pixels", found)
        if (found := hash_pixels(pixels)) != content_hash:
            raise _changed(path, f"pixels of SHA-256 {content_hash}", found)
        return preprocessing.apply(pixels)

    names = list(manifest.images["image"])
    sizes = list(zip(manifest.images["height_px"].tolist(), manifest.images["width_px"].tolist(), strict=True))
    hashes = list(manifest.images["content_hash"])
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), _IMAGES_PER_ROUND):
            stop = start + _IMAGES_PER_ROUND
            yield from pool.map(prepare, names[start:stop], sizes[start:stop], hashes[start:stop])


def _changed(path: Path, expected: str, received: str) -> ManifestError:
    return ManifestError(
        f"{path} has changed since it was indexed.",
        expected=expected,
        received=received,
        remedy="run `leukolens index` again",
    )
