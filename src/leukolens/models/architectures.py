"""ARCHITECTURES: one row per network, and `timm:<any name>` beside them. A sixth network is one row more.

In: a name from the command line. Out: an Architecture. Writes: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leukolens.errors import SettingsError

TIMM_PREFIX = "timm:"


@dataclass(frozen=True)
class Architecture:
    """What must be known of one network.

    `trunk` names the children of the library's network that lead from the image to its last feature map, which is then
    average-pooled; empty means that the library pools by itself. `stand_in` names the row whose packaged or local
    weights may be used where this row's own are not to be had.
    """

    name: str
    display_name: str
    library: Literal["torchvision", "timm"]
    builder: str
    trunk: tuple[str, ...] = ()
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


_ROWS = (
    Architecture(
        name="vgg16",
        display_name="VGG16",
        library="torchvision",
        builder="vgg16",
        trunk=("features",),
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


def _timm_knows(builder: str) -> bool:
    import timm  # half a second to import, needed for few calls

    return bool(timm.is_model(builder))
