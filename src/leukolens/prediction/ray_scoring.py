"""`leukolens predict --ray`: a data set of millions of cells, scored in shards by workers on one machine or on many.

In: Run, Manifest and (to know the sides) Splits. Out: a record of what was done. Writes: shards, parts and `scored.json`
(see `shards.py`).

Ray Data hands the shards out. A worker is a process that loads the run once; if it dies, its shard is given to another
one. What was finished before is never done again, so the same command goes on after any interruption. Run, images and
output must be on a file system that all machines see. Ray is an extra: `pip install 'leukolens[ray]'`.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukolens import extras
from leukolens.artifacts import Manifest, Record, Splits, write_json
from leukolens.errors import RunError, SettingsError
from leukolens.prediction.predict import check_classes, record_of_predictions, rows_to_score
from leukolens.prediction.shard_scoring import ShardScorer
from leukolens.prediction.shards import SCORED_FILE, Shards, list_shards
from leukolens.progress import progress
from leukolens.settings import PredictSettings
from leukolens.training.runs import Run

Batch = dict[str, NDArray[np.int64]]

# Only numbers of shards and of images pass through Ray's store; 75 MiB is the least that it takes.
_STORE_BYTES = 80 << 20
# A shard that kills its worker again and again, say by a fault in a decoder, would be given to another for ever.
_TRIES_OF_A_SHARD = 5
_TRIES_FOLDER = "tries"
_LOCALHOST = "127.0.0.1"


def predict_in_shards(
    run: Run | Path | str,
    manifest: Manifest | Path | str,
    splits: Splits | Path | str | None,
    out: Path | str,
    settings: PredictSettings | None = None,
) -> Record:
    """Score the images that `predict` would score, in shards; go on with what is missing where `out` was begun.

    Args:
        run: a Run or its folder.
        manifest: the data set.
        splits: the run's own splits; None scores every image, on the side as which the run has seen it.
        out: folder for shards and parts.
        settings: those of `predict`, and `shards`: size of a shard, workers, address of a cluster.

    Returns:
        `images`, `scored`, `failures`, `shards` (numbers), `shards_done_before`, and `seconds` of this call.

    Raises:
        SettingsError: Ray is not installed, or the local machine has fewer cores than the workers need.
        RunError: `out` was begun with another run, data or settings; the run has other classes or no decision.
        LeakError: an image of the test side was in the run's training or validation.
    """
    extras.require_package(
        "ray", "Scoring in shards needs Ray.", remedy="pip install 'leukolens[ray]', or leave --ray out"
    )
    began = time.perf_counter()
    run, settings = run if isinstance(run, Run) else Run.load(run), settings or PredictSettings()
    shards = _shards(run, Manifest.of(manifest), None if splits is None else Splits.of(splits), Path(out), settings)
    if missing := shards.unfinished():
        shutil.rmtree(shards.folder / _TRIES_FOLDER, ignore_errors=True)
        with _ray(settings) as workers:
            _score(run, shards, missing, settings, workers)
    scored, failures = shards.count_rows()
    record = {
        "images": shards.record["images"],
        "scored": scored,
        "failures": failures,
        "shards": shards.record["shards"],
        "shards_done_before": shards.record["shards"] - len(missing),
        "seconds": time.perf_counter() - began,
    }
    write_json(shards.folder / SCORED_FILE, record)
    return record


class ShardWorker:
    """What one Ray actor holds: a scorer, and how many threads it may use."""

    def __init__(self, run: str, shards: str, settings: Record) -> None:
        import torch

        wished = PredictSettings.model_validate(settings)
        threads = wished.shards.cores_per_worker
        torch.set_num_threads(threads)
        self.scorer = ShardScorer(Run.load(run), Shards.open(shards), wished, threads)

    def __call__(self, batch: Batch) -> Batch:
        """Score the shards with the numbers in `batch["shard"]`; raises RunError on one that has killed five workers."""
        records = []
        for number in batch["shard"]:
            with _counted_try(self.scorer.shards, int(number)):
                records.append(self.scorer.score(int(number)))
        return {name: np.array([record[name] for record in records]) for name in ("shard", "scored", "failures")}


@contextmanager
def _counted_try(shards: Shards, number: int) -> Iterator[None]:
    """A file grows by a byte at each try and is deleted after it; what is left was left by a process that died."""
    path = shards.folder / _TRIES_FOLDER / f"{number:05d}"
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(b"x")
    if path.stat().st_size > _TRIES_OF_A_SHARD:
        raise RunError(
            f"Shard {number} of {shards.folder} has killed {_TRIES_OF_A_SHARD} workers.",
            expected="a shard that can be scored",
            received="processes that ended without an error of Python's",
            remedy="look for lack of memory in the system's log, or score it alone to find the file that does it",
        )
    yield
    path.unlink()


def _shards(run: Run, manifest: Manifest, splits: Splits | None, out: Path, settings: PredictSettings) -> Shards:
    check_classes(run, manifest)
    record = record_of_predictions(run, manifest, splits, settings)
    names = ("run_hash", "decision_hash", "manifest_hash", "splits_hash", "tta", "abstain")
    wished = {"engine": settings.engine, "images_per_shard": settings.shards.images_per_shard}
    made_of = {**{name: record[name] for name in names}, **wished}
    rows = rows_to_score(run, manifest, splits)
    described = {"made_of": made_of, "predictions": record, "root": str(manifest.root)}
    return list_shards(rows, described, settings.shards.images_per_shard, out)


def _score(run: Run, shards: Shards, numbers: list[int], settings: PredictSettings, workers: int) -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    todo = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
    arguments = (str(run.folder.absolute()), str(shards.folder.absolute()), settings.model_dump(mode="json"))
    done = todo.map_batches(
        ShardWorker,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(numbers))),
        num_cpus=settings.shards.cores_per_worker,
        num_gpus=1 if settings.device == "cuda" else None,
    )
    # Its own lines about plans and operators; the progress is ours. Not before: importing Ray Data sets this anew.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    name = run.record["display_name"]
    with progress(f"{name}: {len(numbers)} shards on {workers} workers", shards.record["images"]) as advance:
        for row in done.iter_rows():
            advance(row["scored"] + row["failures"])


@contextmanager
def _ray(settings: PredictSettings) -> Iterator[int]:
    """Join the cluster at the address, or start one on this machine that nobody else can reach; give its workers."""
    # Before Ray is imported: it reports its use to its maker unless told not to, and warns of a default that it will change.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(**_connection(settings))
    try:
        cores = int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]
        yield settings.shards.workers or max(1, cores // settings.shards.cores_per_worker)
    finally:
        if is_ours:
            ray.shutdown()


def _connection(settings: PredictSettings) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    wished = settings.shards
    if wished.address is not None:
        return {"address": wished.address, **quiet}
    cores = os.cpu_count() or 1
    wanted = (wished.workers or 1) * wished.cores_per_worker
    if wanted > cores:
        raise SettingsError(
            f"{wished.workers or 1} workers of {wished.cores_per_worker} cores need {wanted} cores.",
            expected=f"at most the {cores} of this machine",
            received=str(wanted),
            remedy="ask for fewer --workers or --cores-per-worker, or give the --address of a cluster",
        )
    local = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    return {"_node_ip_address": _LOCALHOST, **local, **quiet}
