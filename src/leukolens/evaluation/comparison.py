"""Trained networks side by side: one row each, the best chosen on validation, and what the split by image adds.

In: one record per trained network with its metrics; a manifest with its splits. Out: tables. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from leukolens.artifacts import SIDES, TEST, VALIDATION, Manifest, Splits

# The order in which a reader meets them: how good, then what it took.
TEST_FIGURES = (
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "f1_macro",
    "mcc",
    "auroc",
    "auprc",
    "auroc_macro_ovr",
    "auprc_macro_ovr",
)
VALIDATION_FIGURES = ("balanced_accuracy", "auroc", "auroc_macro_ovr")
COST_COLUMNS = ("parameters", "train_seconds", "images_per_second", "epochs")
DIFFERENCE_FIGURES = ("accuracy", "balanced_accuracy", "f1_weighted", "auroc", "auroc_macro_ovr")

_COUNTS = ("images", "subjects", "groups")


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Give one row per trained network.

    Args:
        rows: for each network `protocol` (label of the split), `optimistic`, `architecture`, `display_name`,
            `trained_on`, `phase`, `parameters` (count), `train_seconds`, `images_per_second`, `epochs`, `metrics`
            (content of metrics.json), `source_document_accuracy` (0–1 or None).

    Returns:
        Columns `protocol`, `optimistic`, `architecture`, `display_name`, `weights` (what they were trained on),
        `phase`, `is_best`, `validation_*`, `test_*` (0–1; `test_mcc` −1–1), `test_images`, `test_subjects`,
        `test_groups`, `source_document_accuracy` and COST_COLUMNS, rows as given. What is undefined or not measured
        is NaN. `is_best` marks, within each protocol, the highest balanced accuracy on validation; ties go to the
        higher AUROC on validation, then to fewer parameters. The test side has no say in it.
    """
    table = pd.DataFrame([_row(row) for row in rows], columns=_columns())
    numeric = [name for name in _columns() if name.startswith(("validation_", "test_"))]
    numeric += ["source_document_accuracy", *COST_COLUMNS]
    table[numeric] = table[numeric].astype("float64")
    best = {_best(group) for _, group in table.groupby("protocol", sort=False)}
    table["is_best"] = table.index.isin([index for index in best if index is not None])
    return table


def protocol_difference(table: pd.DataFrame) -> pd.DataFrame:
    """Subtract what was measured split by subject from what the optimistic split by image gave.

    Args:
        table: from `comparison_table`.

    Returns:
        One row per architecture measured under both: `architecture`, `display_name`, and for each of
        DIFFERENCE_FIGURES that is defined `<figure>_subject`, `<figure>_image` (0–1) and `<figure>_difference`
        (image − subject; above 0: the split by image flatters). Empty where the table holds one kind of split only,
        or several splits of a kind, which no single difference describes.
    """
    optimistic = table[table["optimistic"].astype(bool)]
    honest = table[~table["optimistic"].astype(bool)]
    if optimistic["protocol"].nunique() != 1 or honest["protocol"].nunique() != 1:
        return pd.DataFrame(columns=["architecture", "display_name"])
    keys = ["architecture", "display_name"]
    both = honest.merge(optimistic, on=keys, suffixes=("_subject", "_image"))
    result = both[keys].copy()
    for figure in DIFFERENCE_FIGURES:
        subject, image = both[f"test_{figure}_subject"], both[f"test_{figure}_image"]
        if (subject.notna() & image.notna()).any():
            result[f"{figure}_subject"], result[f"{figure}_image"] = subject, image
            result[f"{figure}_difference"] = image - subject
    return result


def count_sides(manifest: Manifest, splits: Splits, fold: int = 0) -> pd.DataFrame:
    """Count images, subjects and merged subject groups by side and class.

    Args:
        manifest: the images.
        splits: their sides.
        fold: which fold of the splits.

    Returns:
        Columns `side` (in the order train, validation, test), `label` (in class order), `images`, `subjects`,
        `groups`; one row for each pair, 0 where there is none.
    """
    side = splits.of_fold(fold)
    images = manifest.images.assign(side=manifest.images["image"].map(side.to_dict()))
    rows = []
    for name in SIDES:
        for label in manifest.classes:
            chosen = images[(images["side"] == name) & (images["label"] == label)]
            rows.append({"side": name, "label": label, "images": len(chosen), "subjects": chosen["subject"].nunique(),
                         "groups": chosen["group"].nunique()})  # fmt: skip
    return pd.DataFrame(rows)


def _columns() -> list[str]:
    return [
        *("protocol", "optimistic", "architecture", "display_name", "weights", "phase", "is_best"),
        *(f"{VALIDATION}_{name}" for name in VALIDATION_FIGURES),
        *(f"{TEST}_{name}" for name in (*TEST_FIGURES, *_COUNTS)),
        "source_document_accuracy",
        *COST_COLUMNS,
    ]


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    sides = row["metrics"]["sides"]
    validation, test = sides.get(VALIDATION, {}), sides.get(TEST, {})
    as_given = ("protocol", "optimistic", "architecture", "display_name", "phase", *COST_COLUMNS)
    return {
        **{name: row.get(name) for name in (*as_given, "source_document_accuracy")},
        "weights": row["trained_on"],
        **{f"{VALIDATION}_{name}": validation.get(name) for name in VALIDATION_FIGURES},
        **{f"{TEST}_{name}": test.get(name) for name in (*TEST_FIGURES, *_COUNTS)},
    }


def _best(group: pd.DataFrame) -> object:
    """Give the index of the best row of one protocol, None where nothing was measured on validation."""
    known = group[group["validation_balanced_accuracy"].notna()]
    if known.empty:
        return None
    area = known["validation_auroc"].fillna(known["validation_auroc_macro_ovr"]).fillna(0)
    ranked = known.assign(area=area, size=known["parameters"].fillna(float("inf")))
    order = ranked.sort_values(["validation_balanced_accuracy", "area", "size"], ascending=[False, False, True])
    best: object = order.index[0]
    return best
