from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from leukolens.diagnosis.findings import Finding
from leukolens.diagnosis.storage import check_storage


@pytest.fixture(autouse=True)
def _caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def found(out: Path) -> dict[str, Finding]:
    return {each.name: each for each in check_storage(out)}


def free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free_bytes))


@pytest.mark.parametrize(("free_bytes", "state"), [(10**9 - 1, "problem"), (10**9, "note"), (6 * 10**9, "ok")])
def test_room_is_measured_where_the_results_will_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_bytes: int, state: str
) -> None:
    free(monkeypatch, free_bytes)
    results = found(tmp_path / "not" / "yet")["results"]
    assert (results.state, results.figures["free_bytes"]) == (state, free_bytes)
    assert results.found == f"{tmp_path / 'not' / 'yet'}: {free_bytes / 1e9:.1f} GB free"
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    results = found(tmp_path / "file" / "out")["results"]
    assert (results.state, results.found) == ("problem", f"{tmp_path / 'file' / 'out'} cannot be written: Not a directory")


def test_no_place_for_temporary_files_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "nowhere"))
    assert found(tmp_path)["temporary"].found == "no folder for temporary files: No such file or directory"


def test_caches_are_measured_and_may_be_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder, size in (("out/cache/features-1", 12_000_000), ("home/torch/hub/checkpoints", 5_000_000), ("hf/a/b", 10)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "part").write_bytes(bytes(size))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    seen = found(tmp_path / "out")
    assert seen["cache of results"].found == (
        f"{tmp_path / 'out/cache'}: 0.01 GB, pixels and frozen features of these results; may be deleted, it is made again"
    )
    assert {name: seen[name].figures["bytes"] for name in seen if "cache" in name} == {
        "cache of results": 12_000_000, "torchvision cache": 5_000_000, "timm cache": 10,
    }  # fmt: skip
    assert found(tmp_path / "other")["cache of results"].found == f"{tmp_path / 'other/cache'}: empty"


def test_a_link_that_leads_nowhere_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "gone").symlink_to(tmp_path / "nowhere")
    assert found(tmp_path)["cache of results"].state == "ok"
