from __future__ import annotations

import numpy as np
import pytest
import torch

from leukolens.settings import TrainSettings
from leukolens.training.head import Side, _moments, fit_head
from leukolens.training.selection import Selection

SETTINGS = TrainSettings(head_epochs=60, head_learning_rate=0.01)


def side(images: int, seed: int, shift: float = 3.0, scale: float = 1.0) -> Side:
    """Two classes, `shift` standard deviations apart in the first of five features, two images of the second to one."""
    random = np.random.default_rng(seed)
    labels = (np.arange(images) % 3 > 0).astype(np.int64)
    features = random.normal(size=(images, 5)).astype(np.float32)
    features[:, 0] += shift * labels
    return Side(features * np.float32(scale) + np.float32(scale), labels)


def test_separable_classes_are_separated() -> None:
    fitted = fit_head(side(60, 0, shift=20), side(30, 1, shift=20), 2, SETTINGS)
    assert fitted.selection.balanced_accuracy == 1.0
    validation = side(30, 1, shift=20)
    logits = torch.from_numpy(validation.features) @ fitted.weight.T + fitted.bias
    assert logits.argmax(dim=1).tolist() == validation.labels.tolist()


def test_best_epoch_of_all_is_kept() -> None:
    fitted = fit_head(side(60, 0, shift=1), side(30, 1, shift=1), 2, SETTINGS)
    assert [epoch.epoch for epoch in fitted.epochs] == list(range(1, 61))
    assert {epoch.phase for epoch in fitted.epochs} == {"head"}
    assert fitted.selection == max(epoch.selection() for epoch in fitted.epochs)
    validation = side(30, 1, shift=1)
    logits = torch.from_numpy(validation.features) @ fitted.weight.T + fitted.bias
    recalls = [float((logits.argmax(1)[validation.labels == label] == label).float().mean()) for label in (0, 1)]
    assert sum(recalls) / 2 == pytest.approx(fitted.selection.balanced_accuracy)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_folded_standardisation_equals_the_explicit_one(scale: float) -> None:
    """One epoch from a head of zeros, done by hand: gradient, AdamW's first step, then logits of standardised features."""
    train, validation = side(30, 0, scale=scale), side(12, 1, scale=scale)
    settings = TrainSettings(head_epochs=1, head_learning_rate=0.01, dropout=0, weight_decay=0, class_weights=False)
    fitted = fit_head(train, validation, 2, settings)
    mean, deviation = _moments(train.features)
    x = (torch.from_numpy(train.features) - mean) / deviation
    error = 0.5 - torch.nn.functional.one_hot(torch.from_numpy(train.labels), 2).float()
    # AdamW's first step is the rate times the sign of the gradient, all but.
    weight, bias = -0.01 * (error.T @ x).sign(), -0.01 * error.sum(0).sign()
    explicit = (torch.from_numpy(validation.features) - mean) / deviation @ weight.T + bias
    folded = torch.from_numpy(validation.features) @ fitted.weight.T + fitted.bias
    torch.testing.assert_close(folded, explicit, rtol=1e-3, atol=1e-4)


def test_scale_of_the_features_does_not_matter() -> None:
    small, large = (fit_head(side(60, 0, scale=s), side(30, 1, scale=s), 2, SETTINGS) for s in (1e-3, 1e3))
    losses = [[epoch.validation_loss for epoch in fitted.epochs] for fitted in (small, large)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_features_that_hardly_vary_are_not_blown_up() -> None:
    train = side(60, 0)
    train.features[:, 4] = 1 + 1e-6 * train.features[:, 4]
    fitted = fit_head(train, side(30, 1), 2, SETTINGS)
    assert float(fitted.weight.abs().max()) < 10


def test_constant_features_of_all_images_are_survived() -> None:
    constant = Side(np.ones((9, 5), np.float32), side(9, 0).labels)
    fitted = fit_head(constant, constant, 2, SETTINGS)
    assert bool(torch.isfinite(fitted.weight).all())
    assert fitted.selection.balanced_accuracy == 0.5


def test_class_weights_keep_a_rarer_class_from_being_voted_down() -> None:
    # Features without any content leave the bias alone: with weights both classes pull alike, without the larger one wins.
    empty = Side(np.ones((9, 5), np.float32), side(9, 0).labels)
    settings = SETTINGS.model_copy(update={"dropout": 0.0, "head_epochs": 1})
    weighted = fit_head(empty, empty, 2, settings)
    plain = fit_head(empty, empty, 2, settings.model_copy(update={"class_weights": False}))
    assert weighted.bias.tolist() == pytest.approx([0, 0], abs=1e-3)
    assert plain.bias.tolist() == pytest.approx([-0.01, 0.01], abs=1e-4)


def test_three_classes() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int64) % 3
    features = (random.normal(size=(60, 4)) + 10 * np.eye(3, 4)[labels]).astype(np.float32)
    fitted = fit_head(Side(features, labels), Side(features, labels), 3, SETTINGS)
    assert fitted.weight.shape == (3, 4)
    assert fitted.bias.shape == (3,)
    assert fitted.selection.balanced_accuracy == 1.0


def test_same_seed_same_head_and_another_seed_another() -> None:
    first, again, other = (
        fit_head(side(60, 0), side(30, 1), 2, SETTINGS.model_copy(update={"seed": seed})) for seed in (4, 4, 5)
    )
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)
    assert not torch.equal(first.weight, other.weight)


def test_first_epoch_is_always_better_than_none() -> None:
    fitted = fit_head(side(60, 0), side(30, 1), 2, SETTINGS.model_copy(update={"head_epochs": 1}))
    assert fitted.selection > Selection()
