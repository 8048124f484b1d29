"""Training transforms, each with the reason why it is safe for stained cells.

In: grey levels, uint8 or float [batch, 3, height, width], 0–255. Out: float32, the same shape and range. Writes: nothing.

- Flips and any rotation: a cell on a slide has no up, down, left or right; the cell lies in the middle of its canvas on
  black (or the whole field is texture), so turning it loses only corners. Size is never changed: cell size means something.
- Stain shift: the amount of each dye varies between laboratories and days. By Beer and Lambert's law a dye adds to optical
  density, so a factor per channel on optical density changes the amount of stain and keeps black and white where they are.
  It is kept mild (5 %), because colour also separates classes; a hue rotation would make colours that no stain has.
- Brightness: lamps differ; an offset on optical density is a factor on transmitted light.
- HED shift (off by default): a factor and an offset on the amount of each stain, once haematoxylin, eosin and DAB have been
  taken apart by their colours. After Tellez et al. (IEEE Trans Med Imaging 2018, Med Image Anal 2019), who draw both evenly,
  as here. Blood is stained after Romanowsky and holds no DAB: the three are a basis to vary, not what is in the cell.
- Greyscale (off by default): an image without colour leaves form and texture to learn from, which laboratories agree on.
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
# Optical density (decimal; red, green, blue) of one unit of haematoxylin, eosin and DAB: Ruifrok & Johnston, Anal Quant Cytol
# Histol 2001, to the two places that scikit-image's `rgb_from_hed` gives.
_RGB_OF_HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=torch.float64)
_HED_OF_RGB = torch.linalg.inv(_RGB_OF_HED)
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as `colour: grey` has it
# A turned pixel is mixed from four, the farthest of which is less than the diagonal of one away.
_BILINEAR_REACH_PX = 2.0


def augment(levels: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Give each image of a batch its own random flip, rotation and stain, drawn from `generator` (on the CPU)."""
    margin = _black_margin(levels)
    # Planes first: sampling reads one after the other, and bytes are turned over faster than floats.
    levels = levels.contiguous().float()
    turns = settings.flip or settings.rotate
    inside = _turn(levels, margin, settings, generator) if turns else _without_margin(levels, margin)
    if settings.stain_shift or settings.brightness_shift:
        inside = _restain(inside, settings, generator)
    if settings.hed_shift:
        inside = _shift_stains(inside, settings.hed_shift, generator)
    if settings.greyscale:
        inside = _lose_colour(inside, settings.greyscale, generator)
    return functional.pad(inside, [margin] * 4) if margin else inside


def _black_margin(levels: Tensor) -> int:
    """Width in px of the border that stays black however the images of a batch are turned around their middle.

    A cell lies on a black canvas: of C-NMC's, a batch reaches about half, and the rest need not be worked on. Looked for on
    processors only; a GPU would have to be waited for.
    """
    side = levels.shape[-1]
    if levels.device.type != "cpu" or levels.shape[-2] != side:
        return 0
    # In the order in which cached pixels lie in memory: 80 times as fast as along the axes.
    brightest = levels.permute(0, 2, 3, 1).flatten(1).amax(dim=0).view(side, side, -1).amax(dim=2)
    from_middle = (torch.arange(side) - (side - 1) / 2) ** 2
    distance = (from_middle[:, None] + from_middle)[brightest > 0]
    if not len(distance):
        return 0
    return max(0, math.floor((side - 1) / 2 - float(distance.max().sqrt()) - _BILINEAR_REACH_PX))


def _without_margin(values: Tensor, margin: int) -> Tensor:
    """Rows and columns within the margin, of [..., height, width]."""
    return values[..., margin : values.shape[-2] - margin, margin : values.shape[-1] - margin]


def _turn(levels: Tensor, margin: int, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Flip and rotate by any angle in one bilinear sampling, all but the margin; what comes from outside is black."""
    batch = len(levels)
    angle = torch.rand(batch, generator=generator) * (2 * math.pi if settings.rotate else 0)
    mirror = 1 - 2 * torch.randint(0, 2, (batch,), generator=generator) * int(settings.flip)
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.stack([cosine * mirror, sine * mirror, -sine, cosine], dim=1).view(batch, 2, 2)
    height, width = levels.shape[2:]
    grid = _grid(matrix.to(levels.device), height, width, margin)
    return functional.grid_sample(levels, grid, padding_mode="zeros", align_corners=False)


def _grid(matrix: Tensor, height: int, width: int, margin: int = 0) -> Tensor:
    """Where each pixel within the margin comes from, (x, y) from -1 to 1: [batch, rows, columns, 2].

    `matrix` [batch, 2, 2] holds where a step in x and one in y lead. A sum of two small tables: `affine_grid` multiplies a
    matrix for every pixel and takes eight times as long.
    """
    inside = (torch.arange(margin, side - margin, device=matrix.device) for side in (width, height))
    x, y = (((2 * at + 1) / side - 1).view(-1, 1) for at, side in zip(inside, (width, height), strict=True))
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


def _shift_stains(levels: Tensor, shift: float, generator: torch.Generator) -> Tensor:
    """Multiply the amount of each stain in the foreground by 1 ± `shift` and add ± `shift` (decimal optical density).

    Taking apart, changing and putting together again is linear in optical density: one 3 x 3 matrix and one offset an image.
    """
    factor, offset = 2 * torch.rand(2, len(levels), 3, generator=generator, dtype=torch.float64) - 1
    mixing = ((_HED_OF_RGB * (1 + shift * factor)[:, None]) @ _RGB_OF_HED).float().to(levels.device)[..., None, None]
    mixed = (-math.log(10) * shift * offset @ _RGB_OF_HED).float().to(levels.device)[..., None, None]
    # Below level 1, eight bits tell no density from none; stains have to be told apart by what was measured.
    logarithm = levels.clamp_min(1.0).div_(_WHITE).log_()
    # As sums, not as a product of matrices: a step in bfloat16 would compute that with 8 bits.
    for channel in range(3):
        mixed = torch.addcmul(mixed, logarithm[:, channel, None], mixing[:, channel])
    stained = mixed.exp_().mul_(_WHITE).clamp_max_(_WHITE)
    is_cell = levels.amax(dim=1, keepdim=True) > BACKGROUND_LEVEL
    return torch.where(is_cell, stained, levels)


def _lose_colour(levels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Put luma on all channels of each image with probability `share`."""
    chosen = (torch.rand(len(levels), 1, 1, 1, generator=generator) < share).to(levels.device)
    weights = torch.tensor(_LUMA, device=levels.device).view(1, 3, 1, 1)
    return torch.where(chosen, (levels * weights).sum(dim=1, keepdim=True), levels)
