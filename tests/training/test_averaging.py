from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from leukolens.models.classifier import Classifier
from leukolens.training.averaging import epoch_file, epochs_to_average, load_average, moving_average
from leukolens.training.finetuning import save_weights


def shifted(classifier: Classifier, by: float) -> None:
    with torch.no_grad():
        for weight in classifier.parameters():
            weight.add_(by)


def test_moving_average_keeps_its_decay_of_itself(tiny_classifier: Classifier) -> None:
    averaged = moving_average(tiny_classifier, 0.75)
    start = tiny_classifier.head.weight.detach().clone()
    for _ in range(3):
        shifted(tiny_classifier, 1.0)
        averaged.update_parameters(tiny_classifier)
    # After steps to +1, +2, +3: 1, then 0.75 + 0.5 = 1.25, then 0.9375 + 0.75 = 1.6875.
    torch.testing.assert_close(averaged.module.head.weight, start + 1.6875)
    assert not any(weight.requires_grad for weight in averaged.parameters())
    assert all(weight.requires_grad for weight in tiny_classifier.parameters())


def test_moving_average_follows_running_statistics(tiny_classifier: Classifier) -> None:
    averaged = moving_average(tiny_classifier, 0.5)
    norm = next(layer for layer in tiny_classifier.modules() if isinstance(layer, nn.BatchNorm2d))
    of_average = next(layer for layer in averaged.modules() if isinstance(layer, nn.BatchNorm2d))
    assert norm.running_mean is not None
    assert of_average.running_mean is not None
    for value in (1.0, 3.0):
        norm.running_mean.fill_(value)
        averaged.update_parameters(tiny_classifier)
    assert set(of_average.running_mean.tolist()) == {2.0}


def test_average_of_epochs_counts_all_alike(tiny_classifier: Classifier, tmp_path: Path) -> None:
    start = tiny_classifier.head.weight.detach().clone()
    for epoch in (3, 4, 5):
        shifted(tiny_classifier, float(epoch))
        save_weights(tiny_classifier, epoch_file(tmp_path, epoch))
    load_average(tiny_classifier, tmp_path, [3, 4, 5])
    # 3, 3 + 4 and 3 + 4 + 5.
    torch.testing.assert_close(tiny_classifier.head.weight.detach(), start + (3 + 7 + 12) / 3)


@pytest.mark.parametrize(
    ("trained", "wished", "epochs"),
    [(6, 3, [4, 5, 6]), (6, 6, [1, 2, 3, 4, 5, 6]), (2, 5, [1, 2]), (1, 3, []), (0, 3, [])],
)
def test_last_epochs_are_averaged_and_one_is_no_average(trained: int, wished: int, epochs: list[int]) -> None:
    assert epochs_to_average(trained, wished) == epochs
