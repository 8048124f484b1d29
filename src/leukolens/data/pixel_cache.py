"""Pixels of a whole data set as one memory-mapped uint8 array, keyed by content: decoded once, never again.

In: a manifest and a Preprocessing. Out: PixelCache. Writes: `pixels-<key>.npy` (uint8 [images, input_px, input_px, 3],
rows in manifest order) below the cache folder. The key hashes the decoded pixels of every image, the canvas, the treatment
and the size, so that what was changed can never be served from an old file, and several treatments lie side by side.
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
from leukolens.data.indexed import CHANGED, IndexedImage, indexed_images, read_indexed
from leukolens.data.preprocessing import Pixels, Preprocessing
from leukolens.data.threads import in_order
from leukolens.errors import ArtifactError, ImageError, ManifestError
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


def cache_pixels(manifest: Manifest, folder: Path, preprocessing: Preprocessing) -> PixelCache:
    """Open the cache of this manifest's images so prepared, decoding all of them in parallel where there is none yet.

    The canvas is that of `preprocessing`, which may belong to weights, not that of the manifest; mean and deviation are no
    part of the pixels. Raises ManifestError where a file no longer decodes to what the manifest says.
    """
    preprocessing = preprocessing.of_pixels()
    images = tuple(manifest.images["image"])
    hashes = tuple(manifest.images["content_hash"])
    key = hash_json([images, hashes, preprocessing.to_record()])[:_KEY_LENGTH]
    path = folder / f"pixels-{key}.npy"
    if path.is_file():
        logger.debug("pixels: %d images read from the cache", len(images))
    else:
        _fill(path, manifest, preprocessing)
    return PixelCache(_mapped(path, (len(images), preprocessing.input_px, preprocessing.input_px, 3)), images, hashes)


def _mapped(path: Path, shape: tuple[int, int, int, int]) -> Pixels:
    """Open a file of pixels; raises ArtifactError where it is not what `_fill` writes for this shape."""
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, OverflowError) as error:
        raise _damaged(path, shape, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != shape:
        raise _damaged(path, shape, f"an array of {getattr(pixels, 'dtype', 'several')} {getattr(pixels, 'shape', '')}")
    return pixels


def _damaged(path: Path, shape: tuple[int, ...], received: str) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be read as cached pixels.",
        expected=f"an array of uint8 {shape}",
        received=received,
        remedy="delete this file; the images are decoded again",
    )


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
    root = manifest.root

    def prepare(row: IndexedImage) -> Pixels:
        try:
            return preprocessing.apply(read_indexed(root, row))
        except ImageError as error:
            raise _changed(root, row, error) from error

    return in_order(prepare, indexed_images(manifest.images))


def _changed(root: Path, row: IndexedImage, error: ImageError) -> ManifestError:
    """Say of an image that was usable when it was indexed, and is not as it was, what it was."""
    return ManifestError(
        f"{root / row.image} has changed since it was indexed.",
        expected=error.expected if error.reason == CHANGED else row.size,
        received=error.received,
        remedy="run `leukolens index` again",
    )
