"""SIGKILL in the middle of verbs: what benchmarks/kill.py does thirty times, a few times here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KILLS = 4
AMISS = ("half_written", "bad_readers", "not_repeated", "other_results", "left_behind")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks Linux what it did")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the kills of two verbs showed; a process of its own, because one with threads cannot be forked."""
    out = tmp_path_factory.mktemp("kill") / "kill.json"
    command = [sys.executable, str(BENCHMARKS / "kill.py"), "--kills", str(KILLS), "--verb", "index", "--verb", "predict"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    verbs: dict[str, Any] = json.loads(out.read_text())["verbs"]
    return verbs


def test_nothing_half_written_is_left_and_the_same_verb_ends_with_the_same_results(found: dict[str, Any]) -> None:
    assert {verb: {what: of_verb[what] for what in AMISS} for verb, of_verb in found.items()} == {
        verb: {what: [] for what in AMISS} for verb in ("index", "predict")
    }


def test_kills_came_while_the_verbs_ran(found: dict[str, Any]) -> None:
    for of_verb in found.values():
        assert of_verb["kills"] == KILLS
        assert of_verb["ended_before"] < KILLS
        assert of_verb["changes"] >= 1
