from __future__ import annotations

import os
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cohort import draw_cell, write_image
from leukolens.data.preprocessing import read_pixels
from leukolens.errors import ImageError, SettingsError
from leukolens.prediction.inputs import Counted, Input, count_inputs, is_manifest, read_each

LIMIT_PX = 25_000_000


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, so that names are short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*names: str) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".bmp", ".png")):
            write_image(Path(name), draw_cell(number))
        else:
            Path(name).write_bytes(b"something")


def pack(name: str, *members: str) -> None:
    with zipfile.ZipFile(name, "w") as archive:
        for member in members:
            archive.writestr(member, b"bytes")


def names(*given: str) -> list[str]:
    found = list(read_each(given, lambda source: source.name, workers=2))
    assert count_inputs(given).inputs == len(found)
    return found


def reason(source: Input) -> str:
    try:
        source.read(LIMIT_PX)
    except ImageError as error:
        return f"{source.name}: {error.reason}"
    return f"{source.name}: read"


def reasons(*given: str) -> list[str]:
    return list(read_each(given, reason, workers=2))


# What stands for which images


def test_files_stand_in_the_order_given_and_as_often(here: Path) -> None:
    write("b.bmp", "a.bmp")
    assert names("b.bmp", "a.bmp", "b.bmp") == ["b.bmp", "a.bmp", "b.bmp"]


def test_named_files_count_whatever_they_hold(here: Path) -> None:
    write("notes.txt", ".hidden.bmp")
    assert reasons("notes.txt", ".hidden.bmp", "nowhere.bmp") == [
        "notes.txt: not_an_image",
        ".hidden.bmp: read",
        "nowhere.bmp: missing",
    ]


def test_folder_is_gone_through_in_the_order_of_its_paths(here: Path) -> None:
    """As a manifest is sorted: `-` stands before `/`, so a file may come before a folder whose name it begins with."""
    write("cells/a/2.bmp", "cells/a/10.png", "cells/a-1.bmp", "cells/B.bmp", "cells/c/d/e.BMP.bmp")
    found = names("cells")
    assert found == ["cells/B.bmp", "cells/a-1.bmp", "cells/a/10.png", "cells/a/2.bmp", "cells/c/d/e.BMP.bmp"]
    assert found == sorted(found)
    assert names("./cells/")[0] == "./cells/B.bmp"


def test_of_a_folder_only_visible_images_count_and_the_others_are_numbered(here: Path) -> None:
    write("cells/a.bmp", "cells/labels.csv", "cells/._a.bmp", "cells/__MACOSX/b.bmp", "cells/archive.zip", "cells/.git/x.bmp")
    assert names("cells") == ["cells/a.bmp"]
    assert count_inputs(["cells"]) == Counted(inputs=1, skipped=5)


def test_pattern_stands_for_what_it_fits_sorted(here: Path) -> None:
    write("cells/2.bmp", "cells/10.bmp", "cells/x.txt", "cells/inner/3.bmp")
    assert names("cells/*.bmp") == ["cells/10.bmp", "cells/2.bmp"]
    assert names("cells/[0-9].bmp", "cells/1?.bmp") == ["cells/2.bmp", "cells/10.bmp"]
    assert names("cells/*") == ["cells/10.bmp", "cells/2.bmp", "cells/inner/3.bmp", "cells/x.txt"]
    assert names("**/*.bmp") == ["cells/10.bmp", "cells/2.bmp", "cells/inner/3.bmp"]
    assert names("cells/**") == ["cells/10.bmp", "cells/2.bmp", "cells/inner/3.bmp", "cells/x.txt"]


def test_name_that_looks_like_a_pattern_is_the_file_that_bears_it(here: Path) -> None:
    write("cell[1].bmp", "cell1.bmp")
    assert names("cell[1].bmp") == ["cell[1].bmp"]


def test_pattern_that_fits_nothing_has_a_row(here: Path) -> None:
    write("a.bmp")
    assert reasons("*.png", "a.bmp") == ["*.png: missing", "a.bmp: read"]


def test_archive_stands_for_its_members(here: Path) -> None:
    pack("cells.ZIP", "b.bmp", "a/c.png", "readme.txt", "a/")
    write("first.bmp", "last.bmp")
    assert names("first.bmp", "cells.ZIP", "last.bmp") == ["first.bmp", "cells.ZIP/a/c.png", "cells.ZIP/b.bmp", "last.bmp"]
    assert count_inputs(["cells.ZIP"]) == Counted(inputs=2, skipped=1)
    assert names("*.ZIP", "*.ZIP") == ["cells.ZIP/a/c.png", "cells.ZIP/b.bmp"] * 2


