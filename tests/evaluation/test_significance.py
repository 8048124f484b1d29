"""Holm's adjustment and DeLong's test against published examples, statsmodels and the definitions written out."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from leukolens.errors import ArtifactError
from leukolens.evaluation.significance import AreaComponents, delong, delong_test, holm


@pytest.mark.parametrize("seed", range(5))
def test_holm_agrees_with_statsmodels(seed):
    random = np.random.default_rng(seed)
    p = np.round(random.uniform(size=10) ** 3, 2)  # rounded: ties occur
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist())


def test_holm_by_hand():
    # 0.01 * 4; 0.02 * 3; 0.03 * 2 = 0.06; 0.04 * 1 rises to the 0.06 before it. In the order given.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_delong_agrees_with_proc_on_the_example_of_draelos():
    # Draelos 2020, "Comparing AUCs of machine learning models with DeLong's test": output of pROC's roc.test there.
    truth = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1], bool)
    a = np.array([0.1, 0.2, 0.05, 0.3, 0.1, 0.6, 0.6, 0.7, 0.8, 0.99, 0.8, 0.67, 0.5])
    b = np.array([0.3, 0.6, 0.2, 0.1, 0.1, 0.9, 0.23, 0.7, 0.9, 0.4, 0.77, 0.3, 0.89])
    area_a, area_b, z, p = delong(truth, a, b)
    assert round(area_a, 7) == 0.9642857
    assert round(area_b, 7) == 0.7380952
    assert round(z, 3) == 1.672
    assert round(p, 5) == 0.09453


def test_delong_by_hand():
    # a separates (no variance). b: shares of the negatives below each positive are 0, 1, 1 (variance 1/3, over 3
    # images 1/9); shares of the positives above each negative are 2/3 and 2/3. z = (1 - 2/3) / sqrt(1/9) = 1.
    truth = np.array([False, False, True, True, True])
    found = delong(truth, np.array([0.1, 0.2, 0.6, 0.7, 0.8]), np.array([0.3, 0.6, 0.2, 0.7, 0.9]))
    assert found == pytest.approx((1.0, 2 / 3, 1.0, 2 * stats.norm.sf(1)))


@pytest.mark.parametrize("seed", range(4))
def test_delong_agrees_with_its_definition_and_scikit_learn(seed):
    random = np.random.default_rng(seed)
    truth = np.arange(60) % 3 == 0
    a = np.round(random.normal(size=60) + truth, 1)  # rounded: ties occur
    b = np.round(random.normal(size=60) + 0.4 * truth + 0.5 * a, 1)
    area_a, area_b, z, p = delong(truth, a, b)
    assert (area_a, area_b) == pytest.approx((roc_auc_score(truth, a), roc_auc_score(truth, b)))
    expected = _z_by_double_loop(truth, a, b)
    assert z == pytest.approx(expected)
    assert p == pytest.approx(2 * stats.norm.sf(abs(expected)))


def test_delong_without_variance_gives_the_limits():
    truth = np.array([False, False, True, True])
    score = np.array([0.1, 0.2, 0.8, 0.9])
    assert delong(truth, score, score) == (1.0, 1.0, 0.0, 1.0)
    assert delong(truth, score, 1 - score) == (1.0, 0.0, math.inf, 0.0)
    assert delong(truth, 1 - score, score) == (0.0, 1.0, -math.inf, 0.0)


def test_components_average_to_the_area_from_either_side():
    random = np.random.default_rng(7)
    truth, score = random.uniform(size=50) < 0.4, random.integers(0, 9, 50) / 8
    components = AreaComponents.of(truth, score)
    assert components.of_positives.mean() == pytest.approx(components.of_negatives.mean())
    assert delong_test(components, components) == (0.0, 1.0)


def test_delong_needs_two_of_each():
    truth = np.array([True, False, False])
    with pytest.raises(ArtifactError) as caught:
        delong(truth, np.array([0.9, 0.2, 0.3]), np.array([0.8, 0.1, 0.3]))
    assert str(caught.value) == (
        "DeLong's test has no variance to go by.\n"
        "  expected: at least 2 positive and 2 negative images\n"
        "  received: 1 positive and 2 negative\n"
        "  remedy:   compare on more images, or leave this test out"
    )


def _z_by_double_loop(truth, a, b):
    """z of DeLong, DeLong & Clarke-Pearson (1988), equations 2 to 5, pair by pair."""
    positives, negatives = np.flatnonzero(truth), np.flatnonzero(~truth)
    wins = {}
    for name, score in (("a", a), ("b", b)):
        for i, j in product(positives, negatives):
            wins[name, i, j] = 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
    v10 = [[np.mean([wins[name, i, j] for j in negatives]) for i in positives] for name in "ab"]
    v01 = [[np.mean([wins[name, i, j] for i in positives]) for j in negatives] for name in "ab"]
    covariance = np.cov(v10) / len(positives) + np.cov(v01) / len(negatives)
    contrast = np.array([1, -1])
    return (np.mean(v10[0]) - np.mean(v10[1])) / math.sqrt(contrast @ covariance @ contrast)
