"""How fast is leukolens beside what users would otherwise run? Images per second, memory and warm-up, in interleaved rounds.

In: this machine; phantom cells, or a folder of images. Out: progress on standard error. Writes: the samples as JSON
(`benchmarks/results/throughput.json`), after every measurement, so that a run can be stopped, gone on with and put together
from parts; then, through `throughput_tables`, the tables in `docs/benchmarks.md` and their figure.

Each measurement is a process of its own (`contenders/`). Rounds are interleaved: A B C, A B C, with the machine's limit (a
product of two 4096 x 4096 matrices) measured beside each network in each round.

    make bench                                                    # everything: about two hours on two cores
    python benchmarks/throughput.py --task train --arch alexnet --rounds 1 --seconds 4
    python benchmarks/throughput.py --task infer --contender keras --contender leukolens --append
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from throughput_tables import render

from leukolens.artifacts import read_json, write_json, write_text
from leukolens.errors import SettingsError
from leukolens.models.architectures import FIVE_ARCHITECTURES
from leukolens.provenance import git_commit, hardware

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS_FILE = HERE / "results" / "throughput.json"
WORK_FOLDER = HERE / ".work"
BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"

COMPUTE_TASKS = ("train", "features", "infer")
DATA_TASKS = ("data_cold", "data_cached")
COMPARE = "compare"
TASKS = (*COMPUTE_TASKS, *DATA_TASKS, COMPARE)
ALL = "all"

# What would make one contender faster or slower than its users find it.
_UNWANTED = ("LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES", "OMP_", "MKL_", "KMP_", "TF_", "TORCH_", "ONEDNN_", "PYTHONPATH")
_LONGEST_SECONDS = 1800
_GIB = 2**30
_STAT = Path("/proc/stat")

Sample = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A library as its users run it: which module measures it, in which environment, what it can do."""

    name: str
    module: str
    tasks: tuple[str, ...]
    is_bench: bool = False
    """It runs in the environment of `benchmarks/requirements.txt` instead of leukolens' own."""
    lacks: tuple[str, ...] = ()


CONTENDERS = (
    Contender("leukolens", "leukolens_verbs", (*COMPUTE_TASKS, COMPARE)),
    Contender("leukolens", "leukolens_data", DATA_TASKS),
    Contender("keras", "keras_tutorial", (*COMPUTE_TASKS, *DATA_TASKS), is_bench=True),
    Contender("keras-bf16", "keras_tutorial", COMPUTE_TASKS, is_bench=True),
    Contender("torchvision", "torchvision_loop", (*COMPUTE_TASKS, "data_cold")),
    Contender("timm", "timm_defaults", COMPUTE_TASKS, lacks=("alexnet",)),
    Contender("fastai", "fastai_learner", ("train", "infer"), is_bench=True),
    Contender("pillow", "decoders", ("data_cold",)),
    Contender("opencv", "decoders", ("data_cold",), is_bench=True),
)
LIMIT = Contender("limit", "arithmetic", ("limit", "flops"))
NAMES = tuple(dict.fromkeys(contender.name for contender in CONTENDERS))


@dataclass(frozen=True)
class Step:
    """One measurement to make."""

    round: int
    task: str
    architecture: str
    contender: Contender

    def cell(self) -> tuple[str, str, str]:
        """What samples of several rounds have in common."""
        return self.task, self.architecture, self.contender.name


@dataclass(frozen=True)
class Bench:
    """How to measure: `own` and `bench` are the two Python programs, `device` where the networks compute."""

    own: Path
    bench: Path
    work: Path
    batch: int = 32
    input_px: int = 224
    seconds: float = 8.0
    device: str = "cpu"

    def command(self, step: Step) -> list[str]:
        """The process of one measurement."""
        python = self.bench if step.contender.is_bench else self.own
        settings = {"contender": step.contender.name, "architecture": step.architecture, "work": self.work,
                    "batch": self.batch, "input-px": self.input_px, "seconds": self.seconds, "device": self.device}  # fmt: skip
        flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return [str(python), "-m", f"contenders.{step.contender.module}", step.task, *flags]


