"""Runs from strangers: what is computed with is checked when a run is opened, and the error names it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leukolens.artifacts import hash_file
from leukolens.decision.outliers import OutlierModel
from leukolens.errors import ArtifactError, LeukolensError, RunError
from leukolens.training.run_records import check_run_record
from leukolens.training.runs import Run

READ = ("run.json", "decision.json", "weights.safetensors", "outliers.safetensors", "training_images.csv")


@pytest.fixture
def copy(head_run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(head_run.folder, tmp_path / "run"))


@pytest.fixture
def changed(copy: Path) -> Callable[..., None]:
    """Set a field of a JSON file of the copy."""

    def change(name: str, *keys: str, to: Any) -> None:
        record = json.loads((copy / name).read_text())
        inner = record
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        (copy / name).write_text(json.dumps(record))

    return change


def used(folder: Path) -> None:
    """Everything that a prediction asks a run for."""
    run = Run.load(folder)
    run.preprocessing, run.settings, run.decision(), run.outliers(), run.seen_images(""), run.classifier()


def test_a_run_as_it_was_written_is_used(copy: Path) -> None:
    used(copy)


@pytest.mark.parametrize(
    ("keys", "value", "received"),
    [
        (["classes"], "AB", "classes: Input should be a valid list"),
        (["classes"], ["ALL"], "classes: List should have at least 2 items after validation, not 1"),
        (["classes"], ["ALL", "ALL"], "Value error, a class stands twice in classes"),
        (["positive"], ["other"], "Value error, positive names a class that is not in classes"),
        (["settings", "fold"], None, "settings.fold: Input should be a valid integer"),
        (["settings", "extra"], 1, "settings.extra: Extra inputs are not permitted"),
        (["weights"], None, "weights: Input should be a valid dictionary or instance of _Weights"),
        (["synthetic"], "perhaps", "synthetic: Input should be a valid boolean"),
        (["best_phase"], "third", "best_phase: Input should be 'head' or 'finetune'"),
        (["display_name"], "a" * 201, "display_name: String should have at most 200 characters"),
    ],
)
def test_the_field_that_is_wrong_is_named(copy: Path, changed: Any, keys: list[str], value: object, received: str) -> None:
    changed("run.json", *keys, to=value)
    with pytest.raises(RunError) as caught:
        Run.load(copy)
    assert caught.value.what == f"{copy / 'run.json'} is not the record of a run."
    assert caught.value.received == received


@pytest.mark.parametrize(("record", "received"), [([], "a list"), (None, "a NoneType"), ({}, "architecture: Field required")])
def test_what_is_no_record_is_refused(record: object, received: str) -> None:
    with pytest.raises(RunError) as caught:
        check_run_record(Path("run.json"), record)
    assert caught.value.received == received


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("run.json", ["preprocessing"], []),
        ("run.json", ["preprocessing", "input_px"], 1 << 40),
        ("run.json", ["preprocessing", "input_px"], 0),
        ("run.json", ["preprocessing", "canvas_px"], [1 << 20, 1 << 20]),
        ("run.json", ["preprocessing", "canvas_px"], [48]),
        ("run.json", ["preprocessing", "mean"], [float("nan")] * 3),
        ("run.json", ["preprocessing", "std"], [0, 0, 0]),
        ("run.json", ["weights", "architecture"], "timm:hf-hub:someone/network"),
        ("run.json", ["weights", "architecture"], "timm:../../network"),
        ("decision.json", ["temperature"], float("nan")),
        ("decision.json", ["temperature"], 0),
        ("decision.json", ["threshold"], {}),
        ("decision.json", ["threshold"], {"value": "high", "aim": "", "sensitivity": None, "reached": None}),
        ("decision.json", ["classes"], ["other", "names"]),
        ("decision.json", ["positive"], ["other"]),
        ("decision.json", ["conformal"], {"scores": [0.1], "weights": [1, 2], "groups": 1}),
        ("decision.json", ["outliers"], None),
    ],
)
def test_values_that_cannot_be_computed_with_are_refused(
    copy: Path, changed: Any, name: str, keys: list[str], value: object
) -> None:
    changed(name, *keys, to=value)
    with pytest.raises(LeukolensError):
        used(copy)


@pytest.mark.parametrize("name", READ)
def test_a_pipe_is_refused_and_not_waited_for(copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(LeukolensError):
        used(copy)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"{" + b" " * (64 << 20), b"\xff", b""])
def test_json_that_cannot_be_followed_is_refused(copy: Path, content: bytes) -> None:
    (copy / "run.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"^.*run\.json cannot be read\.\n"):
        Run.load(copy)


@pytest.mark.parametrize(
    "content", [b"", b"image\na\n", b'"' * 1000, b"image,side,group,pixel_hash\na,b,c,d,e,f\n1,2,3,4,5,6,7\n"]
)
def test_without_its_list_of_seen_cells_a_run_is_refused(copy: Path, content: bytes) -> None:
    (copy / "training_images.csv").write_bytes(content)
    with pytest.raises(RunError, match=r"training_images\.csv cannot be read\.\n"):
        Run.load(copy).seen_images("")


def test_a_list_of_a_bundle_that_cannot_be_read_does_not_make_it_a_run(copy: Path) -> None:
    """Its files would be used without a look at their hashes."""
    (copy / "bundle.json").symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match=r"bundle\.json cannot be read\.\n"):
        Run.load(copy)


@pytest.mark.parametrize(("neighbours", "limit"), [(0, 1.0), (10_000, 1.0), (1, 0.0), (1, float("inf"))])
def test_distances_that_cannot_be_computed_are_refused(
    copy: Path, changed: Any, head_run: Run, neighbours: int, limit: float
) -> None:
    bank = head_run.outliers().bank
    path = copy / "outliers.safetensors"
    if limit == float("inf"):
        from safetensors.numpy import save_file

        record = json.dumps({"neighbours": neighbours, "limit": limit, "notes": []})
        save_file({"bank": bank}, path, metadata={"record": record})
    else:
        OutlierModel(bank, neighbours, limit).save(path)
    changed("decision.json", "outliers", "sha256", to=hash_file(path))
    with pytest.raises(ArtifactError, match=r"outliers\.safetensors cannot be read\.\n"):
        used(copy)
