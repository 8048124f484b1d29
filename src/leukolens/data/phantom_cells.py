"""Draw one synthetic cell: outline, nucleus, chromatin and stain, from random numbers alone.

In: the traits of a synthetic subject and a random generator. Out: uint8 [450, 450, 3], a segmented cell on exact black.
Writes: nothing; `data/phantom.py` decides which cells there are and writes them.

Colours are mixed as optical densities (natural logarithm, -ln(level / 255)), because stains absorb: a thicker or
stronger stain multiplies the density, while the lamp multiplies the light.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from leukolens.data.preprocessing import Pixels

Field = NDArray[np.float32]
Outline = NDArray[np.float64]

CANVAS_PX = 450  # C-NMC training and preliminary images
DARKEST_FOREGROUND = 48  # at least one channel of every cell pixel reaches it, so that the cell is never background


@dataclass(frozen=True)
class ClassTraits:
    """What differs, on average, between the two kinds of cells; all of it overlaps.

    `area_px` and `area_sd_px`: foreground area. `clumping`: mean of a standardised chromatin score, high for dense
    clumped chromatin, low for fine open chromatin. `nucleoli_chance`: share of cells with visible nucleoli.
    """

    area_px: float
    area_sd_px: float
    clumping: float
    nucleoli_chance: float


# Areas: foreground of the C-NMC training cells as computed in ChristianMarzahl/ISBI2019_WhiteBloodCancer,
# Statistics.ipynb. Clumping and nucleoli: chosen so that a good classifier, split by subject, errs about as often as
# published ones do on real cells.
CLASS_TRAITS: Mapping[str, ClassTraits] = {
    "all": ClassTraits(area_px=36_244, area_sd_px=7_176, clumping=-0.6, nucleoli_chance=0.6),
    "hem": ClassTraits(area_px=26_544, area_sd_px=7_762, clumping=0.6, nucleoli_chance=0.15),
}

# Shares of the variance that lie between subjects: cells of one subject resemble each other.
_AREA_VARIANCE_OF_SUBJECTS = 0.6
_CLUMPING_VARIANCE_OF_SUBJECTS = 0.7
_LARGEST_DEVIATION = 2.4  # standard deviations; the largest cell then still fits its canvas with a margin

# Optical densities (red, green, blue) of violet nuclei, blue cytoplasm and pale nucleoli after a Romanowsky stain.
_NUCLEUS_DENSITY = np.array([1.30, 2.12, 1.10], np.float32)
_CYTOPLASM_DENSITY = np.array([1.26, 1.62, 0.78], np.float32)
# Where chromatin opens up, red comes through most and blue least: pale spots look pink.
_CHROMATIN_TINT = np.array([1.15, 1.0, 0.6], np.float32)

_STRENGTH_SD = 0.12  # of the logarithm of a subject's density factor, all channels alike: stain strength
_HUE_SD = (0.11, 0.06, 0.11)  # the same, each channel for itself: hue; little in green, else violet turns to grey
_GAIN_SD = 0.07  # of the logarithm of a subject's illumination
_GRAIN_SD = 0.22  # of the logarithm of a subject's chromatin contrast: staining time, focus
_GRAIN_SCALE_SD = 0.16  # of the logarithm of its grain size: drying of the smear
_FILLING = (0.88, 0.96)
_VERTICES = 360
_MARGIN_PX = 12  # black that stays on every side of the canvas
_TILE_STEP_PX = 32  # texture tiles are multiples of it, which keeps the Fourier transform fast


@dataclass(frozen=True)
class SubjectTraits:
    """What all cells of one synthetic subject share.

    `area_shift_px`: added to the class's mean area. `clumping`: this subject's mean chromatin score. `nucleoli_chance`:
    share of its cells with nucleoli. `stain`: factors on the density, float32 [3]. `gain`: factor on the light. `grain`:
    factor on the contrast of the chromatin, `grain_scale` on its grain size. `filling`: mean share of the cell's radius
    that the nucleus takes. The last five have nothing to do with the class: they tell subjects, not diseases, apart.
    """

    label: str
    area_shift_px: float
    clumping: float
    nucleoli_chance: float
    stain: Field
    gain: float
    grain: float
    grain_scale: float
    filling: float


def draw_traits(label: str, deviations: tuple[float, float], random: np.random.Generator) -> SubjectTraits:
    """Draw a subject of class `label` ("all" or "hem").

    Args:
        label: key of CLASS_TRAITS.
        deviations: standard normal scores of the subject's cell size and chromatin, given from outside so that the
            subjects of a small set can be spread evenly.
        random: generator of everything else.
    """
    kind = CLASS_TRAITS[label]
    size, chromatin = deviations
    return SubjectTraits(
        label=label,
        area_shift_px=size * kind.area_sd_px * math.sqrt(_AREA_VARIANCE_OF_SUBJECTS),
        clumping=kind.clumping + chromatin * math.sqrt(_CLUMPING_VARIANCE_OF_SUBJECTS),
        nucleoli_chance=float(np.clip(kind.nucleoli_chance + random.normal(0, 0.15), 0, 1)),
        stain=np.exp(random.normal(0, _STRENGTH_SD) + random.normal(0, _HUE_SD)).astype(np.float32),
        gain=math.exp(random.normal(0, _GAIN_SD)),
        grain=math.exp(random.normal(0, _GRAIN_SD)),
        grain_scale=math.exp(random.normal(0, _GRAIN_SCALE_SD)),
        filling=random.uniform(*_FILLING),
    )


def draw_cell(traits: SubjectTraits, random: np.random.Generator) -> Pixels:
    """Draw one cell of a subject: uint8 [450, 450, 3], background exactly 0."""
    outline = draw_outline(traits, random)
    mask = draw_mask(outline)
    rows, columns = _tile(mask)
    inside = mask[rows, columns]
    density = _density(traits, outline - (columns.start, rows.start), inside, random)
    light = 255 * traits.gain * _lamp(inside.shape[0], random)[..., None] * np.exp(-density * traits.stain)
    levels = np.clip(np.rint(light[inside]), 0, 255)
    blue = levels[:, 2]
    blue[levels.max(axis=1) < DARKEST_FOREGROUND] = DARKEST_FOREGROUND
    pixels = np.zeros((CANVAS_PX, CANVAS_PX, 3), np.uint8)
    pixels[mask] = levels.astype(np.uint8)
    return pixels


def draw_outline(traits: SubjectTraits, random: np.random.Generator) -> Outline:
    """Draw the outline of one cell: vertices (x, y) in px, float64 [360, 2], centred on the canvas."""
    radii = _outline_radii(random)
    area_px = _sample_area_px(traits, random)
    # Area inside a polar curve: half the integral of the squared radius.
    scale = math.sqrt(area_px / (math.pi * float(np.mean(radii**2))))
    outline = _vertices(radii * scale)
    outline -= (outline.max(axis=0) + outline.min(axis=0)) / 2
    outline *= min(1.0, (CANVAS_PX / 2 - _MARGIN_PX) / float(np.abs(outline).max()))
    return outline + (CANVAS_PX - 1) / 2


def draw_mask(outline: Outline) -> NDArray[np.bool_]:
    """Fill an outline: bool [450, 450]."""
    return np.asarray(_fill(outline, CANVAS_PX)) > 0


def _sample_area_px(traits: SubjectTraits, random: np.random.Generator) -> float:
    kind = CLASS_TRAITS[traits.label]
    own = random.normal(0, kind.area_sd_px * math.sqrt(1 - _AREA_VARIANCE_OF_SUBJECTS))
    limit = _LARGEST_DEVIATION * kind.area_sd_px
    return kind.area_px + float(np.clip(traits.area_shift_px + own, -limit, limit))


def _outline_radii(random: np.random.Generator) -> Outline:
    """Radii of a smooth irregular outline around 1: low harmonics, a dent or bulge or two, seldom a short tail."""
    angles = np.linspace(0, 2 * math.pi, _VERTICES, endpoint=False)
    radii = np.ones(_VERTICES)
    for order in range(2, 8):
        radii += random.normal(0, 0.075 / order) * np.cos(order * angles + random.uniform(0, 2 * math.pi))
    for _ in range(random.integers(0, 4)):
        radii += _bump(angles, random.uniform(0.10, 0.35), random.uniform(-0.13, 0.10), random)
    if random.random() < 0.06:  # segmentation often leaves a tag of the neighbouring cell
        radii += _bump(angles, random.uniform(0.05, 0.08), random.uniform(0.12, 0.25), random)
    for order in range(12, 30, 3):  # the pixel-fine roughness of a traced edge
        radii += random.normal(0, 0.0022) * np.cos(order * angles + random.uniform(0, 2 * math.pi))
    return radii


def _bump(angles: Outline, width: float, height: float, random: np.random.Generator) -> Outline:
    apart = np.angle(np.exp(1j * (angles - random.uniform(0, 2 * math.pi))))
    bump: Outline = height * np.exp(-((apart / width) ** 2))
    return bump


def _vertices(radii: Outline) -> Outline:
    angles = np.linspace(0, 2 * math.pi, _VERTICES, endpoint=False)
    return np.column_stack([radii * np.cos(angles), radii * np.sin(angles)])


def _fill(outline: Outline, side_px: int) -> Image.Image:
    picture = Image.new("L", (side_px, side_px))
    # Pillow fills the pixels on the edge too; half a pixel less keeps the area.
    centre = outline.mean(axis=0)
    radii = np.linalg.norm(outline - centre, axis=1, keepdims=True)
    shrunk = centre + (outline - centre) * (1 - 0.5 / radii)
    ImageDraw.Draw(picture).polygon([tuple(vertex) for vertex in shrunk.tolist()], fill=255)
    return picture


def _tile(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The square window around a mask in which the texture is computed."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = min(CANVAS_PX, math.ceil(extent / _TILE_STEP_PX) * _TILE_STEP_PX)
    starts = [min(int(found[0]), CANVAS_PX - side) for found in (rows, columns)]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def _density(
    traits: SubjectTraits, outline: Outline, inside: NDArray[np.bool_], random: np.random.Generator
) -> Field:
    """Optical density before the subject's stain: float32 [side, side, 3]."""
    side = inside.shape[0]
    nucleus = _nucleus(outline, side, traits.filling, random)[..., None]
    chromatin = _chromatin(traits, side, random)
    chromatin -= _nucleoli(traits, outline.mean(axis=0), side, random)
    nuclear = _NUCLEUS_DENSITY * (1 + chromatin[..., None] * _CHROMATIN_TINT)
    cytoplasm = _CYTOPLASM_DENSITY * (1 + 0.05 * _noise(side, 7.0, random)[..., None])
    # The cell thins out towards its edge.
    thickness = 0.72 + 0.28 * _soften(Image.fromarray(inside), 4.0)[..., None]
    density: Field = thickness * (nucleus * nuclear + (1 - nucleus) * cytoplasm)
    return density


