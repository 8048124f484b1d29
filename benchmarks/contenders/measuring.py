"""What all contenders share: the job they are given, the clock they run by, the one line that they print.

In: command-line arguments. Out: one JSON line on standard output. Writes: nothing. Imports neither a deep-learning library
nor leukolens, because each contender runs in the environment that has its own library and no other.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIXELS_FILE = "pixels.npy"
"""uint8 [images, side, side, 3] in the work folder."""
CELLS_FILE = "cells.txt"
"""One path of an image file a line, in the work folder."""
MANIFEST_FILE = "cells.parquet"
"""leukolens' manifest of those files, in the work folder."""

COMPUTE_IMAGES = 256
"""As many of the cached pixels go round in the tasks that compute: 8 batches of 32."""

_WARMUP_STEPS, _WARMUP_SECONDS = 2, 10.0
_FEWEST_STEPS = 2
_MIB, _KIB = 2**20, 2**10


class Enough(Exception):  # noqa: N818 - no error: the way out of a library's own loop
    """Raised by the clock when it has measured long enough."""


@dataclass(frozen=True)
class Job:
    """What one process measures. `seconds` is how long, after the warm-up; `work` holds pixels and cells."""

    task: str
    contender: str
    architecture: str
    work: Path
    batch: int
    input_px: int
    seconds: float
    device: str = "cpu"

    def pixels(self) -> NDArray[np.uint8]:
        """Cached pixels uint8 [images, side, side, 3], memory-mapped."""
        pixels: NDArray[np.uint8] = np.load(self.work / PIXELS_FILE, mmap_mode="r")
        return pixels

    def few_pixels(self) -> NDArray[np.uint8]:
        """The first few of them, in memory."""
        return np.array(self.pixels()[:COMPUTE_IMAGES])

    def cells(self) -> list[str]:
        """Paths of image files."""
        return (self.work / CELLS_FILE).read_text(encoding="utf-8").splitlines()


@dataclass
class Clock:
    """Counts steps: those of the warm-up apart, then until `seconds` have passed.

    The warm-up begins when the clock is made, before anything is built, and ends with the second step, or with the first
    one after 10 seconds. At least 2 steps are timed. `synchronise` waits for a device that works on its own.
    """

    images_per_step: int
    seconds: float
    synchronise: Callable[[], object] = lambda: None
    now: Callable[[], float] = time.perf_counter
    steps: int = 0
    warmup_seconds: float = 0.0
    elapsed: float = 0.0
    _warm: bool = False

    def __post_init__(self) -> None:
        self._began = self.now()

    def tick(self) -> None:
        """One more step has ended; raises Enough when there have been enough."""
        self.steps += 1
        passed = self.now() - self._began
        if not self._warm:
            if self.steps >= _WARMUP_STEPS or passed >= _WARMUP_SECONDS:
                self._end_warmup()
        elif self.steps >= _FEWEST_STEPS and passed >= self.seconds:
            self.synchronise()
            self.elapsed = self.now() - self._began
            raise Enough("measured long enough")  # fastai reads the text

    def _end_warmup(self) -> None:
        self.synchronise()
        self.warmup_seconds = self.now() - self._began
        self._began, self.steps, self._warm = self.now(), 0, True

    def images_per_second(self) -> float:
        """Rate of the timed steps; raises ValueError where the contender stopped before the clock did."""
        if not self.elapsed:
            raise ValueError(f"the contender ended by itself after {self.steps} steps: nothing was measured")
        return self.steps * self.images_per_step / self.elapsed


@dataclass(frozen=True)
class Measured:
    """One measurement. `detail` says in words what ran; `extra` holds other figures of it."""

    images_per_second: float | None
    warmup_seconds: float
    detail: str
    extra: Mapping[str, Any] = field(default_factory=dict)


Task = Callable[[Job], Measured]


def timed(clock: Clock, work: Callable[[], object], detail: str) -> Measured:
    """Do `work`, which ticks the clock after each step, until the clock has enough."""
    with suppress(Enough):
        work()
    return Measured(clock.images_per_second(), clock.warmup_seconds, detail)


def peak_rss_mib() -> float:
    """Largest resident memory of this process in MiB, mapped files included and worker processes not."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held when it forked
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / _KIB
    peak_of_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_of_process / (_MIB if sys.platform == "darwin" else _KIB)


def versions_of(libraries: Sequence[str]) -> dict[str, str]:
    """Version of Python and of each library by its distribution's name."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in libraries}}


def run(tasks: Mapping[str, Task], libraries: Sequence[str], arguments: Sequence[str] | None = None) -> None:
    """Measure the task that the command line names and print the JSON line."""
    job = _job(tasks, arguments)
    measured = tasks[job.task](job)
    line = {
        "images_per_second": measured.images_per_second,
        "warmup_seconds": measured.warmup_seconds,
        "peak_rss_mib": peak_rss_mib(),
        "detail": measured.detail,
        "versions": versions_of(libraries),
        **measured.extra,
    }
    sys.stdout.write(f"\n{json.dumps(line)}\n")


def _job(tasks: Mapping[str, Task], arguments: Sequence[str] | None) -> Job:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--contender", required=True)
    parser.add_argument("--architecture", default="all")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--input-px", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--device", default="cpu")
    return Job(**vars(parser.parse_args(arguments)))
