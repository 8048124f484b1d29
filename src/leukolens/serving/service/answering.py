"""One request's way from its pictures to rows: decoded in threads, scored with those of others, given back in order.

In: a model and pictures. Out: rows in the order of the pictures. Writes: nothing.

Of each request some tens of pictures are on their way at once, of all requests together some hundreds: memory does not grow
with what is asked. Whatever ends a request early (its time, its sender's leaving, an error) takes its pictures out of the
queue.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from leukolens.artifacts import FAILED, SCORED
from leukolens.prediction.inputs import Input
from leukolens.prediction.stream import BATCH, Outcome, Picture
from leukolens.serving.service.metrics import Metrics
from leukolens.serving.service.microbatches import Lane, Microbatches, Row, rows_of
from leukolens.serving.service.pictures import Placed
from leukolens.serving.service.problems import too_long
from leukolens.serving.service.served import ServedModel
from leukolens.settings import ServeLimits

Result = TypeVar("Result")

# One batch that is being scored and one that is being decoded meanwhile.
_AHEAD_OF_ONE = 2 * BATCH
# 224 x 224 px take 150 kB each.
_AHEAD_OF_ALL = 512


class Deadline:
    """When the time of a request is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.until = time.monotonic() + seconds

    async def wait(self, awaited: Awaitable[Result]) -> Result:
        """Wait for something, but no longer than this; raises RequestError (504)."""
        try:
            return await asyncio.wait_for(awaited, max(0.0, self.until - time.monotonic()))
        except TimeoutError as error:
            raise too_long(self.seconds) from error


class Answering:
    """What all requests share: threads that decode, the queue, the bound on pictures in memory.

    Args:
        limits: number of threads, waiting.
        metrics: where decoding and outcomes are counted.
    """

    def __init__(self, limits: ServeLimits, metrics: Metrics) -> None:
        self.metrics = metrics
        self.queue = Microbatches(metrics, limits.gather_seconds)
        self.decoders = ThreadPoolExecutor(limits.decode_workers or os.cpu_count() or 1, thread_name_prefix="decode")
        self.room = asyncio.Semaphore(_AHEAD_OF_ALL)

    def close(self) -> None:
        """Let the threads end."""
        self.decoders.shutdown(wait=True, cancel_futures=True)
        self.queue.close()

    async def rows(self, model: ServedModel, pictures: Iterable[Placed], deadline: Deadline) -> AsyncGenerator[Row, None]:
        """Rows of pictures in their order; to be closed by whoever does not take them all."""
        lane = Lane(model)
        ahead: deque[asyncio.Task[Row]] = deque()
        try:
            for placed in pictures:
                ahead.append(asyncio.create_task(self._row(lane, placed)))
                if len(ahead) >= _AHEAD_OF_ONE:
                    yield await deadline.wait(ahead.popleft())
            while ahead:
                yield await deadline.wait(ahead.popleft())
        finally:
            for task in ahead:
                task.cancel()
            self.queue.drop(lane)
            # Waited for, so that none of them ends with an error that nobody looks at.
            await asyncio.gather(*ahead, return_exceptions=True)

    async def picture(self, model: ServedModel, given: Input) -> Outcome:
        """Decode one picture in a thread."""
        began = time.perf_counter()
        self.queue.coming += 1
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(self.decoders, model.scorer.read, given)
        finally:
            self.queue.coming -= 1
        self.metrics.decode_seconds.observe(time.perf_counter() - began)
        return outcome

    async def scored(self, model: ServedModel, picture: Picture) -> Row:
        """Row of one decoded picture."""
        return await self.queue.add(Lane(model), picture)

    async def _row(self, lane: Lane, placed: Placed) -> Row:
        async with self.room:
            outcome = await self.picture(lane.model, placed.input)
            if isinstance(outcome, Picture):
                row = await self.queue.add(lane, outcome)
            else:
                # Without a picture in it the network is not asked.
                row = rows_of(lane.model.scorer.rows([outcome]), lane.model.columns)[0]
        return {"index": placed.index, **row}


def counted(rows: Iterable[Row]) -> Counter[str]:
    """Number of rows: `inputs`, `scored`, `failed`, and `refused` ones among those scored."""
    counts: Counter[str] = Counter(inputs=0, scored=0, failed=0, refused=0)
    for row in rows:
        counts["inputs"] += 1
        counts["scored"] += row["status"] == SCORED
        counts["failed"] += row["status"] == FAILED
        counts["refused"] += row["refusal"] is not None
    return counts

