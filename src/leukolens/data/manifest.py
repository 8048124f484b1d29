"""Index a data set: decode every image once, find duplicates, merge the subjects that share them, count what is left.

In: a folder of images. Out: a `Manifest`. Writes: OUT/manifest.parquet, OUT/set_aside.csv (image, reason, detail) and
OUT/flow.json. Nothing is dropped unsaid: found = usable + set aside, and each file set aside is named with its reason.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leukolens.artifacts import (
    FINAL,
    FLOW_FILE,
    MANIFEST_COLUMNS,
    MANIFEST_FILE,
    POOL,
    PRELIMINARY,
    SET_ASIDE_FILE,
    Manifest,
    Record,
    hash_json,
    write_json,
    write_text,
)
from leukolens.data import fingerprints
from leukolens.data.layouts import Layout, SetAside, find_layout, shown
from leukolens.errors import ArtifactError, ImageError, ManifestError
from leukolens.progress import track
from leukolens.settings import IndexSettings

logger = logging.getLogger("leukolens")

_DEFAULTS = IndexSettings()
_SET_ASIDE_SHOWN = 20
_PART_ORDER = (POOL, PRELIMINARY, FINAL)


def index(directory: Path | str, out: Path | str | None = None, settings: IndexSettings = _DEFAULTS) -> Manifest:
    """Index the data set in `directory`; with `out`, write the manifest, the files set aside and the flow there.

    Where OUT/manifest.parquet was made of the same files (paths, sizes, times) with the same settings, it is read again
    and no image is decoded.

    Raises:
        LayoutError: the folder's layout or its label table cannot be read.
        SettingsError: the positive class is missing, unknown or every class.
        ManifestError: no image or none of a class is usable, a subject has two labels, or `settings.strict` and a file
            had to be set aside.
    """
    layout = find_layout(Path(directory), settings.positive)
    listing_hash = _hash_listing(layout, settings)
    manifest = _read_again(Path(out), listing_hash) if out is not None else None
    if manifest is not None:
        _stop_if_strict([SetAside(**each) for each in manifest.record["flow"]["set_aside_images"]], settings)
        return manifest
    images, set_aside = _decode(layout, settings)
    manifest = _assemble(layout, images, set_aside, settings)
    manifest.record["listing_hash"] = listing_hash
    if out is not None:
        _save(manifest, Path(out))
    return manifest


def flow_lines(manifest: Manifest) -> list[str]:
    """Give the flow as text for a terminal: what was found, set aside, doubled and merged, and the counts."""
    record, flow = manifest.record, manifest.record["flow"]
    height_px, width_px = record["canvas_px"]
    lines = [
        f"{record['layout']} layout in {shown(record['root'])}",
        f"classes {', '.join(map(shown, manifest.classes))}; positive {_listed(manifest.positive)}; "
        f"canvas {height_px} x {width_px} px",
    ]
    if record["synthetic"]:
        lines.append("SYNTHETIC: these are drawn cells of no patient")
    return [*lines, "", *_total_lines(flow), *_set_aside_lines(flow), "", *_count_lines(flow["counts"])]


def merge_subjects(linked: Iterable[Iterable[str]]) -> dict[str, str]:
    """Map each subject to its group, by union-find over sets of subjects that share a cell.

    A group is named by its subjects in natural order (20 before 21 before H3), joined by "+".
    """
    parent: dict[str, str] = {}

    def find(subject: str) -> str:
        parent.setdefault(subject, subject)
        while parent[subject] != subject:
            parent[subject] = parent[parent[subject]]
            subject = parent[subject]
        return subject

    for subjects in linked:
        first, *others = subjects
        for other in (first, *others):
            parent[find(other)] = find(first)
    members: dict[str, list[str]] = {}
    for subject in sorted(parent, key=natural_order):
        members.setdefault(find(subject), []).append(subject)
    return {subject: "+".join(group) for group in members.values() for subject in group}


def natural_order(subject: str) -> list[tuple[str, int]]:
    """Key that sorts numbers by value and numbers before letters: 3, 20, 21, H3, H10."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", subject)]


