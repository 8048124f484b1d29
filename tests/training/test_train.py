from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from leukolens.artifacts import Manifest, Splits, hash_file, hash_json, read_json, write_json
from leukolens.data.pixel_cache import PixelCache, cache_pixels
from leukolens.data.splits import split
from leukolens.decision.rule import fit_decision
from leukolens.decision.validation import ValidationScores
from leukolens.errors import LeakError, RunError, SettingsError, SplitError
from leukolens.models.architectures import ARCHITECTURES, find_architecture
from leukolens.models.classifier import Classifier, build_classifier
from leukolens.models.weights import find_weights
from leukolens.prediction.predict import predict
from leukolens.settings import DecisionSettings, SplitSettings, TrainSettings
from leukolens.training import finetuning
from leukolens.training import train as training
from leukolens.training.deciding import bank_of
from leukolens.training.features import to_levels, turned
from leukolens.training.finetuning import EpochKeeper, FineTuning
from leukolens.training.head import Side, fit_head
from leukolens.training.runs import Run
from leukolens.training.selection import Epoch
from leukolens.training.train import train

FILES = ["decision.json", "epochs.csv", "key.json", "outliers.safetensors", "run.json", "training_images.csv",
         "weights.safetensors"]  # fmt: skip
RECORD = {
    "architecture", "best_epoch", "best_phase", "classes", "device", "display_name", "engine", "feature_seconds", "git_commit",
    "hardware", "inference_precision", "manifest_hash", "parameters", "phase", "positive", "precision", "preprocessing",
    "processes", "run_hash",
    "seed", "settings", "source_document_accuracy", "split", "synthetic", "train_seconds", "validation_balanced_accuracy",
    "versions", "weights",
}  # fmt: skip
SECONDS_TO_WAIT = 120


def epochs_of(run: Run) -> pd.DataFrame:
    """All that epochs.csv says but the seconds, as written."""
    return pd.read_csv(run.folder / "epochs.csv", dtype="string").drop(columns="seconds")


def assert_same_result(run: Run, unbroken: Run, cohort: Any, folder: Path) -> None:
    pd.testing.assert_frame_equal(epochs_of(run), epochs_of(unbroken))
    assert run.decision_record == unbroken.decision_record
    assert hash_file(run.folder / "weights.safetensors") == hash_file(unbroken.folder / "weights.safetensors")
    tables = [predict(each, cohort.manifest, cohort.splits, folder, cohort.cache).table for each in (run, unbroken)]
    pd.testing.assert_frame_equal(*tables)
    timed = ("train_seconds", "feature_seconds", "run_hash", "git_commit")
    same = [{name: value for name, value in each.record.items() if name not in timed} for each in (run, unbroken)]
    assert same[0] == same[1]


# The run directory


def test_run_directory_holds_what_made_the_run(finetuned_run: Run, cohort: Any) -> None:
    folder, record = finetuned_run.folder, finetuned_run.record
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert set(record) == RECORD
    assert record == read_json(folder / "run.json")
    assert record["classes"] == ["HEM", "ALL"]
    assert record["positive"] == ["ALL"]
    assert record["manifest_hash"] == cohort.manifest.content_hash
    assert record["split"] == {"strategy": "subject", "label": "split by subject", "optimistic": False, "seed": 0}
    assert record["preprocessing"]["canvas_px"] == [48, 48]
    assert record["preprocessing"]["input_px"] == 32
    assert record["weights"]["trained_on"] == "nothing: random weights"
    assert record["weights"]["builder"] == "timm.test_efficientnet"
    assert record["display_name"] == "test_efficientnet"
    assert {"python", "torch", "lightning", "timm"} <= set(record["versions"])


