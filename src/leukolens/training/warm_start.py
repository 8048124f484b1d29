"""Where a training starts: from pretrained weights, or from the backbone of a run on other data.

In: TrainSettings; of a run to start from its directory. Out: PretrainedWeights; an error where the run has seen what is to be
judged on. Writes: nothing; `train` keeps what the earlier run has seen as `seen_before.csv` in the new run directory.

A backbone remembers. Whatever an earlier run was trained or validated on, and the runs that it started from itself, may
be trained on again, but never validated or tested on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from leukolens.artifacts import TRAIN, WEIGHTS_FILE, Manifest, Splits, hash_file
from leukolens.data.leak_door import images_of
from leukolens.errors import LeakError, RunError
from leukolens.models.architectures import find_architecture
from leukolens.models.weights import PretrainedWeights, find_weights
from leukolens.settings import TrainSettings
from leukolens.training.runs import Run, with_group_names

_NAMED = 3


def find_start(settings: TrainSettings) -> PretrainedWeights:
    """Weights that the backbone starts from: those of the run in `start_from`, else what `find_weights` finds.

    Raises:
        WeightsError: no pretrained weights are to be had.
        RunError: the run is of another architecture, pooling or stages, or its backbone was never trained.
    """
    if settings.start_from is None:
        return find_weights(find_architecture(settings.architecture), settings)
    run = Run.load(settings.start_from)
    _check_fits(run, settings)
    before, preprocessing = run.record["weights"], run.preprocessing
    return PretrainedWeights(
        architecture=find_architecture(before["architecture"]).as_wished(settings),
        origin=f"run: {run.folder.name}",
        trained_on=f"{before['trained_on']}, then {_learned(run)}",
        mean=preprocessing.mean,
        std=preprocessing.std,
        source=f"leukolens run {run.record['run_hash']}, which started from: {before['source']}",
        licence=before["licence"],
        sha256=hash_file(run.folder / WEIGHTS_FILE),
        note=before["note"],
        state=run.classifier().backbone.network.state_dict(),
    )


def refuse_seen(start: Path, manifest: Manifest, splits: Splits, folds: Iterable[int]) -> None:
    """The leak door of a start: raise LeakError where the run has seen an image that a fold validates or tests on.

    The same cell is found by its pixels, in the same data also the subject group, unless the splits are by image.
    """
    run = Run.load(start)
    images = images_of(manifest)
    seen = with_group_names(run.seen_images(manifest.content_hash), images)
    known = images["pixel_hash"].isin(seen["pixel_hash"])
    if splits.record["strategy"] != "image":
        known |= images["group"].isin(seen["group"].dropna())
    subject_of = images[known].set_index("image")["subject"]
    for fold in folds:
        sides = splits.of_fold(fold)
        leaked = sorted(sides.index[sides.ne(TRAIN) & sides.index.isin(subject_of.index)])
        if leaked:
            raise _leak(run, fold, [f"{name} (subject {subject_of[name]}) on {sides[name]}" for name in leaked])


def _check_fits(run: Run, settings: TrainSettings) -> None:
    architecture = find_architecture(settings.architecture).name
    wanted = f"a run of {architecture} {_features_of(settings)}"
    found = f"a run of {run.record['architecture']} {_features_of(run.settings)}"
    if found != wanted:
        raise RunError(
            f"{run.folder} cannot be started from.",
            expected=wanted,
            received=found,
            remedy="correct start_from, or train with the architecture, pooling and feature_stages of that run",
        )
    if run.record["best_phase"] == "head":
        raise RunError(
            f"{run.folder} cannot be started from: its backbone was never changed.",
            expected="a run whose fine-tuning was kept",
            received="a run whose head on frozen features was kept",
            remedy="leave start_from out, which starts from the same backbone, or fine-tune that run for longer",
        )


def _features_of(settings: TrainSettings) -> str:
    return f"with pooling {settings.pooling}" + (f" of {settings.stages_named}" if settings.feature_stages else "")


def _learned(run: Run) -> str:
    count = int((run.training_images()["side"] == TRAIN).sum())
    drawn = "synthetic " if run.record["synthetic"] else ""
    return f"{count:,} {drawn}images of {', '.join(run.record['classes'])}"


def _leak(run: Run, fold: int, leaked: list[str]) -> LeakError:
    more = f" and {len(leaked) - _NAMED} more" if len(leaked) > _NAMED else ""
    return LeakError(
        f"{run.folder} has seen {len(leaked)} images that fold {fold} validates or tests on.",
        expected="a run to start from that was trained and validated on other cells of other subjects",
        received=", ".join(leaked[:_NAMED]) + more,
        remedy="start from a run on other data, or from one whose training side holds these splits' training images only",
    )
