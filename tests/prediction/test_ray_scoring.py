"""Scoring in shards on a local Ray cluster of two workers, one of which is killed in mid-run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort import build_cohort
from leukolens import extras
from leukolens.artifacts import Manifest, Predictions, read_json
from leukolens.cli import app
from leukolens.data.manifest import index
from leukolens.errors import SettingsError
from leukolens.prediction import ray_scoring
from leukolens.prediction.predict import predict
from leukolens.prediction.ray_scoring import predict_in_shards
from leukolens.prediction.shards import read_failures, read_parts
from leukolens.settings import PredictSettings, ShardSettings
from leukolens.training.runs import Run

SECONDS_TO_WAIT = 180
WORKER = b"ray::MapWorker"


def test_without_ray_the_error_says_what_to_install(
    head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda _: False)
    with pytest.raises(SettingsError) as caught:
        predict_in_shards(head_run, cohort.manifest, None, tmp_path / "out")
    assert caught.value.what == "Scoring in shards needs Ray."
    assert caught.value.remedy == "pip install 'leukolens[ray]', or leave --ray out"
    assert not (tmp_path / "out").exists()


def test_more_workers_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    with pytest.raises(SettingsError, match="3 workers of 2 cores need 6 cores"):
        ray_scoring._connection(PredictSettings(shards=ShardSettings(workers=3)))


def test_local_cluster_is_for_this_machine_alone_and_a_named_one_is_joined() -> None:
    local = ray_scoring._connection(PredictSettings(shards=ShardSettings(workers=1, cores_per_worker=1)))
    assert (local["_node_ip_address"], local["include_dashboard"]) == ("127.0.0.1", False)
    joined = ray_scoring._connection(PredictSettings(shards=ShardSettings(address="auto", workers=900)))
    assert joined["address"] == "auto"
    assert "num_cpus" not in joined


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [(["--workers", "2"], "go with --ray"), (["--address", "auto"], "go with --ray"), (["--ray"], "give --out")],
)
def test_flags_that_do_not_go_together_are_wrong_usage(tmp_path: Path, flags: list[str], complaint: str) -> None:
    done = CliRunner().invoke(app, ["predict", str(tmp_path), str(tmp_path), *flags], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert complaint in done.output


@pytest.fixture
def many(tmp_path: Path) -> Manifest:
    """300 cells, one of which is gone since they were indexed."""
    manifest = index(build_cohort(tmp_path / "many", cells_per_subject=25, first_seed=5000), tmp_path)
    (manifest.root / sorted(manifest.images["image"])[7]).unlink()
    return manifest


@pytest.fixture
def session() -> Iterator[str]:
    """A mark in the environment by which the processes of this test's Ray are told from those of any other."""
    mark = f"test-{os.getpid()}-{time.monotonic_ns()}"
    yield mark
    for pid in _processes(mark, b""):
        os.kill(pid, signal.SIGKILL)


def _processes(mark: str, title: bytes) -> list[int]:
    """Processes whose title begins with `title` and that were started with the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if (folder / "cmdline").read_bytes().startswith(title) and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):  # it has ended, is not ours, or is no process
            continue
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'leukolens[ray]'")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the worker to kill in /proc")
def test_a_worker_is_killed_and_no_row_is_lost_or_doubled(
    head_run: Run, many: Manifest, tmp_path: Path, session: str
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "leukolens", "predict", str(head_run.folder), str(tmp_path), "--all", "--ray", "--out",
               str(out), "--workers", "2", "--cores-per-worker", "1", "--images-per-shard", "2"]  # fmt: skip
    environment = {**os.environ, "LEUKOLENS_TEST": session}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as scoring:
        parts = out / "parts"
        until = time.monotonic() + SECONDS_TO_WAIT
        while scoring.poll() is None and len(list(parts.glob("part-*"))) < 3 and time.monotonic() < until:
            time.sleep(0.005)
        workers = _processes(session, WORKER)
        os.kill(workers[0], signal.SIGKILL)
        finished = len(list(parts.glob("part-*")))
        stdout, stderr = scoring.communicate(timeout=SECONDS_TO_WAIT)
    assert scoring.returncode == 0, stderr
    assert len(workers) == 2
    assert finished < 150, "the worker died after all was done: the test proves nothing"
    assert "299 images scored, 1 could not be; 0 of 150 shards were done before" in stdout

    names = sorted(many.images["image"])
    failures = read_failures(out)
    assert failures["image"].tolist() == [names[7]]
    assert failures["reason"].tolist() == ["missing"]
    scored = read_parts(out)
    assert scored.table["image"].tolist() == names[:7] + names[8:]
    assert read_json(out / "scored.json")["shards"] == len(list(parts.iterdir())) == 150

    left = Manifest(many.images[many.images["image"] != names[7]], many.record)
    predict(head_run, left, None, tmp_path / "plain", tmp_path / "cache")
    pd.testing.assert_frame_equal(scored.table, Predictions.load(tmp_path / "plain").table, rtol=1e-5, atol=1e-6)

    # Nothing is missing: the same command starts no worker at all.
    shutil.rmtree(many.root)
    again = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_WAIT, check=True)
    assert "150 of 150 shards were done before" in again.stdout
