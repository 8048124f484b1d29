"""Cells to look at: a few of each class, and those of the subjects on which a model does worst.

In: a manifest and, for the worst, the predictions of a model. Out: images as data URIs with their names. Writes: nothing. Every
cell comes through `data.preprocessing`, the one path from a file to the pixels that a network reads.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from leukolens.artifacts import Manifest, Predictions
from leukolens.data.preprocessing import Preprocessing, read_pixels
from leukolens.errors import ImageError
from leukolens.settings import IndexSettings

Values = dict[str, Any]

CELLS_SHOWN = 6
CELL_PX = 112


def sample_cells(manifest: Manifest) -> tuple[list[tuple[str, list[Values]]], int]:
    """Give CELLS_SHOWN cells of each class, of as many subjects as there are, and how many files could not be read."""
    shown, unread = [], 0
    for label in manifest.classes:
        cells = []
        for image, subject in _chosen(manifest.images, label):
            source = _data_uri(manifest, image)
            if source is None:
                unread += 1
            else:
                cells.append({"source": source, "subject": subject, "image": image})
        if cells:
            shown.append((label, cells))
    return shown, unread


def cells_of_subjects(
    manifest: Manifest, predictions: Predictions, side: str, subjects: Sequence[Mapping[str, Any]]
) -> list[Values]:
    """Give up to CELLS_SHOWN cells of each subject, those called wrongly first.

    Args:
        manifest: where the images are.
        predictions: what the model called them; of several repeats the first counts.
        side: which images.
        subjects: entries of `per_subject` of metrics.json.

    Returns:
        Those entries, each with `cells` (`source`, `image`, `truth`, `called`, `wrong`) and `unread`, a count.
    """
    table = predictions.table
    table = table[(table["side"] == side) & (table["repeat"] == table["repeat"].min())]
    result = []
    for entry in subjects:
        own = table[table["subject"] == entry["subject"]]
        own = own.assign(wrong=own["y_pred"] != own["y_true"]).sort_values(["wrong", "image"], ascending=[False, True])
        drawn = [_called_cell(manifest, row) for row in own.head(CELLS_SHOWN).to_dict("records")]
        cells = [cell for cell in drawn if cell["source"] is not None]
        result.append({**entry, "cells": cells, "unread": len(drawn) - len(cells)})
    return result


def _called_cell(manifest: Manifest, row: Mapping[Any, Any]) -> Values:
    image = str(row["image"])
    return {"source": _data_uri(manifest, image), "image": image, "truth": row["y_true"], "called": row["y_pred"],
            "wrong": bool(row["wrong"])}  # fmt: skip


def _chosen(images: pd.DataFrame, label: str) -> list[tuple[str, str | None]]:
    """Give the first image of each subject, then second ones, spread over the class where no subject is known."""
    usable = images[(images["label"] == label) & images["duplicate_of"].isna()].sort_values("image")
    if usable["subject"].notna().any():
        turn = usable.groupby("subject").cumcount()
        usable = usable.assign(turn=turn).sort_values(["turn", "image"]).head(CELLS_SHOWN)
    else:
        usable = usable.iloc[:: max(1, len(usable) // CELLS_SHOWN)].head(CELLS_SHOWN)
    subjects = [None if pd.isna(subject) else str(subject) for subject in usable["subject"]]
    return list(zip(usable["image"].astype(str), subjects, strict=True))


def _data_uri(manifest: Manifest, image: str) -> str | None:
    preprocessing = Preprocessing(manifest.canvas_px, CELL_PX)
    path: Path = manifest.root / image
    try:
        pixels = preprocessing.apply(read_pixels(path, IndexSettings().max_pixels).pixels)
    except ImageError:  # counted by the caller and said in the report: the data may have moved since they were indexed
        return None
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
