"""The drawings of what the statistics say: leak, models with intervals, reliability, risk against coverage, subgroups.

In: figures as they stand in metrics.json, analysis.json and leak.json; nothing is computed but positions on paper.
Out: `Picture` (SVG and caption). Writes: RESULTS/leak.png, where it is asked to.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from leukolens.artifacts import Record
from leukolens.reporting.drawing import GREY, Picture, cycled, draw, draw_file, in_percent, short
from leukolens.reporting.figures import Line
from leukolens.reporting.wording import FIGURE_NAMES, difference, difference_interval, two_lines

LEAK_PICTURE_FILE = "leak.png"

# 7 inches at 200 dots are 1,400 pixels: sharp at half of that, the width of a page of text on the web.
_LEAK_FILE_INCHES = (7.0, 1.5)
_LEAK_FILE_ROW_INCHES = 0.42
_MEAN = "mean of all"
_LABEL_WIDTH = 28
_LEGEND_WIDTH = 36
_MOST = 1.0  # no figure is higher, so no axis need be


def leak(key: str, record: Record, colours: Mapping[str, str]) -> Picture:
    """One row per architecture: a dot measured by subject, a ring by image, and the difference with its interval.

    Args:
        key: unique in the page; prefix of every id in the SVG.
        record: content of leak.json.
        colours: colour of each architecture.
    """
    name = FIGURE_NAMES[record["figure"]]
    brackets = " [with its interval]" if any(row["interval"] for row in record["rows"]) else ""
    caption = (
        f"The same recipe, split by subject (dot) and by image (ring): {name} on test. At the right the difference{brackets}."
    )
    height = 1.15 + 0.33 * len(_leak_rows(record))
    return draw(key, caption, height, partial(_paint_leak, record=record, colours=colours, size=7.5))


def write_leak(record: Record, colours: Mapping[str, str], path: Path) -> Path:
    """Write that figure as a file of its own, legible without the report; PNG or SVG by the suffix of `path`."""
    rows = len(_leak_rows(record))
    size = (_LEAK_FILE_INCHES[0], _LEAK_FILE_INCHES[1] + _LEAK_FILE_ROW_INCHES * rows)
    draw_file(path, size, partial(_paint_leak_alone, record=record, colours=colours))
    return path


def forest(key: str, models: Sequence[Mapping[str, Any]], figure: str, colours: Mapping[str, str]) -> Picture:
    """Each model's figure with its interval, as `models` of analysis.json give them; colours by `model`, else grey."""
    name = FIGURE_NAMES[figure]
    some = any(model["interval"] for model in models)
    caption = f"{name[:1].upper()}{name[1:]} on test" + (
        " with intervals. Overlap does not settle a comparison: the paired differences do." if some else "; no interval."
    )
    labels = [_label(model["display_name"]) for model in models]
    height = 0.8 + (0.29 if any("\n" in label for label in labels) else 0.24) * len(models)
    paint = partial(_paint_forest, models=models, labels=labels, name=name, colours=colours)
    return draw(key, caption, height, paint)


def reliability(key: str, calibration: Record, title: str, colour: str, event: str) -> Picture:
    """Share of events against mean score, a dot per bin whose area grows with its images; the diagonal is perfect."""
    caption = f"Reliability of {title}: {event} against the score. On the dashed line scores are probabilities."
    return draw(key, caption, 3.2, partial(_paint_reliability, bins=calibration["bins"], colour=colour, event=event))


def risk_coverage(key: str, lines: Sequence[Line]) -> Picture:
    """Error among the answered images while the least certain ones are left out, a line per network."""
    caption = "Risk–coverage curves: the share of wrong answers when only the surest images are answered."
    return draw(key, caption, 3.0 + 0.18 * len(lines), partial(_paint_risk, lines=lines))


def subgroups(key: str, entries: Sequence[Mapping[str, Any]], overall: float, colour: str) -> Picture:
    """Accuracy of each subgroup with its interval; the dotted line is the accuracy of all images."""
    caption = "Accuracy by subgroup, with its interval where there is one; dotted: all images."
    height = 0.9 + 0.23 * len(entries)
    return draw(key, caption, height, partial(_paint_subgroups, entries=entries, overall=overall, colour=colour))


def _leak_rows(record: Record) -> list[Record]:
    mean = [{**record["mean"], "architecture": None, "display_name": _MEAN}] if len(record["rows"]) > 1 else []
    return [*record["rows"], *mean]


def _paint_leak_alone(figure: Figure, record: Record, colours: Mapping[str, str]) -> None:
    figure.suptitle("What a split by image adds", x=0.01, ha="left", fontsize=13, fontweight="bold")
    with_subjects = f" of {record['groups']:,} subject groups" if record.get("groups") else ""
    axes = _paint_leak(figure, record, colours, size=10)
    axes.set_title(f"{record['images']:,} images{with_subjects}; only the split differs",
                   fontsize=9, loc="left", color="#555555")  # fmt: skip


