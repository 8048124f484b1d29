"""Is an image like the training images at all? Distance in the backbone's feature space, with a limit from validation.

In: features of training and validation images. Out: OutlierModel. Writes: outliers.safetensors where asked to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from leukolens.artifacts import atomic_path
from leukolens.errors import ArtifactError
from leukolens.settings import DecisionSettings

Features = NDArray[np.floating]

BANK_IMAGES = 2000
# Distances between points of the unit sphere run from 0 to 2; copies of training images alone would give a limit of 0.
_LEAST_LIMIT = 1e-3
_ROWS_AT_ONCE = 1024
# Beyond the k nearest, so that rounding of the product does not decide who the k-th is.
_MORE_NEIGHBOURS = 8
_BANK, _RECORD = "bank", "record"
_BANK_AXES = 2


@dataclass(frozen=True)
class OutlierModel:
    """Training images to compare with, and how far from them an image may lie.

    Args:
        bank: float32 [m, d], features of at most 2,000 training images, each of length 1.
        neighbours: k; the distance to the k-th nearest of the bank counts.
        limit: largest distance accepted (Euclidean, 0–2).
        notes: what a reader must know of the limit, as sentences.
    """

    bank: NDArray[np.float32]
    neighbours: int
    limit: float
    notes: tuple[str, ...] = ()

    def scores(self, features: Features) -> NDArray[np.float64]:
        """Distance / limit of features [n, d]: float64 [n]; above 1 means unlike the training images.

        Raises ArtifactError on features of another width, or that are no finite numbers.
        """
        return _distances(_unit(features, self.bank.shape[1]), self.bank, self.neighbours) / self.limit

    def _checked(self) -> OutlierModel:
        """Give itself back; raises ValueError where it cannot be computed with."""
        if self.bank.dtype != np.float32 or self.bank.ndim != _BANK_AXES or not np.isfinite(self.bank).all():
            raise ValueError(f"features {self.bank.dtype} of shape {self.bank.shape}, or not finite")
        if not 1 <= self.neighbours <= len(self.bank) or not 0 < self.limit < np.inf:
            raise ValueError(f"{self.neighbours} neighbours of {len(self.bank)}, limit {self.limit}")
        return self

    def save(self, path: Path) -> None:
        """Write OUTLIERS_FILE."""
        record = json.dumps({"neighbours": self.neighbours, "limit": self.limit, "notes": self.notes}, allow_nan=False)
        with atomic_path(path) as temporary:
            save_file({_BANK: np.ascontiguousarray(self.bank)}, temporary, metadata={_RECORD: record})

    @classmethod
    def load(cls, path: Path) -> OutlierModel:
        """Read OUTLIERS_FILE; raises ArtifactError where it is missing or damaged."""
        try:
            # A pipe would be waited for without end.
            if path.exists() and not path.is_file():
                raise OSError("a folder, device or pipe")
            with safe_open(path, framework="numpy") as file:
                record: dict[str, Any] = json.loads(file.metadata()[_RECORD])
                bank = file.get_tensor(_BANK)
            return cls(bank, int(record["neighbours"]), float(record["limit"]), tuple(record["notes"]))._checked()
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ArtifactError(
                f"{path} cannot be read.",
                expected="a file of training features written by leukolens",
                received=str(error),
                remedy="run `leukolens train` again on this run",
            ) from error


def fit_outliers(
    train_features: Features, validation_features: Features, settings: DecisionSettings, seed: int
) -> OutlierModel:
    """Keep training features [m, d] and set the limit by those of validation [n, d], at least one row each.

    Deep nearest neighbours (Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors"): the distance
    of length-1 features to the k-th nearest training image; the limit is the `outlier_quantile` of it over validation.
    Of more than 2,000 training images a seeded sample is kept.

    Raises:
        ArtifactError: no rows, widths that differ, or features that are no finite numbers.
    """
    width = train_features.shape[1]
    bank = _unit(_sampled(train_features, seed), width).astype(np.float32)
    neighbours = min(settings.neighbours, len(bank))
    distances = _distances(_unit(validation_features, width), bank, neighbours)
    # "higher": at least the stated share of validation is accepted, however few images there are.
    limit = float(np.quantile(distances, settings.outlier_quantile, method="higher"))
    return OutlierModel(bank, neighbours, max(limit, _LEAST_LIMIT), _notes(distances, limit, settings, neighbours))


def _sampled(features: Features, seed: int) -> Features:
    if len(features) <= BANK_IMAGES:
        return features
    rows = np.random.default_rng(seed).choice(len(features), BANK_IMAGES, replace=False)
    return features[np.sort(rows)]


def _unit(features: Features, width: int) -> NDArray[np.float64]:
    """Features [n, width] scaled to length 1; a row of zeros stays one."""
    if features.ndim != 2 or not len(features) or features.shape[1] != width or not np.isfinite(features).all():
        raise ArtifactError(
            "The features cannot be compared with those of the training images.",
            expected=f"at least one row of {width} finite numbers",
            received=f"an array of shape {list(features.shape)}"
            + ("" if np.isfinite(features).all() else " with values that are not finite"),
            remedy="compute the features with the network of the run",
        )
    values = features.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: NDArray[np.float64] = values / np.where(lengths > 0, lengths, 1.0)
    return unit


def _distances(unit: NDArray[np.float64], bank: NDArray[np.float32], neighbours: int) -> NDArray[np.float64]:
    """Euclidean distance to the k-th nearest row of the bank, float64 [n], a thousand rows at a time.

    A matrix product finds who is near. How near is then computed row by row: a product ends in other bits where there are
    other rows beside (docs/decisions/0025).
    """
    points = bank.astype(np.float64)
    bank_squares = (points**2).sum(axis=1)
    candidates = min(len(bank), neighbours + _MORE_NEIGHBOURS)
    distances = np.empty(len(unit))
    for start in range(0, len(unit), _ROWS_AT_ONCE):
        rows = unit[start : start + _ROWS_AT_ONCE]
        squares = bank_squares - 2 * rows @ points.T
        nearest = np.argpartition(squares, candidates - 1, axis=1)[:, :candidates]
        for place, (row, near) in enumerate(zip(rows, nearest, strict=True)):
            exact = ((points[near] - row) ** 2).sum(axis=1)
            distances[start + place] = np.sqrt(np.partition(exact, neighbours - 1)[neighbours - 1])
    return distances


def _notes(distances: NDArray[np.float64], limit: float, settings: DecisionSettings, neighbours: int) -> tuple[str, ...]:
    notes = []
    if limit >= distances.max():
        notes.append(f"The limit is the largest distance among the {len(distances)} validation images.")
    if limit < _LEAST_LIMIT:
        notes.append(f"The limit was raised to {_LEAST_LIMIT}: the validation images are copies of training images.")
    if neighbours < settings.neighbours:
        notes.append(f"Only {neighbours} training images to compare with: the farthest of them counts.")
    return tuple(notes)
