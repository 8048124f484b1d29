"""The index: what it hashes, sets aside, merges, counts, writes and reads again."""

from __future__ import annotations

import csv
import logging
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from cohort import build_cohort, draw_cell, write_image
from leukolens.artifacts import MANIFEST_COLUMNS, Manifest, read_json
from leukolens.data import fingerprints, preprocessing
from leukolens.data.fingerprints import hash_content, hash_pixels, take_fingerprint, take_fingerprints
from leukolens.data.manifest import flow_lines, index, merge_subjects, natural_order
from leukolens.data.trimmed import trim
from leukolens.errors import ManifestError
from leukolens.settings import IndexSettings

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def write_bmp(path: Path, pixels: NDArray[np.uint8], header_bytes: int) -> Path:
    """Write a 24-bit BMP with a header of 54 bytes or of 138 (version 5), as both occur in C-NMC."""
    height, width = pixels.shape[:2]
    lines = [row[:, ::-1].tobytes() for row in pixels[::-1]]
    data = b"".join(line + bytes(-len(line) % 4) for line in lines)
    info = struct.pack("<IiiHHIIiiII", header_bytes - 14, width, height, 1, 24, 0, len(data), 2835, 2835, 0, 0)
    info = info.ljust(header_bytes - 14, b"\0")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"BM" + struct.pack("<IHHI", header_bytes + len(data), 0, 0, header_bytes) + info + data)
    return path


