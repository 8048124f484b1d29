"""Decode, one canvas per data set, crop, colour, resize: the one path from a file to the pixels that a network reads.

In: an image file. Out: uint8 [input_px, input_px, 3]. Writes: nothing. Normalisation belongs to the weights and is the
first layer of the classifier (`models/classifier.py`), so that no caller can forget it; see `scale_and_offset`.
"""

from __future__ import annotations

import io
import math
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from pydantic import ValidationError

from leukolens.data.treatments import BACKGROUND_LEVEL as BACKGROUND_LEVEL
from leukolens.data.treatments import coloured, cropped
from leukolens.data.treatments import foreground as foreground
from leukolens.data.trimmed import Pixels as Pixels
from leukolens.data.trimmed import Shape, Trimmed, lit_box, trim
from leukolens.errors import ArtifactError, ImageError, SettingsError
from leukolens.settings import Colour, Crop, InputSettings

IMAGE_FORMATS = ("BMP", "PNG", "JPEG", "TIFF", "WEBP")
IMAGE_SUFFIXES = frozenset({".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
RESIZER = "Pillow bilinear, antialiased"

_TREATMENT = "treatment"
# A canvas of that side is 200 MB in memory, and no microscope's camera has one; no network here reads more than half a
# thousand.
_LONGEST_CANVAS_SIDE_PX = 8192
_LARGEST_INPUT_PX = 2048
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
# Files up to so many bytes (a 24-bit BMP of 2,300 x 2,300 px) are read in one go: each of a dozen small reads is a moment at
# which threads that decode wait for each other. Larger files Pillow reads as it needs them, so that whatever lies among the
# images, a film say, does not fill the memory before its header is looked at.
_READ_AT_ONCE_BYTES = 1 << 24

_BMP_ORDER = "BGR"  # the raw mode in which a BMP of 24 bits holds its colours
_CHANNELS = 3
_SIXTEEN_BITS = ";16"  # part of the raw mode in Pillow's decoder description, "RGB;16B"
# What Pillow's decoders raise on damaged files, beyond OSError.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError,
                   AssertionError, RuntimeError, MemoryError, struct.error, zlib.error)  # fmt: skip
_PIXELS_LAID_AT_ONCE = 1 << 20
_MORE_THAN_ONE = 2
_SCAN_MARKER = b"\xff\xda"
# Ten make a progressive JPEG as programs write it; one for each bit of each band would be some hundreds. Previews in its
# metadata count too.
_MOST_SCANS = 500
_BLOCK_BYTES, _BLOCKS_SEARCHED = 1 << 20, 256
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_BOMB_HEADER = f"a header of more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, which Pillow does not open"


@dataclass(frozen=True)
class Decoded:
    """One decoded image: `trimmed` of the black around it, and the `format` it was read from."""

    trimmed: Trimmed
    format: str

    @property
    def pixels(self) -> Pixels:
        """The whole picture: uint8 [height, width, 3] RGB."""
        return self.trimmed.pixels


@dataclass(frozen=True)
class Preprocessing:
    """The record that is stored with every cache and every set of weights.

    `canvas_px` is (height, width) of the common canvas, `input_px` the side of the network's square input, `mean` and
    `std` the per-channel constants on the 0–1 scale that belong to the weights, `treatment` the crop and the colours. Raises
    SettingsError where the central square is to be larger than the canvas.
    """

    canvas_px: Shape
    input_px: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resizer: str = RESIZER
    treatment: InputSettings = field(default_factory=InputSettings)

    def __post_init__(self) -> None:
        if self.treatment.crop_px is not None and self.treatment.crop_px > min(self.canvas_px):
            raise SettingsError(
                f"The canvas has no central square of {self.treatment.crop_px} px.",
                expected=f"a crop_px of at most {min(self.canvas_px)}, the shorter side of the canvas",
                received=f"crop_px {self.treatment.crop_px}, a canvas of {self.canvas_px[0]} x {self.canvas_px[1]} px",
                remedy="correct --crop-px (input.crop_px), or index again with a larger --canvas",
            )

    def to_record(self) -> dict[str, Any]:
        """Give a JSON object. Of the treatment it names what is not the default: without any, it is as it always was."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name != _TREATMENT}
        record = {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}
        return record | self.treatment.model_dump(exclude_defaults=True)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Preprocessing:
        """Read what `to_record` gave; raises ArtifactError where the fields or the resizer are not those known here.

        A record that says nothing of crop or colour, as all did before there were any, means the defaults.
        """
        names = sorted(each.name for each in fields(cls) if each.name != _TREATMENT)
        if not isinstance(record, dict):
            raise _not_followed({"record": record})
        said = {key: value for key, value in record.items() if key in InputSettings.model_fields}
        if sorted(record.keys() - said) != names or record["resizer"] != RESIZER:
            raise _not_followed(record)
        try:
            treatment = InputSettings.model_validate(said)
        except ValidationError as error:
            raise _not_followed(record) from error
        try:
            height, width = map(int, record["canvas_px"])
            red, green, blue = map(float, record["mean"])
            mean = (red, green, blue)
            red, green, blue = map(float, record["std"])
            found = cls((height, width), int(record["input_px"]), mean, (red, green, blue), treatment=treatment)
        except (TypeError, ValueError, OverflowError) as error:
            raise _not_followed(record) from error
        if not found._is_possible():
            raise _not_followed(record)
        return found

    def _is_possible(self) -> bool:
        """Whether there is memory for it, and an end to its numbers: a record may come from a stranger."""
        sides = 1 <= min(self.canvas_px) <= max(self.canvas_px) <= _LONGEST_CANVAS_SIDE_PX
        constants = all(math.isfinite(mean) for mean in self.mean) and all(0 < std < math.inf for std in self.std)
        return sides and 1 <= self.input_px <= _LARGEST_INPUT_PX and constants

    def of_pixels(self) -> Preprocessing:
        """Only what pixels depend on: mean and deviation, which belong to weights, at rest."""
        return Preprocessing(self.canvas_px, self.input_px, resizer=self.resizer, treatment=self.treatment)

    def scale_and_offset(self) -> tuple[list[float], list[float]]:
        """Per-channel (scale, offset) such that `level * scale + offset` normalises a 0–255 grey level."""
        scale = [1 / (255 * std) for std in self.std]
        offset = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return scale, offset

    def apply(self, pixels: Pixels | Trimmed) -> Pixels:
        """Bring decoded pixels onto the canvas, treat them, resize them: uint8 [input_px, input_px, 3]."""
        trimmed = pixels if isinstance(pixels, Trimmed) else trim(pixels)
        picture = cropped(trimmed.on_canvas(self.canvas_px), self.treatment)
        return coloured(picture, self.treatment.colour).resized(self.input_px)


def read_pixels(path: Path, max_pixels: int) -> Decoded:
    """Decode one file to 8-bit RGB, upright as its EXIF says, transparency over black.

    Raises ImageError with one of the reasons missing, no_permission, empty, not_an_image, too_large, unsupported,
    truncated, blank. The pixel limit is read from the header, before any pixel is decoded.
    """
    with _reasons(path, max_pixels):
        return _read(_source(path, _check_file(path)), path, max_pixels)


def read_encoded(data: bytes, name: Path, max_pixels: int) -> Decoded:
    """Decode the bytes of an image file, of an archive's member say, as `read_pixels` decodes the file itself.

    `name` is what an error calls it; raises ImageError with the reasons of a file that is there and may be read.
    """
    with _reasons(name, max_pixels):
        if not data:
            raise _unusable(name, "empty", "an image of at least one byte", "a file of zero bytes")
        return _read(io.BytesIO(data), name, max_pixels)


def fit_canvas(pixels: Pixels, canvas_px: tuple[int, int]) -> Pixels:
    """Centre-crop what is larger and pad with black what is smaller, so that no image is scaled against another."""
    return trim(pixels).on_canvas(canvas_px).pixels


def resize(pixels: Pixels, side_px: int) -> Pixels:
    """Resize to a square with Pillow's antialiased bilinear filter; resizers disagree by up to 50 levels."""
    return trim(pixels).resized(side_px)


def _source(path: Path, size_bytes: int) -> Path | io.BytesIO:
    """Give what Pillow is to open: the file's content, or the path of one that is too large to be read blindly."""
    if size_bytes > _READ_AT_ONCE_BYTES:
        return path
    # A size for the buffer spares the question whether the file is a terminal.
    with path.open("rb", buffering=io.DEFAULT_BUFFER_SIZE) as file:
        return io.BytesIO(file.read(size_bytes))


def _read(source: Path | io.BytesIO, path: Path, max_pixels: int) -> Decoded:
    with Image.open(source, formats=IMAGE_FORMATS) as image:
        _check_header(path, image, max_pixels)
        return _decode(path, image)


@contextmanager
def _reasons(path: Path, max_pixels: int) -> Iterator[None]:
    """Turn what goes wrong while an image is read into an ImageError that says why."""
    try:
        yield
    except PermissionError as error:
        raise _unusable(path, "no_permission", "a file that may be read", "no read permission") from error
    except _BOMBS as error:
        raise _unusable(path, "too_large", f"at most {max_pixels:,} pixels", _BOMB_HEADER) from error
    except UnidentifiedImageError as error:
        formats = ", ".join(IMAGE_FORMATS)
        raise _unusable(path, "not_an_image", f"one of {formats}", "bytes of no such format") from error
    except _DECODER_ERRORS as error:
        raise _unusable(path, "truncated", "a whole, undamaged image", str(error) or type(error).__name__) from error


def _check_file(path: Path) -> int:
    """Size in bytes; raises ImageError unless the path leads to a file with something in it, and PermissionError."""
    try:
        found = path.stat()
    except PermissionError:
        raise
    except OSError as error:  # a broken link, a loop of links, a name that no file system takes
        raise _unusable(path, "missing", "a regular file", error.strerror or str(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise _unusable(path, "missing", "a regular file", "a folder, device or pipe")
    if found.st_size == 0:
        raise _unusable(path, "empty", "an image of at least one byte", "a file of zero bytes")
    return found.st_size


def _check_header(path: Path, image: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _unusable(path, "too_large", f"at most {max_pixels:,} pixels", f"a header of {width} x {height} pixels")
    # Pillow gives 16-bit colour as RGB and keeps the high byte: 12-bit data of a camera would turn black unnoticed.
    if image.mode not in _EIGHT_BIT_MODES:
        raise _unusable(path, "unsupported", "8 bits per channel", f"pixel mode {image.mode}")
    if any(_SIXTEEN_BITS in str(tile) for tile in getattr(image, "tile", ())):
        raise _unusable(path, "unsupported", "8 bits per channel", "16 bits per channel")
    frames = _count_frames(image)
    if frames > 1:
        raise _unusable(path, "unsupported", "one picture per file", f"{frames} frames")
    if (scans := _count_scans(image)) > _MOST_SCANS:
        raise _unusable(path, "unsupported", f"a JPEG of at most {_MOST_SCANS} scans", f"{scans:,} scans")


def _count_frames(image: ImageFile.ImageFile) -> int:
    """Number of pictures in the file; of a TIFF no more than one after the first is looked for.

    To count the pages of a TIFF is to go from each to the next, and compare it with all before: minutes for 100,000 of them.
    """
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    try:
        image.seek(1)
    except EOFError:
        return 1
    return _MORE_THAN_ONE


def _count_scans(image: ImageFile.ImageFile) -> int:
    """Number of scans of a JPEG, or more; a decoder goes through all blocks of the picture for each, however short it is."""
    if image.format != "JPEG" or image.fp is None:
        return 1
    place = image.fp.tell()
    image.fp.seek(0)
    found, before = 0, b""
    # Block by block, as the file may be of any size; a marker may lie across two of them.
    for _ in range(_BLOCKS_SEARCHED):
        block = image.fp.read(_BLOCK_BYTES)
        if not block:
            break
        found += (before + block).count(_SCAN_MARKER)
        before = block[-1:]
    image.fp.seek(place)
    return found


def _decode(path: Path, image: ImageFile.ImageFile) -> Decoded:
    trimmed = _read_plain_bmp(image) or trim(_to_rgb(image))
    if trimmed.window.size == 0:
        raise _unusable(path, "blank", "a picture of something", "black in every pixel")
    return Decoded(trimmed, image.format or "unknown")


def _to_rgb(image: Image.Image) -> Pixels:
    """Upright RGB over black: uint8 [height, width, 3]."""
    ImageOps.exif_transpose(image, in_place=True)
    if "A" in image.getbands() or "transparency" in image.info:
        return _over_black(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _over_black(image: Image.Image) -> Pixels:
    """Lay what is see-through over black, some rows at a time: all at once would take five times the picture."""
    width, height = image.size
    pixels = np.empty((height, width, _CHANNELS), np.uint8)
    step = max(1, _PIXELS_LAID_AT_ONCE // max(1, width))
    for top in range(0, height, step):
        rows = image.crop((0, top, width, min(top + step, height))).convert("RGBA")
        black = Image.new("RGBA", rows.size, (0, 0, 0, 255))
        pixels[top : top + step] = np.asarray(Image.alpha_composite(black, rows).convert("RGB"))
    return pixels


def _read_plain_bmp(image: ImageFile.ImageFile) -> Trimmed | None:
    """Read the window of an uncompressed 24-bit BMP straight from the file's rows; None where it is anything else.

    Unpacking only the window takes a fourth of the time. Pillow has read the header and says where the rows lie; a file
    that is too short is left to Pillow, which says what is missing.
    """
    width, height = image.size
    if image.format != "BMP" or image.mode != "RGB" or len(image.tile) != 1 or image.fp is None:
        return None
    tile = image.tile[0]
    if tile.codec_name != "raw" or not isinstance(tile.args, tuple) or tile.args[0] != _BMP_ORDER:
        return None
    _, stride, direction = tile.args
    data = _bytes_from(image.fp, tile.offset, stride * height)
    if len(data) < stride * height:
        return None
    lines = np.frombuffer(data, np.uint8).reshape(height, stride)[:, : width * _CHANNELS]
    rows, columns = lit_box(lines)
    window = lines[rows, columns.start * _CHANNELS : columns.stop * _CHANNELS]
    if direction > 0 or rows.stop == 0:
        return Trimmed(_from_bgr(window), (rows.start, columns.start), (height, width))
    # Most files hold the last row first.
    return Trimmed(_from_bgr(window[::-1]), (height - rows.stop, columns.start), (height, width))


def _bytes_from(file: IO[bytes], start: int, length: int) -> bytes | memoryview:
    """Bytes of an open file, fewer where it ends before; what is in memory already is not copied."""
    if isinstance(file, io.BytesIO):
        return file.getbuffer()[start : start + length]
    file.seek(start)
    return file.read(length)


def _from_bgr(lines: Pixels) -> Pixels:
    """Turn uint8 [height, 3 * width] in the order blue, green, red into RGB [height, width, 3]."""
    height, length = lines.shape
    mirrored = lines.reshape(height, length // _CHANNELS, _CHANNELS)
    pixels = np.empty(mirrored.shape, np.uint8)
    # Channel by channel: to reverse the last axis of three takes numpy twice as long.
    for channel in range(_CHANNELS):
        pixels[..., channel] = mirrored[..., _CHANNELS - 1 - channel]
    return pixels


def _not_followed(record: dict[str, Any]) -> ArtifactError:
    names = ", ".join(sorted(each.name for each in fields(Preprocessing) if each.name != _TREATMENT))
    crops, colours = (" or ".join(get_args(choice)) for choice in (Crop, Colour))
    return ArtifactError(
        "A preprocessing record cannot be followed.",
        expected=f"the fields {names} and the resizer {RESIZER!r}; perhaps crop ({crops}, centre with crop_px) and colour "
        f"({colours})",
        received=", ".join(f"{key} {value!r:.100}" for key, value in sorted(record.items())) or "an empty record",
        remedy="use the version of leukolens that wrote it, or train again",
    )


def _unusable(path: Path, reason: str, expected: str, received: str) -> ImageError:
    remedy = "replace or remove the file; without --strict it is set aside and named in the flow"
    return ImageError(f"{path} cannot be used.", reason=reason, expected=expected, received=received, remedy=remedy)
