"""The words on overlays and on the contact sheet.

In: rows of explained images and the record of maps.json. Out: text. Writes: nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import Record
from leukolens.explanation.localisation import Localisation
from leukolens.prediction.scores_file import safe_text
from leukolens.reporting.drawing import short
from leukolens.settings import CamMethod

METHOD_NAMES: dict[CamMethod, str] = {"gradcam": "Grad-CAM", "eigencam": "Eigen-CAM"}

_LONGEST_NAME = 44


def asked_of(record: Record) -> str:
    """Name the class or classes whose score the maps are of."""
    return " or ".join(record["explained_classes"])


def is_wrong(row: pd.Series[Any]) -> bool:
    """Whether a labelled image is called something else."""
    return not pd.isna(row["y_true"]) and bool(row["y_true"] != row["y_pred"])


def above(record: Record, row: pd.Series[Any]) -> tuple[str, ...]:
    """What stands above an image: its name and subject; what it is called and labelled; whether it is answered."""
    subject = "" if pd.isna(row["subject"]) else f" · subject {row['subject']}"
    label = "no label" if pd.isna(row["y_true"]) else f"labelled {row['y_true']}"
    wrong = " · WRONG" if is_wrong(row) else ""
    standing = "answered" if pd.isna(row["refusal"]) else f"refused: {row['refusal']}"
    synthetic = " · synthetic cell" if record["synthetic"] else ""
    return (
        f"{short(safe_text(row['image'].rpartition('/')[2]), _LONGEST_NAME)}{subject}",
        f"P({asked_of(record)}) {row['probability']:.2f} · called {row['y_pred']} · {label}{wrong}",
        f"{standing}{synthetic}",
    )


def of_cell(row: pd.Series[Any], mask: NDArray[np.bool_]) -> str:
    """What stands below a cell: its side, why it was chosen, how much of the picture it fills."""
    return f"{row['side']}, {row['chosen_as']}\ncell: {mask.mean():.0%} of the picture"


def of_map(record: Record, method: CamMethod, place: Localisation) -> str:
    """What stands below a map: its method and where it lies."""
    if place.inside_share is None:
        return f"{METHOD_NAMES[method]}\nno place stands out for {asked_of(record)}"
    return f"{METHOD_NAMES[method]}\n{place.inside_share:.0%} on the cell, peak {'on' if place.peak_inside else 'off'} it"


def caption(record: Record, row: pd.Series[Any], method: CamMethod) -> str:
    """Give the line below an overlay that is a file of its own."""
    synthetic = ", synthetic cell" if record["synthetic"] else ""
    answer = f"P({asked_of(record)}) {row['probability']:.2f}, called {row['y_pred']}"
    return f"{record['display_name']}, {METHOD_NAMES[method]}: {answer}{synthetic}"


def sheet_title(record: Record, images: int) -> str:
    """Give the title of the sheet."""
    synthetic = "SYNTHETIC CELLS · " if record["synthetic"] else ""
    count = "1 image" if images == 1 else f"{images} images"
    return f"{synthetic}{record['display_name']}: what the score of {asked_of(record)} is sensitive to · {count}"


def sheet_notes(record: Record) -> list[str]:
    """Lines above the sheet: its order, what was decided by, what the network has learned from, what each method asks."""
    threshold = record["decisions"][0]["threshold"]
    rule = "the highest score decides"
    if threshold is not None:
        rule = f"called {record['positive'][0]} from a probability of {threshold:.3f}"
    optimistic = " (optimistic)" if record["optimistic"] else ""
    asked = {"gradcam": f"Grad-CAM: where the picture speaks for {asked_of(record)} more than black would.",
             "eigencam": "Eigen-CAM: the main pattern in the features, whatever the class."}  # fmt: skip
    methods = " ".join(asked[method] for method in record["settings"]["methods"])
    return [
        f"Least certain first; {rule}; {record['split_label']}{optimistic}; pretrained on: {record['trained_on']}.",
        f"{methods} White line: edge of the cell; cross: peak. Layer {record['layer']}.",
    ]


def summary_lines(table: pd.DataFrame) -> list[str]:
    """What the verb prints of maps.csv: for each method the middle share on the cell beside the cell's own, and the peaks."""
    images = len(table) // table["method"].nunique()
    lines = [f"{images} images; median share of a map on its cell, beside the cell's share of the picture:"]
    for method, name in METHOD_NAMES.items():
        rows = table[table["method"] == method]
        if rows.empty:
            continue
        drawn = rows.dropna(subset="inside_share")
        if drawn.empty:
            lines.append(f"  {name}: no place stands out for {rows['class'].iloc[0]} on any of them")
            continue
        empty = f"; {len(rows) - len(drawn)} empty" if len(drawn) < len(rows) else ""
        lines.append(
            f"  {name}: {drawn['inside_share'].median():.2f} beside {drawn['cell_share'].median():.2f}; "
            f"peak on the cell in {int(drawn['peak_inside'].sum())} of {len(drawn)}{empty}"
        )
    return lines
