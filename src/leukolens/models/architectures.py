"""ARCHITECTURES: one row per network, and `timm:<any name>` beside them. A sixth network is one row more.

In: a name from the command line. Out: an Architecture. Writes: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from leukolens.errors import SettingsError
from leukolens.settings import Pooling, TrainSettings

TIMM_PREFIX = "timm:"


@dataclass(frozen=True)
class Architecture:
    """What must be known of one network.

    `trunk` names the children of the library's network that lead from the image to its last feature map, which is then
    pooled; empty means that the library does both by itself. `stages` names the parts with weights, stage by stage from
    the image on: a stage works at one scale of the image, and the last is what `last_block` trains; empty where nobody
    has said; where `trunk` is empty, one part leads to the next and nothing lies between. `stand_in` names the row whose
    packaged or local weights may be used where this row's own are not to be had. `pooling` and `feature_stages` are no part
    of the row but of what was wished (`as_wished`).
    """

    name: str
    display_name: str
    library: Literal["torchvision", "timm"]
    builder: str
    trunk: tuple[str, ...] = ()
    stages: tuple[tuple[str, ...], ...] = ()
    final_relu: bool = False
    """The library applies a ReLU after the trunk outside of any child."""
    cam_layer: str = ""
    """Dotted name of the layer whose activations a class-activation map weighs."""
    cpu_bf16_pays: bool = True
    """Training is faster in bfloat16 than in float32 on a CPU that has it. Measured, 2 cores, AVX-512 with bf16: training
    step 1.7x to 2.2x for all but EfficientNet, whose depthwise layers get slower (19.9 against 14.5 images/s)."""
    cpu_bf16_inference_pays: bool = True
    """The same of the network when it is only asked, by `cpu_engine`; docs/decisions/0016."""
    cpu_engine: Literal["torch", "openvino"] = "openvino"
    """What runs the network on a CPU when it is only asked: what was measured to be fastest; docs/decisions/0016."""
    paper: str = ""
    licence: str = ""
    source_document_accuracy: float | None = None
    """Test accuracy on C-NMC in the document that this project starts from, split at random by image."""
    stand_in: str | None = None
    pooling: Pooling = "mean"
    feature_stages: tuple[int, ...] = ()

    def as_wished(self, settings: TrainSettings) -> Architecture:
        """The row with the pooling and the feature stages of the settings; raises SettingsError where it lacks such a stage."""
        wished = replace(self, pooling=settings.pooling)
        if not settings.feature_stages:
            return wished
        numbers = _numbers_of_stages(self, settings)
        return replace(
            wished,
            # It is another network, which a reader of any table must see.
            display_name=f"{self.display_name} ({settings.stages_named})",
            feature_stages=numbers,
            # What a stage gives is rectified before it is pooled: some rows' stages end before their ReLU.
            final_relu=True,
            cam_layer=self.stages[numbers[-1] - 1][-1],
            # Means of early maps differ little from cell to cell: in bfloat16 18 of 132 decisions of ResNet-50 changed.
            cpu_bf16_inference_pays=self.cpu_bf16_inference_pays and numbers[-1] == len(self.stages),
        )


_ROWS = (
    Architecture(
        name="vgg16",
        display_name="VGG16",
        library="torchvision",
        builder="vgg16",
        trunk=("features",),
        stages=(
            ("features.0", "features.2"),
            ("features.5", "features.7"),
            ("features.10", "features.12", "features.14"),
            ("features.17", "features.19", "features.21"),
            ("features.24", "features.26", "features.28"),
        ),
        cam_layer="features.29",
        paper="Simonyan & Zisserman 2015, arXiv:1409.1556",
        licence="BSD-3-Clause",
        source_document_accuracy=0.927,
    ),
    Architecture(
        name="efficientnet_b0",
        display_name="EfficientNet-B0",
        library="torchvision",
        builder="efficientnet_b0",
        trunk=("features",),
        stages=(
            ("features.0", "features.1"),
            ("features.2",),
            ("features.3",),
            ("features.4", "features.5"),
            ("features.6", "features.7", "features.8"),
        ),
        cam_layer="features.8",
        cpu_bf16_pays=False,
        paper="Tan & Le 2019, arXiv:1905.11946",
        licence="BSD-3-Clause",
        source_document_accuracy=0.941,
        stand_in="tf_efficientnet_lite0",
    ),
    Architecture(
        name="resnet50",
        display_name="ResNet-50",
        library="torchvision",
        builder="resnet50",
        trunk=("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
        stages=(("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)),
        cam_layer="layer4",
        paper="He et al. 2016, arXiv:1512.03385",
        licence="BSD-3-Clause",
        source_document_accuracy=0.953,
    ),
    Architecture(
        name="densenet121",
        display_name="DenseNet-121",
        library="torchvision",
        builder="densenet121",
        trunk=("features",),
        stages=(
            ("features.conv0", "features.norm0"),
            ("features.denseblock1", "features.transition1"),
            ("features.denseblock2", "features.transition2"),
            ("features.denseblock3", "features.transition3"),
            ("features.denseblock4", "features.norm5"),
        ),
        final_relu=True,
        cam_layer="features.norm5",
        paper="Huang et al. 2017, arXiv:1608.06993",
        licence="BSD-3-Clause",
        source_document_accuracy=0.934,
    ),
    Architecture(
        name="alexnet",
        display_name="AlexNet",
        library="torchvision",
        builder="alexnet",
        trunk=("features",),
        # The last three convolutions are of one scale; two of them are the last block.
        stages=(("features.0",), ("features.3",), ("features.6",), ("features.8", "features.10")),
        cam_layer="features.11",
        paper="Krizhevsky 2014, arXiv:1404.5997",
        licence="BSD-3-Clause",
        source_document_accuracy=0.886,
    ),
    Architecture(
        name="tf_efficientnet_lite0",
        display_name="EfficientNet-Lite0",
        library="timm",
        builder="tf_efficientnet_lite0",
        stages=(
            ("conv_stem", "bn1", "blocks.0"),
            ("blocks.1",),
            ("blocks.2",),
            ("blocks.3", "blocks.4"),
            ("blocks.5", "blocks.6", "conv_head", "bn2"),
        ),
        cam_layer="bn2",
        cpu_bf16_pays=False,
        paper="Tan & Le 2019, arXiv:1905.11946; Lite: no squeeze-and-excitation, ReLU6",
        licence="Apache-2.0",
    ),
)
ARCHITECTURES = {row.name: row for row in _ROWS}
# The networks of the document that this project starts from, in its order.
FIVE_ARCHITECTURES = tuple(row.name for row in _ROWS if row.source_document_accuracy is not None)


def find_architecture(name: str) -> Architecture:
    """Look a name up in the table, or make a row of `timm:<name>`; raises SettingsError naming what there is."""
    builder = name.removeprefix(TIMM_PREFIX)
    known = ARCHITECTURES.get(builder)
    if known is not None and (name == builder or known.library == "timm"):
        return known
    if name.startswith(TIMM_PREFIX) and _timm_knows(builder):
        return Architecture(
            name=name,
            display_name=builder,
            library="timm",
            builder=builder,
            # Nobody has measured it: what works for any network.
            cpu_bf16_pays=False,
            cpu_bf16_inference_pays=False,
            cpu_engine="torch",
        )
    raise SettingsError(
        f"{name!r} is no architecture that leukolens knows.",
        expected=f"one of {', '.join(ARCHITECTURES)}, or {TIMM_PREFIX}<a model name of timm>",
        received=name,
        remedy="correct --arch; `python -c 'import timm; print(timm.list_models())'` lists timm's names",
    )


def check_stages(architecture: Architecture, settings: TrainSettings) -> None:
    """Raise SettingsError where fine-tuning is to treat stages differently of a network whose stages nobody has named."""
    wished = [f"trainable {settings.trainable}"] if settings.trainable != "all" else []
    wished += [f"layer_decay {settings.layer_decay}"] if settings.layer_decay < 1 else []
    if settings.finetune_epochs and wished and not architecture.stages:
        named = ", ".join(row.name for row in _ROWS if row.stages)
        raise SettingsError(
            f"The stages of {architecture.display_name} are not known.",
            expected=f"one of {named}, or trainable all and layer_decay 1",
            received=" and ".join(wished),
            remedy="leave these settings out, or add the network's row, with its stages, to models/architectures.py",
        )


def _numbers_of_stages(architecture: Architecture, settings: TrainSettings) -> tuple[int, ...]:
    there = range(1, len(architecture.stages) + 1)
    numbers = tuple(there) if settings.feature_stages == "all" else settings.feature_stages
    if not numbers or numbers[-1] not in there:
        raise SettingsError(
            f"{architecture.display_name} has no such stages to take features from.",
            expected=f"stages 1 to {len(there)}" if there else "none, since nobody has named its stages",
            received=f"feature_stages: {settings.stages_named}",
            remedy="correct feature_stages or leave it out, which takes the features from the network's end",
        )
    return numbers


def _timm_knows(builder: str) -> bool:
    import timm  # half a second to import, needed for few calls

    return bool(timm.is_model(builder))
