from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

import leukolens
from leukolens.cli import app
from leukolens.diagnosis import packages
from leukolens.diagnosis.doctor import Diagnosis, doctor
from leukolens.diagnosis.findings import Finding, lines_of

BROKEN = Finding("packages", "torch", "problem", "does not load: no such library", "install it")


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    """The command line gives the package's logger a handler of its own."""
    logger = logging.getLogger("leukolens")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def _asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an installation from the source folder asks for may be out of date."""
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=2", 'no-such-server; extra == "serve"'])


def test_every_topic_is_looked_at_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = doctor(tmp_path / "results")
    assert list(dict.fromkeys(each.topic for each in found.findings)) == ["packages", "machine", "weights", "storage"]
    names = [each.name for each in found.findings]
    assert names[:2] == ["core", "serve"]
    assert {"processor", "memory", "clock", "instructions", "graphics", "threads", "allocator", "results"} <= set(names)
    assert len(names) == len(set(names))
    assert list(tmp_path.iterdir()) == []


def test_missing_extra_is_a_note_and_a_package_that_does_not_load_is_unfit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert doctor(tmp_path).is_fit
    monkeypatch.setattr(packages, "check_imports", lambda: [BROKEN])
    found = doctor(tmp_path)
    assert not found.is_fit
    assert found.summary_lines()[-1] == "Not fit: torch."
    # What needs PyTorch is left out; the rest is still said.
    assert {each.topic for each in found.findings} == {"packages", "machine", "storage"}
    assert "threads" not in {each.name for each in found.findings}


def test_text_names_state_remedy_and_verdict() -> None:
    note = Finding("storage", "results", "note", "a disk " + "nearly full " * 12, "make room")
    found = Diagnosis((BROKEN, note))
    assert found.summary_lines() == [
        "packages",
        "  problem torch             does not load: no such library",
        "                            -> install it",
        "storage",
        f"  note    results           a disk {'nearly full ' * 5}nearly full",
        f"                            {'nearly full ' * 5}nearly full",
        "                            -> make room",
        "",
        "Not fit: torch.",
    ]
    assert lines_of([]) == []


def test_command_gives_text_and_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--out", str(tmp_path)])
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "Fit: index, split, train, predict, evaluate and report can run."
    monkeypatch.setattr(packages, "check_imports", lambda: [BROKEN])
    result = CliRunner().invoke(app, ["doctor", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "-> install it" in result.output


def test_json_is_whole_and_has_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "check_imports", lambda: [BROKEN])
    result = CliRunner().invoke(app, ["doctor", "--json", "--out", str(tmp_path)])
    assert result.exit_code == 1
    record = json.loads(result.output)
    assert (record["version"], record["fit"]) == (leukolens.__version__, False)
    by_name = {each["name"]: each for each in record["findings"]}
    assert by_name["torch"] == {"topic": "packages", "name": "torch", "state": "problem", "figures": {},
                                "found": "does not load: no such library", "remedy": "install it"}  # fmt: skip
    assert by_name["results"]["figures"]["free_bytes"] > 0
    assert by_name["memory"]["figures"]["usable_bytes"] > 2**20
