"""The data sheet of a results folder, in plain Markdown.

In: the manifest of a results folder and the splits below it. Out: the path of the sheet. Writes: RESULTS/data_sheet.md.

The form follows Gebru et al. 2021 (Datasheets for Datasets, Communications of the ACM 64:86); the sentences are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leukolens.artifacts import DATA_SHEET_FILE, MANIFEST_FILE, SPLITS_FILE, Manifest, Splits, write_text
from leukolens.reporting import wording
from leukolens.reporting.markdown import Written, fence, folder_name, known, render, table

Values = dict[str, Any]

SHEET_TEMPLATE = "data_sheet.md.j2"

_NAMED = 5


def write_data_sheet(results: Path) -> Path:
    """Write RESULTS/data_sheet.md from the manifest, its flow and the audits of all splits below the folder.

    Args:
        results: folder with manifest.parquet.

    Returns:
        Path of the sheet.

    Raises:
        ArtifactError: there is no manifest, or it is damaged.
    """
    folder = Path(results)
    text = render(SHEET_TEMPLATE, sheet_values(folder))
    path = folder / DATA_SHEET_FILE
    write_text(path, text)
    return path


def sheet_values(results: Path) -> Values:
    """Gather everything that the template of the data sheet shows; raises ArtifactError where there is no manifest."""
    manifest = Manifest.load(results / MANIFEST_FILE)
    images = manifest.images
    sizes = images.groupby(["width_px", "height_px", "format"], dropna=False).size().reset_index(name="images")
    labelled = images["label"].notna()
    return {
        **data_values(manifest),
        "synthetic": bool(manifest.record.get("synthetic")),
        "classes": manifest.classes,
        "positive": manifest.positive,
        "canvas": " x ".join(map(str, manifest.record.get("canvas_px", []))),
        "sizes": table(["width, px", "height, px", "format", "images"],
                       [[*map(wording.count, (row["width_px"], row["height_px"])), str(row["format"]),
                         wording.count(row["images"])] for row in sizes.to_dict("records")]),
        "measures": _measures(images[labelled], manifest.classes),
        "set_aside_images": table(["file", "reason"], [[row["image"], row["reason"]] for row in
                                                       manifest.record.get("flow", {}).get("set_aside_images", [])[:_NAMED]]),
        "bytes": int(images["bytes"].sum()),
        "audits": list(_audits(results, manifest)),
    }  # fmt: skip


def data_values(manifest: Manifest) -> Values:
    """Give what model card and data sheet both say of the data: origin, hash, flow of images, counts, merged subjects."""
    record = manifest.record
    flow = record.get("flow", {})
    aside = flow.get("set_aside", {})
    return {
        "root": folder_name(record["root"]),
        "layout": record.get("layout"),
        "hash": manifest.content_hash,
        "flow": known(flow),
        "aside": sum(aside.values()),
        "set_aside": table(["reason for setting aside", "files"],
                           [[reason, wording.count(n)] for reason, n in aside.items()]),
        "counts": table(["part", "official fold", "class", "images", "subjects"],
                        [[row["part"], row["fold"] or wording.ABSENT, row["label"] or "no label", wording.count(row["images"]),
                          wording.count(row["subjects"])] for row in flow.get("counts", [])]),
        "without_subject": int(manifest.images["subject"].isna().sum()),
        "merged": [" = ".join(map(str, names)) for names in flow.get("merged_groups", [])],
    }  # fmt: skip


def _measures(images: pd.DataFrame, classes: Sequence[str]) -> Written:
    """Describe cell size and colour per class by median and quartiles: where classes differ, a shortcut lies open."""
    names = (("area_px", "area of the cell, px"), ("mean_red", "mean red, 0-255"), ("mean_green", "mean green, 0-255"),
             ("mean_blue", "mean blue, 0-255"))  # fmt: skip
    rows = []
    for name, words in names:
        own = [images.loc[images["label"] == label, name].astype("float64") for label in classes]
        rows.append([words, *(_quartiles(values) for values in own)])
    return table(["measure: median (quartiles)", *classes], rows)


def _quartiles(values: pd.Series[float]) -> str:
    low, middle, high = (wording.count(float(values.quantile(share))) for share in (0.25, 0.5, 0.75))
    return f"{middle} ({low} to {high})"


def _audits(results: Path, manifest: Manifest) -> Iterator[tuple[str, Written]]:
    """Give the audit of each split of these data, with the place of its file."""
    patterns = (SPLITS_FILE, f"*/{SPLITS_FILE}", "splits-*.parquet", "*/splits-*.parquet", "*/*/splits-*.parquet")
    for path in (path for pattern in patterns for path in sorted(results.glob(pattern))):
        splits = Splits.load(path)
        if splits.record.get("manifest_hash") == manifest.content_hash:
            yield path.relative_to(results).as_posix(), fence(splits.record.get("audit", []))
