"""Decode, one canvas per data set, resize: the one path from a file to the pixels that a network reads.

In: an image file. Out: uint8 [input_px, input_px, 3]. Writes: nothing. Normalisation belongs to the weights and is the
first layer of the classifier (`models/classifier.py`), so that no caller can forget it; see `scale_and_offset`.
"""

from __future__ import annotations

import stat
import struct
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from leukolens.data.trimmed import Pixels as Pixels
from leukolens.data.trimmed import Trimmed, lit_box, trim
from leukolens.errors import ArtifactError, ImageError

IMAGE_FORMATS = ("BMP", "PNG", "JPEG", "TIFF", "WEBP")
IMAGE_SUFFIXES = frozenset({".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
RESIZER = "Pillow bilinear, antialiased"

# The largest grey level of the background. It is exactly 0 in the C-NMC BMPs; their JPEG copies ring by a few levels
# around the cell, whose own pixels are brighter than this in at least one channel.
BACKGROUND_LEVEL = 12

_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
_BMP_ORDER = "BGR"  # the raw mode in which a BMP of 24 bits holds its colours
_CHANNELS = 3
_SIXTEEN_BITS = ";16"  # part of the raw mode in Pillow's decoder description, "RGB;16B"
# What Pillow's decoders raise on damaged files, beyond OSError.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
                   struct.error, zlib.error)  # fmt: skip
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
    `std` the per-channel constants on the 0–1 scale that belong to the weights.
    """

    canvas_px: tuple[int, int]
    input_px: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resizer: str = RESIZER

    def to_record(self) -> dict[str, Any]:
        """Give a JSON object."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Preprocessing:
        """Read what `to_record` gave; raises ArtifactError where fields are missing or another resizer was used."""
        names = sorted(each.name for each in fields(cls))
        if sorted(record) != names or record["resizer"] != RESIZER:
            raise ArtifactError(
                "A preprocessing record cannot be followed.",
                expected=f"the fields {', '.join(names)} and the resizer {RESIZER!r}",
                received=", ".join(f"{key} {value!r}" for key, value in sorted(record.items())) or "an empty record",
                remedy="use the version of leukolens that wrote it, or train again",
            )
        height, width = record["canvas_px"]
        red, green, blue = record["mean"]
        mean = (float(red), float(green), float(blue))
        red, green, blue = record["std"]
        return cls((int(height), int(width)), int(record["input_px"]), mean, (float(red), float(green), float(blue)))

    def scale_and_offset(self) -> tuple[list[float], list[float]]:
        """Per-channel (scale, offset) such that `level * scale + offset` normalises a 0–255 grey level."""
        scale = [1 / (255 * std) for std in self.std]
        offset = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return scale, offset

    def apply(self, pixels: Pixels | Trimmed) -> Pixels:
        """Bring decoded pixels onto the canvas and to the input size: uint8 [input_px, input_px, 3]."""
        trimmed = pixels if isinstance(pixels, Trimmed) else trim(pixels)
        return trimmed.on_canvas(self.canvas_px).resized(self.input_px)


def read_pixels(path: Path, max_pixels: int) -> Decoded:
    """Decode one file to 8-bit RGB, upright as its EXIF says, transparency over black.

    Raises ImageError with one of the reasons missing, no_permission, empty, not_an_image, too_large, unsupported,
    truncated, blank. The pixel limit is read from the header, before any pixel is decoded.
    """
    try:
        _check_file(path)
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            _check_header(path, image, max_pixels)
            return _decode(path, image)
    except PermissionError as error:
        raise _unusable(path, "no_permission", "a file that may be read", "no read permission") from error
    except _BOMBS as error:
        raise _unusable(path, "too_large", f"at most {max_pixels:,} pixels", _BOMB_HEADER) from error
    except UnidentifiedImageError as error:
        formats = ", ".join(IMAGE_FORMATS)
        raise _unusable(path, "not_an_image", f"one of {formats}", "bytes of no such format") from error
    except _DECODER_ERRORS as error:
        raise _unusable(path, "truncated", "a whole, undamaged image", str(error) or type(error).__name__) from error


def foreground(pixels: Pixels) -> NDArray[np.bool_]:
    """Pixels that belong to the cell: bool [height, width], true where any channel exceeds BACKGROUND_LEVEL."""
    # Channel by channel: a maximum over the last axis of three takes numpy ten times as long.
    red, green, blue = (pixels[..., channel] > BACKGROUND_LEVEL for channel in range(3))
    mask: NDArray[np.bool_] = red | green | blue
    return mask


def fit_canvas(pixels: Pixels, canvas_px: tuple[int, int]) -> Pixels:
    """Centre-crop what is larger and pad with black what is smaller, so that no image is scaled against another."""
    return trim(pixels).on_canvas(canvas_px).pixels


def resize(pixels: Pixels, side_px: int) -> Pixels:
    """Resize to a square with Pillow's antialiased bilinear filter; resizers disagree by up to 50 levels."""
    return trim(pixels).resized(side_px)


def _check_file(path: Path) -> None:
    """Raise ImageError unless the path leads to a file with something in it; PermissionError passes through."""
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


def _check_header(path: Path, image: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _unusable(path, "too_large", f"at most {max_pixels:,} pixels", f"a header of {width} x {height} pixels")
    # Pillow gives 16-bit colour as RGB and keeps the high byte: 12-bit data of a camera would turn black unnoticed.
    if image.mode not in _EIGHT_BIT_MODES:
        raise _unusable(path, "unsupported", "8 bits per channel", f"pixel mode {image.mode}")
    if any(_SIXTEEN_BITS in str(tile) for tile in getattr(image, "tile", ())):
        raise _unusable(path, "unsupported", "8 bits per channel", "16 bits per channel")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise _unusable(path, "unsupported", "one picture per file", f"{frames} frames")


def _decode(path: Path, image: ImageFile.ImageFile) -> Decoded:
    trimmed = _read_plain_bmp(image) or trim(_to_rgb(image))
    if trimmed.window.size == 0:
        raise _unusable(path, "blank", "a picture of something", "black in every pixel")
    return Decoded(trimmed, image.format or "unknown")


def _to_rgb(image: Image.Image) -> Pixels:
    """Upright RGB over black: uint8 [height, width, 3]."""
    ImageOps.exif_transpose(image, in_place=True)
    if "A" in image.getbands() or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


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
    image.fp.seek(tile.offset)
    data = image.fp.read(stride * height)
    if len(data) < stride * height:
        return None
    lines = np.frombuffer(data, np.uint8).reshape(height, stride)[:, : width * _CHANNELS]
    rows, columns = lit_box(lines)
    window = lines[rows, columns.start * _CHANNELS : columns.stop * _CHANNELS]
    if direction > 0 or rows.stop == 0:
        return Trimmed(_from_bgr(window), (rows.start, columns.start), (height, width))
    # Most files hold the last row first.
    return Trimmed(_from_bgr(window[::-1]), (height - rows.stop, columns.start), (height, width))


def _from_bgr(lines: Pixels) -> Pixels:
    """Turn uint8 [height, 3 * width] in the order blue, green, red into RGB [height, width, 3]."""
    height, length = lines.shape
    mirrored = lines.reshape(height, length // _CHANNELS, _CHANNELS)
    pixels = np.empty(mirrored.shape, np.uint8)
    # Channel by channel: to reverse the last axis of three takes numpy twice as long.
    for channel in range(_CHANNELS):
        pixels[..., channel] = mirrored[..., _CHANNELS - 1 - channel]
    return pixels


def _unusable(path: Path, reason: str, expected: str, received: str) -> ImageError:
    remedy = "replace or remove the file; without --strict it is set aside and named in the flow"
    return ImageError(f"{path} cannot be used.", reason=reason, expected=expected, received=received, remedy=remedy)