def padded(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    return preprocessing.fit_canvas(pixels, (side_px, side_px))


def rows_of(manifest: Manifest) -> dict[str, pd.Series]:
    return {row["image"]: row for _, row in manifest.images.iterrows()}


def check_flow(manifest: Manifest) -> dict[str, object]:
    """Nothing is lost: found = usable + set aside, and the counts of the table are the usable images."""
    flow = manifest.record["flow"]
    assert flow["found"] == flow["usable"] + sum(flow["set_aside"].values())
    assert sum(flow["set_aside"].values()) == len(flow["set_aside_images"])
    assert flow["usable"] == flow["labelled"] + flow["unlabelled"] == len(manifest.images)
    assert sum(count["images"] for count in flow["counts"]) == flow["usable"]
    return flow


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return build_cohort(tmp_path / "cohort", subjects_per_class=3, cells_per_subject=2)


def test_manifest_of_a_clean_cohort(cohort: Path, tmp_path: Path) -> None:
    manifest = index(cohort, tmp_path / "out")
    assert check_flow(manifest) == {
        "found": 12,
        "set_aside": {},
        "set_aside_images": [],
        "csv_rows_without_image": 0,
        "images_without_csv_row": 0,
        "usable": 12,
        "labelled": 12,
        "unlabelled": 0,
        "duplicate_images": 0,
        "duplicate_sets": 0,
        "duplicate_sets_across_subjects": 0,
        "duplicate_sets_across_folds": 0,
        "duplicate_sets_across_parts": 0,
        "merged_groups": [],
        "subjects": 6,
        "groups": 6,
        "counts": [
            {"part": "train", "fold": f"fold_{fold}", "label": label, "images": 2, "subjects": 1}
            for fold in range(3)
            for label in ("HEM", "ALL")
        ],
    }
    record = manifest.record
    assert (record["layout"], record["classes"], record["positive"]) == ("Kaggle", ["HEM", "ALL"], ["ALL"])
    assert (record["canvas_px"], record["synthetic"], manifest.root) == ([48, 48], False, cohort)
    assert list(manifest.images.columns) == list(MANIFEST_COLUMNS)
    assert list(manifest.images["image"]) == sorted(manifest.images["image"])
    assert (manifest.images["group"] == manifest.images["subject"]).all()


def test_files_written_are_the_manifest_returned(cohort: Path, tmp_path: Path) -> None:
    manifest = index(cohort, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "flow.json", "manifest.parquet", "set_aside.csv",
    ]  # fmt: skip
    loaded = Manifest.load(tmp_path / "out")
    pd.testing.assert_frame_equal(loaded.images, manifest.images)
    assert loaded.record == manifest.record
    assert read_json(tmp_path / "out" / "flow.json") == manifest.record["flow"]
    assert (tmp_path / "out" / "set_aside.csv").read_text() == "image,reason,detail\n"


def test_without_out_nothing_is_written(cohort: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    index(str(cohort))
    assert sorted(tmp_path.rglob("*")) == before


def test_measures_of_one_cell(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[2:4, 3:6] = (100, 50, 200)
    pixels[2, 3] = (40, 20, 80)
    pixels[5, 7] = (12, 12, 12)  # background: not counted in the area, but not exactly 0 either
    path = write_image(tmp_path / "cell.png", pixels)
    taken = take_fingerprint(path, 10**6)
    assert (taken.height_px, taken.width_px, taken.format, taken.bytes) == (6, 8, "PNG", path.stat().st_size)
    assert taken.area_px == 6
    assert (taken.mean_red, taken.mean_green, taken.mean_blue) == pytest.approx((90, 45, 180))  # (5 x 100 + 40) / 6
    assert taken.content_hash == hash_content(trim(pixels))
    assert taken.pixel_hash == hash_pixels(pixels[2:6, 3:8])


def test_measures_where_nothing_is_foreground(tmp_path: Path) -> None:
    taken = take_fingerprint(write_image(tmp_path / "dim.png", np.full((4, 4, 3), 5, np.uint8)), 10**6)
    assert taken.area_px == 0
    assert np.isnan(taken.mean_red)


def test_hash_knows_the_shape() -> None:
    pixels = np.ones((4, 6, 3), np.uint8)
    assert hash_pixels(pixels) != hash_pixels(pixels.reshape(6, 4, 3))


def test_content_hash_tells_pictures_and_pixel_hash_cells_apart() -> None:
    cell = np.full((2, 3, 3), 7, np.uint8)
    placed = [np.pad(cell, (rows, columns, (0, 0))) for rows, columns in [((1, 1), (1, 1)), ((0, 2), (1, 1)),
                                                                          ((1, 1), (0, 2)), ((1, 2), (1, 1))]]  # fmt: skip
    brighter = placed[0] + (placed[0] > 0).astype(np.uint8)
    assert len({hash_content(trim(each)) for each in [*placed, brighter]}) == 5
    assert len({hash_pixels(trim(each).window) for each in placed}) == 1
    assert hash_content(trim(placed[0].copy())) == hash_content(trim(placed[0]))


def test_padded_copy_and_both_bmp_headers_are_the_same_cell(tmp_path: Path) -> None:
    cell = draw_cell(1, radius_px=120, side_px=450)
    folder = tmp_path / "fold_0"
    write_bmp(folder / "all" / "UID_1_1_1_all.bmp", cell, 54)
    write_bmp(folder / "all" / "UID_1_2_1_all.bmp", cell, 138)
    write_image(tmp_path / "phase3" / "1.bmp", padded(cell, 600))
    write_image(folder / "hem" / "UID_H1_1_1_hem.bmp", draw_cell(2, radius_px=90, side_px=450))
    manifest = index(tmp_path)
    rows = rows_of(manifest)
    first, second = rows["fold_0/all/UID_1_1_1_all.bmp"], rows["fold_0/all/UID_1_2_1_all.bmp"]
    final = rows["phase3/1.bmp"]
    assert first["bytes"] + 84 == second["bytes"]
    assert first["content_hash"] == second["content_hash"] != final["content_hash"]
    assert first["pixel_hash"] == second["pixel_hash"] == final["pixel_hash"]
    assert [row["duplicate_of"] for row in (second, final)] == [first["image"]] * 2
    assert pd.isna(first["duplicate_of"])
    assert manifest.record["canvas_px"] == [450, 450]
    flow = check_flow(manifest)
    assert (flow["duplicate_images"], flow["duplicate_sets"], flow["duplicate_sets_across_parts"]) == (2, 1, 1)
    assert (flow["duplicate_sets_across_subjects"], flow["duplicate_sets_across_folds"]) == (0, 0)
    assert flow["counts"][-1] == {"part": "final", "fold": None, "label": None, "images": 1, "subjects": 0}


def test_subjects_that_share_cells_are_one_group(cohort: Path) -> None:
    training = cohort / "training_data"
    write_image(training / "fold_1" / "all" / "UID_1_9_1_all.bmp", draw_cell(901))  # 1 and 2 share a cell
    write_image(training / "fold_2" / "all" / "UID_2_9_1_all.bmp", draw_cell(901))
    write_image(training / "fold_2" / "all" / "UID_2_9_2_all.png", draw_cell(902))  # 2 and 3 share another
    write_image(training / "fold_0" / "all" / "UID_3_9_1_all.bmp", draw_cell(902))
    shutil.move(training / "fold_0" / "hem", training / "fold_0" / "h")
    (training / "fold_0" / "hem").mkdir()
    for path in (training / "fold_0" / "h").iterdir():  # H3 spelt h3, as in the published data
        path.rename(training / "fold_0" / "hem" / path.name.replace("H3", "h3"))
    (training / "fold_0" / "h").rmdir()
    manifest = index(cohort)
    groups = dict(zip(manifest.images["subject"], manifest.images["group"], strict=True))
    assert groups == {"1": "1+2+3", "2": "1+2+3", "3": "1+2+3", "H1": "H1", "H2": "H2", "H3": "H3"}
    flow = check_flow(manifest)
    assert flow["merged_groups"] == [["1", "2", "3"]]
    assert (flow["subjects"], flow["groups"]) == (6, 4)
    assert (flow["duplicate_sets"], flow["duplicate_sets_across_subjects"], flow["duplicate_sets_across_folds"]) == (
        2, 2, 2,
    )  # fmt: skip


def test_union_find_chain_and_names() -> None:
    linked = [["21", "20"], ["H3"], ["51", "78"], ["75", "51"], ["H10", "H3"], ["9"]]
    assert merge_subjects(linked) == {
        "9": "9", "20": "20+21", "21": "20+21", "51": "51+75+78", "75": "51+75+78", "78": "51+75+78",
        "H3": "H3+H10", "H10": "H3+H10",
    }  # fmt: skip
    assert sorted(["H10", "100", "H3", "21", "3"], key=natural_order) == ["3", "21", "100", "H3", "H10"]


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture
def mess(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The clean cohort and one file for every way in which real folders go wrong."""
    folder = cohort / "training_data" / "fold_0" / "all"
    whole = write_image(folder / "UID_3_50_1_all.bmp", draw_cell(50))
    whole.write_bytes(whole.read_bytes()[:3000])
    (folder / "UID_3_51_1_all.bmp").touch()
    (folder / "UID_3_52_1_all.png").write_text("this is no picture")
    (folder / "UID_3_53_1_all.png").write_bytes(png_header(20_000, 20_000))
    (folder / "UID_3_54_1_all.bmp").symlink_to(folder / "gone.bmp")
    closed = write_image(folder / "UID_3_55_1_all.bmp", draw_cell(55))
    (folder / ".DS_Store").touch()
    write_image(folder / "UID_3_57_1_all.bmp", draw_cell(57))
    write_image(cohort / "training_data" / "fold_2" / "hem" / "UID_H2_57_1_hem.bmp", draw_cell(57))
    opened = preprocessing._source

    def refuse(path: Path, size_bytes: int) -> object:  # the root user reads whatever its permission bits are
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, size_bytes)

    monkeypatch.setattr(preprocessing, "_source", refuse)
    return cohort


def test_mess_is_named_counted_and_the_rest_used(mess: Path, tmp_path: Path) -> None:
    manifest = index(mess, tmp_path / "out")
    flow = check_flow(manifest)
    assert (flow["found"], flow["usable"]) == (12 + 9, 12)
    assert flow["set_aside"] == {
        "empty": 1, "label_conflict": 2, "missing": 1, "no_permission": 1, "not_an_image": 2, "too_large": 1,
        "truncated": 1,
    }  # fmt: skip
    with (tmp_path / "out" / "set_aside.csv").open(newline="") as file:
        named = {Path(row["image"]).name: row["reason"] for row in csv.DictReader(file)}
    assert named == {
        ".DS_Store": "not_an_image",
        "UID_3_50_1_all.bmp": "truncated",
        "UID_3_51_1_all.bmp": "empty",
        "UID_3_52_1_all.png": "not_an_image",
        "UID_3_53_1_all.png": "too_large",
        "UID_3_54_1_all.bmp": "missing",
        "UID_3_55_1_all.bmp": "no_permission",
        "UID_3_57_1_all.bmp": "label_conflict",
        "UID_H2_57_1_hem.bmp": "label_conflict",
    }
    conflict = next(each for each in flow["set_aside_images"] if "H2_57" in each["image"])
    assert conflict["detail"] == "the same cell as training_data/fold_0/all/UID_3_57_1_all.bmp (ALL)"
    text = "\n".join(flow_lines(manifest))
    assert all(name in text for name in named)


def test_strict_names_the_first_file_in_path_order(mess: Path, tmp_path: Path) -> None:
    strict = IndexSettings(strict=True)
    with pytest.raises(ManifestError) as caught:
        index(mess, tmp_path / "out", strict)
    assert caught.value.what == "training_data/fold_0/all/.DS_Store cannot be used, and --strict was asked."
    assert caught.value.received == "not_an_image: a hidden file"
    (mess / "training_data" / "fold_0" / "all" / ".DS_Store").unlink()
    with pytest.raises(ManifestError) as caught:
        index(mess, tmp_path / "out", strict)
    name = "training_data/fold_0/all/UID_3_50_1_all.bmp"
    assert caught.value.what == f"{name} cannot be used, and --strict was asked."
    assert caught.value.received.startswith("truncated: ")
    assert not (tmp_path / "out").exists()


def test_strict_decodes_nothing_after_the_first_file_that_is_no_image(
    cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cohort / "training_data" / "fold_0" / "notes.txt").touch()
    decoded: list[str] = []
    real = fingerprints.read_pixels
    monkeypatch.setattr(fingerprints, "read_pixels", lambda path, limit: decoded.append(path.name) or real(path, limit))
    with pytest.raises(ManifestError, match=r"fold_0/notes\.txt cannot be used"):
        index(cohort, settings=IndexSettings(strict=True))
    assert sorted(decoded) == ["UID_3_1_1_all.bmp", "UID_3_2_1_all.bmp", "UID_H3_1_1_hem.bmp", "UID_H3_2_1_hem.bmp"]


def test_strict_stops_at_an_earlier_manifest_too(mess: Path, tmp_path: Path) -> None:
    index(mess, tmp_path / "out")
    with pytest.raises(ManifestError, match=r"\.DS_Store cannot be used"):
        index(mess, tmp_path / "out", IndexSettings(strict=True))


def test_strict_sees_conflicting_duplicates(cohort: Path) -> None:
    write_image(cohort / "training_data/fold_1/all/UID_1_9_1_all.bmp", draw_cell(9))
    write_image(cohort / "training_data/fold_1/hem/UID_H1_9_1_hem.bmp", draw_cell(9))
    index(cohort)
    with pytest.raises(ManifestError, match="received: label_conflict: the same cell as"):
        index(cohort, settings=IndexSettings(strict=True))


def test_strict_passes_a_clean_cohort(cohort: Path) -> None:
    assert len(index(cohort, settings=IndexSettings(strict=True)).images) == 12


def test_second_index_decodes_nothing(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = index(cohort, tmp_path / "out")
    (tmp_path / "out" / "flow.json").unlink()
    monkeypatch.setattr(fingerprints, "read_pixels", lambda *_: pytest.fail("decoded again"))
    with caplog.at_level(logging.INFO, "leukolens"):
        second = index(cohort, tmp_path / "out")
    assert caplog.messages == [f"index: unchanged, 12 images read again from {tmp_path / 'out' / 'manifest.parquet'}"]
    pd.testing.assert_frame_equal(second.images, first.images)
    assert second.record == first.record
    assert (tmp_path / "out" / "flow.json").is_file()


def test_changed_files_and_settings_are_indexed_again(cohort: Path, tmp_path: Path) -> None:
    index(cohort, tmp_path / "out")
    write_image(cohort / "training_data/fold_1/all/UID_1_1_1_all.bmp", draw_cell(77))
    changed = index(cohort, tmp_path / "out")
    assert rows_of(changed)["training_data/fold_1/all/UID_1_1_1_all.bmp"]["content_hash"] == hash_content(trim(draw_cell(77)))
    assert index(cohort, tmp_path / "out", IndexSettings(canvas_px=(32, 40))).record["canvas_px"] == [32, 40]
    assert index(cohort, tmp_path / "out", IndexSettings(positive=("HEM",))).classes == ("ALL", "HEM")
    tight = IndexSettings(max_pixels=48 * 48)
    write_image(cohort / "training_data/fold_1/all/UID_1_9_1_all.bmp", draw_cell(78, side_px=50))
    assert check_flow(index(cohort, tmp_path / "out", tight))["set_aside"] == {"too_large": 1}
    assert check_flow(index(cohort, tmp_path / "out"))["set_aside"] == {}


def test_damaged_earlier_manifest_is_made_again(
    cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out" / "manifest.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1")
    assert len(index(cohort, tmp_path / "out").images) == 12
    assert caplog.messages == [f"index: {path} cannot be read. It is made again."]
    assert len(Manifest.load(path).images) == 12


def test_order_on_disk_does_not_matter(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = index(cohort)
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(sorted(listed(folder), reverse=True)))
    for workers in (1, 3):
        again = index(cohort, settings=IndexSettings(workers=workers))
        pd.testing.assert_frame_equal(again.images, expected.images)
        assert again.record == expected.record


def test_copy_made_in_another_order_has_the_same_version(cohort: Path, tmp_path: Path) -> None:
    for path in sorted(cohort.rglob("*.bmp"), reverse=True):
        target = tmp_path / "copy" / path.relative_to(cohort)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert index(tmp_path / "copy").content_hash == index(cohort).content_hash


def test_canvas_is_the_most_common_size_and_of_equals_the_larger(tmp_path: Path) -> None:
    for number, side_px in enumerate((48, 48, 60, 60, 30)):
        write_image(tmp_path / "A" / f"{number}.png", draw_cell(number, side_px=side_px))
    write_image(tmp_path / "B" / "0.png", draw_cell(9, side_px=30))
    manifest = index(tmp_path, settings=IndexSettings(positive=("B",)))
    assert manifest.record["canvas_px"] == [60, 60]
    write_image(tmp_path / "B" / "1.png", draw_cell(10, side_px=30))
    assert index(tmp_path, settings=IndexSettings(positive=("B",))).record["canvas_px"] == [30, 30]


def test_class_folders_have_no_subjects(tmp_path: Path) -> None:
    for number, name in enumerate(("Benign", "Early", "Pre")):
        write_image(tmp_path / name / "a b.png", draw_cell(number))
    manifest = index(tmp_path, tmp_path / "out", IndexSettings(positive=("Early", "Pre")))
    assert manifest.images[["subject", "group", "fold"]].isna().all(axis=None)
    assert (manifest.classes, manifest.positive) == (("Benign", "Early", "Pre"), ("Early", "Pre"))
    assert (check_flow(manifest)["subjects"], check_flow(manifest)["groups"]) == (0, 0)
    assert any("a split by subject is not possible" in line for line in flow_lines(manifest))


def test_subject_of_two_labels(cohort: Path) -> None:
    write_image(cohort / "training_data" / "fold_0" / "hem" / "UID_2_9_9_hem.bmp", draw_cell(99))
    with pytest.raises(ManifestError) as caught:
        index(cohort)
    assert caught.value.what == "Subject 2 has cells of two labels."
    assert caught.value.received == (
        "training_data/fold_0/hem/UID_2_9_9_hem.bmp is HEM; training_data/fold_2/all/UID_2_1_1_all.bmp is ALL"
    )


def test_class_without_a_usable_image(tmp_path: Path) -> None:
    write_image(tmp_path / "all" / "UID_1_1_1_all.bmp", draw_cell(1))
    (tmp_path / "hem").mkdir()
    (tmp_path / "hem" / "UID_H1_1_1_hem.bmp").touch()
    with pytest.raises(ManifestError) as caught:
        index(tmp_path)
    assert caught.value.what == f"No labelled image of the class HEM is usable in {tmp_path}."
    assert caught.value.received == "1 usable images; set aside: empty 1"
    (tmp_path / "all" / "UID_1_1_1_all.bmp").write_bytes(b"")
    with pytest.raises(ManifestError) as caught:
        index(tmp_path)
    assert caught.value.what == f"No image is usable in {tmp_path}."


def test_conflict_takes_out_unlabelled_copies_too_and_links_no_subjects(cohort: Path) -> None:
    cell = draw_cell(900)
    write_image(cohort / "training_data/fold_1/all/UID_1_9_1_all.bmp", cell)
    write_image(cohort / "training_data/fold_1/hem/UID_H1_9_1_hem.bmp", cell)
    write_image(cohort / "testing_data/C-NMC_test_final_phase_data/1.bmp", padded(cell, 60))
    manifest = index(cohort)
    flow = check_flow(manifest)
    assert flow["set_aside"] == {"label_conflict": 3}
    assert flow["merged_groups"] == []
    assert "(no label)" in flow["set_aside_images"][1]["detail"]


def test_synthetic_marker(cohort: Path) -> None:
    (cohort / "SYNTHETIC.json").write_text("{}")
    manifest = index(cohort)
    assert manifest.record["synthetic"]
    assert "SYNTHETIC: these are drawn cells of no patient" in flow_lines(manifest)


def test_odd_names_are_used_written_and_shown(cohort: Path, tmp_path: Path) -> None:
    folder = cohort / "training_data" / "fold_1" / "all"
    write_image(folder / "UID_1_9_1_two\nlines_all.bmp", draw_cell(80))
    (folder / "bad\n.bmp").touch()
    manifest = index(cohort, tmp_path / "out")
    assert "training_data/fold_1/all/UID_1_9_1_two\nlines_all.bmp" in list(Manifest.load(tmp_path / "out").images["image"])
    assert check_flow(manifest)["set_aside"] == {"empty": 1}
    assert any("bad\\n.bmp" in line for line in flow_lines(manifest))
    assert not any("\n" in line for line in flow_lines(manifest))


def test_flow_lines_read_well(mess: Path) -> None:
    prelim = mess / "validation_data" / "C-NMC_test_prelim_phase_data"
    write_image(prelim / "1.bmp", draw_cell(81))
    write_image(prelim / "9.bmp", draw_cell(82))
    table = "Patient_ID,new_names,labels\nUID_57_1_1_all.bmp,1.bmp,1\nUID_58_1_1_all.bmp,2.bmp,1\n"
    (prelim / "labels.csv").write_text(table)
    lines = flow_lines(index(mess))
    assert lines[:9] == [
        f"Kaggle layout in {mess}",
        "classes HEM, ALL; positive ALL; canvas 48 x 48 px",
        "",
        "files found                23",
        "  set aside                 9  empty 1, label_conflict 2, missing 1, no_permission 1, not_an_image 2, too_large 1,"
        " truncated 1",
        "  usable images            14  13 labelled, 1 unlabelled",
        "duplicate images            0",
        "subjects                    7  in 7 groups",
        "label rows                  1  without an image",
    ]
    assert lines[9] == "preliminary images          1  without a label"
    assert lines[-9:] == [
        "part         fold    class         images  subjects",
        "train        fold_0  HEM                2         1",
        "train        fold_0  ALL                2         1",
        "train        fold_1  HEM                2         1",
        "train        fold_1  ALL                2         1",
        "train        fold_2  HEM                2         1",
        "train        fold_2  ALL                2         1",
        "preliminary  –       ALL                1         1",
        "preliminary  –       unlabelled         1         0",
    ]


def test_flow_lines_name_twenty_files_at_most(cohort: Path) -> None:
    for number in range(25):
        (cohort / "training_data" / f"{number:02}.txt").touch()
    lines = flow_lines(index(cohort))
    assert sum(".txt  not_an_image" in line for line in lines) == 20
    assert "  … and 5 more in set_aside.csv" in lines


def test_few_images_are_ahead_of_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    running: set[int] = set()
    most_at_once = 0
    lock = threading.Lock()

    def paths() -> Iterator[Path]:
        nonlocal asked
        for number in range(1000):
            asked += 1
            yield Path(str(number))

    def outcome(path: Path, _: int) -> str:
        nonlocal most_at_once
        with lock:
            running.add(threading.get_ident())
            most_at_once = max(most_at_once, len(running))
        time.sleep(0.0001)
        with lock:
            running.discard(threading.get_ident())
        return path.name

    monkeypatch.setattr(fingerprints, "_outcome", outcome)
    outcomes = take_fingerprints(paths(), 1, workers=2)
    assert next(outcomes) == "0"
    assert asked <= 5 * 8  # two tasks of eight images ahead per thread, and the one waited for
    assert list(outcomes) == [str(number) for number in range(1, 1000)]
    assert most_at_once == 2


@pytest.mark.real
@pytest.mark.skipif(not (SHARED / "c-nmc-sample").is_dir(), reason="the real sample ../shared/data is not here")
def test_real_sample() -> None:
    flow = check_flow(index(SHARED / "c-nmc-sample" / "C-NMC_Leukemia"))
    assert (flow["found"], flow["usable"], flow["labelled"], flow["unlabelled"]) == (338, 338, 336, 2)
    assert flow["csv_rows_without_image"] == 1861
    assert flow["merged_groups"] == [["20", "21"], ["H2", "H4"]]
    assert flow["duplicate_sets_across_parts"] == 1  # the final-test 1.bmp is UID_51_147_4_all, zero-padded
