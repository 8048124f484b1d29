"""How much of a map lies on the cell: three numbers, beside the share that a map knowing nothing would have.

In: a map float [height, width] that is nowhere negative, and the cell's mask bool [height, width]. Out: Localisation.
Writes: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Localisation:
    """Where one map lies.

    Args:
        cell_share: share of the picture's pixels that are cell, 0–1: what a map without any preference would score.
        inside_share: share of the map's mass that lies on them, 0–1; None where the map is 0 everywhere.
        peak_inside: whether the map's largest value, the first in reading order, lies on the cell; None likewise.
    """

    cell_share: float
    inside_share: float | None
    peak_inside: bool | None


def localise(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> Localisation:
    """Compare a map with the cell's mask of the same shape."""
    total = float(values.sum(dtype=np.float64))
    cell_share = float(mask.mean())
    if not total:
        return Localisation(cell_share, None, None)
    inside = float(values[mask].sum(dtype=np.float64))
    return Localisation(cell_share, inside / total, bool(mask[peak_of(values)]))


def peak_of(values: NDArray[np.floating]) -> tuple[int, int]:
    """Row and column of the largest value, the first in reading order."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(row), int(column)
