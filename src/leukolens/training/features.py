"""Frozen features: computed once per (pixels, weights, preprocessing, precision, engine, view) and kept.

In: a classifier and cached pixels. Out: float32 [images, width], of the images as they are or of one of their symmetric
views. Writes: `features-<key>/<first content hash>.npz` below the cache folder, in parts of a few hundred images, so that
an interrupted extraction goes on where it stopped and images that two splits share are computed once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from leukolens.artifacts import hash_file, hash_json
from leukolens.data.pixel_cache import PixelCache, release
from leukolens.data.preprocessing import Pixels, Preprocessing
from leukolens.errors import ArtifactError
from leukolens.models.classifier import Classifier, hash_backbone
from leukolens.models.compute import Compute
from leukolens.models.inference import Engine, Network
from leukolens.progress import Advance, progress
from leukolens.training.feature_parts import Features as Features
from leukolens.training.feature_parts import find_parts, write_part

_KEY_LENGTH = 16
_IMAGES_PER_PART = 512

# A cell has no up and no left: the square's 4 turns and their mirror images show the same cell.
VIEWS = 8
_TURNS = 4


@dataclass(frozen=True)
class TimedFeatures:
    """`values` float32 [images, width] in the order asked for; `seconds` that computing them took, whenever that was."""

    values: Features
    seconds: float


@dataclass(frozen=True)
class FeatureExtractor:
    """A backbone and how it computes; `view` (0–7) says how the images are turned before it sees them."""

    classifier: Classifier
    preprocessing: Preprocessing
    compute: Compute
    batch_size: int
    display_name: str
    view: int = 0
    network: Network = field(default_factory=Network, repr=False, compare=False)
    """The backbone made ready; all views of one extractor share it."""

    def key(self) -> str:
        """What the features depend on besides the pixels.

        Engines agree in float32 within its rounding and in bfloat16 within that one's, which is coarse: never mixed.
        """
        how: tuple[str, ...] = (self.compute.inference_precision, self.compute.engine)
        if self.network.file is not None:
            how = (*how, hash_file(self.network.file))
        record = (hash_backbone(self.classifier), self.preprocessing.to_record(), *how)
        return hash_json((*record, self.view) if self.view else record)[:_KEY_LENGTH]

    def __call__(self, pixels: Pixels) -> Features:
        """Features of uint8 [batch, side, side, 3]."""
        engine = self.network.engine or self.ready()
        return engine(turned(to_levels(pixels, self.compute.device), self.view))

    def of_view(self, view: int) -> FeatureExtractor:
        """The same backbone on another view of the images."""
        return replace(self, view=view)

    def ready(self) -> Engine:
        """Make the backbone ready to be asked and not trained, on its device and engine, with the weights of now."""
        return self.network.prepare(self.classifier, self.compute, self.batch_size, self.preprocessing.input_px)


def to_levels(pixels: Pixels, device: str) -> torch.Tensor:
    """Move uint8 [batch, height, width, 3] to the device as [batch, 3, height, width] (channels last in memory)."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2)


def turned(levels: torch.Tensor, view: int) -> torch.Tensor:
    """Turn [batch, 3, side, side]: views 0–3 by as many quarter turns, 4–7 the mirror images of these."""
    quarters = torch.rot90(levels, view % _TURNS, dims=(2, 3))
    return quarters.flip(3) if view >= _TURNS else quarters


def computed_features(extractor: FeatureExtractor, cache: PixelCache, rows: Sequence[int]) -> TimedFeatures:
    """Features of the given rows of the pixel cache, computed and not kept: for a network that was fine-tuned."""
    extractor.ready()
    began = time.perf_counter()
    with progress(f"{extractor.display_name}: features", len(rows)) as advance:
        values = _in_batches(extractor, cache.pixels, rows, advance)
    return TimedFeatures(values, time.perf_counter() - began)


def frozen_features(extractor: FeatureExtractor, cache: PixelCache, rows: Sequence[int], folder: Path) -> TimedFeatures:
    """Features of the given rows of the pixel cache, reading what is on disk and computing the rest."""
    parts = folder / f"features-{extractor.key()}"
    row_of = {cache.content_hashes[row]: row for row in rows}
    stored = find_parts(parts)
    missing = {content: row for content, row in row_of.items() if content not in stored.places}
    if missing:
        _compute_parts(extractor, cache.pixels, missing, parts)
        stored = find_parts(parts)
    values = stored.read([cache.content_hashes[row] for row in rows])
    if len(values) and values.shape[1] != (width := extractor.classifier.backbone.width):
        raise ArtifactError(
            f"{parts} holds features of another network.",
            expected=f"{width} features of each image",
            received=str(values.shape[1]),
            remedy="delete this folder; its features are computed again",
        )
    return TimedFeatures(values, stored.seconds / max(1, len(stored.places)) * len(row_of))


def _compute_parts(extractor: FeatureExtractor, pixels: Pixels, row_of: dict[str, int], parts: Path) -> None:
    extractor.ready()
    hashes = list(row_of)
    with progress(f"{extractor.display_name}: frozen features", len(hashes)) as advance:
        for start in range(0, len(hashes), _IMAGES_PER_PART):
            part = hashes[start : start + _IMAGES_PER_PART]
            began = time.perf_counter()
            values = _in_batches(extractor, pixels, [row_of[content] for content in part], advance)
            write_part(parts, part, values, time.perf_counter() - began)


def _in_batches(extractor: FeatureExtractor, pixels: Pixels, rows: Sequence[int], advance: Advance) -> Features:
    """Features of some rows, float32 [rows, width]; of the mapped pixels no more than a batch stays in memory."""
    values: Features | None = None
    for start in range(0, len(rows), extractor.batch_size):
        batch = list(rows[start : start + extractor.batch_size])
        found = extractor(pixels[batch])
        release(pixels)
        if values is None:
            values = np.empty((len(rows), found.shape[1]), np.float32)
        values[start : start + len(batch)] = found
        advance(len(batch))
    return np.empty((0, 0), np.float32) if values is None else values
