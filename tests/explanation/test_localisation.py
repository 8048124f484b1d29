from __future__ import annotations

import numpy as np
import pytest

from leukolens.explanation.localisation import Localisation, localise, peak_of

MASK = np.array([[False, True], [False, True]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1.0, 3.0], [0.0, 4.0]], Localisation(0.5, 7 / 8, True)),
        ([[4.0, 3.0], [0.0, 1.0]], Localisation(0.5, 0.5, False)),
        ([[0.0, 0.0], [0.25, 0.0]], Localisation(0.5, 0.0, False)),
        ([[1.0, 1.0], [1.0, 1.0]], Localisation(0.5, 0.5, False)),
        ([[0.0, 0.0], [0.0, 0.0]], Localisation(0.5, None, None)),
    ],
)
def test_share_and_peak_by_hand(values: list[list[float]], expected: Localisation) -> None:
    assert localise(np.array(values, np.float32), MASK) == expected


def test_without_a_black_background_everything_lies_on_the_cell() -> None:
    assert localise(np.ones((2, 2), np.float32), np.ones((2, 2), bool)) == Localisation(1.0, 1.0, True)


def test_many_small_values_lose_nothing() -> None:
    values = np.full((1024, 1024), 1e-4, np.float32)
    mask = np.zeros((1024, 1024), bool)
    mask[:256] = True
    found = localise(values, mask)
    assert found.inside_share == pytest.approx(0.25, abs=1e-9)


def test_peak_is_row_and_column_of_the_first_largest() -> None:
    assert peak_of(np.array([[0, 1, 5], [5, 0, 0]])) == (0, 2)
