"""Training in several processes: the shares of each, and two real processes that torchrun starts (gloo, on the CPU)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as functional
import yaml
from safetensors.torch import save_file

from leukolens.artifacts import TRAIN, VALIDATION, hash_file, read_json, write_json
from leukolens.data.pixel_cache import PixelCache
from leukolens.errors import RunError, SettingsError
from leukolens.models.classifier import Classifier
from leukolens.processes import ALONE, Processes, started_processes
from leukolens.settings import TrainSettings
from leukolens.training import finetuning, process_group
from leukolens.training import train as training
from leukolens.training.batches import ShuffledBatches, TrainingImages, share_of, validation_loader
from leukolens.training.finetuning import FineTuning, epoch_seed
from leukolens.training.process_group import ProcessGroup
from leukolens.training.runs import Run
from leukolens.training.train import train

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "RANK": "4", "LOCAL_WORLD_SIZE": "3", "LOCAL_RANK": "1",
            "GROUP_WORLD_SIZE": "2"}  # fmt: skip
SECONDS_TO_WAIT = 180


# What torchrun says


def test_processes_are_read_from_the_environment_of_torchrun() -> None:
    found = started_processes(TORCHRUN)
    assert found == Processes(count=6, rank=4, per_host=3, local_rank=1)
    assert (found.hosts, found.are_several, found.is_leader) == (2, True, False)


def test_other_launchers_start_one_process() -> None:
    assert started_processes({"WORLD_SIZE": "6", "RANK": "4"}) is ALONE
    assert (ALONE.hosts, ALONE.are_several, ALONE.is_leader) == (1, False, True)


def test_hosts_with_different_numbers_of_processes_raise() -> None:
    with pytest.raises(SettingsError) as caught:
        started_processes({**TORCHRUN, "LOCAL_WORLD_SIZE": "4"})
    assert str(caught.value) == (
        "6 processes on 2 hosts are not the same number on each.\n"
        "  expected: as many processes on one host as on the next\n"
        "  received: 4 on this one\n"
        "  remedy:   start torchrun with the same --nproc-per-node on every host"
    )


# Shares


@pytest.mark.parametrize("count", [2, 3, 6])
def test_shares_make_up_the_batches_of_one_process_in_their_order(count: int) -> None:
    shares = [list(ShuffledBatches(33, 8, 5, Processes(count, rank, count, rank))) for rank in range(count)]
    assert {len(batches) for batches in shares} == {5}
    together = [[position for part in parts for position in part] for parts in zip(*shares, strict=True)]
    assert together == list(ShuffledBatches(33, 8, 5))


def test_share_of_an_odd_batch_is_larger_in_the_first_process() -> None:
    whole = np.array([5, 1, 4, 2, 3])
    assert [share_of(whole, Processes(2, rank, 2, rank)).tolist() for rank in (0, 1)] == [[5, 1, 4], [2, 3]]


def test_more_processes_than_images_in_a_step_raise() -> None:
    with pytest.raises(SettingsError) as caught:
        ShuffledBatches(33, 8, 0, Processes(7, 0, 7, 0))
    assert str(caught.value) == (
        "7 processes have 6 training images in each step.\n"
        "  expected: at least one image for each process\n"
        "  received: 6\n"
        "  remedy:   start fewer processes, or raise --batch-size"
    )


def images_of(pixels: PixelCache) -> TrainingImages:
    labels = np.array([int("/all/" in image) for image in pixels.images])
    rows = np.arange(60)
    return TrainingImages(pixels.pixels, rows[:39], labels[:39], rows[39:], labels[39:])


def test_validation_images_are_shared_out_in_order(pixels: PixelCache) -> None:
    images, cpu = images_of(pixels), torch.device("cpu")
    found = [list(validation_loader(images, 8, cpu, Processes(2, rank, 2, rank))) for rank in (0, 1)]
    # 21 images: 11 and 10, in batches of at most 8.
    assert [[len(labels) for _, labels in batches] for batches in found] == [[8, 3], [8, 2]]
    labels = torch.cat([labels for batches in found for _, labels in batches])
    assert labels.tolist() == images.validation_labels.tolist()
    with pytest.raises(SettingsError, match="22 processes have 21 validation images"):
        validation_loader(images, 8, cpu, Processes(22, 0, 22, 0))


def test_processes_turn_their_images_by_angles_of_their_own() -> None:
    assert epoch_seed(3, 2, rank=0) == 3 * 1_000_003 + 2
    assert len({epoch_seed(3, 2, rank) for rank in range(8)}) == 8


# Gradients


def test_mean_of_the_shares_losses_is_the_loss_of_the_whole_batch(
    tiny_classifier: Classifier, pixels: PixelCache, tiny: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights 1 and 3: shares of (1, 1, 3) and (3, 3) weigh 5 and 6 of 11; times two processes 10/11 and 12/11."""
    tuning = FineTuning(tiny_classifier, images_of(pixels), tiny)
    tuning.loss_weights = torch.tensor([1.0, 3.0])
    tuning.processes = Processes(2, 0, 2, 0)
    monkeypatch.setattr(finetuning, "summed", lambda own: torch.tensor(11.0))
    labels, logits = torch.tensor([0, 0, 1, 1, 1]), torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    shares = [slice(0, 3), slice(3, 5)]
    weights = [float(tuning._weight_of_share(labels[share])) for share in shares]
    assert weights == pytest.approx([10 / 11, 12 / 11])
    losses = [functional.cross_entropy(logits[share], labels[share], tuning.loss_weights) for share in shares]
    whole = functional.cross_entropy(logits, labels, tuning.loss_weights)
    assert sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / 2 == pytest.approx(float(whole))


