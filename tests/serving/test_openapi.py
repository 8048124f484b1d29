"""The description of the API, held against the server by schemathesis: every operation, valid requests and invalid ones.

All its checks are on: no server error but the 501 that /v1/explain promises, statuses, content types, headers and bodies as
described, invalid requests refused, valid ones accepted, methods that are not described refused with `Allow`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from leukolens.training.runs import Run
from service_client import running

pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install 'leukolens[dev]'")

SETTINGS = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = 8
SECONDS = 120


def held_against(port: int, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    command = [sys.executable, "-c", program, "--config-file", str(SETTINGS), "run", f"http://127.0.0.1:{port}/openapi.json"]
    options = ["--checks", "all", "--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-color", *more]
    return subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_the_server_does_what_its_description_says(head_run: Run, tmp_path: Path) -> None:
    with running([f"m={head_run.folder}"]) as server:
        done = held_against(server.port, tmp_path)
        assert server.ask("GET", "/health/live").status == 200
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Operations:       7 selected / 7 total" in done.stdout, done.stdout[-2000:]


def test_with_a_token_nothing_is_told_to_who_has_none(head_run: Run, tmp_path: Path) -> None:
    """Of the operations that need it; the page, health and the description itself need none."""
    token = "t" * 16
    with running([f"m={head_run.folder}"], token=token) as server:
        header = ["--header", f"Authorization: Bearer {token}"]
        done = held_against(server.port, tmp_path, "--include-path-regex", "^/v1/models", *header)
        assert server.ask("GET", "/v1/models").status == 401
    assert done.returncode == 0, done.stdout[-4000:]
