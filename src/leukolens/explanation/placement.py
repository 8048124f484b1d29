"""Where the places of a feature map lie in the picture, so that a map is drawn over what it speaks of.

In: a network and one of its layers; low-resolution maps [n, places, places]. Out: Grid; maps [n, side, side]. Writes: nothing.

To enlarge a map as if its places filled the picture evenly is usual, and wrong: strided layers that pad on both sides, as those
of ResNet and EfficientNet, put place i around pixel 32 i, and not around 32 i + 15.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leukolens.progress import logger

_WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class Grid:
    """Place i of a feature map, along either axis, is the centre of what is around pixel `first_px + step_px * i`."""

    first_px: float
    step_px: float

    def after(self, window: _Window) -> Grid:
        """The grid of what a layer with that window gives of a map with this grid."""
        return Grid(self.first_px + self.step_px * window.shift, self.step_px * window.stride)

    def enlarged(self, maps: NDArray[np.floating], side_px: int) -> NDArray[np.float32]:
        """Interpolate maps [n, places, places] linearly between their centres, [n, side_px, side_px]; constant beyond."""
        places = np.arange(maps.shape[-1])
        centres = self.first_px + self.step_px * places
        weights = np.stack([np.interp(np.arange(side_px), centres, row) for row in np.eye(len(places))], axis=1)
        return (weights @ maps @ weights.T).astype(np.float32)


def even_grid(places: int, side_px: int) -> Grid:
    """The grid of places that fill the picture evenly."""
    step_px = side_px / places
    return Grid((step_px - 1) / 2, step_px)


def grid_of(network: nn.Module, layer: nn.Module, side_px: int) -> Grid:
    """Follow the windows of convolutions and poolings from the picture to a layer, by one pass over a black picture.

    Branches that run side by side must change the size by the same windows; of several the first counts. Where other layers
    change the size too, the grid is even, and the log says so.
    """
    device = next(network.parameters()).device
    with _noted_windows(network, layer) as seen, torch.no_grad():
        network(torch.zeros(1, 3, side_px, side_px, dtype=torch.uint8, device=device))
    grid, size = Grid(0.0, 1.0), side_px
    while size != seen.places and size in seen.windows:
        window = seen.windows.pop(size)
        grid, size = grid.after(window), window.places
    if size == seen.places:
        return grid
    logger.warning("The places of the feature map are taken to fill the picture evenly: how they lie is not known.")
    return even_grid(seen.places, side_px)


@dataclass(frozen=True)
class _Window:
    """A layer that makes a map of another size: `shift` of its first window's centre from the first place, in places."""

    shift: float
    stride: int
    places: int


@dataclass
class _Seen:
    """The windows met so far by the size of what they read, and the number of places along the side of the layer's map."""

    windows: dict[int, _Window] = field(default_factory=dict)
    places: int = 0


@contextmanager
def _noted_windows(network: nn.Module, layer: nn.Module) -> Iterator[_Seen]:
    seen = _Seen()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before, after = inputs[0].shape[-1], output.shape[-1]
        if not seen.places and before != after:
            seen.windows.setdefault(before, _window_of(module, before, after))

    def stop(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.places = output.shape[-1]

    handles = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, _WINDOWED)]
    handles.append(layer.register_forward_hook(stop))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _window_of(module: nn.Module, before: int, after: int) -> _Window:
    """The window by a layer's own padding or, where that does not give the size, padded alike on both sides.

    TensorFlow's "same", as of EfficientNet-Lite0, pads an even picture on the right only. By its windows the middle place would
    answer to what is around pixel 127 of 224; trained kernels make up for that, and the gradient's centre lies at 104 to 124.
    """
    kernel, stride, padding, dilation = (
        _last(getattr(module, name, 1)) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    reach = dilation * (kernel - 1)
    lack = (after - 1) * stride + reach + 1 - before
    is_own = (before + 2 * padding - reach - 1) // stride + 1 == after or not isinstance(module, nn.Conv2d)
    return _Window((reach - (2 * padding if is_own else max(0, lack))) / 2, stride, after)


def _last(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[-1]
