from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from leukolens.data.preprocessing import Preprocessing
from leukolens.models.classifier import Classifier, build_classifier
from leukolens.models.frozen_norms import folded_norms
from leukolens.models.weights import PretrainedWeights

SIDE_PX = 64
Gradients = dict[str, Tensor]


@pytest.fixture
def resnet(random_weights: Callable[[str], PretrainedWeights]) -> Classifier:
    """ResNet-50 with statistics and a head unlike those of a new network, in training, without dropout."""
    weights = random_weights("resnet50")
    classifier = build_classifier(weights, Preprocessing((64, 64), SIDE_PX, weights.mean, weights.std), 2, 0.0, 0)
    generator = torch.Generator().manual_seed(1)
    for layer in classifier.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    nn.init.normal_(classifier.head.weight, generator=generator)
    classifier.norm_layers_frozen = True
    return classifier.train()


@pytest.fixture
def levels() -> Tensor:
    return torch.randint(0, 256, (2, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def gradients(classifier: Classifier, levels: Tensor) -> tuple[Tensor, Gradients]:
    """Logits, and the gradient of each weight by its name."""
    classifier.zero_grad()
    logits = classifier(levels)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    return logits.detach(), {name: weight.grad for name, weight in classifier.named_parameters()}


def test_logits_and_gradients_of_all_weights_are_the_same(resnet: Classifier, levels: Tensor) -> None:
    resnet.double()
    logits, wanted = gradients(resnet, levels)
    with folded_norms(resnet, SIDE_PX) as folded:
        folded_logits, found = gradients(resnet, levels)
    assert folded == 53
    torch.testing.assert_close(folded_logits, logits)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize(("name", "convolutions_before_a_norm"), [("densenet121", 59), ("efficientnet_b0", 49), ("vgg16", 0)])
def test_norms_that_follow_a_convolution_are_folded(
    random_weights: Callable[[str], PretrainedWeights], name: str, convolutions_before_a_norm: int
) -> None:
    weights = random_weights(name)
    classifier = build_classifier(weights, Preprocessing((64, 64), SIDE_PX, weights.mean, weights.std), 2, 0.2, 0)
    classifier.norm_layers_frozen = True
    with folded_norms(classifier, SIDE_PX) as folded:
        assert folded == convolutions_before_a_norm


def test_weights_keep_their_names_and_the_network_is_itself_again_after_an_error(resnet: Classifier, levels: Tensor) -> None:
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), folded_norms(resnet, SIDE_PX):
        assert list(resnet.state_dict()) == list(before)
        raise KeyboardInterrupt
    assert not [name for name, layer in resnet.named_modules() if "forward" in vars(layer)]
    assert not [name for name, layer in resnet.named_modules() if layer._forward_hooks]
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())
    assert resnet.training


def test_norms_that_follow_their_batch_are_left_alone(resnet: Classifier) -> None:
    resnet.norm_layers_frozen = False
    with folded_norms(resnet, SIDE_PX) as folded:
        assert folded == 0


class ReadsInBetween(nn.Module):
    """A network that reads its convolution's output beside the normalisation of it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen: list[nn.Module] = []
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.weight, 3.0)

    def forward(self, images: Tensor) -> Tensor:
        between = self.conv(images)
        return (self.norm(between) + between).mean(dim=(2, 3))


def test_network_that_reads_between_convolution_and_norm_is_left_alone(resnet: Classifier, levels: Tensor) -> None:
    resnet.backbone = ReadsInBetween()
    resnet.train()
    wanted = resnet.features(levels)
    with folded_norms(resnet, SIDE_PX) as folded:
        assert folded == 0
        torch.testing.assert_close(resnet.features(levels), wanted)


@pytest.mark.usefixtures("no_random_state_left")
def test_random_state_and_statistics_stay(resnet: Classifier) -> None:
    mean = resnet.backbone.network.bn1.running_mean.clone()
    with folded_norms(resnet, SIDE_PX):
        pass
    assert torch.equal(resnet.backbone.network.bn1.running_mean, mean)
