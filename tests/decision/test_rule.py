"""The rule: what is answered and refused, in which words, and that its record gives the same answers."""

import json

import numpy as np
import pytest

from decision.decision_examples import validation, validation_of_scores
from leukolens.decision.conformal import Conformal
from leukolens.decision.rule import Answers, Decision, fit_decision
from leukolens.decision.threshold import Threshold
from leukolens.errors import ArtifactError
from leukolens.settings import DecisionSettings

CLASSES = ("a", "b", "c")


def decision(threshold=0.5, quantile=0.3, classes=("HEM", "ALL"), positive=("ALL",)):
    """A rule with one calibration score, `quantile`, at any alpha of one half or more."""
    chosen = None if threshold is None else Threshold(threshold, "balanced_accuracy", None, 0.9)
    conformal = Conformal(np.array([quantile]), np.array([0.5]), 1)
    return Decision(2.0, chosen, conformal, classes, positive, 1, 1)


def fitted(**options):
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 2, 90)
    margins = rng.normal(2 * (2 * y_true - 1), 2)
    return fit_decision(validation(y_true, margins, groups=[str(row % 30) for row in range(90)]), DecisionSettings(**options))


def test_answers_by_hand():
    # Margins of 2 ln 9 and 2 ln (2/3) at a temperature of 2: probabilities 0.9 and 0.4.
    logits = np.array([[0.0, 2 * np.log(9)], [0.0, 2 * np.log(2 / 3)]])
    answers = decision(threshold=0.3).apply(logits)
    np.testing.assert_allclose(answers.probabilities, [[0.1, 0.9], [0.6, 0.4]])
    assert answers.y_pred.tolist() == [1, 1]
    assert decision(threshold=0.5).apply(logits).y_pred.tolist() == [1, 0]
    assert decision(threshold=None).apply(logits).y_pred.tolist() == [1, 0]


def test_a_score_at_the_threshold_is_positive_whichever_column_is():
    scores = np.array([[0.75, 0.25], [0.7, 0.3]])
    assert decision(threshold=0.25).predicted(scores).tolist() == [1, 1]
    assert decision(threshold=0.75, positive=("HEM",)).predicted(scores).tolist() == [0, 1]


def test_three_classes_are_answered_by_the_highest_score():
    rule = decision(threshold=None, classes=CLASSES, positive=("b", "c"))
    scores = np.array([[0.4, 0.3, 0.3], [0.2, 0.1, 0.7]])
    assert rule.predicted(scores).tolist() == [0, 2]
    columns = Answers(scores, rule.predicted(scores)).columns(CLASSES, ("b", "c"))
    assert list(columns) == ["y_pred", "y_score", "score_a", "score_b", "score_c"]
    assert columns["y_pred"].tolist() == ["a", "c"]
    np.testing.assert_allclose(columns["y_score"], [0.6, 0.8])
    assert columns["score_c"].tolist() == [0.3, 0.7]


def test_columns_without_a_positive_class_have_no_score_of_it():
    columns = Answers(np.array([[0.25, 0.75]]), np.array([1])).columns(["HEM", "ALL"], [])
    assert np.isnan(columns["y_score"]).tolist() == [True]
    assert columns["y_pred"].tolist() == ["ALL"]


def test_several_positive_classes_never_score_above_one():
    scores = np.array([[0.0, 0.6, 0.4 + 1e-7]])
    assert Answers(scores, np.array([1])).columns(CLASSES, ("b", "c"))["y_score"].tolist() == [1.0]


def test_the_entry_names_fold_temperature_and_threshold():
    assert decision(threshold=0.3).entry(repeat=2, fold=1) == {
        "repeat": 2, "fold": 1, "temperature": 2.0, "threshold": 0.3, "aim": "balanced_accuracy", "sensitivity": None,
    }  # fmt: skip
    without = decision(threshold=None).entry(0, 0)
    assert (without["threshold"], without["aim"], without["sensitivity"]) == (None, None, None)


def test_refusals_word_by_word():
    scores = np.array([[0.1, 0.9], [0.5, 0.5], [0.1, 0.9]])
    assert decision(quantile=0.3).refusals(scores, np.array([0.2, 0.3, 1.1]), 0.5) == [
        None,
        "uncertain: no class fits",
        "unlike the training images",
    ]
    assert decision(quantile=0.6).refusals(scores, np.array([0.2, 1.0, 1.1]), 0.5) == [
        None,
        "uncertain: HEM or ALL",
        "unlike the training images",
    ]
    assert decision(quantile=0.3).refusals(scores, None, 0.5) == [None, "uncertain: no class fits", None]


