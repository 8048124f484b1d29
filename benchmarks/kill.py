"""Kill each verb with SIGKILL at many instants, and see that nothing half-written is ever read.

In: nothing. Out: a table by verb. Writes: results/kill.json beside this file and, with --page, the table in docs/security.md.
All else lies in a temporary folder.

Half of the kills come at a random time of the verb's run; the others just before the verb opens a file to write, renames,
deletes or makes a folder: those moments, spread evenly over all that it does, at which a half-written state could be left.
After each:

- every file under a final name must be whole: Parquet, JSON, CSV, numpy, safetensors, PNG and HTML are read to their end;
- another verb, given what is left, must work or refuse with a remedy;
- the same verb again must end well, with the same results as a run that nobody disturbed, and leave no temporary file.

    python benchmarks/kill.py                             # 30 kills of each verb, 12 minutes on two cores
    python benchmarks/kill.py --kills 6 --verb predict
"""

from __future__ import annotations

import os

# Before numpy: a process with threads cannot be forked safely.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile_corpus.trying import is_before_a_change

from leukolens.artifacts import Record, read_json, write_json
from leukolens.provenance import hardware, versions

RESULTS = Path(__file__).parent / "results" / "kill.json"
PAGE = Path(__file__).parents[1] / "docs" / "security.md"
SEED = 20261123
KILLS = 30

_BEGIN, _END = "<!-- kill: begin -->", "<!-- kill: end -->"
_NETWORK = ["--arch", "timm:test_resnet", "--weights", "none", "--device", "cpu"]
# What two runs of the same verb need not share: times, and hashes of records that hold times.
_OF_THE_RUN = (
    "second", "made_of", "hash", "created", "memory", "bytes", "files", "sha256", "versions", "hardware", "git_commit",
)  # fmt: skip
_CELLS, _SUBJECTS = 60, 12
_SOME_FAILED = 3
# Scored, refused, or scored but for the cell that is truncated on purpose.
_ANSWERED = (0, 1, 3)


@dataclass(frozen=True)
class Verb:
    """A verb to be killed.

    Args:
        arguments: its command line, in the folder of one trial.
        before: the verbs that must have run.
        reader: the command line of another verb, which reads what was left.
    """

    arguments: list[str]
    before: tuple[str, ...]
    reader: list[str]


VERBS = {
    "index": Verb(["index", "cells", "--out", "results"], (), ["split", "results", "--out", "elsewhere"]),
    "split": Verb(["split", "results"], ("index",), ["train", "results", "--out", "elsewhere", "--head-only", *_NETWORK]),
    "train": Verb(
        ["train", "results", "--out", "results/run", "--epochs", "2", "--input-px", "32", *_NETWORK],
        ("index", "split"),
        ["predict", "results/run", "results", "--out", "elsewhere"],
    ),
    "predict": Verb(
        ["predict", "results/run", "results", "--abstain", "0.1"],
        ("index", "split", "train"),
        ["evaluate", "results/run", "--out", "elsewhere", "--resamples", "200"],
    ),
    "predict images": Verb(
        ["predict", "results/run", "cells", "--out", "scores/scores.parquet"],
        ("index", "split", "train"),
        ["predict", "results/run", "cells", "--out", "elsewhere"],
    ),
    "export": Verb(
        ["export", "results/run", "--manifest", "results", "--out", "bundle", "--cells", "16", "--format", "onnx"],
        ("index", "split", "train"),
        ["predict", "bundle", "cells", "--out", "elsewhere"],
    ),
    "compare": Verb(
        [
            "compare",
            "cells",
            "--out",
            "results",
            "--folds",
            "0",
            "--resamples",
            "200",
            "--epochs",
            "1",
            "--input-px",
            "32",
            *_NETWORK,
        ],
        (),
        ["report", "results"],
    ),
}
"""Caches of pixels and features are written by train, predict and compare."""


@dataclass
class Found:
    """What the kills of one verb showed; all but `kills` and `ended_before` must be 0."""

    kills: int = 0
    ended_before: int = 0
    half_written: list[str] = field(default_factory=list)
    bad_readers: list[str] = field(default_factory=list)
    not_repeated: list[str] = field(default_factory=list)
    other_results: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    changes: int = 0
    seconds: float = 0.0


