"""A server of its own process: how it starts, stops, and exchanges a model while it is asked."""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cohort import draw_cell, write_image
from leukolens import cli
from leukolens.training.runs import Run
from service_client import FORM, HOST, form, wait_until

PATIENCE_SECONDS = 60
SECRETS = ("the-first-token-here", "the-second-token-here")


@dataclass(frozen=True)
class Started:
    """A server's process, its port and the lines of its log so far."""

    process: subprocess.Popen[str]
    port: int
    log: list[dict[str, Any]]

    def post(self, files: list[tuple[str, bytes]], token: str = "") -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE_SECONDS)
        try:
            headers = {"Content-Type": FORM, "Authorization": f"Bearer {token}"}
            connection.request("POST", "/v1/predict", form(files), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def status(self, path: str, token: str = "") -> int:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            return connection.getresponse().status
        finally:
            connection.close()

    def saw(self, event: str) -> bool:
        return any(line["event"] == event for line in self.log)


Start = Callable[..., Any]


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[Started]:
    command = [sys.executable, "-m", "leukolens", "serve", *arguments, "--port", "0", "--json-logs", "--device", "cpu"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    log: list[dict[str, Any]] = []
    reader = threading.Thread(target=_read, args=(process, log))
    reader.start()
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert " at http://" in said, (said, log)
        yield Started(process, int(said.partition("http://127.0.0.1:")[2].partition(";")[0]), log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_SECONDS)
        reader.join(PATIENCE_SECONDS)
        for pipe in (process.stdout, process.stderr):
            pipe.close()  # type: ignore[union-attr]


def _read(process: subprocess.Popen[str], log: list[dict[str, Any]]) -> None:
    log.extend(json.loads(line) if line.startswith("{") else {"event": line} for line in process.stderr)  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """The command line gives the package's logger a handler of its own."""
    logger = logging.getLogger("leukolens")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("cell") / "cell.png"
    write_image(path, draw_cell(1))
    return path.read_bytes()


def check_stop(server: Started, cell: bytes) -> None:
    """Half a request has been sent: new ones are refused, and this one is answered once its rest is there."""
    body = form([("c", cell)] * 3)
    connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE_SECONDS)
    connection.putrequest("POST", "/v1/predict")
    for name, value in (("Content-Type", FORM), ("Content-Length", str(len(body))), ("Authorization", f"Bearer {SECRETS[1]}")):
        connection.putheader(name, value)
    connection.endheaders(body[:100])
    # A later connection is taken after this one.
    assert server.status("/health/ready") == 200
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.saw("stopping"))
    assert server.status("/health/ready") == 503
    assert server.status("/health/live") == 200
    status, refused = server.post([("c", cell)], SECRETS[1])
    assert (status, refused["error"]["message"]) == (503, "The server is about to stop.")
    connection.send(body[100:])
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["counts"]["scored"]) == (200, 3)
    connection.close()
    assert server.process.wait(PATIENCE_SECONDS) == 0
    assert server.saw("stopped")


def test_a_model_is_exchanged_and_the_server_stopped_without_a_lost_request(
    head_run: Run, finetuned_run: Run, cell: bytes, tmp_path: Path
) -> None:
    link, token = tmp_path / "model", tmp_path / "token"
    link.symlink_to(head_run.folder)
    token.write_text(SECRETS[0], encoding="utf-8")
    old, new = head_run.record["run_hash"], finetuned_run.record["run_hash"]
    statuses: Counter[int] = Counter()
    rows: dict[str, list[Any]] = {old: [], new: []}
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            status, told = server.post([("c", cell)] * 2, token=SECRETS[0])
            statuses[status] += 1
            rows[told["model"]["run_hash"]].append(tuple(row["score"] for row in told["results"]))

    with started(str(link), "--token-file", str(token)) as server:
        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            wait_until(lambda: len(rows[old]) > 10)
            link.unlink()
            link.symlink_to(finetuned_run.folder)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: len(rows[new]) > 10)
            assert server.saw("model reloaded")
            # One that cannot be loaded leaves the other where it is.
            link.unlink()
            link.symlink_to(tmp_path)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: server.saw("model not reloaded, the version before goes on"))
            answered = len(rows[new])
            wait_until(lambda: len(rows[new]) > answered + 5)
            token.write_text("short", encoding="utf-8")
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: server.saw("token not read again, the one before holds"))
            wait_until(lambda: len(rows[new]) > answered + 10)
        finally:
            stop.set()
            for client in clients:
                client.join(PATIENCE_SECONDS)
        token.write_text(SECRETS[1], encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.status("/v1/models", SECRETS[1]) == 200)
        assert server.status("/v1/models", SECRETS[0]) == 401
        check_stop(server, cell)
    assert set(statuses) == {200}
    # Each answer is of one version alone.
    assert len(set(rows[old])) == len(set(rows[new])) == 1
    assert rows[old][0] != rows[new][0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--host", "0.0.0.0"], "it has no token"), (["--allow-origin", "*"], "an origin is http://HOST"),  # noqa: S104
     (["--results", "no/such/folder"], "holds no report to show"),
     (["--engine", "onnx"], "There is no network for the engine onnx here."), (["--port", "99999"], "equal to 65535")],
)  # fmt: skip
def test_what_cannot_be_served_ends_with_an_error_and_a_remedy(
    head_run: Run, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LEUKOLENS_TOKEN", raising=False)
    port = [] if "--port" in arguments else ["--port", "0"]
    monkeypatch.setattr(sys, "argv", ["leukolens", "serve", str(head_run.folder), *port, *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    told = capsys.readouterr().err
    assert stopped.value.code == 1
    assert said in told
    assert "remedy:" in told


def test_a_damaged_model_is_not_served(
    head_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(head_run.folder, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"none")
    monkeypatch.setattr(sys, "argv", ["leukolens", "serve", str(tmp_path / "run"), "--port", "0"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert "weights.safetensors cannot be loaded." in capsys.readouterr().err
