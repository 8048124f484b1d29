from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from leukolens.settings import TrainSettings
from leukolens.training.losses import mix_up, training_loss

# Probabilities of class 0: 3/4 for an image of class 0, and 3/4 for an image of class 1.
LOGITS = torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log()
LABELS = torch.tensor([0, 1])
WEIGHTS = torch.tensor([2.0, 1.0])


def loss_of(weights: Tensor | None = None, **settings: float) -> float:
    return float(training_loss(LOGITS, LABELS, weights, TrainSettings(**settings)))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_without_options_it_is_plain_cross_entropy_bit_by_bit(weights: Tensor | None) -> None:
    logits = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 2
    assert torch.equal(
        training_loss(logits, labels, weights, TrainSettings()), functional.cross_entropy(logits, labels, weights)
    )


def test_smoothed_label_counts_for_what_is_not_spread() -> None:
    # 0.2 spread over two classes leaves 0.9 for the own one.
    first = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    second = -(0.9 * math.log(1 / 4) + 0.1 * math.log(3 / 4))
    assert loss_of(label_smoothing=0.2) == pytest.approx((first + second) / 2)


def test_focal_loss_multiplies_by_the_doubt() -> None:
    first, second = (1 / 4) ** 2 * math.log(4 / 3), (3 / 4) ** 2 * math.log(4)
    assert loss_of(focal_gamma=2) == pytest.approx((first + second) / 2)
    assert loss_of(WEIGHTS, focal_gamma=2) == pytest.approx((2 * first + second) / 3)


def test_focal_loss_goes_over_into_cross_entropy() -> None:
    assert loss_of(WEIGHTS, focal_gamma=1e-9) == pytest.approx(loss_of(WEIGHTS))


def test_both_together_are_the_smoothed_loss_times_the_doubt() -> None:
    first = (1 / 4) ** 2 * -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    second = (3 / 4) ** 2 * -(0.9 * math.log(1 / 4) + 0.1 * math.log(3 / 4))
    assert loss_of(focal_gamma=2, label_smoothing=0.2) == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_slope_at_a_sure_answer_is_finite(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    training_loss(logits, torch.tensor([0, 0]), None, TrainSettings(focal_gamma=gamma)).backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


# Mixing


def test_mixed_levels_are_the_shares_of_image_and_partner() -> None:
    levels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2) * 10
    mixed = mix_up(levels, 1.0, torch.Generator().manual_seed(3))
    assert sorted(mixed.partners.tolist()) == [0, 1, 2, 3]
    assert 0 < mixed.share < 1
    wanted = [mixed.share * 10 * own + (1 - mixed.share) * 10 * int(mixed.partners[own]) for own in range(4)]
    torch.testing.assert_close(mixed.levels[:, 0, 0, 0], torch.tensor(wanted))
    assert mixed.levels.shape == levels.shape


def test_same_generator_mixes_the_same_and_the_next_batch_another_way() -> None:
    levels = torch.rand(16, 3, 2, 2)

    def two_batches() -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        return [mix_up(levels, 0.4, generator).levels for _ in range(2)]

    first, again = two_batches(), two_batches()
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(*first)


def test_shares_follow_the_beta_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = np.array([mix_up(torch.zeros(2, 3, 1, 1), 0.2, generator).share for _ in range(2000)])
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)) = 0.1786 for a = 0.2.
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * 1.4), abs=0.015)
