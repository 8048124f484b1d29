"""Class-activation maps: Grad-CAM, which asks the score, and Eigen-CAM, which asks no gradient, by pytorch-grad-cam.

In: a classifier, one of its layers, what is asked of it (LogOdds) and pixels uint8 [n, side, side, 3]. Out: ClassMaps.
Writes: nothing. Which maps, of what, and why is in docs/decisions/0022.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import EigenCAM, GradCAM
from torch import Tensor, nn

from leukolens.data.preprocessing import Pixels
from leukolens.errors import SettingsError
from leukolens.explanation.placement import Grid, grid_of
from leukolens.models.architectures import Architecture
from leukolens.models.classifier import Classifier
from leukolens.progress import Advance, progress
from leukolens.settings import CamMethod
from leukolens.training.features import to_levels

Maps = NDArray[np.float32]

_BATCH = 8
_MAP_AXES = 4


@dataclass(frozen=True)
class LogOdds:
    """What a map is asked of: the calibrated log odds of some classes against all others.

    A probability that is nearly 0 or 1 has hardly any gradient left, and the logit of one class alone leaves out what the
    others say; of two classes the log odds are the difference of their logits over the temperature.

    Args:
        positions: columns of the logits that count as these classes; not all of them.
        temperature: what the logits are divided by.
    """

    positions: tuple[int, ...]
    temperature: float = 1.0

    def __call__(self, logits: Tensor) -> Tensor:
        """Of logits [classes] a scalar, of [batch, classes] one for each image."""
        chosen = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        chosen[list(self.positions)] = True
        scaled = logits / self.temperature
        return torch.logsumexp(scaled[..., chosen], dim=-1) - torch.logsumexp(scaled[..., ~chosen], dim=-1)


@dataclass(frozen=True)
class Explained:
    """A network and the layer whose feature map is weighed.

    Args:
        classifier: in evaluation mode and of float32; taken over: no gradients reach its weights afterwards.
        architecture: its row, which names the layer that ends the network.
        layer: dotted name of a layer of the library's network; None means that of the architecture.
        device: "cpu", "cuda" or "mps".
    """

    classifier: Classifier
    architecture: Architecture
    layer: str | None = None
    device: str = "cpu"

    @property
    def layer_name(self) -> str:
        """The layer that is weighed; raises SettingsError where nobody has named one."""
        if not (self.layer or self.architecture.cam_layer):
            raise self._no_such_layer("no layer")
        return self.layer or self.architecture.cam_layer

    @property
    def module(self) -> nn.Module:
        """That layer itself; raises SettingsError where the network has none of that name."""
        try:
            return self.classifier.backbone.network.get_submodule(self.layer_name)
        except AttributeError as error:
            raise self._no_such_layer(self.layer_name) from error

    def _no_such_layer(self, received: str) -> SettingsError:
        parts = ", ".join(name for name, _ in self.classifier.backbone.network.named_children())
        return SettingsError(
            f"The layer of {self.architecture.display_name} to be explained is not known.",
            expected=f"the dotted name of a layer that gives a feature map; the network's parts are {parts}",
            received=received,
            remedy="name one with --layer, as a rule the last before the pooling",
        )


@dataclass(frozen=True)
class ClassMaps:
    """What a network answered and where its answer is sensitive.

    Args:
        maps: by method, float32 [n, side, side] between 0 and 1; each is scaled by itself to a largest value of 1, so that
            maps of two cells cannot be compared in strength. 0 everywhere where no place stands out: nothing speaks for the
            classes, or everything alike.
        probability: float64 [n], calibrated, of the classes that the maps are of, by this network in float32.
        grid: where the places of the feature map lie in the picture.
    """

    maps: dict[CamMethod, Maps]
    probability: NDArray[np.float64]
    grid: Grid


@dataclass(frozen=True)
class Black:
    """What a network makes of a black picture, which maps are against: the same for all pictures of one size.

    Args:
        activations: float32 [channels, places, places], of the layer that is weighed.
        grid: where those places lie in the picture.
        side_px: side of the picture.
    """

    activations: Maps
    grid: Grid
    side_px: int


class _AgainstBlack:
    """What both methods have here beyond the library: what a black picture gives, and maps that stay small.

    `placement` says where the places of a small map lie in the picture.
    """

    black: Maps
    """Activations [channels, places, places] for a black picture."""

    def get_target_width_height(self, _levels: Tensor) -> tuple[int, int]:
        """Width and height of the feature map, in places."""
        height, width = self.black.shape[1:]
        return width, height


class GradCAMAgainstBlack(_AgainstBlack, GradCAM):  # type: ignore[misc]
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) of the activations less those for a black picture.

    The head's bias is no part of a map, and what the bias makes up for must not be one either: a head fitted on standardised
    features takes their mean off by its bias, so that activations as they are speak for or against a class all alike.
    """

    def get_cam_image(
        self, levels: Tensor, layer: nn.Module, targets: list[LogOdds], activations: Maps, grads: Maps, *_: object
    ) -> Maps:
        """Channels summed by their weights: [n, places, places]."""
        weights: Maps = self.get_cam_weights(levels, layer, targets, activations, grads)
        summed: Maps = np.einsum("nc,nchw->nhw", weights, activations - self.black).astype(np.float32)
        return summed


class EigenCAMAgainstBlack(_AgainstBlack, EigenCAM):  # type: ignore[misc]
    """Eigen-CAM (Muhammad & Yeasin 2020, arXiv:2008.00299) of the activations less those for a black picture.

    The library takes the mean over the places off instead. The sign of what is left is arbitrary: its maps show the cell or all
    around it by chance.
    """

    def get_cam_image(self, levels: Tensor, layer: nn.Module, targets: list[LogOdds], activations: Maps, *_: object) -> Maps:
        """Give the main pattern of the activations: [n, places, places]."""
        return main_pattern(activations - self.black)


