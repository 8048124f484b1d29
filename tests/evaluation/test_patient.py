from __future__ import annotations

import numpy as np
import pytest

from leukolens.decision.threshold import OperatingPoint, OperatingPoints
from leukolens.evaluation.patient import ErrorRates, corrected_interval, corrected_share, summarise_patient

RATES = ErrorRates(sensitivity=0.9, specificity=0.8, positives=100, negatives=50)
POINTS = OperatingPoints(
    100, 50, (OperatingPoint(0.4, 0.95, 0.6), OperatingPoint(0.5, 0.9, 0.8), OperatingPoint(0.6, 0.5, 0.5))
)


def test_share_and_wilsons_interval_are_those_worked_out_by_hand() -> None:
    found = summarise_patient([0.9] * 7 + [0.1] * 3, 0.5, POINTS)
    assert (found.answered, found.positive, found.share) == (10, 7, 0.7)
    # z = 1.95996: (0.7 + 0.19207 ± 1.95996 sqrt(0.021 + 0.0096036)) / 1.384146
    assert found.interval == pytest.approx((0.3968, 0.8922), abs=1e-4)
    assert (found.sensitivity, found.specificity) == (0.9, 0.8)
    assert found.corrected_share == pytest.approx((0.7 - 0.2) / 0.7)


def test_a_cell_on_the_threshold_is_positive() -> None:
    assert summarise_patient([0.5, 0.4999], 0.5, None).positive == 1


def test_no_cell_has_no_share() -> None:
    found = summarise_patient([], 0.5, POINTS, left_out=3)
    assert (found.answered, found.positive, found.share, found.interval) == (0, 0, None, None)
    assert (found.corrected_share, found.corrected_interval) == (None, None)
    assert found.sensitivity == 0.9
    assert found.notes == (
        "No cell was answered: there is no share.",
        "3 further cells were refused or could not be read; they count as neither.",
    )


@pytest.mark.parametrize(("positive", "corrected"), [(40, 1.0), (0, 0.0)])
def test_all_or_no_positive_cells_stay_within_0_and_1(positive: int, corrected: float) -> None:
    found = summarise_patient([1.0] * positive + [0.0] * (40 - positive), 0.5, POINTS)
    assert found.corrected_share == corrected
    low, high = found.interval or (2.0, 2.0)
    corrected_low, corrected_high = found.corrected_interval or (2.0, 2.0)
    assert 0 <= low <= positive / 40 <= high <= 1
    assert 0 <= corrected_low <= corrected <= corrected_high <= 1
    assert (low, high)[positive == 40] == positive / 40


def test_the_correction_takes_false_alarms_away_and_adds_what_was_missed() -> None:
    # Of 100 cells 30 are blasts: 27 are found, and 14 of the 70 others are called positive.
    assert corrected_share(0.41, RATES) == pytest.approx(0.3)
    assert corrected_share(0.1, RATES) == 0.0
    assert corrected_share(0.5, ErrorRates(0.5, 0.5, 10, 10)) is None
    assert corrected_share(0.5, ErrorRates(0.3, 0.2, 10, 10)) is None


def test_the_corrected_interval_is_that_of_lang_and_reiczigel_worked_out_by_hand() -> None:
    # n' = 103.8415, p' = 42.9207 / 103.8415 = 0.413330; Se' = 91/102 = 0.892157, var 0.000943; Sp' = 41/52 = 0.788462,
    # var 0.003208; gain 0.680618; centre 0.201791 / 0.680618 = 0.296482; shift 7.6829 (0.000280 - 0.002257) = -0.015190;
    # variance 0.002335 + 0.000083 + 0.001588 = 0.004006, half 1.95996 x 0.063290 / 0.680618 = 0.182255
    assert corrected_interval(41, 100, RATES) == pytest.approx((0.09904, 0.46355), abs=2e-4)


def test_the_corrected_interval_holds_the_true_share_about_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        sensitivity, specificity = drawn.binomial(100, 0.9) / 100, drawn.binomial(50, 0.8) / 50
        positive = int(drawn.binomial(100, 0.3 * 0.9 + 0.7 * 0.2))
        low, high = corrected_interval(positive, 100, ErrorRates(sensitivity, specificity, 100, 50))
        held += low <= 0.3 <= high
    # Binomial error of 2,000 draws: 0.5 %.
    assert 0.935 < held / 2000 < 0.985


def test_more_validation_images_make_the_corrected_interval_narrower() -> None:
    few, many = (corrected_interval(41, 100, ErrorRates(0.9, 0.8, count, count)) for count in (20, 2000))
    assert few[1] - few[0] > 1.5 * (many[1] - many[0])
    assert corrected_interval(1, 2, ErrorRates(0.55, 0.5, 1, 1)) == (0.0, 1.0)


def test_a_threshold_between_two_recorded_ones_says_whose_rates_it_took() -> None:
    found = summarise_patient([0.9] * 50, 0.46, POINTS)
    assert found.sensitivity == 0.9
    assert "Sensitivity and specificity are those at the threshold 0.5, the nearest recorded." in found.notes


def test_chance_and_missing_rates_leave_the_share_uncorrected_and_say_so() -> None:
    chance = summarise_patient([0.9] * 50, 0.6, POINTS)
    assert (chance.share, chance.corrected_share, chance.corrected_interval) == (1.0, None, None)
    assert "no better than chance" in " ".join(chance.notes)
    unknown = summarise_patient([0.9] * 50, 0.6, None)
    assert (unknown.share, unknown.sensitivity, unknown.corrected_share) == (1.0, None, None)
    assert "not recorded" in " ".join(unknown.notes)


def test_notes_say_what_the_intervals_do_not_contain() -> None:
    notes = " ".join(summarise_patient([0.9] * 5, 0.5, POINTS, left_out=2).notes)
    for words in ("Only 5 cells", "2 further cells", "cells of one subject", "how patients and laboratories differ"):
        assert words in notes
