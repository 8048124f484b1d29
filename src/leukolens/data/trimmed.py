"""A picture without the black around it: the window that holds all its light, and where the window lies.

In: uint8 pixels. Out: `Trimmed`, moved to another canvas or resized. Writes: nothing. A segmented cell fills about a fifth
of its 450 x 450 px; whatever is done to the window alone (hash, area, colour, resize) costs a fifth, and black elsewhere is
black afterwards too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Shape = tuple[int, int]

_CHANNELS = 3
# Rows are looked through in blocks, then row by row in the first and last block with light: to ask each of 450 rows takes
# numpy three times as long as to read them all.
_LINES_PER_BLOCK = 16


@dataclass(frozen=True)
class Trimmed:
    """`window` uint8 [height, width, 3] with its first pixel at `corner` (row, column) of a picture of `size_px`.

    `size_px` is (height, width); every pixel of the picture outside the window is exactly 0. A picture that is black all
    over has a window of 0 x 0 at (0, 0).
    """

    window: Pixels
    corner: Shape
    size_px: Shape

    @property
    def pixels(self) -> Pixels:
        """The whole picture: uint8 [height, width, 3]."""
        if self.window.shape[:2] == self.size_px:
            return np.ascontiguousarray(self.window)
        return _pasted(self.window, self.corner, self.size_px)

    def on_canvas(self, canvas_px: Shape) -> Trimmed:
        """Centre on a canvas (height, width): cut off what is larger, add black to what is smaller, scale nothing."""
        window, corner = self.window, list(self.corner)
        for axis in range(2):
            surplus = self.size_px[axis] - canvas_px[axis]
            # An odd surplus loses, and an odd lack gets, the smaller half before the picture.
            corner[axis] -= surplus // 2 if surplus > 0 else -(-surplus // 2)
            length = window.shape[axis]
            first = min(max(0, -corner[axis]), length)
            last = max(first, min(length, canvas_px[axis] - corner[axis]))
            window = window[first:last] if axis == 0 else window[:, first:last]
            corner[axis] += first
        if 0 in window.shape:
            return Trimmed(window[:0, :0], (0, 0), canvas_px)
        return Trimmed(window, (corner[0], corner[1]), canvas_px)

    def resized(self, side_px: int) -> Pixels:
        """Resize to uint8 [side_px, side_px, 3]: what Pillow's antialiased bilinear filter gives of the whole picture.

        Only outputs that the window reaches are computed; all others are 0.
        """
        if self.size_px == (side_px, side_px):
            return self.pixels
        resized = np.zeros((side_px, side_px, _CHANNELS), np.uint8)
        if 0 in self.window.shape:
            return resized
        rows, columns = (
            _reach(self.corner[axis], self.window.shape[axis], self.size_px[axis], side_px) for axis in range(2)
        )
        picture = Image.fromarray(self._surroundings(rows, columns))
        # The width first, then the height, as Pillow does with a square picture. Left to itself, it chooses the order by the
        # shape of what it is given, and the orders differ by a level.
        width_px, height_px = _length(columns.outputs), _length(rows.outputs)
        narrowed = picture.resize(
            (width_px, picture.height), Image.Resampling.BILINEAR, (columns.box[0], 0, columns.box[1], picture.height)
        )
        small = narrowed.resize(
            (width_px, height_px), Image.Resampling.BILINEAR, (0, rows.box[0], width_px, rows.box[1])
        )
        resized[rows.outputs, columns.outputs] = np.asarray(small)
        return resized

    def _surroundings(self, rows: _Reach, columns: _Reach) -> Pixels:
        """The window with the black around it that the filter reads."""
        size = (_length(rows.source), _length(columns.source))
        if self.window.shape[:2] == size:
            return np.ascontiguousarray(self.window)
        return _pasted(self.window, (self.corner[0] - rows.source.start, self.corner[1] - columns.source.start), size)


def trim(pixels: Pixels) -> Trimmed:
    """Drop the rows and columns at the borders of uint8 [height, width, 3] that are exactly 0; nothing is copied.

    Exactly 0 and not the background level: a lossy copy must not equal another cell that differs in its rim.
    """
    height, width = pixels.shape[:2]
    rows, columns = lit_box(pixels.reshape(height, width * _CHANNELS))
    return Trimmed(pixels[rows, columns], (rows.start, columns.start), (height, width))


def lit_box(lines: Pixels) -> tuple[slice, slice]:
    """Find what is not 0 in a picture given as uint8 [height, 3 * width], three channels in a row.

    Gives the span of rows and that of columns (pixels); both are empty where all is black.
    """
    height, length = lines.shape
    whole = height // _LINES_PER_BLOCK
    last = max(0, height - _LINES_PER_BLOCK)
    # The last block ends with the picture, and so may lie over the one before.
    starts = [*range(0, whole * _LINES_PER_BLOCK, _LINES_PER_BLOCK), last]
    blocks = np.empty((whole + 1, length), np.uint8)
    in_blocks = lines[: whole * _LINES_PER_BLOCK].reshape(whole, _LINES_PER_BLOCK, length)
    np.bitwise_or.reduce(in_blocks, axis=1, out=blocks[:whole])
    np.bitwise_or.reduce(lines[last:], axis=0, out=blocks[whole])
    lit = _lit_span(np.bitwise_or.reduce(blocks, axis=1))
    columns = _lit_span(np.bitwise_or.reduce(blocks, axis=0), _CHANNELS)
    if lit.stop == 0:
        return lit, columns
    top, bottom = starts[lit.start], starts[lit.stop - 1]
    first, end = (
        _lit_span(np.bitwise_or.reduce(lines[start : start + _LINES_PER_BLOCK], axis=1)) for start in (top, bottom)
    )
    return slice(top + first.start, bottom + end.stop), columns


def _lit_span(values: Pixels, values_per_item: int = 1) -> slice:
    """Give the span of items from the first to the last that holds a value other than 0; an empty one at 0 where none does.

    Python's own bytes and not numpy: on some hundred values it takes a sixth of the time, and no other thread is let in.
    """
    data = values.tobytes()
    stop = len(data.rstrip(b"\0"))
    if stop == 0:
        return slice(0, 0)
    start = len(data) - len(data.lstrip(b"\0"))
    return slice(start // values_per_item, -(-stop // values_per_item))


@dataclass(frozen=True)
class _Reach:
    """Along one axis: the `outputs` that a window reaches, the `source` pixels that these read, and their exact `box`.

    `box` is in source pixels from the start of `source`.
    """

    outputs: slice
    source: slice
    box: tuple[float, float]


def _reach(start: int, length: int, size_px: int, side_px: int) -> _Reach:
    """Find what a window of `length` px from `start` reaches when `size_px` become `side_px`."""
    scale = size_px / side_px
    support = max(1.0, scale)  # half the width of the triangle, in source pixels
    # Pillow takes the box in float32. Edges at such multiples of outputs fall on sixteenths or the like, which float32
    # holds exactly, so that the filter's weights are those of the whole picture.
    step = _odd_part(side_px // math.gcd(size_px, side_px))
    first = max(0, math.floor((start - support) / scale)) // step * step
    last = min(side_px, -(-math.ceil((start + length + support) / scale) // step) * step)
    low = max(0, math.floor(first * scale - support))
    high = min(size_px, math.ceil(last * scale + support))
    box = (first * size_px / side_px - low, last * size_px / side_px - low)
    return _Reach(slice(first, last), slice(low, high), box)


def _length(span: slice) -> int:
    return int(span.stop - span.start)


def _odd_part(number: int) -> int:
    return number // (number & -number)


def _pasted(window: Pixels, corner: Shape, size_px: Shape) -> Pixels:
    """Lay a window on black: uint8 [height, width, 3] of `size_px`."""
    picture = np.zeros((*size_px, _CHANNELS), np.uint8)
    top, left = corner
    picture[top : top + window.shape[0], left : left + window.shape[1]] = window
    return picture
