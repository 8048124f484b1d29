from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cohort import build_cohort
from leukolens.artifacts import Manifest, Splits, hash_file
from leukolens.crossvalidation import cross_validate
from leukolens.data.manifest import index
from leukolens.data.splits import split
from leukolens.errors import LeakError, RunError
from leukolens.prediction.predict import predict
from leukolens.settings import CrossvalSettings, SplitSettings, TrainSettings
from leukolens.training import finetuning
from leukolens.training.runs import Run
from leukolens.training.selection import Epoch
from leukolens.training.train import train

TINY_EFFICIENTNET = "timm:test_efficientnet"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Splits, Path]:
    """Other cells of subjects with the same ids, and a cache folder."""
    folder = tmp_path_factory.mktemp("other")
    manifest = index(build_cohort(folder / "cells", first_seed=5000), folder / "results")
    return manifest, split(manifest, folder / "results"), folder / "cache"


@pytest.fixture
def settings(tiny: TrainSettings, finetuned_run: Run) -> TrainSettings:
    """Start from the fine-tuned run; the backbone stays frozen."""
    changes = {"architecture": TINY_EFFICIENTNET, "finetune_epochs": 0, "start_from": finetuned_run.folder}
    return tiny.model_copy(update=changes)


def fine_tuning_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(phase: str, number: int, *_: Any) -> Epoch:
        return Epoch(phase, number, 0.0, 0.5, 1.1, 0.0, 0.0)

    monkeypatch.setattr(finetuning, "validation_epoch", judged)


# The start


def test_backbone_is_that_of_the_run_and_the_record_says_so(
    other: tuple[Manifest, Splits, Path], settings: TrainSettings, finetuned_run: Run, tmp_path: Path
) -> None:
    manifest, splits, cache = other
    run = train(manifest, splits, tmp_path / "run", settings, cache)
    start, kept = (load_file(each.folder / "weights.safetensors") for each in (finetuned_run, run))
    backbone = [name for name in start if name.startswith("backbone.")]
    assert all(torch.equal(start[name], kept[name]) for name in backbone)
    assert not torch.equal(start["head.weight"], kept["head.weight"])
    weights = run.record["weights"]
    learned = int((finetuned_run.training_images()["side"] == "train").sum())
    assert weights["trained_on"] == f"nothing: random weights, then {learned} images of HEM, ALL"
    assert weights["sha256"] == hash_file(finetuned_run.folder / "weights.safetensors")
    assert weights["source"] == f"leukolens run {finetuned_run.record['run_hash']}, which started from: random"
    assert run.record["preprocessing"]["mean"] == finetuned_run.record["preprocessing"]["mean"]


def test_another_start_is_another_run_and_the_same_elsewhere_is_not(
    other: tuple[Manifest, Splits, Path], settings: TrainSettings, finetuned_run: Run, tmp_path: Path
) -> None:
    manifest, splits, cache = other
    run = train(manifest, splits, tmp_path / "run", settings, cache)
    moved = tmp_path / "moved"
    moved.symlink_to(finetuned_run.folder)
    again = train(manifest, splits, tmp_path / "run", settings.model_copy(update={"start_from": moved}), cache)
    assert again.record == run.record
    with pytest.raises(RunError, match=r"was made with other weights"):
        train(manifest, splits, tmp_path / "run", settings.model_copy(update={"start_from": None}), cache)


def test_run_of_another_architecture_or_pooling_is_refused(
    other: tuple[Manifest, Splits, Path], settings: TrainSettings, finetuned_run: Run, tmp_path: Path
) -> None:
    manifest, splits, cache = other
    for changes, wanted in (
        ({"architecture": "timm:test_resnet"}, "a run of timm:test_resnet with pooling mean"),
        ({"pooling": "gem"}, f"a run of {TINY_EFFICIENTNET} with pooling gem"),
        ({"feature_stages": (1, 2)}, f"a run of {TINY_EFFICIENTNET} with pooling mean of stages 1+2"),
    ):
        with pytest.raises(RunError) as caught:
            train(manifest, splits, tmp_path / "run", settings.model_copy(update=changes), cache)
        assert str(caught.value) == (
            f"{finetuned_run.folder} cannot be started from.\n"
            f"  expected: {wanted}\n"
            f"  received: a run of {TINY_EFFICIENTNET} with pooling mean\n"
            "  remedy:   correct start_from, or train with the architecture, pooling and feature_stages of that run"
        )
    assert not (tmp_path / "run").exists()


def test_run_whose_backbone_was_never_changed_is_refused(
    other: tuple[Manifest, Splits, Path], settings: TrainSettings, head_run: Run, tmp_path: Path
) -> None:
    manifest, splits, cache = other
    changes = {"architecture": head_run.settings.architecture, "start_from": head_run.folder}
    with pytest.raises(RunError, match=r"cannot be started from: its backbone was never changed\."):
        train(manifest, splits, tmp_path / "run", settings.model_copy(update=changes), cache)


