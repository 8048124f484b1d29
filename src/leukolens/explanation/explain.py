"""`leukolens explain`: where is a run's score sensitive, on which cells, and does that lie on the cell?

In: Run, Manifest and (to know the sides) Splits. Out: Explanation, one row per image and method. Writes: `overlays/*.png`,
`contact_sheet.png`, `maps.json`, `predictions.parquet` (the scores behind the choice of images) and, last, `maps.csv`.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens import extras
from leukolens.artifacts import (
    CONTACT_SHEET_FILE,
    MAPS_FILE,
    MAPS_RECORD_FILE,
    Manifest,
    Predictions,
    Record,
    Splits,
    write_json,
    write_text,
)
from leukolens.data.pixel_cache import cache_pixels
from leukolens.data.preprocessing import Pixels, foreground
from leukolens.decision.rule import UNLIKE_TRAINING, Decision
from leukolens.errors import SettingsError
from leukolens.explanation.contact_sheet import Tile, write_contact_sheet
from leukolens.explanation.localisation import Localisation, localise
from leukolens.explanation.overlays import OVERLAYS_FOLDER, overlaid, overlay_name, remove_overlays, write_overlay
from leukolens.explanation.selection import chosen, with_margin
from leukolens.explanation.wording import above, asked_of, caption, is_wrong, of_cell, of_map, sheet_notes, sheet_title
from leukolens.explanation.wording import summary_lines as summary_lines
from leukolens.models.architectures import find_architecture
from leukolens.models.compute import tune_allocator
from leukolens.prediction.predict import check_classes, predict, predict_once
from leukolens.prediction.scores_file import safe_text
from leukolens.progress import logger
from leukolens.settings import CamMethod, ExplainSettings, PredictSettings
from leukolens.training.runs import Run
from leukolens.training.train import CACHE_FOLDER

if TYPE_CHECKING:
    from leukolens.explanation.cams import ClassMaps, Explained

COLUMNS = ("image", "subject", "side", "chosen_as", "label", "decision", "refusal", "outlier_score", "margin", "class",
           "probability", "method", "cell_share", "inside_share", "peak_inside", "overlay")  # fmt: skip

_LIBRARY = "grad-cam"
# Measured on 24 real cells each: scores in bfloat16 differ by 0.01 (AlexNet) to 0.09 (DenseNet-121) at most.
_LARGEST_DIFFERENCE = 0.05
_LARGEST_OUTLIER_SCORE = 1.0


@dataclass(frozen=True)
class Explanation:
    """What `explain` made: `table` with COLUMNS as in maps.csv, `record` as in maps.json, and the `folder` of both."""

    table: pd.DataFrame
    record: Record
    folder: Path


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
        run: a finished Run or its folder.
        manifest: the data set, as `predict` takes it and under its rules.
        splits: the run's own; None explains any image of the data set, and says in `side` whether the run has seen it.
        out: folder to write into; what an earlier call left there is replaced.
        cache_dir: where pixels are cached; None means `cache` beside the run's folder.
        settings: which images, methods, class and layer.

    Raises:
        SettingsError: pytorch-grad-cam is not installed; no such class, layer or image; no positive class and none given.
        RunError, LeakError: as `predict`.
    """
    extras.require_package(
        "pytorch_grad_cam", "Maps need pytorch-grad-cam.", remedy="pip install 'leukolens[explain]'", package=_LIBRARY
    )
    tune_allocator()
    run, settings = run if isinstance(run, Run) else Run.load(run), settings or ExplainSettings()
    given = _Given(
        Manifest.of(manifest),
        None if splits is None else Splits.of(splits),
        Path(out),
        cache_dir or run.folder.parent / CACHE_FOLDER,
    )
    check_classes(run, given.manifest)
    names = _asked_classes(run.decision(), settings.target_class)
    explained = _explained(run, settings)
    predictions = _scored(run, given, settings)
    rows = _chosen_rows(predictions, run.decision(), names, settings)
    cache = cache_pixels(given.manifest, given.cache_folder, run.preprocessing)
    pixels = np.ascontiguousarray(cache.pixels[cache.rows_of(list(rows["image"]))])
    found = _maps(explained, run.decision(), names, pixels, settings)
    record = {
        **_record(predictions.record, explained, names, settings),
        "grid": asdict(found.grid),
        "largest_probability_difference": _compared(found.probability, rows["probability"].to_numpy()),
    }
    return _write(_Material(rows, pixels, found, record), given.out)


@dataclass(frozen=True)
class _Given:
    """The data to be explained, and the folders to write and to cache into."""

    manifest: Manifest
    splits: Splits | None
    out: Path
    cache_folder: Path


@dataclass(frozen=True)
class _Material:
    """Chosen rows of predictions with their pixels and maps, in one order, and what all of them share."""

    rows: pd.DataFrame
    pixels: Pixels
    found: ClassMaps
    record: Record


def _asked_classes(decision: Decision, wanted: str | None) -> tuple[str, ...]:
    """The class that was asked for, else the positive ones together."""
    if wanted is None and decision.positive:
        return decision.positive
    if wanted in decision.classes:
        return (wanted,)
    raise SettingsError(
        "It is not known which class the maps are to be of.",
        expected=f"one of {', '.join(decision.classes)}",
        received=wanted or "none, and the run has no positive class",
        remedy="give --class",
    )


