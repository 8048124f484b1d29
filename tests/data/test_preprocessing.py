"""Every reason for which an image is refused, and the one path from a file to the pixels a network reads."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cohort import draw_cell, write_image
from leukolens.data import preprocessing
from leukolens.data.phantom import encode_bmp
from leukolens.data.preprocessing import Preprocessing, fit_canvas, foreground, read_pixels, resize
from leukolens.data.trimmed import trim
from leukolens.errors import ArtifactError, ImageError, SettingsError
from leukolens.settings import InputSettings

MAX_PIXELS = 25_000_000
PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def refused(path: Path, max_pixels: int = MAX_PIXELS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_pixels(path, max_pixels)
    return caught.value


@pytest.mark.parametrize("suffix", ["bmp", "png", "tif", "webp"])
def test_lossless_formats_give_the_pixels(tmp_path: Path, suffix: str) -> None:
    pixels = draw_cell(1)
    path = tmp_path / f"cell.{suffix}"
    Image.fromarray(pixels).save(path, lossless=True)
    decoded = read_pixels(path, MAX_PIXELS)
    assert decoded.format == {"tif": "TIFF"}.get(suffix, suffix.upper())
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.pixels, pixels)


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("long_header", [False, True])
@pytest.mark.parametrize("width", [5, 6, 7, 8])  # rows of a BMP are filled up to 4 bytes
def test_plain_bmp_gives_what_pillow_gives(tmp_path: Path, width: int, long_header: bool, top_down: bool) -> None:
    random = np.random.default_rng(width)
    for number in range(40):
        pixels = np.zeros((9, width, 3), np.uint8)
        top, bottom = np.sort(random.choice(10, 2, replace=False))
        left, right = np.sort(random.choice(width + 1, 2, replace=False))
        pixels[top:bottom, left:right] = random.choice([0, 0, 1, 255], (bottom - top, right - left, 3))
        pixels[random.integers(9), random.integers(width), random.integers(3)] = 1
        path = tmp_path / f"{number}.bmp"
        path.write_bytes(bmp(pixels, long_header, top_down))
        decoded = read_pixels(path, MAX_PIXELS)
        np.testing.assert_array_equal(decoded.pixels, np.asarray(Image.open(path)))
        np.testing.assert_array_equal(decoded.pixels, pixels)
        np.testing.assert_array_equal(decoded.trimmed.window, trim(pixels).window)
        assert (decoded.trimmed.corner, decoded.trimmed.size_px) == (trim(pixels).corner, (9, width))


def test_window_of_a_plain_bmp_alone_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "cell.bmp", draw_cell(1))
    monkeypatch.setattr(preprocessing, "_to_rgb", lambda _: pytest.fail("unpacked the whole picture"))
    assert read_pixels(path, MAX_PIXELS).trimmed.window.shape == (19, 19, 3)  # a disc of radius 10, its edge left out


@pytest.mark.parametrize("suffix", ["bmp", "png", "jpg", "tif", "webp"])
def test_file_too_large_to_be_read_at_once_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = write_image(tmp_path / f"cell.{suffix}", draw_cell(1))
    at_once = read_pixels(path, MAX_PIXELS)
    monkeypatch.setattr(preprocessing, "_READ_AT_ONCE_BYTES", path.stat().st_size - 1)
    opened = []
    monkeypatch.setattr(preprocessing.Image, "open", noting(preprocessing.Image.open, opened))
    in_pieces = read_pixels(path, MAX_PIXELS)
    assert opened == [path]
    assert in_pieces.format == at_once.format
    assert in_pieces.trimmed.corner == at_once.trimmed.corner
    np.testing.assert_array_equal(in_pieces.trimmed.window, at_once.trimmed.window)


def noting(function: Any, first_arguments: list[Any]) -> Any:
    def noted(first: Any, **named: Any) -> Any:
        first_arguments.append(first)
        return function(first, **named)

    return noted


def test_bmp_that_is_cut_short_is_refused_however_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "cell.bmp", draw_cell(1))
    path.write_bytes(path.read_bytes()[:-1])
    at_once = refused(path)
    monkeypatch.setattr(preprocessing, "_READ_AT_ONCE_BYTES", 0)
    in_pieces = refused(path)
    assert (at_once.reason, in_pieces.reason) == ("truncated", "truncated")
    assert at_once.received == in_pieces.received


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA"])
def test_other_bmps_are_left_to_pillow(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "cell.bmp"
    Image.fromarray(draw_cell(1)).convert(mode).save(path)
    shown = Image.open(path)
    np.testing.assert_array_equal(read_pixels(path, MAX_PIXELS).pixels, np.asarray(shown.convert("RGB")))


def bmp(pixels: NDArray[np.uint8], long_header: bool, top_down: bool) -> bytes:
    """A 24-bit BMP whose filling bytes are not 0, which must not count as light."""
    height, width = pixels.shape[:2]
    encoded = bytearray(encode_bmp(pixels[::-1] if top_down else pixels, long_header=long_header))
    if top_down:
        encoded[22:26] = struct.pack("<i", -height)
    stride = (width * 3 + 3) // 4 * 4
    start = len(encoded) - stride * height
    for row in range(height):
        for filling in range(width * 3, stride):
            encoded[start + row * stride + filling] = 255
    return bytes(encoded)


def test_suffix_does_not_decide(tmp_path: Path) -> None:
    path = write_image(tmp_path / "cell.png", draw_cell(1)).rename(tmp_path / "cell.bmp")
    assert read_pixels(path, MAX_PIXELS).format == "PNG"


@pytest.mark.parametrize("target", ["gone.bmp", "link.bmp"])
def test_missing_broken_link_and_loop_of_links(tmp_path: Path, target: str) -> None:
    link = tmp_path / "link.bmp"
    link.symlink_to(tmp_path / target)
    error = refused(link)
    assert error.reason == "missing"
    assert error.expected == "a regular file"
    assert error.what == f"{link} cannot be used."


def test_missing_folder_with_a_name_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "folder.bmp").mkdir()
    assert refused(tmp_path / "folder.bmp").received == "a folder, device or pipe"


@pytest.mark.parametrize("place", ["stat", "open"])
def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    path = write_image(tmp_path / "cell.bmp", draw_cell(1))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(*((Path, "stat") if place == "stat" else (preprocessing.Image, "open")), refuse)
    assert refused(path).reason == "no_permission"


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "cell.bmp").touch()
    assert (refused(tmp_path / "cell.bmp").reason, refused(tmp_path / "cell.bmp").received) == (
        "empty",
        "a file of zero bytes",
    )


def test_text_and_foreign_formats_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(draw_cell(1)).save(tmp_path / "cell.gif")
    assert refused(tmp_path / "text.png").reason == "not_an_image"
    assert refused(tmp_path / "cell.gif").expected == "one of BMP, PNG, JPEG, TIFF, WEBP"


@pytest.mark.parametrize("suffix", ["bmp", "png", "jpg", "tif", "webp"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"cell.{suffix}", draw_cell(1, radius_px=20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert refused(path).reason in ("truncated", "not_an_image")
    if suffix in ("bmp", "png", "jpg"):
        assert refused(path).reason == "truncated"


def test_size_is_read_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "huge.png").write_bytes(png(5001, 5000, 8, 2, b""))
    monkeypatch.setattr(preprocessing, "_decode", lambda *_: pytest.fail("decoded"))
    error = refused(tmp_path / "huge.png")
    assert (error.reason, error.expected) == ("too_large", "at most 25,000,000 pixels")
    assert error.received == "a header of 5001 x 5000 pixels"


@pytest.mark.parametrize("side_px", [10_000, 20_000])
def test_sizes_at_which_pillow_warns_and_raises(tmp_path: Path, side_px: int) -> None:
    (tmp_path / "huge.png").write_bytes(png(side_px, side_px, 8, 2, b""))
    assert refused(tmp_path / "huge.png").reason == "too_large"


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_not_cut(tmp_path: Path, colour: int, channels: int) -> None:
    line = b"\0" + np.full(4 * channels, 4095, ">u2").tobytes()  # white of a 12-bit camera
    (tmp_path / "deep.png").write_bytes(png(4, 4, 16, colour, line * 4))
    error = refused(tmp_path / "deep.png")
    assert (error.reason, error.expected) == ("unsupported", "8 bits per channel")


def test_sixteen_bit_tiff_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(tmp_path / "deep.tif")
    assert refused(tmp_path / "deep.tif").received == "pixel mode I;16"


def test_several_frames(tmp_path: Path) -> None:
    first, second = Image.fromarray(draw_cell(1)), Image.fromarray(draw_cell(2))
    first.save(tmp_path / "stack.tif", save_all=True, append_images=[second])
    error = refused(tmp_path / "stack.tif")
    assert (error.reason, error.received) == ("unsupported", "2 frames")


def test_blank(tmp_path: Path) -> None:
    write_image(tmp_path / "black.bmp", np.zeros((8, 8, 3), np.uint8))
    assert refused(tmp_path / "black.bmp").reason == "blank"


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_pixels(tmp_path / "turned.png", MAX_PIXELS).pixels, np.rot90(pixels, -1))


def test_transparency_lies_over_black(tmp_path: Path) -> None:
    pixels = np.full((2, 2, 4), 200, np.uint8)
    pixels[..., 3] = [[255, 0], [51, 255]]
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    decoded = read_pixels(tmp_path / "clear.png", MAX_PIXELS).pixels
    assert decoded[..., 0].tolist() == [[200, 0], [40, 200]]  # 200 x 51 / 255 = 40


def test_transparent_palette_lies_over_black(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([250, 0, 0, 0, 250, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    assert read_pixels(tmp_path / "palette.png", MAX_PIXELS).pixels.tolist() == [[[0, 0, 0], [0, 250, 0]]]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.fromarray(draw_cell(1)).convert(mode).save(tmp_path / "cell.tif")
    assert read_pixels(tmp_path / "cell.tif", MAX_PIXELS).pixels.shape == (48, 48, 3)


def test_foreground_is_above_the_background_in_any_channel() -> None:
    pixels = np.array([[[12, 12, 12], [0, 0, 13], [13, 0, 0], [0, 200, 0]]], np.uint8)
    assert foreground(pixels).tolist() == [[False, True, True, True]]


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(1, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize("side_px", [450, 449, 451])
def test_padded_copy_comes_back_on_the_canvas(side_px: int) -> None:
    cell = picture(side_px, side_px)
    padded = fit_canvas(cell, (600, 600))
    assert padded.shape == (600, 600, 3)
    np.testing.assert_array_equal(fit_canvas(padded, (side_px, side_px)), cell)


def test_padding_of_the_final_set_is_75_px_on_every_side() -> None:
    padded = fit_canvas(np.full((450, 450, 3), 9, np.uint8), (600, 600))
    assert not padded[:75].any()
    assert not padded[-75:].any()
    assert not padded[:, :75].any()
    assert not padded[:, -75:].any()
    assert padded[75:-75, 75:-75].min() == 9


def test_one_axis_cropped_the_other_padded() -> None:
    pixels = picture(6, 2)
    fitted = fit_canvas(pixels, (4, 4))
    np.testing.assert_array_equal(fitted[:, 1:3], pixels[1:5])
    assert not fitted[:, [0, 3]].any()


def test_resize_is_pinned() -> None:
    row = np.array([0, 40, 80, 240, 200, 120, 60, 20], np.uint8)
    pixels = np.repeat(np.repeat(row[None, :, None], 8, axis=0), 3, axis=2)
    # Halving: a triangle over four source pixels, weights 1/8 3/8 3/8 1/8, at the border 3/7 3/7 1/7 renormalised.
    expected = [29, 150, 158, 51]  # 158: (240 + 3 x 200 + 3 x 120 + 60) / 8 = 157.5
    resized = resize(pixels, 4)
    assert resized.dtype == np.uint8
    assert resized[2, :, 1].tolist() == expected
    assert (resized == resized[:1]).all()


def test_resize_to_the_same_size_changes_nothing() -> None:
    pixels = picture(224, 224)
    np.testing.assert_array_equal(resize(pixels, 224), pixels)


def test_apply_is_canvas_then_resize() -> None:
    pixels = picture(600, 600)
    applied = Preprocessing((450, 450), 224).apply(pixels)
    np.testing.assert_array_equal(applied, resize(pixels[75:525, 75:525], 224))


def test_scale_and_offset_normalise() -> None:
    scale, offset = Preprocessing((4, 4), 4, mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 0.4)).scale_and_offset()
    assert [255 * factor + shift for factor, shift in zip(scale, offset, strict=True)] == pytest.approx([1, 1, 2])
    assert offset == pytest.approx([-1, 0, -0.5])


def test_record_comes_back() -> None:
    record = Preprocessing((450, 600), 224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_record(json.loads(json.dumps(record.to_record()))) == record
    assert Preprocessing.from_record(record.to_record()) == record


@pytest.mark.parametrize(
    "treatment",
    [
        InputSettings(crop="cell"),
        InputSettings(crop="centre", crop_px=300),
        InputSettings(colour="grey"),
        InputSettings(crop="cell", colour="constancy"),
    ],
)
def test_record_with_a_treatment_comes_back(treatment: InputSettings) -> None:
    record = Preprocessing((450, 600), 224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), treatment=treatment)
    assert Preprocessing.from_record(json.loads(json.dumps(record.to_record()))) == record


def test_record_says_what_is_not_the_default() -> None:
    plain = {"canvas_px": [450, 450], "input_px": 224, "mean": [0.0] * 3, "std": [1.0] * 3,
             "resizer": "Pillow bilinear, antialiased"}  # fmt: skip
    assert Preprocessing((450, 450), 224).to_record() == plain
    centre = InputSettings(crop="centre", crop_px=300)
    assert Preprocessing((450, 450), 224, treatment=centre).to_record() == plain | {"crop": "centre", "crop_px": 300}


def test_record_from_before_there_were_treatments_means_the_defaults() -> None:
    old = {"canvas_px": [450, 450], "input_px": 224, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
           "resizer": "Pillow bilinear, antialiased"}  # fmt: skip
    read = Preprocessing.from_record(old)
    assert read.treatment == InputSettings(crop="canvas", crop_px=None, colour="rgb")
    assert Preprocessing.from_record(old | {"crop": "canvas", "crop_px": None, "colour": "rgb"}) == read
    assert read.to_record() == old


def test_centre_larger_than_the_canvas_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        Preprocessing((450, 300), 224, treatment=InputSettings(crop="centre", crop_px=301))
    assert caught.value.what == "The canvas has no central square of 301 px."
    assert caught.value.expected == "a crop_px of at most 300, the shorter side of the canvas"
    assert caught.value.received == "crop_px 301, a canvas of 450 x 300 px"
    assert caught.value.remedy == "correct --crop-px (input.crop_px), or index again with a larger --canvas"


def test_pixels_depend_on_all_but_the_constants_of_the_weights() -> None:
    cell = InputSettings(crop="cell")
    whole = Preprocessing((450, 600), 224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), treatment=cell)
    assert whole.of_pixels() == Preprocessing((450, 600), 224, treatment=cell)


@pytest.mark.parametrize(
    "change",
    [
        {"resizer": "OpenCV area"},
        {"crop": 300},
        {"crop": "lymphocyte"},
        {"crop": "centre"},
        {"crop_px": 300},
        {"colour": "sepia"},
        {"sharpening": 1},
    ],
)
def test_record_of_another_preprocessing_is_refused(change: dict[str, object]) -> None:
    record = Preprocessing((450, 450), 224).to_record() | change
    with pytest.raises(ArtifactError, match=re.escape("A preprocessing record cannot be followed.")) as caught:
        Preprocessing.from_record(record)
    assert caught.value.expected == (
        "the fields canvas_px, input_px, mean, resizer, std and the resizer 'Pillow bilinear, antialiased'; perhaps crop "
        "(canvas or centre or cell, centre with crop_px) and colour (rgb or grey or constancy)"
    )


@pytest.mark.parametrize("missing", ["canvas_px", "input_px", "mean", "std", "resizer"])
def test_record_that_lacks_a_field_is_refused(missing: str) -> None:
    record = {key: value for key, value in Preprocessing((450, 450), 224).to_record().items() if key != missing}
    with pytest.raises(ArtifactError, match=re.escape("A preprocessing record cannot be followed.")):
        Preprocessing.from_record(record)
