"""Read an image of a manifest again, and see that it still is what was indexed.

In: the folder that image paths start from, and an image's row of the manifest. Out: its `Trimmed` picture. Writes: nothing.

Sides were worked out from the pixels that were indexed, and caches are found by them: another cell in the same file may be one
that the run has learned from. So whoever takes pixels for a row of a manifest takes them from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from leukolens.data.fingerprints import hash_content
from leukolens.data.preprocessing import read_pixels
from leukolens.data.trimmed import Trimmed
from leukolens.errors import ImageError

CHANGED = "changed"
"""Reason of an image that can be read and is not the one that was indexed."""


class IndexedImage(NamedTuple):
    """What the manifest says of one image; the fields are its columns of these names."""

    image: str
    height_px: int
    width_px: int
    content_hash: str

    @property
    def size(self) -> str:
        """How large the picture was, in words."""
        return _size((self.height_px, self.width_px))


def indexed_images(rows: pd.DataFrame) -> Iterator[IndexedImage]:
    """Rows of a manifest, or of what has its columns, one by one."""
    columns = rows[list(IndexedImage._fields)]
    return (IndexedImage(*row) for row in columns.itertuples(index=False, name=None))


def read_indexed(root: Path, row: IndexedImage) -> Trimmed:
    """Decode one image; raises ImageError with the reasons of `read_pixels`, or CHANGED for another size or other pixels."""
    trimmed = read_pixels(root / row.image, max_pixels=row.height_px * row.width_px).trimmed
    # The size first: it says more than two hashes.
    if trimmed.size_px != (row.height_px, row.width_px):
        raise _changed(root / row.image, row.size, _size(trimmed.size_px))
    if (found := hash_content(trimmed)) != row.content_hash:
        raise _changed(root / row.image, f"pixels of content hash {row.content_hash}", found)
    return trimmed


def _size(size_px: tuple[int, int]) -> str:
    return f"{size_px[1]} x {size_px[0]} pixels"


def _changed(path: Path, expected: str, received: str) -> ImageError:
    return ImageError(
        f"{path} has changed since it was indexed.",
        reason=CHANGED,
        expected=expected,
        received=received,
        remedy="run `leukolens index` again",
    )
