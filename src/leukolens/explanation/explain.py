"""`leukolens explain`: where is a run's score sensitive, on which cells, and does that lie on the cell?

In: Run or bundle, Manifest and (to know the sides) Splits. Out: Explanation, one row per image and method. Writes:
`overlays/*.png`, `contact_sheet.png`, `maps.json`, `predictions.parquet` (the scores behind the choice of images) and, last,
`maps.csv`. Images without a manifest are explained by `explain_inputs.py`.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import Manifest, Predictions, Record, Splits
from leukolens.data.pixel_cache import cache_pixels
from leukolens.decision.rule import UNLIKE_TRAINING, Decision
from leukolens.explanation.loose import LIBRARY, Explainer
from leukolens.explanation.pictures import Explanation as Explanation
from leukolens.explanation.pictures import Material, write_pictures
from leukolens.explanation.selection import check_named, chosen, with_margin
from leukolens.explanation.wording import summary_lines as summary_lines
from leukolens.models.compute import tune_allocator
from leukolens.prediction.predict import check_classes, predict, predict_once, rows_to_score
from leukolens.progress import logger
from leukolens.settings import ExplainSettings, PredictSettings
from leukolens.training.runs import Run
from leukolens.training.train import CACHE_FOLDER

COLUMNS = ("image", "subject", "side", "chosen_as", "label", "decision", "refusal", "outlier_score", "margin", "class",
           "probability", "method", "cell_share", "inside_share", "peak_inside", "overlay")  # fmt: skip

# Measured on 24 real cells each: scores in bfloat16 differ by 0.01 (AlexNet) to 0.09 (DenseNet-121) at most.
_LARGEST_DIFFERENCE = 0.05
_LARGEST_OUTLIER_SCORE = 1.0


def explain(
    run: Run | Path | str,
    manifest: Manifest | Path | str,
    splits: Splits | Path | str | None,
    out: Path | str,
    cache_dir: Path | None = None,
    settings: ExplainSettings | None = None,
) -> Explanation:
    """Map where a run's score is sensitive on the cells that tell most: the least certain and the surest mistakes.

    Args:
        run: a finished Run, its folder, or a bundle of it.
        manifest: the data set, as `predict` takes it and under its rules.
        splits: the run's own; None explains any image of the data set, and says in `side` whether the run has seen it.
        out: folder to write into; what an earlier call left there is replaced.
        cache_dir: where pixels are cached; None means `cache` beside the run's folder.
        settings: which images, methods, class and layer.

    Raises:
        SettingsError: pytorch-grad-cam is not installed; no such class, layer or image; no positive class and none given.
        RunError, LeakError: as `predict`.
    """
    tune_allocator()
    run, settings = run if isinstance(run, Run) else Run.load(run), settings or ExplainSettings()
    given = _Given(
        Manifest.of(manifest),
        None if splits is None else Splits.of(splits),
        Path(out),
        cache_dir or run.folder.parent / CACHE_FOLDER,
    )
    check_classes(run, given.manifest)
    if settings.images:
        # Before anything is computed or written.
        check_named(rows_to_score(run, given.manifest, given.splits), settings.images)
    explainer = Explainer(run, settings)
    predictions = _scored(run, given, settings)
    rows = _chosen_rows(predictions, explainer, settings)
    cache = cache_pixels(given.manifest, given.cache_folder, run.preprocessing)
    pixels = np.ascontiguousarray(cache.pixels[cache.rows_of(list(rows["image"]))])
    found = explainer.maps(pixels, settings.methods)
    record = {
        **record_of_maps(predictions.record, explainer, settings),
        "largest_probability_difference": compared(found.probability, rows["probability"].to_numpy()),
    }
    rows = rows.assign(label=rows["y_true"], decision=rows["y_pred"])
    return write_pictures(Material(rows, pixels, found, record), given.out, COLUMNS)


@dataclass(frozen=True)
class _Given:
    """The data to be explained, and the folders to write and to cache into."""

    manifest: Manifest
    splits: Splits | None
    out: Path
    cache_folder: Path


def _scored(run: Run, given: _Given, settings: ExplainSettings) -> Predictions:
    """What `predict` says of the images: by its engine and under its rules."""
    asked = PredictSettings(abstain=settings.abstain, device=settings.device)
    if given.splits is None:
        return predict(run, given.manifest, None, given.out, given.cache_folder, asked)
    return predict_once(run, given.manifest, given.splits, given.out, given.cache_folder, asked)


def _chosen_rows(predictions: Predictions, explainer: Explainer, settings: ExplainSettings) -> pd.DataFrame:
    """Rows of predictions to be explained, with `margin`, `chosen_as`, `probability` of the classes, and `refusal`."""
    decision = explainer.decision
    rows = chosen(with_margin(predictions.table, decision.classes, threshold_of(decision)), settings)
    probability = rows[[f"score_{name}" for name in explainer.classes]].sum(axis=1).clip(0, 1)
    unlike = pd.Series(UNLIKE_TRAINING, index=rows.index, dtype="string").where(rows["outlier_score"] > _LARGEST_OUTLIER_SCORE)
    # Without a share of wrong answers to be kept to, only what is unlike the training images is not to be answered.
    return rows.assign(probability=probability, refusal=rows.get("refusal", unlike))


def threshold_of(decision: Decision) -> float | None:
    """Where the positive class begins; None where the highest score decides."""
    return decision.threshold.value if decision.threshold else None


def compared(eager: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Largest difference between the network of the maps, in float32, and the scores that `predict` gives; told if large."""
    largest = float(np.abs(eager - predicted).max())
    if largest > _LARGEST_DIFFERENCE:
        logger.warning(
            "The maps are of the network in float32, whose probabilities differ by up to %.3f from those predicted.", largest
        )
    return largest


def record_of_maps(predicted: Record, explainer: Explainer, settings: ExplainSettings) -> Record:
    """What maps.json says of the model and of how it was asked; of images without a manifest the data's hashes are null."""
    shared = ("classes", "positive", "architecture", "display_name", "synthetic", "split_label", "optimistic", "trained_on",
              "run_hash", "decision_hash", "manifest_hash", "splits_hash", "decisions")  # fmt: skip
    return {
        **{name: predicted.get(name) for name in shared},
        "explained_classes": list(explainer.classes),
        "layer": explainer.explained.layer_name,
        "precision": "fp32",
        "library": f"{LIBRARY} {importlib.metadata.version(LIBRARY)}",
        "settings": settings.model_dump(mode="json"),
        "grid": asdict(explainer.black.grid),
    }