def _hash_listing(layout: Layout, settings: IndexSettings) -> str:
    files = [(each.path, each.size, each.mtime_ns, each.mode, each.problem) for each in layout.listing]
    chosen = (layout.classes, layout.positive, settings.canvas_px, settings.max_pixels, layout.synthetic)
    return hash_json([fingerprints.VERSION, str(layout.root), layout.name, chosen, files])


def _read_again(out: Path, listing_hash: str) -> Manifest | None:
    path = out / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        manifest = Manifest.load(path)
    except ArtifactError as error:
        logger.warning("index: %s It is made again.", error.what)
        return None
    if manifest.record.get("listing_hash") != listing_hash:
        return None
    logger.info("index: unchanged, %d images read again from %s", len(manifest.images), path)
    _save_flow(manifest, out)
    return manifest


def _save(manifest: Manifest, out: Path) -> None:
    """Write the three files, the manifest last: where it stands, the other two do."""
    _save_flow(manifest, out)
    manifest.save(out / MANIFEST_FILE)


def _save_flow(manifest: Manifest, out: Path) -> None:
    flow = manifest.record["flow"]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["image", "reason", "detail"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flow["set_aside_images"])
    write_text(out / SET_ASIDE_FILE, text.getvalue())
    write_json(out / FLOW_FILE, flow)


def _decode(layout: Layout, settings: IndexSettings) -> tuple[pd.DataFrame, list[SetAside]]:
    """Take the fingerprint of every row; gives the usable images (columns of the manifest) and the others."""
    set_aside = list(layout.set_aside)
    # Under --strict nothing after the first file that is no image needs to be decoded.
    end = layout.set_aside[0].image if settings.strict and layout.set_aside else None
    rows = [row for row in layout.rows if end is None or row.image < end]
    paths = (layout.root / row.image for row in rows)
    workers = settings.workers or os.cpu_count() or 1
    outcomes = fingerprints.take_fingerprints(paths, settings.max_pixels, workers)
    usable: list[dict[str, Any]] = []
    for row, outcome in zip(rows, track(outcomes, "decoding images", len(rows)), strict=True):
        if isinstance(outcome, ImageError):
            set_aside.append(SetAside(row.image, outcome.reason, outcome.received))
            _stop_if_strict(set_aside, settings)
        else:
            usable.append({**vars(row), **vars(outcome)})
    _stop_if_strict(set_aside, settings)
    return _frame(usable), set_aside


def _frame(usable: Sequence[dict[str, Any]]) -> pd.DataFrame:
    columns = {name: [row.get(name) for row in usable] for name in MANIFEST_COLUMNS}
    return pd.DataFrame(columns).astype(dict(MANIFEST_COLUMNS))


def _stop_if_strict(set_aside: Sequence[SetAside], settings: IndexSettings) -> None:
    if not settings.strict or not set_aside:
        return
    first = min(set_aside, key=lambda each: each.image)
    raise ManifestError(
        f"{shown(first.image)} cannot be used, and --strict was asked.",
        expected="every file in the folders of images to be a usable image",
        received=f"{first.reason}: {first.detail}",
        remedy="mend or remove the file, or leave out --strict to set it aside and go on",
    )


def _assemble(
    layout: Layout, images: pd.DataFrame, set_aside: list[SetAside], settings: IndexSettings
) -> Manifest:
    images, conflicts = _part_conflicts(images)
    set_aside = sorted([*set_aside, *conflicts], key=lambda each: each.image)
    _stop_if_strict(set_aside, settings)
    _check_classes(layout, images, set_aside)
    _check_subjects(images)
    images = _mark_duplicates(images)
    record: Record = {
        "root": str(layout.root),
        "layout": layout.name,
        "classes": list(layout.classes),
        "positive": list(layout.positive),
        "canvas_px": list(settings.canvas_px or _most_common_size(images)),
        "synthetic": layout.synthetic,
        "flow": _flow(layout, images, set_aside),
    }
    return Manifest(images, record)