def _nucleus(outline: Outline, side_px: int, filling: float, random: np.random.Generator) -> Field:
    """Share of nucleus in every pixel, 0–1: it fills most of a lymphoblast, off centre, rounder than the cell."""
    centre = outline.mean(axis=0)
    spokes = outline - centre
    radii = np.linalg.norm(spokes, axis=1)
    rounder = np.minimum(0.6 * radii + 0.4 * radii.mean(), radii)
    reach = (filling + random.uniform(-0.02, 0.02)) * rounder / radii
    shift = random.normal(0, 0.02, 2) * radii.mean()
    return _soften(_fill(centre + shift + spokes * reach[:, None], side_px), 3.0)


def _chromatin(traits: SubjectTraits, side_px: int, random: np.random.Generator) -> Field:
    """Relative density of the chromatin around 0: dense and clumped for a high score, fine and open for a low one."""
    score = traits.clumping + random.normal(0, math.sqrt(1 - _CLUMPING_VARIANCE_OF_SUBJECTS))
    clumped = 1 / (1 + math.exp(-1.3 * score))
    clumps = np.tanh(1.3 * _noise(side_px, (4.0 + 2.5 * clumped) * traits.grain_scale, random))
    grain = _noise(side_px, 2.2 * traits.grain_scale, random)
    pale_spots = np.maximum(_noise(side_px, 3.2, random) - 1.1, 0)
    field: Field = (
        0.05 * (clumped - 0.5)
        + 0.035 * _noise(side_px, 20.0, random)
        + traits.grain * (0.02 + 0.09 * clumped) * clumps
        + traits.grain * (0.035 - 0.015 * clumped) * grain
        - (0.06 + 0.06 * clumped) * pale_spots
    ).astype(np.float32)
    return field


