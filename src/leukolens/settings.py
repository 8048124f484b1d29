"""Frozen, typed settings of each verb; unknown keys are rejected and nothing on disk is touched.

In: defaults < a YAML file < flags (in that precedence). Out: settings objects. Writes: nothing; the resolved settings
are written beside what they made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SplitStrategy = Literal["subject", "image", "official", "file"]
WeightsPolicy = Literal["pretrained", "available", "none"]
Precision = Literal["auto", "bf16", "fp32"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Pooling = Literal["mean", "max_mean", "gem"]
Crop = Literal["canvas", "centre", "cell"]
Colour = Literal["rgb", "grey", "constancy"]
CamMethod = Literal["gradcam", "eigencam"]
Engine = Literal["torch", "openvino", "onnx", "int8"]
EngineChoice = Literal["auto", "torch", "openvino", "onnx", "int8"]
ExportFormat = Literal["onnx", "openvino", "int8", "litert"]

_FRACTION_TOLERANCE = 1e-6
_SIDES = 3
MOST_IMAGES_EXPLAINED = 200

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """What all settings share: they cannot be changed and reject keys that they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IndexSettings(Settings):
    """`leukolens index`."""

    positive: tuple[str, ...] = ()
    """Names of the positive class or classes; empty means ALL where the classes are ALL and HEM."""
    canvas_px: tuple[Positive, Positive] | None = None
    """(height, width) that all images are cropped or padded to; None means their most common size."""
    strict: bool = False
    """Stop at the first image that would be set aside."""
    max_pixels: Positive = 25_000_000
    """Largest width x height accepted, read from the header before decoding. A 40x microscope field of a 20-megapixel
    camera passes; a cell image is about 0.2 megapixels."""
    workers: Positive | None = None
    """Threads that decode; None means one per core."""


class SplitSettings(Settings):
    """`leukolens split`."""

    strategy: SplitStrategy = "subject"
    fractions: tuple[Fraction, Fraction, Fraction] = (0.70, 0.15, 0.15)
    """Share of the images of each class for training, validation and test."""
    folds: Annotated[int, Field(ge=3)] | None = None
    """k of a k-fold split (subject or image): part i is the test side, part i+1 the validation side of fold i."""
    seed: int = 0
    file: Path | None = None
    """For `file`: a CSV with columns image and side (train, validation, test)."""

    @model_validator(mode="after")
    def _consistent(self) -> SplitSettings:
        if abs(sum(self.fractions) - 1) > _FRACTION_TOLERANCE or min(self.fractions) <= 0:
            raise ValueError(f"fractions must be {_SIDES} shares above 0 that sum to 1, received {self.fractions}")
        if (self.strategy == "file") != (self.file is not None):
            raise ValueError("strategy 'file' and a split file go together: give both or neither")
        if self.folds is not None and self.strategy not in ("subject", "image"):
            raise ValueError(f"folds exist for 'subject' and 'image' only, received strategy {self.strategy!r}")
        if self.folds is not None and "fractions" in self.model_fields_set:
            raise ValueError("folds and fractions exclude each other: k folds give k-2, 1 and 1 parts")
        return self


class AugmentationSettings(Settings):
    """Training transforms; why each is safe for stained cells is said in `data/augmentation.py`."""

    flip: bool = True
    rotate: bool = True
    stain_shift: Fraction = 0.05
    """Standard deviation of a per-image, per-channel factor on optical density (0.05 = 5 %)."""
    brightness_shift: Fraction = 0.05
    """Standard deviation of a per-image offset on optical density."""
    hed_shift: Fraction = 0.0
    """Largest change of a per-image factor (1 - shift to 1 + shift) and offset (-shift to shift, in decimal optical density)
    on each of the stains haematoxylin, eosin and DAB; 0 leaves it out. Tellez et al. (Med Image Anal 2019) call 0.05 light
    and 0.2 strong."""
    greyscale: Fraction = 0.0
    """Share of the images that lose their colour, after all else. Where the input is grey, all do."""


