"""The phantom: counts, layout, planted traps, the same bytes for a seed, and cells whose sizes follow the published ones."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukolens.artifacts import hash_file
from leukolens.data import phantom as phantom_module
from leukolens.data import phantom_plan
from leukolens.data.manifest import index
from leukolens.data.phantom import MARKER_FILE, NOTICE, ROOT_NAME, encode_bmp, phantom
from leukolens.data.phantom_cells import DARKEST_FOREGROUND, draw_cell, draw_mask, draw_outline, draw_traits
from leukolens.data.preprocessing import read_pixels
from leukolens.errors import ImageError, SettingsError
from leukolens.settings import PhantomSettings
from small_composition import SMALL

LIKE = PhantomSettings(like="c-nmc-2019")
SETTINGS = PhantomSettings(cells=60, subjects=12, seed=3)
WHOLE_FILE_BYTES = 54 + 450 * 1352  # rows of 450 x 3 bytes are padded to 1352
TRAINING_NAME = re.compile(r"UID_([Hh]?\d+)_(\d+)_(\d+)_(all|hem)\.bmp")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return phantom(tmp_path_factory.mktemp("phantom"), SETTINGS)


@pytest.fixture(scope="module")
def training(root):
    return sorted((root / "training_data").rglob("*.bmp"))


@pytest.fixture(scope="module")
def whole(training):
    return [path for path in training if path.stat().st_size >= WHOLE_FILE_BYTES]


def subject_of(path):
    return TRAINING_NAME.fullmatch(path.name)[1].upper()


def pixels_of(path):
    return read_pixels(path, 1_000_000).pixels


def hashes_below(root):
    return {path.relative_to(root).as_posix(): hash_file(path) for path in root.rglob("*") if path.is_file()}


def test_layout_and_counts(root, training, whole):
    assert root.name == ROOT_NAME == "phantom_C-NMC_Leukemia"
    assert sorted(path.name for path in root.iterdir()) == [
        "SYNTHETIC.json", "testing_data", "training_data", "validation_data",
    ]  # fmt: skip
    assert len(whole) == SETTINGS.cells
    assert len(training) == SETTINGS.cells + 1
    folders = {path.parent.relative_to(root / "training_data").as_posix() for path in training}
    assert folders == {f"fold_{fold}/{label}" for fold in range(3) for label in ("all", "hem")}
    labels = Counter(path.parent.name for path in whole)
    assert labels == {"all": 38, "hem": 22}  # 36 % of 60 is 21.6


def test_names_say_label_subject_and_fold(training):
    spelt = {TRAINING_NAME.fullmatch(path.name)[1] for path in training}
    assert spelt == {*"12345678", "H1", "H2", "h3", "H4"}  # 26 of 73 of 12 subjects are 4.3
    for path in training:
        assert (path.parent.name == "hem") == subject_of(path).startswith("H")
    fold_of = {(subject_of(path), path.parent.parent.name) for path in training}
    assert len(fold_of) == len({subject for subject, _ in fold_of}) == SETTINGS.subjects


def test_marker_says_synthetic(root):
    marker = json.loads((root / MARKER_FILE).read_text())
    assert marker["notice"] == NOTICE == "synthetic phantom cells: no real cell, no patient"
    assert (marker["generator"], marker["version"], marker["seed"]) == ("leukolens phantom", 1, 3)
    assert marker["settings"] == {"cells": 60, "subjects": 12, "seed": 3}


def test_preliminary_labels(root, training):
    folder = root / "validation_data"
    with (folder / "C-NMC_test_prelim_phase_data_labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    images = {path.name for path in (folder / "C-NMC_test_prelim_phase_data").iterdir()}
    assert images == {f"{number}.bmp" for number in range(1, len(rows))}
    assert [row["new_names"] for row in rows] == [f"{number}.bmp" for number in range(1, len(rows) + 1)]
    assert list(rows[0]) == ["Patient_ID", "new_names", "labels"]
    for row in rows:
        assert row["labels"] == {"all": "1", "hem": "0"}[TRAINING_NAME.fullmatch(row["Patient_ID"])[4]]
    subjects = {TRAINING_NAME.fullmatch(row["Patient_ID"])[1] for row in rows}
    assert subjects == {"9", "10", "H5", "H6"}
    assert not subjects & {subject_of(path) for path in training}


def test_cells_stand_on_exact_black(root, whole):
    for path in [*whole, *(root / "validation_data").rglob("*.bmp")]:
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((450, 450), "RGB", "BMP")
        brightest = pixels_of(path).max(axis=2)
        cell = brightest[brightest > 0]
        assert cell.min() >= DARKEST_FOREGROUND > 40
        assert cell.size > 5_000
        assert not brightest[:10].any()
        assert not brightest[:, -10:].any()


def test_copies_are_planted(whole):
    by_bytes, by_pixels = {}, {}
    for path in whole:
        by_bytes.setdefault(hash_file(path), []).append(path)
        by_pixels.setdefault(pixels_of(path).tobytes(), []).append(path)
    same_bytes = [paths for paths in by_bytes.values() if len(paths) > 1]
    across = [paths for paths in same_bytes if len({subject_of(path) for path in paths}) == 2]
    within = [paths for paths in same_bytes if len({subject_of(path) for path in paths}) == 1]
    assert len(across) == len(within) == 1
    assert len({path.parent.parent.name for path in across[0]}) == 2
    long_headers = [path for path in whole if path.stat().st_size == WHOLE_FILE_BYTES + 84]
    assert len(long_headers) == 1
    same_pixels = next(paths for paths in by_pixels.values() if long_headers[0] in paths)
    assert len(same_pixels) == 2
    assert sum(len(paths) - 1 for paths in by_pixels.values()) == 3


def test_one_file_is_truncated(training, whole):
    (broken,) = set(training) - set(whole)
    assert broken.parent.relative_to(broken.parents[2]).as_posix() == "fold_0/all"
    with pytest.raises(ImageError) as caught:
        read_pixels(broken, 1_000_000)
    assert caught.value.reason == "truncated"


def test_final_image_is_a_padded_training_cell(root, whole):
    folder = root / "testing_data" / "C-NMC_test_final_phase_data"
    assert sorted(path.name for path in folder.iterdir()) == ["1.bmp", "2.bmp"]
    first, second = (pixels_of(folder / name) for name in ("1.bmp", "2.bmp"))
    assert first.shape == second.shape == (600, 600, 3)
    inner = {pixels_of(path).tobytes() for path in whole}
    assert first[75:525, 75:525].tobytes() in inner
    assert second[75:525, 75:525].tobytes() not in inner
    margin = np.ones((600, 600), bool)
    margin[75:525, 75:525] = False
    assert not first[margin].any()
    assert not second[margin].any()


def test_same_seed_same_bytes_other_seed_other_cells(tmp_path):
    settings = PhantomSettings(cells=40, subjects=12)
    first, second = (hashes_below(phantom(tmp_path / name, settings)) for name in ("first", "second"))
    assert first == second
    other = hashes_below(phantom(tmp_path / "other", PhantomSettings(cells=40, subjects=12, seed=1)))
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize(("label", "mean_px", "sd_px"), [("all", 36_244, 7_176), ("hem", 26_544, 7_762)])
def test_areas_follow_the_published_ones(label, mean_px, sd_px):
    areas = []
    for number in range(400):
        random = np.random.default_rng([9, number])
        traits = draw_traits(label, (random.normal(), random.normal()), random)
        mask = draw_mask(draw_outline(traits, random))
        assert not mask[:8].any()
        assert not mask[-8:].any()
        areas.append(int(mask.sum()))
    assert np.mean(areas) == pytest.approx(mean_px, rel=0.04)
    assert np.std(areas) == pytest.approx(sd_px, rel=0.10)


def test_cells_of_a_subject_share_its_stain():
    def mean_colours(subject):
        traits = draw_traits("all", (0.0, 0.0), np.random.default_rng(subject))
        cells = [draw_cell(traits, np.random.default_rng([subject, number])) for number in range(4)]
        return np.array([cell[cell.max(axis=2) > 0].mean(axis=0) for cell in cells])

    colours = np.array([mean_colours(subject) for subject in range(8)])
    within, between = colours.std(axis=1).mean(), colours.mean(axis=1).std(axis=0).mean()
    assert between > 3 * within


@pytest.fixture(scope="module")
def like(tmp_path_factory):
    """A set like a published one of 69 training cells."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(phantom_plan, "COMPOSITIONS", {"c-nmc-2019": SMALL})
        return phantom(tmp_path_factory.mktemp("like"), LIKE)


