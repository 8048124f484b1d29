"""Accuracy by cell area, stain and format: worked by hand, with images that lack a value, over repeats."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from leukolens.evaluation.subgroups import quartile_names, subgroup_figures
from leukolens.settings import EvaluateSettings

RECORD = {"classes": ["HEM", "ALL"], "positive": ["ALL"], "decisions": []}
SETTINGS = EvaluateSettings(resamples=200)


def table_of(images: int, subjects: int | None = None, **columns) -> pd.DataFrame:
    """HEM and ALL in turn; every fourth image (0, 4, 8, …, all HEM) is called ALL."""
    number = np.arange(images)
    names = np.array(["HEM", "ALL"])
    predicted = np.where(number % 4 == 0, 1, number % 2)
    score = np.where(predicted, 0.9, 0.1)
    return pd.DataFrame({
        "image": [f"{row}.bmp" for row in number], "subject": None, "repeat": 0, "fold": 0, "side": "test",
        "group": [f"S{row % (subjects or images)}" for row in number], "y_true": names[number % 2],
        "y_pred": names[predicted], "score_HEM": 1 - score, "score_ALL": score,
    }).assign(**columns)  # fmt: skip


def test_hand_worked_quartiles():
    # Areas 1,000 to 16,000 in order of the rows: four images each.
    figures = subgroup_figures(table_of(16, area_px=np.arange(1, 17) * 1000.0), RECORD, SETTINGS)
    assert [entry["by"] for entry in figures] == ["cell area"] * 4
    assert [entry["name"] for entry in figures] == [
        "quartile 1: up to 4,750 px", "quartile 2: 4,750 to 8,500 px", "quartile 3: 8,500 to 12,200 px",
        "quartile 4: above 12,200 px",
    ]  # fmt: skip
    for entry in figures:
        assert (entry["images"], entry["groups"], entry["counts"]) == (4, 4, {"HEM": 2, "ALL": 2})
        assert entry["accuracy"] == 3 / 4
        assert entry["balanced_accuracy"] == 3 / 4
        assert entry["interval"] is None
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_stain_and_area_stand_side_by_side_and_one_class_has_no_balanced_accuracy():
    number = np.arange(16)
    table = table_of(16, area_px=number * 1.0, optical_density=np.where(number % 2, 0.4, 0.2) + number / 100)
    figures = subgroup_figures(table, RECORD, SETTINGS)
    assert [entry["by"] for entry in figures] == ["cell area"] * 4 + ["stain"] * 4
    stain = figures[4:]
    assert stain[0]["name"] == "quartile 1: optical density up to 0.275"
    # The pale half are all HEM; 0, 4 and 8, 12 of them are wrong.
    assert [entry["counts"]["ALL"] for entry in stain] == [0, 0, 4, 4]
    assert [entry["accuracy"] for entry in stain] == [0.5, 0.5, 1, 1]
    assert [entry["balanced_accuracy"] for entry in stain] == [None] * 4


def test_images_without_an_area_are_counted_apart():
    area = np.arange(1, 17) * 1000.0
    area[[0, 5]] = np.nan
    figures = subgroup_figures(table_of(16, area_px=area), RECORD, SETTINGS)
    assert [entry["name"] for entry in figures][4:] == ["not known"]
    assert figures[-1]["images"] == 2
    assert figures[-1]["accuracy"] == 1 / 2
    assert sum(entry["images"] for entry in figures) == 16


def test_nothing_to_compare_gives_no_entry():
    assert subgroup_figures(table_of(8), RECORD, SETTINGS) == []
    same = table_of(8, area_px=np.nan, optical_density=0.3, format="BMP")
    assert subgroup_figures(same, RECORD, SETTINGS) == []
    assert subgroup_figures(same.assign(format=["BMP", None] * 4), RECORD, SETTINGS) == []


def test_one_quartile_for_nearly_all_is_nothing_to_compare():
    # Smear fields: the canvas is full but for three. All three edges are 50,176, and nothing lies above.
    area = np.full(16, 50_176.0)
    area[:3] = [41_000, 42_000, 43_000]
    assert subgroup_figures(table_of(16, area_px=area), RECORD, SETTINGS) == []
    area[4] = np.nan
    assert subgroup_figures(table_of(16, area_px=area), RECORD, SETTINGS) == []


def test_formats_are_told_apart():
    table = table_of(16, format=["PNG"] * 4 + ["BMP"] * 10 + [None] * 2)
    figures = subgroup_figures(table, RECORD, SETTINGS)
    assert [(entry["by"], entry["name"], entry["images"]) for entry in figures] == [
        ("image format", "BMP", 10), ("image format", "PNG", 4), ("image format", "not known", 2)]  # fmt: skip
    assert figures[1]["accuracy"] == 3 / 4


def test_ties_belong_to_one_quartile():
    figures = subgroup_figures(table_of(16, area_px=[5.0] * 9 + [7.0] * 5 + [9.0] * 2), RECORD, SETTINGS)
    # Edges 5, 5, 7: the second quartile is empty.
    assert [(entry["name"], entry["images"]) for entry in figures] == [
        ("quartile 1: up to 5 px", 9), ("quartile 3: 5 to 7 px", 5), ("quartile 4: above 7 px", 2)]  # fmt: skip


def test_only_the_first_repeat_is_measured():
    first = table_of(16, area_px=np.arange(16.0))
    second = first.assign(repeat=1, y_pred=first["y_true"])
    assert subgroup_figures(pd.concat([second, first]), RECORD, SETTINGS) == subgroup_figures(first, RECORD, SETTINGS)


def test_enough_groups_give_an_interval_round_the_accuracy():
    random = np.random.default_rng(0)
    table = table_of(2400, subjects=60, area_px=random.uniform(1000, 5000, 2400))
    figures = subgroup_figures(table, RECORD, SETTINGS)
    for entry in figures:
        low, high = entry["interval"]
        assert low < entry["accuracy"] < high
        assert 0.02 < high - low < 0.5
    assert subgroup_figures(table, RECORD, SETTINGS) == figures
    strict = EvaluateSettings(resamples=200, minimum_groups=31)
    assert all(entry["interval"] is None for entry in subgroup_figures(table, RECORD, strict))


def test_subjects_that_are_right_or_wrong_as_a_whole_widen_the_interval():
    random = np.random.default_rng(1)
    number = np.arange(2400)
    names = np.array(["HEM", "ALL"])
    wrong = {"subject": (number % 60) % 8 < 2, "image": random.permutation(number % 8 < 2)}
    width = {}
    for unit, flags in wrong.items():
        predicted = names[np.where(flags, 1 - number % 2, number % 2)]
        table = table_of(2400, subjects=60, format=np.where(number < 1200, "BMP", "PNG"), y_pred=predicted)
        low, high = subgroup_figures(table, RECORD, SETTINGS)[0]["interval"]
        width[unit] = high - low
    # 60 groups in place of 1,200 images: about the square root of 20 times as wide.
    assert width["subject"] > 3 * width["image"]


@pytest.mark.parametrize(
    ("edges", "before", "after", "names"),
    [
        ([24213.4, 30000.0, 36244.0], "", " px", ["up to 24,200 px", "24,200 to 30,000 px", "30,000 to 36,200 px",
                                                  "above 36,200 px"]),
        ([0.3142, 0.3144, 0.4], "optical density ", "", ["optical density up to 0.3142", "optical density 0.3142 to 0.3144",
                                                        "optical density 0.3144 to 0.4", "optical density above 0.4"]),
        ([5.0, 5.0, 7.0], "", " px", ["up to 5 px", "5 to 5 px", "5 to 7 px", "above 7 px"]),
    ],
)  # fmt: skip
def test_names_have_as_few_digits_as_tell_the_edges_apart(edges, before, after, names):
    assert quartile_names(edges, before, after) == [f"quartile {number}: {name}" for number, name in enumerate(names, 1)]
