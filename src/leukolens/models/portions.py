"""Any number of pictures, asked in portions of one fixed size: no picture's answer depends on those beside it.

In: pixels, and a function that answers for a full portion. Out: its answers. Writes: nothing.

Libraries choose how to compute by the size of the batch, and sums taken in another order end in other bits. A portion that is
not full is therefore filled up with black pictures, whose answers are dropped (docs/decisions/0025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]
Shape = tuple[int, int, int, int]


def in_portions(pixels: Pixels, shape: Shape, ask: Callable[[Pixels], Sequence[Any]]) -> list[Features]:
    """Ask for any number of pictures.

    Args:
        pixels: uint8 [images, side, side, 3], one image at least.
        shape: of one portion, (size, side, side, 3).
        ask: gives some arrays, each of as many rows as the portion has, for pixels of that shape; they may be views of memory
            that it uses again.

    Returns:
        For each of those arrays float32 [images, …].
    """
    portions = [_portion(pixels[start : start + shape[0]], shape, ask) for start in range(0, len(pixels), shape[0])]
    return [np.concatenate(parts) for parts in zip(*portions, strict=True)]


def _portion(pixels: Pixels, shape: Shape, ask: Callable[[Pixels], Sequence[Any]]) -> list[Features]:
    images = len(pixels)
    if images < shape[0]:
        filled = np.zeros(shape, np.uint8)
        filled[:images] = pixels
        pixels = filled
    return [np.asarray(values, np.float32)[:images].copy() for values in ask(pixels)]
