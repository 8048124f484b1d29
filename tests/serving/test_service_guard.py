"""Who may ask, and what every answer carries."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from leukolens.errors import SettingsError
from leukolens.serving.serve import serve
from leukolens.serving.service.connections import bound_socket
from leukolens.serving.service.gate import Token
from leukolens.serving.service.serve import check_exposure, is_loopback, known_hosts, read_token
from leukolens.serving.service.served import named_paths
from leukolens.settings import ServeLimits, ServeSettings
from leukolens.training.runs import Run
from service_client import HOST, Running, running

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
SECRET = "a-secret-of-this-test"  # noqa: S105
ALLOWED = "https://lab.example"
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "no-referrer",
}


@pytest.fixture(scope="module")
def server(head_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    results = tmp_path_factory.mktemp("results")
    (results / "report.html").write_text("<!doctype html><title>A report</title>", encoding="utf-8")
    with running([head_run.folder], SECRET, allow_origin=[ALLOWED], results=results) as started:
        yield started


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/report/document"])
@pytest.mark.parametrize(
    "given", [None, "Bearer", "Bearer wrong", f"Basic {SECRET}", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", "Bearer \xe9"]
)
def test_what_is_not_public_needs_the_token(server: Running, path: str, given: str | None) -> None:
    answer = server.ask("GET", path, headers={"Authorization": given} if given else {})
    assert (answer.status, answer.error["message"]) == (401, "A token is needed.")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert SECRET not in answer.body.decode()


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/report/document"])
def test_the_token_opens_it(server: Running, path: str) -> None:
    assert server.ask("GET", path, headers={"Authorization": f"bearer {SECRET}"}).status == 200


@pytest.mark.parametrize("path", ["/", "/health/live", "/health/ready", "/report", "/openapi.json"])
def test_the_page_and_health_need_none(server: Running, path: str) -> None:
    assert server.ask("GET", path).status == 200


def test_a_body_without_the_token_is_not_read(server: Running) -> None:
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        connection.sendall(f"POST /v1/predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_the_report_takes_the_token_from_a_form(server: Running) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert server.ask("POST", "/report/document", f"token={SECRET}", form).body.startswith(b"<!doctype")
    for body in ("token=wrong", "", "token=%FF", "x" * 5000):
        assert server.ask("POST", "/report/document", body, form).status in (401, 413)


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/v1/models", 401), ("/none", 404), ("/health/live", 200)])
def test_every_answer_carries_the_headers(server: Running, path: str, status: int) -> None:
    answer = server.ask("GET", path)
    assert answer.status == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert len(answer.headers["x-request-id"]) == 32
    assert "server" not in answer.headers
    assert answer.headers["cache-control"] == ("no-cache" if path == "/" else "no-store")


# A page of another server


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
                                     {"Origin": "http://127.0.0.1:1"}, {"Origin": "http://["}])  # fmt: skip
def test_another_page_may_not_ask(head_run: Run, headers: dict[str, str]) -> None:
    with running([head_run.folder]) as server:
        for method, path in (("POST", "/v1/predict"), ("GET", "/v1/models"), ("GET", "/metrics")):
            answer = server.ask(method, path, headers=headers)
            assert (answer.status, answer.error["message"]) == (403, "This page may not ask this server.")
            assert "access-control-allow-origin" not in answer.headers


def test_its_own_page_and_an_allowed_one_may(server: Running) -> None:
    bearer = {"Authorization": f"Bearer {SECRET}"}
    own = server.ask("GET", "/v1/models", headers={"Origin": f"http://{HOST}:{server.port}", **bearer})
    assert own.status == 200
    other = server.ask("GET", "/v1/models", headers={"Origin": ALLOWED, "Sec-Fetch-Site": "cross-site", **bearer})
    assert (other.status, other.headers["access-control-allow-origin"]) == (200, ALLOWED)
    assert "access-control-allow-credentials" not in other.headers
    refused = server.ask("GET", "/v1/models", headers={"Origin": ALLOWED})
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, ALLOWED)


def test_preflights_of_allowed_pages_only_are_granted(server: Running) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    granted = server.ask("OPTIONS", "/v1/predict", headers={"Origin": ALLOWED, **asked})
    assert (granted.status, granted.headers["access-control-allow-origin"]) == (200, ALLOWED)
    refused = server.ask("OPTIONS", "/v1/predict", headers={"Origin": "https://evil.example", **asked})
    assert refused.status == 400
    assert "access-control-allow-origin" not in refused.headers


def test_a_link_from_another_page_opens_the_page(server: Running) -> None:
    assert server.ask("GET", "/", headers={"Sec-Fetch-Site": "cross-site"}).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:8341", 200), ("[::1]:1", 200), ("LOCALHOST", 200),
     ("evil.example", 400), ("127.0.0.1.evil.example", 400), ("[", 400), ("", 400)],
)  # fmt: skip
def test_a_name_that_was_led_to_this_machine_is_refused(server: Running, host: str, status: int) -> None:
    answer = server.ask("GET", "/health/live", headers={"Host": host})
    assert answer.status == status


# At the start


def test_other_machines_are_let_in_with_a_token_only() -> None:
    with pytest.raises(SettingsError) as raised:
        check_exposure("0.0.0.0", Token(None))  # noqa: S104
    assert raised.value.what == "A server at 0.0.0.0 can be reached from other machines, and it has no token."
    assert raised.value.received == "--host 0.0.0.0 without a token"
    check_exposure("0.0.0.0", Token(SECRET))  # noqa: S104
    check_exposure("127.0.0.1", Token(None))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("lab", False)],  # noqa: S104
)  # fmt: skip
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_names_are_checked_where_only_this_machine_is_let_in() -> None:
    assert known_hosts(ServeSettings(allow_host=("Lab.Example",))) == {"localhost", "127.0.0.1", "::1", "lab.example"}
    assert known_hosts(ServeSettings(host="0.0.0.0")) == frozenset()  # noqa: S104


def test_the_token_is_read_from_the_file_else_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEUKOLENS_TOKEN", raising=False)
    assert read_token(ServeSettings()) is None
    monkeypatch.setenv("LEUKOLENS_TOKEN", SECRET)
    assert read_token(ServeSettings()) == SECRET
    (tmp_path / "token").write_text(f"  {SECRET}-2\n", encoding="utf-8")
    assert read_token(ServeSettings(token_file=tmp_path / "token")) == f"{SECRET}-2"


@pytest.mark.parametrize(
    ("content", "received"),
    [("short", "5 characters"), ("", "0 characters"), ("two lines\nof letters", "20 characters"),
     ("ünüsual-letters-in-it", "other characters")],
)  # fmt: skip
def test_a_token_that_is_easily_guessed_or_garbled_is_refused(tmp_path: Path, content: str, received: str) -> None:
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError) as raised:
        read_token(ServeSettings(token_file=tmp_path / "token"))
    assert raised.value.received == received


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff" * 40)])
def test_a_token_file_that_cannot_be_read_is_refused(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "token")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_token(ServeSettings(token_file=tmp_path / "token"))


def test_a_port_that_is_taken_is_refused() -> None:
    taken = bound_socket(HOST, 0)
    try:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as raised:
            bound_socket(HOST, port)
    finally:
        taken.close()
    assert raised.value.what == f"The server cannot listen at 127.0.0.1, port {port}."
    assert raised.value.received == "Address already in use"
    with pytest.raises(SettingsError, match="cannot listen"):
        bound_socket("no.such.host.invalid", 0)


def test_models_are_named_by_folder_or_as_one_says(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    assert named_paths([str(tmp_path / "run"), f"x={tmp_path}", str(tmp_path / "a=b")]) == {
        "run": tmp_path / "run", "x": tmp_path, "a=b": tmp_path / "a=b"}  # fmt: skip
    for given in ([], ["a/run", "b/run"], [f"={tmp_path}"], [f"{'x' * 101}={tmp_path}"], [f"a\n={tmp_path}"]):
        with pytest.raises(SettingsError):
            named_paths(given)


def test_a_server_without_its_packages_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leukolens.extras.is_installed", lambda module: module != "python_multipart")
    with pytest.raises(SettingsError) as raised:
        serve(["run"])
    assert (raised.value.expected, raised.value.remedy) == ("the package python-multipart", "pip install 'leukolens[serve]'")


def test_the_documented_settings_file_is_accepted_and_every_limit_is_explained() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    example = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert ServeSettings.model_validate(example).limits.max_files == 5000
    table = text.split("## Limits")[1].split("## Errors")[0]
    assert [name for name in ServeLimits.model_fields if f"| `{name}` |" not in table] == []