_CAMS: dict[CamMethod, type[Any]] = {"gradcam": GradCAMAgainstBlack, "eigencam": EigenCAMAgainstBlack}


def main_pattern(activations: Maps) -> Maps:
    """Project activations [n, channels, places, places] onto their first right singular vector: [n, places, places].

    Of its two signs that is taken by which the values sum to more than 0: nothing is asked of where the cell is.
    """
    places = activations.reshape(*activations.shape[:2], -1).transpose(0, 2, 1)
    _, _, directions = np.linalg.svd(places, full_matrices=False)
    projections = (places @ directions[:, 0, :, None])[..., 0]
    projections *= np.where(projections.sum(axis=1, keepdims=True) < 0, -1, 1)
    pattern: Maps = projections.reshape(len(activations), *activations.shape[2:]).astype(np.float32)
    return pattern


def see_black(explained: Explained, side_px: int) -> Black:
    """Ask the network, which goes to its device, for its answer to a black picture.

    Raises SettingsError where the layer is not known or gives no feature map [batch, channels, side, side].
    """
    network = explained.classifier.to(explained.device).eval().requires_grad_(requires_grad=False)
    seen: list[Tensor] = []

    def keep(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output.detach())

    with _graph_from_layer(explained):
        grid = grid_of(network, explained.module, side_px)
        handle = explained.module.register_forward_hook(keep)
        try:
            # In memory as the pictures will lie: another order rounds otherwise.
            network(to_levels(np.zeros((1, side_px, side_px, 3), np.uint8), explained.device))
        finally:
            handle.remove()
    return Black(seen[0][0].cpu().numpy(), grid, side_px)


def class_maps(
    explained: Explained, target: LogOdds, pixels: Pixels, methods: Sequence[CamMethod], black: Black | None = None
) -> ClassMaps:
    """Run a network eagerly in float32 over pixels uint8 [n, side, side, 3], n at least 1, and map what it answers.

    `black` is what `see_black` gave for this network and side; None means that it is asked for now. Raises SettingsError
    where the layer is not known or gives no feature map [batch, channels, side, side].
    """
    black = black or see_black(explained, pixels.shape[1])
    with _graph_from_layer(explained):
        found = {method: _mapped(explained, target, pixels, method, black) for method in methods}
    maps = {method: _enlarged(maps, black.grid, pixels.shape[1]) for method, (maps, _) in found.items()}
    return ClassMaps(maps, found[methods[0]][1], black.grid)


def _enlarged(maps: Maps, grid: Grid, side_px: int) -> Maps:
    """Lay small maps over the picture; the largest value of each is 1 again, though it may lie between two pixels."""
    large = grid.enlarged(maps, side_px)
    largest = large.max(axis=(1, 2), keepdims=True)
    scaled: Maps = np.divide(large, largest, out=np.zeros_like(large), where=largest > 0)
    return scaled


@contextmanager
def _graph_from_layer(explained: Explained) -> Iterator[None]:
    """Let gradients begin at the layer's output: nothing below it is kept for a way back that nobody goes."""
    backbone = explained.classifier.backbone
    ends_in_relu = backbone.final_relu
    # A DenseNet ends in a ReLU that is no layer. Taken into the layer, the map weighs what is pooled, and not negative values
    # that never reach the head.
    takes_relu = ends_in_relu and explained.layer_name == explained.architecture.cam_layer

    def restart(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> Tensor:
        feature_map = _checked(output, explained)
        return (torch.relu(feature_map) if takes_relu else feature_map).detach().requires_grad_()

    handle = explained.module.register_forward_hook(restart)
    backbone.final_relu = ends_in_relu and not takes_relu
    try:
        yield
    finally:
        handle.remove()
        backbone.final_relu = ends_in_relu


def _checked(output: object, explained: Explained) -> Tensor:
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    # Channels last, as some networks of timm have them, is no square in the last two.
    if not isinstance(output, Tensor) or len(shape) != _MAP_AXES or shape[2] != shape[3]:
        raise SettingsError(
            f"{explained.layer_name} of {explained.architecture.display_name} gives no feature map.",
            expected="a layer whose output is [batch, channels, side, side]",
            received=f"an output of shape {list(shape)}" if shape else f"an output of type {type(output).__name__}",
            remedy="name another layer with --layer, as a rule the last before the pooling",
        )
    return output


def _mapped(
    explained: Explained, target: LogOdds, pixels: Pixels, method: CamMethod, black: Black
) -> tuple[Maps, NDArray[np.float64]]:
    """Maps [n, places, places] of one method, and the probabilities [n] that were met on the way."""
    cam = _CAMS[method](explained.classifier, [explained.module])
    cam.black = black.activations
    maps, probabilities = [], []
    try:
        with _shown(f"{explained.architecture.display_name}: {method}", len(pixels)) as advance:
            for start in range(0, len(pixels), _BATCH):
                levels = to_levels(pixels[start : start + _BATCH], explained.device)
                maps.append(cam(levels, [target] * len(levels)))
                probabilities.append(torch.sigmoid(target(cam.outputs.detach().cpu().double())).numpy())
                advance(len(levels))
    finally:
        cam.activations_and_grads.release()
    return np.concatenate(maps).astype(np.float32), np.concatenate(probabilities)


@contextmanager
def _shown(description: str, total: int) -> Iterator[Advance]:
    """Progress of more images than one batch: a few are soon done, and a server that is asked for one draws no bar."""
    if total > _BATCH:
        with progress(description, total) as advance:
            yield advance
    else:
        yield _unseen


def _unseen(steps: int = 1) -> None:
    """Show nothing."""
