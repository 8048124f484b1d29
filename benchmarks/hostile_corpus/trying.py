"""Try one hostile input on the command line, in a process of its own, and say what went wrong.

In: a Case, its sandbox, what is well formed, limits. Out: `Tried`. Writes: the sandbox, which is made anew for each case.

The process is forked from one that has imported the package, so that a try takes a fraction of a second and is still what
`leukolens` does: `cli.main` with these arguments, a present folder and a HOME of its own, and limits of the operating system.
What it does to files, processes and the network is watched from inside (`sys.addaudithook`) and from outside (all files of the
sandbox before and after, its peak memory, how it ended).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile_corpus.case import REFUSED, SCORED, WITHOUT_SCORE, Case, Good, Sandbox

CRASH, HANG, WRITE, CODE, MEMORY, STATUS, NETWORK, TABLE = FAULTS = (
    "crash", "hang", "write outside", "code run", "memory over the limit", "wrong status", "network", "broken table"
)  # fmt: skip
"""What must not happen."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATH_EVENTS = {"os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2, "os.truncate": 1,
                "os.chmod": 1, "os.chown": 1}  # fmt: skip
_CODE_EVENTS = frozenset(
    {"os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pickle.find_class"}
)
_NETWORK_EVENTS = frozenset({"socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"})
_LARGEST_FILE_BYTES = 1 << 30
_ADDRESSES_BYTES = 64 << 30
_KIB = 1024
_ALLOCATORS_THREAD = "jemalloc_bg_thd"
_FORMULA_STARTS = ("=", "+", "@")


@dataclass(frozen=True)
class Limits:
    """What one try may take: seconds on the clock, and resident memory."""

    seconds: float = 60.0
    memory_bytes: int = 2 << 30


@dataclass(frozen=True)
class Tried:
    """How one try went; `status` is None where a signal ended it; `faults` are of FAULTS, with what was seen."""

    kind: str
    name: str
    route: str
    status: int | None
    seconds: float
    memory_mib: float
    faults: dict[str, str] = field(default_factory=dict)


def try_command(case: Case, sandbox: Sandbox, good: Good, limits: Limits) -> Tried:
    """Prepare a case and run it, in a process that is forked from this one; raises RuntimeError where this one has threads."""
    sandbox.clear()
    arguments = _prepared(case, sandbox, good)
    before = tree(sandbox)
    began = time.perf_counter()
    reader, writer = os.pipe()
    child = _fork()
    if child == 0:
        os.close(reader)
        _run(arguments, sandbox, writer, limits)
    os.close(writer)
    ended, peak_bytes = _wait(child, began + limits.seconds)
    seconds = time.perf_counter() - began
    watched = _read_all(reader)
    faults = {**_how_it_ended(case, ended, sandbox), **watched, **_traces(sandbox, before), **_of_table(case, ended, sandbox)}
    if peak_bytes > limits.memory_bytes:
        faults[MEMORY] = f"{peak_bytes / (1 << 20):,.0f} MiB"
    return Tried(case.kind, case.name, "command", ended, seconds, peak_bytes / (1 << 20), faults)


def _prepared(case: Case, sandbox: Sandbox, good: Good) -> list[str]:
    """Prepare a case in a process of its own, because libraries that write tables start threads; give the arguments."""
    reader, writer = os.pipe()
    child = _fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(case.prepare(sandbox, good)).encode())
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, this process must end here
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        said = told.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"[{case.kind}] {case.name} cannot be prepared")
    arguments: list[str] = json.loads(said)
    return arguments


