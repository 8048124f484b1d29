"""Progress that a person can follow: a bar with time left on a terminal, sparse log lines elsewhere.

In: what is being done and how much of it there is. Out: nothing. Writes: to standard error only.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from leukolens.processes import started_processes

logger = logging.getLogger("leukolens")

_Item = TypeVar("_Item")
_SECONDS_BETWEEN_LINES = 15.0


class Advance(Protocol):
    """Tell the progress that `steps` more are done."""

    def __call__(self, steps: int = 1) -> None:
        """Advance."""


@contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """Show `description` with done / total and the time left; call what it yields once per step.

    Of several processes that train one network, the first speaks for all.
    """
    if not started_processes().is_leader:
        yield _nothing
    elif sys.stderr.isatty():
        with _bar(description, total) as advance:
            yield advance
    else:
        yield _lines(description, total)


def track(items: Iterable[_Item], description: str, total: int) -> Iterator[_Item]:
    """Yield `items` while showing how many of `total` are done."""
    with progress(description, total) as advance:
        for item in items:
            yield item
            advance()


def _nothing(steps: int = 1) -> None:
    """Show nothing."""


@contextmanager
def _bar(description: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)

        def advance(steps: int = 1) -> None:
            bar.update(task, advance=steps)

        yield advance


def _lines(description: str, total: int) -> Advance:
    started = last = time.monotonic()
    done = 0

    def advance(steps: int = 1) -> None:
        nonlocal last, done
        done += steps
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            left = (now - started) / done * (total - done)
            logger.info("%s: %d/%d, about %.0f s left", description, done, total, left)

    return advance
