from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from leukolens.data.preprocessing import Preprocessing
from leukolens.errors import SettingsError
from leukolens.models.architectures import ARCHITECTURES, FIVE_ARCHITECTURES, check_stages, find_architecture
from leukolens.models.classifier import Backbone, build_classifier
from leukolens.models.weights import PretrainedWeights
from leukolens.settings import TrainSettings

INPUT_PX = 64
# Width of the last feature map, from each network's paper.
WIDTHS = {
    "vgg16": 512,
    "efficientnet_b0": 1280,
    "resnet50": 2048,
    "densenet121": 1024,
    "alexnet": 256,
    "tf_efficientnet_lite0": 1280,
    "timm:test_vit": 64,
}


@pytest.mark.parametrize("name", WIDTHS)
def test_network_builds_and_gives_one_logit_per_class(
    name: str, random_weights: Callable[[str], PretrainedWeights]
) -> None:
    weights = random_weights(name)
    preprocessing = Preprocessing((48, 48), INPUT_PX, weights.mean, weights.std)
    classifier = build_classifier(weights, preprocessing, classes=4, dropout=0.2, seed=0)
    levels = torch.randint(0, 256, (2, 3, INPUT_PX, INPUT_PX), dtype=torch.uint8)
    with torch.inference_mode():
        features, logits = classifier.features(levels), classifier(levels)
    assert features.shape == (2, WIDTHS[name])
    assert logits.shape == (2, 4)
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(features).all())
    cam_layer = weights.architecture.cam_layer
    assert not cam_layer or cam_layer in dict(classifier.backbone.network.named_modules())


def test_table_has_the_five_networks_of_the_source_document_with_all_that_a_report_says() -> None:
    for name in FIVE_ARCHITECTURES:
        row = ARCHITECTURES[name]
        assert row.cam_layer and row.paper and row.licence, name
        assert row.source_document_accuracy is not None


def test_table_is_keyed_by_name_and_stand_ins_are_rows_of_it() -> None:
    assert [row.name for row in ARCHITECTURES.values()] == list(ARCHITECTURES)
    assert {row.stand_in for row in ARCHITECTURES.values()} - {None} <= set(ARCHITECTURES)


def test_any_network_of_timm_can_be_named() -> None:
    row = find_architecture("timm:test_resnet")
    assert (row.name, row.library, row.builder) == ("timm:test_resnet", "timm", "test_resnet")