class InputSettings(Settings):
    """What is done to each picture before it is resized, alike at training and at prediction.

    Part of the record of preprocessing, and so of every cache, run and prediction.
    """

    crop: Crop = "canvas"
    """canvas: all of it, at true scale; centre: its central square of `crop_px`, at true scale; cell: a square around the
    foreground, of its own size for each cell. The last takes away cell size, which is a shortcut to the class but also
    what cytologists look at."""
    crop_px: Annotated[int, Field(ge=32)] | None = None
    """Side of the central square in pixels of the canvas; for `centre`, and no longer than the canvas."""
    colour: Colour = "rgb"
    """rgb: as it is; grey: luma on all three channels; constancy: the foreground under a neutral light (shades of grey)."""

    @model_validator(mode="after")
    def _consistent(self) -> InputSettings:
        if (self.crop == "centre") != (self.crop_px is not None):
            raise ValueError("crop 'centre' and crop_px go together: give both or neither")
        return self


class DecisionSettings(Settings):
    """What is fitted on validation after training: temperature, threshold, and what the model refuses to judge."""

    aim: Literal["balanced_accuracy", "sensitivity"] = "balanced_accuracy"
    """What the threshold is chosen for: the highest balanced accuracy, or the highest specificity among thresholds with
    at least `sensitivity`. Two classes only; with more, the highest probability decides."""
    sensitivity: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Least sensitivity wished; for aim `sensitivity`."""
    neighbours: Positive = 10
    """k of the distance to the k-th nearest training image."""
    outlier_quantile: Annotated[float, Field(gt=0.5, le=1)] = 0.99
    """Share of validation images that are to be accepted as like the training images."""

    @model_validator(mode="after")
    def _consistent(self) -> DecisionSettings:
        if (self.aim == "sensitivity") != (self.sensitivity is not None):
            raise ValueError("aim 'sensitivity' and a least sensitivity go together: give both or neither")
        return self


class EvaluateSettings(Settings):
    """`leukolens evaluate`: how intervals are drawn."""

    resamples: Annotated[int, Field(ge=200)] = 2000
    """Bootstrap resamples of subject groups. 200 is the least for a standard error, 1,000 to 2,000 for the ends of an
    interval (Efron & Tibshirani 1993, section 14.5)."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    minimum_groups: Annotated[int, Field(ge=2)] = 5
    """Subject groups that each class needs for an interval; docs/decisions/0012 has the simulation behind it."""
    seed: int = 0