def test_like_a_published_set_has_its_files_and_no_damaged_one(like):
    training = sorted((like / "training_data").rglob("*.bmp"))
    preliminary = sorted((like / "validation_data").rglob("*.bmp"))
    assert (len(training), len(preliminary)) == (69, 12)
    assert {path.stat().st_size for path in training} == {WHOLE_FILE_BYTES}
    assert {path.stat().st_size for path in preliminary} == {WHOLE_FILE_BYTES + 84}
    final = sorted((like / "testing_data").rglob("*.bmp"))
    assert {path.stat().st_size for path in final} == {54 + 600 * 1800}
    marker = json.loads((like / MARKER_FILE).read_text())
    assert marker["settings"] == {"like": "c-nmc-2019", "seed": 0}


def test_like_a_published_set_is_indexed_as_that_set_is(like, tmp_path):
    manifest = index(like, tmp_path)
    flow = manifest.record["flow"]
    assert (flow["found"], flow["set_aside"], flow["labelled"], flow["unlabelled"]) == (89, {}, 81, 8)
    assert (flow["csv_rows_without_image"], flow["images_without_csv_row"]) == (0, 0)
    assert flow["merged_groups"] == [["20", "21"], ["51", "75"], ["H2", "H6"], ["H3", "H10"]]
    # 9 in the training folds, the padded cell, the final pair; the one pair of a subject's own is within a fold.
    assert (flow["duplicate_sets"], flow["duplicate_images"]) == (11, 11)
    assert flow["duplicate_sets_across_subjects"] == 8
    assert flow["duplicate_sets_across_folds"] == 8
    assert flow["duplicate_sets_across_parts"] == 1
    assert {(row["part"], row["fold"], row["label"]): (row["images"], row["subjects"]) for row in flow["counts"]} == {
        ("train", "fold_0", "HEM"): (8, 2), ("train", "fold_0", "ALL"): (11, 2), ("train", "fold_1", "HEM"): (7, 1),
        ("train", "fold_1", "ALL"): (18, 2), ("train", "fold_2", "HEM"): (11, 3), ("train", "fold_2", "ALL"): (14, 3),
        ("preliminary", None, "HEM"): (4, 1), ("preliminary", None, "ALL"): (8, 2), ("final", None, None): (8, 0),
    }  # fmt: skip
    images = manifest.images.set_index("image")
    padded = images.loc["testing_data/C-NMC_test_final_phase_data/1.bmp"]
    assert padded["pixel_hash"] == images.loc["training_data/fold_1/all/UID_51_2_4_all.bmp", "pixel_hash"]


