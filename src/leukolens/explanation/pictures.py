"""What a call of `explain` leaves: overlays, the contact sheet, the record and the table.

In: chosen images with their pixels, their maps and what all of them share. Out: Explanation. Writes: `overlays/*.png`,
`contact_sheet.png`, `maps.json` and, last, `maps.csv`; of an earlier call it removes the overlays that are no longer named.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from leukolens.artifacts import CONTACT_SHEET_FILE, MAPS_FILE, MAPS_RECORD_FILE, Record, atomic_path, write_json
from leukolens.data.preprocessing import Pixels, foreground
from leukolens.explanation.contact_sheet import Tile, write_contact_sheet
from leukolens.explanation.localisation import localise
from leukolens.explanation.overlays import OVERLAYS_FOLDER, overlaid, overlay_name, remove_overlays, write_overlay
from leukolens.explanation.wording import above, asked_of, caption, is_wrong, of_cell, of_map, sheet_notes, sheet_title
from leukolens.prediction.scores_file import safe_text

if TYPE_CHECKING:
    from leukolens.explanation.cams import ClassMaps


@dataclass(frozen=True)
class Explanation:
    """What `explain` made: `table` of the maps as in maps.csv, `record` as in maps.json, and the `folder` of both."""

    table: pd.DataFrame
    record: Record
    folder: Path


@dataclass(frozen=True)
class Material:
    """Chosen images, in one order, and what all of them share.

    Args:
        rows: one per image: image, subject, side, chosen_as, y_true, y_pred, refusal, probability, and what else is to stand in
            the table.
        pixels: uint8 [n, side, side, 3].
        found: their maps; None where there is no image.
        record: what maps.json says.
    """

    rows: pd.DataFrame
    pixels: Pixels
    found: ClassMaps | None
    record: Record


def write_pictures(material: Material, out: Path, columns: Sequence[str], further: Iterable[Sequence[str]] = ()) -> Explanation:
    """Write pictures first, the table that names them last; then what an earlier call left is removed.

    Args:
        material: what is to be drawn; without an image there is no sheet, and an earlier one is removed.
        out: the folder.
        columns: those of maps.csv, one row per image and method.
        further: rows of text to stand below these, of as many columns, safe for a spreadsheet already.
    """
    entries: list[dict[str, Any]] = []
    tiles = [_draw(material, number, out / OVERLAYS_FOLDER, entries) for number in range(len(material.rows))]
    table = frame_of(entries, columns)
    if tiles:
        write_contact_sheet(
            out / CONTACT_SHEET_FILE, sheet_title(material.record, len(tiles)), sheet_notes(material.record), tiles
        )
    else:
        (out / CONTACT_SHEET_FILE).unlink(missing_ok=True)
    write_json(out / MAPS_RECORD_FILE, material.record)
    with atomic_path(out / MAPS_FILE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(csv_of(table))
        csv.writer(file, lineterminator="\n").writerows(further)
    remove_overlays(out / OVERLAYS_FOLDER, [Path(name).name for name in table["overlay"]])
    return Explanation(table, material.record, out)


def frame_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Make a table of rows that may know more than its columns; the first column names the image.

    Names stay Python's own text: that of pandas cannot hold the bytes of a name that are no UTF-8.
    """
    values = {name: [row.get(name) for row in rows] for name in columns}
    return pd.DataFrame({name: pd.Series(held, dtype=object) if name == columns[0] else held for name, held in values.items()})


def csv_of(table: pd.DataFrame) -> str:
    """Text of maps.csv; names from strangers are written so that no spreadsheet computes them and no line breaks."""
    return table.map(lambda value: safe_text(value) if isinstance(value, str) else value).to_csv(index=False)


def _draw(material: Material, number: int, folder: Path, entries: list[dict[str, Any]]) -> Tile:
    """Write the overlays of one image, add their rows to `entries` and give its place on the sheet."""
    row, pixels, record = material.rows.iloc[number], material.pixels[number], material.record
    mask = foreground(pixels)
    panels = [(pixels, of_cell(row, mask))]
    for method, maps in material.found.maps.items() if material.found else ():
        values, name = maps[number], overlay_name(row["image"], method)
        overlay, place = overlaid(pixels, values, mask), localise(values, mask)
        write_overlay(folder / name, (pixels, overlay), caption(record, row, method), row["image"])
        panels.append((overlay, of_map(record, method, place)))
        told = {"class": asked_of(record), "method": method, "overlay": f"{OVERLAYS_FOLDER}/{name}"}
        entries.append({**dict(zip(map(str, row.index), row, strict=True)), **told, **asdict(place)})
    return Tile(above(record, row), tuple(panels), is_wrong(row))
