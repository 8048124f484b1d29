"""A cell beside its map: pictures of single images, and their safe and unique file names.

In: pixels uint8 [side, side, 3], a map float32 [side, side] between 0 and 1 and the cell's mask. Out: pictures. Writes:
`overlays/<name>-<8 digits>-<method>.png`, whole or not at all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from leukolens.artifacts import atomic_path
from leukolens.data.preprocessing import Pixels
from leukolens.explanation.localisation import peak_of

# Perceptually uniform, and the same to readers with and without a common colour blindness: Nuñez, Anderton & Renslow 2018,
# "Optimizing colormaps with consideration for color vision deficiency".
COLOUR_MAP = "cividis"
WARNING = ("Research software, not a medical device. "
           "A map shows where the score is sensitive, not why the cell is malignant.")  # fmt: skip
OVERLAYS_FOLDER = "overlays"

# The colours lie over the cell without its own, so that the stain does not change their hue.
_COLOUR_SHARE = 0.6
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's
_WHITE = 255
_PEAK_REACH = 4
_LEAST_SIDE_PX = 224
_GAP_PX, _STRIP_PX, _FONT_PX = 8, 20, 13
_LONGEST_STEM = 60
_KEY_LENGTH = 8
_OWN_NAME = re.compile(rf".+-[0-9a-f]{{{_KEY_LENGTH}}}-(gradcam|eigencam)\.png")


def overlaid(pixels: Pixels, values: NDArray[np.floating], mask: NDArray[np.bool_]) -> Pixels:
    """Lay a map over a cell in grey, with the cell's edge as a white line and a cross at the peak: uint8 [side, side, 3].

    The grey is stretched to full white: stained cells are dark. Of a map that is 0 everywhere there is nothing to lay over:
    the cell stays grey, with its edge.
    """
    luma = pixels @ np.array(_LUMA)
    grey = np.repeat((luma * (_WHITE / max(1.0, luma.max())))[..., None], 3, axis=2)
    picture = grey
    if values.any():
        colours = mpl.colormaps[COLOUR_MAP](values)[..., :3] * _WHITE
        picture = (1 - _COLOUR_SHARE) * grey + _COLOUR_SHARE * colours
    picture = picture.round().astype(np.uint8)
    picture[edge_of(mask)] = _WHITE
    if values.any():
        _mark(picture, peak_of(values))
    return picture


def edge_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask with a neighbour above, below or beside that is none of it; the picture's border counts as inside."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: NDArray[np.bool_] = mask & ~inner
    return edge


def write_overlay(path: Path, pair: tuple[Pixels, Pixels], caption: str, source: str) -> None:
    """Write cell and overlay (uint8 [side, side, 3]) side by side over a line of text; `source` is the image's name."""
    times = -(-_LEAST_SIDE_PX // len(pair[0]))
    left, right = (_enlarged(picture, times) for picture in pair)
    side_px = len(left)
    sheet = Image.new("RGB", (2 * side_px + _GAP_PX, side_px + _STRIP_PX), "white")
    sheet.paste(Image.fromarray(left), (0, 0))
    sheet.paste(Image.fromarray(right), (side_px + _GAP_PX, 0))
    font = ImageFont.load_default(_FONT_PX)
    ImageDraw.Draw(sheet).text((2, side_px + 2), caption, fill="black", font=font)
    notes = PngInfo()
    # Bytes of a name that are no UTF-8, which Python holds as surrogates, cannot be written as they are.
    notes.add_itxt("Source", source.encode("utf-8", "backslashreplace").decode("utf-8"))
    notes.add_itxt("Description", caption)
    notes.add_itxt("Warning", WARNING)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=notes, optimize=True)


def overlay_name(image: str, method: str) -> str:
    """File name of an overlay: what is safe of the image's own name, a hash of its whole path, the method.

    Images of several folders may share a name, and names may differ by what no file system takes.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(image).stem)[:_LONGEST_STEM].strip("._-") or "image"
    key = hashlib.sha256(image.encode("utf-8", "surrogatepass")).hexdigest()[:_KEY_LENGTH]
    return f"{stem}-{key}-{method}.png"


def remove_overlays(folder: Path, kept: Iterable[str]) -> None:
    """Delete the overlays of an earlier call, known by the form of their names, that are not among those `kept`."""
    names = set(kept)
    for path in folder.glob("*.png"):
        if _OWN_NAME.fullmatch(path.name) and path.name not in names:
            path.unlink()


def _enlarged(picture: Pixels, times: int) -> Pixels:
    return np.repeat(np.repeat(picture, times, axis=0), times, axis=1)


def _mark(picture: Pixels, peak: tuple[int, int]) -> None:
    """Draw a black cross with a white core, so that it is seen on any colour."""
    row, column = peak
    for reach, width, level in ((_PEAK_REACH + 1, 1, 0), (_PEAK_REACH, 0, _WHITE)):
        for rows, columns in ((reach, width), (width, reach)):
            picture[max(0, row - rows) : row + rows + 1, max(0, column - columns) : column + columns + 1] = level
