"""Image files to 224-pixel squares on two threads, with Pillow and with OpenCV: what a plain script would do.

In: a job with the contender `pillow` or `opencv`. Out: one JSON line. Writes: nothing; the pixels fill an array in memory.
Pillow resizes with its antialiased bilinear filter, OpenCV by area: their pixels differ by up to 25 grey levels.

    python -m contenders.decoders data_cold --contender pillow --work FOLDER
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from contenders.measuring import Clock, Job, Measured, run, timed

_THREADS = 2
Pixels = NDArray[np.uint8]


def data_cold(job: Job) -> Measured:
    """Decode and resize every file, over and over."""
    read = {"pillow": _pillow, "opencv": _opencv}[job.contender](job.input_px)
    files, clock = job.cells(), None
    filled = np.empty((len(files), job.input_px, job.input_px, 3), dtype=np.uint8)
    clock = Clock(len(files), job.seconds)

    def work() -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            while True:
                for row, pixels in enumerate(pool.map(read, files)):
                    filled[row] = pixels
                clock.tick()

    return timed(clock, work, f"{job.contender}, {_THREADS} threads")


def _pillow(side_px: int) -> Callable[[str], Pixels]:
    from PIL import Image

    def read(path: str) -> Pixels:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((side_px, side_px), Image.Resampling.BILINEAR))

    return read


def _opencv(side_px: int) -> Callable[[str], Pixels]:
    import cv2

    cv2.setNumThreads(1)

    def read(path: str) -> Pixels:
        resized = cv2.resize(cv2.imread(path, cv2.IMREAD_COLOR), (side_px, side_px), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    return read


if __name__ == "__main__":
    import sys

    libraries = {"pillow": ["pillow"], "opencv": ["opencv-python-headless"]}
    run({"data_cold": data_cold}, libraries[sys.argv[sys.argv.index("--contender") + 1]])
