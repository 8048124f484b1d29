"""`leukolens compare` and `leukolens crossval`: from image folders, or a manifest, to a compared, reported result.

In: a folder of images and CompareSettings; a manifest and CrossvalSettings. Out: Comparison. Writes, below the results
folder: everything that the verbs they run write, `comparison.json` (what was compared, for the report), `comparison.csv` (the
table), `leak.json` (what the split by image adds), `report.html`, and the cards. The same call on an unfinished folder goes on
where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

import pandas as pd

from leukolens.artifacts import (
    COMPARISON_FILE,
    COMPARISON_RECORD_FILE,
    DECISION_FILE,
    FOREIGN_FILE,
    LEAK_FILE,
    MANIFEST_FILE,
    POOL,
    SPLITS_FILE,
    TTA_SUFFIX,
    Manifest,
    Predictions,
    Record,
    Splits,
    write_json,
    write_text,
)
from leukolens.crossvalidation import cross_validate, folder_name
from leukolens.data.cnmc_2019 import is_complete
from leukolens.data.manifest import index
from leukolens.data.splits import split
from leukolens.errors import RunError
from leukolens.evaluation.baselines import Protocol
from leukolens.evaluation.comparison import comparison_table
from leukolens.evaluation.evaluate import figure_of_merit
from leukolens.evaluation.paired import leak_difference
from leukolens.models.architectures import FIVE_ARCHITECTURES, check_stages
from leukolens.prediction.foreign import foreign_scores
from leukolens.prediction.predict import predict_once
from leukolens.progress import logger
from leukolens.provenance import git_commit, hardware, peak_memory_gib, versions
from leukolens.reporting.data_sheet import write_data_sheet
from leukolens.reporting.html import report
from leukolens.reporting.model_card import write_model_card
from leukolens.settings import CompareSettings, CrossvalSettings, PredictSettings, SplitSettings, TrainSettings
from leukolens.study import Study, complete
from leukolens.training.runs import Run
from leukolens.training.train import CACHE_FOLDER, train
from leukolens.training.warm_start import find_start

CROSSVAL_FOLDER = "crossval"


_AnyCompared = CompareSettings | CrossvalSettings
_Compared = TypeVar("_Compared", CompareSettings, CrossvalSettings)


@dataclass(frozen=True)
class Comparison:
    """`table` (see `evaluation.comparison.comparison_table`), the `report` and the folder of all `results`."""

    table: pd.DataFrame
    report: Path
    results: Path


def compare(directory: Path | str, out: Path | str, settings: CompareSettings | None = None) -> Comparison:
    """Index, split, train every architecture, cross-validate, predict, evaluate and report.

    Args:
        directory: the image folders, in any layout that `index` knows.
        out: the results folder; a finished or interrupted one is gone on with.
        settings: which architectures, which protocol, and the settings of each verb.

    Raises:
        LeukolensError: what the verbs raise; nothing that was finished before is lost.
    """
    began, results = time.perf_counter(), Path(out)
    settings = _with_architectures(settings or CompareSettings())
    _check_architectures(settings.architectures, settings.train)
    manifest = index(directory, results, settings.index)
    strategies = ("subject", "image") if settings.protocol == "both" else (settings.protocol,)
    rows = [
        *_crossval_rows(manifest, results, strategies, settings),
        *(row for strategy in strategies for row in _trained_rows(manifest, results, strategy, settings)),
    ]
    return _finish(manifest, results, rows, settings, began)


def crossval(
    manifest: Manifest | Path | str, out: Path | str, settings: CrossvalSettings | None = None, cache_dir: Path | None = None
) -> Comparison:
    """Cross-validate architectures and set baselines, an ensemble, intervals and paired differences beside them.

    Args:
        manifest: a Manifest or the path of its file.
        out: the results folder of this cross-validation; a finished or interrupted one is gone on with.
        settings: architectures, folds, repeats, strategy; how each is trained.
        cache_dir: where pixels and frozen features are cached; None means `cache` in `out`.

    Raises:
        LeukolensError: what the verbs raise; nothing that was finished before is lost.
    """
    began, results, data = time.perf_counter(), Path(out), Manifest.of(manifest)
    settings = _with_architectures(settings or CrossvalSettings())
    _check_architectures(settings.architectures, settings.train)
    data.save(results / MANIFEST_FILE)
    _, rows = _crossval_study(data, results, settings, cache_dir or results / CACHE_FOLDER)
    return _finish(data, results, rows, settings, began)


def _with_architectures(settings: _Compared) -> _Compared:
    return settings if settings.architectures else settings.model_copy(update={"architectures": FIVE_ARCHITECTURES})


def _check_architectures(architectures: tuple[str, ...], settings: TrainSettings) -> None:
    """Find every name and every file of weights before hours are spent on the first network."""
    for name in architectures:
        check_stages(find_start(settings.model_copy(update={"architecture": name})).architecture, settings)


def _crossval_rows(
    manifest: Manifest, results: Path, strategies: tuple[str, ...], settings: CompareSettings
) -> list[Record]:
    """Cross-validate on frozen features, by subject, by image, or by both, as the trained networks are split."""
    studies: dict[str, Mapping[str, Predictions]] = {}
    rows: list[Record] = []
    for strategy in _crossval_strategies(manifest, strategies, settings):
        made = CrossvalSettings(
            architectures=settings.architectures, strategy=strategy, folds=settings.folds, repeats=settings.repeats,
            tta=settings.tta, seed=settings.split.seed, evaluate=settings.evaluate,
            train=settings.train.model_copy(update={"finetune_epochs": 0}),
        )  # fmt: skip
        studies[strategy], of_study = _crossval_study(manifest, results, made, results / CACHE_FOLDER)
        rows += of_study
    if len(studies) > 1:
        _measure_leak(results, studies, settings)
    return rows


def _crossval_strategies(
    manifest: Manifest, strategies: tuple[str, ...], settings: CompareSettings
) -> list[Literal["subject", "image"]]:
    """Official folds and own splits are by subject, if subjects are known at all."""
    if not settings.folds:
        return []
    pool = manifest.images[(manifest.images["part"] == POOL) & manifest.images["label"].notna()]
    if set(strategies) & {"official", "file"} and pool["group"].isna().any():
        logger.info("no cross-validation: it goes by subject, and subjects are unknown")
        return []
    return ["image" if strategy == "image" else "subject" for strategy in strategies]


def _crossval_study(
    manifest: Manifest, results: Path, settings: CrossvalSettings, cache_dir: Path
) -> tuple[dict[str, Predictions], list[Record]]:
    """Run one cross-validation; give its networks' Predictions, and the rows of all its models."""
    key = f"{CROSSVAL_FOLDER}/{settings.strategy}"
    networks = cross_validate(manifest, results / key, settings, cache_dir)
    splits = tuple(Splits.load(results / key / f"splits-{repeat}.parquet") for repeat in range(settings.repeats))
    label = next(iter(networks.values())).record["split_label"]
    protocol = Protocol(manifest, splits, label, settings.train.decision)
    return networks, complete(Study(key, results, protocol, cache_dir), networks, settings.train, settings.evaluate)