class TrainSettings(Settings):
    """`leukolens train`."""

    architecture: str = "resnet50"
    weights: WeightsPolicy = "pretrained"
    """pretrained: folder, packaged file or download, an error where none is to be had; available: the same, but goes on
    from random weights and says so; none: random weights."""
    weights_dir: Path | None = None
    input_px: Annotated[int, Field(ge=32)] = 224
    """Height and width of the network's input; 224 in the source document."""
    input: InputSettings = InputSettings()
    """What is done to each picture before it is resized to that."""
    start_from: Path | None = None
    """A finished run directory, of this architecture and other data, whose backbone is the start in place of pretrained
    weights; refused where it has seen an image that is to be validated or tested on."""
    pooling: Pooling = "mean"
    """How the last feature map becomes features: its mean, its maximum and mean side by side (twice as many features), or
    its generalised mean of power 3."""
    feature_stages: tuple[Positive, ...] | Literal["all"] = ()
    """Stages whose maps are pooled, side by side, into the features, counted from 1 at the image and rising; the network is
    cut after the last of them. Empty: its own end. docs/results.md has what was seen with which."""
    head_solver: Literal["adamw", "lbfgs"] = "adamw"
    """How the head is fitted on frozen features: by `head_epochs` full steps of AdamW with dropout, or as logistic
    regression to its optimum, the L2 penalty chosen on validation."""
    head_penalty: Annotated[float, Field(gt=0)] | None = None
    """With lbfgs: the L2 penalty, in the mean loss per image and over 2, on standardised features; None chooses one on
    validation."""
    head_views: Literal[1, 8] = 1
    """8 fits the head on frozen features of all flips and quarter turns of the training images, at 8 times the cost."""
    head_epochs: Positive = 200
    head_learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    finetune_epochs: Annotated[int, Field(ge=0)] = 6
    """At most; 0 keeps the backbone frozen."""
    backbone_learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    scratch_learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of a backbone of random weights, in place of the backbone's rate."""
    finetune_head_learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    trainable: Literal["all", "last_block"] = "all"
    """What fine-tuning changes besides the head: the whole backbone, or its last stage only."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the rate of a backbone's stage for each stage above it; 1 gives all the same rate."""
    warmup_fraction: Fraction = 0.1
    """Share of the fine-tuning steps in which the rate rises linearly; cosine decay to 0 follows."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    class_weights: bool = True
    """Weigh the loss by inverse class frequency in the training side."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes, in the losses that AdamW lowers."""
    focal_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Power of the focal loss, which counts images the less the surer they are right, in the losses that AdamW lowers;
    2 in its paper."""
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Of the beta distribution that the share of a second image is drawn from in fine-tuning; 0 mixes nothing, 0.1 to 0.4
    in its paper."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """What an exponential moving average of the weights keeps of itself in a fine-tuning step; above 0 the average, which
    reaches about 1 / (1 - decay) steps back, is judged on validation and kept in place of the weights themselves."""
    swa_epochs: Annotated[int, Field(ge=0)] = 0
    """2 or more: the equal average of the weights after so many last epochs is judged too, and kept where it is best."""
    patience: Positive = 3
    """Fine-tuning stops after so many epochs without a better validation balanced accuracy."""
    batch_size: Positive = 32
    augmentation: AugmentationSettings = AugmentationSettings()
    decision: DecisionSettings = DecisionSettings()
    precision: Precision = "auto"
    device: Device = "auto"
    seed: int = 0
    fold: Annotated[int, Field(ge=0)] = 0
    """Which fold of a k-fold split to train on."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainSettings:
        if self.feature_stages != "all" and list(self.feature_stages) != sorted(set(self.feature_stages)):
            raise ValueError("feature_stages must be all, or rise, each named once: [1, 2]")
        if self.head_penalty is not None and self.head_solver != "lbfgs":
            raise ValueError("head_penalty needs head_solver lbfgs: AdamW's head has none")
        if self.swa_epochs == 1:
            raise ValueError("swa_epochs must be 0 (no average) or 2 or more: one epoch is no average")
        if self.swa_epochs and self.ema_decay:
            raise ValueError("ema_decay and swa_epochs exclude each other: one average is kept")
        return self

    @property
    def stages_named(self) -> str:
        """The feature stages in words, "all stages" or "stages 1+2"; empty for the network's own end."""
        if self.feature_stages == "all":
            return "all stages"
        return f"stages {'+'.join(map(str, self.feature_stages))}" if self.feature_stages else ""

    @property
    def augmentation_of_input(self) -> AugmentationSettings:
        """The augmentation; of grey pictures it leaves none coloured, since none is at prediction."""
        is_grey = self.input.colour == "grey"
        return self.augmentation.model_copy(update={"greyscale": 1.0}) if is_grey else self.augmentation


class ShardSettings(Settings):
    """How `leukolens predict --ray` shares the work out."""

    images_per_shard: Positive = 4096
    """What is lost at most when a worker dies; at 50 images/s a shard takes 80 seconds."""
    workers: Positive | None = None
    """Processes that score; None means as many as there are cores for."""
    cores_per_worker: Positive = 2
    """Threads of one worker. More share one copy of the network; fewer waste less where the network is small."""
    address: str | None = None
    """Of a running Ray cluster ("auto": the one that this machine belongs to); None starts one on this machine."""


