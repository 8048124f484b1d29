"""Phase one: a new linear head on frozen features, in seconds.

In: features and class indices of the training and validation sides. Out: weight and bias of the head that was best on
validation, with the epochs, or the penalties, that led there. Writes: nothing.

The features are standardised with the mean and standard deviation of the training side, because their scale differs by
orders of magnitude between networks; the standardisation is folded into the weight and bias afterwards, so that the head
that is kept reads the backbone's plain features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from leukolens.settings import TrainSettings
from leukolens.training.features import Features
from leukolens.training.logistic import PENALTIES, Logistic
from leukolens.training.losses import training_loss
from leukolens.training.selection import Epoch, Selection, class_weights, validation_epoch

_ROWS_AT_ONCE = 1024

Labels = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Side:
    """Features float32 [images, width] and class indices int64 [images] of one side of a split."""

    features: Features
    labels: Labels

    @classmethod
    def of_views(cls, views: Sequence[Features], labels: Labels) -> Side:
        """One side whose images are there once per view, each [images, width], with the same labels every time."""
        return cls(views[0], labels) if len(views) == 1 else cls(np.concatenate(views), np.tile(labels, len(views)))


@dataclass(frozen=True)
class FittedHead:
    """`weight` [classes, width] and `bias` [classes] of the best epoch, all `epochs`, and the best one's `selection`.

    `penalty` is the L2 penalty that was chosen; None of a head that AdamW fitted.
    """

    weight: Tensor
    bias: Tensor
    epochs: list[Epoch]
    selection: Selection
    penalty: float | None = None


@dataclass(frozen=True)
class _Standardised:
    """Both sides standardised by the training side's `mean` and `deviation`, and the class weights of the loss."""

    x: Tensor
    y: Tensor
    x_validation: Tensor
    y_validation: Tensor
    mean: Tensor
    deviation: Tensor
    weights: Tensor | None

    @classmethod
    def of_sides(cls, train: Side, validation: Side, weights: Tensor | None) -> _Standardised:
        mean, deviation = _moments(train.features)
        x, x_validation = (_standardise(side.features, mean, deviation) for side in (train, validation))
        y, y_validation = (torch.from_numpy(side.labels) for side in (train, validation))
        return cls(x, y, x_validation, y_validation, mean, deviation, weights)

    def judged(self, number: int, weight: Tensor, bias: Tensor) -> Epoch:
        """Judge a head on validation."""
        with torch.inference_mode():
            logits = functional.linear(self.x_validation, weight, bias)
        return validation_epoch("head", number, logits, self.y_validation, self.weights)

    def folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias that give, on plain features, what these give on standardised ones."""
        folded = weight / self.deviation
        return folded, bias - folded @ self.mean


def linear_logits(features: Features, weight: Tensor, bias: Tensor) -> NDArray[np.float32]:
    """Logits float32 [images, classes] of features float32 [images, width], for a head [classes, width] and [classes].

    Summed in float64 on the CPU, whatever the backbone computes in, and row by row: a matrix product takes another order, and
    so ends in other bits, where there are other rows beside (docs/decisions/0025).
    """
    weights, biases = (each.detach().cpu().double().numpy() for each in (weight, bias))
    logits = np.empty((len(features), len(weights)))
    for start in range(0, len(features), _ROWS_AT_ONCE):
        rows = features[start : start + _ROWS_AT_ONCE].astype(np.float64, order="C")
        for position, one in enumerate(weights):
            logits[start : start + _ROWS_AT_ONCE, position] = (rows * one).sum(axis=1)
    result: NDArray[np.float32] = (logits + biases).astype(np.float32)
    return result


def fit_head(train: Side, validation: Side, classes: int, settings: TrainSettings) -> FittedHead:
    """Fit as the settings say; keep what has the best validation balanced accuracy, ties to the lower loss."""
    weights = class_weights(train.labels, classes, settings)
    data = _Standardised.of_sides(train, validation, weights)
    fit = _fit_to_the_optimum if settings.head_solver == "lbfgs" else _fit_by_steps
    return fit(data, classes, settings)


def _fit_by_steps(data: _Standardised, classes: int, settings: TrainSettings) -> FittedHead:
    """Full-batch AdamW with dropout; the best epoch is kept."""
    head = _zero_head(data.x.shape[1], classes)
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings.head_learning_rate, weight_decay=settings.weight_decay)
    drop = _Dropout(data.x, settings.dropout, settings.seed)
    epochs: list[Epoch] = []
    best, best_state = Selection(), head.state_dict()
    for number in range(1, settings.head_epochs + 1):
        began = time.perf_counter()
        loss = training_loss(head(drop()), data.y, data.weights, settings)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        epoch = data.judged(number, head.weight, head.bias)
        epochs.append(epoch.finished(float(loss.detach()), settings.head_learning_rate, time.perf_counter() - began))
        if epoch.selection() > best:
            best, best_state = epoch.selection(), {name: value.clone() for name, value in head.state_dict().items()}
    return FittedHead(*data.folded(best_state["weight"], best_state["bias"]), epochs, best)


def _fit_to_the_optimum(data: _Standardised, classes: int, settings: TrainSettings) -> FittedHead:
    """Logistic regression with every penalty, the strongest first; of equals on validation the strongest is kept.

    Where the settings name a penalty, it is the only one: on few subjects the choice is a draw of lots.
    An epoch is one penalty here. Neither dropout nor the other losses of the settings are used: the penalty is what keeps
    the head from learning the images by heart.
    """
    logistic = Logistic(data.x, data.y, classes, data.weights)
    epochs: list[Epoch] = []
    best, kept = Selection(), (data.x.new_zeros(()), data.x.new_zeros(()), math.nan)
    penalties = PENALTIES if settings.head_penalty is None else (settings.head_penalty,)
    for number, penalty in enumerate(penalties, start=1):
        began = time.perf_counter()
        weight, bias = logistic.fit(penalty)
        epoch = data.judged(number, weight, bias)
        loss = functional.cross_entropy(functional.linear(data.x, weight, bias), data.y, data.weights)
        epochs.append(epoch.finished(float(loss), math.nan, time.perf_counter() - began))
        if epoch.selection() > best:
            best, kept = epoch.selection(), (weight, bias, penalty)
    weight, bias, penalty = kept
    return FittedHead(*data.folded(weight, bias), epochs, best, penalty)


def _moments(features: Features) -> tuple[Tensor, Tensor]:
    values = torch.from_numpy(features)
    deviation = values.std(dim=0, unbiased=False)
    # Features that hardly vary are not blown up to the size of the others: folded back, their weights would be enormous
    # and the first step of fine-tuning would throw the logits off by hundreds (seen with ResNet-50).
    floor = deviation.mean() if deviation.any() else torch.ones(())
    return values.mean(dim=0), deviation.clamp_min(floor)


def _standardise(features: Features, mean: Tensor, deviation: Tensor) -> Tensor:
    return (torch.from_numpy(features) - mean) / deviation


def _zero_head(width: int, classes: int) -> torch.nn.Linear:
    head = torch.nn.Linear(width, classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


class _Dropout:
    """Features with a seeded share set to zero, drawn anew at each call into one buffer.

    Six times as fast on 6,400 x 2,048 features as a new tensor at each step, and the same numbers bit by bit.
    """

    def __init__(self, x: Tensor, share: float, seed: int) -> None:
        self.scaled = x / (1 - share)
        self.share = share
        self.buffer = torch.empty_like(self.scaled)
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self) -> Tensor:
        """Give features that are good until the next call."""
        torch.rand(self.buffer.shape, generator=self.generator, out=self.buffer)
        return self.buffer.ge_(self.share).mul_(self.scaled)
