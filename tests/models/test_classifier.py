from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from leukolens.data.preprocessing import Preprocessing
from leukolens.errors import SettingsError, WeightsError
from leukolens.models.architectures import find_architecture
from leukolens.models.classifier import Backbone, Classifier, Normalise, build_classifier, hash_backbone, pool
from leukolens.models.weights import PretrainedWeights
from leukolens.settings import TrainSettings

PREPROCESSING = Preprocessing((48, 48), 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def levels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_normalisation_brings_grey_levels_to_the_scale_of_the_weights(levels: torch.Tensor) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = Normalise(Preprocessing((48, 48), 32, mean, std))(levels)
    wanted = (levels / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised, wanted)


def test_normalisation_is_no_part_of_the_weights(tiny_classifier: Classifier) -> None:
    assert not [name for name in tiny_classifier.state_dict() if name.startswith("normalise")]


def test_logits_are_the_head_on_the_features(tiny_classifier: Classifier, levels: torch.Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(tiny_classifier(levels), tiny_classifier.head(tiny_classifier.features(levels)))


def test_dropout_acts_in_training_only(tiny_classifier: Classifier, levels: torch.Tensor) -> None:
    tiny_classifier.norm_layers_frozen = True
    with torch.inference_mode():
        assert torch.equal(tiny_classifier(levels), tiny_classifier(levels))
        tiny_classifier.train()
        assert not torch.equal(tiny_classifier(levels), tiny_classifier(levels))


def _batch_norms(classifier: Classifier) -> list[nn.BatchNorm2d]:
    return [layer for layer in classifier.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norms_keep_their_statistics(tiny_classifier: Classifier, levels: torch.Tensor, frozen: bool) -> None:
    tiny_classifier.norm_layers_frozen = frozen
    before = [layer.running_mean.clone() for layer in _batch_norms(tiny_classifier)]
    tiny_classifier.train()(levels)
    kept = [torch.equal(layer.running_mean, mean) for layer, mean in zip(_batch_norms(tiny_classifier), before, strict=True)]
    assert len(kept) > 3
    assert all(kept) if frozen else not any(kept)
    assert tiny_classifier.dropout.training


def test_frozen_batch_norms_still_learn_their_scale(tiny_classifier: Classifier) -> None:
    tiny_classifier.norm_layers_frozen = True
    tiny_classifier.train()
    assert all(layer.weight.requires_grad for layer in _batch_norms(tiny_classifier))


@pytest.mark.usefixtures("no_random_state_left")
def test_random_weights_depend_on_the_seed_alone(random_weights: Callable[[str], PretrainedWeights]) -> None:
    weights = random_weights("timm:test_resnet")
    hashes = [hash_backbone(build_classifier(weights, PREPROCESSING, 2, 0.2, seed)) for seed in (3, 3, 4)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_batch_norms_are_frozen_only_over_pretrained_weights(random_weights: Callable[[str], PretrainedWeights]) -> None:
    weights = random_weights("timm:test_resnet")
    state = Backbone(weights.architecture, 32).network.state_dict()
    pretrained = PretrainedWeights(**{**vars(weights), "state": state})
    assert build_classifier(pretrained, PREPROCESSING, 2, 0.2, 0).norm_layers_frozen
    assert not build_classifier(weights, PREPROCESSING, 2, 0.2, 0).norm_layers_frozen


def test_new_head_is_zero_so_that_all_classes_start_even(
    random_weights: Callable[[str], PretrainedWeights], levels: torch.Tensor
) -> None:
    classifier = build_classifier(random_weights("timm:test_resnet"), PREPROCESSING, 3, 0.2, 0)
    assert classifier(levels).tolist() == [[0, 0, 0]] * 3


def test_hash_of_the_backbone_follows_its_weights_and_not_the_head(tiny_classifier: Classifier) -> None:
    first = hash_backbone(tiny_classifier)
    nn.init.ones_(tiny_classifier.head.weight)
    assert hash_backbone(tiny_classifier) == first
    next(tiny_classifier.backbone.parameters()).data[0] += 1e-3
    assert hash_backbone(tiny_classifier) != first


def test_parameter_count(tiny_classifier: Classifier) -> None:
    backbone = sum(parameter.numel() for parameter in tiny_classifier.backbone.parameters())
    assert tiny_classifier.parameter_count() == backbone + 96 * 2 + 2


def test_loading_leaves_out_the_librarys_head() -> None:
    backbone = Backbone(find_architecture("timm:test_resnet"), 32)
    state = {name: torch.ones_like(tensor) for name, tensor in backbone.network.state_dict().items()}
    backbone.load({**state, "fc.weight": torch.zeros(1000, 96), "fc.bias": torch.zeros(1000)})
    assert all(bool((parameter == 1).all()) for parameter in backbone.network.parameters())


def test_weights_that_do_not_fit_raise_and_name_the_tensors() -> None:
    backbone = Backbone(find_architecture("timm:test_resnet"), 32)
    state = dict(backbone.network.state_dict())
    state["conv9.weight"] = state.pop("conv1.0.weight")
    state["layer1.0.bn1.weight"] = torch.zeros(7)
    with pytest.raises(WeightsError) as caught:
        backbone.load(state)
    assert caught.value.received == (
        "missing conv1.0.weight; not known conv9.weight; of another shape layer1.0.bn1.weight"
    )


def test_weights_of_another_network_name_a_few_tensors_and_count_the_rest() -> None:
    state = Backbone(find_architecture("timm:test_efficientnet"), 32).network.state_dict()
    with pytest.raises(WeightsError, match=r"missing [\w.]+, [\w.]+, [\w.]+ and \d+ more; not known"):
        Backbone(find_architecture("timm:test_resnet"), 32).load(state)


def test_counters_of_batches_may_be_missing_as_older_files_lack_them() -> None:
    backbone = Backbone(find_architecture("timm:test_resnet"), 32)
    state = {name: value for name, value in backbone.network.state_dict().items() if "num_batches" not in name}
    backbone.load(state)


@pytest.mark.parametrize(("name", "side_px"), [("alexnet", 32), ("timm:vit_tiny_patch16_224", 64)])
def test_input_that_a_network_cannot_read_raises_and_names_the_size(name: str, side_px: int) -> None:
    architecture = find_architecture(name)
    what = re.escape(f"{architecture.display_name} cannot read images of {side_px} x {side_px} px.")
    with pytest.raises(SettingsError, match=f"^{what}"):
        Backbone(architecture, side_px)


# Pooling


def test_pooled_values_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[-4.0, 0.0], [0.0, 0.0]]]])
    assert pool(maps, "mean").tolist() == [[3.0, -1.0]]
    assert pool(maps, "max_mean").tolist() == [[6.0, 0.0, 3.0, -1.0]]
    # (1 + 8 + 27 + 216) / 4 = 63; what is below 0 counts as the floor.
    assert pool(maps, "gem")[0].tolist() == pytest.approx([63 ** (1 / 3), 1e-6], rel=1e-4)


