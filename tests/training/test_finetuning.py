from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from leukolens.data.pixel_cache import PixelCache
from leukolens.data.preprocessing import Preprocessing
from leukolens.models.classifier import Classifier, build_classifier
from leukolens.models.compute import Compute
from leukolens.models.weights import PretrainedWeights
from leukolens.settings import TrainSettings
from leukolens.training import finetuning
from leukolens.training.batches import PixelBatches, ShuffledBatches, TrainingImages
from leukolens.training.finetuning import (
    BEST_FILE,
    LAST_FILE,
    RESUME_FOLDER,
    EpochKeeper,
    FineTuning,
    fine_tune,
    lay_out_moments,
)
from leukolens.training.losses import Mixed, training_loss
from leukolens.training.selection import Epoch, Selection

CPU = Compute("cpu", "fp32")


@pytest.fixture
def images(pixels: PixelCache) -> TrainingImages:
    """33 cells to train on, a number that batches of 8 leave one of, and 20 to validate."""
    labels = np.array([int("/all/" in image) for image in pixels.images])
    rows = np.random.default_rng(0).permutation(60)[:53]
    return TrainingImages(pixels.pixels, rows[:33], labels[rows[:33]], rows[33:], labels[rows[33:]])


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let the n-th epoch have the n-th validation balanced accuracy, all with the same loss."""

    def judged(phase: str, number: int, *_: Any) -> Epoch:
        return Epoch(phase, number, 0.0, 0.5, scores[number - 1], 0.0, 0.0)

    monkeypatch.setattr(finetuning, "validation_epoch", judged)


# Batches


def test_every_image_is_seen_once_an_epoch_in_even_batches() -> None:
    batches = list(ShuffledBatches(33, 8, seed=0))
    assert sorted(position for batch in batches for position in batch) == list(range(33))
    assert [len(batch) for batch in batches] == [7, 7, 7, 6, 6]
    assert len(ShuffledBatches(33, 8, seed=0)) == 5


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = ShuffledBatches(33, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    assert [sorted(batch) for batch in ShuffledBatches(3, 8, seed=0)] == [[0, 1, 2]]


def test_batch_holds_the_pixels_and_labels_of_its_rows(pixels: PixelCache) -> None:
    rows, labels = np.array([9, 4, 7]), np.array([1, 0, 1])
    levels, found = PixelBatches(pixels.pixels, rows, labels)[[2, 0]]
    assert levels.shape == (2, 3, 32, 32)
    assert levels.dtype == torch.uint8
    np.testing.assert_array_equal(levels.permute(0, 2, 3, 1), pixels.pixels[[7, 9]])
    assert found.tolist() == [1, 1]


# Rates


def rates(classifier: Classifier, images: TrainingImages, settings: TrainSettings) -> list[list[float]]:
    """Rates of backbone and head before each step of the whole fine-tuning, and after the last."""
    configured = FineTuning(classifier, images, settings).configure_optimizers()
    optimiser, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(5 * settings.finetune_epochs + 1):
        found.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        scheduler.step()
    return found


def test_rates_rise_linearly_and_fall_by_a_cosine(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings
) -> None:
    tiny_classifier.norm_layers_frozen = True
    # 4 epochs of 5 steps, of which a fifth warms up: 4 steps, then 16.
    rate = {"backbone_learning_rate": 1e-4, "finetune_head_learning_rate": 1e-3}
    settings = tiny.model_copy(update={"finetune_epochs": 4, "warmup_fraction": 0.2, **rate})
    found = np.array(rates(tiny_classifier, images, settings))
    np.testing.assert_allclose(found[:5, 1], [0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    assert found[4 + 8, 1] == pytest.approx(0.5e-3)
    assert found[4 + 4, 1] == pytest.approx(0.5e-3 * (1 + np.cos(np.pi / 4)))
    assert found[20, 1] == pytest.approx(0)
    np.testing.assert_allclose(found[:, 0], found[:, 1] / 10)


def test_random_backbone_learns_at_a_rate_of_its_own(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings
) -> None:
    rate = {"backbone_learning_rate": 1e-4, "finetune_head_learning_rate": 1e-3, "scratch_learning_rate": 5e-3}
    found = np.array(rates(tiny_classifier, images, tiny.model_copy(update=rate)))
    np.testing.assert_allclose(found[:, 0], found[:, 1] * 5)


def test_all_weights_are_tuned_and_those_of_the_best_epoch_are_kept(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in tiny_classifier.state_dict().items()}
    kept: list[dict[str, torch.Tensor]] = []
    end = EpochKeeper.on_train_epoch_end

    def remember(self: EpochKeeper, trainer: pl.Trainer, module: FineTuning) -> None:
        end(self, trainer, module)
        kept.append({name: value.clone() for name, value in module.classifier.state_dict().items()})

    monkeypatch.setattr(EpochKeeper, "on_train_epoch_end", remember)
    scripted(monkeypatch, [0.5, 0.9, 0.8])
    tuned = fine_tune(tiny_classifier, images, tiny, CPU, tmp_path)
    assert tuned.selection == Selection(0.9, -0.5)
    best = load_file(tmp_path / RESUME_FOLDER / BEST_FILE)
    assert all(torch.equal(best[name], value) for name, value in kept[1].items())
    parameters = [name for name, _ in tiny_classifier.named_parameters()]
    assert [name for name in parameters if torch.equal(best[name], before[name])] == []
    assert not tiny_classifier.training


def test_moments_from_a_checkpoint_are_laid_out_like_their_weights() -> None:
    def stepped(lost_format: bool) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last))
        optimiser = torch.optim.AdamW([weight], lr=0.1, fused=True)
        for step in range(3):
            gradient = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(step))
            weight.grad = gradient.to(memory_format=torch.channels_last)
            if lost_format and step == 2:
                state = optimiser.state[weight]
                state.update({name: state[name].contiguous() for name in ("exp_avg", "exp_avg_sq")})
                lay_out_moments(optimiser)
            optimiser.step()
        return weight.detach()

    assert torch.equal(stepped(lost_format=True), stepped(lost_format=False))


# Patience


@pytest.mark.parametrize(
    ("scores", "patience", "epochs"),
    [
        ([0.5, 0.9, 0.8, 0.7, 1.0, 1.0], 2, 4),
        ([0.5, 0.9, 0.8, 0.95, 0.9, 0.9], 2, 6),
        ([0.9, 0.9, 1.0, 1.0, 1.0, 1.0], 1, 2),
        ([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], 1, 6),
    ],
)
def test_tuning_stops_when_patience_runs_out(
    tiny_classifier: Classifier,
    images: TrainingImages,
    tiny: TrainSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    patience: int,
    epochs: int,
) -> None:
    scripted(monkeypatch, scores)
    settings = tiny.model_copy(update={"finetune_epochs": 6, "patience": patience})
    tuned = fine_tune(tiny_classifier, images, settings, CPU, tmp_path)
    assert [epoch.validation_balanced_accuracy for epoch in tuned.epochs] == scores[:epochs]
    assert [epoch.epoch for epoch in tuned.epochs] == list(range(1, epochs + 1))


@pytest.mark.parametrize("scores", [[0.5, 0.9, 0.8, 0.7, 1.0, 1.0], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]])
def test_ended_tuning_does_not_train_further(
    tiny_classifier: Classifier,
    images: TrainingImages,
    tiny: TrainSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
) -> None:
    scripted(monkeypatch, scores)
    settings = tiny.model_copy(update={"finetune_epochs": 6, "patience": 2})
    ended = fine_tune(tiny_classifier, images, settings, CPU, tmp_path)

    def refuse(*_: Any) -> None:
        raise AssertionError("a step was trained")

    monkeypatch.setattr(FineTuning, "training_step", refuse)
    assert fine_tune(tiny_classifier, images, settings, CPU, tmp_path) == ended


# Ctrl-C


def test_ctrl_c_stays_a_keyboard_interrupt_and_works_again(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, handler = FineTuning.training_step, signal.getsignal(signal.SIGINT)

    def interrupted(self: FineTuning, batch: Any, batch_index: int) -> torch.Tensor:
        if self.current_epoch == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_index)

    monkeypatch.setattr(FineTuning, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(tiny_classifier, images, tiny, CPU, tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / RESUME_FOLDER / LAST_FILE).is_file()


@pytest.mark.usefixtures("no_random_state_left")
def test_tuning_leaves_the_global_random_state_alone(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings, tmp_path: Path
) -> None:
    fine_tune(tiny_classifier, images, tiny, CPU, tmp_path)


@pytest.mark.parametrize("changes", [{"class_weights": False}, {"precision": "bf16"}, {"batch_size": 100}])
def test_tuning_works_without_class_weights_in_bfloat16_and_in_one_batch(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = tiny.model_copy(update={**changes, "finetune_epochs": 1})
    tuned = fine_tune(tiny_classifier, images, settings, Compute("cpu", changes.get("precision", "fp32")), tmp_path)
    assert len(tuned.epochs) == 1
    assert np.isfinite([tuned.epochs[0].train_loss, tuned.epochs[0].validation_loss]).all()
    stored = load_file(tmp_path / RESUME_FOLDER / BEST_FILE)
    assert {value.dtype for value in stored.values()} <= {torch.float32, torch.int64}


# Stages


@pytest.fixture
def staged(random_weights: Callable[[str], PretrainedWeights]) -> Classifier:
    """The tiny network with its stages named."""
    weights = random_weights("timm:test_resnet")
    stages = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    weights = replace(weights, architecture=replace(weights.architecture, stages=stages))
    return build_classifier(weights, Preprocessing((48, 48), 32, weights.mean, weights.std), 2, dropout=0.2, seed=0)


def tensors(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in classifier.state_dict().items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_stages_stay_and_the_last_one_learns(
    staged: Classifier, images: TrainingImages, tiny: TrainSettings, tmp_path: Path, precision: str
) -> None:
    before = tensors(staged)
    settings = tiny.model_copy(update={"trainable": "last_block", "finetune_epochs": 1, "ema_decay": 0.5})
    fine_tune(staged, images, settings, Compute("cpu", precision), tmp_path)
    for after in (tensors(staged), load_file(tmp_path / RESUME_FOLDER / BEST_FILE)):
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        learning = {name for name in before if "layer4" in name or name.startswith("head")}
        assert changed == learning


def test_frozen_weights_have_no_gradient(staged: Classifier, images: TrainingImages, tiny: TrainSettings) -> None:
    staged.backbone.freeze_all_but_last_stage()
    staged.train()
    levels = torch.from_numpy(images.pixels[[0, 1, 2, 3]]).permute(0, 3, 1, 2).float()
    staged(levels).sum().backward()
    with_gradient = {name for name, weight in staged.named_parameters() if weight.grad is not None}
    assert with_gradient == {name for name, _ in staged.named_parameters() if "layer4" in name or "head" in name}


def groups_of(classifier: Classifier, images: TrainingImages, settings: TrainSettings) -> list[dict[str, Any]]:
    optimiser = FineTuning(classifier, images, settings).configure_optimizers()["optimizer"]
    groups: list[dict[str, Any]] = optimiser.param_groups
    return groups


def test_rates_fall_from_stage_to_stage(staged: Classifier, images: TrainingImages, tiny: TrainSettings) -> None:
    rate = {"scratch_learning_rate": 8e-3, "finetune_head_learning_rate": 1e-3, "layer_decay": 0.5}
    groups = groups_of(staged, images, tiny.model_copy(update=rate))
    assert [group["initial_lr"] for group in groups] == pytest.approx([8e-3, 4e-3, 2e-3, 1e-3, 5e-4, 1e-3])
    network = staged.backbone.network
    assert [id(weight) for weight in groups[0]["params"]] == [id(weight) for weight in network.layer4.parameters()]
    first = [*network.conv1.parameters(), *network.bn1.parameters()]
    assert [id(weight) for weight in groups[4]["params"]] == [id(weight) for weight in first]
    together = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(together) == sorted(id(weight) for weight in staged.parameters())


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_last_block_alone_learns_at_the_rate_of_the_backbone(
    staged: Classifier, images: TrainingImages, tiny: TrainSettings, decay: float
) -> None:
    staged.backbone.freeze_all_but_last_stage()
    groups = groups_of(staged, images, tiny.model_copy(update={"layer_decay": decay}))
    assert [group["initial_lr"] for group in groups] == [tiny.scratch_learning_rate, tiny.finetune_head_learning_rate]
    assert len(groups[0]["params"]) == len(list(staged.backbone.network.layer4.parameters()))


# Losses


def test_mixed_batch_is_judged_by_both_labels(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny.model_copy(update={"mixup_alpha": 1.0, "label_smoothing": 0.1})
    tuning = FineTuning(tiny_classifier.eval(), images, settings)
    levels, labels = torch.rand(4, 3, 32, 32) * 255, torch.tensor([0, 1, 1, 0])
    mixed = Mixed(levels.flip(0), torch.tensor([2, 0, 1, 3]), 0.7)
    monkeypatch.setattr(finetuning, "augment", lambda given, *_: given)
    monkeypatch.setattr(finetuning, "mix_up", lambda *_: mixed)
    tuning.augmentation_generator = torch.Generator()
    logits = tiny_classifier(levels.flip(0))
    own, partner = (training_loss(logits, each, tuning.loss_weights, settings) for each in (labels, labels[[2, 0, 1, 3]]))
    torch.testing.assert_close(tuning.training_step((levels, labels), 0), 0.7 * own + 0.3 * partner)


def test_validation_is_judged_by_plain_cross_entropy(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings, tmp_path: Path
) -> None:
    smoothed = tiny.model_copy(update={"finetune_epochs": 1, "label_smoothing": 0.3, "focal_gamma": 2.0, "mixup_alpha": 0.3})
    tuned = fine_tune(tiny_classifier, images, smoothed, CPU, tmp_path)
    tuning = FineTuning(tiny_classifier, images, smoothed)
    levels = torch.from_numpy(images.pixels[images.validation_rows]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = tiny_classifier(levels)
    wanted = torch.nn.functional.cross_entropy(logits, torch.from_numpy(images.validation_labels), tuning.loss_weights)
    assert tuned.epochs[0].validation_loss == pytest.approx(float(wanted), rel=1e-4)


# Averages


def test_moving_average_of_the_steps_is_judged_and_kept(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[torch.Tensor] = []
    end = FineTuning.on_train_batch_end

    def remember(self: FineTuning, *given: Any) -> None:
        end(self, *given)
        steps.append(self.classifier.head.weight.detach().clone())

    monkeypatch.setattr(FineTuning, "on_train_batch_end", remember)
    settings = tiny.model_copy(update={"ema_decay": 0.8, "finetune_epochs": 1, "scratch_learning_rate": 0.01})
    tuned = fine_tune(tiny_classifier, images, settings, CPU, tmp_path)
    average = steps[0]
    for weight in steps[1:]:
        average = 0.8 * average + 0.2 * weight
    best = load_file(tmp_path / RESUME_FOLDER / BEST_FILE)
    assert len(steps) == 5
    torch.testing.assert_close(best["head.weight"], average)
    assert not torch.allclose(best["head.weight"], steps[-1])
    # What validation saw is what is kept.
    tiny_classifier.load_state_dict(best)
    levels = torch.from_numpy(images.pixels[images.validation_rows]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = tiny_classifier.eval()(levels)
    weights = FineTuning(tiny_classifier, images, settings).loss_weights
    wanted = torch.nn.functional.cross_entropy(logits, torch.from_numpy(images.validation_labels), weights)
    assert tuned.epochs[0].validation_loss == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [([0.5, 0.6, 0.7, 0.8], "average"), ([0.5, 0.6, 0.7, 0.65], "last epoch"), ([0.5, 0.6, 0.7, 0.7], "last epoch")],
)
def test_average_of_the_last_epochs_is_kept_where_it_is_best(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, scores: list[float], kept: str,
) -> None:  # fmt: skip
    after: list[dict[str, torch.Tensor]] = []
    end = EpochKeeper.on_train_epoch_end

    def remember(self: EpochKeeper, trainer: pl.Trainer, module: FineTuning) -> None:
        end(self, trainer, module)
        after.append(tensors(module.classifier))

    monkeypatch.setattr(EpochKeeper, "on_train_epoch_end", remember)
    scripted(monkeypatch, scores)
    settings = tiny.model_copy(update={"swa_epochs": 2})
    tuned = fine_tune(tiny_classifier, images, settings, CPU, tmp_path)
    assert [epoch.epoch for epoch in tuned.epochs] == [1, 2, 3, 4]
    assert [epoch.validation_balanced_accuracy for epoch in tuned.epochs] == scores
    assert tuned.averaged_epochs == (2 if kept == "average" else 0)
    assert tuned.selection == Selection(max(scores), -0.5)
    best = load_file(tmp_path / RESUME_FOLDER / BEST_FILE)
    for name, value in best.items():
        wanted = (after[1][name] + after[2][name]) / 2 if kept == "average" else after[2][name]
        if value.is_floating_point():
            torch.testing.assert_close(value, wanted, msg=name)
    files = sorted(path.name for path in (tmp_path / RESUME_FOLDER).iterdir())
    assert files == [BEST_FILE, "epoch-2.safetensors", "epoch-3.safetensors", LAST_FILE]


def test_one_epoch_is_too_few_for_an_average(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tiny.model_copy(update={"swa_epochs": 2, "finetune_epochs": 1})
    with caplog.at_level("INFO", "leukolens"):
        tuned = fine_tune(tiny_classifier, images, settings, CPU, tmp_path)
    assert len(tuned.epochs) == 1
    assert caplog.messages[-1] == "timm:test_resnet: one epoch was trained, too few for an average"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swa_epochs": 1}, "swa_epochs must be 0 (no average) or 2 or more: one epoch is no average"),
        ({"swa_epochs": 2, "ema_decay": 0.9}, "ema_decay and swa_epochs exclude each other: one average is kept"),
    ],
)
def test_averages_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainSettings(**changes)
