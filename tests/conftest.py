"""What many tests share: a tiny network, a fake cohort with its manifest and splits, and runs trained once on it."""

from __future__ import annotations

import os

# Before PyTorch is imported, and for the subprocesses of the tests: a second thread only costs networks as small as these.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cohort import build_cohort
from leukolens.artifacts import Manifest, Splits
from leukolens.data.manifest import index
from leukolens.data.pixel_cache import PixelCache, cache_pixels
from leukolens.data.preprocessing import Preprocessing
from leukolens.data.splits import split
from leukolens.models.architectures import find_architecture
from leukolens.models.classifier import Classifier, build_classifier
from leukolens.models.weights import PretrainedWeights, find_weights
from leukolens.settings import TrainSettings
from leukolens.training.runs import Run
from leukolens.training.train import train

# Networks that timm ships for tests: 0.1 to 0.4 million weights, any input size.
TINY_RESNET, TINY_EFFICIENTNET = "timm:test_resnet", "timm:test_efficientnet"


@dataclass(frozen=True)
class Cohort:
    """60 cells of 12 subjects, 48 x 48 px: image folders, results folder, manifest, splits and cache folder."""

    cells: Path
    results: Path
    manifest: Manifest
    splits: Splits
    cache: Path


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    """A Ray worker that a test builds in this process sets its threads, and sums in another order from then on."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Read only: tests that train write elsewhere and share the cache."""
    folder = tmp_path_factory.mktemp("cohort")
    cells, results = build_cohort(folder / "cells"), folder / "results"
    manifest = index(cells, results)
    return Cohort(cells, results, manifest, split(manifest, results), folder / "cache")


@pytest.fixture(scope="session")
def tiny() -> TrainSettings:
    """Settings of a training of a second: random weights, 32 x 32 px, three epochs of fine-tuning."""
    return TrainSettings(
        architecture=TINY_RESNET, weights="none", input_px=32, head_epochs=20, finetune_epochs=3, batch_size=8, device="cpu"
    )


@pytest.fixture(scope="session")
def head_run(cohort: Cohort, tiny: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run whose backbone stayed frozen. Read only."""
    folder = tmp_path_factory.mktemp("head") / "run"
    return train(cohort.manifest, cohort.splits, folder, tiny.model_copy(update={"finetune_epochs": 0}), cohort.cache)


@pytest.fixture(scope="session")
def finetuned_run(cohort: Cohort, tiny: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run whose fine-tuning was better than its head, which was hardly trained. Read only."""
    hardly = {"head_epochs": 1, "head_learning_rate": 1e-6, "finetune_epochs": 6, "architecture": TINY_EFFICIENTNET}
    folder = tmp_path_factory.mktemp("finetuned") / "run"
    return train(cohort.manifest, cohort.splits, folder, tiny.model_copy(update=hardly), cohort.cache)


@pytest.fixture(scope="session")
def pixels(cohort: Cohort) -> PixelCache:
    """The cohort at 32 x 32 px."""
    return cache_pixels(cohort.manifest, cohort.cache, Preprocessing(cohort.manifest.canvas_px, 32))


@pytest.fixture
def random_weights() -> Callable[[str], PretrainedWeights]:
    """Give the record of random weights for a network given by name."""
    return lambda name: find_weights(find_architecture(name), TrainSettings(weights="none"))


@pytest.fixture
def tiny_classifier(cohort: Cohort, random_weights: Callable[[str], PretrainedWeights]) -> Classifier:
    """A tiny network for two classes, its head not zero."""
    weights = random_weights(TINY_RESNET)
    built = build_classifier(weights, Preprocessing((48, 48), 32, weights.mean, weights.std), 2, dropout=0.2, seed=0)
    torch.nn.init.normal_(built.head.weight, generator=torch.Generator().manual_seed(0))
    return built


@pytest.fixture
def no_random_state_left() -> Iterator[None]:
    """Fail where the test's subject moves PyTorch's global random state."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state())
