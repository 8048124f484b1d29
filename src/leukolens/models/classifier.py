"""The classifier: normalisation, backbone, pooling, dropout and a new head with one logit per class.

In: uint8 or float grey levels 0–255, [batch, 3, height, width]. Out: float32 logits [batch, classes]. Writes: nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from leukolens.data.preprocessing import Preprocessing
from leukolens.errors import SettingsError, WeightsError
from leukolens.models.architectures import Architecture
from leukolens.models.weights import PretrainedWeights, State
from leukolens.settings import Pooling

_HEADS = ("fc", "classifier", "head")

# Radenovic, Tolias & Chum 2019, arXiv:1711.02512, section 3.2: power 3 is where they start from, and what learning it
# gains is little; the floor is that of their published code. Activations below 0, as EfficientNet has them, count as 0.
_GEM_POWER = 3.0
_GEM_FLOOR = 1e-6


class Normalise(nn.Module):
    """Grey levels 0–255 to the scale that the weights were trained on, as a part of the network."""

    scale: Tensor
    offset: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        scale, offset = preprocessing.scale_and_offset()
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("offset", torch.tensor(offset).view(1, -1, 1, 1), persistent=False)

    def forward(self, levels: Tensor) -> Tensor:
        """Normalise [batch, 3, height, width]."""
        return torch.addcmul(self.offset, levels.to(self.scale.dtype), self.scale)


class Backbone(nn.Module):
    """A library's network without its head: normalised images to pooled features float [batch, width]."""

    def __init__(self, architecture: Architecture, input_px: int) -> None:
        super().__init__()
        self.trunk = architecture.trunk
        self.stages = architecture.stages[: max(architecture.feature_stages, default=None)]
        self.final_relu = architecture.final_relu
        self.pooling = architecture.pooling
        self.feature_stages = architecture.feature_stages
        self.network = _build_headless(architecture)
        self.legs = _cut(self.network, architecture) if architecture.feature_stages else []
        self.frozen: list[nn.Module] = []
        self.width = self._measure_width(architecture, input_px)

    def forward(self, images: Tensor) -> Tensor:
        """Give pooled features of normalised images."""
        if self.legs:
            return torch.cat([pool(each, self.pooling) for each in self._stage_maps(images)], dim=1)
        if not self.trunk:
            found: Tensor = self.network(images)
            return found if self.pooling == "mean" else pool(found, self.pooling)
        for name in self.trunk:
            images = getattr(self.network, name)(images)
        if self.final_relu:
            images = torch.relu(images)
        return pool(images, self.pooling)

    def _stage_maps(self, images: Tensor) -> Iterator[Tensor]:
        """What each feature stage gives, [batch, channels, height, width], rectified."""
        for number, leg in enumerate(self.legs, start=1):
            for name in leg:
                images = self.network.get_submodule(name)(images)
            is_last = number == len(self.legs)
            yield torch.relu(images) if self.final_relu or not is_last else images

    def stage_modules(self) -> list[list[nn.Module]]:
        """The parts with weights of each stage, from the image on; none where the architecture names none."""
        return [[self.network.get_submodule(name) for name in stage] for stage in self.stages]

    def freeze_all_but_last_stage(self) -> None:
        """Take what lies below the last stage out of the training: no gradients, and no graph is kept of it."""
        self.frozen = [part for stage in self.stage_modules()[:-1] for part in stage]
        for part in self.frozen:
            part.requires_grad_(False)

    def load(self, state: State) -> None:
        """Load weights under the library's own names; its head and what was cut off are left out, all else must fit."""
        wanted = self.network.state_dict()
        left_out = set(state) - set(wanted) if self.legs else {name for name in state if name.split(".")[0] in _HEADS}
        kept = {name: tensor for name, tensor in state.items() if name not in left_out or name in wanted}
        counters = {name for name in wanted if name.endswith("num_batches_tracked")}
        missing, surplus = set(wanted) - set(kept) - counters, set(kept) - set(wanted)
        misshapen = {name for name in set(kept) & set(wanted) if kept[name].shape != wanted[name].shape}
        if missing or surplus or misshapen:
            raise WeightsError(
                "The weights do not fit the network.",
                expected="the tensors of the library's own state dict",
                received=f"missing {_few(missing)}; not known {_few(surplus)}; of another shape {_few(misshapen)}",
                remedy="use weights of this architecture, under its library's names",
            )
        self.network.load_state_dict({**{name: wanted[name] for name in counters}, **kept})

    def _measure_width(self, architecture: Architecture, input_px: int) -> int:
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                image = torch.zeros(1, 3, input_px, input_px)
                self._check_map(architecture, image)
                width = self(image).shape[1]
        except (RuntimeError, AssertionError) as error:
            raise SettingsError(
                f"{architecture.display_name} cannot read images of {input_px} x {input_px} px.",
                expected="an input size that the network takes; all of them take 224",
                received=str(error).splitlines()[0],
                remedy="correct --input-px (input_px), or leave it at 224",
            ) from error
        self.train(was_training)
        return int(width)

    def _check_map(self, architecture: Architecture, image: Tensor) -> None:
        """Raise SettingsError where a library's network that is to be pooled here gives no map to pool."""
        if self.trunk or self.legs or self.pooling == "mean":
            return
        shape = tuple(self.network(image).shape)
        # Channels last, as some networks of timm have them, is no square in the last two.
        if len(shape) != len(image.shape) or shape[2] != shape[3]:
            raise _unpoolable(architecture, f"features of shape {shape} for one image")


