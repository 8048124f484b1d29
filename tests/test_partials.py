"""Temporary files: those of killed processes go away, those of living ones and of other machines stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leukolens import partials
from leukolens.artifacts import read_json, write_json
from leukolens.partials import partial_path, sweep

pytestmark = pytest.mark.skipif(os.name != "posix", reason="asks for processes as Unix does")

NO_PROCESS = 2**22 + 1  # above the largest that Linux gives


def leftover(folder: Path, machine: str, process: int, name: str = "a.json") -> Path:
    path = folder / f".{name}.{machine}-{process}.partial"
    path.write_text("half")
    return path


@pytest.fixture
def here(tmp_path: Path) -> str:
    """This machine, as names of temporary files have it."""
    return partial_path(tmp_path / "x").name.split(".")[-2].partition("-")[0]


def test_leftovers_of_dead_processes_are_deleted_folders_too(tmp_path: Path, here: str) -> None:
    file, folder = leftover(tmp_path, here, NO_PROCESS), tmp_path / f".bundle.{here}-{NO_PROCESS}.partial"
    (folder / "inner").mkdir(parents=True)
    assert sorted(sweep(tmp_path)) == sorted([file, folder])
    assert list(tmp_path.iterdir()) == []


def test_what_living_processes_write_stays(tmp_path: Path, here: str) -> None:
    mine, parents = leftover(tmp_path, here, os.getpid()), leftover(tmp_path, here, os.getppid())
    assert sweep(tmp_path) == []
    assert mine.exists() and parents.exists()


def test_another_machines_are_deleted_when_a_day_old(tmp_path: Path) -> None:
    young, old = leftover(tmp_path, "0" * 8, 1, "young"), leftover(tmp_path, "0" * 8, 1, "old")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert sweep(tmp_path) == [old]
    assert young.exists()


@pytest.mark.parametrize("name", [".a.partial", "a.json.00000000-1.partial", ".a.json.12-1.partial", ".a.json.00000000-1.part"])
def test_other_files_are_left_alone_however_old(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("mine")
    os.utime(path, (0, 0))
    assert sweep(tmp_path) == []
    assert path.exists()


def test_a_link_is_deleted_and_not_followed(tmp_path: Path, here: str) -> None:
    (tmp_path / "kept").mkdir()
    link = tmp_path / f".a.{here}-{NO_PROCESS}.partial"
    link.symlink_to(tmp_path / "kept")
    assert sweep(tmp_path) == [link]
    assert (tmp_path / "kept").is_dir()


def test_killed_while_writing_the_old_file_stays_and_the_next_process_tidies_up(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"is": "old"})
    code = (
        "import os, signal, sys; from pathlib import Path; from leukolens.artifacts import atomic_path\n"
        "with atomic_path(Path(sys.argv[1]) / 'a.json') as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*.partial"))) >= 1
    assert read_json(tmp_path / "a.json") == {"is": "old"}
    partials._sweep_once.cache_clear()  # this process has been here before
    write_json(tmp_path / "a.json", {"is": "new"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
