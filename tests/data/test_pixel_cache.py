from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from cohort import build_cohort, draw_cell, write_image
from leukolens.artifacts import Manifest
from leukolens.data import pixel_cache
from leukolens.data.indexed import IndexedImage, read_indexed
from leukolens.data.manifest import index
from leukolens.data.pixel_cache import PixelCache, release
from leukolens.data.preprocessing import Preprocessing, read_pixels
from leukolens.errors import ManifestError
from leukolens.settings import InputSettings


@pytest.fixture(scope="module")
def _indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexed")
    index(build_cohort(folder / "cells", subjects_per_class=3, cells_per_subject=2), folder)
    return folder


@pytest.fixture
def manifest(_indexed: Path, tmp_path: Path) -> Manifest:
    """Twelve cells of 48 x 48 px in a folder of their own, so that a test may change them."""
    loaded = Manifest.load(_indexed)
    shutil.copytree(loaded.root, tmp_path / "cells")
    return Manifest(loaded.images, {**loaded.record, "root": str(tmp_path / "cells")})


def cache_pixels(manifest: Manifest, folder: Path, input_px: int, **treatment: Any) -> PixelCache:
    """Cache on the manifest's own canvas."""
    preprocessing = Preprocessing(manifest.canvas_px, input_px, treatment=InputSettings(**treatment))
    return pixel_cache.cache_pixels(manifest, folder, preprocessing)


def with_canvas(manifest: Manifest, *canvas_px: int) -> Manifest:
    return Manifest(manifest.images, {**manifest.record, "canvas_px": list(canvas_px)})


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("an image was decoded")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("canvas_px", [(48, 48), (40, 60)])
def test_cached_pixels_are_the_preprocessed_pixels(manifest: Manifest, tmp_path: Path, canvas_px: tuple[int, int]) -> None:
    cache = cache_pixels(with_canvas(manifest, *canvas_px), tmp_path / "cache", 32)
    assert cache.pixels.shape == (12, 32, 32, 3)
    assert cache.pixels.dtype == np.uint8
    assert cache.images == tuple(manifest.images["image"])
    for row, image in enumerate(cache.images):
        decoded = read_pixels(manifest.root / image, max_pixels=48 * 48).pixels
        np.testing.assert_array_equal(cache.pixels[row], Preprocessing(canvas_px, 32).apply(decoded))


def test_pixels_are_mapped_and_not_read_into_memory(manifest: Manifest, tmp_path: Path) -> None:
    cache = cache_pixels(manifest, tmp_path / "cache", 32)
    assert isinstance(cache.pixels, np.memmap)
    assert not cache.pixels.flags.writeable


