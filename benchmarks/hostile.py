"""Try hostile inputs on `leukolens predict` and on the server: none may crash, hang, write elsewhere or run code.

In: nothing; every input is made from a seed. Out: a line for each fault, and a table by kind. Writes:
results/hostile.json beside this file (kinds that are not tried anew keep their figures) and, with --page, the table in
docs/security.md. All else lies in a temporary folder.

Each input is tried in a process of its own, in a sandbox of its own (`hostile_corpus/trying.py`); what can be uploaded is
also sent to one server that takes them all (`hostile_corpus/uploading.py`). Exit status 1 where there was a fault.

    python benchmarks/hostile.py                        # everything, 15 minutes on two cores
    python benchmarks/hostile.py --only "zip: bomb"     # kinds that begin so
    python benchmarks/hostile.py --guided-runs 0        # without the coverage-guided search, which needs atheris
"""

from __future__ import annotations

import os

# Before numpy: a process with threads cannot be forked safely.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hostile_corpus.case import Case, Sandbox
from hostile_corpus.corpus import corpus
from hostile_corpus.guided import search
from hostile_corpus.trying import FAULTS, Limits, Tried, try_command
from hostile_corpus.uploading import Served, try_upload
from hostile_corpus.wellformed import good_in, make_good

from leukolens.artifacts import Record, read_json, write_json
from leukolens.provenance import hardware, versions

RESULTS = Path(__file__).parent / "results" / "hostile.json"
PAGE = Path(__file__).parents[1] / "docs" / "security.md"
SEED = 20261123
PER_FORMAT = 60
GUIDED_RUNS = 20_000

_BEGIN, _END = "<!-- hostile: begin -->", "<!-- hostile: end -->"


def try_all(cases: Iterable[Case], work: Path, limits: Limits) -> list[Tried]:
    """Try every case on the command line, saying what is amiss as it is found."""
    import_what_commands_need()
    sandbox, good = Sandbox(work / "sandbox"), good_in(work / "good")
    return [_told(try_command(case, sandbox, good, limits)) for case in cases]


def upload_all(cases: Iterable[Case], work: Path, limits: Limits) -> list[Tried]:
    """Send every case that can be uploaded to one server."""
    sandbox = Sandbox(work / "sandbox")
    with Served(good_in(work / "good"), sandbox, limits) as served:
        return [_told(try_upload(case, served, limits)) for case in cases if case.upload is not None]


def import_what_commands_need() -> None:
    """Import the package here, so that the processes forked from this one need not; all but OpenVINO, which starts threads."""
    from PIL import Image

    import leukolens.cli
    import leukolens.prediction.stream  # noqa: F401

    Image.init()


def _told(tried: Tried) -> Tried:
    for fault, seen in tried.faults.items():
        sys.stdout.write(f"{fault.upper()} {tried.route} [{tried.kind}] {tried.name}: {seen}\n")
        sys.stdout.flush()
    return tried


def summed(tried: Sequence[Tried]) -> Record:
    """Counts by kind and route, and every fault."""
    kinds: Record = {}
    for each in tried:
        row = kinds.setdefault(each.kind, {}).setdefault(
            each.route, {"tried": 0, "statuses": {}, "faults": {}, "slowest_seconds": 0.0, "most_memory_mib": 0.0}
        )
        row["tried"] += 1
        row["statuses"] = dict(Counter(row["statuses"]) + Counter({str(each.status): 1}))
        row["faults"] = dict(Counter(row["faults"]) + Counter(each.faults.keys()))
        row["slowest_seconds"] = max(row["slowest_seconds"], each.seconds)
        row["most_memory_mib"] = max(row["most_memory_mib"], each.memory_mib)
    found = [
        {"kind": each.kind, "name": each.name, "route": each.route, "faults": each.faults} for each in tried if each.faults
    ]
    return {"kinds": kinds, "faults": found}


def merged(before: Record, now: Record) -> Record:
    """Results of before with what was tried now in the place of the same kinds and routes."""
    anew = {(kind, route) for kind, routes in now["kinds"].items() for route in routes}
    kinds = {kind: {**before["kinds"].get(kind, {}), **routes} for kind, routes in now["kinds"].items()}
    faults = [each for each in before["faults"] if (each["kind"], each["route"]) not in anew]
    return {"kinds": {**before["kinds"], **kinds}, "faults": [*faults, *now["faults"]]}


