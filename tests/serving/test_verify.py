from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leukolens.decision.conformal import Conformal
from leukolens.decision.outliers import OutlierModel
from leukolens.decision.rule import Decision
from leukolens.decision.threshold import Threshold
from leukolens.errors import ExportError
from leukolens.models.exported import Outputs
from leukolens.serving.verify import Judged, differences, require_same, require_small_loss
from leukolens.settings import ExportSettings

DECISION = Decision(
    temperature=1.0,
    threshold=Threshold(0.6, "balanced_accuracy", None, 0.9),
    conformal=Conformal(np.array([0.5]), np.array([1.0]), 1),
    classes=("HEM", "ALL"),
    positive=("ALL",),
    validation_images=4,
    validation_groups=2,
)
# One training cell along the first axis; what lies within 0.5 of it is alike.
OUTLIERS = OutlierModel(np.array([[1.0, 0.0]], np.float32), neighbours=1, limit=0.5)
JUDGED = Judged(DECISION, OUTLIERS, np.array([0, 0, 1, 1]))
WANTED = Outputs(
    np.array([[0.9, 0.1], [0.5, 0.5], [0.35, 0.65], [0.2, 0.8]], np.float32),
    np.array([[1, -1], [0, 0], [0, 1], [-1, 1]], np.float32),
    np.array([[3, 0], [4, 0], [0, 0], [0, 0]], np.float32),
)


def changed(**parts: list[list[float]]) -> Outputs:
    return replace(WANTED, **{name: np.array(values, np.float32) for name, values in parts.items()})


def test_the_same_answers_do_not_differ() -> None:
    assert differences(WANTED, WANTED, JUDGED) == {
        "cells": 4,
        "probability": 0.0,
        "logit": 0.0,
        "features": 0.0,
        "changed_decisions": 0,
        "changed_outliers": 0,
        "auroc": 1.0,
        "auroc_float32": 1.0,
    }


def test_differences_are_the_largest_and_decisions_those_of_the_threshold() -> None:
    # The second cell comes closer to the threshold of 0.6, the third falls below it, and below the second.
    found = changed(
        probabilities=[[0.9, 0.1], [0.42, 0.58], [0.45, 0.55], [0.2, 0.8]],
        logits=[[1, -1], [0, 0], [0, 0.25], [-1, 1]],
        features=[[3, 0], [0, 4], [0, 0], [0, 0]],
    )
    record = differences(found, WANTED, JUDGED)
    assert record["probability"] == pytest.approx(0.1)
    assert record["logit"] == 0.75
    # |(−4, 4)| / |(3, 4)| over all cells.
    assert record["features"] == pytest.approx(32**0.5 / 5)
    assert record["changed_decisions"] == 1
    assert record["changed_outliers"] == 1
    assert (record["auroc"], record["auroc_float32"]) == (0.75, 1.0)


@pytest.mark.parametrize(("share_of_limit", "counted"), [(1.0, 0), (0.9995, 0), (0.99, 1)])
def test_cell_on_the_limit_itself_counts_on_neither_side(share_of_limit: float, counted: int) -> None:
    # Two unit vectors whose difference is this long.
    angle = 2 * np.arcsin(share_of_limit * 0.5 / 2)
    near = changed(features=[[3, 0], [np.cos(angle), np.sin(angle)], [0, 0], [0, 0]])
    beyond = changed(features=[[3, 0], [0, 1], [0, 0], [0, 0]])
    assert differences(beyond, near, JUDGED)["changed_outliers"] == counted


def test_without_a_positive_class_or_with_one_kind_there_is_no_auroc() -> None:
    none = replace(JUDGED, decision=replace(DECISION, positive=(), threshold=None))
    assert differences(WANTED, WANTED, none)["auroc"] is None
    assert differences(WANTED, WANTED, replace(JUDGED, y_true=np.array([1, 1, 1, 1])))["auroc"] is None


@pytest.mark.parametrize(
    ("probability", "decisions", "outliers", "is_same"),
    [(0.0, 0, 0, True), (1e-3, 0, 0, True), (1.1e-3, 0, 0, False), (0.0, 1, 0, False), (0.0, 0, 1, False),
     (float("nan"), 0, 0, False)],
)  # fmt: skip
def test_float_formats_have_to_be_the_same(probability: float, decisions: int, outliers: int, is_same: bool) -> None:
    found = {"probability": probability, "changed_decisions": decisions, "changed_outliers": outliers, "cells": 40}
    if is_same:
        require_same("onnx", found, ExportSettings())
        return
    with pytest.raises(ExportError, match="The network in the format onnx does not answer as the one it was made from"):
        require_same("onnx", found, ExportSettings())


@pytest.mark.parametrize(
    ("decisions", "outliers", "auroc", "is_small"),
    [(2, 0, 0.881, True), (3, 0, 0.9, False), (0, 2, 0.9, True), (0, 3, 0.9, False), (0, 0, 0.879, False), (0, 0, 0.95, True),
     (0, 0, None, True)],
)  # fmt: skip
def test_eight_bits_may_cost_a_little(decisions: int, outliers: int, auroc: float | None, is_small: bool) -> None:
    found = {"probability": 0.3, "changed_decisions": decisions, "changed_outliers": outliers, "cells": 40, "auroc": auroc,
             "auroc_float32": 0.9}  # fmt: skip
    if is_small:
        require_small_loss(found, ExportSettings())
        return
    with pytest.raises(ExportError, match="costs more accuracy than is allowed"):
        require_small_loss(found, ExportSettings())
    require_small_loss(found, ExportSettings(accept_loss=True))


def test_loss_is_said_in_full() -> None:
    found = {"probability": 0.3, "changed_decisions": 3, "changed_outliers": 1, "cells": 40, "auroc": 0.85,
             "auroc_float32": 0.9}  # fmt: skip
    with pytest.raises(ExportError) as caught:
        require_small_loss(found, ExportSettings())
    assert str(caught.value) == (
        "The 8-bit network costs more accuracy than is allowed; nothing was kept.\n"
        "  expected: at most 5% of decisions and of refusals changed, 0.02 of AUROC lost\n"
        "  received: 3 decisions and 1 refusals of 40 changed, 0.050 of AUROC lost\n"
        "  remedy:   leave --format int8 out, calibrate on more cells (calibration_images), or say --accept-loss"
    )


def test_no_number_is_never_accepted() -> None:
    found = {"probability": float("nan"), "changed_decisions": 0, "changed_outliers": 0, "cells": 4, "auroc": None,
             "auroc_float32": None}  # fmt: skip
    with pytest.raises(ExportError):
        require_small_loss(found, ExportSettings(accept_loss=True))
