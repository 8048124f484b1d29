"""Run one function over many items in threads, in their order, with only a few results waiting.

In: a function and items. Out: its results, one by one. Writes: nothing. Decoding, hashing and resizing happen in libraries
that let other threads run meanwhile, so threads are enough and no pixel is copied between processes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import get_ident
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Handing over one image of half a millisecond at a time costs a tenth of it.
_ITEMS_PER_TASK = 8
# Tasks ahead of the one waited for: enough to keep all threads busy past one slow file.
_TASKS_AHEAD_PER_WORKER = 2


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Give `function(item)` for each item, in order; at most some 16 results per worker wait in memory.

    Args:
        function: what to run; the first exception that it raises, in the order of the items, is raised here.
        items: read only as far ahead as the threads need.
        workers: number of threads; None means one per processor.
    """
    workers = workers or os.cpu_count() or 1
    waiting: deque[Future[list[Result]]] = deque()

    def run(task: list[Item]) -> list[Result]:
        return [function(item) for item in task]

    own: set[int] = set()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode", initializer=lambda: own.add(get_ident()))
    try:
        remaining = iter(items)
        while task := list(islice(remaining, _ITEMS_PER_TASK)):
            waiting.append(pool.submit(run, task))
            if len(waiting) > workers * _TASKS_AHEAD_PER_WORKER:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        # Where the caller stops early, what has not begun is not begun. If nobody closes the generator, the garbage collector
        # does, in whichever thread it runs: one of the pool's own cannot wait for itself.
        pool.shutdown(wait=get_ident() not in own, cancel_futures=True)
