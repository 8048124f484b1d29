"""Does the data path keep up? Image files into the pixel cache against plain Pillow, and how long training waits for batches.

In: nothing but a number of phantom cells (450 x 450 BMP). Out: figures on standard output. Writes: results/data_path.json
beside this file (what is not measured anew is kept); cells and cache lie in a temporary folder.

Cold: images per second on as many threads as there are processors, each way in processes of its own, A B C D A B C D in
turn, medians: Pillow (open, convert, crop, resize) and leukolens' pixels (decode, hash check, canvas, resize), both into one
array in memory; leukolens' cache (the same, written and flushed to disk) and index (decode, two hashes, area, colour). Every
cached pixel is compared with Pillow's. Warm: the share of a training step that passes in asking for the next batch.

    python benchmarks/data_path.py                              # 4 minutes
    python benchmarks/data_path.py --rounds 0                   # only how long training waits
    python benchmarks/data_path.py --steps 0                    # only image files into pixels
    python benchmarks/data_path.py --cells 60 --rounds 1 --steps 3 --out FILE  # a smoke test
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from leukolens.artifacts import MANIFEST_FILE, Manifest, Record, read_json, write_json
from leukolens.data.augmentation import augment
from leukolens.data.fingerprints import take_fingerprints
from leukolens.data.indexed import indexed_images, read_indexed
from leukolens.data.manifest import index
from leukolens.data.phantom import phantom
from leukolens.data.pixel_cache import cache_pixels
from leukolens.data.preprocessing import Preprocessing
from leukolens.data.threads import in_order
from leukolens.models.architectures import FIVE_ARCHITECTURES, find_architecture
from leukolens.models.classifier import build_classifier
from leukolens.models.compute import Compute, choose_compute, tune_allocator
from leukolens.models.weights import find_weights
from leukolens.provenance import hardware, versions
from leukolens.settings import PhantomSettings, TrainSettings
from leukolens.training.batches import ShuffledBatches, TrainingImages, training_loader

Pixels = NDArray[np.uint8]

INPUT_PX = 224
RESULTS = Path(__file__).parent / "results" / "data_path.json"
WAYS = ("pillow", "pixels", "cache", "index")
_PASSES = 3
_CELLS_PER_SUBJECT = 10
_MAX_PIXELS = 10**6
# A cache of some gigabytes, as of a whole C-NMC: its batches come from memory that is spread out.
_CACHED_IMAGES = 10_661


def cold(manifest: Manifest, folder: Path, rounds: int) -> Record:
    """Images per second of each way, medians over rounds, and how far cached pixels are from Pillow's."""
    manifest.save(folder / MANIFEST_FILE)
    speeds: dict[str, list[float]] = {name: [] for name in WAYS}
    works: dict[str, list[float]] = {name: [] for name in WAYS}
    for _, name in itertools.product(range(rounds), WAYS):
        command = [sys.executable, __file__, "--way", name, "--folder", str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
        speed, work = map(float, done.stdout.split())
        speeds[name].append(speed)
        works[name].append(work)
    ours = cache_pixels(manifest, folder / "compared", Preprocessing(manifest.canvas_px, INPUT_PX)).pixels
    apart = np.abs(ours.astype(np.int16) - np.stack(list(_by_pillow(manifest))))
    return {
        "images": len(manifest.images),
        "threads": os.cpu_count(),
        "images_per_second": {name: statistics.median(each) for name, each in speeds.items()},
        "all_rounds": speeds,
        "processor_microseconds_per_image": {name: statistics.median(each) for name, each in works.items()},
        "ratio_to_pillow": {
            name: statistics.median(ours / plain for ours, plain in zip(each, speeds["pillow"], strict=True))
            for name, each in speeds.items()
        },
        "largest_difference_from_pillow": int(apart.max()),
        "pixels_that_differ": int((apart > 0).sum()),
    }


def one_way(name: str, folder: Path) -> tuple[float, float]:
    """Medians over some passes over all images, in this process: images per second, processor microseconds per image."""
    manifest = Manifest.load(folder)
    paths = [manifest.root / image for image in manifest.images["image"]]
    place_for_all = np.empty((len(paths), INPUT_PX, INPUT_PX, 3), np.uint8)
    ways: dict[str, Callable[[Path], Any]] = {
        "pillow": lambda _: _lay_down(_by_pillow(manifest), place_for_all),
        "pixels": lambda _: _lay_down(_checked_pixels(manifest), place_for_all),
        "index": lambda _: list(take_fingerprints(paths, _MAX_PIXELS, os.cpu_count() or 1)),
        "cache": lambda place: cache_pixels(manifest, place, Preprocessing(manifest.canvas_px, INPUT_PX)),
    }
    seconds, works = [], []
    for _ in range(_PASSES):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            began, used = time.perf_counter(), time.process_time()
            ways[name](Path(place))
            seconds.append(time.perf_counter() - began)
            works.append(time.process_time() - used)
    return len(paths) / statistics.median(seconds), statistics.median(works) / len(paths) * 1e6


def waiting(pixels: Pixels, architecture: str, steps: int) -> Record:
    """Seconds per training step, and the share of it that passes before the batch is there."""
    settings = TrainSettings(architecture=architecture, weights="none", device="cpu")
    compute = choose_compute(find_architecture(architecture), settings)
    step = _training_step(settings, compute)
    rows = np.arange(len(pixels))
    images = TrainingImages(pixels, rows, rows % 2, rows[:0], rows[:0])
    batches = iter(training_loader(images, ShuffledBatches(len(rows), settings.batch_size, 0), torch.device("cpu")))
    step(*next(batches))  # the first step also makes the optimiser's state
    asked, stepped = [], []
    for _ in range(steps):
        began = time.perf_counter()
        levels, labels = next(batches)
        received = time.perf_counter()
        step(levels, labels)
        asked.append(received - began)
        stepped.append(time.perf_counter() - began)
    return {
        "steps": steps,
        "precision": compute.precision,
        "seconds_per_step": statistics.median(stepped),
        "seconds_waiting": statistics.median(asked),
        "share_waiting": sum(asked) / sum(stepped),
    }


def _lay_down(pictures: Iterable[Pixels], place: Pixels) -> None:
    for row, pixels in enumerate(pictures):
        place[row] = pixels


def _by_pillow(manifest: Manifest) -> Iterable[Pixels]:
    """What a plain script would do, on as many threads as there are processors."""
    height_px, width_px = manifest.record["canvas_px"]

    def read(image: str) -> Pixels:
        with Image.open(manifest.root / image) as opened:
            cropped = opened.convert("RGB").crop((0, 0, width_px, height_px))
            return np.asarray(cropped.resize((INPUT_PX, INPUT_PX), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(read, manifest.images["image"])


def _checked_pixels(manifest: Manifest) -> Iterable[Pixels]:
    """What filling the cache computes, without the file."""
    preprocessing = Preprocessing(manifest.canvas_px, INPUT_PX)
    return in_order(lambda row: preprocessing.apply(read_indexed(manifest.root, row)), indexed_images(manifest.images))


def _training_step(settings: TrainSettings, compute: Compute) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """One step as fine-tuning takes it: augment, forward, backward, AdamW."""
    weights = find_weights(find_architecture(settings.architecture), settings)
    classifier = build_classifier(weights, Preprocessing((450, 450), INPUT_PX), 2, settings.dropout, settings.seed)
    classifier.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(classifier.parameters(), fused=True)
    generator = torch.Generator().manual_seed(0)

    def step(levels: torch.Tensor, labels: torch.Tensor) -> None:
        augmented = augment(levels, settings.augmentation, generator)
        with torch.autocast(compute.device, torch.bfloat16, enabled=compute.precision == "bf16"):
            logits = classifier(augmented)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    return step


def _enlarged(pixels: Pixels, path: Path) -> Pixels:
    """Write the cells over and over until they are as many as C-NMC's, and map the file."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (_CACHED_IMAGES, *pixels.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for row in range(_CACHED_IMAGES):
            file.write(pixels[row % len(pixels)].data)
    mapped: Pixels = np.load(path, mmap_mode="r")
    return mapped


def measure(options: argparse.Namespace) -> Record:
    """Draw cells in a temporary folder and measure both halves of the path, or the one of which there are any rounds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subjects = max(12, options.cells // _CELLS_PER_SUBJECT)
        manifest = index(phantom(folder, PhantomSettings(cells=options.cells, subjects=subjects)))
        square = manifest.images[manifest.images["width_px"] == manifest.record["canvas_px"][1]]
        manifest = Manifest(square.reset_index(drop=True), manifest.record)
        found = {"cold": cold(manifest, folder, options.rounds)} if options.rounds else {}
        if not options.steps:
            return found
        cached = cache_pixels(manifest, folder / "cache", Preprocessing(manifest.canvas_px, INPUT_PX)).pixels
        large = _enlarged(cached, folder / "large.npy")
        tune_allocator()  # as every verb that trains does first
        return {**found, "training": {name: waiting(large, name, options.steps) for name in options.architectures}}


def _merged(then: Record, now: Record) -> Record:
    """What was measured now over what was measured before."""
    training = {**then.get("training", {}), **now.get("training", {})}
    return {**then, **now, "training": training, "hardware": hardware(), "versions": versions()}


def _lines(found: Record) -> list[str]:
    lines = [
        f"{name}: step {each['seconds_per_step'] * 1e3:.0f} ms ({each['precision']}), waiting "
        f"{each['seconds_waiting'] * 1e3:.1f} ms, {each['share_waiting']:.2%}"
        for name, each in found["training"].items()
    ]
    if (cold_ones := found.get("cold")) is None:
        return lines
    speeds, ratios = cold_ones["images_per_second"], cold_ones["ratio_to_pillow"]
    return [
        f"{cold_ones['images']} images, {cold_ones['threads']} threads, images/s: "
        + ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items()),
        "over Pillow: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()),
        "processor microseconds per image: "
        + ", ".join(f"{name} {work:.0f}" for name, work in cold_ones["processor_microseconds_per_image"].items()),
        f"largest difference of a pixel from Pillow: {cold_ones['largest_difference_from_pillow']}",
        *lines,
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--architectures", nargs="+", default=list(FIVE_ARCHITECTURES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.way:
        sys.stdout.write("{} {}\n".format(*one_way(options.way, options.folder)))
        return
    found = _merged(read_json(options.out) if options.out.is_file() else {}, measure(options))
    write_json(options.out, found)
    sys.stdout.write("\n".join(_lines(found)) + f"\nwritten: {options.out}\n")


if __name__ == "__main__":
    main()
