"""Maps of networks whose answer is known, and of trained ones beside the same with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from cohort import draw_cell
from leukolens.data.preprocessing import Preprocessing, foreground, read_pixels
from leukolens.errors import SettingsError
from leukolens.explanation.cams import Explained, LogOdds, class_maps, main_pattern
from leukolens.explanation.localisation import localise
from leukolens.models.architectures import FIVE_ARCHITECTURES, Architecture, find_architecture
from leukolens.models.classifier import build_classifier
from leukolens.models.weights import PretrainedWeights, find_weights
from leukolens.settings import TrainSettings
from leukolens.training.runs import Run

BOTH = ("gradcam", "eigencam")
FOR_ALL = LogOdds((1,))
SHARED = Path(__file__).parents[3] / "shared"
CELLS = SHARED / "data" / "c-nmc-sample" / "C-NMC_Leukemia" / "training_data"


class Brightness(nn.Module):
    """One feature: the mean grey level of each block of 8 px, over 255, less `offset`."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.network = nn.Module()
        self.network.blocks = nn.Conv2d(3, 1, 8, stride=8)
        nn.init.constant_(self.network.blocks.weight, 1 / (3 * 64 * 255))
        nn.init.constant_(self.network.blocks.bias, -offset)
        self.final_relu = False

    def forward(self, levels: Tensor) -> Tensor:
        found = self.network.blocks(levels)
        return (torch.relu(found) if self.final_relu else found).mean(dim=(2, 3))


class Constructed(nn.Module):
    """Its logits are the mean brightness times a weight for each class."""

    def __init__(self, weights: tuple[float, ...], offset: float = 0.0) -> None:
        super().__init__()
        self.backbone = Brightness(offset)
        self.head = nn.Linear(1, len(weights), bias=False)
        self.head.weight = nn.Parameter(torch.tensor(weights).view(-1, 1))

    def forward(self, levels: Tensor) -> Tensor:
        return self.head(self.backbone(levels.float()))


def explained(weights: tuple[float, ...], offset: float = 0.0, layer: str | None = None) -> Explained:
    row = Architecture("constructed", "Constructed", "torchvision", "none", cam_layer="blocks")
    return Explained(Constructed(weights, offset), row, layer)  # type: ignore[arg-type]


def bright_block() -> Any:
    """uint8 [1, 32, 32, 3], black but for the block in row 1, column 2 of 4 x 4."""
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    pixels[0, 8:16, 16:24] = 255
    return pixels


# What is asked


def test_log_odds_of_two_classes_are_the_difference_over_the_temperature() -> None:
    logits = torch.tensor([[1.0, 4.0], [2.0, -2.0]])
    assert LogOdds((1,), 2.0)(logits).tolist() == [1.5, -2.0]
    assert LogOdds((0,), 2.0)(logits[0]).item() == -1.5


def test_log_odds_of_several_classes_are_those_of_their_sum() -> None:
    logits = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64)
    share = (logits / 1.7).softmax(dim=0)[[1, 3]].sum()
    assert LogOdds((1, 3), 1.7)(logits).item() == pytest.approx(torch.log(share / (1 - share)).item())


def test_a_certain_answer_still_has_a_gradient() -> None:
    logits = torch.tensor([0.0, 80.0], requires_grad=True)
    FOR_ALL(logits).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [-1.0, 1.0]


# A network whose answer is known


@pytest.mark.parametrize("method", BOTH)
def test_map_of_a_network_that_sees_brightness_lies_on_the_bright_block(method: Any) -> None:
    values = class_maps(explained((0.0, 3.0)), FOR_ALL, bright_block(), [method]).maps[method][0]
    assert values.shape == (32, 32)
    assert values.dtype == np.float32
    # The centre of the block lies between pixels: four of them share the largest value, 1 after scaling.
    assert values[11:13, 19:21] == pytest.approx(1.0, abs=1e-5)
    # Bilinear between the centres of blocks, 8 px apart: a block and a half away there is nothing.
    assert not values[:, :12].any()
    assert not values[20:].any()
    mask = foreground(bright_block()[0])
    found = localise(values, mask)
    assert found.peak_inside
    assert found.cell_share == 64 / 1024
    # Of a triangle of 16 px the middle half holds 3/4 along each axis.
    assert found.inside_share == pytest.approx((3 / 4) ** 2, abs=0.01)


def test_where_brightness_speaks_against_a_class_its_gradient_map_is_empty() -> None:
    maps = class_maps(explained((0.0, 3.0)), LogOdds((0,)), bright_block(), BOTH).maps
    assert not maps["gradcam"].any()
    assert maps["eigencam"].max() == pytest.approx(1.0, abs=1e-5)  # which asks no class


def test_what_both_classes_gain_by_alike_does_not_count() -> None:
    assert not class_maps(explained((3.0, 3.0)), FOR_ALL, bright_block(), ["gradcam"]).maps["gradcam"].any()


