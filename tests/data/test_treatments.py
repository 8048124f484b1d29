"""Crops and colours against values worked out by hand, and that black and scale are what they are said to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cohort import draw_cell
from leukolens.data.preprocessing import Preprocessing, fit_canvas, read_pixels, resize
from leukolens.data.treatments import BACKGROUND_LEVEL, around_cell, coloured, cropped, foreground
from leukolens.data.trimmed import trim
from leukolens.settings import InputSettings

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
C_NMC = SHARED / "c-nmc-sample" / "C-NMC_Leukemia"
SMEARS = SHARED / "b-all-smears"

Picture = NDArray[np.uint8]


def patch(height: int, width: int, top: int, left: int, side_px: int = 100) -> Picture:
    """A bright patch of random levels on a black square."""
    pixels = np.zeros((side_px, side_px, 3), np.uint8)
    drawn = np.random.default_rng(height * width).integers(13, 256, (height, width, 3), np.uint8)
    pixels[top : top + height, left : left + width] = drawn
    return pixels


def cell_of(pixels: Picture) -> Picture:
    return around_cell(trim(pixels)).pixels


def in_colour(pixels: Picture, colour: str) -> Picture:
    return coloured(trim(pixels), colour).pixels  # type: ignore[arg-type]


# The crop to the centre


def test_centre_is_the_middle_of_the_canvas_at_true_scale() -> None:
    pixels = patch(80, 80, 5, 15)
    found = cropped(trim(pixels), InputSettings(crop="centre", crop_px=60)).pixels
    np.testing.assert_array_equal(found, pixels[20:80, 20:80])


def test_centre_of_a_padded_copy_is_that_of_the_original() -> None:
    pixels = patch(400, 420, 20, 10, side_px=450)
    prepared = Preprocessing((450, 450), 224, treatment=InputSettings(crop="centre", crop_px=300))
    wanted = resize(pixels[75:375, 75:375], 224)
    np.testing.assert_array_equal(prepared.apply(pixels), wanted)
    np.testing.assert_array_equal(prepared.apply(fit_canvas(pixels, (600, 600))), wanted)


def test_nothing_asked_gives_the_very_picture() -> None:
    picture = trim(patch(20, 40, 20, 30))
    assert cropped(picture, InputSettings()) is picture
    assert coloured(picture, "rgb") is picture


# The crop to the cell


def test_cell_is_its_box_as_a_square_with_a_margin() -> None:
    # 40 px and a twentieth of it, 2 px, on both sides: 44. The box of 20 rows begins 12 rows below the top of the square.
    pixels = patch(20, 40, top=20, left=30)
    np.testing.assert_array_equal(cell_of(pixels), pixels[8:52, 28:72])


def test_odd_rest_of_the_margin_lies_below() -> None:
    pixels = patch(21, 40, top=20, left=30)  # 23 rows to share out: 11 above, 12 below
    np.testing.assert_array_equal(cell_of(pixels), pixels[9:53, 28:72])


def test_margin_is_rounded_up() -> None:
    assert cell_of(patch(21, 21, 30, 30)).shape == (25, 25, 3)  # 1.05 px: 2 on each side
    assert cell_of(patch(20, 20, 30, 30)).shape == (22, 22, 3)


def test_beyond_the_canvas_is_black() -> None:
    pixels = patch(20, 40, top=0, left=60)
    found = cell_of(pixels)
    assert found.shape == (44, 44, 3)
    np.testing.assert_array_equal(found[12:32, 2:42], pixels[:20, 60:])
    assert not found[:12].any() and not found[32:].any() and not found[:, 42:].any()


def test_noise_around_the_cell_is_no_part_of_its_box() -> None:
    pixels = patch(20, 40, top=20, left=30)
    pixels[0, 0] = pixels[99, 99] = BACKGROUND_LEVEL
    np.testing.assert_array_equal(cell_of(pixels), pixels[8:52, 28:72])
    pixels[0, 0, 2] = BACKGROUND_LEVEL + 1
    assert cell_of(pixels).shape != (44, 44, 3)


@pytest.mark.parametrize(("height", "width"), [(100, 100), (91, 20), (95, 100)])
def test_picture_without_a_black_background_stays_whole(height: int, width: int) -> None:
    picture = trim(patch(height, width, 0, 0))
    assert around_cell(picture) is picture


def test_square_of_a_large_cell_is_smaller_than_the_canvas_or_all_of_it() -> None:
    assert cell_of(patch(89, 89, 5, 5)).shape == (99, 99, 3)
    assert cell_of(patch(90, 90, 5, 5)).shape == (100, 100, 3)


def test_field_that_is_no_square_stays_whole() -> None:
    field = np.full((40, 60, 3), 200, np.uint8)
    np.testing.assert_array_equal(cell_of(field), field)


def test_picture_of_noise_alone_stays_whole() -> None:
    noise = np.full((20, 20, 3), BACKGROUND_LEVEL, np.uint8)
    np.testing.assert_array_equal(cell_of(noise), noise)


def test_crop_to_the_cell_takes_its_size_away_and_the_others_keep_it() -> None:
    cells = [draw_cell(1, radius_px, side_px=96) for radius_px in (12, 24)]

    def areas(**treatment: object) -> list[int]:
        prepared = Preprocessing((96, 96), 64, treatment=InputSettings(**treatment))
        return [int(foreground(prepared.apply(cell)).sum()) for cell in cells]

    small, large = areas(crop="canvas")
    assert large / small == pytest.approx(4, rel=0.1)
    small, large = areas(crop="centre", crop_px=60)
    assert large / small == pytest.approx(4, rel=0.1)
    small, large = areas(crop="cell")
    assert large / small == pytest.approx(1, rel=0.05)
    assert large / 64**2 == pytest.approx(np.pi / 4 / 1.1**2, rel=0.05)  # a disc in a square with its margin


def test_cell_on_another_canvas_is_the_same() -> None:
    cell = draw_cell(1, 15)
    prepared = Preprocessing((48, 48), 32, treatment=InputSettings(crop="cell", colour="constancy"))
    np.testing.assert_array_equal(prepared.apply(cell), prepared.apply(fit_canvas(cell, (80, 80))))


# Colours


def test_grey_is_luma_on_three_channels() -> None:
    pixels = np.array([[[100, 50, 200], [255, 255, 255], [0, 0, 0]]], np.uint8)
    # 0.299 x 100 + 0.587 x 50 + 0.114 x 200 = 82.05
    assert in_colour(pixels, "grey").tolist() == [[[82] * 3, [255] * 3, [0] * 3]]


def test_constancy_makes_the_norms_of_the_channels_equal() -> None:
    # One colour: its norms are its levels, 200, 100 and 50; their root mean square is the root of 17,500, 132.3.
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[1:3, 1:3] = (200, 100, 50)
    treated = in_colour(pixels, "constancy")
    assert treated[1:3, 1:3].reshape(-1, 3).tolist() == [[132] * 3] * 4
    assert treated.sum() == 132 * 12


def test_constancy_takes_the_sixth_norm() -> None:
    pixels = np.array([[[200, 100, 100], [100, 100, 100]]], np.uint8)
    # Red: ((200^6 + 100^6) / 2)^(1/6) = 100 x 32.5^(1/6) = 178.65; root mean square of it and 100, 100: 131.54.
    # Gains 0.7363 and 1.3154, so 200 becomes 147.3 and 100 becomes 73.6 in red, 131.5 elsewhere.
    assert in_colour(pixels, "constancy").tolist() == [[[147, 132, 132], [74, 132, 132]]]


def test_constancy_leaves_what_is_neutral() -> None:
    neutral = np.full((2, 2, 3), 90, np.uint8)
    np.testing.assert_array_equal(in_colour(neutral, "constancy"), neutral)


def test_constancy_stops_at_white() -> None:
    pixels = np.full((8, 8, 3), (200, 200, 10), np.uint8)
    pixels[3, 4, 2] = 250
    # Blue: the sixth root of 250^6 / 64, 125. Root mean square of 200, 200 and 125: 178.5. Gains 0.893 and 1.428.
    treated = in_colour(pixels, "constancy")
    assert treated[3, 4].tolist() == [179, 179, 255]
    assert treated[0, 0].tolist() == [179, 179, 14]


def test_constancy_undoes_a_coloured_light() -> None:
    cell = patch(40, 40, 30, 30)[..., :].astype(float) * 0.7
    lit = [np.rint(cell * light).astype(np.uint8) for light in ([1, 1, 1], [0.8, 1, 1.2])]
    plain, coloured_light = (in_colour(each, "constancy").astype(int) for each in lit)
    assert np.abs(lit[1].astype(int) - lit[0]).max() > 20
    # Up to one factor of brightness, which is not the light's colour.
    ratio = coloured_light.sum() / plain.sum()
    assert np.abs(coloured_light - plain * ratio).max() <= 3


def test_noise_on_black_is_neither_counted_nor_changed() -> None:
    pixels = patch(30, 30, 40, 40)
    noisy = pixels.copy()
    noisy[:30] = (BACKGROUND_LEVEL, 3, 0)
    treated = in_colour(noisy, "constancy")
    np.testing.assert_array_equal(treated[:30], noisy[:30])
    np.testing.assert_array_equal(treated[30:], in_colour(pixels, "constancy")[30:])


@pytest.mark.parametrize("colour", ["grey", "constancy"])
@pytest.mark.parametrize("make", [lambda: patch(30, 50, 10, 20), lambda: np.zeros((8, 8, 3), np.uint8)])
def test_black_stays_black_and_the_size_what_it_was(colour: str, make: Callable[[], Picture]) -> None:
    pixels = make()
    treated = in_colour(pixels, colour)
    assert treated.shape == pixels.shape
    assert treated.dtype == np.uint8
    assert not treated[~foreground(pixels)].any()


def test_channel_without_light_stays_without() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[..., 0] = 120
    # Norms 120, 0 and 0: root mean square 69.28.
    assert in_colour(pixels, "constancy").reshape(-1, 3).tolist() == [[69, 0, 0]] * 16


@pytest.mark.parametrize("colour", ["grey", "constancy"])
def test_colour_of_a_turned_picture_is_the_turned_colour(colour: str) -> None:
    pixels = patch(30, 50, 10, 20)
    np.testing.assert_array_equal(in_colour(np.rot90(pixels), colour), np.rot90(in_colour(pixels, colour)))


def test_colour_is_treated_after_the_crop_and_before_the_resize() -> None:
    pixels = patch(90, 90, 5, 5)
    pixels[5:20] //= 4  # another colour where the crop does not reach
    pixels[5:20, :, 2] = 0
    prepared = Preprocessing((100, 100), 32, treatment=InputSettings(crop="centre", crop_px=60, colour="constancy"))
    wanted = resize(in_colour(pixels[20:80, 20:80], "constancy"), 32)
    np.testing.assert_array_equal(prepared.apply(pixels), wanted)
    assert (wanted != resize(in_colour(pixels, "constancy")[20:80, 20:80], 32)).any()


# Real pictures


@pytest.mark.real
@pytest.mark.skipif(not C_NMC.is_dir(), reason="the real sample ../shared/data/c-nmc-sample is not here")
def test_real_cell_fills_the_crop_around_it() -> None:
    for path in sorted(C_NMC.rglob("UID_*"))[::40]:
        decoded = read_pixels(path, 10**6)
        mask = foreground(decoded.pixels)
        around = around_cell(decoded.trimmed)
        assert around.size_px[0] == around.size_px[1] < 450
        assert foreground(around.pixels).sum() == mask.sum()  # nothing of the cell is cut off
        longer = max(int(np.ptp(np.flatnonzero(mask.any(axis=axis)))) + 1 for axis in (0, 1))
        assert 1.1 * longer <= around.size_px[0] < 1.1 * longer + 2
        grey = coloured(around, "grey").pixels
        np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(around.pixels).convert("L")))
        assert (grey[..., 0] == grey[..., 2]).all()


@pytest.mark.real
@pytest.mark.skipif(not SMEARS.is_dir(), reason="the real smear fields ../shared/data/b-all-smears are not here")
def test_real_field_is_left_whole_by_the_crop_to_the_cell() -> None:
    for path in sorted(SMEARS.rglob("*.jpg"))[::300]:
        picture = read_pixels(path, 10**6).trimmed
        assert around_cell(picture) is picture