def test_second_call_decodes_nothing(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache_pixels(manifest, tmp_path / "cache", 32)
    monkeypatch.setattr(pixel_cache, "read_indexed", refuse)
    np.testing.assert_array_equal(cache_pixels(manifest, tmp_path / "cache", 32).pixels, first.pixels)


def test_every_canvas_size_and_content_has_its_own_file(manifest: Manifest, tmp_path: Path) -> None:
    cache_pixels(manifest, tmp_path, 32)
    cache_pixels(manifest, tmp_path, 40)
    cache_pixels(with_canvas(manifest, 44, 44), tmp_path, 32)
    fewer = Manifest(manifest.images.iloc[:5].reset_index(drop=True), manifest.record)
    assert cache_pixels(fewer, tmp_path, 32).pixels.shape[0] == 5
    changed = write_image(manifest.root / manifest.images["image"][0], draw_cell(999, 14))
    again = cache_pixels(index(manifest.root), tmp_path, 32)
    assert len(list(tmp_path.glob("pixels-*.npy"))) == 5
    expected = Preprocessing((48, 48), 32).apply(read_pixels(changed, 48 * 48).pixels)
    np.testing.assert_array_equal(again.pixels[0], expected)


TREATMENTS = [{}, {"crop": "centre", "crop_px": 36}, {"crop": "cell"}, {"colour": "grey"}, {"colour": "constancy"},
              {"crop": "cell", "colour": "grey"}]  # fmt: skip


def test_treatments_lie_side_by_side_and_are_found_again(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [cache_pixels(manifest, tmp_path / "cache", 32, **treatment) for treatment in TREATMENTS]
    assert len(list((tmp_path / "cache").glob("pixels-*.npy"))) == len(TREATMENTS)
    monkeypatch.setattr(pixel_cache, "read_indexed", refuse)
    for cache, treatment in zip(made, TREATMENTS, strict=True):
        np.testing.assert_array_equal(cache_pixels(manifest, tmp_path / "cache", 32, **treatment).pixels, cache.pixels)
    for one, other in itertools.combinations(made, 2):
        assert (one.pixels != other.pixels).any()


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_cached_pixels_are_those_that_the_record_prepares(
    manifest: Manifest, tmp_path: Path, treatment: dict[str, Any]
) -> None:
    cache = cache_pixels(manifest, tmp_path / "cache", 32, **treatment)
    prepared = Preprocessing.from_record(Preprocessing((48, 48), 32).to_record() | treatment)
    for row, image in enumerate(cache.images):
        decoded = read_pixels(manifest.root / image, max_pixels=48 * 48)
        np.testing.assert_array_equal(cache.pixels[row], prepared.apply(decoded.pixels))
        np.testing.assert_array_equal(cache.pixels[row], prepared.apply(decoded.trimmed))


def test_weights_share_pixels_whatever_their_mean_and_deviation(manifest: Manifest, tmp_path: Path) -> None:
    for mean in (0.0, 0.4):
        pixel_cache.cache_pixels(manifest, tmp_path, Preprocessing((48, 48), 32, mean=(mean, mean, mean)))
    assert len(list(tmp_path.glob("pixels-*.npy"))) == 1


def test_canvas_is_that_of_the_preprocessing_not_of_the_manifest(manifest: Manifest, tmp_path: Path) -> None:
    wanted = cache_pixels(with_canvas(manifest, 40, 60), tmp_path, 32).pixels
    found = pixel_cache.cache_pixels(manifest, tmp_path, Preprocessing((40, 60), 32)).pixels
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("side_px", [40, 60])
def test_image_of_another_size_than_indexed_raises_and_names_it(
    manifest: Manifest, tmp_path: Path, side_px: int
) -> None:
    path = write_image(manifest.root / manifest.images["image"][3], draw_cell(1, side_px=side_px))
    with pytest.raises(ManifestError) as caught:
        cache_pixels(manifest, tmp_path / "cache", 32)
    assert caught.value.what == f"{path} has changed since it was indexed."
    assert caught.value.expected == "48 x 48 pixels"
    assert caught.value.remedy == "run `leukolens index` again"
    if side_px < 48:
        assert caught.value.received == "40 x 40 pixels"


def test_image_of_other_pixels_than_indexed_raises_and_names_it(manifest: Manifest, tmp_path: Path) -> None:
    path = write_image(manifest.root / manifest.images["image"][3], draw_cell(999))
    with pytest.raises(ManifestError) as caught:
        cache_pixels(manifest, tmp_path / "cache", 32)
    assert caught.value.what == f"{path} has changed since it was indexed."
    assert caught.value.expected == f"pixels of content hash {manifest.images['content_hash'][3]}"


def test_image_that_has_gone_raises_and_names_it(manifest: Manifest, tmp_path: Path) -> None:
    path = manifest.root / manifest.images["image"][3]
    path.unlink()
    with pytest.raises(ManifestError) as caught:
        cache_pixels(manifest, tmp_path / "cache", 32)
    assert caught.value.what == f"{path} has changed since it was indexed."
    assert files(tmp_path / "cache") == []


def test_interrupted_filling_leaves_no_file(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = manifest.root / manifest.images["image"].iloc[-1]

    def interrupt(root: Path, row: IndexedImage) -> Any:
        if root / row.image == last:
            raise KeyboardInterrupt
        return read_indexed(root, row)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pixel_cache, "read_indexed", interrupt)
        cache_pixels(manifest, tmp_path / "cache", 32)
    assert files(tmp_path / "cache") == []
    assert cache_pixels(manifest, tmp_path / "cache", 32).pixels.any(axis=(1, 2, 3)).all()


def test_released_pixels_are_read_again(manifest: Manifest, tmp_path: Path) -> None:
    pixels = cache_pixels(manifest, tmp_path / "cache", 32).pixels
    before = pixels.copy()
    release(pixels)
    np.testing.assert_array_equal(pixels, before)


def test_released_pixels_leave_the_memory_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    np.save(path, np.ones((2_000, 64, 64, 3), np.uint8))  # 24.6 MB
    pixels = np.load(path, mmap_mode="r")
    if not Path("/proc/self/smaps").is_file():
        pytest.skip("the memory of a mapping is read from /proc, which this system lacks")
    assert pixels.sum() == pixels.size
    assert resident_kb(path) > 20_000
    release(pixels)
    assert resident_kb(path) == 0


def test_release_leaves_pixels_in_memory_alone() -> None:
    pixels = np.ones((2, 4, 4, 3), np.uint8)
    release(pixels)
    release(pixels[:1])
    assert pixels.all()


def resident_kb(path: Path) -> int:
    """Kilobytes of the mapping of `path` that are in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return int(next(each for each in lines if each.startswith("Rss:")).split()[1])
    raise LookupError(path)


def test_rows_are_found_by_name(manifest: Manifest, tmp_path: Path) -> None:
    cache = cache_pixels(manifest, tmp_path / "cache", 32)
    names = list(manifest.images["image"])
    assert cache.rows_of([names[7], names[0], names[7]]).tolist() == [7, 0, 7]