def kill_verb(name: str, work: Path, kills: int, seed: int) -> Found:
    """Kill one verb so many times, each in a fresh copy of what it needs."""
    verb, base, trial = VERBS[name], work / "base", work / "trial"
    _prepare(verb, base, trial)
    began = time.perf_counter()
    status, changes = run_verb(verb.arguments, trial, _Never())
    seconds = time.perf_counter() - began
    if status not in (0, _SOME_FAILED):
        raise RuntimeError(f"{name} ends with {status} undisturbed: {said(trial)}")
    found, wanted = Found(changes=changes, seconds=seconds), contents(trial)
    chance = random.Random(f"{seed} {name}")  # noqa: S311
    for number in range(kills):
        shutil.rmtree(trial)
        shutil.copytree(base, trial, symlinks=True)
        at: _Instant = _AtTime(chance.uniform(0, seconds)) if number % 2 else _AtChange(1 + number * changes // kills)
        _one_kill(verb, trial, at, wanted, found)
    return found


def _prepare(verb: Verb, base: Path, trial: Path) -> None:
    """Run what must have run before, once, in the folder of the trials: paths are part of results."""
    shutil.rmtree(trial, ignore_errors=True)
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(base.parent / "cells", trial / "cells")
    for name in verb.before:
        if run_verb(VERBS[name].arguments, trial, _Never())[0] != 0:
            raise RuntimeError(f"{name} did not end well: {said(trial)}")
    shutil.copytree(trial, base)


def _one_kill(verb: Verb, trial: Path, at: _Instant, wanted: dict[str, Any], found: Found) -> None:
    status, _ = run_verb(verb.arguments, trial, at)
    found.kills += 1
    found.ended_before += status is not None
    found.half_written += [f"{at}: {path}" for path in half_written(trial)]
    if run_verb(verb.reader, trial, _Never())[0] not in _ANSWERED or "Traceback" in said(trial):
        found.bad_readers.append(f"{at}: {said(trial)[-300:]}")
    shutil.rmtree(trial / "elsewhere", ignore_errors=True)
    repeated, _ = run_verb(verb.arguments, trial, _Never())
    now = contents(trial)
    # What is made once is refused where it has been made; `predict` on images has a truncated one among them.
    if repeated not in (0, _SOME_FAILED) and any(now.get(path) != value for path, value in wanted.items()):
        found.not_repeated.append(f"{at}: {said(trial)[-300:]}")
        return
    found.other_results += [f"{at}: {path}" for path in sorted(wanted) if wanted[path] != now.get(path)]
    found.left_behind += [f"{at}: {path.relative_to(trial)}" for path in trial.rglob("*.partial")]


class _Never:
    """No kill."""

    seconds: float | None = None
    change: int | None = None


@dataclass(frozen=True)
class _AtTime(_Never):
    seconds: float | None

    def __str__(self) -> str:
        return f"after {self.seconds:.3f} s"


@dataclass(frozen=True)
class _AtChange(_Never):
    change: int | None

    def __str__(self) -> str:
        return f"before change {self.change}"


_Instant = _Never


def run_verb(arguments: list[str], folder: Path, at: _Instant) -> tuple[int | None, int]:
    """Run `leukolens` with arguments in a folder, in a process forked from this one, and kill it at an instant.

    Returns:
        The exit status, None where it was killed; and how many changes of files it began.
    """
    counter = folder / "changes"
    child = os.fork()
    if child == 0:
        _be(arguments, folder, at.change)
    if at.seconds is not None:
        time.sleep(at.seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    changes = counter.stat().st_size if counter.is_file() else 0
    counter.unlink(missing_ok=True)
    return (os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None), changes


def said(folder: Path) -> str:
    """What the last verb said on standard error."""
    return (folder / "stderr").read_text(errors="replace")


def _be(arguments: list[str], folder: Path, change: int | None) -> None:
    """Be the command; never comes back."""
    status = 1
    try:
        os.chdir(folder)
        os.environ["HOME"] = os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None
        counter = os.open("changes", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        _die_before(change, counter, str(folder))
        sys.argv = ["leukolens", *arguments]
        from leukolens import cli

        cli.main()
        status = 0
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _die_before(change: int | None, counter: int, folder: str) -> None:
    """Count changes of files below the folder, a byte for each, and kill this process before the one of that number."""
    begun = 0

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal begun
        if is_before_a_change(event, given):
            begun += 1
            os.write(counter, b".")
            if begun == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def half_written(folder: Path) -> list[str]:
    """Files under a final name that cannot be read to their end."""
    return [str(path.relative_to(folder)) for path in _final(folder) if _value(path) is _Unreadable]


def contents(folder: Path) -> dict[str, Any]:
    """What files hold, by name, without what two runs need not share."""
    return {str(path.relative_to(folder)): _value(path) for path in _final(folder) if path.suffix in _READERS}


class _Unreadable:
    """In place of the content of a file that is not whole."""


def _final(folder: Path) -> list[Path]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path
        for path in paths
        if not any(part.endswith(".partial") or part == "cells" for part in path.relative_to(folder).parts)
    ]


def _value(path: Path) -> Any:  # noqa: ANN401
    reader = _READERS.get(path.suffix)
    if reader is None:
        return None
    try:
        return reader(path)
    except Exception:  # noqa: BLE001
        return _Unreadable


def _of_json(path: Path) -> str:
    return json.dumps(_plain(json.loads(path.read_text(encoding="utf-8"))), sort_keys=True)


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if not any(word in key for word in _OF_THE_RUN)}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _of_table(path: Path) -> str:
    import pandas as pd

    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    return str(frame[[name for name in frame if not any(word in name for word in _OF_THE_RUN[:1])]].to_csv(index=False))


def _of_arrays(path: Path) -> str:
    import numpy as np

    with np.load(path) as part:
        return str({name: part[name].tobytes() for name in part.files if name != "seconds"})


def _of_tensors(path: Path) -> str:
    from safetensors.numpy import load_file

    return str({name: tensor.tobytes() for name, tensor in load_file(path).items()})


def _of_picture(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as image:
        image.load()
    return ""


def _of_page(path: Path) -> str:
    if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("no end")
    return ""


_READERS: dict[str, Callable[[Path], str]] = {
    ".json": _of_json,
    ".parquet": _of_table,
    ".csv": _of_table,
    ".npz": _of_arrays,
    ".safetensors": _of_tensors,
    ".npy": lambda path: str(__import__("numpy").load(path).tobytes()),
    ".png": _of_picture,
    ".html": _of_page,
    ".onnx": lambda path: str(__import__("onnx").load(path).ByteSize()),
}


def table_lines(results: Record) -> list[str]:
    """The table as Markdown."""
    lines = [
        "| verb | kills | of which it had ended before | moments of change | half-written files | other verbs that fell over | "
        "not repeated | other results | temporary files left |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results["verbs"].items():
        bad = [len(found[what]) for what in ("half_written", "bad_readers", "not_repeated", "other_results", "left_behind")]
        lines.append(
            f"| {name} | {found['kills']} | {found['ended_before']} | {found['changes']} | {' | '.join(map(str, bad))} |"
        )
    return lines


def write_page(results: Record, page: Path) -> None:
    """Put the table between its two marks in the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    page.write_text("\n".join([before + _BEGIN, *table_lines(results), _END + after]), encoding="utf-8")


def _draw(work: Path) -> None:
    from leukolens import phantom
    from leukolens.settings import PhantomSettings

    made = phantom(work / "phantom", PhantomSettings(cells=_CELLS, subjects=_SUBJECTS))
    made.rename(work / "cells")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS, help="Of each verb.")
    parser.add_argument("--verb", action="append", choices=list(VERBS), help="Repeatable. [default: all]")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=RESULTS, help="Verbs that are not killed anew keep their figures.")
    parser.add_argument("--page", action="store_true", help="Rewrite the table in docs/security.md.")
    parser.add_argument("--work", type=Path, help="Folder to work in, kept. [default: a temporary one]")
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _kill_all(options: argparse.Namespace, work: Path) -> Record:
    if not (work / "cells").is_dir():
        subprocess.run([sys.executable, __file__, "--draw", str(work)], check=True)  # noqa: S603
    import_what_verbs_need()
    results: Record = read_json(options.out) if options.out.is_file() else {"verbs": {}}
    for name in options.verb or VERBS:
        found = kill_verb(name, work, options.kills, options.seed)
        results["verbs"][name] = vars(found)
        sys.stdout.write(f"{name}: {found}\n")
        sys.stdout.flush()
    return {**results, "seed": options.seed, "hardware": hardware(), "versions": versions()}


def import_what_verbs_need() -> None:
    """Import the package here, so that the processes forked from this one need not."""
    import leukolens.cli
    import leukolens.pipeline
    import leukolens.serving.export  # noqa: F401


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill them all, write, and say whether anything was amiss."""
    options = _options(arguments)
    if options.draw:
        _draw(options.draw)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        results = _kill_all(options, (options.work or Path(temporary)).resolve())
    write_json(options.out, results)
    if options.page:
        write_page(results, PAGE)
    sys.stdout.write("\n".join(table_lines(results)) + "\n")
    amiss = ("half_written", "bad_readers", "not_repeated", "other_results", "left_behind")
    return int(any(found[what] for found in results["verbs"].values() for what in amiss))


if __name__ == "__main__":
    sys.exit(main())
