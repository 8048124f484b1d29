"""All explained cells on one sheet, least certain first, each with what the model said of it and what it did not.

In: tiles (pictures and their words) and what stands above them. Out: nothing. Writes: `contact_sheet.png`, whole or not at
all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, SubFigure

from leukolens.data.preprocessing import Pixels
from leukolens.explanation.overlays import COLOUR_MAP, WARNING
from leukolens.reporting.drawing import draw_file

BAR_LABEL = "share of the map's own largest value (each map is scaled by itself)"

_COLUMNS = 3
_PANEL_INCHES = 1.35
_WORDS_INCHES = 0.85
_HEAD_INCHES = 1.15
_BAR_INCHES = 0.65
_PAD_INCHES = 0.08
_LEAST_WIDTH_INCHES = 8.0
_GAP_SHARE = 0.04
_WHITE = 255
_PLAIN_COLOUR, _WRONG_COLOUR = "#000000", "#B03000"
_SMALL, _TINY = 7.0, 6.2


@dataclass(frozen=True)
class Tile:
    """One image: `words` above it line by line, `panels` (uint8 [side, side, 3] and the words below each), and its standing.

    `is_wrong` marks a mistake by colour; the words say it too.
    """

    words: tuple[str, ...]
    panels: tuple[tuple[Pixels, str], ...]
    is_wrong: bool = False


def write_contact_sheet(path: Path, title: str, notes: Sequence[str], tiles: Sequence[Tile]) -> None:
    """Write at least one tile in rows of three, in their order, below `title` and `notes`, above a colour bar."""
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    panels = max(len(tile.panels) for tile in tiles)
    width = max(_LEAST_WIDTH_INCHES, columns * panels * (_PANEL_INCHES * (1 + _GAP_SHARE)))
    height = _HEAD_INCHES + rows * (_PANEL_INCHES + _WORDS_INCHES) + _BAR_INCHES

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("constrained", h_pad=_PAD_INCHES)
        heights = [_HEAD_INCHES, height - _HEAD_INCHES - _BAR_INCHES, _BAR_INCHES]
        head, body, foot = figure.subfigures(3, 1, squeeze=False, height_ratios=heights)[:, 0]
        _write_head(head, title, notes)
        places = body.subplots(rows, columns, squeeze=False).ravel()
        for place, tile in zip(places, tiles, strict=False):
            _draw_tile(place, tile)
        for place in places[len(tiles) :]:
            place.set_axis_off()
        bar = foot.add_axes((0.3, 0.72, 0.4, 0.2))
        foot.colorbar(ScalarMappable(cmap=mpl.colormaps[COLOUR_MAP]), cax=bar, orientation="horizontal", label=BAR_LABEL)

    draw_file(path, (width, height), paint)


def _write_head(head: SubFigure, title: str, notes: Sequence[str]) -> None:
    head.text(0.01, 0.93, title, ha="left", va="top", fontsize=13, fontweight="bold")
    head.text(0.01, 0.62, "\n".join([*notes, WARNING]), ha="left", va="top", fontsize=8.5, linespacing=1.5)


def _draw_tile(place: Axes, tile: Tile) -> None:
    pictures = [picture for picture, _ in tile.panels]
    side_px = len(pictures[0])
    gap = np.full((side_px, round(side_px * _GAP_SHARE), 3), _WHITE, np.uint8)
    strip = [part for picture in pictures for part in (gap, picture)][1:]
    place.imshow(np.concatenate(strip, axis=1), interpolation="nearest")
    place.set_axis_off()
    colour = _WRONG_COLOUR if tile.is_wrong else _PLAIN_COLOUR
    place.set_title("\n".join(tile.words), loc="left", fontsize=_SMALL, color=colour, linespacing=1.35)
    for number, (_, words) in enumerate(tile.panels):
        middle = number * (side_px + gap.shape[1]) + side_px / 2
        place.text(middle, side_px * 1.02, words, ha="center", va="top", fontsize=_TINY, linespacing=1.3)