def _nucleoli(traits: SubjectTraits, centre: Outline, side_px: int, random: np.random.Generator) -> Field:
    """Density that one to three pale nucleoli take away, with a thin darker ring; 0 everywhere in cells without."""
    field = np.zeros((side_px, side_px), np.float32)
    if random.random() >= traits.nucleoli_chance:
        return field
    rows, columns = np.ogrid[:side_px, :side_px]
    for _ in range(random.integers(1, 4)):
        x, y = centre + random.normal(0, 0.16, 2) * side_px
        radius_px, squeeze = random.uniform(9, 16), random.uniform(0.75, 1.3)
        distance = np.hypot((columns - x) * squeeze, (rows - y) / squeeze) / radius_px
        field += random.uniform(0.09, 0.18) * np.exp(-(distance**4)).astype(np.float32)
        field -= (0.03 * np.exp(-(((distance - 1.3) / 0.25) ** 2))).astype(np.float32)
    return field


def _lamp(side_px: int, random: np.random.Generator) -> Field:
    """Uneven light over the tile: a slope of a few per cent in a random direction, float32 [side, side]."""
    slope = random.normal(0, 0.03, 2)
    ramp = np.linspace(-1, 1, side_px)
    field: Field = (1 + slope[0] * ramp[:, None] + slope[1] * ramp[None, :]).astype(np.float32)
    return field


def _soften(picture: Image.Image, radius_px: float) -> Field:
    blurred = picture.convert("L").filter(ImageFilter.GaussianBlur(radius_px))
    return np.asarray(blurred, np.float32) / np.float32(255)


def _noise(side_px: int, scale_px: float, random: np.random.Generator) -> Field:
    """White noise blurred by a Gaussian of `scale_px`, scaled to mean 0 and standard deviation 1."""
    shape = (side_px, side_px // 2 + 1, 2)
    spectrum = random.standard_normal(shape, np.float32).view(np.complex64)[..., 0]
    spectrum *= np.exp(np.float32(-2 * (math.pi * scale_px) ** 2) * _squared_frequencies(side_px))
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(side_px, side_px))
    scaled: Field = (field / field.std()).astype(np.float32)
    return scaled


@lru_cache(maxsize=16)
def _squared_frequencies(side_px: int) -> Field:
    rows, columns = np.fft.fftfreq(side_px), np.fft.rfftfreq(side_px)
    squared: Field = (rows[:, None] ** 2 + columns[None, :] ** 2).astype(np.float32)
    return squared
