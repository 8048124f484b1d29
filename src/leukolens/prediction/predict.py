"""`leukolens predict`: a finished run and images in, predictions.parquet out.

In: Run with its decision, Manifest and (to know the sides) Splits. Out: Predictions, one row per image in path order:
calibrated scores, the class by the threshold, how unlike the training images each is and, where asked for, refusals.
Writes: `predictions.parquet`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import PREDICTIONS_FILE, TEST, TRAIN, VALIDATION, Manifest, Predictions, Record, Splits
from leukolens.data.leak_door import check_disjoint
from leukolens.data.pixel_cache import PixelCache, cache_pixels
from leukolens.errors import LeakError, RunError, SettingsError
from leukolens.models.compute import Compute, tune_allocator
from leukolens.prediction.table import Scored, predictions_table
from leukolens.progress import logger
from leukolens.settings import PredictSettings
from leukolens.training.features import VIEWS, FeatureExtractor, TimedFeatures, computed_features, frozen_features
from leukolens.training.head import linear_logits
from leukolens.training.runs import Run, with_group_names
from leukolens.training.train import CACHE_FOLDER

_BATCH = 32
_NAMED = 3


def predict(
    run: Run | Path | str,
    manifest: Manifest | Path | str,
    splits: Splits | Path | str | None = None,
    out: Path | str | None = None,
    cache_dir: Path | None = None,
    settings: PredictSettings | None = None,
) -> Predictions:
    """Score the validation and test images of a split, or all images of a data set that the run has not seen.

    Args:
        run: a Run, its folder, or a bundle of it.
        manifest: the data set; its images are cropped and resized as the run's record says.
        splits: the run's own splits; None scores every image of the manifest as side "test", but cells that the run was
            trained or validated on (found by their pixels, in the run's own data also by their subject group) keep
            those sides.
        out: a folder to write predictions.parquet into; None means the run's folder, which takes its own splits only, and
            which cannot be a bundle's.
        cache_dir: where pixels are cached; None means `cache` beside the run's folder.
        settings: whether to refuse what is uncertain or unlike the training images, test-time augmentation, device, engine.

    Raises:
        RunError: the manifest has other classes than the run, or the run has no decision.
        ArtifactError: the run is a bundle, and one of its files is not as it was exported.
        SettingsError: no folder for the predictions was given where one is needed, or the engine is not to be had.
        LeakError: an image of the test side was in the run's training or validation.
    """
    tune_allocator()
    run = run if isinstance(run, Run) else Run.load(run)
    manifest, splits = Manifest.of(manifest), None if splits is None else Splits.of(splits)
    settings, decision = settings or PredictSettings(), run.decision()
    check_classes(run, manifest)
    _check_folder(run, splits, out)
    rows = rows_to_score(run, manifest, splits)
    cache_folder = cache_dir or run.folder.parent / CACHE_FOLDER
    cache = cache_pixels(manifest, cache_folder, run.preprocessing)
    scored, seconds = _score(run, cache, cache.rows_of(list(rows["image"])), cache_folder, settings)
    if settings.abstain is not None and (caution := decision.caution(settings.abstain)):
        logger.warning("%s", caution)
    table = predictions_table(rows, scored, decision, settings.abstain)
    record = {
        **record_of_predictions(run, manifest, splits, settings),
        **asked_by(run.compute(settings.device, settings.engine)),
        "seconds": seconds,
        "images_per_second": len(table) / seconds,
    }
    predictions = Predictions(table, record)
    predictions.save(Path(out or run.folder) / PREDICTIONS_FILE)
    return predictions


def _check_folder(run: Run, splits: Splits | None, out: Path | str | None) -> None:
    if out is not None or (splits is not None and not run.is_bundle):
        return
    whose, harm = ("by a bundle", "write into the bundle") if run.is_bundle else (
        "of a whole data set", "replace the predictions of the run's own test side"
    )  # fmt: skip
    raise SettingsError(
        f"Predictions {whose} need a folder of their own.",
        expected="a folder to write to",
        received=f"none, which would {harm}",
        remedy="give --out",
    )


def predict_once(
    run: Run, manifest: Manifest, splits: Splits, out: Path, cache_dir: Path, settings: PredictSettings | None = None
) -> Predictions:
    """What `predict` gives, read from `out` where the same run, data, splits, settings and engine made what lies there."""
    settings = settings or PredictSettings()
    made_of = {
        "run_hash": run.record["run_hash"],
        "decision_hash": run.decision_record["hash"],
        "manifest_hash": manifest.content_hash,
        "splits_hash": splits.content_hash,
        "tta": settings.tta,
        "abstain": settings.abstain,
        **asked_by(run.compute(settings.device, settings.engine)),
    }
    if (out / PREDICTIONS_FILE).is_file():
        predictions = Predictions.load(out)
        if made_of == {name: predictions.record.get(name) for name in made_of}:
            return predictions
    return predict(run, manifest, splits, out, cache_dir, settings)


def rows_to_score(run: Run, manifest: Manifest, splits: Splits | None) -> pd.DataFrame:
    """Manifest rows with their side, repeat and fold, in path order."""
    seen = with_group_names(run.seen_images(manifest.content_hash), manifest.images)
    images = manifest.images.sort_values("image").assign(repeat=0)
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
    # Ids mean the same subjects in the same data only, elsewhere `seen` has none; a split by image mixes subjects anyway.
    of_groups = seen.iloc[:0] if run.record["split"]["strategy"] == "image" else seen.dropna(subset="group")
    side_of_group = dict(zip(of_groups["group"], of_groups["side"], strict=True))
    cells = zip(images["pixel_hash"], images["group"].astype(object), strict=True)
    return [side_of_cell.get(cell) or side_of_group.get(group, TEST) for cell, group in cells]


def _check_unseen(run: Run, rows: pd.DataFrame, seen: pd.DataFrame, splits: Splits) -> None:
    """The leak door of a trained network: what it has learned from cannot be its test, whatever the splits say."""
    test = rows[rows["side"] == TEST]
    leaked = test["pixel_hash"].isin(seen["pixel_hash"])
    if splits.record["strategy"] != "image":
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


def check_classes(run: Run, manifest: Manifest) -> None:
    """Raise RunError where the data has other classes than the run was trained on."""
    if list(manifest.classes) != run.record["classes"]:
        raise RunError(
            f"{run.folder} was trained on other classes.",
            expected=", ".join(run.record["classes"]),
            received=", ".join(manifest.classes),
            remedy="predict on data with the classes of the run",
        )


def _score(
    run: Run, cache: PixelCache, rows: NDArray[np.int64], cache_folder: Path, settings: PredictSettings
) -> tuple[Scored, float]:
    """Logits of the images as they are or, with test-time augmentation, their mean over the views; distance of the plain.

    Also gives the seconds that it took, decoding not counted, whenever that was.
    """
    extractor, outliers = run.extractor(_BATCH, settings.device, settings.engine), run.outliers()
    head = extractor.classifier.head
    plain = _features(run, extractor, cache, rows, cache_folder)
    logits, seconds = [linear_logits(plain.values, head.weight, head.bias)], plain.seconds
    for view in range(1, VIEWS) if settings.tta else ():
        seen = _features(run, extractor.of_view(view), cache, rows, cache_folder)
        logits.append(linear_logits(seen.values, head.weight, head.bias))
        seconds += seen.seconds
    return Scored(np.mean(logits, axis=0), outliers.scores(plain.values)), seconds


def _features(
    run: Run, extractor: FeatureExtractor, cache: PixelCache, rows: NDArray[np.int64], cache_folder: Path
) -> TimedFeatures:
    """A backbone that stayed frozen reads the cached features and computes what is missing; a fine-tuned one computes."""
    if run.record["best_phase"] == "head":
        return frozen_features(extractor, cache, rows.tolist(), cache_folder)
    return computed_features(extractor, cache, rows.tolist())


def asked_by(compute: Compute) -> Record:
    """Say which engine computes scores, and in which precision: scores of two engines are never taken for one another."""
    return {"engine": compute.engine, "inference_precision": compute.inference_precision}


def record_of_predictions(run: Run, manifest: Manifest, splits: Splits | None, settings: PredictSettings) -> Record:
    """Give what the predictions of a run say of themselves, but how long they took."""
    names = ("classes", "positive", "architecture", "display_name", "run_hash")
    return {
        **{name: run.record[name] for name in names},
        "kind": "network",
        "phase": run.record["best_phase"],
        "parameters": run.record["parameters"],
        # Figures say nothing of leukemia where either the cells that were learned from or those scored are drawn.
        "synthetic": run.record["synthetic"] or manifest.record["synthetic"],
        "trained_on": run.record["weights"]["trained_on"],
        "split_label": run.record["split"]["label"] if splits else f"all images of {manifest.root.name}",
        "optimistic": run.record["split"]["optimistic"],
        "manifest_hash": manifest.content_hash,
        "splits_hash": splits.content_hash if splits else None,
        "decisions": [run.decision().entry(repeat=0, fold=run.settings.fold)],
        "decision_hash": run.decision_record["hash"],
        "tta": settings.tta,
        "abstain": settings.abstain,
    }