def test_generalised_mean_is_computed_in_float32() -> None:
    maps = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(pool(maps, "gem"), pool(maps.float(), "gem"))


@pytest.mark.parametrize(("pooling", "width"), [("max_mean", 192), ("gem", 96)])
def test_network_that_pools_by_itself_is_pooled_as_wished(
    random_weights: Callable[[str], PretrainedWeights], levels: torch.Tensor, pooling: str, width: int
) -> None:
    weights = random_weights("timm:test_resnet")
    wished = replace(weights, architecture=replace(weights.architecture, pooling=pooling))
    plain, other = (build_classifier(each, PREPROCESSING, 2, 0.2, 0) for each in (weights, wished))
    with torch.inference_mode():
        maps = plain.backbone.network.forward_features(plain.normalise(levels))
        torch.testing.assert_close(plain.features(levels), pool(maps, "mean"))
        torch.testing.assert_close(other.features(levels), pool(maps, pooling))
    assert other.head.weight.shape == (2, width)
    # Its features are others, though its weights are the same.
    assert hash_backbone(other) != hash_backbone(plain)
    assert plain.backbone.network.state_dict().keys() == other.backbone.network.state_dict().keys()


@pytest.mark.parametrize(("name", "side_px"), [("timm:test_vit", 64), ("timm:swin_tiny_patch4_window7_224", 224)])
def test_network_without_a_map_of_features_cannot_be_pooled(name: str, side_px: int) -> None:
    architecture = replace(find_architecture(name), pooling="gem")
    with pytest.raises(SettingsError) as caught:
        Backbone(architecture, side_px)
    assert caught.value.what == f"{architecture.display_name} gives no map of features that could be pooled by gem."
    assert caught.value.received.startswith("features of shape (1, ")


# Stages


# The whole AlexNet cannot read 32 px.
LARGER = replace(PREPROCESSING, input_px=64)


def test_cut_network_takes_the_whole_ones_weights_and_misses_none_of_its_own(
    random_weights: Callable[[str], PretrainedWeights],
) -> None:
    weights = random_weights("alexnet")
    row = weights.architecture.as_wished(TrainSettings(feature_stages=(1, 2)))
    whole = build_classifier(weights, LARGER, 2, 0.2, 0)
    state = {**whole.backbone.network.state_dict(), "classifier.1.weight": torch.zeros(3, 3)}
    cut = build_classifier(replace(weights, architecture=row, state=state), LARGER, 2, 0.2, 1)
    assert cut.head.in_features == 64 + 192
    for name, tensor in cut.backbone.network.state_dict().items():
        assert torch.equal(tensor, state[name])
    of_two_layers = {f"features.{number}.{kind}" for number in (0, 3) for kind in ("weight", "bias")}
    assert set(cut.backbone.network.state_dict()) == of_two_layers
    del state["features.3.bias"]
    with pytest.raises(WeightsError, match=r"received: missing features\.3\.bias; not known none"):
        build_classifier(replace(weights, architecture=row, state=state), LARGER, 2, 0.2, 1)


def test_hash_tells_stages_apart(random_weights: Callable[[str], PretrainedWeights]) -> None:
    weights = random_weights("alexnet")
    rows = [weights.architecture.as_wished(TrainSettings(feature_stages=stages)) for stages in ((1, 2), (2,))]
    one, other = (build_classifier(replace(weights, architecture=row), LARGER, 2, 0.2, 0) for row in rows)
    assert one.backbone.state_dict().keys() == other.backbone.state_dict().keys()
    assert hash_backbone(one) != hash_backbone(other)


STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))


def test_what_lies_below_the_last_stage_is_frozen(random_weights: Callable[[str], PretrainedWeights]) -> None:
    weights = random_weights("timm:test_resnet")
    staged = replace(weights, architecture=replace(weights.architecture, stages=STAGES))
    classifier = build_classifier(staged, PREPROCESSING, 2, 0.2, 0)
    classifier.backbone.freeze_all_but_last_stage()
    classifier.train()
    learning = {name for name, weight in classifier.named_parameters() if weight.requires_grad}
    last = ("backbone.network.layer4.", "head.")
    assert learning == {name for name, _ in classifier.named_parameters() if name.startswith(last)}
    network = classifier.backbone.network
    training = {name: getattr(network, name).training for stage in STAGES for name in stage}
    assert training == {name: name == "layer4" for name in training}
