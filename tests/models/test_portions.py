from __future__ import annotations

from typing import Any

import numpy as np

from leukolens.models.portions import in_portions


class Engine:
    """Sums and first levels of each picture, in memory that the next portion overwrites; it remembers what it was given."""

    def __init__(self) -> None:
        self.portions: list[Any] = []
        self.answers = (np.empty((4, 1)), np.empty((4, 2), np.float32))

    def __call__(self, pixels: Any) -> Any:
        self.portions.append(pixels.copy())
        self.answers[0][:, 0] = pixels.sum(axis=(1, 2, 3))
        self.answers[1][:] = pixels[:, 0, 0, :2]
        return self.answers


def pictures(count: int) -> Any:
    return np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)


def test_answers_are_those_of_each_picture_in_order() -> None:
    engine, pixels = Engine(), pictures(10)
    sums, first = in_portions(pixels, (4, 2, 2, 3), engine)
    assert [each.shape for each in engine.portions] == [(4, 2, 2, 3)] * 3
    assert sums.dtype == first.dtype == np.float32
    # 12 levels, 12 i to 12 i + 11: their sum is 144 i + 66.
    assert sums[:, 0].tolist() == [144 * number + 66 for number in range(10)]
    assert first.tolist() == [[12 * number, 12 * number + 1] for number in range(10)]


def test_the_last_portion_is_filled_up_with_black_whose_answers_are_dropped() -> None:
    engine, pixels = Engine(), pictures(5)
    (sums, _) = in_portions(pixels, (4, 2, 2, 3), engine)
    assert len(sums) == 5
    np.testing.assert_array_equal(engine.portions[1][0], pixels[4])
    assert not engine.portions[1][1:].any()


def test_a_full_portion_is_handed_on_as_it_is() -> None:
    engine, pixels = Engine(), pictures(4)
    in_portions(pixels, (4, 2, 2, 3), engine)
    assert len(engine.portions) == 1
    np.testing.assert_array_equal(engine.portions[0], pixels)
