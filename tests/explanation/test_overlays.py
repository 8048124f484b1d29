from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from leukolens.explanation.overlays import (
    WARNING,
    edge_of,
    overlaid,
    overlay_name,
    remove_overlays,
    write_overlay,
)

SIDE_PX = 32


def square(first: int, last: int) -> np.ndarray:
    mask = np.zeros((SIDE_PX, SIDE_PX), bool)
    mask[first:last, first:last] = True
    return mask


def test_edge_is_the_outermost_ring_of_the_cell() -> None:
    expected = square(8, 24) & ~square(9, 23)
    np.testing.assert_array_equal(edge_of(square(8, 24)), expected)


def test_a_picture_that_is_all_cell_has_no_edge() -> None:
    assert not edge_of(np.ones((4, 4), bool)).any()


def test_colours_over_stretched_grey_by_hand() -> None:
    pixels = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    pixels[square(8, 24)] = 100
    pixels[0, 0] = 200
    values = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    values[16, 16] = 1.0
    picture = overlaid(pixels, values, square(8, 24))
    lowest = np.array(mpl.colormaps["cividis"](0.0)[:3]) * 255
    # Background: no grey. Inside: 100 of at most 200 is stretched to 127.5.
    np.testing.assert_array_equal(picture[4, 4], (0.6 * lowest).round())
    np.testing.assert_array_equal(picture[10, 10], (0.4 * 127.5 + 0.6 * lowest).round())
    assert picture[8, 12].tolist() == [255, 255, 255]  # the edge
    assert picture[16, 16].tolist() == [255, 255, 255]  # the cross
    assert picture[16, 21].tolist() == picture[15, 18].tolist() == [0, 0, 0]  # its rim


def test_an_empty_map_leaves_the_cell_grey() -> None:
    pixels = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    pixels[square(8, 24)] = (90, 40, 160)
    picture = overlaid(pixels, np.zeros((SIDE_PX, SIDE_PX), np.float32), square(8, 24))
    assert (picture == picture[..., :1]).all()
    assert picture[4, 4].tolist() == [0, 0, 0]


@pytest.mark.parametrize("peak", [(0, 0), (SIDE_PX - 1, SIDE_PX - 1), (0, SIDE_PX - 1)])
def test_a_peak_at_the_border_is_marked(peak: tuple[int, int]) -> None:
    values = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    values[peak] = 1.0
    picture = overlaid(np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8), values, square(8, 9))
    assert picture[peak].tolist() == [255, 255, 255]


def test_written_picture_holds_cell_overlay_and_words(tmp_path: Path) -> None:
    cell, overlay = (np.full((SIDE_PX, SIDE_PX, 3), level, np.uint8) for level in (10, 60))
    write_overlay(tmp_path / "folder" / "x.png", (cell, overlay), "Grad-CAM, synthetic cell", "all/ü.bmp")
    with Image.open(tmp_path / "folder" / "x.png") as image:
        assert image.size == (2 * 224 + 8, 224 + 20)  # seven times as large, each
        assert [image.getpixel(place) for place in ((0, 0), (223, 223), (232, 0), (455, 223))] == [
            (10, 10, 10), (10, 10, 10), (60, 60, 60), (60, 60, 60)]  # fmt: skip
        assert np.asarray(image)[224:].min() < 128  # the words
        assert image.info["Source"] == "all/ü.bmp"
        assert image.info["Description"] == "Grad-CAM, synthetic cell"
        assert image.info["Warning"] == WARNING
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["x.png"]


def test_names_are_safe_and_unique() -> None:
    images = ["a/cell.bmp", "b/cell.bmp", "a/cell.png", "a/c e/ll.bmp", "..", "../../etc/passwd", "é*?<>|.bmp",
              "x" * 300 + ".bmp", "-rf.bmp", ".hidden.bmp", "CON.bmp", ""]  # fmt: skip
    names = [overlay_name(image, method) for image in images for method in ("gradcam", "eigencam")]
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert len(name) < 100
        assert name[0] not in ".-"
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert overlay_name("a/UID_1_2_3_all.bmp", "gradcam").startswith("UID_1_2_3_all-")
    assert overlay_name("a/x.bmp", "gradcam") == overlay_name("a/x.bmp", "gradcam")


def test_only_overlays_of_an_earlier_call_are_removed(tmp_path: Path) -> None:
    kept, old = overlay_name("a.bmp", "gradcam"), overlay_name("b.bmp", "eigencam")
    own = ["notes.txt", "holiday.png", "cell-12345678-gradcam.jpg", "cell-123-gradcam.png"]
    for name in (kept, old, *own):
        (tmp_path / name).touch()
    remove_overlays(tmp_path, [kept])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([kept, *own])


def test_a_folder_that_is_not_there_has_nothing_to_remove(tmp_path: Path) -> None:
    remove_overlays(tmp_path / "absent", [])