def _part_conflicts(images: pd.DataFrame) -> tuple[pd.DataFrame, list[SetAside]]:
    """Take out every copy of a cell whose copies bear different labels: nobody can say which label is right."""
    labels = images.groupby("pixel_hash")["label"].transform("nunique")
    doubtful = images[labels > 1]
    set_aside = []
    for _, copies in doubtful.groupby("pixel_hash"):
        named = [f"{image} ({_text(label, 'no label')})" for image, label in _pairs(copies, "image", "label")]
        set_aside += [
            SetAside(image, "label_conflict", f"the same cell as {', '.join(named[:place] + named[place + 1 :])}")
            for place, image in enumerate(copies["image"])
        ]
    return images[labels <= 1].reset_index(drop=True), set_aside


def _check_classes(layout: Layout, images: pd.DataFrame, set_aside: Sequence[SetAside]) -> None:
    missing = [name for name in layout.classes if name not in set(images["label"].dropna())]
    if not missing:
        return
    what = "No image is usable" if images.empty else f"No labelled image of the class {shown(missing[0])} is usable"
    reasons = Counter(each.reason for each in set_aside)
    counts = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
    raise ManifestError(
        f"{what} in {shown(str(layout.root))}.",
        expected=f"at least one usable image of each of {', '.join(map(shown, layout.classes))}",
        received=f"{len(images):,} usable images; set aside: {counts or 'none'}",
        remedy="mend the files set aside, or give the folder that holds all classes",
    )


def _check_subjects(images: pd.DataFrame) -> None:
    """Raise where one subject has cells of two labels: its split could not be stratified nor its result be true."""
    first = images.dropna(subset=["label"]).drop_duplicates(["subject", "label"])
    doubled = first[first["subject"].notna() & first.duplicated("subject", keep=False)]
    if doubled.empty:
        return
    subject = min(doubled["subject"], key=natural_order)
    named = _pairs(doubled[doubled["subject"] == subject], "image", "label")
    raise ManifestError(
        f"Subject {subject} has cells of two labels.",
        expected="one label per subject",
        received="; ".join(f"{shown(image)} is {shown(label)}" for image, label in named[:2]),
        remedy="correct the folder or the name of one of these files",
    )


def _mark_duplicates(images: pd.DataFrame) -> pd.DataFrame:
    """Fill `duplicate_of` and `group`; `images` is in path order."""
    first = images.groupby("pixel_hash")["image"].transform("first")
    owners: dict[str, list[str]] = {}
    for pixel_hash, subject in _pairs(images.dropna(subset=["subject"]), "pixel_hash", "subject"):
        owners.setdefault(pixel_hash, []).append(subject)
    groups = merge_subjects(owners.values())
    filled = images.assign(duplicate_of=first.where(first != images["image"]), group=images["subject"].map(groups))
    return filled.astype(dict(MANIFEST_COLUMNS))


def _most_common_size(images: pd.DataFrame) -> tuple[int, int]:
    sizes = Counter(_pairs(images, "height_px", "width_px"))
    return max(sizes, key=lambda size: (sizes[size], size[0] * size[1], size))


def _flow(layout: Layout, images: pd.DataFrame, set_aside: Sequence[SetAside]) -> Record:
    reasons = Counter(each.reason for each in set_aside)
    shared = images[images.duplicated("pixel_hash", keep=False)].groupby("pixel_hash")
    across = shared[["subject", "fold", "part"]].nunique() > 1
    subject_groups = images.dropna(subset=["subject"]).drop_duplicates("subject")
    merged = {group for group in subject_groups["group"] if "+" in group}
    return {
        "found": len(layout.rows) + len(layout.set_aside),
        "set_aside": dict(sorted(reasons.items())),
        "set_aside_images": [vars(each) for each in set_aside],
        "csv_rows_without_image": layout.csv_rows_without_image,
        "images_without_csv_row": layout.images_without_csv_row,
        "usable": len(images),
        "labelled": int(images["label"].notna().sum()),
        "unlabelled": int(images["label"].isna().sum()),
        "duplicate_images": int(images["duplicate_of"].notna().sum()),
        "duplicate_sets": len(across),
        "duplicate_sets_across_subjects": int(across["subject"].sum()),
        "duplicate_sets_across_folds": int(across["fold"].sum()),
        "duplicate_sets_across_parts": int(across["part"].sum()),
        "merged_groups": [group.split("+") for group in sorted(merged, key=natural_order)],
        "subjects": len(subject_groups),
        "groups": int(subject_groups["group"].nunique()),
        "counts": _counts(images, layout.classes),
    }