def test_without_class_weights_a_share_weighs_its_number_of_images(
    tiny_classifier: Classifier, pixels: PixelCache, tiny: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = FineTuning(tiny_classifier, images_of(pixels), tiny.model_copy(update={"class_weights": False}))
    tuning.processes = Processes(2, 1, 2, 1)
    monkeypatch.setattr(finetuning, "summed", lambda own: torch.tensor(5.0))
    assert float(tuning._weight_of_share(torch.tensor([1, 0]))) == pytest.approx(2 * 2 / 5)


# Who may take part


def test_one_process_joins_nothing() -> None:
    with process_group.process_group("cpu") as group:
        assert group == ProcessGroup(ALONE)
        group.wait()
        assert group.tell({"a": 1}) == {"a": 1}
    assert not torch.distributed.is_initialized()


def test_device_that_cannot_be_shared_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "started_processes", lambda: Processes(2, 0, 2, 0))
    with pytest.raises(SettingsError, match="Several processes cannot share the device mps"):
        process_group.process_group("mps").__enter__()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match="2 processes on this host have 1 GPUs"):
        process_group.process_group("cuda").__enter__()


@pytest.mark.parametrize("hidden", ["key.json", "resume/last.safetensors"])
def test_process_that_sees_another_folder_raises(
    cohort: Any, tiny: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    task = training.prepare(cohort.manifest, cohort.splits, tmp_path / "run", tiny, cohort.cache)
    write_json(task.folder / "key.json", task.key())
    (task.folder / "resume").mkdir()
    (task.folder / "resume/last.safetensors").write_bytes(b"state")
    told = {"finished": False, **training._whereabouts(task)}
    (task.folder / hidden).unlink()
    monkeypatch.setattr(ProcessGroup, "tell", lambda *_: told)
    with pytest.raises(RunError, match="is not the same folder in every process"):
        training._follow(task, ProcessGroup(Processes(2, 1, 2, 1)))


def test_other_verbs_are_refused_under_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "leukolens", "compare", str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **TORCHRUN}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: torchrun started 6 processes of `leukolens compare`.")


# Two processes


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny network that count as pretrained: its batch statistics stay frozen, as those of a real one."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    path = folder / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    entry = {"library": "timm", "trained_on": "nothing", "mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5", "source": "a test",
             "licence": "none", "sha256": hash_file(path)}  # fmt: skip
    write_json(folder / "index.json", {"test_resnet": entry})
    return folder