def test_probability_is_calibrated_and_that_of_the_network() -> None:
    found = class_maps(explained((0.0, 32.0)), LogOdds((1,), 2.0), bright_block(), BOTH)
    # Mean brightness 1/16, times 32, over 2: log odds of 1.
    assert found.probability == pytest.approx([1 / (1 + np.exp(-1))], abs=1e-6)


def test_more_images_than_a_batch_keep_their_order() -> None:
    pixels = np.zeros((19, 32, 32, 3), np.uint8)
    for number in range(19):
        row, column = divmod(number % 16, 4)
        pixels[number, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 200
    maps = class_maps(explained((0.0, 1.0)), FOR_ALL, pixels, BOTH).maps
    for method in BOTH:
        peaks = [np.unravel_index(values.argmax(), values.shape) for values in maps[method]]
        assert [int(row) // 8 * 4 + int(column) // 8 for row, column in peaks] == [number % 16 for number in range(19)]


def test_what_black_gives_too_does_not_count() -> None:
    """As with a head on standardised features: all activations lie far below 0, and its bias makes up for it."""
    plain = class_maps(explained((0.0, 3.0)), FOR_ALL, bright_block(), BOTH)
    shifted = class_maps(explained((0.0, 3.0), offset=10.0), FOR_ALL, bright_block(), BOTH)
    for method in BOTH:
        np.testing.assert_allclose(shifted.maps[method], plain.maps[method], atol=1e-4)


def test_a_black_picture_has_empty_maps() -> None:
    maps = class_maps(explained((0.0, 3.0), offset=10.0), FOR_ALL, np.zeros((2, 32, 32, 3), np.uint8), BOTH).maps
    assert not maps["gradcam"].any()
    assert not maps["eigencam"].any()


# A ReLU that ends the network and is no layer


def test_values_that_the_last_relu_takes_away_do_not_speak() -> None:
    # One block is white, one grey; brightness counts less a half, so that a ReLU takes the grey one away.
    pixels = bright_block()
    pixels[0, 24:, :8] = 100
    network = explained((0.0, 1.0), offset=0.5)
    grey = class_maps(network, FOR_ALL, pixels, ["gradcam"]).maps["gradcam"][0, 28, 0]
    # Beside a white block whose largest value, between pixels, is drawn as 1.
    assert grey == pytest.approx(100 / 255 / (15 / 16) ** 2, abs=1e-3)
    network.classifier.backbone.final_relu = True
    before = network.classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    found = class_maps(network, FOR_ALL, pixels, ["gradcam"])
    assert found.maps["gradcam"][0, 28, 0] == 0
    assert found.maps["gradcam"][0, 12, 20] == pytest.approx(1.0)
    assert found.probability == pytest.approx(torch.sigmoid(before[:, 1] - before[:, 0]).detach().numpy())
    assert network.classifier.backbone.final_relu


def test_nothing_is_left_on_the_network() -> None:
    network = explained((0.0, 3.0))
    first, second = (class_maps(network, FOR_ALL, bright_block(), BOTH) for _ in range(2))
    for method in BOTH:
        np.testing.assert_array_equal(first.maps[method], second.maps[method])
    assert not network.module._forward_hooks


# Eigen-CAM


def test_main_pattern_by_hand() -> None:
    # Places (3, 4), (0, 0), (6, 8) and (0, 0) lie on one line, of direction (0.6, 0.8).
    activations = np.array([[[[3.0, 0], [6, 0]], [[4, 0], [8, 0]]]], np.float32)
    np.testing.assert_allclose(main_pattern(activations)[0], [[5, 0], [10, 0]], atol=1e-5)


def test_main_pattern_has_no_sign_of_chance() -> None:
    activations = np.random.default_rng(0).random((6, 30, 7, 7)).astype(np.float32)
    found = main_pattern(activations)
    assert (found >= 0).all()
    np.testing.assert_allclose(main_pattern(-activations), found, atol=1e-4)
    np.testing.assert_allclose(main_pattern(activations[3:4])[0], found[3], atol=1e-4)


# Layers


def test_no_layer_is_an_error_that_names_the_parts(tiny_classifier: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        _ = Explained(tiny_classifier, find_architecture("timm:test_resnet")).module
    assert str(caught.value) == (
        "The layer of test_resnet to be explained is not known.\n"
        "  expected: the dotted name of a layer that gives a feature map; the network's parts are conv1, bn1, act1, maxpool, "
        "layer1, layer2, layer3, layer4, global_pool, fc\n"
        "  received: no layer\n"
        "  remedy:   name one with --layer, as a rule the last before the pooling"
    )


def test_unknown_layer_is_an_error(tiny_classifier: Any) -> None:
    with pytest.raises(SettingsError, match="received: layer9"):
        _ = Explained(tiny_classifier, find_architecture("timm:test_resnet"), "layer9").module


def test_layer_without_a_map_is_an_error(tiny_classifier: Any) -> None:
    network = Explained(tiny_classifier, find_architecture("timm:test_resnet"), "global_pool")
    with pytest.raises(SettingsError) as caught:
        class_maps(network, FOR_ALL, np.zeros((2, 32, 32, 3), np.uint8), BOTH)
    assert "global_pool of test_resnet gives no feature map." in str(caught.value)
    assert "received: an output of shape [1, " in str(caught.value)
    assert not network.module._forward_hooks


def test_every_architecture_of_the_table_names_its_layer() -> None:
    for name in (*FIVE_ARCHITECTURES, "tf_efficientnet_lite0"):
        assert find_architecture(name).cam_layer


# Sanity checks of Adebayo et al. 2018, "Sanity checks for saliency maps": a map that does not change when the network forgets
# what it has learned does not show what it has learned.


@pytest.fixture(scope="module")
def cells() -> Any:
    """Cells of the cohort's kind, large enough for the last feature map to have 8 x 8 places."""
    preprocessing = Preprocessing((48, 48), 256)
    return np.stack([preprocessing.apply(draw_cell(seed, 10 + seed % 5)) for seed in range(12)])


def maps_of(run: Run, pixels: Any, forget: str | None = None) -> Any:
    classifier = run.classifier()
    generator = torch.Generator().manual_seed(7)
    if forget is not None:
        for weight in classifier.get_submodule(forget).parameters():
            if weight.ndim > 1:
                torch.nn.init.kaiming_normal_(weight, generator=generator)
    network = Explained(classifier, find_architecture(run.record["architecture"]), "blocks")
    return class_maps(network, FOR_ALL, pixels, BOTH).maps


def mean_rank_correlation(first: Any, second: Any, pixels: Any) -> float:
    """On the cells, since both maps leave out the black; over the pictures whose maps are both not empty."""
    pairs = [(one[mask], other[mask]) for one, other, mask in zip(first, second, map(foreground, pixels), strict=True)
             if one[mask].any() and other[mask].any()]  # fmt: skip
    return float(np.mean([spearmanr(one, other).statistic for one, other in pairs])) if pairs else 0.0


# Eigen-CAM changes less: what differs from black is the cell, whatever the network.
@pytest.mark.parametrize(("method", "largest"), [("gradcam", 0.5), ("eigencam", 0.8)])
def test_a_network_with_random_weights_gives_other_maps(finetuned_run: Run, cells: Any, method: Any, largest: float) -> None:
    trained = maps_of(finetuned_run, cells)[method]
    assert mean_rank_correlation(trained, maps_of(finetuned_run, cells)[method], cells) == pytest.approx(1.0)
    assert abs(mean_rank_correlation(trained, maps_of(finetuned_run, cells, "backbone")[method], cells)) < largest


def test_a_random_head_changes_the_gradient_map_and_leaves_the_other(finetuned_run: Run, cells: Any) -> None:
    trained, forgetful = maps_of(finetuned_run, cells), maps_of(finetuned_run, cells, "head")
    np.testing.assert_array_equal(trained["eigencam"], forgetful["eigencam"])
    assert abs(mean_rank_correlation(trained["gradcam"], forgetful["gradcam"], cells)) < 0.9


def test_network_cut_after_a_stage_is_mapped_there_and_answers_the_same(
    random_weights: Callable[[str], PretrainedWeights], cells: Any
) -> None:
    weights = random_weights("densenet121")
    row = weights.architecture.as_wished(TrainSettings(feature_stages=(1, 2)))
    classifier = build_classifier(replace(weights, architecture=row), Preprocessing((48, 48), 256), 2, 0.2, 0)
    nn.init.normal_(classifier.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = FOR_ALL(classifier(torch.from_numpy(cells).permute(0, 3, 1, 2))).sigmoid().numpy()
    found = class_maps(Explained(classifier, row), FOR_ALL, cells, BOTH)
    assert found.probability == pytest.approx(wanted, abs=1e-4)
    assert found.maps["gradcam"].shape == (len(cells), 256, 256)
    assert found.maps["eigencam"].max() == pytest.approx(1.0, abs=1e-3)


# Real cells


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", FIVE_ARCHITECTURES)
def test_five_networks_map_real_cells(name: str) -> None:
    if not (CELLS.is_dir() and (SHARED / "weights").is_dir()):
        pytest.skip("../shared/data/c-nmc-sample or ../shared/weights is absent")
    weights = find_weights(find_architecture(name), TrainSettings(weights_dir=SHARED / "weights"))
    preprocessing = Preprocessing((450, 450), 224, weights.mean, weights.std)
    classifier = build_classifier(weights, preprocessing, 2, 0.2, 0)
    nn.init.normal_(classifier.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    paths = sorted(CELLS.rglob("*.bmp"))[:3]
    pixels = np.stack([preprocessing.apply(read_pixels(path, 10**6).trimmed) for path in paths])
    found = class_maps(Explained(classifier, weights.architecture), FOR_ALL, pixels, BOTH)
    with torch.inference_mode():
        logits = classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert found.probability == pytest.approx(FOR_ALL(logits).sigmoid().numpy(), abs=1e-4)
    for maps in found.maps.values():
        assert maps.shape == (3, 224, 224)
        assert np.isfinite(maps).all()
        assert maps.min() >= 0
        assert maps.max() <= 1
    assert found.maps["eigencam"].reshape(3, -1).max(axis=1) == pytest.approx(1.0, abs=1e-3)
