from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from leukolens.errors import SettingsError
from leukolens.explanation.selection import chosen, with_margin
from leukolens.settings import MOST_IMAGES_EXPLAINED, ExplainSettings

CLASSES = ("HEM", "ALL")
# image, side, label, called, score of ALL; the threshold is 0.4.
ROWS = [
    ("a.bmp", "test", "ALL", "ALL", 0.45),
    ("b.bmp", "test", "HEM", "ALL", 0.95),
    ("c.bmp", "test", "HEM", "HEM", 0.38),
    ("d.bmp", "test", "ALL", "HEM", 0.08),
    ("e.bmp", "test", "ALL", "ALL", 0.90),
    ("f.bmp", "test", None, "ALL", 0.70),
    ("g.bmp", "validation", "HEM", "ALL", 0.99),
    ("h.bmp", "test", "HEM", "ALL", 0.50),
]


def table(rows: list[Any] | None = None) -> pd.DataFrame:
    frame = pd.DataFrame(ROWS if rows is None else rows, columns=["image", "side", "y_true", "y_pred", "y_score"])
    frame = frame.astype(dict.fromkeys(["image", "side", "y_true", "y_pred"], "string"))
    return with_margin(frame.assign(score_HEM=1 - frame["y_score"], score_ALL=frame["y_score"]), CLASSES, 0.4)


def reasons(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(rows["image"], rows["chosen_as"], strict=True))


def test_margin_is_the_distance_from_the_threshold() -> None:
    assert table()["margin"].tolist() == pytest.approx([0.05, 0.55, 0.02, 0.32, 0.50, 0.30, 0.59, 0.10])


def test_without_a_threshold_the_margin_is_to_the_second_best() -> None:
    frame = pd.DataFrame({"score_A": [0.2, 0.5], "score_B": [0.7, 0.1], "score_C": [0.1, 0.4], "y_score": [0.9, 0.5]})
    assert with_margin(frame, ("A", "B", "C"), None)["margin"].tolist() == pytest.approx([0.5, 0.1])


def test_surest_mistakes_are_a_third_and_the_rest_is_least_certain() -> None:
    rows = chosen(table(), ExplainSettings(count=6))
    # Of the mistakes on the test side (b, d and h) the two surest; then the four least certain of the others.
    assert reasons(rows) == [("c.bmp", "uncertain"), ("a.bmp", "uncertain"), ("h.bmp", "uncertain"), ("f.bmp", "uncertain"),
                             ("d.bmp", "mistake"), ("b.bmp", "mistake")]  # fmt: skip


def test_fewer_than_three_leave_no_room_for_mistakes() -> None:
    assert reasons(chosen(table(), ExplainSettings(count=2))) == [("c.bmp", "uncertain"), ("a.bmp", "uncertain")]


def test_an_image_is_chosen_once_and_without_a_label_it_is_no_mistake() -> None:
    rows = chosen(table(), ExplainSettings(count=100))
    assert sorted(rows["image"]) == ["a.bmp", "b.bmp", "c.bmp", "d.bmp", "e.bmp", "f.bmp", "h.bmp"]
    assert rows.set_index("image").loc["f.bmp", "chosen_as"] == "uncertain"
    assert rows["margin"].is_monotonic_increasing


def test_equal_margins_are_sorted_by_name() -> None:
    rows = [("z.bmp", "test", "ALL", "ALL", 0.5), ("y.bmp", "test", "ALL", "ALL", 0.5)]
    assert chosen(table(rows), ExplainSettings())["image"].tolist() == ["y.bmp", "z.bmp"]


def test_named_images_are_taken_from_any_side_however_many() -> None:
    rows = chosen(table(), ExplainSettings(images=("g.bmp", "[ab].bmp"), count=1))
    assert reasons(rows) == [("a.bmp", "named"), ("b.bmp", "named"), ("g.bmp", "named")]


def test_a_name_with_brackets_is_found_by_itself() -> None:
    rows = [("cell [1].bmp", "test", "ALL", "ALL", 0.5), ("cell 1.bmp", "test", "ALL", "ALL", 0.5)]
    assert chosen(table(rows), ExplainSettings(images=("cell [1].bmp",)))["image"].tolist() == ["cell 1.bmp", "cell [1].bmp"]


def test_a_name_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(SettingsError) as caught:
        chosen(table(), ExplainSettings(images=("a.bmp", "A.bmp")))
    assert str(caught.value) == (
        "No image to explain is called A.bmp.\n"
        "  expected: a path below the data's folder, or a pattern with * and ?, as in a.bmp\n"
        "  received: A.bmp, which fits none of 8 images\n"
        "  remedy:   correct --images; training images of a split are explained with --all only"
    )


def test_too_many_named_images_are_an_error() -> None:
    rows = [(f"{number}.bmp", "test", "ALL", "ALL", 0.5) for number in range(MOST_IMAGES_EXPLAINED + 1)]
    with pytest.raises(SettingsError) as caught:
        chosen(table(rows), ExplainSettings(images=("*",)))
    assert "expected: at most 200\n  received: 201, by *\n" in str(caught.value)


def test_no_test_image_is_an_error() -> None:
    with pytest.raises(SettingsError) as caught:
        chosen(table(ROWS[6:7]), ExplainSettings())
    assert "There is no test image to choose from." in str(caught.value)
    assert "received: 1 images of other sides" in str(caught.value)
