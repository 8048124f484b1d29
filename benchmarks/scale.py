"""How time and memory grow with the number of cells: 1,000, 4,000 and 16,000, each stage in a process of its own.

In: nothing but the numbers. Out: a table on standard output. Writes: results/scale.json beside this file (sizes that are not
measured anew are kept) and docs/images/scale.png; cells, caches and results lie in a temporary folder (10 GB for 16,000).

The cells are variants of 240 phantom cells: each is one of them, flipped or turned, with noise of up to 3 grey levels, as a
450 x 450 BMP of its own. No two are equal, and each costs what a cell of C-NMC costs to read, hash, resize and compute.
Weights are random: they cost the same. Peak memory is the largest resident memory of the stage's process, libraries and
mapped files included. Beside the seconds on the clock stand those that all processors spent on the stage, which other work on
the machine hardly changes. Linux counts the peak of a new process from that of the one that started it:
`memory_at_start_gib` is the least that can be seen.

    python benchmarks/scale.py                  # 12 minutes
    python benchmarks/scale.py --sizes 1000     # 1 minute
    python benchmarks/scale.py --draw-only      # the figure, from the results that are there
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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from leukolens.artifacts import Record, read_json, write_json
from leukolens.data.phantom import MARKER_FILE, NOTICE, encode_bmp
from leukolens.data.phantom_cells import draw_cell, draw_traits
from leukolens.data.threads import in_order
from leukolens.provenance import hardware, peak_memory_gib, versions

Pixels = NDArray[np.uint8]

RESULTS = Path(__file__).parent / "results" / "scale.json"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "scale.png"
SIZES = (1_000, 4_000, 16_000)
NETWORKS = ("alexnet", "efficientnet_b0")
HEAD_OF = "alexnet"
INPUT_PX = 224

_LABELS = ("all", "hem")
_DRAWN_SUBJECTS, _DRAWN_CELLS = 6, 20  # per class, and of each of these
_VIEWS = 8
_NOISE_LEVELS = 3
_DARKEST_CELL = 13  # noise must not turn a cell into background
_SUBJECTS = 20  # at every size: more cells, not more folds
_COLOURS = ("#0b5394", "#38761d", "#b45f06", "#7f3f98", "#990000", "#444444")
_MARKERS = ("o", "s", "^", "v", "D", "P")


def write_cells(root: Path, cells: int) -> Path:
    """Write so many cells in the folder layout of C-NMC's training data."""
    drawn = {label: _drawn(label, seed) for seed, label in enumerate(_LABELS)}
    root.mkdir(parents=True)
    write_json(root / MARKER_FILE, {"notice": NOTICE})

    def write(number: int) -> None:
        subject = number % _SUBJECTS
        label = _LABELS[subject % len(_LABELS)]
        folder = root / "training_data" / f"fold_{subject % 3}" / label
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{'H' if label == 'hem' else ''}{subject // len(_LABELS) + 1}"
        path = folder / f"UID_{name}_{number // _SUBJECTS + 1}_1_{label}.bmp"
        path.write_bytes(encode_bmp(_variant(drawn[label], number)))

    for _ in in_order(write, range(cells)):
        pass
    return root


def _drawn(label: str, seed: int) -> list[Pixels]:
    random = np.random.default_rng([0, seed])
    traits = [
        draw_traits(label, (float(random.normal()), float(random.normal())), random) for _ in range(_DRAWN_SUBJECTS)
    ]
    return [draw_cell(each, random) for each in traits for _ in range(_DRAWN_CELLS)]


def _variant(drawn: list[Pixels], number: int) -> Pixels:
    """The cell of this number: one of those drawn in one of its views, with noise that is its own."""
    random = np.random.default_rng([1, number])
    view, cell = int(random.integers(_VIEWS)), drawn[int(random.integers(len(drawn)))]
    turned = np.rot90(cell[:, ::-1] if view >= _VIEWS // 2 else cell, view % 4)
    inside = turned.any(axis=2)
    levels = turned[inside].astype(np.int16)
    levels += random.integers(-_NOISE_LEVELS, _NOISE_LEVELS + 1, levels.shape, dtype=np.int16)
    noisy = turned.copy()
    noisy[inside] = np.clip(levels, _DARKEST_CELL, 255)
    return noisy


def stages() -> dict[str, Callable[[Path], None]]:
    """What is measured, in the order in which each needs the one before."""
    return {
        "index": _index,
        "cache": _cache,
        **{f"features {name}": partial(_features, architecture=name) for name in NETWORKS},
        f"crossval {HEAD_OF}": _crossval,
        f"baseline {HEAD_OF}": _baseline,
    }


# Each stage imports what it needs and no more, so that its memory is its own.


def _index(folder: Path) -> None:
    from leukolens.data.manifest import index

    index(folder / "cells", folder / "results")


def _cache(folder: Path) -> None:
    from leukolens.artifacts import Manifest
    from leukolens.data.pixel_cache import cache_pixels
    from leukolens.data.preprocessing import Preprocessing

    manifest = Manifest.load(folder / "results")
    cache_pixels(manifest, folder / "cache", Preprocessing(manifest.canvas_px, INPUT_PX))


def _features(folder: Path, architecture: str) -> None:
    from leukolens.artifacts import Manifest
    from leukolens.crossvalidation import frozen_feature_table

    frozen_feature_table(Manifest.load(folder / "results"), architecture, _train_settings(), folder / "cache")


def _crossval(folder: Path) -> None:
    from leukolens.crossvalidation import cross_validate
    from leukolens.settings import CrossvalSettings

    settings = CrossvalSettings(architectures=(HEAD_OF,), repeats=1, train=_train_settings())
    cross_validate(folder / "results", folder / "results" / "crossval", settings, folder / "cache")


def _baseline(folder: Path) -> None:
    from leukolens.artifacts import Manifest
    from leukolens.crossvalidation import frozen_feature_table
    from leukolens.data.splits import split
    from leukolens.evaluation.baselines import Protocol, feature_baseline
    from leukolens.settings import DecisionSettings, SplitSettings

    manifest = Manifest.load(folder / "results")
    splits = split(manifest, None, SplitSettings(folds=5))
    features = frozen_feature_table(manifest, HEAD_OF, _train_settings(), folder / "cache")
    feature_baseline(features, HEAD_OF, HEAD_OF, Protocol(manifest, (splits,), "subject", DecisionSettings()))


def _train_settings() -> Any:  # noqa: ANN401 - TrainSettings, which only the stages that train import
    from leukolens.settings import TrainSettings

    return TrainSettings(weights="none", finetune_epochs=0, device="cpu", input_px=INPUT_PX)


def measure(cells: int) -> Record:
    """Seconds and peak memory of every stage for so many cells."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_cells(folder / "cells", cells)
        return {name: _in_a_process(name, folder) for name in stages()}


def _in_a_process(stage: str, folder: Path) -> Record:
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    found: Record = json.loads(done.stdout.splitlines()[-1])
    return found


def _run_stage(stage: str, folder: Path) -> None:
    before = peak_memory_gib()
    began, used = time.perf_counter(), time.process_time()
    stages()[stage](folder)
    record = {
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - used,
        "peak_memory_gib": peak_memory_gib(),
        "memory_at_start_gib": before,
    }
    sys.stdout.write(json.dumps(record) + "\n")


def draw(results: Record, path: Path) -> None:
    """Draw seconds (both axes logarithmic) and peak memory of every stage over the number of cells."""
    sizes = sorted(map(int, results["sizes"]))
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    times, memories = figure.subplots(1, 2)
    for colour, marker, stage in zip(_COLOURS, _MARKERS, results["sizes"][str(sizes[0])], strict=True):
        rows = [results["sizes"][str(size)][stage] for size in sizes]
        # Hollow, because index and cache lie on each other.
        look = {"color": colour, "marker": marker, "markerfacecolor": "none", "markersize": 8}
        times.plot(sizes, [row["seconds"] for row in rows], label=stage, **look)
        memories.plot(sizes, [row["peak_memory_gib"] for row in rows], **look)
    slope = np.array([sizes[0], sizes[-1]])
    times.plot(slope, slope / sizes[0] * 0.25, color="#999999", linestyle="--", label="proportional to cells")
    times.set(xscale="log", yscale="log", xlabel="cells", ylabel="seconds", title="Time")
    times.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    memories.set(xscale="log", ylim=(0, None), xlabel="cells", ylabel="GiB", title="Peak memory of the process")
    for axes in (times, memories):
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _lines(results: Record) -> list[str]:
    lines = [f"{'stage':<26}{'cells':>8}{'seconds':>10}{'processor s':>13}{'ms/cell':>9}{'GiB':>7}"]
    for size, found in results["sizes"].items():
        lines += [
            f"{stage:<26}{int(size):>8,}{row['seconds']:>10.1f}{row['processor_seconds']:>13.1f}"
            f"{row['seconds'] / int(size) * 1e3:>9.2f}{row['peak_memory_gib']:>7.2f}"
            for stage, row in found.items()
        ]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, draw; with --stage, be the process of one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--draw-only", action="store_true")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        _run_stage(options.stage, options.folder)
        return
    results = read_json(options.out) if options.out.is_file() else {"sizes": {}}
    for size in () if options.draw_only else options.sizes:
        results["sizes"][str(size)] = measure(size)
        results["sizes"] = dict(sorted(results["sizes"].items(), key=lambda item: int(item[0])))
        write_json(options.out, {**results, "hardware": hardware(), "versions": versions()})
    sys.stdout.write("\n".join(_lines(results)) + "\n")
    draw(results, options.figure)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