def test_like_a_published_set_and_a_small_one_do_not_mix(like):
    with pytest.raises(SettingsError) as caught:
        phantom(like.parent, SETTINGS)
    assert caught.value.received == "another phantom: like c-nmc-2019, seed 0"
    assert phantom(like.parent, LIKE) == like


def test_too_little_room_is_told_before_anything_is_drawn(tmp_path, monkeypatch):
    usage = phantom_module.shutil.disk_usage(tmp_path)._replace(free=10_000_000_000)
    monkeypatch.setattr(phantom_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SettingsError) as caught:
        phantom(tmp_path, LIKE)
    assert str(caught.value) == (
        f"{tmp_path} has too little room for the phantom.\n"
        "  expected: 10.4 GB free\n"
        "  received: 10.0 GB free\n"
        "  remedy:   make room, or write to another disk"
    )
    assert list(tmp_path.iterdir()) == []


def test_existing_set_is_kept_untouched(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert phantom(root.parent, SETTINGS) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_existing_other_set_is_refused(root):
    with pytest.raises(SettingsError) as caught:
        phantom(root.parent, PhantomSettings(cells=60, subjects=12, seed=4))
    assert str(caught.value) == (
        f"{root} exists already.\n"
        "  expected: nothing there, or the phantom of cells 60, subjects 12, seed 4\n"
        "  received: another phantom: cells 60, subjects 12, seed 3\n"
        "  remedy:   write to another folder, or move this one away"
    )


def test_existing_changed_or_foreign_folder_is_refused(tmp_path):
    settings = PhantomSettings(cells=40, subjects=12)
    root = phantom(tmp_path, settings)
    next((root / "training_data").rglob("*.bmp")).unlink()
    with pytest.raises(SettingsError, match="whose files were changed"):
        phantom(tmp_path, settings)
    (root / MARKER_FILE).unlink()
    with pytest.raises(SettingsError, match=r"a folder without SYNTHETIC\.json"):
        phantom(tmp_path, settings)


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom_module, "_write_preliminary_labels", fail)
    with pytest.raises(KeyboardInterrupt):
        phantom(tmp_path, PhantomSettings(cells=40, subjects=12))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "received"),
    [({"cells": 40, "subjects": 14}, "40 cells of 14 subjects"), ({"seed": -1}, "-1")],
)
def test_impossible_settings_are_refused(tmp_path, settings, received):
    with pytest.raises(SettingsError) as caught:
        phantom(tmp_path, PhantomSettings(**settings))
    assert caught.value.received == received
    assert list(tmp_path.iterdir()) == []


def test_out_may_not_be_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match="cannot hold the phantom"):
        phantom(tmp_path / "file")


@pytest.mark.parametrize("long_header", [False, True])
def test_bmp_decodes_to_the_same_pixels(tmp_path: Path, long_header):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "image.bmp"
    path.write_bytes(encode_bmp(pixels, long_header=long_header))
    assert path.stat().st_size == (138 if long_header else 54) + 5 * 24  # 7 x 3 bytes, padded to 24
    np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), pixels)
