"""Models side by side: one row each, and of the networks the best, chosen on validation.

In: one record per model with its metrics; a manifest with its splits. Out: tables, and the name of the best. Writes: nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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
    "ece",
    "brier",
)
# Those of them that have their interval beside them, as `test_<figure>_low` and `_high`.
INTERVAL_FIGURES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1_weighted", "auroc", "ece")
VALIDATION_FIGURES = ("balanced_accuracy", "auroc", "auroc_macro_ovr")
COST_COLUMNS = ("parameters", "train_seconds", "images_per_second", "epochs")

_NAMED_COLUMNS = ("study", "protocol", "optimistic", "kind", "tta", "model", "architecture", "display_name")
_COUNTS = ("images", "subjects", "groups")
# Two ways of summing the same images differ by about 1e-16; a real difference is at least 1 / n^2 of n images.
_DECIMALS = 12

_Key = TypeVar("_Key", int, str)


@dataclass(frozen=True)
class OnValidation:
    """What validation shows of one network, each None where it is not known.

    `balanced_accuracy` and `auroc` (of the positive classes, else macro one against the rest) 0–1, means over the
    repeats; `parameters`: count.
    """

    balanced_accuracy: float | None
    auroc: float | None
    parameters: int | None


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Give one row per model.

    Args:
        rows: for each model `study` (folder below the results), `protocol` (label of the split), `optimistic`, `kind`
            ("network", "baseline", "ensemble"), `tta`, `model` (folder name), `architecture`, `display_name`,
            `trained_on`, `phase`, `parameters` (count), `train_seconds`, `images_per_second`, `epochs`, `metrics`
            (content of metrics.json), `source_document_accuracy` (0–1 or None).

    Returns:
        Columns `study`, `protocol`, `optimistic`, `kind`, `tta`, `model`, `architecture`, `display_name`, `weights`
        (what they were trained on), `phase`, `is_best`, `validation_*`, `test_*` (0–1; `test_mcc` −1–1) with `_low` and
        `_high` of INTERVAL_FIGURES, `test_images`, `test_subjects`, `test_groups`, `source_document_accuracy` and
        COST_COLUMNS, rows as given. What is undefined or not measured is NaN. `is_best` marks, among the networks of
        each study, the one that `best_on_validation` names.
    """
    table = pd.DataFrame([_row(row) for row in rows], columns=_columns())
    numeric = [name for name in _columns() if name.startswith(("validation_", "test_"))]
    numeric += ["source_document_accuracy", *COST_COLUMNS]
    table[numeric] = table[numeric].astype("float64")
    networks = table[(table["kind"] == "network") & ~table["tta"].astype(bool)]
    best = {best_on_validation(_shown(of_study)) for _, of_study in networks.groupby("study", sort=False)}
    table["is_best"] = table.index.isin([index for index in best if index is not None])
    return table


def best_on_validation(networks: Mapping[_Key, OnValidation]) -> _Key | None:
    """Name the best of several networks: the one rule for the table, the report and what ensembles are set against.

    The highest balanced accuracy on validation; of equals the higher AUROC there, which sees what no threshold does; then
    fewer parameters, because the smaller of two equals costs less to run, one of unknown size coming last; then the first
    in the order given, that in which the user named them. The test side has no say in it, nor in the order: a tie broken
    by test would choose on test.

    Args:
        networks: what validation shows of each, in the order of the table. Values that differ by rounding are equal.

    Returns:
        Its key; None where no balanced accuracy is known.
    """

    def place(key: _Key) -> tuple[float, float, float]:
        shown = networks[key]
        size = math.inf if shown.parameters is None else shown.parameters
        return -_rounded(shown.balanced_accuracy), -_rounded(shown.auroc), size

    return min((key for key in networks if networks[key].balanced_accuracy is not None), key=place, default=None)


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
        *_NAMED_COLUMNS,
        *("weights", "phase", "is_best"),
        *(f"{VALIDATION}_{name}" for name in VALIDATION_FIGURES),
        *(f"{TEST}_{name}" for name in (*TEST_FIGURES, *_COUNTS)),
        *(f"{TEST}_{name}_{end}" for name in INTERVAL_FIGURES for end in ("low", "high")),
        "source_document_accuracy",
        *COST_COLUMNS,
    ]


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    sides = row["metrics"]["sides"]
    validation, test = sides.get(VALIDATION, {}), sides.get(TEST, {})
    intervals = test.get("intervals", {}).get("intervals", {})
    ends = {name: intervals.get(name) or (None, None) for name in INTERVAL_FIGURES}
    return {
        **{name: row.get(name) for name in (*_NAMED_COLUMNS, "phase", *COST_COLUMNS, "source_document_accuracy")},
        "weights": row["trained_on"],
        **{f"{VALIDATION}_{name}": validation.get(name) for name in VALIDATION_FIGURES},
        **{f"{TEST}_{name}": test.get(name) for name in (*TEST_FIGURES, *_COUNTS)},
        **{f"{TEST}_{name}_low": low for name, (low, _) in ends.items()},
        **{f"{TEST}_{name}_high": high for name, (_, high) in ends.items()},
    }


def _shown(rows: pd.DataFrame) -> dict[int, OnValidation]:
    """Give what validation shows of each row of one study, by its index."""
    names = ("validation_balanced_accuracy", "validation_auroc", "validation_auroc_macro_ovr", "parameters")
    known = rows[list(names)].astype(object).where(rows[list(names)].notna(), None)
    return {
        int(index): OnValidation(accuracy, macro if area is None else area, size)
        for index, (accuracy, area, macro, size) in zip(rows.index, known.itertuples(index=False, name=None), strict=True)
    }


def _rounded(value: float | None) -> float:
    return -math.inf if value is None else round(value, _DECIMALS)