def _paint_leak(figure: Figure, record: Record, colours: Mapping[str, str], size: float) -> Axes:
    axes: Axes = figure.subplots()
    rows = _leak_rows(record)
    for place, row in enumerate(rows):
        colour = colours.get(row["architecture"], "black")
        axes.plot([row["by_subject"], row["by_image"]], [place, place], color="#c4c4c4", linewidth=2.2, zorder=1)
        axes.plot(row["by_subject"], place, "o", color=colour, markersize=8, markeredgewidth=2)
        axes.plot(row["by_image"], place, "o", color=colour, markerfacecolor="white", markersize=8, markeredgewidth=2)
        ends = f"\n{difference_interval(row['interval'])}" if row["interval"] else ""
        axes.annotate(f"{difference(row['difference'])}{ends}", (1.02, place), xycoords=("axes fraction", "data"),
                      va="center", fontsize=size, linespacing=1.05)  # fmt: skip
    axes.set_yticks(range(len(rows)), [short(row["display_name"]) for row in rows], fontsize=size + 0.5)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.margins(x=0.09)
    axes.set_xlim(right=min(axes.get_xlim()[1], _MOST + 0.1 * (_MOST - axes.get_xlim()[0])))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x", color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{FIGURE_NAMES[record['figure']]} on test", fontsize=size + 0.5)
    _leak_legend(figure, size)
    return axes


def _leak_legend(figure: Figure, size: float) -> None:
    figure.legend(
        handles=[
            _marker("by subject: new patients", "black"),
            _marker("by image: optimistic", "white"),
        ],
        loc="outside lower center",
        ncols=2,
        fontsize=size,
    )


def _marker(label: str, face: str) -> Line2D:
    return Line2D([], [], marker="o", linestyle="", color="black", markerfacecolor=face, markeredgewidth=1.6, label=label)


def _label(name: str) -> str:
    """Break a long name once, where it says how the model was made if that fits, and cut what is still too long."""
    if len(name) <= _LABEL_WIDTH:
        return name
    first, made = two_lines(name)
    fits = bool(made) and max(len(first), len(made)) <= _LABEL_WIDTH
    first, *rest = [first, made] if fits else textwrap.wrap(name, _LABEL_WIDTH, break_long_words=False) or [name]
    lines = [first, " ".join(rest)] if rest else [first]
    return "\n".join(short(line, _LABEL_WIDTH + 2) for line in lines)


def _paint_forest(
    figure: Figure, models: Sequence[Mapping[str, Any]], labels: Sequence[str], name: str, colours: Mapping[str, str]
) -> None:
    axes = figure.subplots()
    for place, model in enumerate(models):
        colour = colours.get(model["model"], GREY)
        if model["interval"]:
            axes.plot(model["interval"], [place, place], color=colour, linewidth=2)
        marker = "s" if model["kind"] == "baseline" else "o"
        axes.plot(model["value"], place, marker, color=colour, markersize=6)
    axes.set_yticks(range(len(models)), labels, fontsize=7, linespacing=1.05)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.grid(axis="x", color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{name} on test")


def _paint_reliability(figure: Figure, bins: Sequence[Mapping[str, Any]], colour: str, event: str) -> None:
    axes = figure.subplots()
    largest = max(each["images"] for each in bins)
    axes.plot([0, 1], [0, 1], "--", color="#bbbbbb", linewidth=1)
    axes.plot([each["mean_score"] for each in bins], [each["share_positive"] for each in bins], color=colour, linewidth=1)
    axes.scatter([each["mean_score"] for each in bins], [each["share_positive"] for each in bins],
                 [12 + 60 * each["images"] / largest for each in bins], color=colour, zorder=3)  # fmt: skip
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="mean score of the bin", ylabel=event)
    axes.set_aspect("equal")
    axes.grid(color="#eeeeee")
    in_percent(axes.xaxis)
    in_percent(axes.yaxis)


def _paint_risk(figure: Figure, lines: Sequence[Line]) -> None:
    axes = figure.subplots()
    for line in lines:
        area = "" if line.area is None else f" ({line.area:.3f})"
        axes.plot(line.curve["coverage"], line.curve["risk"], linestyle=line.pattern, color=line.colour,
                  label=f"{short(line.name, _LEGEND_WIDTH)}{area}")  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of images answered")
    axes.set_ylabel("share of these that are wrong")
    in_percent(axes.xaxis)
    in_percent(axes.yaxis)
    axes.grid(color="#eeeeee")
    figure.legend(loc="outside lower center", ncols=1, handlelength=3, title="network (AURC)", title_fontsize=8)


def _paint_subgroups(figure: Figure, entries: Sequence[Mapping[str, Any]], overall: float, colour: str) -> None:
    axes = figure.subplots()
    families = list(dict.fromkeys(entry["by"] for entry in entries))
    for place, entry in enumerate(entries):
        marker = cycled(("o", "s", "^", "D"), families.index(entry["by"]))
        if entry["interval"]:
            axes.plot(entry["interval"], [place, place], color=colour, linewidth=1.6)
        if entry["accuracy"] is not None:
            axes.plot(entry["accuracy"], place, marker, color=colour, markersize=5.5)
    axes.axvline(overall, color="black", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(entries)), [_subgroup_name(entry) for entry in entries], fontsize=7)
    axes.set_ylim(len(entries) - 0.4, -0.6)
    in_percent(axes.xaxis)
    axes.grid(axis="x", color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.set_xlabel("accuracy on test")


def _subgroup_name(entry: Mapping[str, Any]) -> str:
    """Name the family with the first word, and cut what follows the colon: the table has the limits."""
    return short(f"{entry['by']}, {str(entry['name']).split(':', 1)[0]}", 26)
