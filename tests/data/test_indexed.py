"""An image of a manifest is read again only as what was indexed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort import build_cohort, draw_cell, write_image
from leukolens.artifacts import Manifest
from leukolens.data.indexed import CHANGED, IndexedImage, indexed_images, read_indexed
from leukolens.data.manifest import index
from leukolens.data.preprocessing import read_pixels
from leukolens.errors import ImageError


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Cells of 48 x 48 px that a test may change."""
    return index(build_cohort(tmp_path / "cells", subjects_per_class=3, cells_per_subject=1))


def row_of(manifest: Manifest, number: int) -> IndexedImage:
    return list(indexed_images(manifest.images))[number]


def refused(manifest: Manifest, number: int = 2) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_indexed(manifest.root, row_of(manifest, number))
    return caught.value


def test_rows_are_those_of_the_manifest(manifest: Manifest) -> None:
    first = manifest.images.iloc[0]
    assert row_of(manifest, 0) == IndexedImage(first["image"], 48, 48, first["content_hash"])
    assert row_of(manifest, 0).size == "48 x 48 pixels"
    assert [row.image for row in indexed_images(manifest.images)] == manifest.images["image"].tolist()


def test_columns_are_found_by_name(manifest: Manifest) -> None:
    turned = manifest.images[manifest.images.columns[::-1]]
    assert list(indexed_images(turned)) == list(indexed_images(manifest.images))


def test_no_rows(manifest: Manifest) -> None:
    assert list(indexed_images(pd.DataFrame(manifest.images.iloc[:0]))) == []


def test_unchanged_image_is_decoded(manifest: Manifest) -> None:
    for row in indexed_images(manifest.images):
        decoded = read_pixels(manifest.root / row.image, 48 * 48)
        np.testing.assert_array_equal(read_indexed(manifest.root, row).pixels, decoded.pixels)


def test_copy_in_another_lossless_format_is_the_same_image(manifest: Manifest) -> None:
    row = row_of(manifest, 2)
    pixels = read_indexed(manifest.root, row).pixels
    write_image(manifest.root / "copy.png", pixels)
    np.testing.assert_array_equal(read_indexed(manifest.root, row._replace(image="copy.png")).pixels, pixels)


def test_other_pixels_are_named_by_their_hash(manifest: Manifest) -> None:
    row = row_of(manifest, 2)
    path = write_image(manifest.root / row.image, draw_cell(999))
    error = refused(manifest)
    assert error.reason == CHANGED
    assert error.what == f"{path} has changed since it was indexed."
    assert error.expected == f"pixels of content hash {row.content_hash}"
    assert error.received != row.content_hash
    assert len(error.received) == len(row.content_hash)
    assert error.remedy == "run `leukolens index` again"


def test_one_pixel_of_another_level_is_a_change(manifest: Manifest) -> None:
    row = row_of(manifest, 2)
    pixels = read_indexed(manifest.root, row).pixels.copy()
    pixels[24, 24, 1] ^= 1
    write_image(manifest.root / row.image, pixels)
    assert refused(manifest).reason == CHANGED


def test_smaller_image_is_named_by_its_size(manifest: Manifest) -> None:
    write_image(manifest.root / row_of(manifest, 2).image, draw_cell(1, side_px=40))
    error = refused(manifest)
    assert (error.reason, error.expected, error.received) == (CHANGED, "48 x 48 pixels", "40 x 40 pixels")


def test_larger_image_is_not_decoded(manifest: Manifest) -> None:
    write_image(manifest.root / row_of(manifest, 2).image, draw_cell(1, side_px=60))
    assert refused(manifest).reason == "too_large"


def test_image_that_has_gone_has_the_reason_of_reading(manifest: Manifest) -> None:
    (manifest.root / row_of(manifest, 2).image).unlink()
    assert refused(manifest).reason == "missing"
