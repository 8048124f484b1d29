"""Pictures that cost more than they should: many scans, many pages; and caches that were replaced."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from cohort import draw_cell
from leukolens.artifacts import Manifest
from leukolens.data import preprocessing
from leukolens.data.pixel_cache import cache_pixels
from leukolens.data.preprocessing import Preprocessing, read_encoded
from leukolens.errors import ArtifactError, ImageError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LIMIT_PX = 25_000_000


@pytest.fixture
def bombs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("hostile_corpus.bombs")


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_encoded(data, Path("a"), LIMIT_PX)
    return caught.value


def test_a_jpeg_of_thousands_of_scans_is_not_decoded(bombs: ModuleType) -> None:
    error = refusal(bombs._many_scans())
    assert (error.reason, error.received) == ("unsupported", "20,001 scans")
    assert error.expected == "a JPEG of at most 500 scans"


def test_progressive_jpegs_as_programs_write_them_are_read() -> None:
    file = io.BytesIO()
    Image.fromarray(draw_cell(1)).save(file, "JPEG", progressive=True)
    assert 2 <= file.getvalue().count(b"\xff\xda") <= 20
    assert read_encoded(file.getvalue(), Path("a"), LIMIT_PX).format == "JPEG"


def test_pages_of_a_tiff_are_not_counted(bombs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow compares each page's place with those of all before."""
    monkeypatch.setattr(bombs, "_PAGES", 500)
    loaded = []
    load = TiffImagePlugin.ImageFileDirectory_v2.load
    directory = TiffImagePlugin.ImageFileDirectory_v2
    monkeypatch.setattr(directory, "load", lambda self, file: (loaded.append(1), load(self, file))[1])
    error = refusal(bombs._many_pages())
    assert (error.reason, error.received) == ("unsupported", "2 frames")
    assert len(loaded) < 5


def test_a_tiff_whose_next_page_is_itself_is_one_picture(bombs: ModuleType) -> None:
    data = bombs.tiff({256: 8, 257: 8}, following=8)
    assert read_encoded(data, Path("a"), LIMIT_PX).trimmed.size_px == (8, 8)


ARRAYS = {
    "objects": np.array([{"a": 1}], dtype=object),
    "other numbers": np.zeros((60, 32, 32, 3), np.float64),
    "other shape": np.zeros((59, 32, 32, 3), np.uint8),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_pixels_in_the_cache_that_are_none_are_refused(cohort: Any, tmp_path: Path, array: Any) -> None:
    refuse_cached(cohort.manifest, tmp_path, lambda path: np.save(path, array, allow_pickle=True))


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", b"\x93NUMPY\x01\x00v\x00{'descr': '|u1'}"])
def test_a_cache_that_is_no_array_is_refused(cohort: Any, tmp_path: Path, data: bytes) -> None:
    refuse_cached(cohort.manifest, tmp_path, lambda path: path.write_bytes(data))


def refuse_cached(manifest: Manifest, folder: Path, spoil: Any) -> None:
    prepared = Preprocessing(manifest.canvas_px, 32)
    cache_pixels(manifest, folder, prepared)
    (path,) = folder.glob("pixels-*.npy")
    spoil(path)
    with pytest.raises(ArtifactError) as caught:
        cache_pixels(manifest, folder, prepared)
    assert caught.value.what == f"{path} cannot be read as cached pixels."
    assert caught.value.remedy == "delete this file; the images are decoded again"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_see_through_lies_over_black_as_if_laid_at_once(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows at a time, which takes a fifth of the memory."""
    monkeypatch.setattr(preprocessing, "_PIXELS_LAID_AT_ONCE", 200)
    levels = np.random.default_rng(0).integers(0, 256, (37, 53, len(mode)), dtype=np.uint8)
    image = Image.merge(mode, [Image.fromarray(levels[..., band]) for band in range(len(mode))])
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    wanted = np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"))
    file = io.BytesIO()
    image.save(file, "PNG")
    np.testing.assert_array_equal(read_encoded(file.getvalue(), Path("a"), LIMIT_PX).pixels, wanted)
