from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from skimage.color import rgb_from_hed
from torch import Tensor

from cohort import draw_cell
from leukolens.data import augmentation
from leukolens.data.augmentation import augment
from leukolens.data.preprocessing import BACKGROUND_LEVEL
from leukolens.settings import AugmentationSettings, InputSettings, TrainSettings

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


# Optical density (decimal) of one unit of each stain in red, green and blue.
HAEMATOXYLIN, EOSIN, DAB = (torch.tensor(row) for row in ([0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]))


def drawn_stains(images: int, shift: float) -> tuple[Tensor, Tensor]:
    """Factors and offsets [images, 3] that the HED shift draws first from `generator()`."""
    even = 2 * torch.rand(2, images, 3, generator=generator(), dtype=torch.float64) - 1
    return (1 + shift * even[0]).float(), (shift * even[1]).float()


def test_stain_colours_are_those_of_scikit_image() -> None:
    np.testing.assert_array_equal(augmentation._RGB_OF_HED.numpy(), rgb_from_hed)


def test_hed_shift_changes_the_amount_of_each_stain_alone() -> None:
    amounts = torch.tensor([0.4, 0.2, 0.1])
    density = amounts[0] * HAEMATOXYLIN + amounts[1] * EOSIN + amounts[2] * DAB
    levels = (255 * 10**-density).view(1, 3, 1, 1).expand(5, 3, 8, 8)
    factor, offset = drawn_stains(5, 0.2)
    changed = amounts * factor + offset
    wanted = 255 * 10 ** -(changed[:, :1] * HAEMATOXYLIN + changed[:, 1:2] * EOSIN + changed[:, 2:] * DAB)
    shifted = augment(levels, only(hed_shift=0.2), generator())
    torch.testing.assert_close(shifted, wanted.clamp_max(255).view(5, 3, 1, 1).expand(5, 3, 8, 8), rtol=1e-4, atol=1e-3)
    assert len(set(shifted[:, 0, 0, 0].tolist())) == 5


def test_hed_shift_draws_evenly_within_its_strength() -> None:
    factor, offset = drawn_stains(500, 0.2)
    for drawn in (factor - 1, offset):
        assert 0.19 < float(drawn.max()) <= 0.2 and -0.2 <= float(drawn.min()) < -0.19
        assert abs(float(drawn.mean())) < 0.02


@pytest.mark.parametrize("changes", [{"hed_shift": 0.2}, {"greyscale": 1.0}])
def test_step_in_bfloat16_augments_in_float32(levels: Tensor, changes: dict[str, float]) -> None:
    wanted = augment(levels, only(**changes), generator())
    with torch.autocast("cpu", torch.bfloat16):
        found = augment(levels, only(**changes), generator())
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


def test_hed_shift_keeps_black_noise_and_range(levels: Tensor) -> None:
    shifted = augment(levels, only(hed_shift=1.0), generator())
    black = levels.amax(dim=1, keepdim=True).expand_as(levels) == 0
    assert torch.all(shifted[black] == 0)
    assert torch.all(shifted[~black] > 0) and float(shifted.max()) <= 255
    noise = torch.full((1, 3, 8, 8), float(BACKGROUND_LEVEL))
    assert torch.equal(augment(noise, only(hed_shift=1.0), generator()), noise)


def test_hed_shift_of_a_pixel_with_a_dark_channel_stays_near_it() -> None:
    dark = torch.tensor([0.0, 0.0, 200.0]).view(1, 3, 1, 1).expand(16, 3, 4, 4)
    shifted = augment(dark, only(hed_shift=0.05), generator())
    assert float((shifted - dark).abs().max()) < 60  # a density of 6, that of a millionth, would leave a third of 200


@pytest.mark.parametrize("changes", [{"hed_shift": 1e-7}, {"greyscale": 1e-9}])
def test_what_is_off_draws_nothing_and_what_is_on_draws_last(levels: Tensor, changes: dict[str, float]) -> None:
    drawn = generator()
    before = drawn.get_state()
    augment(levels, NOTHING, drawn)
    assert torch.equal(drawn.get_state(), before)
    hardly = AugmentationSettings().model_copy(update=changes)
    plain, changed = (augment(levels, settings, generator()) for settings in (AugmentationSettings(), hardly))
    torch.testing.assert_close(changed, plain, rtol=0, atol=1.0)


def test_greyscale_takes_the_colour_of_its_share_of_images(levels: Tensor) -> None:
    many = levels.repeat(8, 1, 1, 1)
    found = augment(many, only(greyscale=0.25), generator())
    luma = 0.299 * many[:, 0] + 0.587 * many[:, 1] + 0.114 * many[:, 2]
    is_grey = torch.tensor([torch.allclose(image, grey.expand(3, -1, -1), atol=1e-3)
                            for image, grey in zip(found, luma, strict=True)])  # fmt: skip
    assert torch.equal(found[~is_grey], many[~is_grey].float())
    assert 16 <= int(is_grey.sum()) <= 48
    assert torch.equal(found[is_grey][:, 0], found[is_grey][:, 2])


def test_grey_pictures_stay_grey_in_training(levels: Tensor) -> None:
    grey = TrainSettings(input=InputSettings(colour="grey"), augmentation=AugmentationSettings(hed_shift=0.2))
    found = augment(levels, grey.augmentation_of_input, generator())
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])
    assert grey.augmentation_of_input == AugmentationSettings(hed_shift=0.2, greyscale=1)
    assert TrainSettings().augmentation_of_input == AugmentationSettings()


@pytest.mark.parametrize("changes", [{"hed_shift": 0.2}, {"greyscale": 0.5}, {"stain_shift": 0.2}])
def test_input_is_not_written_to_where_it_is_not_turned(levels: Tensor, changes: dict[str, float]) -> None:
    for given in (levels.clone(), levels.float().contiguous()):
        before = given.clone()
        augment(given, only(**changes), generator())
        assert torch.equal(given, before)


def test_white_stays_white_under_any_amount_of_stain() -> None:
    white = torch.full((4, 3, 8, 8), 255.0)
    torch.testing.assert_close(augment(white, only(stain_shift=0.5), generator()), white)


@pytest.mark.parametrize(
    "wished", [{}, {"rotate": False}, {"flip": False, "rotate": False}, {"stain_shift": 0, "brightness_shift": 0}]
)
def test_working_within_the_black_margin_changes_no_bit(
    levels: Tensor, wished: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AugmentationSettings().model_copy(update=wished)
    within = augment(levels, settings, generator())
    monkeypatch.setattr(augmentation, "_black_margin", lambda _: 0)
    assert torch.equal(within, augment(levels, settings, generator()))


def test_black_margin_holds_what_any_turn_can_reach() -> None:
    levels = torch.zeros((2, 3, 64, 64), dtype=torch.uint8)
    assert augmentation._black_margin(levels) == 0
    levels[1, 2, 32, 44] = 1  # 12.5 px right of the middle and half a pixel below it: 31.5 - 12.51 - 2 = 16.99
    assert augmentation._black_margin(levels) == 16
    levels[0, 0, 1, 1] = 1  # a corner: turned, it leaves the picture
    assert augmentation._black_margin(levels) == 0
    assert augmentation._black_margin(levels[..., :32]) == 0
