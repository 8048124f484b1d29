"""What may be done to a decoded picture before it is resized: a crop, and a treatment of its colours.

In: a `Trimmed` picture on its canvas. Out: another one; black stays black. Writes: nothing. Each treatment depends on the one
picture and on nothing else, so that a cell is treated alike at training and at prediction, whatever data it lies among. Which
of them a network was trained on stands in its `Preprocessing`; why they are options is in docs/decisions/0019.

A treatment goes by its name in every record and every cache. Whoever changes what a name does has to give it a new name.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukolens.data.trimmed import Pixels, Shape, Trimmed
from leukolens.settings import Colour, InputSettings

# The largest grey level of the background. It is exactly 0 in the C-NMC BMPs; their JPEG copies ring by a few levels
# around the cell, whose own pixels are brighter than this in at least one channel.
BACKGROUND_LEVEL = 12

# The margin around a cell, on each side: a twentieth (5 %) of the longer side of its bounding box, so that the filter of the
# resize reads background beyond the membrane.
_MARGIN = 20

# Minkowski norm of "shades of grey": the best of those tried by Finlayson & Trezzi, Shades of gray and colour constancy, Color
# and Imaging Conference 2004; with it Barata, Celebi & Marques (IEEE J Biomed Health Inform 2015) brought dermoscopy images
# of several devices together. 1 would be grey world, infinity the brightest value of each channel.
_NORM = 6

_LEVELS = 256
_WHITE = 255


def foreground(pixels: Pixels) -> NDArray[np.bool_]:
    """Pixels that belong to the cell: bool [height, width], true where any channel exceeds BACKGROUND_LEVEL."""
    # Channel by channel: a maximum over the last axis of three takes numpy ten times as long.
    red, green, blue = (pixels[..., channel] > BACKGROUND_LEVEL for channel in range(3))
    mask: NDArray[np.bool_] = red | green | blue
    return mask


def cropped(picture: Trimmed, treatment: InputSettings) -> Trimmed:
    """Cut a picture on its canvas down as `crop` says: not at all, to its centre at true scale, or to the cell."""
    if treatment.crop == "cell":
        return around_cell(picture)
    return picture if treatment.crop_px is None else picture.on_canvas((treatment.crop_px, treatment.crop_px))


def around_cell(picture: Trimmed) -> Trimmed:
    """Cut out the square around the foreground's bounding box, with a margin of a twentieth of the box's longer side.

    What the square has beyond the canvas is black. A picture without a black background, whose box is all of it, and one
    whose square would be as long as the canvas or longer, stay whole; so does one without any foreground. Resized, cells of
    all sizes then fill the input: size, a shortcut to the class, is taken away, and so is true scale.
    """
    mask = foreground(picture.window)
    rows, columns = (_span(np.logical_or.reduce(mask, axis=axis)) for axis in (1, 0))
    height, width = rows.stop - rows.start, columns.stop - columns.start
    # In whole numbers: 20 * 1.1 is more than 22 to a computer.
    side_px = (longer := max(height, width)) + 2 * -(-longer // _MARGIN)
    if not height or side_px >= max(picture.size_px):
        return picture
    top = picture.corner[0] + rows.start - (side_px - height) // 2
    left = picture.corner[1] + columns.start - (side_px - width) // 2
    return _cut_out(picture, (top, left), side_px)


def coloured(picture: Trimmed, colour: Colour) -> Trimmed:
    """Treat the colours of a picture: as they are, without any, or as under a neutral light."""
    if colour == "rgb" or not picture.window.size:
        return picture
    change = {"grey": _to_grey, "constancy": _under_neutral_light}[colour]
    return Trimmed(change(picture.window), picture.corner, picture.size_px)


def _to_grey(window: Pixels) -> Pixels:
    """Luma, 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601, as Pillow computes it), on all three channels."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(window)).convert("L").convert("RGB"))


def _under_neutral_light(window: Pixels) -> Pixels:
    """Scale the channels of the foreground so that their Minkowski norms are equal (shades of grey), 255 at most.

    The norms' root mean square stays as it was, so that a picture is made neither lighter nor darker. Everything that is not
    foreground, JPEG noise on black above all, is left as it is and has no say in the norms.
    """
    mask = foreground(window)
    norms = [_minkowski_norm(window[..., channel][mask]) for channel in range(3)]
    neutral = math.sqrt(sum(norm**2 for norm in norms) / len(norms))
    # A channel without any light has nothing to scale; without foreground, none has.
    gains = [neutral / norm if norm else 1.0 for norm in norms]
    treated = np.empty_like(window)
    for channel, gain in enumerate(gains):
        table = np.rint(np.arange(_LEVELS) * gain).clip(0, _WHITE).astype(np.uint8)
        treated[..., channel] = np.where(mask, table[window[..., channel]], window[..., channel])
    return treated


def _minkowski_norm(levels: Pixels) -> float:
    """(mean of level^6)^(1/6) of uint8 [pixels], 0–255; 0 where there are none. By counts of levels: exact in any order."""
    counts = np.bincount(levels, minlength=_LEVELS).tolist()
    total = sum(count * level**_NORM for level, count in enumerate(counts))
    return float((total / levels.size) ** (1 / _NORM)) if levels.size else 0.0


def _span(lit: NDArray[np.bool_]) -> slice:
    """From the first true value to the last; an empty span at 0 where there is none."""
    where = np.flatnonzero(lit)
    return slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, 0)


def _cut_out(picture: Trimmed, corner: Shape, side_px: int) -> Trimmed:
    """Cut a square with its first pixel at `corner` of the picture, perhaps outside it; it holds a part of the window."""
    spans, start = [], []
    for axis in range(2):
        offset = picture.corner[axis] - corner[axis]
        first = max(0, -offset)
        spans.append(slice(first, min(picture.window.shape[axis], side_px - offset)))
        start.append(offset + first)
    return Trimmed(picture.window[spans[0], spans[1]], (start[0], start[1]), (side_px, side_px))
