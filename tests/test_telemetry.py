"""Nothing is reported to makers of libraries: watched from inside and in the home folder, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed: pip install 'leukolens[export]'")

CODE = """
import sys
seen = []
watched = ("socket.connect", "socket.getaddrinfo", "os.fork", "os.posix_spawn", "subprocess.Popen")
sys.addaudithook(lambda event, given: seen.append(event) if event in watched else None)
import leukolens
import openvino, onnxruntime
openvino.Core()
try:
    onnxruntime.InferenceSession(b"none", providers=["CPUExecutionProvider"])
except onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf:
    pass
print(seen)
"""


def test_openvino_and_onnxruntime_reach_for_no_host_and_leave_nothing_in_the_home_folder(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert list(tmp_path.rglob("*")) == []


def test_whoever_wants_reports_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from leukolens.telemetry import forbid_reports

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    forbid_reports()
    assert (os.environ["ORT_DISABLE_TELEMETRY"], os.environ["HF_HUB_DISABLE_TELEMETRY"]) == ("0", "1")