def _counts(images: pd.DataFrame, classes: Sequence[str]) -> list[Record]:
    """Images and subjects of each part, fold and class, in the order of parts, folds and classes."""
    cells: Counter[tuple[str, str | None, str | None]] = Counter()
    subjects: dict[tuple[str, str | None, str | None], set[str]] = {}
    for part, fold, label, subject in _pairs(images, "part", "fold", "label", "subject"):
        key = (part, fold, label)
        cells[key] += 1
        subjects.setdefault(key, set()).update([subject] if subject is not None else [])

    def order(key: tuple[str, str | None, str | None]) -> tuple[int, list[tuple[str, int]], int]:
        part, fold, label = key
        return _PART_ORDER.index(part), natural_order(fold or ""), classes.index(label) if label else len(classes)

    return [
        {"part": key[0], "fold": key[1], "label": key[2], "images": cells[key], "subjects": len(subjects[key])}
        for key in sorted(cells, key=order)
    ]


def _pairs(frame: pd.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    """Rows of some columns as tuples, None where a value is null."""
    values = frame[list(columns)].astype(object)
    return list(values.where(values.notna(), None).itertuples(index=False, name=None))


def _text(value: str | None, otherwise: str) -> str:
    return otherwise if value is None else shown(value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names)) or "none named"


def _total_lines(flow: Record) -> list[str]:
    totals = [
        ("files found", flow["found"], ""),
        ("  set aside", sum(flow["set_aside"].values()), _reasons(flow["set_aside"])),
        ("  usable images", flow["usable"], f"{flow['labelled']:,} labelled, {flow['unlabelled']:,} unlabelled"),
        ("duplicate images", flow["duplicate_images"], _duplicates(flow)),
        ("subjects", flow["subjects"], _groups(flow)),
    ]
    if flow["csv_rows_without_image"]:
        totals.append(("label rows", flow["csv_rows_without_image"], "without an image"))
    if flow["images_without_csv_row"]:
        totals.append(("preliminary images", flow["images_without_csv_row"], "without a label"))
    return [f"{name:<20}{count:>9,}  {note}".rstrip() for name, count, note in totals]


def _reasons(set_aside: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in set_aside.items())


def _duplicates(flow: Record) -> str:
    if not flow["duplicate_sets"]:
        return ""
    crossing = ", ".join(
        f"{flow[f'duplicate_sets_across_{kind}']:,} across {kind}" for kind in ("subjects", "folds", "parts")
    )
    return f"in {flow['duplicate_sets']:,} sets of equal images: {crossing}"


def _groups(flow: Record) -> str:
    if not flow["subjects"]:
        return "the file names carry none: a split by subject is not possible"
    merged = "; ".join("+".join(group) for group in flow["merged_groups"])
    return f"in {flow['groups']:,} groups" + (f", merged for a shared cell: {merged}" if merged else "")


def _set_aside_lines(flow: Record) -> list[str]:
    named = flow["set_aside_images"]
    if not named:
        return []
    width = min(60, max(len(shown(each["image"])) for each in named[:_SET_ASIDE_SHOWN]))
    lines = [
        f"  {shown(each['image']):<{width}}  {each['reason']:<14}  {shown(each['detail'])}"
        for each in named[:_SET_ASIDE_SHOWN]
    ]
    more = len(named) - _SET_ASIDE_SHOWN
    return ["", "set aside", *lines, *([f"  … and {more:,} more in {SET_ASIDE_FILE}"] if more > 0 else [])]


def _count_lines(counts: Sequence[Record]) -> list[str]:
    rows = [
        [each["part"], each["fold"] or "–", _text(each["label"], "unlabelled"), each["images"], each["subjects"]]
        for each in counts
    ]
    widths = [max(len(str(row[column])) for row in rows) for column in range(3)]
    widths = [max(width, len(name)) for width, name in zip(widths, ("part", "fold", "class"), strict=True)]
    table = [["part", "fold", "class", "images", "subjects"], *rows]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        + "".join(f"  {cell if isinstance(cell, str) else f'{cell:,}':>8}" for cell in row[3:])
        for row in table
    ]