class Classifier(nn.Module):
    """Backbone, dropout and head. `features` is everything before the dropout."""

    def __init__(self, backbone: Backbone, preprocessing: Preprocessing, classes: int, dropout: float) -> None:
        super().__init__()
        self.normalise = Normalise(preprocessing)
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.width, classes)
        self.norm_layers_frozen = False

    def features(self, levels: Tensor) -> Tensor:
        """Grey levels [batch, 3, height, width] to pooled features float [batch, width]."""
        pooled: Tensor = self.backbone(self.normalise(levels))
        return pooled

    def forward(self, levels: Tensor) -> Tensor:
        """Grey levels [batch, 3, height, width] to logits [batch, classes]."""
        logits: Tensor = self.head(self.dropout(self.features(levels)))
        return logits

    def train(self, mode: bool = True) -> Classifier:
        """Switch to training; batch normalisation stays on its pretrained statistics where they are frozen.

        A batch of 32 cells of few patients would replace statistics of a million images by its own. Frozen stages stay as
        they are when asked, without the random depth that EfficientNet trains with.
        """
        super().train(mode)
        for part in self.backbone.frozen:
            part.eval()
        if mode and self.norm_layers_frozen:
            for layer in _batch_norms(self):
                layer.eval()
        return self

    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())


def build_classifier(
    weights: PretrainedWeights, preprocessing: Preprocessing, classes: int, dropout: float, seed: int
) -> Classifier:
    """Build a network, load its pretrained weights (or seeded random ones) and give it a new head of zeros."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone(weights.architecture, preprocessing.input_px)
        classifier = Classifier(backbone, preprocessing, classes, dropout)
    if weights.state is not None:
        backbone.load(weights.state)
    nn.init.zeros_(classifier.head.weight)
    nn.init.zeros_(classifier.head.bias)
    classifier.norm_layers_frozen = weights.state is not None
    return classifier.eval()


def hash_backbone(classifier: Classifier) -> str:
    """SHA-256 over names and bytes of the backbone's tensors, pooling and stages: what its frozen features depend on."""
    digest = hashlib.sha256()
    # The mean adds nothing: features that were cached before there was a choice are still found.
    if classifier.backbone.pooling != "mean":
        digest.update(f"pooling {classifier.backbone.pooling}".encode())
    if classifier.backbone.feature_stages:
        digest.update(f"stages {classifier.backbone.feature_stages}".encode())
    for name, tensor in sorted(classifier.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def pool(maps: Tensor, pooling: Pooling) -> Tensor:
    """Feature maps [batch, channels, height, width] to features [batch, channels], of max_mean [batch, 2 channels]."""
    if pooling == "mean":
        return maps.mean(dim=(2, 3))
    if pooling == "max_mean":
        return torch.cat([maps.amax(dim=(2, 3)), maps.mean(dim=(2, 3))], dim=1)
    # Third powers of bfloat16 would lose what little precision it has.
    powers = maps.float().clamp_min(_GEM_FLOOR).pow(_GEM_POWER)
    return powers.mean(dim=(2, 3)).pow(1 / _GEM_POWER)


def _build_headless(architecture: Architecture) -> nn.Module:
    if architecture.library == "timm":
        return _build_headless_timm(architecture)
    from torchvision.models import get_model

    network: nn.Module = get_model(architecture.builder, weights=None)
    for name in [name for name, _ in network.named_children() if name not in architecture.trunk]:
        delattr(network, name)
    return network


def _cut(network: nn.Module, architecture: Architecture) -> list[list[str]]:
    """Take off what lies behind the last feature stage; names of the layers that lead to each one from the one before."""
    layers = _layers(network, architecture)
    ends = [layers.index(architecture.stages[number - 1][-1]) + 1 for number in architecture.feature_stages]
    for name in layers[ends[-1] :]:
        parent, _, child = name.rpartition(".")
        delattr(network.get_submodule(parent), child)
    return [layers[start:end] for start, end in pairwise([0, *ends])]


def _layers(network: nn.Module, architecture: Architecture) -> list[str]:
    """Dotted names of what leads from the image through the stages, weightless layers between their parts included."""
    parts = [part for stage in architecture.stages for part in stage]
    layers: list[str] = []
    for name in architecture.trunk or parts:
        is_taken_apart = any(part.startswith(f"{name}.") for part in parts)
        children = [f"{name}.{child}" for child, _ in network.get_submodule(name).named_children()]
        layers += children if is_taken_apart else [name]
    return layers


def _build_headless_timm(architecture: Architecture) -> nn.Module:
    import timm

    own_pooling: dict[str, Any] = {} if architecture.pooling == "mean" else {"global_pool": ""}
    try:
        network: nn.Module = timm.create_model(architecture.builder, pretrained=False, num_classes=0, **own_pooling)
    except TypeError as error:
        if not own_pooling:
            raise
        raise _unpoolable(architecture, str(error)) from error
    return network


def _unpoolable(architecture: Architecture, received: str) -> SettingsError:
    return SettingsError(
        f"{architecture.display_name} gives no map of features that could be pooled by {architecture.pooling}.",
        expected="a last feature map [batch, channels, height, width]",
        received=received,
        remedy="leave pooling at mean, which is then the library's own way for this network",
    )


def _batch_norms(module: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm))


def _few(names: set[str], at_most: int = 3) -> str:
    shown = ", ".join(sorted(names)[:at_most])
    return f"{shown} and {len(names) - at_most} more" if len(names) > at_most else shown or "none"