# The leak door


def test_start_that_has_seen_what_is_judged_on_is_refused_by_name(
    cohort: Any, settings: TrainSettings, finetuned_run: Run, tmp_path: Path
) -> None:
    splits = split(cohort.manifest, settings=SplitSettings(seed=3))
    with pytest.raises(LeakError) as caught:
        train(cohort.manifest, splits, tmp_path / "run", settings, cohort.cache)
    sides, images = splits.of_fold(0), cohort.manifest.images.set_index("image")
    seen = set(images.loc[finetuned_run.training_images()["image"], "group"])
    leaked = sorted(image for image in sides.index[sides != "train"] if images.loc[image, "group"] in seen)
    assert leaked
    named = ", ".join(f"{image} (subject {images.loc[image, 'subject']}) on {sides[image]}" for image in leaked[:3])
    assert caught.value.what == f"{finetuned_run.folder} has seen {len(leaked)} images that fold 0 validates or tests on."
    assert caught.value.received == f"{named} and {len(leaked) - 3} more"
    assert not (tmp_path / "run").exists()


def test_own_validation_images_of_the_start_are_seen_too(
    cohort: Any, settings: TrainSettings, tmp_path: Path
) -> None:
    """The same splits: nothing that is tested was seen, but what is validated on was."""
    with pytest.raises(LeakError, match=r"on validation"):
        train(cohort.manifest, cohort.splits, tmp_path / "run", settings, cohort.cache)


def test_one_cell_of_other_data_is_found_by_its_pixels(
    other: tuple[Manifest, Splits, Path], settings: TrainSettings, finetuned_run: Run, tmp_path: Path
) -> None:
    manifest, splits, cache = other
    sides = splits.of_fold(0)
    tested = sorted(sides.index[sides == "test"])[2]
    images = manifest.images.copy()
    images.loc[images["image"] == tested, "pixel_hash"] = finetuned_run.training_images()["pixel_hash"].iloc[0]
    copied = Manifest(images, manifest.record)
    shared = Splits(splits.sides, {**splits.record, "manifest_hash": copied.content_hash})
    with pytest.raises(LeakError) as caught:
        train(copied, shared, tmp_path / "run", settings, cache)
    subject = images.set_index("image").loc[tested, "subject"]
    assert caught.value.received == f"{tested} (subject {subject}) on test"


def test_start_of_the_start_is_remembered(
    cohort: Any, other: tuple[Manifest, Splits, Path], settings: TrainSettings, finetuned_run: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    manifest, splits, cache = other
    with monkeypatch.context() as patched:
        fine_tuning_is_best(patched)
        second = train(manifest, splits, tmp_path / "second", settings.model_copy(update={"finetune_epochs": 1}), cache)
    assert second.record["best_phase"] == "finetune"
    first_seen = finetuned_run.training_images()
    before = pd.read_csv(second.folder / "seen_before.csv", dtype="string")
    assert before["pixel_hash"].tolist() == first_seen["pixel_hash"].tolist()
    assert set(before["side"]) == {"train"}
    third = settings.model_copy(update={"start_from": second.folder})
    with pytest.raises(LeakError, match=r"second has seen \d+ images that fold 0"):
        train(cohort.manifest, cohort.splits, tmp_path / "third", third, cohort.cache)
    # Nor may it be tested on what its start has seen.
    with pytest.raises(LeakError, match=r"were seen in the training of"):
        predict(second, cohort.manifest, split(cohort.manifest, settings=SplitSettings(seed=3)), tmp_path, cohort.cache)
    everything = predict(second, cohort.manifest, None, tmp_path / "all", cohort.cache).table
    groups = set(cohort.manifest.images.set_index("image").loc[first_seen["image"], "group"])
    assert everything["side"].tolist() == ["train" if group in groups else "test" for group in everything["group"]]


def test_cross_validation_checks_every_fold_first_and_starts_from_runs_on_other_data(
    cohort: Any, other: tuple[Manifest, Splits, Path], settings: TrainSettings, tmp_path: Path
) -> None:
    manifest, _, cache = other
    wanted = CrossvalSettings(architectures=(TINY_EFFICIENTNET,), folds=3, repeats=1, train=settings)
    with pytest.raises(LeakError):
        cross_validate(cohort.manifest, tmp_path / "same", wanted, cohort.cache)
    assert not (tmp_path / "same").exists()
    found = cross_validate(manifest, tmp_path / "cv", wanted, cache)["timm_test_efficientnet"]
    assert "random weights, then" in found.record["trained_on"]
    assert np.isfinite(found.table["y_score"]).all()