class PredictSettings(Settings):
    """`leukolens predict`."""

    abstain: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Largest share of wrong answers that is accepted (the miscoverage of the prediction sets); None answers always, but of
    images without a manifest, whose sets and refusals are always told, it means 0.1."""
    tta: bool = False
    """Test-time augmentation: the mean of the logits over the 8 flips and quarter turns."""
    device: Device = "auto"
    engine: EngineChoice = "auto"
    """What computes: PyTorch, OpenVINO, or ONNX Runtime on the exported network or its 8-bit copy, which only bundles hold.
    auto never takes the 8-bit copy, and of the others what is fastest on this machine; docs/decisions/0016."""
    shards: ShardSettings = ShardSettings()


class ExportSettings(Settings):
    """`leukolens export`."""

    formats: Annotated[tuple[ExportFormat, ...], Field(min_length=1)] = ("onnx", "openvino")
    cells: Positive = 256
    """Validation cells that each exported network is tried on, at most; beyond that a seeded choice of them."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Largest difference of a probability that is accepted between an exported float network and PyTorch in float32. Rounding
    alone gives 1e-6 to 1e-4, a wrong scale or a lost layer far more than a hundredth."""
    calibration_images: Positive = 128
    """Training cells that the ranges of the 8-bit network are taken from, a seeded choice. 100 to a few hundred is usual."""
    changed_decisions: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest share of the cells whose class the 8-bit network may change, and of those that it may refuse or accept otherwise,
    as unlike the training cells."""
    auroc_loss: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Largest loss of AUROC on these cells, as far as they have a positive class, that the 8-bit network may cost."""
    accept_loss: bool = False
    """Keep the 8-bit network even where it costs more than that."""
    seed: int = 0


class ServeLimits(Settings):
    """What one server takes on; docs/serving.md says what happens beyond."""

    max_files: Positive = 1000
    """Pictures in one request, those in archives counted one by one."""
    max_request_bytes: Positive = 256 << 20
    """Body of one request; 400 cells of 450 x 450 px as BMP."""
    max_file_bytes: Positive = 256 << 20
    """One file of a request, an archive say."""
    max_bytes_in_flight: Positive = 1 << 30
    """Bodies of all requests together, in memory. Pixels that are being decoded come on top: 100 MB per thread at most."""
    max_requests: Positive = 32
    """Requests for scores that are answered at the same time; further ones are told to come again."""
    max_explanations: Positive = 8
    """Maps that are waited for at the same time."""
    max_connections: Positive = 512
    timeout_seconds: Annotated[float, Field(gt=0)] = 300
    """From the first byte of a request to the last of its answer."""
    stall_seconds: Annotated[float, Field(gt=0)] = 20
    """Longest pause in an upload, and longest time that the headers of a request may take."""
    drain_seconds: Annotated[float, Field(gt=0)] = 60
    """How long requests under way may go on after SIGTERM."""
    decode_workers: Positive | None = None
    """Threads that decode; None means one per core."""
    gather_seconds: Annotated[float, Field(ge=0, le=1)] = 0.05
    """How long pictures that are on their way may hold up a batch that is not full: it costs as much as a full one."""

    @model_validator(mode="after")
    def _consistent(self) -> ServeLimits:
        if not self.max_file_bytes <= self.max_request_bytes <= self.max_bytes_in_flight:
            raise ValueError("max_file_bytes, max_request_bytes and max_bytes_in_flight must not decrease in this order")
        return self


class ServeSettings(Settings):
    """`leukolens serve`."""

    host: str = "127.0.0.1"
    """Address to listen at. Only a loopback address does without a token."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8341
    """0 takes any that is free."""
    token_file: Path | None = None
    """File whose only line is the token; None means the environment variable LEUKOLENS_TOKEN, and where that is empty, none."""
    allow_origin: tuple[str, ...] = ()
    """Other web pages that may ask from within a browser, as `https://lab.example`."""
    allow_host: tuple[str, ...] = ()
    """Further names under which browsers reach a loopback address, through a proxy say."""
    results: Path | None = None
    """Folder whose report.html is shown."""
    abstain: Annotated[float, Field(gt=0, lt=1)] | None = None
    """As in `predict`."""
    device: Device = "auto"
    engine: EngineChoice = "auto"
    json_logs: bool = False
    """One JSON object per line in place of words."""
    limits: ServeLimits = ServeLimits()

    @field_validator("allow_origin")
    @classmethod
    def _named_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, separator, rest = origin.partition("://")
            if scheme not in ("http", "https") or not separator or not rest or "*" in rest or "/" in rest:
                raise ValueError(f"an origin is http://HOST or https://HOST, without * and without a path, received {origin!r}")
        return origins


