"""What a server does not take on, and that nothing of it is left behind."""

from __future__ import annotations

import http.client
import io
import json
import logging
import socket
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from cohort import draw_cell, write_image
from leukolens.prediction.stream import InputScorer
from leukolens.training.runs import Run
from service_client import BOUNDARY, FORM, HOST, Running, form, running, wait_until

MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("cell") / "cell.png"
    write_image(path, draw_cell(1))
    return path.read_bytes()


@pytest.fixture(scope="module")
def server(head_run: Run) -> Iterator[Running]:
    limits = {"max_files": 5, "max_request_bytes": MAX_BYTES, "max_file_bytes": 100_000, "max_bytes_in_flight": 300_000,
              "max_requests": 2, "stall_seconds": 0.4}  # fmt: skip
    with running([head_run.folder], limits=limits) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_held(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        load = request.getfixturevalue("server").service.load
        wait_until(lambda: (load.bytes_held, load.scoring, load.under_way) == (0, 0, 0))


@dataclass(frozen=True)
class Slow:
    """Batches that wait until `go` is set; `begun` is set when one does."""

    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made, scored = Slow(), InputScorer.rows

    def rows(scorer: InputScorer, batch: Any) -> Any:
        if threading.current_thread().name.startswith("score"):
            made.begun.set()
            made.go.wait(30)
        return scored(scorer, batch)

    monkeypatch.setattr(InputScorer, "rows", rows)
    yield made
    made.go.set()


# Too much


def test_a_body_that_announces_too_much_is_refused_before_it_comes(server: Running) -> None:
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        connection.sendall(
            f"POST /v1/predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {FORM}\r\nContent-Length: 999999\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_says_nothing_of_its_length_is_cut_off_where_it_is_too_large(server: Running) -> None:
    def pieces() -> Iterator[bytes]:
        yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'.encode()
        for _ in range(4):
            yield b"x" * 60_000
            yield f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'.encode()

    answer = server.ask("POST", "/v1/predict", pieces(), {"Content-Type": FORM})
    assert (answer.status, answer.error["message"]) == (413, "The request is too large.")


@pytest.mark.parametrize(
    ("files", "message"),
    [([("a", b"x" * 100_001)], "A file is too large."), ([("a", b"x")] * 6, "The request has too many files.")],
)
def test_a_file_too_large_and_a_file_too_many_are_refused(
    server: Running, files: list[tuple[str, bytes]], message: str
) -> None:
    answer = server.post("/v1/predict", files)
    assert (answer.status, answer.error["message"]) == (413, message)


def test_pictures_in_archives_count(server: Running, cell: bytes) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(6):
            archive.writestr(f"{number}.png", cell)
    answer = server.post("/v1/predict", [("a.zip", packed.getvalue())])
    assert answer.status == 413
    assert (answer.error["expected"], answer.error["received"]) == ("at most 5 in one request, files in archives counted", "6")


def test_more_bytes_than_the_server_holds_are_told_to_come_again(server: Running) -> None:
    with held_upload(server, MAX_BYTES - 40_000):
        wait_until(lambda: server.service.load.bytes_held > 120_000)
        second = server.post("/v1/predict", [("a", b"x" * 99_000), ("b", b"x" * 99_000)])
        assert second.status == 429
        assert second.headers["retry-after"] == "2"
        assert server.post("/v1/predict", [("a", b"x")]).status == 200


class held_upload:  # noqa: N801 - read as a verb
    """Most of a form, whose end does not come."""

    def __init__(self, server: Running, size: int) -> None:
        self.connection = socket.create_connection((HOST, server.port), timeout=10)
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'.encode()
        part = b"\r\n".join([head + b"x" * 60_000] * (size // 60_000))
        self.connection.sendall(
            f"POST /v1/predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {FORM}\r\nContent-Length: {MAX_BYTES}\r\n\r\n".encode()
            + part
        )

    def __enter__(self) -> socket.socket:
        return self.connection

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def test_more_requests_than_are_scored_at_once_are_told_to_come_again(
    server: Running, cell: bytes, slow: Slow
) -> None:
    clients = [threading.Thread(target=server.post, args=("/v1/predict", [("c", cell)])) for _ in range(2)]
    for client in clients:
        client.start()
    wait_until(lambda: server.service.load.scoring == 2)
    answer = server.post("/v1/predict", [("c", cell)])
    assert (answer.status, answer.headers["retry-after"], answer.error["message"]) == (429, "2", "The server is busy.")
    slow.go.set()
    for client in clients:
        client.join()
    assert server.post("/v1/predict", [("c", cell)]).status == 200


# What cannot be read


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"", 415),
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({"Content-Type": "multipart/form-data"}, b"", 415),
        ({"Content-Type": FORM}, b"", 422),
        ({"Content-Type": FORM}, b"no form", 422),
        ({"Content-Type": FORM}, form([]), 422),
        ({"Content-Type": FORM}, form([("a", b"x")])[:-10], 422),
        ({"Content-Type": FORM}, form([("a", b"x")], field="pictures"), 422),
        ({"Content-Type": FORM}, f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n'.encode(), 422),
        ({"Content-Type": FORM}, f"--{BOUNDARY}\r\n{'a: b' * 9000}\r\n\r\nx\r\n".encode(), 422),
        ({"Content-Type": FORM}, f"--{BOUNDARY}\r\n{'a: b' * 20}\r\n".encode() * 20, 422),
        ({"Content-Type": "multipart/form-data; boundary=" + "b" * 300}, b"", 422),
    ],
)
def test_a_body_that_is_no_form_with_files_is_refused(
    server: Running, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = server.ask("POST", "/v1/predict", body, headers)
    assert answer.status == status
    assert set(answer.error) == {"message", "expected", "received", "remedy", "request_id"}


def test_an_archive_without_pictures_is_refused(server: Running) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("readme.txt", "none")
    answer = server.post("/v1/predict", [("a.zip", packed.getvalue())])
    assert (answer.status, answer.error["received"]) == (422, "archives with 1 other files")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 422), (b"[]", 422), (b"{", 422), (b'{"probabilities": [1.5]}', 422), (b'{"probabilities": [0.5], "name": "x"}', 422),
     (b'{"probabilities": [NaN]}', 422), (b'{"probabilities": [], "refused": -1}', 422), (b"[" * 100_000, 422),
     (b'{"probabilities": [0.5]}', 200)],
)  # fmt: skip
def test_a_summary_of_anything_but_probabilities_is_refused(server: Running, body: bytes, status: int) -> None:
    assert server.ask("POST", "/v1/summary", body, {"Content-Type": "application/json"}).status == status


