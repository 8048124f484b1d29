"""Decide which side (train, validation, test) each image stands on, and prove that no subject stands on two.

In: a manifest. Out: `Splits` with the audit in its record. Writes: SPLITS_FILE.

`check_disjoint` is the leak door: `split` passes through it, and so does every verb that reads a splits file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leukolens.artifacts import (
    POOL,
    PRELIMINARY,
    SIDES,
    SPLITS_FILE,
    TEST,
    TRAIN,
    VALIDATION,
    Manifest,
    Record,
    Splits,
)
from leukolens.data.allocation import allocate
from leukolens.data.leak_door import check_disjoint, class_counts, images_of, on_two_sides, placed_images, require_subjects
from leukolens.errors import SplitError
from leukolens.settings import SplitSettings, SplitStrategy

_FILE_COLUMNS = ("image", "side")

_LABELS: Mapping[str, str] = {
    "subject": "split by subject",
    "image": "split by image: optimistic",
    "official": "official folds",
    "file": "own split",
}


@dataclass(frozen=True)
class _Plan:
    """Who goes where, before it is checked: `sides` has SPLITS_COLUMNS, `fractions` the share of each side."""

    sides: pd.DataFrame
    label: str
    optimistic: bool
    fractions: tuple[float, ...]


def split(
    manifest: Manifest | Path | str,
    out: Path | str | None = None,
    settings: SplitSettings = SplitSettings(),  # noqa: B008 - frozen, so one default serves all calls
) -> Splits:
    """Put the labelled images of a manifest on sides, check them at the leak door and audit them.

    The same manifest and settings give the same splits, whatever the order of the manifest's rows.

    Args:
        manifest: a manifest, its file, or the folder that holds it.
        out: folder to write SPLITS_FILE to; None writes nothing.
        settings: strategy, shares, folds and seed.

    Returns:
        One row per fold and used image; `record["audit"]` holds the lines to print.

    Raises:
        SplitError: the manifest has not what the strategy needs: subjects, folds, enough groups of each class.
        LeakError: a group or a duplicate would stand on two sides.
    """
    data = Manifest.of(manifest)
    plan = _PLANNERS[settings.strategy](images_of(data), data.classes, settings)
    record: Record = {
        "strategy": settings.strategy,
        "label": plan.label,
        "optimistic": plan.optimistic,
        "seed": settings.seed,
        "fractions": list(plan.fractions),
        "folds": settings.folds or 1,
        "manifest_hash": data.content_hash,
    }
    unaudited = Splits(plan.sides, record)
    check_disjoint(data, unaudited)
    splits = Splits(plan.sides, {**record, "audit": audit(data, unaudited)})
    if out is not None:
        splits.save(Path(out) / SPLITS_FILE)
    return splits


def audit(manifest: Manifest, splits: Splits) -> list[str]:
    """Say in lines what stands where: images, subjects, groups and classes per side, overlaps, moves, unused images.

    `splits` need not have passed the leak door, but must have images on every side. All numbers are counted from the
    two tables, none is taken over from the splits' record but the wished shares. Of several folds they give the range.
    """
    images = images_of(manifest)
    placed = placed_images(images, splits)
    record = splits.record
    folds = f", {record['folds']} folds (ranges over the folds)" if record["folds"] > 1 else ""
    return [
        f"{record['label']}, seed {record['seed']}{folds}",
        *_side_lines(placed, manifest.classes, record),
        *_overlap_lines(placed, record["strategy"]),
        *(_move_lines(images) if record["strategy"] == "official" else []),
        *_unused_lines(images[~images["image"].isin(placed["image"])], record["strategy"]),
    ]


def _plan_subject(images: pd.DataFrame, classes: Sequence[str], settings: SplitSettings) -> _Plan:
    pool = _labelled_pool(images)
    require_subjects(pool, "A split by subject")
    return _allocated(pool.assign(unit=pool["group"]), classes, settings)


def _plan_image(images: pd.DataFrame, classes: Sequence[str], settings: SplitSettings) -> _Plan:
    pool = _labelled_pool(images)
    return _allocated(pool.assign(unit=pool["pixel_hash"]), classes, settings)


def _plan_official(images: pd.DataFrame, classes: Sequence[str], settings: SplitSettings) -> _Plan:
    """The last training fold validates, the others train, the preliminary images test."""
    pool, folds = _official_pool(images)
    test = images[(images["part"] == PRELIMINARY) & images["label"].notna()]
    if len(folds) < 2 or test.empty:
        raise SplitError(
            "The data set has no official split.",
            expected="labelled training images in two or more official folds, and labelled preliminary images",
            received=f"folds: {', '.join(folds) or 'none'}; labelled preliminary images: {len(test)}",
            remedy="say --strategy subject",
        )
    side = np.where(_homes(pool, folds).isin(folds[-1:]), VALIDATION, TRAIN)
    sides = _one_fold(
        pd.concat([pool["image"], test["image"]]).to_numpy(), np.concatenate([side, np.repeat(TEST, len(test))])
    )
    return _given(sides, images, settings.strategy)


def _plan_file(images: pd.DataFrame, classes: Sequence[str], settings: SplitSettings) -> _Plan:
    if settings.file is None:  # the settings already refuse this; it tells the type checker so
        raise SplitError("No split file.", expected="a CSV", received="none", remedy="say --split-file PATH")
    known = set(images["image"])
    rows = _read_rows(settings.file)
    for line, image, side in rows:
        if side not in SIDES:
            raise _row_error(settings.file, line, f"side {side!r}", f"one of {', '.join(SIDES)}")
        if image not in known:
            raise _row_error(settings.file, line, f"image {image!r}", "an image of the manifest, by its path there")
    sides = _one_fold([image for _, image, _ in rows], [side for _, _, side in rows])
    return _given(sides, images, settings.strategy)


_PLANNERS: Mapping[SplitStrategy, Callable[[pd.DataFrame, Sequence[str], SplitSettings], _Plan]] = {
    "subject": _plan_subject,
    "image": _plan_image,
    "official": _plan_official,
    "file": _plan_file,
}


def _allocated(pool: pd.DataFrame, classes: Sequence[str], settings: SplitSettings) -> _Plan:
    """Place the units of the column `unit` whole, in three shares or in k even parts."""
    # crosstab sorts the units, so the order of the manifest's rows cannot matter.
    counts = pd.crosstab(pool["unit"], pool["label"]).reindex(columns=list(classes), fill_value=0)
    _require_units(counts, settings)
    parts = settings.folds or len(SIDES)
    wished = settings.fractions if settings.folds is None else (1 / parts,) * parts
    part_of_unit = pd.Series(allocate(counts.to_numpy(np.int64), wished, settings.seed), index=counts.index)
    part = pool["unit"].map(part_of_unit).to_numpy(np.int64)
    images = pool["image"].to_numpy()
    if settings.folds is None:
        sides, fractions = _one_fold(images, np.array(SIDES)[part]), wished
    else:
        sides, fractions = _k_folds(images, part, parts), ((parts - 2) / parts, 1 / parts, 1 / parts)
    return _Plan(sides, _LABELS[settings.strategy], settings.strategy == "image", fractions)


def _given(sides: pd.DataFrame, images: pd.DataFrame, strategy: str) -> _Plan:
    """A plan whose sides were not chosen here; where subjects are unknown it says that it may be optimistic."""
    group = images.loc[images["image"].isin(sides["image"]), "group"]
    label = _LABELS[strategy]
    if group.isna().any():
        label += f", subjects {'unknown' if group.isna().all() else 'partly unknown'}: optimistic"
    shares = tuple(float((sides["side"] == side).mean()) for side in SIDES)
    return _Plan(sides, label, bool(group.isna().any()), shares)


def _one_fold(images: Sequence[str] | np.ndarray, sides: Sequence[str] | np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"fold": 0, "image": images, "side": sides}).sort_values("image", ignore_index=True)
    return table.astype({"fold": "int16", "image": "string", "side": "string"})


def _k_folds(images: np.ndarray, part: np.ndarray, folds: int) -> pd.DataFrame:
    """Part i tests and part i + 1 validates in fold i; the others train."""
    tables = []
    for fold in range(folds):
        side = np.select([part == fold, part == (fold + 1) % folds], [TEST, VALIDATION], TRAIN)
        tables.append(_one_fold(images, side).assign(fold=np.int16(fold)))
    return pd.concat(tables, ignore_index=True)


def _official_pool(images: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Labelled training images with an official fold, with their `unit`; the folds in the order of their numbers."""
    pool = images[(images["part"] == POOL) & images["label"].notna() & images["fold"].notna()]
    # Where no subject is known, identical cells are all that can be kept together; the unit's name is shown in the audit.
    same_cell = pool.groupby("pixel_hash")
    unit = ("group " + same_cell["group"].transform("first")).fillna("copies of " + same_cell["image"].transform("first"))
    return pool.assign(unit=unit), sorted(pool["fold"].unique(), key=_by_number)


