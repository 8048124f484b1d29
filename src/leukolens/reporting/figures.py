"""The drawings of single networks: curves, learning, confusion, subjects, and the images of each side.

In: figures as they stand in metrics.json, epochs.csv and the tables; nothing is computed but positions on paper.
Out: `Picture` (SVG and caption). Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leukolens.reporting.drawing import CLASS_COLOURS, CLASS_MARKERS, GREY, Picture, cycled, draw, in_percent, short

_MOST_NAMED_SUBJECTS = 30


@dataclass(frozen=True)
class Line:
    """One network, or one class, in a figure of curves: `curve` holds two lists of equal length, `area` may be None."""

    name: str
    curve: Mapping[str, Sequence[float]]
    area: float | None
    colour: str
    pattern: Any


def class_counts(key: str, counts: pd.DataFrame, unit: str) -> Picture:
    """Bars of images or subjects (`unit`, a column of `count_sides`) per side and class."""
    return draw(key, f"{unit.capitalize()} per class and side.", 2.7, partial(_paint_counts, counts=counts, unit=unit))


def learning_curves(key: str, epochs: pd.DataFrame, colour: str, best_epoch: int | None) -> Picture:
    """Loss and validation balanced accuracy by epoch of one phase; `best_epoch` (None: not in this phase) is marked."""
    phase = {"head": "New head on frozen features", "finetune": "Fine-tuning"}.get(epochs["phase"].iloc[0], "Training")
    caption = f"{phase}: loss and balanced accuracy by epoch." + (
        " Dotted: the epoch that was kept." if best_epoch is not None else ""
    )
    return draw(key, caption, 3.4, partial(_paint_learning, epochs=epochs, colour=colour, best_epoch=best_epoch))


def confusion(key: str, matrix: Sequence[Sequence[int]], classes: Sequence[str], side: str) -> Picture:
    """Counts by true (rows) and predicted class (columns); the shade is the share of the row."""
    caption = f"Confusion matrix, {side} images; the darker, the larger the share of the true class."
    height = 2.3 + 0.32 * len(classes)
    return draw(key, caption, height, partial(_paint_confusion, matrix=np.asarray(matrix), classes=classes))


def roc(key: str, lines: Sequence[Line], what: str) -> Picture:
    """ROC curves, one per line; the diagonal is chance."""
    caption = f"ROC curves, {what}; in brackets the area (AUROC). Dashed grey: chance."
    paint = partial(_paint_curves, lines=lines, axes_names=("fpr", "tpr"), labels=("1 − specificity", "sensitivity"))
    return draw(key, caption, 3.15 + 0.18 * len(lines), paint)


def precision_recall(key: str, lines: Sequence[Line], what: str) -> Picture:
    """Precision-recall curves, one per line."""
    caption = f"Precision-recall curves, {what}; in brackets the average precision (AUPRC)."
    paint = partial(_paint_curves, lines=lines, axes_names=("recall", "precision"), labels=("recall", "precision"))
    return draw(key, caption, 3.15 + 0.18 * len(lines), paint)


def subject_accuracy(key: str, entries: Sequence[Mapping[str, Any]], classes: Sequence[str], side: str) -> Picture:
    """One dot per subject (`per_subject` of metrics.json, lowest first); its area grows with the number of images."""
    many = len(entries) > _MOST_NAMED_SUBJECTS
    caption = f"Accuracy per subject, {side} images; larger dots have more images." + (
        f" {len(entries)} subjects, the lowest on top; the list names those." if many else ""
    )
    height = 5.0 if many else 1.1 + 0.17 * max(len(entries), 4)
    return draw(key, caption, height, partial(_paint_subjects, entries=entries, classes=classes, many=many))


def _paint_counts(figure: Figure, counts: pd.DataFrame, unit: str) -> None:
    axes = figure.subplots()
    sides, labels = list(dict.fromkeys(counts["side"])), list(dict.fromkeys(counts["label"]))
    width = 0.8 / len(labels)
    for index, label in enumerate(labels):
        values = counts.loc[counts["label"] == label, unit].tolist()
        places = [place + (index - (len(labels) - 1) / 2) * width for place in range(len(sides))]
        bars = axes.bar(places, values, width * 0.92, color=cycled(CLASS_COLOURS, index), label=short(label))
        # Upright numbers of narrow bars would run into each other.
        axes.bar_label(bars, fontsize=7.5, padding=1 if len(labels) < 4 else 2, rotation=0 if len(labels) < 4 else 90)
    axes.set_xticks(range(len(sides)), sides)
    axes.set_ylabel(unit)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(y=0.12 if len(labels) < 4 else 0.2)
    figure.legend(loc="outside lower center", ncols=min(len(labels), 4))


def _paint_learning(figure: Figure, epochs: pd.DataFrame, colour: str, best_epoch: int | None) -> None:
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    marker = "o" if len(epochs) <= 12 else ""
    style = {"marker": marker, "markersize": 3.5}
    loss.plot(epochs["epoch"], epochs["train_loss"], color=GREY, label="training", **style)
    loss.plot(epochs["epoch"], epochs["validation_loss"], "--", color=colour, label="validation", **style)
    accuracy.plot(epochs["epoch"], epochs["validation_balanced_accuracy"], "--", color=colour, **style)
    loss.set_ylabel("loss")
    loss.set_ylim(bottom=0)
    accuracy.set_ylabel("validation\nbalanced accuracy")
    in_percent(accuracy.yaxis)
    accuracy.set_xlabel("epoch")
    accuracy.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axes in (loss, accuracy):
        axes.grid(color="#eeeeee")
        if best_epoch is not None:
            axes.axvline(best_epoch, color="black", linestyle=":", linewidth=1)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _paint_confusion(figure: Figure, matrix: np.ndarray[Any, Any], classes: Sequence[str]) -> None:
    axes = figure.subplots()
    totals = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(totals, 1)
    axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    for row, column in np.ndindex(matrix.shape):
        ink = "white" if share[row, column] > 0.55 else "black"
        axes.text(column + 0.5, row + 0.5, f"{matrix[row, column]:,}", ha="center", va="center", color=ink, fontsize=11)
    names = [short(name) for name in classes]
    centres = [place + 0.5 for place in range(len(names))]
    axes.set_xticks(centres, names)
    axes.set_yticks(centres, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _paint_curves(figure: Figure, lines: Sequence[Line], axes_names: tuple[str, str], labels: tuple[str, str]) -> None:
    axes: Axes = figure.subplots()
    across, up = axes_names
    if across == "fpr":
        axes.plot([0, 1], [0, 1], "--", color="#bbbbbb", linewidth=1)
    for line in lines:
        area = "" if line.area is None else f" ({line.area:.3f})"
        # Recall falls from 1 to 0 along the list; average precision takes the precision at each step's higher recall.
        drawstyle: Any = "steps-post" if across == "recall" else "default"
        axes.plot(line.curve[across], line.curve[up], linestyle=line.pattern, color=line.colour, drawstyle=drawstyle,
                  label=f"{short(line.name)}{area}")  # fmt: skip
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=labels[0], ylabel=labels[1])
    axes.grid(color="#eeeeee")
    figure.legend(loc="outside lower center", ncols=1, handlelength=3)


def _paint_subjects(figure: Figure, entries: Sequence[Mapping[str, Any]], classes: Sequence[str], many: bool) -> None:
    axes = figure.subplots()
    largest = max(entry["images"] for entry in entries)
    for index, name in enumerate([*classes, None]):
        chosen = [(place, entry) for place, entry in enumerate(entries)
                  if (entry["label"] == name if name is not None else entry["label"] not in classes)]  # fmt: skip
        if not chosen:
            continue
        axes.scatter(
            [entry["accuracy"] for _, entry in chosen],
            [place for place, _ in chosen],
            [(0.4 if many else 1) * (14 + 80 * entry["images"] / largest) for _, entry in chosen],
            color=cycled(CLASS_COLOURS, index) if name else GREY,
            marker=cycled(CLASS_MARKERS, index),
            label=short(name) if name else "several classes",
            edgecolors="white",
            linewidths=0.6,
            zorder=3,
        )
    named = [] if many else entries
    axes.set_yticks(range(len(named)), [short(entry["subject"]) for entry in named], fontsize=7.5)
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.set_xlim(min(0.5, entries[0]["accuracy"]) - 0.04, 1.04)
    in_percent(axes.xaxis)
    axes.grid(color="#e6e6e6", axis="both" if not many else "x")
    axes.set_axisbelow(True)
    axes.set_xlabel("share of the subject's images that are right")
    legend = figure.legend(loc="outside lower center", ncols=4)
    for handle in legend.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([40])
