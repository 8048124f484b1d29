"""One network, every engine: how fast each asks it, and how far its answers are from PyTorch in float32.

In: finished runs, the manifest of their data with its splits. Out: a table on standard output. Writes: a bundle of each run
below the working folder, and `engines.json` there (another file with --out).

    python benchmarks/engines.py results/subject/resnet50 results/subject/alexnet --manifest results \
        --splits results/subject --work bundles

The labelled cells of the manifest's training part are asked, in batches of 32, by one engine after the other, in rounds, so
that whatever else the machine does meets all of them; the median of the rounds counts. Decoding is not in it. The first pass
of an engine is thrown away. AUROC is over training, validation and test cells alike: it compares engines and says nothing of
the model.

Differences are those of all cells; times are of the first 128 (--timed). Beside the changed decisions stands how near to the
threshold they lay: the largest distance from it that float32 gave one of them, and how many cells lie as near. An engine that
changes only decisions of cells at the threshold rounds; one that changes others answers otherwise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leukolens.artifacts import INT8_FILE, ONNX_FILE, OPENVINO_FILE, Manifest, atomic_path, write_json
from leukolens.data.pixel_cache import cache_pixels
from leukolens.decision.rule import Decision
from leukolens.decision.threshold import positive_probability
from leukolens.models.compute import INT8, ONNX, OPENVINO, Compute, tune_allocator
from leukolens.models.exported import OnnxEngine, OpenVinoFileEngine, Outputs, Pixels
from leukolens.models.inference import EagerEngine, Engine
from leukolens.provenance import hardware, versions
from leukolens.serving.bundle import Bundle
from leukolens.serving.export import export
from leukolens.serving.verify import Judged, differences
from leukolens.settings import ExportSettings
from leukolens.training.features import to_levels
from leukolens.training.head import linear_logits

BATCH = 32
PLAIN = "PyTorch, float32"
COLUMNS = ("network", "engine", "images/s", "to PyTorch float32", "largest difference of a probability", "changed decisions",
           "farthest of these from the threshold", "cells as near", "changed refusals", "AUROC")  # fmt: skip

Row = dict[str, Any]


def engines(bundle: Bundle, has_bf16: bool) -> Mapping[str, Engine]:
    """Every way to ask the network of a bundle on this processor; the 8-bit file by both programs that can run it."""
    side_px, folder = bundle.run.preprocessing.input_px, bundle.folder
    both = ("fp32", "bf16") if has_bf16 else ("fp32",)
    words = {"fp32": "float32", "bf16": "bfloat16"}
    # One classifier each: PyTorch rearranges its weights in memory.
    eager = {f"PyTorch, {words[each]}": EagerEngine(bundle.run.classifier(), Compute("cpu", each)) for each in both}
    compiled = {
        f"OpenVINO, {words[each]}": OpenVinoFileEngine(
            folder / OPENVINO_FILE, Compute("cpu", each, OPENVINO), BATCH, side_px
        )
        for each in both
    }
    return {
        **eager,
        **compiled,
        "ONNX Runtime, float32": OnnxEngine(folder / ONNX_FILE, BATCH, side_px),
        "ONNX Runtime, int8": OnnxEngine(folder / INT8_FILE, BATCH, side_px),
        "OpenVINO, int8": OpenVinoFileEngine(folder / INT8_FILE, Compute("cpu", INT8, OPENVINO), BATCH, side_px),
    }


def measure(bundle: Bundle, pixels: Pixels, y_true: np.ndarray, timed: int, rounds: int) -> list[Row]:
    """One row per engine for cells uint8 [n, side, side, 3] of class positions `y_true`; the first `timed` give the times."""
    ways = engines(bundle, has_bf16=bundle.run.compute("cpu").inference_precision == "bf16")
    answers = {name: _answers(bundle, _kept_features(bundle, name, engine, pixels)) for name, engine in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, engine in ways.items():
            began = time.perf_counter()
            _features(engine, pixels[:timed])
            seconds[name].append(time.perf_counter() - began)
    judged = Judged(bundle.run.decision(), bundle.run.outliers(), y_true)
    rates = {name: min(timed, len(pixels)) / statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "network": bundle.record["display_name"],
            "engine": name,
            "images_per_second": rate,
            "ratio": rate / rates[PLAIN],
            "seconds": seconds[name],
            **differences(answers[name], answers[PLAIN], judged),
            **nearness(answers[name], answers[PLAIN], judged.decision),
        }
        for name, rate in rates.items()
    ]


def nearness(found: Outputs, wanted: Outputs, decision: Decision) -> Row:
    """How near to the threshold the changed decisions lay: `changed_margin` (None where none changed), `cells_as_near`."""
    if decision.threshold is None:
        return {"changed_margin": None, "cells_as_near": 0}
    positions = [decision.classes.index(name) for name in decision.positive]
    scores = [positive_probability(each.probabilities.astype(np.float64), positions) for each in (found, wanted)]
    margins = np.abs(scores[1] - decision.threshold.value)
    changed = (scores[0] >= decision.threshold.value) != (scores[1] >= decision.threshold.value)
    if not changed.any():
        return {"changed_margin": None, "cells_as_near": 0}
    farthest = float(margins[changed].max())
    return {"changed_margin": farthest, "cells_as_near": int((margins <= farthest).sum())}


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = (row["network"], row["engine"], f"{row['images_per_second']:.0f}", f"{row['ratio']:.1f}",
                 f"{row['probability']:.1e}", f"{row['changed_decisions']} of {row['cells']}",
                 "" if row["changed_margin"] is None else f"{row['changed_margin']:.3f}", f"{row['cells_as_near'] or ''}",
                 f"{row['changed_outliers']}", f"{row['auroc']:.3f}")  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _features(engine: Engine, pixels: Pixels) -> np.ndarray:
    starts = range(0, len(pixels), BATCH)
    return np.concatenate([engine(to_levels(pixels[start : start + BATCH], "cpu")) for start in starts])


def _kept_features(bundle: Bundle, name: str, engine: Engine, pixels: Pixels) -> np.ndarray:
    """Features of all cells, kept beside the bundle: the same command, interrupted, goes on with the next engine."""
    path = bundle.folder.with_name(f"{bundle.folder.name} {name} {bundle.record['hash'][:8]}.npy")
    if not path.is_file():
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, _features(engine, pixels))
    features: np.ndarray = np.load(path)
    _features(engine, pixels[:BATCH])  # the pass that is thrown away
    return features


def _answers(bundle: Bundle, features: np.ndarray) -> Outputs:
    head = bundle.run.classifier().head
    logits = linear_logits(features, head.weight, head.bias)
    return Outputs(bundle.run.decision().apply(logits).probabilities.astype(np.float32), logits, features)


def _bundle(run: Path, manifest: Path, splits: Path, work: Path) -> Bundle:
    folder = work / run.name
    if folder.is_dir():
        return Bundle.load(folder)
    # The cost of eight bits is what is measured here: it is kept whatever it is.
    return export(run, manifest, splits, folder, ExportSettings(formats=(ONNX, OPENVINO, INT8), accept_loss=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timed", type=int, default=128)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    tune_allocator()
    manifest = Manifest.load(options.manifest)
    labelled = manifest.images[manifest.images["label"].notna() & (manifest.images["part"] == "train")]
    y_true = np.array([manifest.classes.index(label) for label in labelled["label"]])
    rows: list[Row] = []
    for run in options.runs:
        bundle = _bundle(run, options.manifest, options.splits, options.work)
        cache = cache_pixels(manifest, options.work / "cache", bundle.run.preprocessing)
        pixels = np.array(cache.pixels[cache.rows_of(list(labelled["image"]))])
        found = measure(bundle, pixels, y_true, options.timed, options.rounds)
        rows += found
        said = {"rows": rows, "hardware": hardware(), "versions": versions(), "threads": torch.get_num_threads()}
        write_json(options.out or options.work / "engines.json", said)
        sys.stdout.write(table(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
