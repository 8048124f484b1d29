"""Many items, few in memory, their order kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator

import pytest

from leukolens.data.threads import in_order


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.01 if item == 0 else 0)
        return item * item

    assert list(in_order(slow_first, range(count), workers=3)) == [item * item for item in range(count)]


def test_several_threads_work() -> None:
    both = threading.Barrier(2, timeout=10)  # broken unless two threads wait at once

    def meet(item: int) -> int:
        if item in (0, 8):
            both.wait()
        return item

    assert list(in_order(meet, range(16), workers=2)) == list(range(16))


def test_items_are_read_only_as_far_ahead_as_the_threads_need() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            read.append(item)
            yield item

    results = in_order(lambda item: item, items(), workers=2)
    assert next(results) == 0
    assert len(read) <= 8 * (2 * 2 + 1)
    assert list(results) == list(range(1, 1000))


def test_first_error_in_the_order_of_the_items_is_raised() -> None:
    def fail(item: int) -> int:
        if item >= 20:
            raise ValueError(item)
        return item

    found = []
    with pytest.raises(ValueError, match="20"):
        for result in in_order(fail, range(100), workers=4):
            found.append(result)  # noqa: PERF402 - what came before the error counts too
    assert found == list(range(16))  # whole tasks of eight


def test_what_has_not_begun_is_not_begun_when_the_caller_stops() -> None:
    begun: list[int] = []
    results = in_order(begun.append, range(1000), workers=1)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 8 * (1 * 2 + 1)


def test_a_thread_of_the_pool_may_be_the_one_that_collects_it() -> None:
    taken, closed = threading.Event(), threading.Event()
    errors: list[BaseException | None] = []

    def collect(item: int) -> int:
        if item == 8 and taken.wait(10):
            # As the garbage collector would, in whatever thread it happens to run.
            try:
                results.close()
                errors.append(None)
            except RuntimeError as error:
                errors.append(error)
            closed.set()
        return item

    results = in_order(collect, range(100), workers=1)
    assert isinstance(results, Generator)
    assert next(results) == 0
    taken.set()
    assert closed.wait(10)
    assert errors == [None]
