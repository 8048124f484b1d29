from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leukolens.data.preprocessing import Preprocessing
from leukolens.explanation.placement import Grid, even_grid, grid_of
from leukolens.models.architectures import find_architecture
from leukolens.models.classifier import Backbone, Classifier

# First centre and step in pixels of a 224 px picture, by hand from the kernels, strides and paddings of the papers' tables.
GRIDS = {
    "vgg16": Grid(7.5, 16),  # four poolings of 2: the middle of 16 px
    "alexnet": Grid(15, 16),  # 11/4 pad 2: 4i + 3; pooling 3/2: 8i + 7; again: 16i + 15
    "resnet50": Grid(0, 32),  # odd kernels padded on both sides keep the first place at pixel 0
    "densenet121": Grid(14, 32),  # 4i, then average poolings of 2: 8i + 2, 16i + 6, 32i + 14
    "efficientnet_b0": Grid(0, 32),
    "tf_efficientnet_lite0": Grid(15.5, 32),  # padded by TensorFlow's rule, taken as alike on both sides: even
}


class Chain(nn.Module):
    """Layers one after the other, on float levels."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, levels: Tensor) -> Tensor:
        return self.layers(levels.float())


@pytest.mark.parametrize(("name", "expected"), GRIDS.items())
def test_grid_of_every_architecture_by_hand(name: str, expected: Grid) -> None:
    row = find_architecture(name)
    network = Classifier(Backbone(row, 224), Preprocessing((450, 450), 224), 2, 0.0).eval()
    assert grid_of(network, network.backbone.network.get_submodule(row.cam_layer), 224) == expected


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 1, 8, stride=8), Grid(3.5, 8)),
        (nn.Conv2d(3, 1, 3, padding=1), Grid(0, 1)),
        (nn.Conv2d(3, 1, 5), Grid(2, 1)),
        (nn.Conv2d(3, 1, 3, stride=2, padding=2, dilation=2), Grid(0, 2)),
        (nn.MaxPool2d(2, ceil_mode=True), Grid(0.5, 2)),
        (nn.AvgPool2d(3, stride=3, padding=1), Grid(0, 3)),
    ],
)
def test_grid_of_one_layer_by_hand(layer: nn.Module, expected: Grid) -> None:
    network = Chain(layer, nn.Conv2d(layer.out_channels if isinstance(layer, nn.Conv2d) else 3, 1, 1))
    assert grid_of(network, layer, 33) == expected


def test_what_comes_after_the_layer_does_not_count() -> None:
    layer = nn.Conv2d(3, 1, 4, stride=4)
    network = Chain(layer, nn.MaxPool2d(2), nn.Conv2d(1, 1, 3))
    assert grid_of(network, layer, 32) == Grid(1.5, 4)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_place_answers_to_the_pixels_around_its_centre() -> None:
    """What a grid says is what a network does: the middle of the pixels that a place depends on is its centre."""
    layers = [nn.Conv2d(3, 1, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, 2, 1)]
    for layer in (layers[0], layers[3]):
        nn.init.constant_(layer.weight, 1.0)
    network = Chain(*layers)
    grid = grid_of(network, layers[3], 96)
    levels = torch.rand(1, 3, 96, 96, requires_grad=True)
    found = network.layers[0](levels)
    for layer in (nn.AvgPool2d(3, 2, 1), layers[2], layers[3]):
        found = layer(found)
    found[0, 0, 3, 3].backward()
    assert levels.grad is not None
    reached = torch.nonzero(levels.grad[0].abs().sum(dim=(0, 1))).ravel()
    assert (reached[0] + reached[-1]).item() / 2 == grid.first_px + 3 * grid.step_px


def test_maps_are_interpolated_between_centres_and_constant_beyond() -> None:
    maps = np.array([[[0.0, 8.0], [0.0, 8.0]]])
    large = Grid(2, 4).enlarged(maps, 8)
    assert large.shape == (1, 8, 8)
    assert large.dtype == np.float32
    assert large[0, 5].tolist() == [0, 0, 0, 2, 4, 6, 8, 8]
    assert large[0].T[3].tolist() == [2] * 8


def test_even_grid_is_the_usual_enlargement() -> None:
    assert even_grid(7, 224) == Grid(15.5, 32)


def test_a_network_that_changes_size_otherwise_is_taken_as_even_and_told(caplog: pytest.LogCaptureFixture) -> None:
    layer = nn.Conv2d(3, 1, 1)
    with caplog.at_level(logging.WARNING, "leukolens"):
        assert grid_of(Chain(nn.Upsample(scale_factor=0.25), layer), layer, 32) == even_grid(8, 32)
    assert caplog.messages == [
        "The places of the feature map are taken to fill the picture evenly: how they lie is not known."
    ]