@pytest.mark.parametrize("name", ["resnet51", "timm:resnet51x", "test_resnet", "timm:"])
def test_unknown_name_raises_and_names_what_there_is(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        find_architecture(name)
    assert str(caught.value) == (
        f"{name!r} is no architecture that leukolens knows.\n"
        f"  expected: one of {', '.join(ARCHITECTURES)}, or timm:<a model name of timm>\n"
        f"  received: {name}\n"
        "  remedy:   correct --arch; `python -c 'import timm; print(timm.list_models())'` lists timm's names"
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_weight_belongs_to_one_stage_and_every_pooling_works(name: str) -> None:
    backbone = Backbone(replace(ARCHITECTURES[name], pooling="max_mean"), INPUT_PX)
    of_stages = [weight for parts in backbone.stage_modules() for part in parts for weight in part.parameters()]
    assert [id(weight) for weight in of_stages] == [id(weight) for weight in backbone.parameters()]
    assert len(backbone.stages) >= 4
    assert backbone.width == 2 * WIDTHS[name]
    backbone.pooling = "gem"
    with torch.inference_mode():
        features = backbone(torch.rand(2, 3, INPUT_PX, INPUT_PX))
    assert features.shape == (2, WIDTHS[name])
    assert bool((features > 0).all())


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"trainable": "last_block"}, "trainable last_block"),
        ({"layer_decay": 0.5}, "layer_decay 0.5"),
        ({"layer_decay": 0.5, "trainable": "last_block"}, "trainable last_block and layer_decay 0.5"),
    ],
)
def test_network_whose_stages_nobody_has_named_says_so(changes: dict[str, Any], received: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_stages(find_architecture("timm:test_resnet"), TrainSettings(**changes))
    assert str(caught.value) == (
        "The stages of test_resnet are not known.\n"
        f"  expected: one of {', '.join(ARCHITECTURES)}, or trainable all and layer_decay 1\n"
        f"  received: {received}\n"
        "  remedy:   leave these settings out, or add the network's row, with its stages, to models/architectures.py"
    )
    check_stages(find_architecture("timm:test_resnet"), TrainSettings(finetune_epochs=0, **changes))
    check_stages(find_architecture("resnet50"), TrainSettings(**changes))


# Feature stages


def maps_by_hooks(name: str, images: torch.Tensor) -> tuple[Backbone, list[torch.Tensor]]:
    """The whole network, and what each of its stages gives, rectified, caught on the way."""
    backbone = Backbone(ARCHITECTURES[name], INPUT_PX).eval()
    caught: list[torch.Tensor] = []
    for parts in backbone.stage_modules():
        # A copy: the next layer may write into it.
        parts[-1].register_forward_hook(lambda _layer, _given, found: caught.append(found.clone().relu()))
    with torch.inference_mode():
        backbone(images)
    return backbone, caught


@pytest.mark.parametrize("stages", [(1,), (1, 2), (2, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_of_stages_are_what_the_whole_network_gives_there(name: str, stages: tuple[int, ...]) -> None:
    images = torch.randn(2, 3, INPUT_PX, INPUT_PX, generator=torch.Generator().manual_seed(0))
    whole, caught = maps_by_hooks(name, images)
    cut = Backbone(ARCHITECTURES[name].as_wished(TrainSettings(feature_stages=stages)), INPUT_PX).eval()
    cut.load(whole.network.state_dict())
    with torch.inference_mode():
        features = cut(images)
    wanted = torch.cat([caught[number - 1].mean(dim=(2, 3)) for number in stages], dim=1)
    torch.testing.assert_close(features, wanted)
    assert cut.width == wanted.shape[1]
    # Nothing behind the last stage is left, and every weight belongs to a stage.
    of_stages = [weight for parts in cut.stage_modules() for part in parts for weight in part.parameters()]
    assert [id(weight) for weight in of_stages] == [id(weight) for weight in cut.parameters()]
    assert len(cut.stages) == stages[-1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_last_stage_is_the_networks_own_end(name: str) -> None:
    images = torch.randn(2, 3, INPUT_PX, INPUT_PX, generator=torch.Generator().manual_seed(0))
    row = ARCHITECTURES[name]
    whole, caught = maps_by_hooks(name, images)
    cut = Backbone(row.as_wished(TrainSettings(feature_stages=(len(row.stages),))), INPUT_PX).eval()
    cut.load(whole.network.state_dict())
    assert cut.width == WIDTHS[name]
    assert {key for key, _ in cut.named_parameters()} == {key for key, _ in whole.named_parameters()}
    with torch.inference_mode():
        torch.testing.assert_close(cut(images), caught[-1].mean(dim=(2, 3)))


def test_row_as_wished_says_that_it_is_another_network() -> None:
    row = ARCHITECTURES["resnet50"].as_wished(TrainSettings(feature_stages=(1, 2), pooling="gem"))
    assert (row.display_name, row.cam_layer, row.pooling) == ("ResNet-50 (stages 1+2)", "layer1", "gem")
    assert not row.cpu_bf16_inference_pays
    assert ARCHITECTURES["resnet50"].as_wished(TrainSettings(feature_stages=(3, 5))).cpu_bf16_inference_pays
    assert ARCHITECTURES["resnet50"].as_wished(TrainSettings()) == ARCHITECTURES["resnet50"]
    every = ARCHITECTURES["alexnet"].as_wished(TrainSettings(feature_stages="all"))
    assert (every.display_name, every.feature_stages) == ("AlexNet (all stages)", (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("name", "stages", "known", "said"),
    [
        ("alexnet", (1, 5), "stages 1 to 4", "stages 1+5"),
        ("timm:test_resnet", (1,), "none, since nobody has named its stages", "stages 1"),
        ("timm:test_resnet", "all", "none, since nobody has named its stages", "all stages"),
    ],
)
def test_stage_that_is_not_there_is_refused(name: str, stages: Any, known: str, said: str) -> None:
    row = find_architecture(name)
    with pytest.raises(SettingsError) as caught:
        row.as_wished(TrainSettings(feature_stages=stages))
    assert str(caught.value) == (
        f"{row.display_name} has no such stages to take features from.\n"
        f"  expected: {known}\n"
        f"  received: feature_stages: {said}\n"
        "  remedy:   correct feature_stages or leave it out, which takes the features from the network's end"
    )


@pytest.mark.parametrize("stages", [(2, 1), (1, 1), (0,), (-1, 2)])
def test_stages_that_do_not_rise_are_refused(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="feature_stages"):
        TrainSettings(feature_stages=stages)
