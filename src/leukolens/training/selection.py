"""How epochs are judged and compared, in both phases alike: on validation only.

In: logits and labels of the validation side. Out: Epoch rows (written to epochs.csv) and their order. Writes: nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from sklearn.metrics import recall_score
from torch import Tensor

from leukolens.settings import TrainSettings


@dataclass(frozen=True, order=True)
class Selection:
    """Order of checkpoints: higher validation balanced accuracy, then lower validation loss."""

    balanced_accuracy: float = -math.inf
    negative_loss: float = -math.inf


@dataclass(frozen=True)
class Epoch:
    """One row of epochs.csv. Losses are class-weighted cross-entropies in nats."""

    phase: str
    epoch: int
    train_loss: float
    validation_loss: float
    validation_balanced_accuracy: float
    learning_rate: float
    seconds: float

    def selection(self) -> Selection:
        """What checkpoints are ordered by."""
        return Selection(self.validation_balanced_accuracy, -self.validation_loss)

    def finished(self, train_loss: float, learning_rate: float, seconds: float) -> Epoch:
        """The same epoch with what its training told."""
        return replace(self, train_loss=train_loss, learning_rate=learning_rate, seconds=seconds)

    def to_record(self) -> dict[str, Any]:
        """Give a JSON object."""
        return asdict(self)


def validation_epoch(phase: str, number: int, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Epoch:
    """Judge one epoch by logits [images, classes] and class indices [images] of the validation side."""
    loss = functional.cross_entropy(logits.float(), labels, weights)
    predicted = logits.argmax(dim=1).cpu().numpy()
    score = balanced_accuracy(labels.cpu().numpy(), predicted)
    return Epoch(phase, number, math.nan, float(loss), score, math.nan, math.nan)


def balanced_accuracy(y_true: NDArray[np.int64], y_pred: NDArray[np.int64]) -> float:
    """Mean recall over the classes that occur in y_true."""
    present = np.unique(y_true)
    return float(recall_score(y_true, y_pred, labels=present, average="macro", zero_division=0))


def class_weights(labels: NDArray[np.int64], classes: int, settings: TrainSettings) -> Tensor | None:
    """Inverse class frequencies of the training side with mean 1 over its images; None where not asked for."""
    if not settings.class_weights:
        return None
    counts = np.bincount(labels, minlength=classes)
    return torch.tensor(len(labels) / (classes * counts), dtype=torch.float32)