def test_unknown_models_and_addresses_and_methods_are_refused_in_the_same_shape(server: Running, cell: bytes) -> None:
    unknown = server.post("/v1/predict?model=<script>", [("c", cell)])
    assert (unknown.status, unknown.error["received"]) == (404, "another name")
    assert server.ask("GET", "/v1/predict").error["message"] == "This address is asked otherwise."
    assert server.ask("GET", "/v1/predict").headers["allow"] == "POST"
    assert server.ask("GET", "/../../etc/passwd").status == 404


# Time


def test_an_upload_that_stands_still_ends(server: Running) -> None:
    with held_upload(server, 60_000) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: "])
def test_headers_that_do_not_end_close_the_connection(server: Running, start: bytes) -> None:
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        connection.sendall(start)
        while connection.recv(65_536):
            pass


def test_headers_of_a_second_request_that_do_not_end_close_the_connection(server: Running) -> None:
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        connection.sendall(f"GET /health/live HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert b"200 OK" in connection.recv(65_536)
        connection.sendall(b"GET /")
        while connection.recv(65_536):
            pass


def test_a_request_beyond_its_time_is_given_up_and_its_pictures_with_it(
    head_run: Run, cell: bytes, slow: Slow
) -> None:
    with running([head_run.folder], limits={"timeout_seconds": 0.5}) as server:
        answer = server.post("/v1/predict", [("c", cell)] * 100)
        assert answer.status == 504
        assert answer.error["expected"] == "an answer within 0.5 seconds"
        lines = server.post("/v1/predict", [("bad", b"x")] + [("c", cell)] * 3, Accept="application/x-ndjson").lines
        assert [next(iter(line)) for line in lines] == ["model", "row", "error"]
        assert server.service.answering.queue.waiting() == 0
        slow.go.set()
        wait_until(lambda: server.post("/v1/predict", [("c", cell)]).status == 200)


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_pictures_of_a_client_that_has_gone_are_dropped(server: Running, cell: bytes, slow: Slow, accept: str) -> None:
    queue, load = server.service.answering.queue, server.service.load
    blocking = threading.Thread(target=server.post, args=("/v1/predict", [("c", cell)]))
    blocking.start()
    wait_until(slow.begun.is_set)
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        connection.request("POST", "/v1/predict", form([("c", cell)] * 4), {"Content-Type": FORM, "Accept": accept})
        wait_until(lambda: queue.waiting() == 4)
    finally:
        connection.close()
    wait_until(lambda: queue.waiting() == 0 and load.scoring == 1)
    slow.go.set()
    blocking.join()


def test_a_server_that_scores_no_more_is_not_alive(
    head_run: Run, cell: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running([head_run.folder], limits={"timeout_seconds": 0.5}) as server:
        assert server.ask("GET", "/health/live").status == 200
        monkeypatch.setattr(server.service.metrics, "batch", None)
        assert server.post("/v1/predict", [("c", cell)]).status == 504
        answer = server.ask("GET", "/health/live")
    assert (answer.status, answer.json) == (503, {"status": "dead"})


def test_a_batch_that_fails_fails_its_requests_alone(
    head_run: Run, cell: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(scorer: InputScorer, batch: Any) -> Any:
        raise RuntimeError("of Jane-Doe.png")

    with running([head_run.folder]) as server:
        with monkeypatch.context() as broken:
            broken.setattr(InputScorer, "rows", fail)
            answer = server.post("/v1/predict", [("c", cell)] * 40)
            assert (answer.status, answer.error["received"]) == (500, "RuntimeError")
        assert server.post("/v1/predict", [("c", cell)]).status == 200


# What is left


def test_nothing_that_is_uploaded_touches_the_disk(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a temporary file")

    for name in ("SpooledTemporaryFile", "TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    picture = io.BytesIO()
    from PIL import Image

    Image.effect_noise((300, 300), 50).convert("RGB").save(picture, "BMP")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bmp", picture.getvalue()[:50_000])
    answer = server.post("/v1/predict", [("a.zip", packed.getvalue()), ("b", b"y" * 99_000)])
    assert answer.status == 200


def test_logs_hold_no_name_and_no_content(head_run: Run, cell: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), running([f"m={head_run.folder}"], token="a-token-of-no-one") as server:  # noqa: S106
        bearer = {"Authorization": "Bearer a-token-of-no-one", "X-Forwarded-For": "10.1.2.3"}
        names = [("Jane-Doe-1.png", cell), ("Jane-Doe-2.png", b"none")]
        answer = server.ask("POST", "/v1/predict?patient=Jane-Doe", form(names), {"Content-Type": FORM, **bearer})
        server.ask("GET", "/Jane-Doe", headers=bearer)
        server.ask("GET", "/v1/models?token=Jane-Doe", headers={"Authorization": "Bearer Jane-Doe"})
        server.ask("JANE-DOE", "/", headers=bearer)
    fields = [json.dumps(record.__dict__, default=str) for record in caplog.records if record.name == "leukolens.serve"]
    assert any(answer.headers["x-request-id"] in line for line in fields)
    for secret in ("Jane", "JANE", "a-token-of-no-one", "10.1.2.3"):
        assert secret not in "".join(fields)


def test_a_sender_that_dribbles_is_left_in_the_end(head_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leukolens.serving.service.gate._GRACE_SECONDS", 0.3)
    with (
        running([head_run.folder], limits={"timeout_seconds": 0.3}) as server,
        socket.create_connection((HOST, server.port), timeout=10) as connection,
    ):
        connection.sendall(f"POST /report/document HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4000\r\n\r\n".encode())
        connection.setblocking(False)
        told, until = b"", time.monotonic() + 10
        while not told and time.monotonic() < until:
            connection.send(b"x")
            time.sleep(0.05)
            with suppress(BlockingIOError):
                told = connection.recv(100)
    assert told.startswith(b"HTTP/1.1 504")