def _by_number(name: str) -> list[str | int]:
    """fold_10 after fold_9."""
    return [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", name)]


def _homes(pool: pd.DataFrame, folds: Sequence[str]) -> pd.Series[str]:
    """The fold which holds most images of each image's unit; of equals the lowest, because idxmax takes the first."""
    images_in_fold = pd.crosstab(pool["unit"], pool["fold"])[list(folds)]
    return pool["unit"].map(images_in_fold.idxmax(axis=1))


def _read_rows(path: Path) -> list[tuple[int, str, str]]:
    """Line number, image and side of each row of a split file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row.get("image") or "", row.get("side") or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SplitError(
            f"{path} cannot be read.",
            expected="a CSV file in UTF-8 with columns image and side",
            received=str(error),
            remedy="correct the path or the file",
        ) from error
    if missing := [name for name in _FILE_COLUMNS if name not in columns]:
        raise SplitError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {' and '.join(missing)}.",
            expected="columns image and side; others are allowed",
            received=f"columns {', '.join(columns) or 'none'}",
            remedy="name the columns in the first row",
        )
    if not rows:
        raise SplitError(
            f"{path} names no image.",
            expected="one row for each image to use",
            received="a heading and no rows",
            remedy="list the images with their sides",
        )
    return rows


def _labelled_pool(images: pd.DataFrame) -> pd.DataFrame:
    pool = images[(images["part"] == POOL) & images["label"].notna()]
    if pool.empty:
        raise SplitError(
            "The manifest has no labelled training image.",
            expected="labelled images outside the preliminary and final test sets",
            received=f"{len(images)} images, none of them labelled and free to be split",
            remedy="index a folder with one folder per class, or say --strategy file",
        )
    return pool


def _require_units(counts: pd.DataFrame, settings: SplitSettings) -> None:
    """Each class must have at least one unit for every side, or for every part of a k-fold split."""
    needed = settings.folds or len(SIDES)
    by_subject = settings.strategy == "subject"
    unit = "subject groups" if by_subject else "distinct images"
    units = (counts > 0).sum()
    name, have = str(units.idxmin()), int(units.min())
    if have >= needed:
        return
    remedies = [f"add {'subjects' if by_subject else 'images'} of {name}"]
    if settings.folds is not None and have >= len(SIDES):
        remedies.append(f"say --folds {have}")
    if by_subject:
        remedies.append("say --strategy image (its results are optimistic)")
    raise SplitError(
        f"Class {name} cannot be put on every side{f' of {needed} folds' if settings.folds else ''}.",
        expected=f"at least {needed} {unit} of {name}",
        received=str(have),
        remedy=", or ".join(remedies),
    )


def _row_error(path: Path, line: int, received: str, expected: str) -> SplitError:
    return SplitError(
        f"{path}, row {line} cannot be used.",
        expected=expected,
        received=received,
        remedy="correct the row or take it out (row 1 is the heading)",
    )


def _side_lines(placed: pd.DataFrame, classes: Sequence[str], record: Record) -> list[str]:
    counts = class_counts(placed, classes)
    shares = counts / counts.groupby("fold").sum()
    sizes = placed.groupby(["fold", "side"]).agg({"image": "size", "subject": "nunique", "group": "nunique"})
    lines = []
    for side, wished in zip(SIDES, record["fractions"], strict=True):
        size, count, share = (table.xs(side, level="side") for table in (sizes, counts, shares))
        subjects = f"{_range(size['subject'])} subjects, {_range(size['group'])} groups"
        target = f", target {wished:.1%}" if record["strategy"] in ("subject", "image") else ""
        of_class = [f"{name} {_range(count[name])} ({_range(share[name], '.1%')} of {name}{target})" for name in classes]
        known = placed["subject"].notna().any()
        lines.append(
            f"{side}: {_range(size['image'])} images, {subjects if known else 'subjects unknown'}; {', '.join(of_class)}"
        )
    return lines


def _range(values: pd.Series[Any], form: str = ",") -> str:
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low}–{high}"


def _overlap_lines(placed: pd.DataFrame, strategy: str) -> list[str]:
    duplicates = f"duplicates on two sides: {len(on_two_sides(placed, 'pixel_hash'))}"
    images = placed.drop_duplicates("image")
    unknown = int(images["subject"].isna().sum())
    if strategy == "image":
        shared, all_subjects = on_two_sides(placed, "subject")["subject"].nunique(), images["subject"].nunique()
        overlap = (
            f"subjects on two sides: {shared} of {all_subjects}" if all_subjects else "subjects on two sides: unknown"
        )
        return [f"{overlap} (that is why it is optimistic)", duplicates]
    lines = [f"groups on two sides: {len(on_two_sides(placed, 'group'))}; {duplicates}"]
    if unknown:
        lines.append(f"images whose subject is unknown: {unknown:,} of {len(images):,} (that is why it is optimistic)")
    return lines


def _move_lines(images: pd.DataFrame) -> list[str]:
    """The groups that the official folds tear apart, and where their cells went."""
    pool, folds = _official_pool(images)
    moved = pool.assign(home=_homes(pool, folds))
    moved = moved[moved["fold"] != moved["home"]]
    sizes = moved.groupby(["unit", "fold", "home"]).size().reset_index(name="cells")
    return [
        f"{row.unit}: {row.cells} cell{'' if row.cells == 1 else 's'} moved from {row.fold} to {row.home}"
        for row in sizes.itertuples()
    ]


def _unused_lines(unused: pd.DataFrame, strategy: str) -> list[str]:
    reasons = {"file": "not named in the file", "official": "in no official fold"}
    reason = np.select(
        [
            (unused["part"] == PRELIMINARY).to_numpy() & (strategy in ("subject", "image")),
            unused["label"].isna().to_numpy(),
        ],
        ["locked test", "unlabelled"],  # the first that holds
        reasons.get(strategy, "unused"),
    )
    part = unused["part"].replace({POOL: "training-pool"})
    counts = unused.assign(part=part, reason=reason).groupby(["part", "reason"]).size().reset_index(name="images")
    return [
        f"{row.images:,} {row.part} image{'' if row.images == 1 else 's'} kept out: {row.reason}"
        for row in counts.itertuples()
    ]