def test_best_epoch_of_the_log_is_the_one_in_the_record(finetuned_run: Run) -> None:
    epochs, record = pd.read_csv(finetuned_run.folder / "epochs.csv"), finetuned_run.record
    assert record["phase"] == record["best_phase"] == "finetune"
    assert epochs["phase"].tolist() == ["head"] + ["finetune"] * 6
    tuned = epochs[epochs["phase"] == "finetune"]
    best = tuned.sort_values(["validation_balanced_accuracy", "validation_loss"], ascending=[False, True]).iloc[0]
    assert record["best_epoch"] == best["epoch"]
    assert record["validation_balanced_accuracy"] == best["validation_balanced_accuracy"]
    seconds = record["feature_seconds"] + epochs["seconds"].sum()
    assert record["train_seconds"] == pytest.approx(seconds)


def test_frozen_run_says_so_and_its_backbone_is_what_it_began_with(head_run: Run) -> None:
    assert head_run.record["phase"] == head_run.record["best_phase"] == "head"
    settings = head_run.settings
    fresh = build_classifier(find_weights_of(settings), head_run.preprocessing, 2, settings.dropout, settings.seed)
    stored = load_file(head_run.folder / "weights.safetensors")
    backbone = {name: value for name, value in fresh.state_dict().items() if name.startswith("backbone")}
    assert all(torch.equal(stored[name], value) for name, value in backbone.items())
    assert bool(stored["head.weight"].any())


def find_weights_of(settings: TrainSettings) -> Any:
    return find_weights(training.find_architecture(settings.architecture), settings)


def test_cells_that_were_seen_are_listed_with_their_side(head_run: Run, cohort: Any) -> None:
    seen = head_run.training_images()
    sides = cohort.splits.of_fold(0)
    assert list(seen.columns) == ["image", "side", "group", "pixel_hash"]
    assert dict(zip(seen["image"], seen["side"], strict=True)) == sides[sides != "test"].to_dict()
    manifest = cohort.manifest.images.set_index("image")
    assert seen["pixel_hash"].tolist() == manifest.loc[seen["image"], "pixel_hash"].tolist()


def test_run_is_opened_again_with_the_same_weights(finetuned_run: Run) -> None:
    again = Run.load(str(finetuned_run.folder))
    stored = load_file(finetuned_run.folder / "weights.safetensors")
    classifier = again.classifier()
    assert all(torch.equal(stored[name], value) for name, value in classifier.state_dict().items())
    assert not classifier.training
    assert again.settings == finetuned_run.settings