def _measure_leak(results: Path, studies: Mapping[str, Mapping[str, Predictions]], settings: CompareSettings) -> None:
    """Write what the split by image adds to each network, on the same images, trained in the same way."""
    by_subject, by_image = (
        {name: each for name, each in studies[strategy].items() if not each.record["tta"]} for strategy in ("subject", "image")
    )
    figure = figure_of_merit(next(iter(by_subject.values())).record)
    write_json(results / LEAK_FILE, leak_difference(by_subject, by_image, figure, settings.evaluate))


def _trained_rows(manifest: Manifest, results: Path, strategy: str, settings: CompareSettings) -> list[Record]:
    """Train every architecture on one split; give the rows of all that is scored on its test side."""
    splits = _splits(manifest, results, strategy, settings)
    cache_dir = results / CACHE_FOLDER
    networks: dict[str, Predictions] = {}
    runs: dict[str, Run] = {}
    for architecture in settings.architectures:
        name = folder_name(architecture)
        train_settings = settings.train.model_copy(update={"architecture": architecture})
        run = runs[name] = train(manifest, splits, results / strategy / name, train_settings, cache_dir)
        plain = PredictSettings(device=settings.train.device)
        networks[name] = predict_once(run, manifest, splits, run.folder, cache_dir, plain)
        _foreign_once(run, settings.foreign)
        if settings.tta:
            wanted = plain.model_copy(update={"tta": True})
            folder = run.folder.with_name(name + TTA_SUFFIX)
            networks[name + TTA_SUFFIX] = predict_once(run, manifest, splits, folder, cache_dir, wanted)
    protocol = Protocol(manifest, (splits,), splits.record["label"], settings.train.decision)
    rows = complete(Study(strategy, results, protocol, cache_dir), networks, settings.train, settings.evaluate)
    return [_with_run(row, runs.get(row["model"]), manifest) for row in rows]


