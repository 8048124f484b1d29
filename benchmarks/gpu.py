"""The same questions on a GPU: leukolens beside plain PyTorch, tuned by hand and compiled with CUDA graphs.

In: a GPU. Out: a table on standard output. Writes: `benchmarks/results/gpu.json` (another file with --out), after every
measurement. Measures, for each of the five networks: training step and inference in images per second, their share of the
bfloat16 product of two 8192 x 8192 matrices, and how long a complete fine-tuning at the size of C-NMC 2019 takes (7,463
training and 1,599 validation images, six epochs).

    python benchmarks/gpu.py                                  # on a GPU, about half an hour
    python benchmarks/gpu.py --device cpu --quick             # does it run at all? tiny images, few steps, no GPU needed
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from throughput import HERE, LIMIT, Bench, Contender, Sample, Step, collect, dropped, opened, prepare
from throughput_tables import OURS, Summary, markdown, percent, rate

from leukolens.errors import SettingsError
from leukolens.models.architectures import ARCHITECTURES, FIVE_ARCHITECTURES

RESULTS_FILE = HERE / "results" / "gpu.json"
WHOLE = "whole"
TASKS = ("train", "infer")
CONTENDERS = (
    Contender(OURS, "leukolens_verbs", (*TASKS, WHOLE)),
    Contender("torchvision", "torchvision_loop", TASKS),
    Contender("channels-last-bf16", "torchvision_loop", TASKS),
    Contender("compiled-bf16", "torchvision_loop", TASKS),
)
# Small enough for two cores and for every network; the shapes of the real thing, none of its size.
_QUICK_BATCH, _QUICK_PX, _QUICK_IMAGES, _QUICK_CELLS = 4, 64, 16, 60


def plan(architectures: Sequence[str], contenders: Sequence[str], rounds: int) -> Iterator[Step]:
    """All measurements in order; the complete fine-tuning once."""
    for number in range(rounds):
        for architecture in architectures:
            yield Step(number, "limit", architecture, LIMIT)
            tasks = (*TASKS, WHOLE) if number == 0 else TASKS
            yield from (Step(number, task, architecture, each) for task in tasks
                        for each in CONTENDERS if task in each.tasks and each.name in contenders)  # fmt: skip


def table(results: Sample) -> str:
    """Images per second, share of the limit and minutes, as Markdown."""
    summary = Summary.of(results)
    rows = []
    for architecture in dict.fromkeys(each["architecture"] for each in results["samples"]):
        for task in TASKS:
            rates = [summary.middle(task, architecture, each.name) for each in CONTENDERS]
            shown = ["–" if each is None else rate(each) for each in rates]
            seconds = summary.middle(WHOLE, architecture, OURS, "seconds") if task == "train" else None
            minutes = "" if seconds is None else f"{seconds / 60:.1f}"
            share = percent(summary.share(task, architecture))
            rows.append([ARCHITECTURES[architecture].display_name, task, *shown, share, minutes])
    head = ["", "images/s", *(each.name for each in CONTENDERS), "leukolens of the bf16 limit", "whole fine-tuning, minutes"]
    failed = [f"{each['contender']} {each['task']} {each['architecture']}: {each['reason']}" for each in results["failures"]]
    return "\n".join([markdown(head, rows), _total(summary), *failed])


def _total(summary: Summary) -> str:
    found = [summary.middle(WHOLE, each, OURS, "seconds") for each in FIVE_ARCHITECTURES]
    seconds = [each for each in found if each is not None]
    return f"whole fine-tuning of {len(seconds)} networks: {sum(seconds) / 60:.1f} minutes"


@contextmanager
def _bench(options: argparse.Namespace) -> Iterator[Bench]:
    own = Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            yield Bench(own, own, Path(folder), _QUICK_BATCH, _QUICK_PX, seconds=0, device=options.device)
        else:
            yield Bench(own, own, Path(folder), options.batch, seconds=options.seconds, device=options.device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a measurement failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny images and two steps: only to see that it runs")
    parser.add_argument("--arch", action="append", choices=FIVE_ARCHITECTURES)
    parser.add_argument("--contender", action="append", choices=[each.name for each in CONTENDERS])
    parser.add_argument("--rounds", type=int, default=None, help="3, or 1 with --quick")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, help="where the results go; with --device cpu nowhere unless given")
    options = parser.parse_args(arguments)
    contenders = options.contender or [each.name for each in CONTENDERS]
    rounds = options.rounds or (1 if options.quick else 3)
    steps = list(plan(options.arch or FIVE_ARCHITECTURES, contenders, rounds))
    with _bench(options) as bench:
        out = options.out or (RESULTS_FILE if options.device == "cuda" and not options.quick else bench.work / "gpu.json")
        try:
            before = opened(out, bench)
            cells, images = (_QUICK_CELLS, _QUICK_IMAGES) if options.quick else (240, 2048)
            prepare(bench, None, cells, images)
        except SettingsError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        results = collect(steps, bench, dropped(before, steps), out)
    sys.stdout.write(table(results) + "\n")
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
