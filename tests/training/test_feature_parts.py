"""Features are found by content, whichever part they lie in, and only the parts that are needed are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from leukolens.errors import ArtifactError
from leukolens.training import feature_parts
from leukolens.training.feature_parts import find_parts, write_part


def named(number: int) -> str:
    return f"{number:064x}"


def write_three(folder: Path) -> None:
    """Images 0–9 in parts of 4, 4 and 2; the features of image n are n and -n."""
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        values = np.array([[n, -n] for n in range(start, stop)], np.float32)
        # Part names begin with the hash's first 16 digits, so these count from the front.
        write_part(folder, [named(n)[::-1] for n in range(start, stop)], values, seconds=stop - start)


def test_features_come_in_the_order_asked_for(tmp_path: Path) -> None:
    write_three(tmp_path)
    parts = find_parts(tmp_path)
    assert (len(parts.paths), len(parts.places), parts.seconds) == (3, 10, 10.0)
    wanted = [9, 0, 5, 5, 2, 8]
    values = parts.read([named(n)[::-1] for n in wanted])
    assert values.dtype == np.float32
    assert values.tolist() == [[n, -n] for n in wanted]


def test_only_parts_that_hold_something_wanted_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_three(tmp_path)
    parts = find_parts(tmp_path)
    opened: list[str] = []
    load = np.load

    def note(file: BinaryIO, **options: Any) -> Any:
        opened.append(Path(file.name).name)
        return load(file, **options)

    monkeypatch.setattr(feature_parts.np, "load", note)
    parts.read([named(n)[::-1] for n in (8, 9, 8, 1)])
    assert sorted(opened) == sorted({parts.paths[parts.places[named(n)[::-1]][0]].name for n in (1, 8)})


def test_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    parts = find_parts(tmp_path / "nowhere")
    assert (parts.paths, parts.places, parts.seconds) == ((), {}, 0)
    assert parts.read([]).shape == (0, 0)
    with pytest.raises(KeyError):
        parts.read([named(1)])


def test_damaged_part_is_named(tmp_path: Path) -> None:
    write_three(tmp_path)
    path = sorted(tmp_path.iterdir())[1]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError) as caught:
        find_parts(tmp_path)
    assert caught.value.what == f"{path} cannot be read as cached features."
    assert caught.value.remedy == "delete this file; its features are computed again"


def test_parts_of_different_widths_are_never_put_together(tmp_path: Path) -> None:
    write_part(tmp_path, [named(1)[::-1]], np.zeros((1, 3), np.float32), 1)
    write_part(tmp_path, [named(2)[::-1]], np.zeros((1, 2), np.float32), 1)
    with pytest.raises(ArtifactError, match="features of width"):
        find_parts(tmp_path).read([named(1)[::-1], named(2)[::-1]])