def tree(sandbox: Sandbox) -> dict[str, tuple[Any, ...]]:
    """Everything in the sandbox but `out`: kind, size and time of each file, and where links lead."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, folders, files in os.walk(sandbox.root):
        if Path(folder) == sandbox.root:
            folders.remove(sandbox.out.name)
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118
            seen = os.lstat(path)
            target = os.readlink(path) if os.path.islink(path) else ""  # noqa: PTH114, PTH115
            found[path] = (seen.st_mode, seen.st_size, seen.st_mtime_ns if name in files else 0, target)
    return found


def is_before_a_change(event: str, given: tuple[Any, ...]) -> bool:
    """Whether an audit event of Python announces that a file is written, renamed or deleted, or a folder made."""
    if event == "open":
        path, _, flags = given
        return isinstance(path, str | bytes) and bool(flags & _WRITING) and not os.fsdecode(path).startswith("/dev/")
    return event in _PATH_EVENTS


def traces(sandbox: Sandbox, before: dict[str, tuple[Any, ...]]) -> dict[str, str]:
    """Faults that are seen in the files: the canary, and anything that is new, gone or changed outside `out`."""
    return _traces(sandbox, before)


def _fork() -> int:
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    # The allocator of pyarrow takes care of its own thread.
    if len([name for name in names if name != _ALLOCATORS_THREAD]) > 1:
        raise RuntimeError(f"a process with threads ({', '.join(names)}) cannot be forked safely: set OMP_NUM_THREADS=1")
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def _run(arguments: list[str], sandbox: Sandbox, watcher: int, limits: Limits) -> None:
    """Be the command; never comes back."""
    status = REFUSED
    try:
        _enter(sandbox, limits)
        _watch(sandbox, watcher)
        sys.argv = ["leukolens", *arguments]
        from leukolens import cli

        cli.main()
        status = SCORED
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else REFUSED
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _enter(sandbox: Sandbox, limits: Limits) -> None:
    os.chdir(sandbox.cwd)
    os.environ.update(HOME=str(sandbox.home), TMPDIR=str(sandbox.home), XDG_CACHE_HOME=str(sandbox.home))
    for number, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        path = name if number == 0 else str(sandbox.out / name)
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
    os.setsid()
    for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, _LARGEST_FILE_BYTES),
                       (resource.RLIMIT_AS, _ADDRESSES_BYTES), (resource.RLIMIT_CPU, int(2 * limits.seconds))):  # fmt: skip
        resource.setrlimit(what, (most, most))


def _watch(sandbox: Sandbox, watcher: int) -> None:
    """Tell through a pipe of every write outside `out`, every program and every connection, as they are begun."""
    allowed = (str(sandbox.out), os.devnull)

    def tell(fault: str, what: object) -> None:
        os.write(watcher, f"{fault}\t{what!r:.200}\n".encode("utf-8", "backslashreplace"))

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if isinstance(path, str | bytes) and flags & _WRITING and not os.fsdecode(path).startswith(allowed):
                tell(WRITE, path)
        elif event in _PATH_EVENTS:
            for path in given[: _PATH_EVENTS[event]]:
                if isinstance(path, str | bytes | os.PathLike) and not os.fsdecode(path).startswith(allowed):
                    tell(WRITE, (event, path))
        elif event in _CODE_EVENTS:
            tell(CODE, (event, given))
        elif event in _NETWORK_EVENTS:
            tell(NETWORK, (event, given))

    sys.addaudithook(hook)


def _wait(child: int, until: float) -> tuple[int | None, int]:
    """Give the exit status, None where a signal ended it (-1 where that was ours), and its peak resident memory in bytes."""
    is_late = False
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.perf_counter() > until and not is_late:
            is_late = True
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)
    if is_late:
        return -1, used.ru_maxrss * _KIB
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None, used.ru_maxrss * _KIB


def _read_all(reader: int) -> dict[str, str]:
    with os.fdopen(reader, encoding="utf-8", errors="backslashreplace") as told:
        return dict(line.rstrip("\n").split("\t", 1) for line in told)  # type: ignore[misc]


def _how_it_ended(case: Case, ended: int | None, sandbox: Sandbox) -> dict[str, str]:
    said = (sandbox.out / "stderr").read_text(errors="backslashreplace") if (sandbox.out / "stderr").is_file() else ""
    if ended == -1:
        return {HANG: "killed at the time limit"}
    if ended is None or "Traceback (most recent call last)" in said:
        return {CRASH: said.strip().splitlines()[-1][:300] if said.strip() else "a signal"}
    if ended not in case.statuses:
        return {STATUS: f"{ended} in place of {sorted(case.statuses)}: {said.strip()[:300]}"}
    if ended == REFUSED and not ("error: " in said and "remedy:" in said):
        return {STATUS: f"no remedy in: {said.strip()[:300]}"}
    return {}


def _traces(sandbox: Sandbox, before: dict[str, tuple[Any, ...]]) -> dict[str, str]:
    faults = {}
    if sandbox.canary.exists() or list(sandbox.root.rglob("canary")):
        faults[CODE] = "the canary was written"
    after = tree(sandbox)
    changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
    changed += [path for path in ("/outside.png", str(sandbox.root.parent / "outside.png")) if os.path.lexists(path)]
    if changed:
        faults[WRITE] = ", ".join(sorted(changed))[:300]
    return faults


def _of_table(case: Case, ended: int | None, sandbox: Sandbox) -> dict[str, str]:
    """What is wrong with the table, or with there being one."""
    path = sandbox.out / "scores.csv"
    if left := [each.name for each in sandbox.out.rglob("*.partial")]:
        return {TABLE: f"left behind: {', '.join(left)}"}
    if ended not in (SCORED, WITHOUT_SCORE):
        return {TABLE: f"a table beside the status {ended}"} if path.exists() else {}
    if case.prepare is None or not path.exists():
        return {}
    return {TABLE: problem} if (problem := table_problem(path.read_bytes())) else {}


def table_problem(data: bytes) -> str | None:
    """Why a CSV is not safe to be opened by other programs; None where it is."""
    with contextlib.suppress(UnicodeDecodeError):
        rows = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
        return next(_row_problems(rows), None)
    return "no UTF-8"


def _row_problems(rows: list[list[str]]) -> Iterator[str]:
    if len(rows) < 2:
        yield "no row"
    for row in rows:
        if len(row) != len(rows[0]):
            yield f"{len(row)} cells under {len(rows[0])} columns"
        for cell in row:
            if not cell.isprintable():
                yield f"unprintable: {cell!r:.80}"
            if cell.startswith(_FORMULA_STARTS) or (cell.startswith("-") and not _is_number(cell)):
                yield f"formula: {cell!r:.80}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
