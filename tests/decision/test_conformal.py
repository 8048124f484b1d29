"""Prediction sets: weights by hand, parity with MAPIE, and coverage of new subjects in a simulation."""

import math

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from decision.decision_examples import validation, validation_of_scores
from leukolens.decision.conformal import Conformal, fit_conformal, groups_needed
from leukolens.decision.temperature import probabilities


class FixedScores(ClassifierMixin, BaseEstimator):
    """A classifier whose features are its probabilities."""

    def __init__(self):
        self.classes_ = np.arange(3)

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, features, labels):
        return self

    def predict_proba(self, features):
        return features

    def predict(self, features):
        return features.argmax(axis=1)


def by_hand():
    # Group A has two images, B and C one; the true class (ALL) got 1 - 0.5, 1 - 0.1, 1 - 0.2 and 1 - 0.4.
    return fit_conformal(validation_of_scores([1] * 4, [0.5, 0.9, 0.8, 0.6], groups="AABC"), 1.0)


def test_weights_by_hand():
    conformal = by_hand()
    np.testing.assert_allclose(conformal.scores, [0.1, 0.2, 0.4, 0.5])
    np.testing.assert_allclose(conformal.weights, [1 / 8, 1 / 4, 1 / 4, 1 / 8])
    assert conformal.groups == 3


@pytest.mark.parametrize(("alpha", "expected"), [(0.9, 0.1), (0.7, 0.2), (0.5, 0.4), (0.25, 0.5), (0.2, math.inf)])
def test_quantiles_by_hand(alpha, expected):
    # Weights from below: 1/8, 3/8, 5/8, 6/8; the last quarter lies at infinity.
    assert by_hand().quantile(alpha) == pytest.approx(expected)


def test_sets_by_hand():
    scores = np.array([[0.3, 0.7], [0.55, 0.45], [0.5, 0.5]])
    assert by_hand().prediction_sets(scores, 0.25).tolist() == [[False, True], [True, False], [True, True]]
    assert by_hand().prediction_sets(scores, 0.5).tolist() == [[False, True], [False, False], [False, False]]
    assert by_hand().prediction_sets(scores, 0.2).all()


def test_a_set_may_be_empty():
    conformal = Conformal(np.array([0.1]), np.array([0.5]), 1)
    assert not conformal.prediction_sets(np.array([[0.6, 0.4]]), 0.5).any()


@pytest.mark.parametrize(("alpha", "groups"), [(0.05, 19), (0.1, 9), (0.2, 4), (0.3, 3), (0.01, 99), (0.4, 2)])
def test_groups_needed_is_where_the_quantile_becomes_finite(alpha, groups):
    def quantile(count):
        return fit_conformal(validation([1] * count, [1.0] * count), 1.0).quantile(alpha)

    assert groups_needed(alpha) == groups
    assert math.isfinite(quantile(groups))
    assert math.isinf(quantile(groups - 1))


def test_one_group_is_enough_for_no_small_alpha():
    conformal = fit_conformal(validation([0, 1], [-3.0, 3.0], groups="AA"), 1.0)
    assert conformal.groups == 1
    assert conformal.prediction_sets(np.array([[0.999, 0.001]]), 0.1).all()


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_groups_of_one_image_agree_with_mapie(alpha):
    rng = np.random.default_rng(11)
    scores, new = rng.dirichlet([1.0, 1.0, 2.0], 83), rng.dirichlet([1.0, 1.0, 2.0], 400)
    y_true = np.array([rng.choice(3, p=row) for row in scores])
    reference = SplitConformalClassifier(FixedScores(), confidence_level=1 - alpha, conformity_score="lac", prefit=True)
    _, expected = reference.conformalize(scores, y_true).predict_set(new)

    groups = [f"subject {row}" for row in range(83)]
    ours = fit_conformal(validation(y_true, np.log(scores), groups, ("a", "b", "c"), ()), 1.0)
    np.testing.assert_array_equal(ours.prediction_sets(new, alpha), expected[:, :, 0])


def test_temperature_changes_no_set_of_two_classes():
    rng = np.random.default_rng(5)
    fitted_on = validation(rng.integers(0, 2, 60), rng.normal(0, 2, 60), groups=[str(row % 15) for row in range(60)])
    new = np.stack([np.zeros(41), np.linspace(-5, 5, 41)], axis=1)
    raw, cooled = (
        fit_conformal(fitted_on, temperature).prediction_sets(probabilities(new, temperature), 0.1)
        for temperature in (1.0, 2.5)
    )
    np.testing.assert_array_equal(raw, cooled)
    assert 0 < raw.sum() < raw.size


def test_coverage_of_new_subjects():
    """Nine subjects of 1 to 30 images with strong effects: ours holds 90 %, the quantile over images does not."""
    rng, alpha, trials = np.random.default_rng(2), 0.1, 4000
    covered = {"by subject": 0, "by image": 0}
    for _ in range(trials):
        effects, sizes = rng.normal(0, 2, 10), rng.integers(1, 31, 9)
        groups = np.repeat(np.arange(9), sizes)
        margins = effects[groups] + rng.normal(0, 0.5, len(groups))
        new = 1 / (1 + np.exp(-(effects[9] + rng.normal(0, 0.5))))
        for name, subjects in (("by subject", groups.astype(str)), ("by image", None)):
            conformal = fit_conformal(validation(np.ones(len(groups)), margins, subjects), 1.0)
            covered[name] += bool(conformal.prediction_sets(np.array([[1 - new, new]]), alpha)[0, 1])
    error = math.sqrt(alpha * (1 - alpha) / trials)
    assert covered["by subject"] / trials > 1 - alpha - 2.5 * error
    assert covered["by image"] / trials < 1 - alpha - 5 * error
