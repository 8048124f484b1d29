"""Temperature: cases worked by hand, a known one found again, and the sides that allow none."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from decision.decision_examples import validation
from leukolens.decision.temperature import fit_temperature, probabilities


def test_probabilities_by_hand():
    # exp(2/2) = e against exp(0) = 1.
    np.testing.assert_allclose(probabilities(np.array([[0.0, 2.0]]), 2.0), [[1 / (1 + np.e), np.e / (1 + np.e)]])
    np.testing.assert_allclose(probabilities(np.array([[0.0, 2000.0]]), 1.0), [[0.0, 1.0]])


def test_half_right_by_hand():
    # Eight images of each class, all with a margin of 2, six of eight on the right side. Softened, an image is right with
    # 9/10 or wrong with 1/10: (6 * 0.9 + 2 * 0.1) / 8 = 0.7, which a margin of 2 / T gives at T = 2 / ln(0.7 / 0.3).
    logits = [-2.0] * 6 + [2.0] * 2 + [2.0] * 6 + [-2.0] * 2
    fitted = fit_temperature(validation([0] * 8 + [1] * 8, logits))
    assert fitted == pytest.approx(2 / np.log(7 / 3), rel=1e-4)


def test_wholly_separated_classes_do_not_call_for_certainty():
    # All right with a margin of 10: the softened labels say 0.9, so T = 10 / ln 9; without softening T would be 0.
    fitted = fit_temperature(validation([0] * 8 + [1] * 8, [-10.0] * 8 + [10.0] * 8))
    assert fitted == pytest.approx(10 / np.log(9), rel=1e-4)


@pytest.mark.parametrize("known", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found_again(known):
    rng = np.random.default_rng(7)
    logits = rng.normal(0, 2, (8000, 3))
    y_true = [rng.choice(3, p=row) for row in softmax(logits, axis=1)]
    fitted = fit_temperature(validation(y_true, logits * known, classes=("a", "b", "c"), positive=()))
    assert fitted == pytest.approx(known, rel=0.05)


def test_logarithms_of_probabilities_do_as_well_as_logits():
    rng = np.random.default_rng(3)
    margins = rng.normal(0, 4, 200)
    y_true = (rng.random(200) < expit(margins / 2)).astype(int)
    logits = validation(y_true, margins).logits
    of_scores = validation(y_true, np.log(softmax(logits, axis=1)))
    assert fit_temperature(of_scores) == pytest.approx(fit_temperature(validation(y_true, margins)), rel=1e-6)


def test_one_class_or_scores_that_say_nothing_leave_it_at_1():
    assert fit_temperature(validation([1, 1, 1], [3.0, 2.0, -1.0])) == 1.0
    assert fit_temperature(validation([0, 1, 1], [0.0, 0.0, 0.0])) == 1.0
