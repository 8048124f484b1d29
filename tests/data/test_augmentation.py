from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from cohort import draw_cell
from leukolens.data.augmentation import augment
from leukolens.data.preprocessing import BACKGROUND_LEVEL
from leukolens.settings import AugmentationSettings

NOTHING = AugmentationSettings(flip=False, rotate=False, stain_shift=0, brightness_shift=0)


def only(**changes: object) -> AugmentationSettings:
    return NOTHING.model_copy(update=changes)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def levels() -> Tensor:
    """uint8 [16, 3, 64, 64]: cells of radius 20 px, off their middle by 4 px, on exact black."""
    cells = np.stack([np.roll(draw_cell(seed, radius_px=20, side_px=64), 4, axis=0) for seed in range(16)])
    return torch.from_numpy(cells).permute(0, 3, 1, 2)


def areas(levels: Tensor) -> Tensor:
    return (levels.amax(dim=1) > BACKGROUND_LEVEL).sum(dim=(1, 2))


def test_default_augmentation_keeps_shape_and_range(levels: Tensor) -> None:
    augmented = augment(levels, AugmentationSettings(), generator())
    assert augmented.shape == levels.shape
    assert augmented.dtype == torch.float32
    assert float(augmented.min()) >= 0 and float(augmented.max()) <= 255
    assert not torch.equal(augmented, levels.float())


