"""Batches of cached pixels: which images come when, in which process, and where their pixels lie.

In: cached pixels, rows and labels. Out: batches of grey levels and class indices. Writes: nothing.

The pixels stay in the memory-mapped cache or, where a GPU has room for them, lie on it: then no batch crosses the bus.
Where several processes train one network, each global batch is the one that a single process would see, and every
process takes its share of it: no image is left out, and none is repeated to fill a share up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from leukolens.data.preprocessing import Pixels
from leukolens.errors import SettingsError
from leukolens.processes import ALONE, Processes
from leukolens.progress import logger
from leukolens.training.features import to_levels

Indices = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]

# Weights, gradients, AdamW's two moments and the activations of a batch of 32 take 1 to 6 GB for the five networks; a
# quarter leaves them three times what the pixels take. A whole C-NMC at 224 px is 1.6 GB.
_SHARE_OF_FREE_MEMORY = 0.25
_ROWS_PER_COPY = 256


@dataclass(frozen=True)
class TrainingImages:
    """Cached `pixels` uint8 [all images, side, side, 3] and, per side of the split, row numbers and class indices."""

    pixels: Pixels
    train_rows: Indices
    train_labels: Indices
    validation_rows: Indices
    validation_labels: Indices


class PixelBatches(Dataset[Batch]):
    """Whole batches of cached pixels: uint8 [batch, 3, side, side] and class indices [batch], in main memory."""

    def __init__(self, pixels: Pixels, rows: Indices, labels: Indices) -> None:
        self.pixels = pixels
        self.rows = rows
        self.labels = labels

    def __len__(self) -> int:
        """Give the number of images."""
        return len(self.rows)

    def __getitem__(self, positions: list[int]) -> Batch:
        """Give the images at `positions`."""
        return to_levels(self.pixels[self.rows[positions]], "cpu"), torch.from_numpy(self.labels[positions])


class ResidentBatches(Dataset[Batch]):
    """The same batches, of pixels and labels that were copied to a device once and are indexed there."""

    def __init__(self, pixels: Pixels, rows: Indices, labels: Indices, device: torch.device) -> None:
        self.levels = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.uint8, device=device)
        # In pieces: the memory map would otherwise be gathered in main memory as a whole.
        for start in range(0, len(rows), _ROWS_PER_COPY):
            piece = torch.from_numpy(pixels[rows[start : start + _ROWS_PER_COPY]])
            self.levels[start : start + len(piece)].copy_(piece)
        self.labels = torch.from_numpy(labels).to(device)

    def __len__(self) -> int:
        """Give the number of images."""
        return len(self.labels)

    def __getitem__(self, positions: list[int]) -> Batch:
        """Give the images at `positions`: [batch, 3, side, side], channels last in memory as `to_levels` has them."""
        where = torch.tensor(positions, device=self.levels.device)
        return self.levels[where].permute(0, 3, 1, 2), self.labels[where]


class ShuffledBatches(Sampler[list[int]]):
    """Positions in batches, in an order that depends on the seed and the epoch alone; of several processes, one's share.

    The batches are as even as can be: a last batch of one image has no spread for batch normalisation to measure, and its
    gradient would count as much as that of a whole one. Raises SettingsError where a process would find no image in one.
    """

    def __init__(self, images: int, batch_size: int, seed: int, processes: Processes = ALONE) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.processes = processes
        self.epoch = 0
        if processes.are_several:
            _check_enough(images // len(self), "training images in each step", processes)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is for; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Give the number of batches, the same in every process."""
        return math.ceil(self.images / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Give this epoch's batches."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.images)
        return (share_of(batch, self.processes).tolist() for batch in np.array_split(order, len(self)))


def share_of(positions: Indices, processes: Processes) -> Indices:
    """What one process does of `positions`: consecutive, as even as can be; the shares of all make up the whole."""
    return np.array_split(positions, processes.count)[processes.rank]


def training_loader(images: TrainingImages, shuffled: ShuffledBatches, device: torch.device) -> DataLoader[Batch]:
    """Batches of the training side in the order that `shuffled` gives."""
    train = _batches(images.pixels, images.train_rows, images.train_labels, device)
    return DataLoader(train, batch_size=None, sampler=shuffled)


def validation_loader(
    images: TrainingImages, batch_size: int, device: torch.device, processes: Processes = ALONE
) -> DataLoader[Batch]:
    """Batches of this process's share of the validation side, in order; raises SettingsError where it has none."""
    if processes.are_several:
        _check_enough(len(images.validation_rows), "validation images", processes)
    share = share_of(np.arange(len(images.validation_rows)), processes).tolist()
    in_order = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    validation = _batches(images.pixels, images.validation_rows, images.validation_labels, device)
    return DataLoader(validation, batch_size=None, sampler=in_order)


def fits_on(device: torch.device, wanted_bytes: int) -> bool:
    """Whether pixels of so many bytes may live on the device: on a GPU, in at most a quarter of what is free there."""
    if device.type != "cuda":
        return False
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return wanted_bytes <= _SHARE_OF_FREE_MEMORY * free_bytes


def _batches(pixels: Pixels, rows: Indices, labels: Indices, device: torch.device) -> Dataset[Batch]:
    wanted_bytes = len(rows) * math.prod(pixels.shape[1:])
    if not fits_on(device, wanted_bytes):
        return PixelBatches(pixels, rows, labels)
    logger.debug("pixels: %d images (%d MiB) on %s", len(rows), wanted_bytes >> 20, device)
    return ResidentBatches(pixels, rows, labels, device)


def _check_enough(images: int, what: str, processes: Processes) -> None:
    if images < processes.count:
        raise SettingsError(
            f"{processes.count} processes have {images} {what}.",
            expected="at least one image for each process",
            received=str(images),
            remedy="start fewer processes, or raise --batch-size",
        )