def test_caution_names_the_least_share_that_the_groups_allow():
    assert decision().caution(0.5) is None
    assert decision().caution(0.1) == (
        "No image is answered: 0.1 wrong takes 9 subject groups in validation, which had 1; with these, 0.5 is the least."
    )


def test_refusals_of_three_classes():
    rule = decision(threshold=None, quantile=0.8, classes=CLASSES)
    scores = np.array([[0.3, 0.3, 0.4], [0.1, 0.45, 0.45], [0.15, 0.15, 0.7]])
    assert rule.refusals(scores, None, 0.5) == ["uncertain: a, b or c", "uncertain: b or c", None]


def test_an_answer_never_contradicts_its_set():
    # The set holds HEM alone; a threshold of 0.2 says ALL: neither is given.
    assert decision(threshold=0.2).refusals(np.array([[0.75, 0.25]]), None, 0.5) == ["uncertain: HEM or ALL"]


def test_too_few_subjects_leave_every_image_uncertain():
    assert decision().refusals(np.array([[0.001, 0.999]]), None, 0.1) == ["uncertain: HEM or ALL"]


@pytest.mark.parametrize("options", [{}, {"aim": "sensitivity", "sensitivity": 0.9}])
def test_the_record_gives_the_same_answers(options):
    rule = fitted(**options)
    text = json.dumps(rule.to_record(), allow_nan=False)
    again = Decision.from_record({**json.loads(text), "settings": {}, "hash": "beside it"})
    assert again.to_record() == rule.to_record()
    logits = np.random.default_rng(1).normal(0, 3, (50, 2))
    ours, theirs = rule.apply(logits), again.apply(logits)
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
    np.testing.assert_array_equal(ours.y_pred, theirs.y_pred)
    assert rule.refusals(ours.probabilities, None, 0.1) == again.refusals(ours.probabilities, None, 0.1)
    assert set(rule.refusals(ours.probabilities, None, 0.1)) >= {None}


def test_the_record_of_three_classes_has_no_threshold():
    rule = fit_decision(validation([0, 1, 2] * 5, np.tile(np.eye(3), (5, 1)), None, CLASSES, ("c",)), DecisionSettings())
    record = json.loads(json.dumps(rule.to_record()))
    assert record["threshold"] is None
    assert Decision.from_record(record).threshold is None


def test_fitting_counts_images_and_groups():
    rule = fitted()
    assert (rule.validation_images, rule.validation_groups, rule.conformal.groups, rule.notes) == (90, 30, 30, ())


def test_the_threshold_is_on_calibrated_scores():
    y_true, scores = [0, 0, 0, 1, 1, 1], [0.01, 0.02, 0.6, 0.4, 0.98, 0.99]
    rule = fit_decision(validation_of_scores(y_true, scores), DecisionSettings(aim="sensitivity", sensitivity=0.99))
    answers = rule.apply(validation_of_scores(y_true, scores).logits)
    assert rule.temperature != 1
    assert answers.y_pred.tolist() == [0, 0, 1, 1, 1, 1]
    assert rule.threshold.reached == 1.0


def test_one_class_only_is_recorded():
    rule = fit_decision(validation([1, 1], [2.0, -2.0], groups="AB"), DecisionSettings())
    assert (rule.temperature, rule.threshold) == (1.0, Threshold(0.5, "balanced_accuracy", None, None))
    assert rule.notes == ("The temperature stays 1 and a threshold 0.5: the 2 validation images are all of class ALL.",)


def test_unknown_subjects_are_recorded():
    rule = fit_decision(validation([0, 1, 1], [-1.0, 1.0, 2.0], groups=["A", None, None]), DecisionSettings())
    assert rule.validation_groups == 3
    assert rule.notes == (
        "The subject of 2 of 3 validation images is unknown: each counts as a subject of its own, and the prediction sets "
        "promise nothing for new subjects.",
    )


def test_a_temperature_at_the_end_of_its_range_is_recorded():
    # Every image on the wrong side: no temperature is high enough.
    rule = fit_decision(validation([0, 1] * 20, [5.0, -5.0] * 20, groups="A" * 40), DecisionSettings())
    assert rule.temperature == pytest.approx(20, rel=1e-3)
    assert rule.notes == ("The temperature stands at the end of its range, 20: do not read scores as chances.",)


def test_a_record_of_something_else_is_refused():
    with pytest.raises(ArtifactError) as raised:
        Decision.from_record({"temperature": 1.0})
    assert str(raised.value) == (
        "The record of the decision cannot be used.\n"
        "  expected: temperature, threshold, classes, positive and prediction-set scores, written by leukolens\n"
        "  received: KeyError: 'conformal'\n"
        "  remedy:   run `leukolens train` again on this run"
    )
