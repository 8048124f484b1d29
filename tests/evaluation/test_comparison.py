"""The table of networks: chosen on validation, never on test; its intervals; counts by side."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from leukolens.artifacts import MANIFEST_COLUMNS, Manifest, Splits
from leukolens.evaluation.comparison import OnValidation, best_on_validation, comparison_table, count_sides

SUBJECT, IMAGE = "split by subject", "split by image: optimistic"


def row(name: str, validation: tuple, test: float, protocol: str = SUBJECT, parameters: int = 10) -> dict:
    test_side = {"images": 50, "subjects": 9, "groups": 8, "accuracy": test, "balanced_accuracy": test - 0.1,
                 "f1_weighted": test, "auroc": None}  # fmt: skip
    sides = {"validation": {"balanced_accuracy": validation[0], "auroc": validation[1]}, "test": test_side}
    return {"study": protocol, "kind": "network", "tta": False, "model": name, "protocol": protocol,
            "optimistic": protocol == IMAGE, "architecture": name, "display_name": name.title(),
            "trained_on": "ImageNet-1k", "phase": "finetune", "parameters": parameters, "train_seconds": 61.5,
            "images_per_second": 9.0, "epochs": 4, "metrics": {"record": {}, "sides": sides},
            "source_document_accuracy": None}  # fmt: skip


def best(table: pd.DataFrame) -> list[str]:
    return table.loc[table["is_best"], "architecture"].tolist()


def test_the_best_is_chosen_on_validation_not_on_test():
    table = comparison_table([row("a", (0.80, 0.9), 0.99), row("b", (0.85, 0.7), 0.60)])
    assert best(table) == ["b"]
    assert table["weights"].tolist() == ["ImageNet-1k"] * 2
    assert table.loc[1, "test_accuracy"] == 0.60
    assert table.loc[1, "test_subjects"] == 9
    assert math.isnan(table.loc[0, "test_auroc"])


def test_ties_go_to_the_higher_auroc_then_to_fewer_parameters():
    assert best(comparison_table([row("a", (0.8, 0.90), 0.5), row("b", (0.8, 0.91), 0.5)])) == ["b"]
    tied = [row("a", (0.8, 0.9), 0.5, parameters=9), row("b", (0.8, 0.9), 0.5, parameters=3)]
    assert best(comparison_table(tied)) == ["b"]


def test_the_rule_step_by_step():
    def best_of(**networks: tuple) -> str | None:
        return best_on_validation({name: OnValidation(*shown) for name, shown in networks.items()})

    assert best_of(a=(0.80, 0.99, 1), b=(0.81, 0.5, 9)) == "b"
    assert best_of(a=(0.8, 0.90, 1), b=(0.8, 0.91, 9)) == "b"
    assert best_of(a=(0.8, None, 1), b=(0.8, 0.0, 9)) == "b"
    assert best_of(a=(0.8, 0.9, 9), b=(0.8, 0.9, 3)) == "b"
    assert best_of(a=(0.8, 0.9, None), b=(0.8, 0.9, 9)) == "b"
    assert best_of(b=(0.8, 0.9, 3), a=(0.8, 0.9, 3)) == "b"
    # 0.1 + 0.2 is not 0.3 by the last digit: as good as it.
    assert best_of(a=(0.3, 0.9, 9), b=(0.1 + 0.2, 0.9, 3)) == "b"
    assert best_of(a=(0.1 + 0.2, 0.9, 9), b=(0.3, 0.9, 3)) == "b"
    assert best_of(a=(None, 0.9, 1)) is None
    assert best_of() is None


def test_one_best_within_each_protocol_and_none_without_validation():
    rows = [row("a", (0.8, 0.9), 0.5), row("b", (0.7, 0.9), 0.5)]
    rows += [row("a", (0.1, 0.9), 0.5, IMAGE), row("b", (0.2, 0.9), 0.5, IMAGE)]
    table = comparison_table(rows)
    assert list(zip(table["protocol"], table["architecture"], table["is_best"], strict=True)) == [
        (SUBJECT, "a", True), (SUBJECT, "b", False), (IMAGE, "a", False), (IMAGE, "b", True),
    ]  # fmt: skip
    assert best(comparison_table([row("a", (None, None), 0.5)])) == []


def test_baselines_and_augmented_rows_are_never_the_best():
    better = row("b", (0.9, 0.9), 0.5)
    rows = [row("a", (0.7, 0.9), 0.5), {**better, "kind": "baseline"}, {**better, "tta": True}]
    assert comparison_table(rows)["is_best"].tolist() == [True, False, False]


def test_intervals_stand_beside_their_figures_and_absent_ones_are_nan():
    with_interval = row("a", (0.8, 0.9), 0.75)
    with_interval["metrics"]["sides"]["test"]["intervals"] = {"intervals": {"accuracy": [0.6, 0.85], "auroc": None}}
    table = comparison_table([with_interval, row("b", (0.8, 0.9), 0.5)])
    assert table.loc[0, ["test_accuracy_low", "test_accuracy_high"]].tolist() == [0.6, 0.85]
    assert math.isnan(table.loc[0, "test_auroc_low"])
    assert math.isnan(table.loc[1, "test_accuracy_low"])


def test_count_sides_counts_images_subjects_and_merged_groups():
    cells = [("a", "ALL", "20", "20+21", "train"), ("b", "ALL", "21", "20+21", "train"), ("c", "ALL", "5", "5", "test"),
             ("d", "HEM", "H1", "H1", "test"), ("e", "HEM", "H1", "H1", "test"), ("f", "HEM", "H2", "H2", None)]  # fmt: skip
    images = pd.DataFrame(cells, columns=["image", "label", "subject", "group", "side"])
    side = images.dropna(subset="side")
    manifest = Manifest(images.reindex(columns=list(MANIFEST_COLUMNS)), {"classes": ["HEM", "ALL"], "root": str(Path())})
    counts = count_sides(manifest, Splits(side.assign(fold=0)[["fold", "image", "side"]]))
    assert counts.to_numpy().tolist() == [
        ["train", "HEM", 0, 0, 0], ["train", "ALL", 2, 2, 1], ["validation", "HEM", 0, 0, 0],
        ["validation", "ALL", 0, 0, 0], ["test", "HEM", 2, 1, 1], ["test", "ALL", 1, 1, 1],
    ]  # fmt: skip