def plan(tasks: Sequence[str], architectures: Sequence[str], contenders: Sequence[str], rounds: int) -> Iterator[Step]:
    """All measurements in order: in each round each network with its limit, then the data path; `compare` once."""
    chosen = [contender for contender in CONTENDERS if contender.name in contenders]
    for number in range(rounds):
        for architecture in architectures:
            steps = [Step(number, task, architecture, each) for task in COMPUTE_TASKS if task in tasks
                     for each in chosen if task in each.tasks and architecture not in each.lacks]  # fmt: skip
            yield from [Step(number, "limit", architecture, LIMIT), *steps] if steps else []
        on_files = [*DATA_TASKS, COMPARE] if number == 0 else DATA_TASKS
        yield from (Step(number, task, ALL, each) for task in on_files if task in tasks
                    for each in chosen if task in each.tasks)  # fmt: skip


def measure(step: Step, bench: Bench) -> Sample:
    """Run one measurement; raises RuntimeError with its last words where it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_UNWANTED)}
    environment["PYTHONPATH"] = str(HERE)
    before = _Processors.now()
    try:
        done = subprocess.run(  # noqa: S603 - our own modules
            bench.command(step), env=environment, capture_output=True, text=True, timeout=_LONGEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no result after {_LONGEST_SECONDS} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else f"ended with status {done.returncode} and no word")
    return {**json.loads(done.stdout.splitlines()[-1]), "busy_elsewhere": before.busy_elsewhere()}


@dataclass(frozen=True)
class _Processors:
    """Seconds at one moment: the clock's, of all processors at work (None where the system does not tell), of our children."""

    clock: float
    at_work: float | None
    of_children: float

    @classmethod
    def now(cls) -> _Processors:
        used, at_work = os.times(), None
        if _STAT.is_file():
            # user, nice, system, idle, iowait, irq, softirq, steal: time stolen by another machine is lost to us as well.
            ticks = [int(each) for each in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
            at_work = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return cls(time.perf_counter(), at_work, used.children_user + used.children_system)

    def busy_elsewhere(self) -> float | None:
        """Share of all processors' time since this moment that went to anything but our children, 0 to 1."""
        now = self.now()
        if self.at_work is None or now.at_work is None:
            return None
        others = (now.at_work - self.at_work) - (now.of_children - self.of_children)
        return max(0.0, others) / ((now.clock - self.clock) * (os.cpu_count() or 1))


def machine() -> Sample:
    """Processor, cores, memory and system; no name of a host."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {**hardware(), "memory_gib": round(memory / _GIB)}


def opened(path: Path, bench: Bench) -> Sample:
    """Results so far; raises SettingsError where they are of another machine or other settings."""
    here = {"machine": machine(), "settings": {"batch": bench.batch, "input_px": bench.input_px, "device": bench.device}}
    if not path.is_file():
        return {**here, "flops": {}, "samples": [], "failures": []}
    results: Sample = read_json(path)
    for name, value in here.items():
        if results[name] != value:
            raise SettingsError(
                f"{path} was measured elsewhere or otherwise.",
                expected=f"{name}: {results[name]}",
                received=str(value),
                remedy="give another --out, or delete that file",
            )
    return results


def dropped(results: Sample, steps: Sequence[Step]) -> Sample:
    """Results without the samples and failures of the cells that are about to be measured."""
    cells = {step.cell() for step in steps if step.contender is not LIMIT}

    def kept(rows: list[Sample]) -> list[Sample]:
        return [row for row in rows if (row["task"], row["architecture"], row["contender"]) not in cells]

    return {**results, "samples": kept(results["samples"]), "failures": kept(results["failures"])}


def collect(steps: Sequence[Step], bench: Bench, results: Sample, path: Path) -> Sample:
    """Make all measurements and write the results after each; one that fails is written down and the rest goes on."""
    run, commit = datetime.now(UTC).isoformat(timespec="seconds"), git_commit()
    if not results["flops"] and any(step.contender is LIMIT for step in steps):
        results["flops"] = measure(Step(0, "flops", ALL, LIMIT), bench)["flops"]
    for done, step in enumerate(steps, start=1):
        row = {"run": run, "round": step.round, **dict(zip(("task", "architecture", "contender"), step.cell(), strict=True))}
        try:
            found = measure(step, bench)
        except RuntimeError as error:
            results["failures"].append({**row, "reason": _without_paths(str(error), bench)})
            said = f"FAILED: {error}"
        else:
            results["samples"].append({**row, "commit": commit, **found})
            said = _said(found)
        write_json(path, results)
        sys.stderr.write(f"{done}/{len(steps)} round {step.round} {' '.join(step.cell())}: {said}\n")
    return results


def _said(found: Sample) -> str:
    if found["images_per_second"] is not None:
        busy = found["busy_elsewhere"]
        said = "" if busy is None else f", {busy:.0%} of the processors busy with other work"
        return f"{found['images_per_second']:.1f} images/s, {found['peak_rss_mib']:.0f} MiB{said}"
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items() if name.endswith(("_flops", "seconds")))


def _without_paths(text: str, bench: Bench) -> str:
    """Results are published: whose machine it was is nobody's concern."""
    for folder in (bench.work, ROOT, Path.home(), Path.cwd()):
        text = text.replace(str(folder), "…")
    return text


def prepare(bench: Bench, data: Path | None, cells: int, images: int) -> None:
    """Write the pixels and image files that all contenders work on; raises SettingsError where that fails."""
    command = [str(bench.own), "-m", "contenders.preparation", "--work", str(bench.work), "--cells", str(cells),
               "--input-px", str(bench.input_px), "--images", str(images)]  # fmt: skip
    if data is not None:
        command += ["--data", str(data.resolve())]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(HERE)}, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SettingsError(
            "The pixels to work on could not be made.",
            expected=f"images in {data or 'a data set of phantom cells'}",
            received=(done.stderr.strip().splitlines() or ["no word"])[-1],
            remedy="correct --data or --cells, or delete the work folder",
        )
    write_text(bench.work / ".gitignore", "*\n")


