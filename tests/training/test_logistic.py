from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from leukolens.training import logistic
from leukolens.training.logistic import PENALTIES, Logistic


def problem(classes: int, images: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised features, class indices and class weights; classes overlap and are of different sizes."""
    random = np.random.default_rng(classes)
    y = np.minimum(np.arange(images) % (classes + 1), classes - 1)
    x = random.normal(size=(images, 4)) + np.eye(classes, 4)[y]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    counts = np.bincount(y)
    return torch.from_numpy(x).float(), torch.from_numpy(y), torch.from_numpy(images / (classes * counts)).float()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("penalty", [10.0, 0.1, 0.001])
def test_probabilities_are_those_of_another_solver(classes: int, penalty: float) -> None:
    x, y, weights = problem(classes)
    weight, bias = Logistic(x, y, classes, weights).fit(penalty)
    other = LogisticRegression(
        solver="newton-cholesky", C=1 / (penalty * len(y)), class_weight="balanced", tol=1e-10
    ).fit(x.double().numpy(), y.numpy())
    found = torch.softmax(functional.linear(x, weight, bias), dim=1).numpy()
    assert weight.shape == (classes, 4)
    np.testing.assert_allclose(found, other.predict_proba(x.double().numpy()), atol=1e-3)


def test_slope_of_the_penalised_loss_is_zero() -> None:
    x, y, weights = problem(3)
    weight, bias = (each.double().requires_grad_() for each in Logistic(x, y, 3, weights).fit(0.1))
    loss = functional.cross_entropy(functional.linear(x.double(), weight, bias), y, weights.double())
    (loss + 0.1 / 2 * weight.square().sum()).backward()
    for slope in (weight.grad, bias.grad):
        assert slope is not None
        assert float(slope.abs().max()) < 1e-5


def test_without_class_weights_the_bias_follows_the_larger_class() -> None:
    x, y, weights = problem(2)
    plain, weighted = (Logistic(torch.zeros_like(x), y, 2, each).fit(1.0)[1] for each in (None, weights))
    # No feature says anything: the log odds of 40 images to 20, or even ones.
    assert float(plain[1] - plain[0]) == pytest.approx(np.log(2), abs=1e-4)
    assert float(weighted[1] - weighted[0]) == pytest.approx(0, abs=1e-4)


def test_fit_after_stronger_penalties_is_the_one_from_scratch() -> None:
    x, y, weights = problem(2)
    warm = Logistic(x, y, 2, weights)
    for penalty in PENALTIES[:8]:
        weight, bias = warm.fit(penalty)
    alone, bias_alone = Logistic(x, y, 2, weights).fit(PENALTIES[7])
    torch.testing.assert_close(weight, alone, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(bias, bias_alone, rtol=1e-3, atol=1e-4)


def test_penalties_fall_by_half_decades() -> None:
    assert PENALTIES[0] == 100
    assert PENALTIES[-1] == pytest.approx(1e-4)
    np.testing.assert_allclose(np.diff(np.log10(PENALTIES)), -0.5)


def test_fit_that_has_not_settled_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logistic, "_MOST_STEPS", 1)
    with caplog.at_level(logging.WARNING, "leukolens"):
        Logistic(*problem(2)[:2], 2, None).fit(0.01)
    assert caplog.messages == ["logistic regression with penalty 0.01 has not settled in 1 steps"]
