"""Training transforms, each with the reason why it is safe for stained cells.

In: grey levels, uint8 or float [batch, 3, height, width], 0–255. Out: float32, the same shape and range. Writes: nothing.

- Flips and any rotation: a cell on a slide has no up, down, left or right; the cell lies in the middle of its canvas on
  black (or the whole field is texture), so turning it loses only corners. Size is never changed: cell size means something.
- Stain shift: the amount of each dye varies between laboratories and days. By Beer and Lambert's law a dye adds to optical
  density, so a factor per channel on optical density changes the amount of stain and keeps black and white where they are.
  It is kept mild (5 %), because colour also separates classes; a hue rotation would make colours that no stain has.
- Brightness: lamps differ; an offset on optical density is a factor on transmitted light.
The black canvas is no stain: it stays black.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from leukolens.data.preprocessing import BACKGROUND_LEVEL
from leukolens.settings import AugmentationSettings

_WHITE = 255.0
# What counts as no light at all, so that black has a density: a millionth of white.
_DARKEST = 1e-6


def augment(levels: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Give each image of a batch its own random flip, rotation and stain, drawn from `generator` (on the CPU)."""
    levels = levels.float()
    if settings.flip or settings.rotate:
        levels = _turn(levels, settings, generator)
    if settings.stain_shift or settings.brightness_shift:
        levels = _restain(levels, settings, generator)
    return levels


def _turn(levels: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Flip and rotate by any angle in one bilinear sampling; what comes from outside is black."""
    batch = len(levels)
    angle = torch.rand(batch, generator=generator) * (2 * math.pi if settings.rotate else 0)
    mirror = 1 - 2 * torch.randint(0, 2, (batch,), generator=generator) * int(settings.flip)
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.stack([cosine * mirror, sine * mirror, -sine, cosine], dim=1).view(batch, 2, 2)
    grid = _grid(matrix.to(levels.device), *levels.shape[2:])
    return functional.grid_sample(levels, grid, padding_mode="zeros", align_corners=False)


def _grid(matrix: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel comes from, (x, y) from -1 to 1: [batch, height, width, 2].

    `matrix` [batch, 2, 2] holds where a step in x and one in y lead. A sum of two small tables: `affine_grid` multiplies a
    matrix for every pixel and takes eight times as long.
    """
    x, y = (((2 * torch.arange(side, device=matrix.device) + 1) / side - 1).view(-1, 1) for side in (width, height))
    of_columns, of_rows = x * matrix[:, None, 0], y * matrix[:, None, 1]
    return of_rows[:, :, None] + of_columns[:, None]


def _restain(levels: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Scale and shift optical density -log(level / 255) of the foreground: level' = 255 * light * (level / 255)^amount.

    On the logarithm of levels, as one product and one sum in place: a third faster than the power.
    """
    batch = len(levels)
    amount = (1 + settings.stain_shift * torch.randn(batch, 3, 1, 1, generator=generator)).to(levels.device)
    density = (settings.brightness_shift * torch.randn(batch, 1, 1, 1, generator=generator)).to(levels.device)
    logarithm = levels.clamp_min(_WHITE * _DARKEST).log_()
    stained = torch.addcmul((1 - amount) * math.log(_WHITE) - density, logarithm, amount).exp_().clamp_max_(_WHITE)
    is_cell = levels.amax(dim=1, keepdim=True) > BACKGROUND_LEVEL
    return torch.where(is_cell, stained, levels)
