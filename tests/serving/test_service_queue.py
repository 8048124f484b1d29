"""Who is scored with whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from leukolens.errors import RequestError
from leukolens.prediction.stream import BATCH, Picture
from leukolens.serving.service.answering import Deadline
from leukolens.serving.service.load import Load
from leukolens.serving.service.metrics import Metrics
from leukolens.serving.service.microbatches import Lane, Microbatches, Row
from leukolens.serving.service.served import ServedModel

PIXELS = np.zeros((1, 1, 3), np.uint8)


@dataclass
class Scorer:
    """Notes the names of each batch."""

    batches: list[list[str]] = field(default_factory=list)
    fails: bool = False

    def rows(self, batch: Sequence[Picture]) -> dict[str, list[Any]]:
        if self.fails:
            raise MemoryError
        self.batches.append([picture.name for picture in batch])
        return {"input": [picture.name for picture in batch]}


@dataclass(eq=False)
class Model:
    scorer: Scorer = field(default_factory=Scorer)
    columns: tuple[str, ...] = ("input",)


def lane(model: Model) -> Lane:
    return Lane(cast("ServedModel", model))


def pictures(name: str, count: int) -> list[Picture]:
    return [Picture(f"{name}{number}", PIXELS, "") for number in range(count)]


def scored(fill: Callable[[Microbatches], list[asyncio.Future[Row]]], gather_seconds: float = 0.05) -> list[Any]:
    """Rows, or errors, of the pictures that `fill` puts into a queue before it runs."""

    async def run() -> list[Any]:
        queue = Microbatches(Metrics(), gather_seconds)
        futures = fill(queue)
        running = asyncio.create_task(queue.run())
        try:
            return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 20)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            queue.close()

    return asyncio.run(run())


def test_one_picture_does_not_wait_behind_the_hundred_of_another() -> None:
    model = Model()

    def fill(queue: Microbatches) -> list[asyncio.Future[Row]]:
        many, one = lane(model), lane(model)
        return [queue.add(many, each) for each in pictures("m", 100)] + [queue.add(one, pictures("one", 1)[0])]

    rows = scored(fill)
    assert [row["input"] for row in rows] == [f"m{number}" for number in range(100)] + ["one0"]
    assert "one0" in model.scorer.batches[0]
    assert [len(batch) for batch in model.scorer.batches] == [BATCH, BATCH, BATCH, 5]


def test_a_batch_is_of_one_model_and_models_take_turns() -> None:
    first, second = Model(), Model()

    def fill(queue: Microbatches) -> list[asyncio.Future[Row]]:
        lanes = (lane(first), "a", 40), (lane(second), "b", 3)
        return [queue.add(each, picture) for each, name, count in lanes for picture in pictures(name, count)]

    rows = scored(fill)
    assert len(rows) == 43
    assert [len(batch) for batch in first.scorer.batches] == [BATCH, 8]
    assert [len(batch) for batch in second.scorer.batches] == [3]
    assert all(name.startswith("a") for batch in first.scorer.batches for name in batch)


def test_pictures_that_nobody_waits_for_are_not_scored() -> None:
    model = Model()

    def fill(queue: Microbatches) -> list[asyncio.Future[Row]]:
        kept, dropped = lane(model), lane(model)
        futures = [queue.add(kept, each) for each in pictures("k", 2)]
        for each in pictures("d", 5):
            queue.add(dropped, each)
        queue.drop(dropped)
        futures[0].cancel()
        return futures[1:]

    scored(fill)
    assert model.scorer.batches == [["k1"]]


def test_a_failed_batch_is_told_to_each_and_the_queue_goes_on() -> None:
    broken, sound = Model(Scorer(fails=True)), Model()

    def fill(queue: Microbatches) -> list[asyncio.Future[Row]]:
        first, second = lane(broken), lane(sound)
        return [queue.add(first, each) for each in pictures("x", 2)] + [queue.add(second, each) for each in pictures("y", 1)]

    first, second, third = scored(fill)
    assert (first.status, first.received, second.received) == (500, "MemoryError", "MemoryError")
    assert third == {"input": "y0"}


def test_a_full_batch_does_not_wait_and_one_that_is_not_waits_for_what_is_coming() -> None:
    model = Model()

    async def run() -> None:
        queue = Microbatches(Metrics(), gather_seconds=3600)
        running = asyncio.create_task(queue.run())
        queue.coming = 1
        own = lane(model)
        await asyncio.gather(*[queue.add(own, each) for each in pictures("f", BATCH)])
        first = queue.add(own, pictures("p", 1)[0])
        await asyncio.sleep(0.05)
        assert not first.done()
        queue.coming = 0
        await asyncio.gather(first, queue.add(own, pictures("q", 1)[0]))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        queue.close()

    asyncio.run(asyncio.wait_for(run(), 20))
    assert [len(batch) for batch in model.scorer.batches] == [BATCH, 2]


def test_a_deadline_ends_what_takes_longer() -> None:
    async def run() -> None:
        assert await Deadline(10).wait(asyncio.sleep(0, "in time")) == "in time"
        with pytest.raises(RequestError, match="The request took too long"):
            await Deadline(0.01).wait(asyncio.sleep(10))

    asyncio.run(run())


def test_bytes_and_turns_are_given_back_whatever_happens() -> None:
    load = Load(most_bytes=10, most_requests=1)
    with pytest.raises(RequestError, match="holds too many"), load.body() as held:
        held.take(8)
        held.take(3)
    with load.request(), load.turn():
        assert (load.under_way, load.scoring, load.bytes_held) == (1, 1, 0)
        with pytest.raises(RequestError, match="busy"), load.turn():
            pass
    assert (load.under_way, load.scoring) == (0, 0)
    load.is_draining = True
    with pytest.raises(RequestError, match="about to stop"), load.request():
        pass
    assert load.under_way == 0