def test_archive_that_cannot_be_opened_has_one_row(here: Path) -> None:
    write("no.zip", "a.bmp")
    assert reasons("no.zip", "nowhere.zip", "a.bmp") == ["no.zip: damaged_archive", "nowhere.zip: missing", "a.bmp: read"]
    assert count_inputs(["no.zip", "nowhere.zip", "a.bmp"]) == Counted(3, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_links_are_followed_but_never_in_a_circle(here: Path) -> None:
    write("cells/a.bmp", "elsewhere/b.bmp")
    Path("cells/back").symlink_to(here / "cells")
    Path("cells/other").symlink_to(here / "elsewhere")
    Path("cells/gone.bmp").symlink_to(here / "nothing.bmp")
    assert reasons("cells") == [
        "cells/a.bmp: read",
        "cells/back: link_loop",
        "cells/gone.bmp: missing",
        "cells/other/b.bmp: read",
    ]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="the user may read everything")
def test_folder_that_may_not_be_read_has_a_row(here: Path) -> None:
    write("cells/a/1.bmp", "cells/b.bmp")
    Path("cells/a").chmod(0)
    try:
        assert reasons("cells") == ["cells/a: no_permission", "cells/b.bmp: read"]
    finally:
        Path("cells/a").chmod(0o755)


def test_folder_that_cannot_be_listed_has_a_row(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("cells/a/1.bmp", "cells/b.bmp")
    listed = os.scandir

    def refuse(folder: str) -> object:
        if folder.endswith("a"):
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert reasons("cells") == ["cells/a: no_permission", "cells/b.bmp: read"]


# What is refused as a whole


def test_no_image_at_all_is_an_error_that_says_what_was_found(here: Path) -> None:
    write("cells/a.txt", "cells/.b.bmp")
    Path("empty").mkdir()
    with pytest.raises(SettingsError) as caught:
        count_inputs(["cells", "empty"])
    assert str(caught.value).splitlines() == [
        "There is no image in cells, empty.",
        "  expected: images, or a folder with manifest.parquet",
        "  received: 2 files, hidden or without an image's suffix",
        "  remedy:   correct the path, name the files themselves, or run `leukolens index` first for a data set with labels",
    ]


def test_long_list_without_an_image_is_named_in_part_and_safely(here: Path) -> None:
    for name in ("a\n", "b", "c", "d", "e"):
        Path(name).mkdir()
    with pytest.raises(SettingsError, match=r"^There is no image in a\\n, b, c and 2 more inputs\.\n"):
        count_inputs(["a\n", "b", "c", "d", "e"])


@pytest.mark.parametrize("given", ["other.parquet", "results"])
def test_manifest_among_images_is_an_error(here: Path, given: str) -> None:
    write("a.bmp", "results/manifest.parquet")
    assert is_manifest(given)
    assert not is_manifest("a.bmp")
    with pytest.raises(SettingsError, match=rf"^{given} is a manifest, or a folder that holds one\.\n") as caught:
        count_inputs(["a.bmp", given])
    assert caught.value.received == "2 inputs"


# Streaming


def test_members_are_what_the_files_are(here: Path) -> None:
    write("cells/a.bmp", "cells/b.png")
    with zipfile.ZipFile("cells.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write("cells/a.bmp", "a.bmp")
        archive.write("cells/b.png", "b.png")
    pixels = list(read_each(["cells.zip"], lambda source: source.read(LIMIT_PX).pixels))
    for found, path in zip(pixels, ("cells/a.bmp", "cells/b.png"), strict=True):
        np.testing.assert_array_equal(found, read_pixels(Path(path), LIMIT_PX).pixels)


def test_many_threads_read_one_archive_without_mixing_its_members(here: Path) -> None:
    with zipfile.ZipFile("cells.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(200):
            archive.write(write_image(here / "cell.png", draw_cell(number, side_px=32)), f"{number:03}.png")
    found = list(read_each(["cells.zip"], lambda source: source.read(LIMIT_PX).pixels, workers=8))
    assert len(found) == 200
    assert all(np.array_equal(pixels, draw_cell(number, side_px=32)) for number, pixels in enumerate(found))


def test_images_are_read_only_a_little_ahead(here: Path) -> None:
    """However many inputs there are: nobody has read the 1000th while the first is waited for."""
    write("a.bmp")
    begun: list[str] = []
    lock = threading.Lock()

    def count(source: Input) -> str:
        with lock:
            begun.append(source.name)
        return source.name

    results = read_each(["a.bmp"] * 1000, count, workers=2)
    for seen, _ in enumerate(results, start=1):
        assert len(begun) <= seen + 8 * (2 * 2 + 2)
        if seen == 300:
            break
    results.close()
    assert len(begun) < 400


def test_names_are_listed_only_a_little_ahead(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are entered when their turn comes: 40 of them with 10 images each, and the first image asks for few."""
    write(*(f"cells/{folder:02}/{cell}.bmp" for folder in range(40) for cell in range(10)))
    entered: list[str] = []
    listed = os.scandir

    def watched(folder: str) -> object:
        entered.append(folder)
        return listed(folder)

    monkeypatch.setattr(os, "scandir", watched)
    results: Iterator[str] = read_each(["cells"], lambda source: source.name, workers=2)
    assert next(results) == "cells/00/0.bmp"
    assert 2 <= len(entered) <= 8
    assert len(list(results)) == 399
    assert len(entered) == 41