def _with_run(row: Record, run: Run | None, manifest: Manifest) -> Record:
    """Add what only the run of a trained network knows."""
    if run is None:
        return row
    weights = run.record["weights"]
    return {
        **row,
        "trained_on": weights["trained_on"] + (f" ({weights['note']})" if weights["note"] else ""),
        "phase": run.record["best_phase"],
        "parameters": run.record["parameters"],
        "train_seconds": run.record["train_seconds"],
        "epochs": run.record["best_epoch"],
        "source_document_accuracy": run.record["source_document_accuracy"] if _is_cnmc(manifest) else None,
    }


def _splits(manifest: Manifest, results: Path, strategy: str, settings: CompareSettings) -> Splits:
    wanted = SplitSettings.model_validate({**settings.split.model_dump(), "strategy": strategy})
    splits = split(manifest, None, wanted)
    path = results / strategy / SPLITS_FILE
    if path.is_file() and not splits.sides.equals(Splits.load(path).sides):
        raise RunError(
            f"{path} was made of other data, another seed or other fractions.",
            expected="the split that the runs beside it were trained on",
            received=splits.record["label"] + f", seed {splits.record['seed']}",
            remedy="choose another --out, or delete that folder to train anew",
        )
    splits.save(path)
    for line in splits.record["audit"]:
        logger.info("%s", line)
    return splits


def _foreign_once(run: Run, folders: Mapping[str, Path]) -> None:
    """Try images that are none of the data's kind, unless the same kinds were tried with the same limit before."""
    path = run.folder / FOREIGN_FILE
    if path.is_file() and path.stat().st_mtime >= (run.folder / DECISION_FILE).stat().st_mtime:
        tried = set(pd.read_csv(path)["kind"])
        if tried >= set(folders):
            return
    foreign_scores(run, run.folder, folders)


def _is_cnmc(manifest: Manifest) -> bool:
    """The source document's figures belong beside C-NMC cells; of synthetic ones, beside a set of exactly its make-up only."""
    synthetic = bool(manifest.record["synthetic"])
    return set(manifest.classes) == {"ALL", "HEM"} and (not synthetic or is_complete(manifest.images))


def _finish(manifest: Manifest, results: Path, rows: list[Record], settings: _AnyCompared, began: float) -> Comparison:
    """Write the table, the record and the cards, then the report of all of them."""
    table = comparison_table(rows)
    write_text(results / COMPARISON_FILE, table.to_csv(index=False))
    write_json(results / COMPARISON_RECORD_FILE, _record(manifest, rows, settings, time.perf_counter() - began))
    write_data_sheet(results)
    for row in rows:
        if row["kind"] == "network" and not row["tta"]:
            write_model_card(results / row["run"], results)
    return Comparison(table, report(results), results)


def _record(manifest: Manifest, rows: list[Record], settings: _AnyCompared, seconds: float) -> Record:
    return {
        "title": manifest.root.name,
        "settings": settings.model_dump(mode="json"),
        "rows": [{name: value for name, value in row.items() if name != "metrics"} for row in rows],
        "hardware": hardware(),
        "versions": versions(),
        "git_commit": git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "peak_memory_gib": peak_memory_gib(),
    }