@pytest.mark.parametrize("exists", [True, False])
def test_folder_without_a_run_raises(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(RunError) as caught:
        Run.load(folder)
    assert str(caught.value) == (
        f"{folder} holds no finished run.\n"
        "  expected: a run directory or a bundle, with run.json and weights.safetensors\n"
        f"  received: {'a folder without run.json and weights.safetensors' if exists else 'no folder at that path'}\n"
        "  remedy:   correct the path; `leukolens train` makes a run, `leukolens export` a bundle of it"
    )


def test_folder_above_a_run_and_one_of_a_broken_training_say_what_to_do(head_run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"name the run itself, as in {head_run.folder}"):
        Run.load(head_run.folder.parent)
    shutil.copy(head_run.folder / "key.json", tmp_path)
    with pytest.raises(RunError, match="the same `leukolens train` command goes on"):
        Run.load(tmp_path)


def test_paths_will_do_and_the_cache_lies_beside_the_run(cohort: Any, tiny: TrainSettings, tmp_path: Path) -> None:
    settings = tiny.model_copy(update={"finetune_epochs": 0})
    run = train(str(cohort.results), cohort.results / "splits.parquet", str(tmp_path / "run"), settings)
    assert run.folder == tmp_path / "run"
    assert len(list((tmp_path / "cache").glob("pixels-*.npy"))) == 1


# The better phase


def scripted(monkeypatch: pytest.MonkeyPatch, score: float) -> None:
    def judged(phase: str, number: int, *_: Any) -> Epoch:
        return Epoch(phase, number, 0.0, 0.5, score, 0.0, 0.0)

    monkeypatch.setattr(finetuning, "validation_epoch", judged)


def test_head_is_kept_where_fine_tuning_is_worse(
    cohort: Any, tiny: TrainSettings, head_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.1)
    run = train(cohort.manifest, cohort.splits, tmp_path / "run", tiny, cohort.cache)
    assert (run.record["phase"], run.record["best_phase"]) == ("finetune", "head")
    assert run.record["best_epoch"] == head_run.record["best_epoch"]
    assert hash_file(run.folder / "weights.safetensors") == hash_file(head_run.folder / "weights.safetensors")


def test_fine_tuning_is_kept_where_it_is_better(
    cohort: Any, tiny: TrainSettings, head_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 1.1)
    run = train(cohort.manifest, cohort.splits, tmp_path / "run", tiny, cohort.cache)
    assert (run.record["best_phase"], run.record["best_epoch"]) == ("finetune", 1)
    assert hash_file(run.folder / "weights.safetensors") != hash_file(head_run.folder / "weights.safetensors")


# BreakdownError and gone on with


class BreakdownError(Exception):
    """Stands for whatever ends a process."""


def break_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    end = EpochKeeper.on_train_epoch_end

    def broken(self: EpochKeeper, trainer: pl.Trainer, module: FineTuning) -> None:
        end(self, trainer, module)
        if trainer.current_epoch == 1:
            raise BreakdownError

    monkeypatch.setattr(EpochKeeper, "on_train_epoch_end", broken)


def break_in_the_middle_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    step = FineTuning.training_step

    def broken(self: FineTuning, batch: Any, batch_index: int) -> torch.Tensor:
        if (self.current_epoch, batch_index) == (2, 3):
            raise BreakdownError
        return step(self, batch, batch_index)

    monkeypatch.setattr(FineTuning, "training_step", broken)


def break_between_best_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    save = pl.Trainer.save_checkpoint

    def broken(self: pl.Trainer, *arguments: Any) -> None:
        if self.current_epoch == 2:
            raise BreakdownError
        save(self, *arguments)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", broken)


def break_before_the_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise BreakdownError

    monkeypatch.setattr(FineTuning, "training_step", broken)


def break_after_the_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise BreakdownError

    monkeypatch.setattr(training, "_write_run", broken)


def break_before_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    write = training.write_json

    def broken(path: Path, value: object) -> None:
        if path.name == "run.json":
            raise BreakdownError
        write(path, value)

    monkeypatch.setattr(training, "write_json", broken)


@pytest.mark.parametrize(
    "break_training",
    [
        break_before_the_first_epoch,
        break_after_an_epoch,
        break_in_the_middle_of_an_epoch,
        break_between_best_and_last,
        break_after_the_last_epoch,
        break_before_the_record,
    ],
)
def test_broken_training_goes_on_and_ends_like_an_unbroken_one(
    cohort: Any,
    finetuned_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_training: Callable[[pytest.MonkeyPatch], None],
) -> None:
    arguments = (cohort.manifest, cohort.splits, tmp_path / "run", finetuned_run.settings, cohort.cache)
    with monkeypatch.context() as patched, pytest.raises(BreakdownError):
        break_training(patched)
        train(*arguments)
    assert not (tmp_path / "run" / "run.json").exists()
    trained: list[int] = []
    begin = EpochKeeper.on_train_epoch_start

    def note(self: EpochKeeper, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trained.append(trainer.current_epoch)
        begin(self, trainer, module)

    monkeypatch.setattr(EpochKeeper, "on_train_epoch_start", note)
    assert_same_result(train(*arguments), finetuned_run, cohort, tmp_path)
    first = {"break_before_the_first_epoch": 0, "break_after_the_last_epoch": 6, "break_before_the_record": 6}
    assert trained == list(range(first.get(break_training.__name__, 2), 6))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES


@pytest.mark.slow
def test_killed_process_goes_on_and_ends_like_an_unbroken_one(cohort: Any, finetuned_run: Run, tmp_path: Path) -> None:
    settings = finetuned_run.settings.model_copy(update={"finetune_epochs": 40, "patience": 40})
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    unbroken = train(cohort.manifest, cohort.splits, tmp_path / "unbroken", settings, cohort.cache)
    command = [sys.executable, "-m", "leukolens.cli", "train", str(cohort.results), "--config", str(config)]
    command += ["--out", str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        last = tmp_path / "killed" / "resume" / "last.safetensors"
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert last.is_file()
    assert not (tmp_path / "killed" / "run.json").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert_same_result(Run.load(tmp_path / "killed"), unbroken, cohort, tmp_path)


def test_finished_directory_is_returned_at_once(
    cohort: Any, head_run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the run was made again")

    monkeypatch.setattr(training, "cache_pixels", refuse)
    before = {path.name: path.stat().st_mtime_ns for path in head_run.folder.iterdir()}
    with caplog.at_level("INFO", "leukolens"):
        again = train(cohort.manifest, cohort.splits, head_run.folder, head_run.settings, cohort.cache)
    assert again == head_run
    assert caplog.messages == [f"test_resnet: already trained, read from {head_run.folder}"]
    assert {path.name: path.stat().st_mtime_ns for path in head_run.folder.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "differing", "then", "now"),
    [
        ({"seed": 1}, "settings.seed", "0", "1"),
        ({"dropout": 0.3}, "settings.dropout", "0.2", "0.3"),
        ({"batch_size": 16}, "settings.batch_size", "8", "16"),
        ({"precision": "bf16"}, "settings.precision", "auto", "bf16"),
    ],
)
def test_directory_of_other_settings_is_refused(
    cohort: Any, head_run: Run, changes: dict[str, Any], differing: str, then: str, now: str
) -> None:
    other = head_run.settings.model_copy(update=changes)
    with pytest.raises(RunError) as caught:
        train(cohort.manifest, cohort.splits, head_run.folder, other, cohort.cache)
    assert caught.value.what.startswith(f"{head_run.folder} was made with other ")
    assert differing in caught.value.what
    if differing != "settings.precision":
        assert str(caught.value) == (
            f"{head_run.folder} was made with other {differing}.\n"
            f"  expected: the {differing} that it was started with: {then}\n"
            f"  received: {now}\n"
            "  remedy:   choose another --out, or delete that folder to train anew"
        )


def test_directory_of_other_splits_is_refused(cohort: Any, head_run: Run) -> None:
    other = split(cohort.manifest, settings=SplitSettings(seed=5))
    with pytest.raises(RunError, match=r"was made with other splits\."):
        train(cohort.manifest, other, head_run.folder, head_run.settings, cohort.cache)


def test_unfinished_directory_of_other_settings_is_refused_too(
    cohort: Any, tiny: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(BreakdownError):
        break_after_an_epoch(patched)
        train(cohort.manifest, cohort.splits, tmp_path / "run", tiny, cohort.cache)
    other = tiny.model_copy(update={"weight_decay": 0.5})
    with pytest.raises(RunError, match=r"was made with other settings\.weight_decay\."):
        train(cohort.manifest, cohort.splits, tmp_path / "run", other, cohort.cache)


# The decision


def features_by_hand(run: Run, pixels: PixelCache, images: list[str]) -> Any:
    with torch.inference_mode():
        return run.classifier().features(to_levels(pixels.pixels[pixels.rows_of(images)], "cpu")).numpy()


@pytest.mark.parametrize("kind", ["head_run", "finetuned_run"])
def test_decision_is_fitted_on_the_logits_of_the_validation_images(
    kind: str, cohort: Any, pixels: PixelCache, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(kind)
    sides, rows = cohort.splits.of_fold(0), cohort.manifest.images.set_index("image")
    images = sorted(sides.index[sides == "validation"])
    head, features = run.classifier().head, features_by_hand(run, pixels, images)
    scores = ValidationScores(
        classes=("HEM", "ALL"),
        positive=("ALL",),
        y_true=(rows.loc[images, "label"] == "ALL").to_numpy(np.int64),
        logits=torch.nn.functional.linear(torch.from_numpy(features), head.weight, head.bias).detach().double().numpy(),
        groups=tuple(rows.loc[images, "group"]),
        sides=["validation"] * len(images),
    )
    wanted, found = fit_decision(scores, DecisionSettings()), run.decision()
    assert found.temperature == pytest.approx(wanted.temperature, rel=1e-3)
    assert found.threshold is not None
    assert wanted.threshold is not None
    assert found.threshold.value == pytest.approx(wanted.threshold.value, abs=1e-3)
    np.testing.assert_allclose(found.conformal.scores, wanted.conformal.scores, atol=1e-3)
    assert (found.validation_images, found.validation_groups) == (len(images), rows.loc[images, "group"].nunique())


@pytest.mark.parametrize("kind", ["head_run", "finetuned_run"])
def test_outliers_are_compared_with_the_training_images(
    kind: str, cohort: Any, pixels: PixelCache, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(kind)
    sides = cohort.splits.of_fold(0)
    features = features_by_hand(run, pixels, sorted(sides.index[sides == "train"]))
    bank = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(run.outliers().bank, bank, atol=1e-3)
    validation = features_by_hand(run, pixels, sorted(sides.index[sides == "validation"]))
    # The limit is a quantile of the validation images' distances, taken upwards: the farthest of so few.
    assert run.outliers().scores(validation).max() == pytest.approx(1, abs=1e-2)


def test_of_many_training_images_a_seeded_sample_is_kept() -> None:
    images = [f"{number:05d}" for number in range(3000)]
    chosen = bank_of(images, seed=1)
    assert len(set(chosen)) == 2000
    assert chosen == sorted(chosen) == bank_of(images, seed=1)
    assert chosen != bank_of(images, seed=2)
    assert bank_of(images[:2000], seed=1) == images[:2000]


def test_record_of_the_decision_names_settings_and_outliers(head_run: Run) -> None:
    record = dict(head_run.decision_record)
    assert record["settings"] == DecisionSettings().model_dump(mode="json")
    assert record["outliers"]["sha256"] == hash_file(head_run.folder / "outliers.safetensors")
    assert "decision" not in head_run.record["settings"]
    assert record.pop("hash") == hash_json(record)


def times_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["head_run", "finetuned_run"])
def test_another_aim_fits_the_decision_again_and_leaves_the_rest(
    kind: str, cohort: Any, tmp_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    run: Run = request.getfixturevalue(kind)
    copy = Path(shutil.copytree(run.folder, tmp_path / "run"))
    before, first = times_of(copy), Run.load(copy).decision_record
    aim = DecisionSettings(aim="sensitivity", sensitivity=0.95)
    settings = run.settings.model_copy(update={"decision": aim})
    with caplog.at_level("INFO", "leukolens"):
        again = train(cohort.manifest, cohort.splits, copy, settings, cohort.cache)
    changed = {name for name, time_ns in times_of(copy).items() if before[name] != time_ns}
    assert changed == {"decision.json", "outliers.safetensors"}
    assert hash_file(copy / "weights.safetensors") == hash_file(run.folder / "weights.safetensors")
    assert again.record == run.record
    threshold = again.decision().threshold
    assert threshold is not None
    assert (threshold.aim, threshold.sensitivity) == ("sensitivity", 0.95)
    assert again.decision().temperature == pytest.approx(first["temperature"], rel=1e-3)
    assert again.decision_record["hash"] != first["hash"]
    assert caplog.messages[-1].endswith(f"decision fitted, in {copy}")
    # And now it stands.
    caplog.clear()
    train(cohort.manifest, cohort.splits, copy, settings, cohort.cache)
    assert not [message for message in caplog.messages if "decision fitted" in message]


@pytest.mark.parametrize("lost", ["decision.json", "outliers.safetensors"])
def test_run_of_an_earlier_version_says_what_to_do_and_is_decided_by_the_same_call(
    head_run: Run, cohort: Any, tmp_path: Path, lost: str
) -> None:
    copy = Path(shutil.copytree(head_run.folder, tmp_path / "run"))
    (copy / lost).unlink()
    with pytest.raises(RunError) as caught:
        Run.load(copy).decision()
    assert str(caught.value) == (
        f"{copy} has no {lost}.\n"
        "  expected: decision.json and outliers.safetensors, fitted together at the end of the training\n"
        "  received: a run without it, of an earlier version or damaged\n"
        "  remedy:   run the same train command again: only the decision is fitted"
    )
    again = train(cohort.manifest, cohort.splits, copy, head_run.settings, cohort.cache)
    assert again.decision_record["settings"] == head_run.decision_record["settings"]
    assert again.decision().temperature == pytest.approx(head_run.decision().temperature, rel=1e-6)


def test_outliers_of_another_decision_are_refused_and_fitted_again(
    head_run: Run, finetuned_run: Run, cohort: Any, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(head_run.folder, tmp_path / "run"))
    shutil.copy(finetuned_run.folder / "outliers.safetensors", copy)
    with pytest.raises(RunError, match=r"outliers\.safetensors is not the file that decision\.json belongs to"):
        Run.load(copy).outliers()
    train(cohort.manifest, cohort.splits, copy, head_run.settings, cohort.cache)
    np.testing.assert_array_equal(Run.load(copy).outliers().bank, head_run.outliers().bank)


# What is refused before anything is trained


def moved(splits: Splits, subject: str, side: str, cells: int) -> Splits:
    """Splits in which some cells of a subject have been moved to another side."""
    sides = splits.sides.copy()
    of_subject = sides.index[sides["image"].str.contains(f"UID_{subject}_")][:cells]
    sides.loc[of_subject, "side"] = side
    return replace(splits, sides=sides)


def test_leaking_splits_are_refused_and_the_subject_is_named(cohort: Any, tiny: TrainSettings, tmp_path: Path) -> None:
    sides = cohort.splits.of_fold(0)
    subject = sides.index[sides == "test"][0].split("UID_")[1].split("_")[0]
    with pytest.raises(LeakError, match=rf"\b{subject}\b"):
        train(cohort.manifest, moved(cohort.splits, subject, "train", 2), tmp_path / "run", tiny, cohort.cache)
    assert not (tmp_path / "run").exists()


def test_splits_of_other_data_are_refused(cohort: Any, tiny: TrainSettings, tmp_path: Path) -> None:
    fewer = Manifest(cohort.manifest.images.iloc[1:], cohort.manifest.record)
    with pytest.raises(SplitError):
        train(fewer, cohort.splits, tmp_path / "run", tiny, cohort.cache)
    assert not (tmp_path / "run").exists()


def test_folds_are_trained_one_by_one_and_a_missing_one_raises(cohort: Any, head_run: Run, tmp_path: Path) -> None:
    folds = split(cohort.manifest, settings=SplitSettings(folds=3))
    for fold in (0, 2):
        settings = head_run.settings.model_copy(update={"fold": fold})
        run = train(cohort.manifest, folds, tmp_path / str(fold), settings, cohort.cache)
        sides = folds.of_fold(fold)
        assert set(run.training_images()["image"]) == set(sides.index[sides != "test"])
    with pytest.raises(SettingsError) as caught:
        train(cohort.manifest, folds, tmp_path / "3", head_run.settings.model_copy(update={"fold": 3}), cohort.cache)
    assert str(caught.value) == (
        "The splits have no fold 3.\n"
        "  expected: a fold from 0 to 2\n"
        "  received: 3\n"
        "  remedy:   correct --fold, or make a k-fold split with `leukolens split --folds`"
    )


# Options of the training


@pytest.mark.parametrize(
    "options",
    [{"ema_decay": 0.7, "mixup_alpha": 0.3}, {"swa_epochs": 2, "label_smoothing": 0.05}],
    ids=["moving average and mixing", "average of epochs"],
)
@pytest.mark.parametrize("break_training", [break_in_the_middle_of_an_epoch, break_after_the_last_epoch])
def test_broken_training_with_options_ends_like_an_unbroken_one(
    cohort: Any, finetuned_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, float],
    break_training: Callable[[pytest.MonkeyPatch], None],
) -> None:  # fmt: skip
    settings = finetuned_run.settings.model_copy(update={**options, "finetune_epochs": 6, "patience": 6})
    unbroken = train(cohort.manifest, cohort.splits, tmp_path / "unbroken", settings, cohort.cache)
    arguments = (cohort.manifest, cohort.splits, tmp_path / "run", settings, cohort.cache)
    with monkeypatch.context() as patched, pytest.raises(BreakdownError):
        break_training(patched)
        train(*arguments)
    assert_same_result(train(*arguments), unbroken, cohort, tmp_path)
    assert unbroken.record["best_phase"] == "finetune"
    assert unbroken.record["settings"] | options == unbroken.record["settings"]
    assert sorted(path.name for path in unbroken.folder.iterdir()) == FILES


def test_average_that_is_kept_is_said_in_the_record(
    cohort: Any, tiny: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(phase: str, number: int, *_: Any) -> Epoch:
        return Epoch(phase, number, 0.0, 0.5, 1 + number / 10, 0.0, 0.0)

    monkeypatch.setattr(finetuning, "validation_epoch", judged)
    settings = tiny.model_copy(update={"swa_epochs": 2})
    record = train(cohort.manifest, cohort.splits, tmp_path / "run", settings, cohort.cache).record
    assert (record["best_phase"], record["best_epoch"], record["averaged_epochs"]) == ("finetune", 4, 2)


def test_last_block_is_trained_from_the_settings(
    cohort: Any, tiny: TrainSettings, head_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    row = replace(find_architecture("timm:test_resnet"), stages=stages)
    monkeypatch.setitem(ARCHITECTURES, "test_resnet", row)
    scripted(monkeypatch, 1.1)
    settings = tiny.model_copy(update={"trainable": "last_block", "finetune_epochs": 1, "layer_decay": 0.5})
    run = train(cohort.manifest, cohort.splits, tmp_path / "run", settings, cohort.cache)
    before, after = (load_file(each.folder / "weights.safetensors") for each in (head_run, run))
    backbone = [name for name in before if name.startswith("backbone")]
    changed = {name.split(".")[2] for name in backbone if not torch.equal(before[name], after[name])}
    assert changed == {"layer4"}


def test_unknown_stages_are_refused_before_anything_is_trained(cohort: Any, tiny: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^The stages of test_resnet are not known\."):
        train(cohort.manifest, cohort.splits, tmp_path / "run", tiny.model_copy(update={"layer_decay": 0.5}), cohort.cache)
    assert not (tmp_path / "run").exists()


def assert_predicts_by(run: Run, classifier: Classifier, cohort: Any, out: Path) -> None:
    """What `predict` scores is what this network answers, layer by layer, to the same pixels."""
    scored = predict(run, cohort.manifest, cohort.splits, out, cohort.cache)
    pixels = cache_pixels(cohort.manifest, cohort.cache, run.preprocessing)
    levels = to_levels(pixels.pixels[pixels.rows_of(list(scored.table["image"]))], "cpu")
    with torch.inference_mode():
        logits = classifier(levels).double() / run.decision_record["temperature"]
    np.testing.assert_allclose(scored.table["score_ALL"], torch.softmax(logits, dim=1)[:, 1], atol=1e-3)


@pytest.mark.parametrize("pooling", ["max_mean", "gem"])
def test_pooling_is_that_of_the_run_wherever_it_is_asked(
    cohort: Any, tiny: TrainSettings, head_run: Run, tmp_path: Path, pooling: str
) -> None:
    settings = tiny.model_copy(update={"pooling": pooling, "finetune_epochs": 0, "precision": "fp32"})
    run = train(cohort.manifest, cohort.splits, tmp_path / "run", settings, cohort.cache)
    classifier = run.classifier()
    assert classifier.head.in_features == {"max_mean": 192, "gem": 96}[pooling]
    assert_predicts_by(run, classifier, cohort, tmp_path / "scores")


@pytest.mark.parametrize("epochs", [0, 2])
def test_network_cut_after_a_stage_is_that_wherever_it_is_asked(
    cohort: Any, tiny: TrainSettings, tmp_path: Path, epochs: int
) -> None:
    cut = tiny.model_copy(update={"architecture": "alexnet", "input_px": 64, "feature_stages": (1, 2)})
    settings = cut.model_copy(update={"finetune_epochs": epochs, "precision": "fp32"})
    run = train(cohort.manifest, cohort.splits, tmp_path / "run", settings, cohort.cache)
    assert run.record["display_name"] == "AlexNet (stages 1+2)"
    again = Run.load(run.folder).classifier()
    assert again.head.in_features == 64 + 192
    assert_predicts_by(run, again, cohort, tmp_path / "scores")


@pytest.mark.parametrize("solver", ["adamw", "lbfgs"])
def test_head_is_fitted_on_all_views_of_the_training_images(
    cohort: Any, tiny: TrainSettings, pixels: PixelCache, tmp_path: Path, solver: str
) -> None:
    settings = tiny.model_copy(
        update={"head_views": 8, "head_solver": solver, "finetune_epochs": 0, "precision": "fp32"}
    )
    run = train(cohort.manifest, cohort.splits, tmp_path / "run", settings, cohort.cache)
    sides = cohort.splits.of_fold(0)
    images = {side: sorted(sides.index[sides == side]) for side in ("train", "validation")}
    levels = {side: to_levels(pixels.pixels[pixels.rows_of(names)], "cpu") for side, names in images.items()}
    labels = {side: np.array([int("/all/" in name) for name in names]) for side, names in images.items()}
    classifier = run.classifier()
    with torch.inference_mode():
        views = [classifier.features(turned(levels["train"], view).contiguous()).numpy() for view in range(8)]
        plain = classifier.features(levels["validation"]).numpy()
    fitted = fit_head(Side.of_views(views, labels["train"]), Side(plain, labels["validation"]), 2, settings)
    torch.testing.assert_close(classifier.head.weight.detach(), fitted.weight, rtol=0.02, atol=1e-3)
    assert run.record["validation_balanced_accuracy"] == fitted.selection.balanced_accuracy
    assert run.record.get("head_penalty") == fitted.penalty
    assert (fitted.penalty is None) == (solver == "adamw")


def test_directory_of_an_earlier_version_was_made_with_todays_defaults(
    cohort: Any, head_run: Run, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(head_run.folder, tmp_path / "run"))
    key = read_json(copy / "key.json")
    for name in ("trainable", "pooling", "ema_decay", "head_views", "feature_stages", "head_penalty"):
        del key["settings"][name]
    del key["settings"]["augmentation"]["rotate"]
    write_json(copy / "key.json", key)
    assert train(cohort.manifest, cohort.splits, copy, head_run.settings, cohort.cache).record == head_run.record
    other = head_run.settings.model_copy(update={"pooling": "gem"})
    with pytest.raises(RunError, match=r"was made with other settings\.pooling\."):
        train(cohort.manifest, cohort.splits, copy, other, cohort.cache)
