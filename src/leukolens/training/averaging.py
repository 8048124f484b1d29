"""Averages of the weights of one fine-tuning, by PyTorch's own: a moving one over its steps, an equal one over its last epochs.

In: a classifier in training. Out: the same network with averaged weights. Writes: `epoch-<n>.safetensors` in the resume
folder, the weights after each of the last epochs, for as long as they may be needed.

Running statistics of batch normalisation are averaged like weights. Those of pretrained networks are frozen and stay what
they are; of networks of random weights this is no replacement for measuring them anew.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

from leukolens.models.classifier import Classifier

LEAST_EPOCHS = 2


def moving_average(classifier: Classifier, decay: float) -> AveragedModel:
    """A copy of the classifier for `update_parameters`: decay x itself + (1 - decay) x the weights, at each step.

    It begins with the weights after the first step. Its own weights take no gradient.
    """
    averaged = AveragedModel(classifier, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    averaged.requires_grad_(False)
    return averaged


def epoch_file(folder: Path, epoch: int) -> Path:
    """Where the weights after an epoch, counted from 1, are kept."""
    return folder / f"epoch-{epoch}.safetensors"


def epochs_to_average(trained: int, wished: int) -> list[int]:
    """The last epochs, counted from 1, that an average of `wished` takes after `trained`; none where there are not two."""
    last = list(range(max(1, trained - wished + 1), trained + 1))
    return last if len(last) >= LEAST_EPOCHS else []


def load_average(classifier: Classifier, folder: Path, epochs: list[int]) -> None:
    """Give the classifier the equal average (Izmailov et al. 2018, arXiv:1803.05407) of the weights after these epochs."""
    # One tensor at a time: all at once, PyTorch 2.15 cannot average the whole numbers that count batches.
    averaged = AveragedModel(classifier, avg_fn=get_swa_avg_fn(), use_buffers=True)  # type: ignore[no-untyped-call]
    for epoch in epochs:
        classifier.load_state_dict(load_file(epoch_file(folder, epoch)))
        averaged.update_parameters(classifier)
    classifier.load_state_dict(averaged.module.state_dict())
