"""Batches of pixels that lie in the cache or on the device; tests of the orders are in test_finetuning and test_processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from leukolens.data.augmentation import augment
from leukolens.data.pixel_cache import PixelCache
from leukolens.models.classifier import Classifier
from leukolens.models.compute import Compute
from leukolens.settings import TrainSettings
from leukolens.training import batches
from leukolens.training.batches import PixelBatches, ResidentBatches, TrainingImages, fits_on, training_loader
from leukolens.training.finetuning import BEST_FILE, RESUME_FOLDER, fine_tune

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GIB = 1 << 30


@pytest.fixture
def images(pixels: PixelCache) -> TrainingImages:
    """33 cells to train on and 20 to validate."""
    labels = np.array([int("/all/" in image) for image in pixels.images])
    rows = np.random.default_rng(0).permutation(60)[:53]
    return TrainingImages(pixels.pixels, rows[:33], labels[rows[:33]], rows[33:], labels[rows[33:]])


def test_resident_batches_are_those_of_the_cache(images: TrainingImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_ROWS_PER_COPY", 10)  # the last piece is shorter
    of_cache = PixelBatches(images.pixels, images.train_rows, images.train_labels)
    resident = ResidentBatches(images.pixels, images.train_rows, images.train_labels, CPU)
    assert len(resident) == len(of_cache) == 33
    for positions in ([32, 0, 7], [5]):
        (levels, labels), (expected, expected_labels) = resident[positions], of_cache[positions]
        assert torch.equal(levels, expected)
        assert (levels.dtype, levels.stride()) == (torch.uint8, expected.stride())
        assert torch.equal(labels, expected_labels)


def test_pixels_are_put_indexed_and_augmented_on_the_device(images: TrainingImages, tiny: TrainSettings) -> None:
    """On the device "meta", which computes shapes and no values, and refuses to be mixed with the CPU's memory."""
    resident = ResidentBatches(images.pixels, images.train_rows, images.train_labels, torch.device("meta"))
    levels, labels = resident[[3, 1, 2]]
    augmented = augment(levels, tiny.augmentation, torch.Generator().manual_seed(0))
    for tensor, shape in ((levels, (3, 3, 32, 32)), (labels, (3,)), (augmented, (3, 3, 32, 32))):
        assert tensor.device.type == "meta"
        assert tensor.shape == shape


@pytest.mark.parametrize(("wanted_gib", "fits"), [(1.9, True), (2.0, True), (2.1, False)])
def test_pixels_go_to_a_gpu_that_has_four_times_their_room(
    monkeypatch: pytest.MonkeyPatch, wanted_gib: float, fits: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * GIB, 24 * GIB))
    assert fits_on(CUDA, int(wanted_gib * GIB)) is fits


def test_pixels_stay_in_the_cache_on_a_processor(images: TrainingImages) -> None:
    assert not fits_on(CPU, 1)
    loader = training_loader(images, batches.ShuffledBatches(33, 8, 0), CPU)
    assert isinstance(loader.dataset, PixelBatches)


def test_training_on_resident_pixels_is_the_same_bit_by_bit(
    tiny_classifier: Classifier, images: TrainingImages, tiny: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in tiny_classifier.state_dict().items()}
    fine_tune(tiny_classifier, images, tiny, Compute("cpu", "fp32"), tmp_path / "cache")
    tiny_classifier.load_state_dict(before)
    asked: list[int] = []
    monkeypatch.setattr(batches, "fits_on", lambda device, wanted_bytes: asked.append(wanted_bytes) is None)
    fine_tune(tiny_classifier, images, tiny, Compute("cpu", "fp32"), tmp_path / "resident")
    # Validation and training side; a pixel has three bytes.
    assert sorted(asked) == [20 * 32 * 32 * 3, 33 * 32 * 32 * 3]
    expected, found = (load_file(tmp_path / kind / RESUME_FOLDER / BEST_FILE) for kind in ("cache", "resident"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
