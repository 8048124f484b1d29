"""Send hostile inputs to a server, one after the other, and say what went wrong.

In: cases that can be uploaded, a model. Out: `Tried`. Writes: the sandbox, which the server lives in from its start to its end.

One process takes them all, so that what one input leaves behind is met by the next. It must answer each within the time limit
with rows or with an error in JSON, be alive and ready afterwards, write nothing and stay below the memory limit.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from hostile_corpus.case import Case, Good, Sandbox
from hostile_corpus.trying import CRASH, HANG, MEMORY, STATUS, TABLE, Limits, Tried, traces, tree

_START_SECONDS = 90
_ANSWERS = frozenset({200, 400, 413, 415, 422})
_REFUSED_FOR_NOW = frozenset({429, 503})
_ROW_STATES = frozenset({"scored", "failed"})
_KIB = 1024


class Served:
    """A server of one run, on a free port of this machine's loopback address; a context."""

    def __init__(self, good: Good, sandbox: Sandbox, limits: Limits, on: str = "cpu") -> None:
        self.good = good
        self.sandbox = sandbox
        self.limits = limits
        self.on = on
        self.port = free_port()

    def __enter__(self) -> Served:
        """Start it and wait until it is ready; raises RuntimeError where it does not become so."""
        self.sandbox.clear()
        environment = {**os.environ, "HOME": str(self.sandbox.home), "TMPDIR": str(self.sandbox.home)}
        command = [
            sys.executable,
            "-m",
            "leukolens",
            "serve",
            f"model={self.good.run}",
            "--port",
            str(self.port),
            "--device",
            self.on,
        ]
        with (self.sandbox.out / "log").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=self.sandbox.cwd, env=environment, stdout=log, stderr=log)  # noqa: S603
        until = time.monotonic() + _START_SECONDS
        while not is_ready(self.port):
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                raise RuntimeError((self.sandbox.out / "log").read_text()[-2000:])
            time.sleep(0.1)
        self.before = tree(self.sandbox)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def memory_bytes(self) -> int:
        """Largest resident memory so far; 0 where the process is gone."""
        return memory_bytes(self.process.pid, "VmHWM")


def try_upload(case: Case, served: Served, limits: Limits) -> Tried:
    """Upload one case; it must have an upload."""
    if case.upload is None:
        raise ValueError(f"{case.name} cannot be uploaded")
    body, content_type = multipart([(case.upload.name, case.upload.data())])
    faults: dict[str, str] = {}
    status: int | None = None
    began = time.perf_counter()
    try:
        status, answer = ask(served.port, body, content_type, limits.seconds)
        faults.update(_of_answer(status, answer))
    except TimeoutError:
        faults[HANG] = "no answer at the time limit"
    except (OSError, http.client.HTTPException) as error:
        faults[CRASH] = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - began
    faults |= _aftermath(served, limits)
    return Tried(case.kind, case.name, "server", status, seconds, served.memory_bytes() / (1 << 20), faults)


def ask(port: int, body: bytes, content_type: str, seconds: float) -> tuple[int, bytes]:
    """POST to /v1/predict; give status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("POST", "/v1/predict", body, {"Content-Type": content_type, "Accept": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def multipart(files: list[tuple[str, bytes]]) -> tuple[bytes, str]:
    """A form with files, as a browser writes it; the names are whatever they are."""
    boundary = secrets.token_hex(16).encode()
    parts = []
    for name, data in files:
        said = os.fsencode(name).replace(b'"', b"%22").replace(b"\r", b"%0D").replace(b"\n", b"%0A")
        head = b'Content-Disposition: form-data; name="files"; filename="' + said + b'"\r\nContent-Type: image/png\r\n\r\n'
        parts.append(b"--" + boundary + b"\r\n" + head + data + b"\r\n")
    return b"".join(parts) + b"--" + boundary + b"--\r\n", f"multipart/form-data; boundary={boundary.decode()}"


def is_ready(port: int) -> bool:
    """Whether the server says that it is."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def memory_bytes(process: int, what: str = "VmRSS") -> int:
    """VmRSS or VmHWM of a process, in bytes; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith(what)), 0)


def _of_answer(status: int, answer: bytes) -> dict[str, str]:
    """What is wrong with an answer."""
    if status not in _ANSWERS:
        return {STATUS: f"{status}: {answer[:200]!r}"}
    try:
        found: Any = json.loads(answer)
    except ValueError:
        return {TABLE: f"no JSON: {answer[:100]!r}"}
    if status != 200:
        missing = {"message", "expected", "received", "remedy", "request_id"} - set(found.get("error", {}))
        return {TABLE: f"an error without {missing}"} if missing else {}
    states = [row["status"] for row in found["results"]]
    if set(states) - _ROW_STATES or len(states) != found["counts"]["inputs"]:
        return {TABLE: f"{len(states)} rows, {set(states)}, {found['counts']}"}
    return {}


def _aftermath(served: Served, limits: Limits) -> dict[str, str]:
    faults = traces(served.sandbox, served.before)
    if served.process.poll() is not None:
        faults[CRASH] = f"the server ended with {served.process.returncode}"
    elif not is_ready(served.port):
        faults[HANG] = "the server is not ready afterwards"
    if (peak := served.memory_bytes()) > limits.memory_bytes:
        faults[MEMORY] = f"{peak / (1 << 20):,.0f} MiB"
    return faults
