"""The window of a picture gives what the whole picture gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from leukolens.data.phantom_cells import draw_cell, draw_traits
from leukolens.data.preprocessing import read_pixels
from leukolens.data.trimmed import Trimmed, lit_box, trim

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "c-nmc-sample"
SMEARS = REAL.parent / "b-all-smears"


def by_pillow(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.BILINEAR))


def noise_in(size_px: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.uint8]:
    """Full-contrast noise in a window of a black picture."""
    pixels = np.zeros((*size_px, 3), np.uint8)
    window = pixels[slice(*rows), slice(*columns)]
    window[:] = np.random.default_rng(sum(rows) + sum(columns)).integers(1, 256, window.shape)
    return pixels


def test_window_holds_all_that_is_not_exactly_black() -> None:
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels[1, 2, 0] = 1
    pixels[3, 5, 2] = 255
    trimmed = trim(pixels)
    assert (trimmed.corner, trimmed.window.shape, trimmed.size_px) == ((1, 2), (3, 4, 3), (5, 7))
    np.testing.assert_array_equal(trimmed.pixels, pixels)


@pytest.mark.parametrize("height", [1, 2, 15, 16, 17, 31, 32, 33, 50])
def test_window_is_exact_wherever_the_light_is(height: int) -> None:
    """Rows are looked through in blocks of 16, of which the last may lie over the one before."""
    for top in range(height):
        for bottom in {top, min(top + 7, height - 1), height - 1}:
            pixels = np.zeros((height, 5, 3), np.uint8)
            pixels[top, 1, 2] = pixels[bottom, 3, 0] = 1
            rows, columns = lit_box(pixels.reshape(height, 15))
            assert (rows, columns) == (slice(top, bottom + 1), slice(1, 4))


@pytest.mark.parametrize("level", [1, 128, 255])
def test_any_level_but_0_in_any_channel_is_light(level: int) -> None:
    for place in range(15):
        lines = np.zeros((20, 15), np.uint8)
        lines[18, place] = level
        assert lit_box(lines) == (slice(18, 19), slice(place // 3, place // 3 + 1))


def test_black_picture_has_an_empty_window() -> None:
    trimmed = trim(np.zeros((4, 6, 3), np.uint8))
    assert (trimmed.window.shape, trimmed.corner) == ((0, 0, 3), (0, 0))
    assert trimmed.pixels.shape == (4, 6, 3)
    assert not trimmed.on_canvas((3, 9)).resized(5).any()


def test_picture_without_black_is_its_own_window() -> None:
    pixels = np.full((3, 4, 3), 9, np.uint8)
    assert trim(pixels).window.base is pixels
    np.testing.assert_array_equal(trim(pixels).pixels, pixels)


@pytest.mark.parametrize(
    ("canvas", "columns"),
    [
        (4, [1, 2, 3, 4]),
        (2, [2, 3]),
        (3, [1, 2, 3]),  # of an odd surplus, the smaller half is cut off at the front: none
        (1, [2]),
        (6, [0, 1, 2, 3, 4, 0]),
        (7, [0, 1, 2, 3, 4, 0, 0]),
    ],
)
def test_canvas_is_centred(canvas: int, columns: list[int]) -> None:
    row = np.repeat(np.array([[1, 2, 3, 4]], np.uint8)[..., None], 3, axis=2)
    assert trim(row).on_canvas((1, canvas)).pixels[0, :, 0].tolist() == columns


def test_what_lies_outside_the_canvas_is_gone() -> None:
    pixels = noise_in((20, 20), (0, 3), (8, 12))
    moved = trim(pixels).on_canvas((10, 10))
    assert (moved.window.size, moved.corner) == (0, (0, 0))
    assert not moved.pixels.any()
    np.testing.assert_array_equal(trim(pixels).on_canvas((16, 20)).pixels, pixels[2:18])


@pytest.mark.parametrize("side_px", [32, 96, 128, 192, 224, 256, 299, 300, 384, 600])
@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ((0, 450), (0, 450)),
        ((120, 340), (130, 330)),
        ((0, 200), (250, 450)),
        ((449, 450), (0, 1)),
        ((200, 210), (20, 440)),
        ((3, 447), (222, 229)),  # tall and narrow: Pillow alone would resize such a piece the other way round
    ],
)
def test_resized_window_is_the_resized_picture(rows: tuple[int, int], columns: tuple[int, int], side_px: int) -> None:
    pixels = noise_in((450, 450), rows, columns)
    np.testing.assert_array_equal(trim(pixels).resized(side_px), by_pillow(pixels, side_px))


@pytest.mark.parametrize("size_px", [(450, 600), (600, 600), (451, 453), (97, 101), (20, 30), (1, 1)])
def test_other_sizes_resize_as_pillow_does(size_px: tuple[int, int]) -> None:
    height, width = size_px
    pixels = noise_in(size_px, (height // 5, height), (width // 7, width - width // 8))
    np.testing.assert_array_equal(trim(pixels).resized(224), by_pillow(pixels, 224))


def test_tall_picture_resizes_as_a_wide_one_does() -> None:
    """Pillow 13 resizes tall pictures height first, which moves values by a level; here all go width first."""
    pixels = noise_in((600, 400), (0, 600), (0, 400))
    whole = Image.fromarray(pixels)
    bilinear = Image.Resampling.BILINEAR
    width_first = whole.resize((224, 600), bilinear).resize((224, 224), bilinear)
    found = trim(pixels).resized(224)
    np.testing.assert_array_equal(found, np.asarray(width_first))
    assert np.abs(found.astype(int) - by_pillow(pixels, 224)).max() <= 1


def test_same_size_is_not_touched() -> None:
    pixels = noise_in((224, 224), (10, 200), (3, 224))
    np.testing.assert_array_equal(trim(pixels).resized(224), pixels)


def test_resizing_reads_the_window_only() -> None:
    """A window that is not at the border may be given without the black around it."""
    window = np.full((30, 40, 3), 200, np.uint8)
    pixels = np.zeros((450, 450, 3), np.uint8)
    pixels[100:130, 200:240] = 200
    np.testing.assert_array_equal(Trimmed(window, (100, 200), (450, 450)).resized(224), by_pillow(pixels, 224))


def test_phantom_cells_resize_as_pillow_does() -> None:
    random = np.random.default_rng(0)
    for label in ("all", "hem"):
        traits = draw_traits(label, (0.0, 0.0), random)
        for _ in range(10):
            cell = draw_cell(traits, random)
            assert trim(cell).window.size < cell.size / 2
            np.testing.assert_array_equal(trim(cell).resized(224), by_pillow(cell, 224))


@pytest.mark.real
@pytest.mark.parametrize("folder", [REAL, SMEARS])
def test_real_images_resize_as_pillow_does(folder: Path) -> None:
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is absent")
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".bmp", ".jpg", ".png"))[::12]
    assert len(paths) > 10
    for path in paths:
        decoded = read_pixels(path, 25_000_000)
        with Image.open(path) as image:
            whole = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(decoded.pixels, whole)
        np.testing.assert_array_equal(decoded.trimmed.resized(224), by_pillow(whole, 224))
