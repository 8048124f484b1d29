"""`leukolens predict`: a finished run and images in, predictions.parquet out.

In: Run, Manifest and (to know the sides) Splits. Out: Predictions, one row per image in path order. Writes:
`predictions.parquet`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from leukolens.artifacts import PREDICTIONS_FILE, TEST, TRAIN, VALIDATION, Manifest, Predictions, Record, Splits
from leukolens.data.leak_door import check_disjoint
from leukolens.data.pixel_cache import PixelCache, cache_pixels
from leukolens.errors import LeakError, RunError, SettingsError
from leukolens.models.compute import tune_allocator
from leukolens.progress import progress
from leukolens.training.features import FeatureExtractor, frozen_features, to_levels
from leukolens.training.runs import Run
from leukolens.training.train import CACHE_FOLDER

_BATCH = 32
_NAMED = 3


@dataclass(frozen=True)
class Scored:
    """`logits` float32 [images, classes] and the rate at which the network gave them."""

    logits: NDArray[np.float32]
    images_per_second: float


def predict(
    run: Run | Path | str,
    manifest: Manifest | Path | str,
    splits: Splits | Path | str | None = None,
    out: Path | str | None = None,
    cache_dir: Path | None = None,
) -> Predictions:
    """Score the validation and test images of a split, or all images of a data set that the run has not seen.

    Args:
        run: a Run or its folder.
        manifest: the data set; its images are cropped and resized as the run's record says.
        splits: the run's own splits; None scores every image of the manifest as side "test", but cells that the run was
            trained or validated on (found by their pixels, in the run's own data also by their subject group) keep
            those sides.
        out: a folder to write predictions.parquet into; None means the run's folder, which takes its own splits only.
        cache_dir: where pixels are cached; None means `cache` beside the run's folder.

    Raises:
        RunError: the manifest has other classes than the run.
        SettingsError: neither splits nor a folder for the predictions were given.
        LeakError: an image of the test side was in the run's training or validation.
    """
    tune_allocator()
    run = run if isinstance(run, Run) else Run.load(run)
    manifest, splits = Manifest.of(manifest), None if splits is None else Splits.of(splits)
    _check_classes(run, manifest)
    if splits is None and out is None:
        raise SettingsError(
            "Predictions of a whole data set need a folder of their own.",
            expected="a folder to write to",
            received="none, which would replace the predictions of the run's own test side",
            remedy="give --out",
        )
    rows = _rows_to_score(run, manifest, splits)
    cache_folder = cache_dir or run.folder.parent / CACHE_FOLDER
    cache = cache_pixels(_on_canvas_of(run, manifest), cache_folder, run.preprocessing.input_px)
    scored = _score(run, cache, cache.rows_of(list(rows["image"])), cache_folder)
    predictions = Predictions(_table(rows, scored.logits, run), _record(run, manifest, splits, scored))
    predictions.save(Path(out or run.folder) / PREDICTIONS_FILE)
    return predictions


def _rows_to_score(run: Run, manifest: Manifest, splits: Splits | None) -> pd.DataFrame:
    """Manifest rows with their side and fold, in path order."""
    seen = run.training_images()
    images = manifest.images.sort_values("image")
    fold = run.settings.fold
    if splits is None:
        return images.assign(side=_sides_as_seen(run, manifest, images, seen), fold=fold).reset_index(drop=True)
    check_disjoint(manifest, splits)
    sides = splits.of_fold(fold)
    rows = images[images["image"].isin(sides.index[sides.isin([VALIDATION, TEST])])]
    rows = rows.assign(side=sides[rows["image"]].to_numpy(), fold=fold).reset_index(drop=True)
    _check_unseen(run, rows, seen, splits)
    return rows


def _sides_as_seen(run: Run, manifest: Manifest, images: pd.DataFrame, seen: pd.DataFrame) -> list[str]:
    """The side on which the run saw each cell or, in the data it was made of, the cell's subject group; else test."""
    side_of_cell = dict(zip(seen["pixel_hash"], seen["side"], strict=True))
    # Ids mean the same subjects only in the data that the run was made of; a split by image mixes subjects anyway.
    is_own_data = run.record["manifest_hash"] == manifest.content_hash and run.record["split"]["strategy"] != "image"
    of_groups = seen.dropna(subset="group") if is_own_data else seen.iloc[:0]
    side_of_group = dict(zip(of_groups["group"], of_groups["side"], strict=True))
    cells = zip(images["pixel_hash"], images["group"].astype(object), strict=True)
    return [side_of_cell.get(cell) or side_of_group.get(group, TEST) for cell, group in cells]


def _check_unseen(run: Run, rows: pd.DataFrame, seen: pd.DataFrame, splits: Splits) -> None:
    """The leak door of a trained network: what it has learned from cannot be its test, whatever the splits say."""
    test = rows[rows["side"] == TEST]
    leaked = test["pixel_hash"].isin(seen["pixel_hash"])
    if splits.record["strategy"] != "image" and run.record["manifest_hash"] == splits.record["manifest_hash"]:
        leaked |= test["group"].isin(seen["group"].dropna())
    validation = rows[rows["side"] == VALIDATION]
    trained = seen.loc[seen["side"] == TRAIN, "pixel_hash"]
    offenders = pd.concat([test[leaked], validation[validation["pixel_hash"].isin(trained)]])
    if len(offenders):
        named = [f"{row.image} (subject {row.subject})" for row in offenders.head(_NAMED).itertuples()]
        raise LeakError(
            f"{len(offenders)} images to be scored were seen in the training of {run.folder}.",
            expected="test images of subjects and cells that the run has not seen",
            received=", ".join(named),
            remedy="pass the splits that the run was trained with, or train with these",
        )


def _check_classes(run: Run, manifest: Manifest) -> None:
    if list(manifest.classes) != run.record["classes"]:
        raise RunError(
            f"{run.folder} was trained on other classes.",
            expected=", ".join(run.record["classes"]),
            received=", ".join(manifest.classes),
            remedy="predict on data with the classes of the run",
        )


def _on_canvas_of(run: Run, manifest: Manifest) -> Manifest:
    """The canvas belongs to the weights, not to the data at hand."""
    return Manifest(manifest.images, {**manifest.record, "canvas_px": list(run.preprocessing.canvas_px)})


def _score(run: Run, cache: PixelCache, rows: NDArray[np.int64], cache_folder: Path) -> Scored:
    if run.record["best_phase"] == "head":
        return _score_frozen(run, cache, rows, cache_folder)
    classifier, compute = run.classifier().to(memory_format=torch.channels_last), run.compute()
    classifier.to(compute.device)
    logits, seconds = [], 0.0
    with progress(f"{run.record['display_name']}: predicting", len(rows)) as advance:
        for start in range(0, len(rows), _BATCH):
            began = time.perf_counter()
            levels = to_levels(cache.pixels[rows[start : start + _BATCH]], compute.device)
            with torch.inference_mode(), compute.autocast():
                logits.append(classifier(levels).float().cpu().numpy())
            seconds += time.perf_counter() - began
            advance(len(levels))
    return Scored(np.concatenate(logits), len(rows) / seconds)


def _score_frozen(run: Run, cache: PixelCache, rows: NDArray[np.int64], cache_folder: Path) -> Scored:
    """A network whose backbone stayed frozen reads the cached features; what is not cached is computed."""
    classifier = run.classifier()
    extractor = FeatureExtractor(classifier, run.preprocessing, run.compute(), _BATCH, run.record["display_name"])
    features = frozen_features(extractor, cache, rows.tolist(), cache_folder)
    with torch.inference_mode():
        logits = classifier.head.cpu()(torch.from_numpy(features.values)).numpy()
    return Scored(logits, len(rows) / features.seconds)


def _table(rows: pd.DataFrame, logits: NDArray[np.float32], run: Run) -> pd.DataFrame:
    classes, positive = run.record["classes"], run.record["positive"]
    scores = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    of_positive = scores[:, [classes.index(name) for name in positive]].sum(axis=1) if positive else np.nan
    table = rows[["image", "subject", "group", "fold", "side"]].assign(
        y_true=rows["label"], y_pred=np.array(classes)[scores.argmax(axis=1)], y_score=np.clip(of_positive, 0, 1)
    )
    return table.assign(**{f"score_{name}": scores[:, index] for index, name in enumerate(classes)})


def _record(run: Run, manifest: Manifest, splits: Splits | None, scored: Scored) -> Record:
    names = ("classes", "positive", "architecture", "display_name", "run_hash")
    return {
        **{name: run.record[name] for name in names},
        # Figures say nothing of leukemia where either the cells that were learned from or those scored are drawn.
        "synthetic": run.record["synthetic"] or manifest.record["synthetic"],
        "trained_on": run.record["weights"]["trained_on"],
        "split_label": run.record["split"]["label"] if splits else f"all images of {manifest.root.name}",
        "optimistic": run.record["split"]["optimistic"],
        "manifest_hash": manifest.content_hash,
        "splits_hash": splits.content_hash if splits else None,
        "images_per_second": scored.images_per_second,
    }
