"""A server of the test's own process, and a client that sends exactly what it is told to."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukolens.serving.service.app import build
from leukolens.serving.service.connections import Server, bound_socket, server
from leukolens.serving.service.gate import Token
from leukolens.serving.service.serve import known_hosts, reload
from leukolens.serving.service.served import named_paths
from leukolens.serving.service.state import Service
from leukolens.settings import ServeSettings

HOST = "127.0.0.1"
BOUNDARY = "a-line-that-no-picture-holds"
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """Status, headers (names in small letters) and body of a response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def error(self) -> dict[str, str]:
        error: dict[str, str] = self.json["error"]
        return error


@dataclass(frozen=True)
class Running:
    """A server that runs in a thread."""

    port: int
    service: Service
    server: Server

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def post(self, path: str, files: Sequence[tuple[str, bytes]], field: str = "files", **headers: str) -> Answer:
        """Send a form with files: (name, content)."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, form(files, field), {"Content-Type": FORM, **given})


FORM = f"multipart/form-data; boundary={BOUNDARY}"


def form(files: Sequence[tuple[str, bytes]], field: str = "files") -> bytes:
    """Body of a form."""
    parts = []
    for name, content in files:
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{escaped}"\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def running(models: Sequence[Path | str], token: str | None = None, **given: Any) -> Iterator[Running]:
    """Serve models at a port of their own until the block ends; `given` are fields of ServeSettings."""
    settings = ServeSettings.model_validate({"device": "cpu", **given})
    service = Service(settings, named_paths([str(model) for model in models]), Token(token))
    service.shelf.load()
    taken = bound_socket(HOST, 0)
    started = server(build(service, known_hosts(settings)), settings, service.load, lambda: reload(service))
    thread = threading.Thread(target=asyncio.run, args=(started.serve([taken]),), name="server")
    thread.start()
    try:
        wait_until(lambda: started.started)
        yield Running(taken.getsockname()[1], service, started)
    finally:
        started.should_exit = True
        thread.join(PATIENCE_SECONDS)
        taken.close()
        assert not thread.is_alive()


def wait_until(is_so: Any, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for something that a server does by itself."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
