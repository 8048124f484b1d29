"""The leak door: no splits pass in which a subject, a group or a duplicated cell stands on two sides.

In: a manifest and splits of it. Out: nothing, or an error that names subject and files. Writes: nothing. `split` passes
through it, and so does every verb that reads a splits file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from leukolens.artifacts import SIDES, Manifest, Record, Splits
from leukolens.errors import LeakError, SplitError

_COLUMNS = ["image", "label", "subject", "group", "fold", "part", "pixel_hash"]
_LEAK_REMEDIES: Mapping[str, str] = {
    "official": "say --strategy subject, which keeps subjects and duplicates together",
    "file": "put all of them on one side in the file, or leave them out of it",
}
_CLASS_REMEDIES: Mapping[str, str] = {
    "official": "say --strategy subject, which puts every class on every side",
    "file": "name images of that class with that side in the file",
}
_SPLIT_AGAIN = "run `leukolens split` again on this manifest"


def check_disjoint(manifest: Manifest, splits: Splits) -> None:
    """The leak door: pass only splits of this very data in which no subject, group or duplicate stands on two sides.

    Cells with the same pixel hash must share a side in every fold. So must subjects and groups, unless the splits are
    declared to be split by image and optimistic. Splits that are not declared optimistic need a subject for every image.

    Raises:
        LeakError: a subject, group or duplicate stands on two sides of a fold.
        SplitError: the splits belong to other data; an image is not in the manifest, occurs twice in a fold, has no
            label or an unknown side; a class is missing from a side; subjects are needed but unknown.
    """
    _require_same_data(manifest, splits)
    images = images_of(manifest)
    _require_valid_rows(images, splits)
    placed = placed_images(images, splits)
    if not splits.record.get("optimistic", False):
        require_subjects(placed.drop_duplicates("image"), "Splits that are not marked optimistic")
    _refuse_leaks(placed, splits.record)
    _require_every_class(placed, manifest.classes, splits.record)


def images_of(manifest: Manifest) -> pd.DataFrame:
    """The columns used here, as strings, in path order."""
    return manifest.images[_COLUMNS].astype("string").sort_values("image", ignore_index=True)


def placed_images(images: pd.DataFrame, splits: Splits) -> pd.DataFrame:
    """One row per fold and used image: fold, image, side and what the manifest knows of the image."""
    known = images.drop(columns=["fold", "part"])
    return splits.sides.astype({"image": "string", "side": "string"}).merge(known, on="image", how="left")


def require_subjects(images: pd.DataFrame, what: str) -> None:
    """Raise SplitError where the subject of an image is unknown; `what` names the thing that needs subjects."""
    unknown = images[images["subject"].isna() | images["group"].isna()]
    if unknown.empty:
        return
    if len(unknown) == len(images):
        raise SplitError(
            "The data set has no subjects.",
            expected="the subject of every image",
            received=f"{len(images)} images, none with a subject, the first: {unknown['image'].iloc[0]}",
            remedy="say --strategy image (its results are optimistic)",
        )
    raise SplitError(
        f"{what} cannot be made or checked: the subject of {len(unknown)} of {len(images)} images is unknown.",
        expected="the subject of every image",
        received=f"no subject for {unknown['image'].iloc[0]}"
        + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""),
        remedy="name the subject in the file names, take these images out, or say --strategy image "
        "(its results are optimistic)",
    )


def on_two_sides(placed: pd.DataFrame, key: str) -> pd.DataFrame:
    """The folds and values of `key` (unknown ones left out) that stand on two sides or more, sorted."""
    pairs = placed.loc[placed[key].notna(), ["fold", key, "side"]].drop_duplicates()
    torn = pairs[pairs.duplicated(["fold", key])]
    return torn[["fold", key]].drop_duplicates().sort_values(["fold", key])


def class_counts(placed: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Images per class (columns), for every fold and side (rows)."""
    every = pd.MultiIndex.from_product([sorted(placed["fold"].unique()), SIDES], names=["fold", "side"])
    counts = placed.groupby(["fold", "side", "label"]).size().unstack("label", fill_value=0)
    return counts.reindex(index=every, columns=list(classes), fill_value=0)


