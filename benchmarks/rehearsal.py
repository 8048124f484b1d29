"""Rehearse the full C-NMC 2019 on as many phantom cells: both settings files from image folders to report, measured.

In: nothing but a folder to work in (a temporary one where none is given). Out: a table of time, memory and disk on standard
output. Writes: in that folder the phantom (15,114 images, 10.4 GB), caches and results, and rehearsal.json, by which the
same command goes on where it stopped; and, once every stage is done, results/rehearsal.json beside this file.

Each stage is a process of its own: peak memory is the largest resident memory of that process, libraries and mapped files
included, and disk is what it has added to the folder. Of a stage that was broken off the seconds are those of all its
attempts, the memory that of the last. On a processor the backbones stay frozen (`--head-only`), and one real
epoch of fine-tuning, of AlexNet, says what the rest would take; `--full` fine-tunes all five, for a machine with a GPU. Both
comparisons share one cache, as those of one user who gives `--out` twice do not: add the features to the second one's time.

    python benchmarks/rehearsal.py WORK --weights-dir WEIGHTS    # 31 minutes on two cores, 13.5 GB of disk
    python benchmarks/rehearsal.py WORK --weights none           # random weights cost the same
    python benchmarks/rehearsal.py WORK --only draw index        # some stages
    python benchmarks/rehearsal.py WORK --full
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from leukolens.artifacts import Record, read_json, write_json
from leukolens.provenance import git_commit, hardware, peak_memory_gib, versions

CONFIGS = Path(__file__).parents[1] / "configs"
RESULTS = Path(__file__).parent / "results" / "rehearsal.json"
OFFICIAL, BY_IMAGE = "c-nmc-2019", "source-document"
NETWORKS = ("alexnet", "efficientnet_b0", "resnet50", "densenet121", "vgg16")
FINE_TUNED = "alexnet"
INPUT_PX = 224
STATE_FILE = "rehearsal.json"


@dataclass(frozen=True)
class Rehearsal:
    """Where it takes place and with which weights; `like` names the published set."""

    folder: Path
    weights: str
    weights_dir: Path | None
    full: bool = False
    like: str = "c-nmc-2019"

    @property
    def cells(self) -> Path:
        """The phantom, as a user would have the download."""
        return self.folder / "cells" / "phantom_C-NMC_Leukemia"

    @property
    def cache(self) -> Path:
        """Pixels and features, for both comparisons."""
        return self.folder / "cache"

    def results(self, name: str) -> Path:
        """The results folder of one settings file, its cache that of all."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        self.cache.mkdir(exist_ok=True)
        if not (folder / "cache").exists():
            (folder / "cache").symlink_to(self.cache.resolve(), target_is_directory=True)
        return folder

    def stages(self) -> dict[str, Callable[[], None]]:
        """What is measured, in the order in which each needs the one before."""
        compared = {f"compare {name}": partial(_compare, self, name) for name in (OFFICIAL, BY_IMAGE)}
        if self.full:
            return {"draw": partial(_draw, self), **compared}
        return {
            "draw": partial(_draw, self),
            "index": partial(_index, self),
            "pixels": partial(_pixels, self),
            **{f"features {name}": partial(_features, self, name) for name in NETWORKS},
            f"epoch {FINE_TUNED}": partial(_epoch, self),
            **compared,
        }


# Each stage imports what it needs and no more, so that its memory is its own.


def _draw(rehearsal: Rehearsal) -> None:
    from leukolens.data.phantom import phantom
    from leukolens.settings import PhantomSettings

    phantom(rehearsal.cells.parent, PhantomSettings.model_validate({"like": rehearsal.like}))


def _index(rehearsal: Rehearsal) -> None:
    from leukolens.data.manifest import index

    index(rehearsal.cells, rehearsal.results(OFFICIAL))


def _pixels(rehearsal: Rehearsal) -> None:
    from leukolens.artifacts import Manifest
    from leukolens.data.pixel_cache import cache_pixels
    from leukolens.data.preprocessing import Preprocessing

    manifest = Manifest.load(rehearsal.results(OFFICIAL))
    cache_pixels(manifest, rehearsal.cache, Preprocessing(manifest.canvas_px, INPUT_PX))


def _features(rehearsal: Rehearsal, architecture: str) -> None:
    """Features of all labelled cells: those of the official split, of which the split by image takes a part."""
    from leukolens.artifacts import Manifest
    from leukolens.crossvalidation import frozen_feature_table
    from leukolens.settings import TrainSettings

    manifest = Manifest.load(rehearsal.results(OFFICIAL))
    labelled = manifest.images.loc[manifest.images["label"].notna(), "image"].tolist()
    settings = TrainSettings.model_validate({"architecture": architecture, "finetune_epochs": 0, **_weights(rehearsal)})
    frozen_feature_table(manifest, architecture, settings, rehearsal.cache, labelled)


