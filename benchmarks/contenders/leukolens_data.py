"""leukolens' data path: image files into the pixel cache, random batches out of it.

In: a job. Out: one JSON line. Writes: a pixel cache in a temporary folder, as the verbs do.

    python -m contenders.leukolens_data data_cold --contender leukolens --work FOLDER
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from contenders.measuring import MANIFEST_FILE, Clock, Job, Measured, run, timed
from leukolens.artifacts import Manifest
from leukolens.data.pixel_cache import cache_pixels
from leukolens.data.preprocessing import Preprocessing


def data_cold(job: Job) -> Measured:
    """Fill the pixel cache from image files: decode, check the hash, canvas, resize, write."""
    manifest = Manifest.load(job.work / MANIFEST_FILE)
    preprocessing = Preprocessing(manifest.canvas_px, job.input_px)
    clock = Clock(len(manifest.images), job.seconds)

    def work() -> None:
        while True:
            with tempfile.TemporaryDirectory(dir=job.work) as folder:
                cache_pixels(manifest, Path(folder), preprocessing)
                clock.tick()

    return timed(clock, work, "cache_pixels: decoded, hashed and checked, resized, written")


def data_cached(job: Job) -> Measured:
    """Random batches of cached pixels, as fine-tuning reads them."""
    from leukolens.training.batches import PixelBatches  # brings PyTorch, which the other task's memory is free of

    pixels = job.pixels()
    batches = PixelBatches(pixels, np.arange(len(pixels)), np.zeros(len(pixels), dtype=np.int64))
    draw, clock = np.random.default_rng(0), Clock(job.batch, job.seconds)

    def work() -> None:
        while True:
            batches[draw.integers(0, len(pixels), job.batch).tolist()]
            clock.tick()

    return timed(clock, work, "PixelBatches of a memory-mapped uint8 array")


if __name__ == "__main__":
    run({"data_cold": data_cold, "data_cached": data_cached}, ["leukolens", "numpy", "pillow"])