class ExplainSettings(Settings):
    """`leukolens explain`."""

    methods: Annotated[tuple[CamMethod, ...], Field(min_length=1)] = ("gradcam", "eigencam")
    count: Annotated[int, Field(gt=0, le=MOST_IMAGES_EXPLAINED)] = 24
    """Images of the test side: the surest mistakes, a third of these at most, and the least certain. Of images without a
    manifest, which have no labels, the least certain."""
    images: tuple[str, ...] = ()
    """Names of images in the manifest, or patterns with * and ?, in place of that choice."""
    target_class: str | None = None
    """Class that the maps are of; None means the positive class, or the positive classes together."""
    layer: str | None = None
    """Dotted name of the layer whose feature map is weighed; None means that of the architecture."""
    abstain: Annotated[float, Field(gt=0, lt=1)] | None = None
    """As in `predict`; None refuses only what is unlike the training images, and of images without a manifest means 0.1."""
    device: Device = "auto"

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: tuple[CamMethod, ...]) -> tuple[CamMethod, ...]:
        if len(set(methods)) < len(methods):
            raise ValueError(f"each method can be named once, received {', '.join(methods)}")
        return methods


class CrossvalSettings(Settings):
    """`leukolens crossval`."""

    architectures: tuple[str, ...] = ()
    """Names of the table in `models/architectures.py`, or `timm:<name>`; empty means the five of the source document."""
    strategy: Literal["subject", "image"] = "subject"
    folds: Annotated[int, Field(ge=3)] = 5
    repeats: Positive = 3
    """Repetition r uses the seed + r for the folds and the training."""
    tta: bool = False
    """Also score with test-time augmentation, as further rows."""
    train: TrainSettings = TrainSettings(finetune_epochs=0)
    """`fold` and `seed` of each training are set by the cross-validation; without fine-tuning, which is what settings that
    do not name `finetune_epochs` mean here, frozen features are computed once for all folds and seeds."""
    evaluate: EvaluateSettings = EvaluateSettings()
    seed: int = 0

    @field_validator("train", mode="before")
    @classmethod
    def _frozen_unless_said(cls, train: object) -> object:
        if isinstance(train, dict) and train.get("finetune_epochs") is None:
            return {**train, "finetune_epochs": 0}
        return train


class PhantomSettings(Settings):
    """`leukolens phantom`."""

    cells: Annotated[int, Field(ge=40)] = 240
    """Number of training cells, planted copies included; preliminary cells (8 %), two final images and a corrupt file
    come on top."""
    subjects: Annotated[int, Field(ge=12)] = 24
    like: Literal["c-nmc-2019"] | None = None
    """A published set whose cells per subject, fold and part, shared cells and file formats are taken over exactly."""
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> PhantomSettings:
        if self.like is not None and self.model_fields_set & {"cells", "subjects"}:
            raise ValueError(f"a phantom like {self.like} has its cells and subjects: leave cells and subjects out")
        return self


class CompareSettings(Settings):
    """`leukolens compare`: the settings of the verbs that it runs, and what to compare."""

    architectures: tuple[str, ...] = ()
    """Names of the table in `models/architectures.py`, or `timm:<name>`; empty means the five of the source document."""
    protocol: Literal["subject", "image", "official", "file", "both"] = "subject"
    """`both` runs the split by subject and the split by image side by side."""
    index: IndexSettings = IndexSettings()
    split: SplitSettings = SplitSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    folds: Annotated[int, Field(ge=0)] = 5
    """Folds of the cross-validation on frozen features that stands beside the trained networks; 0 leaves it out."""
    repeats: Positive = 3
    tta: bool = False
    """Also score with test-time augmentation, as further rows."""
    foreign: dict[str, Path] = {}
    """Folders of images that are none of the data's kind, by name: the report gives the share that is refused.
    Photographs and noise are tried in any case."""

    @model_validator(mode="after")
    def _consistent(self) -> CompareSettings:
        if self.folds in (1, 2):
            raise ValueError(f"folds must be 0 (no cross-validation) or 3 or more, received {self.folds}")
        if (self.protocol == "file") != (self.split.file is not None):
            raise ValueError("protocol 'file' and a split file go together: give both or neither")
        if self.split.folds is not None:
            raise ValueError("compare trains one split: leave folds out")
        return self
