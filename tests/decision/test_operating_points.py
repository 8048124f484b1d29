from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from leukolens.decision.rule import Decision, fit_decision
from leukolens.decision.threshold import OperatingPoint, OperatingPoints, operating_points
from leukolens.decision.validation import ValidationScores
from leukolens.errors import ArtifactError
from leukolens.settings import DecisionSettings

# Probability of ALL, true class: with a temperature of 1 the logit is its log odds.
CELLS = [(0.05, "HEM"), (0.2, "HEM"), (0.305, "ALL"), (0.5, "HEM"), (0.7, "ALL"), (0.7, "ALL"), (0.9, "ALL"), (0.95, "ALL")]


def scores(cells: list[tuple[float, str]] = CELLS, classes: tuple[str, ...] = ("HEM", "ALL")) -> ValidationScores:
    rows = pd.DataFrame({"image": [f"{place}.png" for place in range(len(cells))], "y_true": [label for _, label in cells],
                         "side": "validation", "group": [f"g{place}" for place in range(len(cells))],
                         "subject": [f"s{place}" for place in range(len(cells))]})  # fmt: skip
    odds = np.log([value / (1 - value) for value, _ in cells])
    logits = np.zeros((len(cells), len(classes)))
    logits[:, 1] = odds
    return ValidationScores.of_rows(rows, logits.astype(np.float64), list(classes), ["ALL"])


def fitted(validation: ValidationScores) -> Decision:
    return fit_decision(validation, DecisionSettings())


def test_each_hundredth_says_what_it_would_do_and_so_does_the_chosen_threshold() -> None:
    validation = scores()
    chosen = fitted(validation).threshold
    assert chosen is not None
    found = operating_points(validation, 1.0, chosen)
    assert found is not None
    assert (found.positives, found.negatives) == (5, 3)
    thresholds = [point.threshold for point in found.points]
    assert thresholds == sorted(thresholds)
    assert set(thresholds) == {step / 100 for step in range(101)} | {chosen.value}
    of = {point.threshold: (point.sensitivity, point.specificity) for point in found.points}
    assert of[0.0] == (1.0, 0.0)
    assert of[0.3] == (1.0, pytest.approx(2 / 3))
    assert of[0.31] == (0.8, pytest.approx(2 / 3))
    assert of[0.6] == (0.8, 1.0)
    assert of[1.0] == (0.0, 1.0)


def test_the_chosen_threshold_reaches_what_it_was_chosen_for() -> None:
    decision = fitted(scores())
    assert decision.threshold is not None
    assert decision.operating_points is not None
    point = decision.operating_points.nearest(decision.threshold.value)
    assert point.threshold == decision.threshold.value
    assert (point.sensitivity + point.specificity) / 2 == decision.threshold.reached


def test_points_survive_the_record_and_a_record_without_them_is_read() -> None:
    decision = fitted(scores())
    record = decision.to_record()
    assert Decision.from_record(record).operating_points == decision.operating_points
    del record["operating_points"]
    assert Decision.from_record(record).operating_points is None


@pytest.mark.parametrize("spoilt", [{"positives": 1, "negatives": 1, "points": []}, {"points": [{"threshold": 1}]}, [], 7])
def test_points_that_are_none_are_an_error(spoilt: Any) -> None:
    record = fitted(scores()).to_record() | {"operating_points": spoilt}
    with pytest.raises(ArtifactError, match="record of the decision cannot be used"):
        Decision.from_record(record)


def test_without_a_fitted_threshold_there_are_none() -> None:
    validation = scores([(0.9, "ALL"), (0.8, "ALL")])
    assert fitted(validation).threshold is not None
    assert fitted(validation).operating_points is None
    assert operating_points(validation, 1.0, None) is None


def test_of_two_points_as_near_the_lower_one_is_taken() -> None:
    points = OperatingPoints(1, 1, (OperatingPoint(0.25, 1.0, 0.0), OperatingPoint(0.75, 0.0, 1.0)))
    assert points.nearest(0.5).threshold == 0.25
    assert points.nearest(0.51).threshold == 0.75
