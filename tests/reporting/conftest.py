"""The run that the tests of the cards read and change."""

from __future__ import annotations

from pathlib import Path

import pytest

from reporting.example_run import build, manifest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return build(tmp_path / "results", manifest())
