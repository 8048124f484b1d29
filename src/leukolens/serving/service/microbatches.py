"""Pictures of many requests, scored together in batches by one thread.

In: pictures, each in the lane of its request. Out: a row of the table for each, as `predict` would write it. Writes: nothing.

A batch costs the same whether it is full or not (`models/inference.py` fills it up, so that a cell's score does not depend on
its neighbours). So one that is not full waits a moment for pictures that are on their way. Lanes are served in turn: one
picture does not wait behind the thousand of another request. All but the scoring itself runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from leukolens.errors import RequestError
from leukolens.prediction.stream import BATCH, Columns, Picture
from leukolens.serving.service.logs import logger
from leukolens.serving.service.metrics import Metrics
from leukolens.serving.service.served import ServedModel

Row = dict[str, Any]

# As long as nothing new has come for so long, nothing more is on its way.
_STILL_SECONDS = 0.004


@dataclass(eq=False)
class Lane:
    """Pictures of one request that wait for one model, with the futures of their rows."""

    model: ServedModel
    waiting: deque[tuple[Picture, asyncio.Future[Row]]] = field(default_factory=deque)


class Microbatches:
    """The queue and the one thread that empties it.

    Args:
        metrics: where batches are counted.
        gather_seconds: how long a batch may wait for pictures that are on their way.
    """

    def __init__(self, metrics: Metrics, gather_seconds: float) -> None:
        self.metrics = metrics
        self.gather_seconds = gather_seconds
        self.lanes: deque[Lane] = deque()
        self.coming = 0
        """Pictures that are being decoded."""
        self.arrivals = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self.is_alive = True
        """Whether pictures are scored: false once an error that nobody foresaw has ended it."""

    def waiting(self) -> int:
        """Number of pictures in the queue."""
        return sum(len(lane.waiting) for lane in self.lanes)

    def add(self, lane: Lane, picture: Picture) -> asyncio.Future[Row]:
        """Put a picture into the queue; the future gives its row."""
        if not lane.waiting:
            self.lanes.append(lane)
        future: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        lane.waiting.append((picture, future))
        self.arrivals.set()
        return future

    def drop(self, lane: Lane) -> None:
        """Take what is left of a lane out of the queue."""
        lane.waiting.clear()
        if lane in self.lanes:
            self.lanes.remove(lane)

    async def run(self) -> None:
        """Score until cancelled."""
        while True:
            self.arrivals.clear()
            if not self.lanes:
                await self.arrivals.wait()
            await self._gather()
            if self.lanes:
                await self._score(self.lanes[0].model)

    def ended(self, task: asyncio.Task[None]) -> None:
        """Say that `run` has come to an end; nobody is answered any more, and whoever watches over the server must know."""
        if not task.cancelled():
            self.is_alive = False
            logger.critical("scoring has ended", exc_info=task.exception())

    def close(self) -> None:
        """Let the thread end after its batch."""
        self.thread.shutdown(wait=True, cancel_futures=True)

    async def _gather(self) -> None:
        """Wait until the batch is full, nothing more comes, or it has waited long enough."""
        until = time.monotonic() + self.gather_seconds
        while self.waiting() < BATCH and (left := until - time.monotonic()) > 0:
            self.arrivals.clear()
            still = left if self.coming else min(left, _STILL_SECONDS)
            try:
                await asyncio.wait_for(self.arrivals.wait(), still)
            except TimeoutError:
                return

    async def _score(self, model: ServedModel) -> None:
        batch = self._next(model)
        if not batch:
            return
        began = time.perf_counter()
        pictures = [picture for picture, _ in batch]
        scored = asyncio.get_running_loop().run_in_executor(self.thread, model.scorer.rows, pictures)
        await asyncio.wait([scored])
        self.metrics.batch(len(batch), time.perf_counter() - began)
        if error := scored.exception():
            logger.error("a batch of %d pictures could not be scored", len(batch), exc_info=error)
            for _, future in batch:
                if not future.done():
                    future.set_exception(_not_scored(error))
            return
        for row, (_, future) in zip(rows_of(scored.result(), model.columns), batch, strict=True):
            if not future.done():
                future.set_result(row)

    def _next(self, model: ServedModel) -> list[tuple[Picture, asyncio.Future[Row]]]:
        """At most 32 pictures for one model, one of each lane in turn; those that nobody waits for any more are left out."""
        batch: list[tuple[Picture, asyncio.Future[Row]]] = []
        others: deque[Lane] = deque()
        while self.lanes and len(batch) < BATCH:
            lane = self.lanes.popleft()
            if lane.model is not model:
                others.append(lane)
                continue
            picture, future = lane.waiting.popleft()
            if not future.done():
                batch.append((picture, future))
            if lane.waiting:
                self.lanes.append(lane)
        # Lanes of other models have waited longer than what is left of this one.
        self.lanes.extendleft(reversed(others))
        return batch


def rows_of(scored: Columns, columns: Sequence[str]) -> list[Row]:
    """Turn columns of the table into one object per row, its keys in the order of `columns`."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*(scored[name] for name in columns), strict=True)]


def _not_scored(error: BaseException) -> RequestError:
    return RequestError(
        "The model could not answer.",
        status=500,
        expected="a score",
        received=type(error).__name__,
        remedy="look the request id up in the server's log; check the model with `leukolens predict`",
    )