def _epoch(rehearsal: Rehearsal) -> None:
    from leukolens.artifacts import Manifest
    from leukolens.data.splits import split
    from leukolens.settings import SplitSettings, TrainSettings
    from leukolens.training.train import train

    manifest = Manifest.load(rehearsal.results(OFFICIAL))
    splits = split(manifest, None, SplitSettings(strategy="official"))
    settings = TrainSettings.model_validate({"architecture": FINE_TUNED, "finetune_epochs": 1, **_weights(rehearsal)})
    train(manifest, splits, rehearsal.folder / "epoch", settings, rehearsal.cache)


def _compare(rehearsal: Rehearsal, name: str) -> None:
    """Give the command that the settings file names, as a user gives it."""
    from leukolens.cli import app

    where = ["--config", str(CONFIGS / f"{name}.yaml"), "--out", str(rehearsal.results(name))]
    how = _words(_weights(rehearsal)) + ([] if rehearsal.full else ["--head-only"])
    app(["compare", str(rehearsal.cells), *where, *how], standalone_mode=False)


def _weights(rehearsal: Rehearsal) -> Record:
    return {"weights": rehearsal.weights, **({"weights_dir": rehearsal.weights_dir} if rehearsal.weights_dir else {})}


def _words(settings: Record) -> list[str]:
    """Settings as flags."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def rehearse(rehearsal: Rehearsal, only: Sequence[str] = ()) -> Record:
    """Run the stages that are wished and not yet done, each in a process; give what all that are done took."""
    path = rehearsal.folder / STATE_FILE
    state: Record = {"stages": {}, "interrupted": {}, **(read_json(path) if path.is_file() else {})}
    for name in rehearsal.stages():
        if name in state["stages"] or (only and name.split()[0] not in only and name not in only):
            continue
        began = time.perf_counter()
        try:
            state["stages"][name] = _measured(rehearsal, name, state)
        finally:
            # A stage that is broken off goes on from its files: what it took before is part of what it takes.
            if name not in state["stages"]:
                state["interrupted"][name] = state["interrupted"].get(name, 0.0) + time.perf_counter() - began
            write_json(path, state)
    return state


def _measured(rehearsal: Rehearsal, stage: str, state: Record) -> Record:
    """Run one stage; give its seconds, those of earlier attempts among them, its peak memory and the disk that it took."""
    found = _in_a_process(rehearsal, stage)
    state |= {"hardware": hardware(), "versions": versions(), "git_commit": git_commit(), "weights": rehearsal.weights}
    before = sum(row["disk_gb"] for row in state["stages"].values())
    return {
        **found,
        "seconds": found["seconds"] + state["interrupted"].get(stage, 0.0),
        "disk_gb": _bytes_below(rehearsal.folder) / 1e9 - before,
    }


def _in_a_process(rehearsal: Rehearsal, stage: str) -> Record:
    where = [str(rehearsal.folder), *_words(_weights(rehearsal)), *(["--full"] if rehearsal.full else [])]
    command = [sys.executable, __file__, *where, "--stage", stage]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    *said, measured = done.stdout.splitlines()
    sys.stdout.write("".join(f"{line}\n" for line in said))
    found: Record = json.loads(measured)
    return found


def _run_stage(rehearsal: Rehearsal, stage: str) -> None:
    began = time.perf_counter()
    rehearsal.stages()[stage]()
    record = {"seconds": time.perf_counter() - began, "peak_memory_gib": peak_memory_gib()}
    sys.stdout.write(json.dumps(record) + "\n")


def _bytes_below(folder: Path) -> int:
    """Bytes of the files below a folder; what a link leads to is counted where it lies."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())


def lines(state: Record) -> list[str]:
    """The table: seconds, peak memory and disk of every stage, and all together."""
    stages = state["stages"]
    found = [f"{'stage':<26}{'seconds':>10}{'peak GiB':>10}{'disk GB':>9}"]
    found += [f"{name:<26}{row['seconds']:>10.1f}{row['peak_memory_gib']:>10.2f}{row['disk_gb']:>9.2f}"
              for name, row in stages.items()]  # fmt: skip
    seconds, disk = (sum(row[key] for row in stages.values()) for key in ("seconds", "disk_gb"))
    peak = max(row["peak_memory_gib"] for row in stages.values())
    return [*found, f"{'all':<26}{seconds:>10.1f}{peak:>10.2f}{disk:>9.2f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Rehearse; with --stage, be the process of one stage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            main([temporary, *given])
        return
    rehearsal = Rehearsal(options.folder, options.weights, options.weights_dir, options.full)
    if options.stage:
        _run_stage(rehearsal, options.stage)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    state = rehearse(rehearsal, options.only)
    sys.stdout.write("\n".join(lines(state)) + "\n")
    if set(state["stages"]) >= set(rehearsal.stages()):
        write_json(options.out, state)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="work in it and go on in it; a temporary one where it is left out")
    parser.add_argument("--only", nargs="+", default=[], help="stages, by name or by first word")
    parser.add_argument("--full", action="store_true", help="fine-tune all five networks")
    parser.add_argument("--weights", default="pretrained", choices=("pretrained", "available", "none"))
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