def table_lines(results: Record) -> list[str]:
    """The table as Markdown: a row for each kind, a column for each thing that must not happen."""
    lines = [
        f"| kind | inputs | command | server | {' | '.join(FAULTS)} | slowest | most memory |",
        "|" + "---|" * (6 + len(FAULTS)),
    ]
    for kind, routes in results["kinds"].items():
        rows = list(routes.values())
        faults = [sum(row["faults"].get(fault, 0) for row in rows) for fault in FAULTS]
        tried = [routes.get(route, {}).get("tried", 0) for route in ("command", "server")]
        lines.append(
            f"| {kind} | {max(tried)} | {tried[0]} | {tried[1] or '–'} | {' | '.join(map(str, faults))} | "
            f"{max(row['slowest_seconds'] for row in rows):.1f} s | {max(row['most_memory_mib'] for row in rows):,.0f} MiB |"
        )
    inputs = sum(max(row["tried"] for row in routes.values()) for routes in results["kinds"].values())
    all_rows = [row for routes in results["kinds"].values() for row in routes.values()]
    tried = [
        sum(routes.get(route, {}).get("tried", 0) for routes in results["kinds"].values()) for route in ("command", "server")
    ]
    faults = [sum(row["faults"].get(fault, 0) for row in all_rows) for fault in FAULTS]
    lines.append(f"| **all** | **{inputs}** | {tried[0]} | {tried[1]} | {' | '.join(f'**{each}**' for each in faults)} | | |")
    return lines


def write_page(results: Record, page: Path) -> None:
    """Put the table between its two marks in the page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text("\n".join([before + _BEGIN, *table_lines(results), _END + after]), encoding="utf-8")


def _in_a_process(work: Path) -> None:
    """Make what is well formed; training starts threads, and this process must have none."""
    if not (good_in(work / "good").bundle / "bundle.json").is_file():
        subprocess.run([sys.executable, __file__, "--make-good", str(work / "good")], check=True)  # noqa: S603


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--per-format", type=int, default=PER_FORMAT, help="Spoilt files of each format.")
    parser.add_argument("--guided-runs", type=int, default=GUIDED_RUNS, help="Tries of the coverage-guided search; 0: none.")
    parser.add_argument("--only", default="", help="Kinds that begin so.")
    parser.add_argument("--route", choices=("command", "server", "both"), default="both")
    parser.add_argument("--seconds", type=float, default=Limits.seconds)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", action="store_true", help="Rewrite the table in docs/security.md.")
    parser.add_argument("--work", type=Path, help="Folder to work in, kept. [default: a temporary one]")
    parser.add_argument("--make-good", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace, work: Path) -> Record:
    _in_a_process(work)
    limits = Limits(options.seconds)
    if options.guided_runs and find_spec("atheris") is None:
        raise SystemExit("the coverage-guided search needs atheris: pip install atheris, or --guided-runs 0")
    guided = work / "guided" if options.guided_runs else None
    if guided is not None and not guided.is_dir():
        search(guided, options.guided_runs, options.seed)
    cases = [case for case in corpus(options.seed, options.per_format, guided) if case.kind.startswith(options.only)]
    tried: list[Tried] = []
    if options.route != "server":
        tried += try_all(cases, work, limits)
    if options.route != "command":
        tried += upload_all(cases, work, limits)
    said: dict[str, Any] = {name: getattr(options, name) for name in ("seed", "per_format", "guided_runs")}
    before: Record = read_json(options.out) if options.out.is_file() else {"kinds": {}, "faults": []}
    return {**said, **merged(before, summed(tried)), "limits": vars(limits), "hardware": hardware(), "versions": versions()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try them all, write, and say whether any did harm."""
    options = _options(arguments)
    if options.make_good:
        make_good(options.make_good)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        results = _measure(options, (options.work or Path(temporary)).resolve())
    write_json(options.out, results)
    if options.page:
        write_page(results, PAGE)
    sys.stdout.write("\n".join(table_lines(results)) + "\n")
    return 1 if results["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
