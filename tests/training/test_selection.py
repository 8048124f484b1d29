from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from leukolens.settings import TrainSettings
from leukolens.training.selection import Epoch, Selection, balanced_accuracy, class_weights, validation_epoch


def test_selection_goes_by_balanced_accuracy_then_by_lower_loss() -> None:
    good, worse_loss, worse = Selection(0.9, -0.3), Selection(0.9, -0.4), Selection(0.8, -0.1)
    assert sorted([good, worse, worse_loss, Selection()], reverse=True) == [good, worse_loss, worse, Selection()]


def test_class_weights_are_inverse_frequencies_with_mean_one_over_the_images() -> None:
    # 6 images of class 0 and 2 of class 1: 8 / (2 x 6) and 8 / (2 x 2).
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    weights = class_weights(labels, 2, TrainSettings())
    assert weights is not None
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])
    assert float(weights[labels].mean()) == pytest.approx(1)


def test_class_weights_may_be_left_out() -> None:
    assert class_weights(np.array([0, 0, 1]), 2, TrainSettings(class_weights=False)) is None


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_occur() -> None:
    # Recall of class 0: 3 of 4, of class 1: 1 of 2; class 2 does not occur, although it was predicted.
    y_true, y_pred = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 2, 1, 0])
    assert balanced_accuracy(y_true, y_pred) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_validation_epoch_is_judged_by_hand_worked_values() -> None:
    # Probabilities of the true class: 3/4, 1/4 and 1/2, a tie that goes to class 0.
    logits = torch.tensor([[3.0, 1.0], [3.0, 1.0], [1.0, 1.0]]).log()
    labels = torch.tensor([0, 1, 1])
    epoch = validation_epoch("head", 4, logits, labels, torch.tensor([1.0, 1.0]))
    assert epoch.validation_loss == pytest.approx((math.log(4 / 3) + math.log(4) + math.log(2)) / 3)
    assert epoch.validation_balanced_accuracy == pytest.approx(0.5)
    weighted = validation_epoch("head", 4, logits, labels, torch.tensor([2.0, 1.0]))
    assert weighted.validation_loss == pytest.approx((2 * math.log(4 / 3) + math.log(4) + math.log(2)) / 4)
    assert (epoch.phase, epoch.epoch) == ("head", 4)


def test_epoch_is_finished_with_what_its_training_told() -> None:
    epoch = Epoch("finetune", 1, math.nan, 0.5, 0.9, math.nan, math.nan).finished(0.7, 1e-4, 12.0)
    assert epoch.to_record() == {
        "phase": "finetune",
        "epoch": 1,
        "train_loss": 0.7,
        "validation_loss": 0.5,
        "validation_balanced_accuracy": 0.9,
        "learning_rate": 1e-4,
        "seconds": 12.0,
    }
    assert epoch.selection() == Selection(0.9, -0.5)