def _explained(run: Run, settings: ExplainSettings) -> Explained:
    """The run's network, eager and in float32, on its device; its layer is looked up before anything is computed."""
    from leukolens.explanation.cams import Explained

    architecture = find_architecture(run.record["weights"]["architecture"])
    explained = Explained(run.classifier(), architecture, settings.layer, run.compute(settings.device).device)
    logger.debug("maps of %s, %s", explained.layer_name, type(explained.module).__name__)
    return explained


def _scored(run: Run, given: _Given, settings: ExplainSettings) -> Predictions:
    """What `predict` says of the images: by its engine and under its rules."""
    asked = PredictSettings(abstain=settings.abstain, device=settings.device)
    if given.splits is None:
        return predict(run, given.manifest, None, given.out, given.cache_folder, asked)
    return predict_once(run, given.manifest, given.splits, given.out, given.cache_folder, asked)


def _chosen_rows(
    predictions: Predictions, decision: Decision, names: tuple[str, ...], settings: ExplainSettings
) -> pd.DataFrame:
    """Rows of predictions to be explained, with `margin`, `chosen_as`, `probability` of the classes, and `refusal`."""
    threshold = decision.threshold.value if decision.threshold else None
    rows = chosen(with_margin(predictions.table, decision.classes, threshold), settings)
    probability = rows[[f"score_{name}" for name in names]].sum(axis=1).clip(0, 1)
    unlike = pd.Series(UNLIKE_TRAINING, index=rows.index, dtype="string").where(rows["outlier_score"] > _LARGEST_OUTLIER_SCORE)
    # Without a share of wrong answers to be kept to, only what is unlike the training images is not to be answered.
    return rows.assign(probability=probability, refusal=rows.get("refusal", unlike))


def _maps(
    explained: Explained, decision: Decision, names: tuple[str, ...], pixels: Pixels, settings: ExplainSettings
) -> ClassMaps:
    from leukolens.explanation.cams import LogOdds, class_maps

    positions = tuple(decision.classes.index(name) for name in names)
    return class_maps(explained, LogOdds(positions, decision.temperature), pixels, settings.methods)


def _compared(eager: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Largest difference between the network of the maps, in float32, and the scores that `predict` gives."""
    largest = float(np.abs(eager - predicted).max())
    if largest > _LARGEST_DIFFERENCE:
        logger.warning(
            "The maps are of the network in float32, whose probabilities differ by up to %.3f from those predicted.", largest
        )
    return largest


def _record(predicted: Record, explained: Explained, names: tuple[str, ...], settings: ExplainSettings) -> Record:
    shared = ("classes", "positive", "architecture", "display_name", "synthetic", "split_label", "optimistic", "trained_on",
              "run_hash", "decision_hash", "manifest_hash", "splits_hash", "decisions")  # fmt: skip
    return {
        **{name: predicted[name] for name in shared},
        "explained_classes": list(names),
        "layer": explained.layer_name,
        "precision": "fp32",
        "library": f"{_LIBRARY} {importlib.metadata.version(_LIBRARY)}",
        "settings": settings.model_dump(mode="json"),
    }


def _write(material: _Material, out: Path) -> Explanation:
    """Pictures first, the table that names them last; then what an earlier call left is removed."""
    entries: list[dict[str, Any]] = []
    tiles = [_draw(material, number, out / OVERLAYS_FOLDER, entries) for number in range(len(material.rows))]
    table = pd.DataFrame(entries, columns=list(COLUMNS))
    write_contact_sheet(
        out / CONTACT_SHEET_FILE, sheet_title(material.record, len(tiles)), sheet_notes(material.record), tiles
    )
    write_json(out / MAPS_RECORD_FILE, material.record)
    write_text(out / MAPS_FILE, csv_of(table))
    remove_overlays(out / OVERLAYS_FOLDER, [Path(name).name for name in table["overlay"]])
    return Explanation(table, material.record, out)


def csv_of(table: pd.DataFrame) -> str:
    """Text of maps.csv; names from strangers are written so that no spreadsheet computes them and no line breaks."""
    return table.map(lambda value: safe_text(value) if isinstance(value, str) else value).to_csv(index=False)


def _draw(material: _Material, number: int, folder: Path, entries: list[dict[str, Any]]) -> Tile:
    """Write the overlays of one image, add their rows to `entries` and give its place on the sheet."""
    row, pixels = material.rows.iloc[number], material.pixels[number]
    mask = foreground(pixels)
    panels = [(pixels, of_cell(row, mask))]
    for method, maps in material.found.maps.items():
        values, name = maps[number], overlay_name(row["image"], method)
        overlay, place = overlaid(pixels, values, mask), localise(values, mask)
        write_overlay(folder / name, (pixels, overlay), caption(material.record, row, method), row["image"])
        panels.append((overlay, of_map(material.record, method, place)))
        entries.append(_entry(material.record, row, method, place) | {"overlay": f"{OVERLAYS_FOLDER}/{name}"})
    return Tile(above(material.record, row), tuple(panels), is_wrong(row))


def _entry(record: Record, row: pd.Series[Any], method: CamMethod, place: Localisation) -> dict[str, Any]:
    kept = ("image", "subject", "side", "chosen_as", "refusal", "outlier_score", "margin", "probability")
    return {
        **{name: row[name] for name in kept},
        "label": row["y_true"],
        "decision": row["y_pred"],
        "class": asked_of(record),
        "method": method,
        **asdict(place),
    }