@pytest.fixture(scope="module")
def without_chance(tiny: TrainSettings, pretrained: Path) -> TrainSettings:
    """No dropout and no augmentation: all that processes draw for themselves."""
    still = {"flip": False, "rotate": False, "stain_shift": 0.0, "brightness_shift": 0.0}
    changes = {"weights": "pretrained", "weights_dir": pretrained, "dropout": 0.0, "augmentation": still, "batch_size": 7,
               "head_epochs": 1, "head_learning_rate": 1e-6, "backbone_learning_rate": 3e-3,
               "finetune_head_learning_rate": 3e-3, "patience": 9}  # fmt: skip
    return TrainSettings.model_validate({**tiny.model_dump(), **changes})


def torchrun(cohort: Any, settings: TrainSettings, out: Path, dies_in: int = 0) -> subprocess.CompletedProcess[str]:
    """Train in two processes; what they read lies beside the run directory as seen-RANK.json."""
    out.parent.mkdir(parents=True, exist_ok=True)
    config = out.parent / "settings.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(Path(__file__).with_name("recorded_training.py")), str(out.parent), str(dies_in)]
    verb = [str(cohort.results), "--config", str(config), "--out", str(out)]
    return subprocess.run([*launcher, *script, *verb], capture_output=True, text=True, timeout=SECONDS_TO_WAIT, check=False)


def assert_like_one_process(run: Run, alone: Run) -> None:
    """Only the order of additions differs: losses agree to 1e-5 while they move by 1e-2, and so do the weights behind them."""
    epochs, expected = (pd.read_csv(each.folder / "epochs.csv").drop(columns="seconds") for each in (run, alone))
    pd.testing.assert_frame_equal(epochs, expected, rtol=0, atol=1e-5)
    losses = expected.loc[expected["phase"] == "finetune", "validation_loss"]
    assert losses.max() - losses.min() > 1e-2


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_and_see_every_image_once(
    cohort: Any, without_chance: TrainSettings, tmp_path: Path
) -> None:
    alone = train(cohort.manifest, cohort.splits, tmp_path / "alone/run", without_chance, cohort.cache)
    done = torchrun(cohort, without_chance, tmp_path / "two/run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation balanced accuracy") == 1
    assert "Warning" not in done.stderr
    together = Run.load(tmp_path / "two/run")
    assert (alone.record["processes"], together.record["processes"]) == (1, 2)
    assert together.record["phase"] == "finetune"
    assert_like_one_process(together, alone)

    seen = [read_json(tmp_path / f"two/seen-{rank}.json") for rank in (0, 1)]
    sides = cohort.splits.of_fold(0)
    row_of = {image: row for row, image in enumerate(cohort.manifest.images["image"])}
    wanted = [row_of[image] for image in sides.index[sides.isin([TRAIN, VALIDATION])]]
    epochs = without_chance.finetune_epochs
    for epoch in range(epochs):
        rows = [row for batches in seen for batch in in_epoch(batches, epoch, epochs) for row in batch]
        assert Counter(rows) == Counter(wanted)


def in_epoch(batches: list[list[int]], epoch: int, epochs: int) -> list[list[int]]:
    """Batches of one of the epochs, which have the same number each."""
    each = len(batches) // epochs
    assert len(batches) == each * epochs
    return batches[epoch * each : (epoch + 1) * each]


@pytest.mark.slow
def test_death_of_one_process_ends_all_and_the_same_command_goes_on(
    cohort: Any, without_chance: TrainSettings, tmp_path: Path
) -> None:
    died = torchrun(cohort, without_chance, tmp_path / "two/run", dies_in=3)
    assert died.returncode != 0
    assert not (tmp_path / "two/run/run.json").exists()
    assert (tmp_path / "two/run/resume/last.safetensors").is_file()
    done = torchrun(cohort, without_chance, tmp_path / "two/run")
    assert done.returncode == 0, done.stderr
    # Two epochs were behind it: only the third was trained again.
    sides = cohort.splits.of_fold(0)
    seen = [row for rank in (0, 1) for batch in json.loads((tmp_path / f"two/seen-{rank}.json").read_text()) for row in batch]
    assert len(seen) == int(sides.isin([TRAIN, VALIDATION]).sum())
    alone = train(cohort.manifest, cohort.splits, tmp_path / "alone/run", without_chance, cohort.cache)
    assert_like_one_process(Run.load(tmp_path / "two/run"), alone)
