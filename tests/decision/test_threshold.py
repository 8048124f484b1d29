"""Threshold: cases worked by hand for both aims, ties, and the sides that allow none."""

import numpy as np
import pytest

from decision.decision_examples import validation, validation_of_scores
from leukolens.decision.threshold import Threshold, choose_threshold, positive_probability
from leukolens.settings import DecisionSettings

BALANCED = DecisionSettings()
Y_TRUE = [1, 1, 1, 0, 0, 0, 0]
SCORES = [0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1]


def at_least(sensitivity):
    return DecisionSettings(aim="sensitivity", sensitivity=sensitivity)


def chosen(y_true, scores, settings, temperature=1.0):
    return choose_threshold(validation_of_scores(y_true, scores), temperature, settings)


def test_balanced_accuracy_by_hand():
    # At 0.35 every ALL and 3 of 4 HEM are right, (1 + 0.75) / 2; at 0.75 only 2 of 3 ALL, (0.667 + 1) / 2.
    threshold = chosen(Y_TRUE, SCORES, BALANCED)
    assert threshold == Threshold(pytest.approx(0.35), "balanced_accuracy", None, 0.875)


@pytest.mark.parametrize(("wished", "value", "reached"), [(0.6, 0.75, 2 / 3), (0.9, 0.35, 1.0), (0.3, 0.75, 2 / 3)])
def test_least_sensitivity_by_hand(wished, value, reached):
    # Specificity 1 needs a threshold above 0.7: 2 of 3 ALL remain. With 0.3 wished, 0.85 (1 of 3) would be as specific.
    threshold = chosen(Y_TRUE, SCORES, at_least(wished))
    assert threshold == Threshold(pytest.approx(value), "sensitivity", wished, pytest.approx(reached))


def test_nine_of_ten_reach_a_sensitivity_of_nine_tenths():
    scores = [0.2, *np.linspace(0.6, 0.9, 9), 0.3, 0.4]
    threshold = chosen([1] * 10 + [0] * 2, scores, at_least(0.9))
    assert (threshold.value, threshold.reached) == (pytest.approx(0.5), 0.9)


def test_any_sensitivity_is_reached_by_calling_all_positive():
    threshold = chosen([1, 0], [0.02, 0.9], at_least(0.99))
    assert (threshold.value, threshold.reached) == (pytest.approx(0.01), 1.0)


@pytest.mark.parametrize(("scores", "value"), [([0.95, 0.6, 0.7, 0.1], 0.35), ([0.8, 0.2, 0.3, 0.1], 0.55)])
def test_ties_go_to_the_value_nearest_to_one_half(scores, value):
    # Both candidates miss one image: 0.35 or 0.825, and 0.15 or 0.55.
    assert chosen([1, 1, 0, 0], scores, BALANCED).value == pytest.approx(value)


def test_the_temperature_comes_first():
    # A margin of ln 9 is 0.9 at T = 1 and 0.75 at T = 2; its negative 0.1 and 0.25; the midpoint stays, 0.5.
    threshold = chosen([1, 1, 0], [0.9, 0.9, 0.5], BALANCED, temperature=2.0)
    assert threshold.value == pytest.approx((0.75 + 0.5) / 2)


def test_scores_of_exactly_0_and_1_have_a_midpoint():
    threshold = choose_threshold(validation([0, 0, 1], [-800.0, -800.0, 800.0]), 1.0, BALANCED)
    assert threshold == Threshold(0.5, "balanced_accuracy", None, 1.0)


@pytest.mark.parametrize("constant", [0.3, 0.7])
def test_equal_scores_are_answered_as_at_one_half(constant):
    value = chosen([0, 1, 1], [constant] * 3, BALANCED).value
    assert (constant >= value) == (constant >= 0.5)


def test_one_class_only_leaves_one_half_unfitted():
    assert chosen([1, 1], [0.4, 0.3], at_least(0.95)) == Threshold(0.5, "sensitivity", 0.95, None)


def test_no_threshold_with_three_classes_or_no_positive_one():
    three = validation([0, 1, 2], np.eye(3), classes=("a", "b", "c"), positive=("c",))
    assert choose_threshold(three, 1.0, BALANCED) is None
    assert choose_threshold(validation([0, 1], [-1.0, 1.0], positive=()), 1.0, BALANCED) is None


def test_probability_of_several_positive_classes_is_their_sum():
    scores = np.array([[0.2, 0.5, 0.3], [0.0, 0.5, 0.5 + 1e-16]])
    np.testing.assert_allclose(positive_probability(scores, [1, 2]), [0.8, 1.0])
