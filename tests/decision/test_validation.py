"""The door: nothing but validation rows passes, and whoever is turned away is named."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from leukolens.decision.validation import ValidationScores, log_scores
from leukolens.errors import ArtifactError, LeakError

RECORD = {"classes": ["HEM", "ALL"], "positive": ["ALL"]}


def table(**columns):
    rows = {
        "image": ["a.bmp", "b.bmp", "c.bmp"],
        "group": ["1+2", pd.NA, "1+2"],
        "side": ["validation"] * 3,
        "y_true": ["HEM", "ALL", "ALL"],
        "score_HEM": [0.75, 0.0, 0.5],
        "score_ALL": [0.25, 1.0, 0.5],
    }
    return pd.DataFrame({**rows, **columns})


def test_of_table_takes_logarithms_and_positions():
    scores = ValidationScores.of_table(table(), RECORD)
    assert scores.classes == ("HEM", "ALL")
    assert scores.y_true.tolist() == [0, 1, 1]
    assert scores.groups == ("1+2", None, "1+2")
    assert scores.positive_positions == [1]
    np.testing.assert_allclose(scores.logits, np.log([[0.75, 0.25], [1e-12, 1.0], [0.5, 0.5]]))
    assert scores.lack is None


def test_of_rows_takes_the_logits_as_they_are():
    logits = np.array([[1, 2], [3, 5], [-1, 0]], dtype=np.float32)
    scores = ValidationScores.of_rows(table(), logits, ["HEM", "ALL"], ["ALL"])
    assert scores.logits.dtype == np.float64 and scores.logits.tolist() == logits.tolist()
    assert (scores.classes, scores.positive) == (("HEM", "ALL"), ("ALL",))
    assert scores.y_true.tolist() == [0, 1, 1]
    assert scores.groups == ("1+2", None, "1+2")
    assert scores.images == ("a.bmp", "b.bmp", "c.bmp")


def test_of_rows_is_no_way_around_the_door():
    with pytest.raises(LeakError, match=r"^c\.bmp is not a validation image: nothing may be fitted on it\."):
        ValidationScores.of_rows(table(side=["validation", "validation", "test"]), np.zeros((3, 2)), ["HEM", "ALL"], [])


def test_logarithms_of_scores_are_finite():
    assert log_scores(np.array([0.0, 0.5, 1.0])).tolist() == pytest.approx([12 * np.log(0.1), np.log(0.5), 0.0])


def test_images_of_unknown_subjects_are_groups_of_their_own():
    scores = ValidationScores.of_table(table(group=["1", None, None]), RECORD)
    assert scores.clusters.tolist() == [0, 1, 2]
    assert ValidationScores.of_table(table(), RECORD).clusters.tolist() == [0, 1, 0]


def test_a_test_row_is_refused_by_name():
    with pytest.raises(LeakError) as raised:
        ValidationScores.of_table(table(side=["validation", "test", "train"]), RECORD)
    assert str(raised.value) == (
        "b.bmp is not a validation image: nothing may be fitted on it.\n"
        "  expected: rows of the side validation only, for temperature, threshold and prediction sets\n"
        "  received: side test, and 1 more rows that are not validation\n"
        '  remedy:   pass the validation rows: table[table["side"] == "validation"]'
    )


def test_the_bare_constructor_is_no_way_around_the_door():
    arguments = (("HEM", "ALL"), ("ALL",), np.array([0, 1]), np.zeros((2, 2)), ("1", "2"))
    ValidationScores(*arguments, sides=("validation", "validation"))
    with pytest.raises(LeakError, match=r"^Row 1 is not a validation image: nothing may be fitted on it\."):
        ValidationScores(*arguments, sides=("validation", "test"))
    allowed = ValidationScores(*arguments, sides=("validation", "validation"))
    with pytest.raises(LeakError, match=r"^Row 0 is not a validation image"):
        dataclasses.replace(allowed, sides=("test", "test"))


def test_a_side_for_every_row_is_needed():
    with pytest.raises(ArtifactError, match=r"2 classes, logits \[2, 2\], 2 groups, 1 sides"):
        ValidationScores(("HEM", "ALL"), (), np.array([0, 1]), np.zeros((2, 2)), ("1", "2"), sides=("validation",))


def test_no_rows_are_refused():
    with pytest.raises(ArtifactError, match="at least one image"):
        ValidationScores.of_table(table().iloc[:0], RECORD)


@pytest.mark.parametrize("wrong", [{"y_true": ["HEM", "Blast", "ALL"]}, {"score_ALL": [0.25, np.nan, 0.5]}])
def test_rows_that_say_nothing_are_named(wrong):
    with pytest.raises(ArtifactError, match=r"^b\.bmp cannot be used to fit anything\."):
        ValidationScores.of_table(table(**wrong), RECORD)


def test_one_class_only_is_said():
    scores = ValidationScores.of_table(table(y_true=["ALL"] * 3), RECORD)
    assert scores.lack == "the 3 validation images are all of class ALL"