def test_augmentation_depends_on_the_generator_alone(levels: Tensor) -> None:
    first, again, other = (augment(levels, AugmentationSettings(), generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.usefixtures("no_random_state_left")
def test_augmentation_leaves_the_global_random_state_alone(levels: Tensor) -> None:
    augment(levels, AugmentationSettings(), generator())


def test_images_of_a_batch_are_turned_and_stained_each_for_itself(levels: Tensor) -> None:
    same = levels[:1].expand(8, -1, -1, -1)
    augmented = augment(same, AugmentationSettings(), generator())
    assert len({tuple(image.flatten().tolist()) for image in augmented}) == 8


def test_nothing_asked_changes_nothing(levels: Tensor) -> None:
    assert torch.equal(augment(levels, NOTHING, generator()), levels.float())


def test_input_is_not_written_to(levels: Tensor) -> None:
    for given in (levels.clone(), levels.float()):
        before = given.clone()
        augment(given, AugmentationSettings(), generator())
        assert torch.equal(given, before)


def test_flip_gives_the_image_or_its_mirror_image_about_equally_often(levels: Tensor) -> None:
    same = levels[:1].expand(64, -1, -1, -1)
    flipped = augment(same, only(flip=True), generator())
    mirror = levels[0].float().flip(2)
    is_mirrored = [torch.allclose(image, mirror, atol=1e-2) for image in flipped]
    assert all(mirrored or torch.allclose(image, levels[0].float(), atol=1e-2)
               for mirrored, image in zip(is_mirrored, flipped, strict=True))  # fmt: skip
    assert 20 <= sum(is_mirrored) <= 44


@pytest.mark.parametrize("flip", [True, False])
def test_turning_keeps_the_size_of_the_cell(levels: Tensor, flip: bool) -> None:
    turned = augment(levels, only(rotate=True, flip=flip), generator())
    before = areas(levels).float()
    # The rim may gain or lose a part of a pixel all around: 2 pi 20 px of 1,257 px.
    assert torch.all((areas(turned) / before - 1).abs() < 0.07)
    # The light that the cell as a whole lets through is a size without a threshold.
    assert torch.all((turned.sum(dim=(1, 2, 3)) / levels.sum(dim=(1, 2, 3)) - 1).abs() < 0.02)


def test_turning_by_any_angle_is_reached(levels: Tensor) -> None:
    turned = augment(levels[:1].expand(64, -1, -1, -1), only(rotate=True), generator())
    mask = (turned.amax(dim=1) > BACKGROUND_LEVEL).float()
    at = torch.arange(64) - 31.5
    angles = torch.atan2((mask.sum(2) * at).sum(1), (mask.sum(1) * at).sum(1))
    quadrants = torch.bincount(((angles + torch.pi) / (torch.pi / 2)).long().clamp(0, 3), minlength=4)
    assert torch.all(quadrants >= 6), quadrants


def test_black_stays_black_under_any_stain(levels: Tensor) -> None:
    restained = augment(levels, only(stain_shift=0.5, brightness_shift=0.5), generator())
    black = levels.amax(dim=1, keepdim=True).expand_as(levels) == 0
    assert torch.all(restained[black] == 0)
    assert torch.all(restained[~black] > 0)


def test_background_noise_of_jpeg_copies_is_no_stain() -> None:
    noise = torch.full((1, 3, 8, 8), float(BACKGROUND_LEVEL))
    assert torch.equal(augment(noise, only(stain_shift=0.5, brightness_shift=0.5), generator()), noise)


def test_stain_scales_optical_density_by_one_factor_per_channel(levels: Tensor) -> None:
    restained = augment(levels, only(stain_shift=0.05), generator())
    for before, after in zip(levels.float(), restained, strict=True):
        cell = before.amax(dim=0) > 0
        factors = (after[:, cell] / 255).log() / (before[:, cell] / 255).log()
        spread = factors.amax(dim=1) - factors.amin(dim=1)
        assert torch.all(spread < 1e-3)
        assert torch.all((factors.mean(dim=1) - 1).abs() < 0.05 * 5)
        assert float(factors.mean(dim=1).std()) > 0


def test_brightness_is_one_factor_on_all_channels(levels: Tensor) -> None:
    brighter = augment(levels, only(brightness_shift=0.05), generator())
    for before, after in zip(levels.float(), brighter, strict=True):
        inside = (before > 0) & (after < 255)
        factors = after[inside] / before[inside]
        assert float(factors.max() - factors.min()) < 1e-4
    assert len({round(float((after / before.clamp_min(1)).max()), 4)
                for before, after in zip(levels.float(), brighter, strict=True)}) == 16  # fmt: skip


def test_turning_samples_where_an_affine_grid_says(levels: Tensor) -> None:
    """The turn as PyTorch's own affine grid makes it, with the same draws."""
    drawn = generator(3)
    angle = torch.rand(16, generator=drawn) * (2 * torch.pi)
    mirror = 1 - 2 * torch.randint(0, 2, (16,), generator=drawn)
    rows = [angle.cos() * mirror, -angle.sin(), torch.zeros(16), angle.sin() * mirror, angle.cos(), torch.zeros(16)]
    grid = functional.affine_grid(torch.stack(rows, dim=1).view(16, 2, 3), [16, 3, 64, 64], align_corners=False)
    wanted = functional.grid_sample(levels.float(), grid, padding_mode="zeros", align_corners=False)
    turned = augment(levels, only(flip=True, rotate=True), generator(3))
    torch.testing.assert_close(turned, wanted, rtol=0, atol=1e-2)


def test_stain_is_the_power_of_the_transmitted_light(levels: Tensor) -> None:
    drawn = generator(4)
    amount = 1 + 0.05 * torch.randn(16, 3, 1, 1, generator=drawn)
    density = 0.1 * torch.randn(16, 1, 1, 1, generator=drawn)
    wanted = (255 * torch.exp(-density) * (levels / 255) ** amount).clamp(0, 255)
    restained = augment(levels, only(stain_shift=0.05, brightness_shift=0.1), generator(4))
    torch.testing.assert_close(restained, wanted, rtol=0, atol=1e-3)


def test_white_stays_white_under_any_amount_of_stain() -> None:
    white = torch.full((4, 3, 8, 8), 255.0)
    torch.testing.assert_close(augment(white, only(stain_shift=0.5), generator()), white)
