"""The paper that every figure of the report is drawn on: style, colours, and a drawing turned into safe inline SVG.

In: a function that paints on a Matplotlib figure. Out: `Picture` (SVG and caption), or an SVG or PNG file where one is asked
for. Writes: that file only.

Colours: networks from the palette of Okabe & Ito (2008), classes from "bright" of Tol (2021), both told apart under the
common forms of colour blindness; line patterns and markers differ too, for print in grey.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from leukolens.artifacts import atomic_path

NETWORK_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_PATTERNS = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
CLASS_COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#66CCEE", "#CCBB44", "#555555")
CLASS_MARKERS = ("s", "o", "^", "D", "v", "P", "X")
GREY = "#8a8a8a"

# 3.4 inches are 326 CSS pixels: one on a telephone, two on A4, three on a screen, never scaled.
WIDTH_INCHES = 3.4
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class or subject may be named "$"
    "figure.facecolor": "white",
}
_FONT_STACK = "'DejaVu Sans', Verdana, sans-serif"  # Verdana has the widths that the layout was made for
_LONGEST_NAME = 20
_FILE_DPI = 200


@dataclass(frozen=True)
class Picture:
    """One drawing: `svg` may be put into HTML as it is, `caption` is plain text."""

    svg: Markup
    caption: str


def draw(key: str, caption: str, height_inches: float, paint: Callable[[Figure], object]) -> Picture:
    """Let `paint` draw on a new figure of WIDTH_INCHES; `key`, unique in the page, begins every id of the SVG."""
    with _styled(key):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Picture(_inline(buffer.getvalue(), key, caption), caption)


def draw_file(path: Path, size_inches: tuple[float, float], paint: Callable[[Figure], object]) -> None:
    """Write a figure of (width, height) as a file of its own, PNG or SVG by the suffix of `path`; whole, or not at all."""
    with _styled(path.stem):
        figure = Figure(figsize=size_inches, layout="constrained", dpi=_FILE_DPI)
        paint(figure)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix.removeprefix("."), metadata=metadata)


@contextmanager
def _styled(key: str) -> Iterator[None]:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": key}), warnings.catch_warnings():
        # The reader's browser has the glyphs of other scripts that Matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def in_percent(axis: Axis) -> None:
    """Write the ticks of an axis of shares as percentages."""
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{round(100 * share, 6):g}%"))


def cycled(values: Sequence[str], index: int) -> str:
    """Give the colour or marker of that place, from the start again where there are more."""
    return values[index % len(values)]


def short(name: str, longest: int = _LONGEST_NAME) -> str:
    """Cut a name of more than `longest` characters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _inline(svg: str, key: str, caption: str) -> Markup:
    """Strip what a page has no use for, and make every id the figure's own, so that clip paths do not collide."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: _own_ids(tag[0], key), svg)
    label = html.escape(caption, quote=True)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))  # noqa: S704 - texts are escaped


def _own_ids(tag: str, key: str) -> str:
    tag = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", tag)
    tag = re.sub(r'(\sid=")', rf"\g<1>{key}-", tag)
    tag = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{key}-", tag)
    return tag.replace("'DejaVu Sans'", _FONT_STACK)
