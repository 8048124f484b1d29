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
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros(batch)
    matrix = torch.stack([cosine * mirror, -sine, zero, sine * mirror, cosine, zero], dim=1).view(batch, 2, 3)
    grid = functional.affine_grid(matrix.to(levels.device), list(levels.shape), align_corners=False)
    return functional.grid_sample(levels, grid, padding_mode="zeros", align_corners=False)


def _restain(levels: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Scale and shift optical density -log(level / 255) of the foreground: level' = 255 * light * (level / 255)^amount."""
    batch = len(levels)
    amount = 1 + settings.stain_shift * torch.randn(batch, 3, 1, 1, generator=generator)
    density = settings.brightness_shift * torch.randn(batch, 1, 1, 1, generator=generator)
    light = torch.exp(-density).to(levels.device)
    stained = _WHITE * light * (levels / _WHITE).clamp_min(1e-6) ** amount.to(levels.device)
    is_cell = levels.amax(dim=1, keepdim=True) > BACKGROUND_LEVEL
    return torch.where(is_cell, stained.clamp(0, _WHITE), levels)
