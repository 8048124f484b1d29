from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from leukolens.settings import TrainSettings
from leukolens.training.head import Side, _moments, fit_head
from leukolens.training.logistic import PENALTIES
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


# Logistic regression


LBFGS = TrainSettings(head_solver="lbfgs")


def test_optimum_is_folded_back_and_equals_scikit_learns() -> None:
    train, validation = side(60, 0, shift=1, scale=40), side(30, 1, shift=1, scale=40)
    fitted = fit_head(train, validation, 2, LBFGS)
    mean, deviation = (each.numpy() for each in _moments(train.features))
    reference = LogisticRegression(
        solver="newton-cholesky", C=1 / (fitted.penalty * 60), class_weight="balanced", tol=1e-6
    ).fit(((train.features - mean) / deviation).astype(np.float64), train.labels)
    found = torch.softmax(torch.from_numpy(validation.features) @ fitted.weight.T + fitted.bias, dim=1)
    wanted = reference.predict_proba((validation.features - mean) / deviation)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-3)


def test_penalty_is_chosen_on_validation_and_an_epoch_is_a_penalty() -> None:
    fitted = fit_head(side(60, 0, shift=1), side(30, 1, shift=1), 2, LBFGS)
    assert [epoch.epoch for epoch in fitted.epochs] == list(range(1, len(PENALTIES) + 1))
    best = max(fitted.epochs, key=lambda epoch: epoch.selection())
    assert fitted.selection == best.selection()
    assert fitted.penalty == PENALTIES[best.epoch - 1]
    losses = [epoch.train_loss for epoch in fitted.epochs]
    assert losses == sorted(losses, reverse=True)
    assert fit_head(side(60, 0), side(30, 1), 2, SETTINGS).penalty is None


def test_penalty_that_is_given_is_the_only_one() -> None:
    settings = LBFGS.model_copy(update={"head_penalty": 0.02})
    fitted = fit_head(side(60, 0), side(30, 1), 2, settings)
    assert (fitted.penalty, len(fitted.epochs)) == (0.02, 1)
    with pytest.raises(ValueError, match="head_penalty needs head_solver lbfgs"):
        TrainSettings(head_penalty=0.02)


def test_of_penalties_that_judge_alike_the_strongest_is_kept() -> None:
    # Features without any content: every penalty gives the same head.
    empty = Side(np.ones((9, 5), np.float32), side(9, 0).labels)
    assert fit_head(empty, empty, 2, LBFGS).penalty == PENALTIES[0]


def test_three_classes_to_the_optimum() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int64) % 3
    features = (random.normal(size=(60, 4)) + 10 * np.eye(3, 4)[labels]).astype(np.float32)
    fitted = fit_head(Side(features, labels), Side(features, labels), 3, LBFGS)
    assert (fitted.weight.shape, fitted.bias.shape) == ((3, 4), (3,))
    assert fitted.selection.balanced_accuracy == 1.0


# Views and losses


def test_views_are_one_side_with_the_same_labels() -> None:
    one, two = (side(6, seed).features for seed in (0, 1))
    labels = side(6, 0).labels
    both = Side.of_views([one, two], labels)
    np.testing.assert_array_equal(both.features, np.concatenate([one, two]))
    assert both.labels.tolist() == [*labels, *labels]
    assert Side.of_views([one], labels).features is one


def test_smoothed_labels_keep_the_head_from_being_sure() -> None:
    apart = side(60, 0, shift=20), side(30, 1, shift=20)
    settings = SETTINGS.model_copy(update={"head_epochs": 400, "dropout": 0.0})
    plain, smoothed = (fit_head(*apart, 2, settings.model_copy(update={"label_smoothing": s})) for s in (0.0, 0.2))
    # Smoothed by 0.2, a probability of 0.9 of the own class is the best there is: a loss of 0.105 on plain labels.
    assert plain.epochs[-1].validation_loss < 0.08 < smoothed.epochs[-1].validation_loss < 0.2
