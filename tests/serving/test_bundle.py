from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from leukolens.artifacts import Manifest, hash_file, hash_json, read_json, write_json
from leukolens.data.manifest import index
from leukolens.errors import ArtifactError, ExportError, LeakError, RunError, SettingsError
from leukolens.prediction.predict import predict, rows_to_score
from leukolens.serving.bundle import Bundle, without_names, without_paths
from leukolens.settings import PredictSettings
from leukolens.training.bundles import check_bundle
from leukolens.training.runs import Run, with_group_names

FILES = ["decision.json", "export.json", "model_card.md", "network.bin", "network.int8.onnx", "network.onnx", "network.xml",
         "outliers.safetensors", "run.json", "training_images.csv", "weights.safetensors"]  # fmt: skip


# What a bundle holds


def test_every_file_is_listed_with_its_hash_and_size(bundle: Bundle) -> None:
    assert sorted(bundle.record["files"]) == FILES
    assert sorted(path.name for path in bundle.folder.iterdir()) == sorted([*FILES, "bundle.json"])
    for name, said in bundle.record["files"].items():
        assert said == {"sha256": hash_file(bundle.folder / name), "bytes": (bundle.folder / name).stat().st_size}


def test_what_answers_is_that_of_the_run(bundle: Bundle, finetuned_run: Run) -> None:
    for name in ("weights.safetensors", "decision.json", "outliers.safetensors"):
        assert (bundle.folder / name).read_bytes() == (finetuned_run.folder / name).read_bytes()
    names = ("classes", "positive", "display_name", "run_hash", "synthetic")
    assert {name: bundle.record[name] for name in names} == {name: finetuned_run.record[name] for name in names}
    assert bundle.record["decision_hash"] == finetuned_run.decision_record["hash"]
    assert bundle.run.preprocessing == finetuned_run.preprocessing
    assert bundle.engines == {"onnx": bundle.folder / "network.onnx", "openvino": bundle.folder / "network.xml",
                              "int8": bundle.folder / "network.int8.onnx"}  # fmt: skip


def test_no_file_says_where_it_was_made_or_whose_cells_it_saw(bundle: Bundle, cohort: Any) -> None:
    home, package = os.fsencode(cohort.cells.parent), os.fsencode(Path(__file__).parents[2])
    for path in bundle.folder.iterdir():
        content = path.read_bytes()
        assert home not in content, path.name
        assert package not in content, path.name
        assert b"UID_" not in content, path.name
    card = (bundle.folder / "model_card.md").read_text()
    assert not set(cohort.manifest.images["subject"]) & set(re.findall(r"\bH\d+\b", card))
    assert "Subjects with the lowest accuracy" not in card


def test_paths_are_cut_down_to_their_last_part() -> None:
    record = {"a": "/data/weights", "b": ["C:\\models\\x.bin", "relative/path", 3, None], "c": {"d": "plain"}}
    assert without_paths(record) == {"a": "weights", "b": ["x.bin", "relative/path", 3, None], "c": {"d": "plain"}}


def test_cells_keep_their_side_and_their_company_and_lose_their_names() -> None:
    rows = [("a", "train", "7", "x3", "m"), ("b", "train", "7", "x1", "m"), ("c", "validation", None, "x2", "m"),
            ("d", "train", "7", "x0", "other")]  # fmt: skip
    seen = pd.DataFrame(rows, columns=["image", "side", "group", "pixel_hash", "manifest_hash"]).astype("string")
    found = without_names(seen)
    assert found["image"].isna().all()
    assert found["group"].fillna("none").tolist() == ["x1", "x1", "none", "x0"]
    assert found[["side", "pixel_hash", "manifest_hash"]].equals(seen[["side", "pixel_hash", "manifest_hash"]])


def test_groups_are_named_again_by_whoever_has_the_data() -> None:
    images = pd.DataFrame({"pixel_hash": ["x1", "x2", "x3"], "group": ["7", pd.NA, "7"]}).astype("string")
    seen = pd.DataFrame({"group": ["x1", pd.NA, "unknown"], "pixel_hash": ["x3", "x2", "x9"]}).astype("string")
    assert with_group_names(seen, images)["group"].fillna("none").tolist() == ["7", "none", "unknown"]


# A bundle as a model


def test_bundle_scores_as_its_run_on_the_same_engine(
    bundle: Bundle, finetuned_run: Run, cohort: Any, tmp_path: Path
) -> None:
    settings = PredictSettings(engine="torch", abstain=0.3)
    tables = [
        predict(run, cohort.manifest, cohort.splits, tmp_path / str(number), cohort.cache, settings)
        for number, run in enumerate((finetuned_run, bundle.folder))
    ]
    pd.testing.assert_frame_equal(tables[0].table, tables[1].table)
    timeless = [{key: value for key, value in each.record.items() if "second" not in key} for each in tables]
    assert timeless[0] == timeless[1]


def test_bundle_knows_which_cells_it_has_seen(bundle: Bundle, finetuned_run: Run, cohort: Any) -> None:
    rows = [rows_to_score(run, cohort.manifest, None) for run in (finetuned_run, bundle.run)]
    assert rows[0]["side"].tolist() == rows[1]["side"].tolist()
    assert set(rows[1]["side"]) == {"train", "validation", "test"}