def check_pythons(steps: Sequence[Step], bench: Bench) -> None:
    """Raise SettingsError where an environment that is needed is not there."""
    for python in {bench.bench if step.contender.is_bench else bench.own for step in steps}:
        if not python.is_file():
            raise SettingsError(
                "An environment of the benchmark is missing.",
                expected="a Python program with benchmarks/requirements.txt installed",
                received=f"nothing at {python}",
                remedy="run `make bench`, give --bench-python, or choose other contenders with --contender",
            )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", action="append", choices=TASKS, help="restrict to this task; may be repeated")
    parser.add_argument("--arch", action="append", choices=FIVE_ARCHITECTURES, help="restrict to this network; may be repeated")
    parser.add_argument("--contender", action="append", choices=NAMES, help="restrict to this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each measurement lasts after its warm-up")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--input-px", type=int, default=224)
    parser.add_argument("--data", type=Path, help="a folder of images in place of phantom cells")
    parser.add_argument("--cells", type=int, default=240, help="phantom cells")
    parser.add_argument("--images", type=int, default=2048, help="cached images for the random reads")
    parser.add_argument("--out", type=Path, default=RESULTS_FILE)
    parser.add_argument("--append", action="store_true", help="add rounds to what is measured already instead of replacing it")
    parser.add_argument("--work", type=Path, default=WORK_FOLDER)
    parser.add_argument("--bench-python", type=Path, default=BENCH_PYTHON)
    parser.add_argument("--no-render", action="store_true", help="leave the documentation as it is")
    parser.add_argument("--plan", action="store_true", help="say what would be measured, and stop")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, render; 1 where a measurement failed."""
    options = parsed(arguments)
    bench = Bench(Path(sys.executable), options.bench_python.absolute(), options.work.absolute(), options.batch,
                  options.input_px, options.seconds)  # fmt: skip
    steps = list(plan(options.task or TASKS, options.arch or FIVE_ARCHITECTURES, options.contender or NAMES, options.rounds))
    if options.plan:
        sys.stdout.write("".join(f"{step.round} {' '.join(step.cell())}\n" for step in steps))
        return 0
    try:
        check_pythons(steps, bench)
        before = opened(options.out, bench)
        prepare(bench, options.data, options.cells, options.images)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    results = collect(steps, bench, before if options.append else dropped(before, steps), options.out)
    if not options.no_render:
        render(results)
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