def _require_same_data(manifest: Manifest, splits: Splits) -> None:
    received = splits.record.get("manifest_hash")
    if received != (expected := manifest.content_hash):
        raise SplitError(
            "The splits belong to other data.",
            expected=f"splits of the manifest with hash {expected}",
            received=f"splits of a manifest with hash {received}",
            remedy=_SPLIT_AGAIN,
        )


def _require_valid_rows(images: pd.DataFrame, splits: Splits) -> None:
    sides = splits.sides
    folds, expected_folds = sorted(set(sides["fold"].tolist())), list(range(splits.record.get("folds", 1)))
    if folds != expected_folds:
        raise SplitError(
            "The splits lack folds or have too many.",
            expected=f"folds {expected_folds}",
            received=f"folds {folds}",
            remedy=_SPLIT_AGAIN,
        )
    unlabelled = images.loc[images["label"].isna(), "image"]
    problems = (
        (~sides["side"].isin(SIDES), "has an unknown side", f"one of {', '.join(SIDES)}"),
        (~sides["image"].isin(images["image"]), "is not in the manifest", "images of the manifest, by their path there"),
        (sides.duplicated(["fold", "image"]), "occurs twice in one fold", "each image at most once in a fold"),
        (sides["image"].isin(unlabelled), "has no label", "labelled images"),
    )
    for wrong, complaint, expected in problems:
        if wrong.any():
            row = sides[wrong].iloc[0]
            raise SplitError(
                f"{row['image']} {complaint}.",
                expected=expected,
                received=f"side {row['side']} in fold {row['fold']}"
                + (f", and {wrong.sum() - 1} more rows like it" if wrong.sum() > 1 else ""),
                remedy=_SPLIT_AGAIN if splits.record.get("strategy") != "file" else "correct the split file",
            )


def _may_share_subjects(record: Record) -> bool:
    return record.get("strategy") == "image" and bool(record.get("optimistic"))


def _refuse_leaks(placed: pd.DataFrame, record: Record) -> None:
    # Subjects first: where a subject leaks, naming it says more than naming the cells.
    for key in ("pixel_hash",) if _may_share_subjects(record) else ("subject", "group", "pixel_hash"):
        if len(torn := on_two_sides(placed, key)):
            raise _leak(placed, torn, key, str(record.get("strategy")))


def _leak(placed: pd.DataFrame, torn: pd.DataFrame, key: str, strategy: str) -> LeakError:
    fold, value = torn.iloc[0]
    rows = placed[(placed["fold"] == fold) & (placed[key] == value)].sort_values("image")
    name = {"subject": f"Subject {value}", "group": f"Group {value}", "pixel_hash": "The same cell"}[key]
    first = [rows[rows["side"] == side].head(1) for side in SIDES]
    received = [
        f"{row.image} (subject {'unknown' if pd.isna(row.subject) else row.subject}) on {row.side}"
        for row in pd.concat(first).itertuples()
    ]
    more = f"; {len(torn) - 1} more like it" if len(torn) > 1 else ""
    return LeakError(
        f"{name} stands on two sides of fold {fold}.",
        expected="all images of a subject, of subjects that share cells, and all copies of a cell on one side",
        received=", ".join(received) + more,
        remedy=_LEAK_REMEDIES.get(strategy, _SPLIT_AGAIN),
    )


def _require_every_class(placed: pd.DataFrame, classes: Sequence[str], record: Record) -> None:
    counts = class_counts(placed, classes)
    rows, columns = np.nonzero(counts.to_numpy() == 0)
    if not len(rows):
        return
    (fold, side), name = counts.index[rows[0]], classes[columns[0]]
    raise SplitError(
        f"Class {name} is missing from the {side} side of fold {fold}.",
        expected="images of every class on every side",
        received=", ".join(f"{count} {label}" for label, count in counts.loc[(fold, side)].items()),
        remedy=_CLASS_REMEDIES.get(
            str(record.get("strategy")), f"add subjects of {name}, ask for fewer folds, or run `leukolens split` again"
        ),
    )