def test_bundle_is_not_tested_on_subjects_that_it_was_trained_on(bundle: Bundle, cohort: Any) -> None:
    sides = cohort.splits.of_fold(0)
    swap = {"train": "test", "test": "train", "validation": "validation"}
    turned = type(cohort.splits)(
        cohort.splits.sides.assign(side=cohort.splits.sides["side"].map(swap)), cohort.splits.record
    )
    with pytest.raises(LeakError, match=rf"^{(sides == 'train').sum()} images to be scored were seen"):
        rows_to_score(bundle.run, cohort.manifest, turned)


def test_predictions_are_not_written_into_a_bundle(bundle: Bundle, cohort: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        predict(bundle.folder, cohort.manifest, cohort.splits, None, cohort.cache)
    assert str(caught.value) == (
        "Predictions by a bundle need a folder of their own.\n"
        "  expected: a folder to write to\n"
        "  received: none, which would write into the bundle\n"
        "  remedy:   give --out"
    )


# What is not as it was


def test_folder_without_a_list_is_no_bundle(tmp_path: Path, finetuned_run: Run) -> None:
    for folder, received in ((tmp_path / "none", "no folder at that path"), (finetuned_run.folder, "a folder without it")):
        with pytest.raises(ArtifactError, match=r"is no bundle\.") as caught:
            Bundle.load(folder)
        assert caught.value.received == received


@pytest.mark.parametrize("name", FILES)
def test_flipped_bit_is_found_whoever_opens_it(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(bytes(content))
    said = read_json(copy / "bundle.json")["files"][name]["sha256"]
    for opens in (Bundle.load, Run.load, check_bundle):
        with pytest.raises(ArtifactError) as caught:
            opens(copy)
        assert str(caught.value) == (
            f"{copy / name} is not as it was exported.\n"
            f"  expected: SHA-256 {said}\n"
            f"  received: SHA-256 {hash_file(copy / name)}\n"
            "  remedy:   copy the bundle again from where it was made, or export the run again"
        )


def test_missing_file_is_named(copy: Path) -> None:
    (copy / "network.bin").unlink()
    with pytest.raises(ArtifactError) as caught:
        Run.load(copy)
    assert caught.value.what == f"{copy / 'network.bin'} is missing."
    assert caught.value.expected == "every file that bundle.json names"


def test_changed_list_is_found(copy: Path) -> None:
    record = read_json(copy / "bundle.json")
    write_json(copy / "bundle.json", {**record, "positive": ["HEM"]})
    with pytest.raises(ArtifactError, match=r"bundle\.json is not as it was exported"):
        Run.load(copy)


def test_bundle_of_another_version_is_refused(copy: Path) -> None:
    record = read_json(copy / "bundle.json")
    write_json(copy / "bundle.json", {**record, "format": 2, "leukolens": "9.9"})
    with pytest.raises(ArtifactError) as caught:
        Run.load(copy)
    assert caught.value.expected == "a bundle of format 1"
    assert caught.value.received == "format 2, written by leukolens 9.9"


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 1}'])
def test_damaged_list_is_refused(copy: Path, content: str) -> None:
    (copy / "bundle.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"bundle\.json"):
        Run.load(copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_list_cannot_lead_out_of_the_folder(copy: Path, name: str) -> None:
    record = {key: value for key, value in read_json(copy / "bundle.json").items() if key != "hash"}
    record["files"] = {name: {"sha256": "0", "bytes": 0}}
    write_json(copy / "bundle.json", {**record, "hash": hash_json(record)})
    with pytest.raises(ArtifactError) as caught:
        Run.load(copy)
    assert caught.value.expected == "names of files beside it"
    assert caught.value.received == name


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_foreign_pickle_as_weights_is_refused_and_not_run(
    resealed: Callable[[str, bytes], Path], tmp_path: Path
) -> None:
    sprung = tmp_path / "sprung"
    copy = resealed("weights.safetensors", pickle.dumps(Trap(sprung)))
    with pytest.raises(RunError, match=r"weights\.safetensors cannot be loaded"):
        Bundle.load(copy).run.classifier()
    assert not sprung.exists()
    pickle.loads((copy / "weights.safetensors").read_bytes())  # noqa: S301 - the trap works
    assert sprung.exists()


def test_foreign_pickle_as_onnx_is_refused_and_not_run(
    resealed: Callable[[str, bytes], Path], tmp_path: Path, cohort: Any
) -> None:
    copy = resealed("network.onnx", pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ExportError, match=r"network\.onnx cannot be run\."):
        predict(copy, cohort.manifest, cohort.splits, tmp_path, cohort.cache, PredictSettings(engine="onnx"))
    assert not (tmp_path / "sprung").exists()


def test_card_of_a_run_with_manifest_describes_its_data(bundle: Bundle) -> None:
    assert "Not described here: the manifest is absent." not in (bundle.folder / "model_card.md").read_text()


def test_record_is_json_that_others_can_read(bundle: Bundle) -> None:
    record = json.loads((bundle.folder / "bundle.json").read_text())
    assert record["format"] == 1
    assert record["engines"] == ["onnx", "openvino", "int8"]


def test_bundle_of_other_data_knows_its_cells_by_pixels(bundle: Bundle, cohort: Any, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(cohort.cells, tmp_path / "cells"))
    for path in elsewhere.rglob("*.bmp"):
        path.rename(path.with_name(path.name.replace("_1_", "_7_")))
    manifest: Manifest = index(elsewhere)
    sides = rows_to_score(bundle.run, manifest, None)["side"]
    assert sorted(sides) == sorted(cohort.splits.of_fold(0))
