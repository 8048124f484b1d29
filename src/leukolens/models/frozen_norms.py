"""Batch normalisation on frozen statistics as a part of the convolution before it: one pass over the activations less.

In: a classifier whose statistics are frozen. Out: the same classifier, computing the same function of the same weights.
Writes: nothing.

On frozen statistics a normalisation is one factor and one sum per channel, and so may be taken into the weights of the
convolution: conv(x, w) * s + b = conv(x, w * s) + b. Both sets of weights go on learning; the product is made anew at
each step, over thousands of numbers where the normalisation goes over millions. docs/decisions/0016 has the gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from leukolens.models.classifier import Classifier
from leukolens.progress import logger

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]

# Of the norm of the features; float32 rounding through 121 layers stays a hundred times below.
_LARGEST_DIFFERENCE = 1e-3


@contextmanager
def folded_norms(classifier: Classifier, side_px: int) -> Iterator[int]:
    """While inside, normalisations are computed by the convolutions before them; gives how many.

    Names and values of all weights stay. Whether the function does too is tried on one image: a network that also reads
    what lies between a convolution and its normalisation is left as it is. So are kinds of layers other than PyTorch's own.

    Args:
        classifier: with `norm_layers_frozen`, on the CPU; other normalisations use the statistics of the batch.
        side_px: side of its input.
    """
    pairs = _pairs(classifier, side_px) if classifier.norm_layers_frozen else []
    if not pairs:
        yield 0
        return
    plain = _features(classifier, side_px)
    try:
        _fold(pairs)
        difference = float((_features(classifier, side_px) - plain).norm() / plain.norm())
        same = difference < _LARGEST_DIFFERENCE
        if not same:
            logger.debug("batch normalisation not folded: features would differ by a share of %.1g", difference)
            _unfold(pairs)
        yield len(pairs) if same else 0
    finally:
        _unfold(pairs)


def _pairs(classifier: Classifier, side_px: int) -> list[Pair]:
    """Convolutions and the normalisations that read their output, as one image meets them."""
    made_by: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[Pair] = []

    def remember(layer: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        if type(layer) is nn.Conv2d:
            # The tensor is kept: its id would be given again to another.
            made_by[id(output)] = (layer, output)
        elif type(layer) is nn.BatchNorm2d and layer.track_running_stats and layer.affine and id(given[0]) in made_by:
            pairs.append((made_by[id(given[0])][0], layer))

    hooks = [layer.register_forward_hook(remember) for layer in classifier.modules()]
    try:
        _features(classifier, side_px)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


def _features(classifier: Classifier, side_px: int) -> Tensor:
    """Features of one image of noise, in float32, whatever the classifier is in the middle of."""
    was_training = classifier.training
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (1, 3, side_px, side_px), dtype=torch.uint8, generator=generator)
    # Not inference_mode: what it makes may not be trained on.
    with torch.no_grad():
        features = classifier.eval().features(levels)
    classifier.train(was_training)
    return features


def _fold(pairs: list[Pair]) -> None:
    for convolution, norm in pairs:
        vars(convolution)["forward"] = partial(_normalised, convolution, norm)
        vars(norm)["forward"] = _as_it_is


def _unfold(pairs: list[Pair]) -> None:
    for layer in (layer for pair in pairs for layer in pair):
        vars(layer).pop("forward", None)


def _normalised(convolution: nn.Conv2d, norm: nn.BatchNorm2d, images: Tensor) -> Tensor:
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    shift = norm.bias - mean * scale
    if convolution.bias is not None:
        shift = shift + convolution.bias * scale
    folded: Tensor = convolution._conv_forward(images, convolution.weight * scale.view(-1, 1, 1, 1), shift)
    return folded


def _as_it_is(images: Tensor) -> Tensor:
    return images
