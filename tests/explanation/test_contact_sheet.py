from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from leukolens.explanation import contact_sheet
from leukolens.explanation.contact_sheet import BAR_LABEL, Tile, write_contact_sheet
from leukolens.explanation.overlays import WARNING


def tile(number: int, panels: int = 3, is_wrong: bool = False) -> Tile:
    pictures = tuple((np.full((32, 32, 3), 10 * part, np.uint8), f"panel {part}") for part in range(panels))
    return Tile((f"cell {number}", "answered"), pictures, is_wrong)


def texts(figure: Figure) -> list[str]:
    found = [each.get_text() for part in figure.subfigs for each in part.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), *(each.get_text() for each in axes.texts)]
    return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure that would be written."""
    figure = Figure()

    def keep(_path: Path, size_inches: tuple[float, float], paint: Any) -> None:
        figure.set_size_inches(size_inches)
        paint(figure)

    monkeypatch.setattr(contact_sheet, "draw_file", keep)
    return figure


def test_sheet_is_a_picture_with_warning_and_bar(drawn: Figure) -> None:
    write_contact_sheet(Path("sheet.png"), "VGG16: maps", ["first line"], [tile(1)])
    found = texts(drawn)
    assert "VGG16: maps" in found
    assert f"first line\n{WARNING}" in found
    assert BAR_LABEL in found
    assert [f"panel {part}" for part in range(3)] == [each for each in found if each.startswith("panel")]


def test_tiles_keep_their_order_row_by_row(drawn: Figure) -> None:
    write_contact_sheet(Path("sheet.png"), "", [], [tile(number) for number in range(7)])
    assert [each for each in texts(drawn) if each.startswith("cell")] == [f"cell {number}\nanswered" for number in range(7)]
    body = drawn.subfigs[1]
    assert len(body.axes) == 9
    assert [axes.axison for axes in body.axes] == [False] * 9
    assert [len(axes.images) for axes in body.axes] == [1] * 7 + [0] * 2


def test_a_mistake_is_marked(drawn: Figure) -> None:
    write_contact_sheet(Path("sheet.png"), "", [], [tile(1), tile(2, is_wrong=True)])
    colours = [axes._left_title.get_color() for axes in drawn.subfigs[1].axes]
    assert colours[0] != colours[1]


@pytest.mark.parametrize(("count", "panels"), [(1, 2), (24, 3)])
def test_sheet_is_written_whole(tmp_path: Path, count: int, panels: int) -> None:
    write_contact_sheet(tmp_path / "sheet.png", "Title", ["note"], [tile(number, panels) for number in range(count)])
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 0
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_names_that_are_no_mathematics_are_drawn_as_they_are(tmp_path: Path) -> None:
    odd = Tile(("cost_$5^2$_\\frac.bmp", "細胞"), ((np.zeros((8, 8, 3), np.uint8), "$"),))
    write_contact_sheet(tmp_path / "sheet.png", "$\\bad", [], [odd])
    assert (tmp_path / "sheet.png").is_file()
