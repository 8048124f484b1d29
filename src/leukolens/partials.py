"""Names of files and folders that are not finished yet, and what killed processes have left of them.

In: the path that a file or folder is to have. Out: the temporary path beside it. Writes: nothing; deletes leftovers.

A process that is killed cannot tidy up. What it was writing stays under its temporary name, which no verb ever reads; the next
process that writes into the same folder deletes it. A leftover is known by the process in its name, which is gone from this
machine, or else (another machine's, on a file system that both see) by not having been written to for a day.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import time
from functools import cache
from pathlib import Path

_NAME = re.compile(r"\..+\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)\.partial", re.DOTALL)
_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_STALE_SECONDS = 24 * 60 * 60


def partial_path(path: Path) -> Path:
    """Give the temporary path of this process beside `path`; the first call for a folder deletes the leftovers in it."""
    _sweep_once(path.parent)
    return path.with_name(f".{path.name}.{_MACHINE}-{os.getpid()}.partial")


def sweep(folder: Path) -> list[Path]:
    """Delete what killed processes have left in a folder under temporary names; give what was deleted."""
    if not folder.is_dir():
        return []
    left = [each for each in folder.glob(".*.partial") if _is_left(each)]
    for each in left:
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)
    return left


@cache
def _sweep_once(folder: Path) -> None:
    # Once: a folder of thousands of files is not to be listed for each of them.
    sweep(folder)


def _is_left(path: Path) -> bool:
    found = _NAME.fullmatch(path.name)
    if found is None:
        return False
    if found["machine"] == _MACHINE and os.name == "posix":
        return not _is_running(int(found["process"]))
    try:
        return time.time() - path.lstat().st_mtime > _STALE_SECONDS
    except FileNotFoundError:
        return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
