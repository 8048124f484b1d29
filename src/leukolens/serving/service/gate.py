"""What stands before every request: who may ask, how long it may take, and which headers every answer carries.

In: ASGI messages. Out: the same, or an error. Writes: a line of the log per request, without a name in it.

A page in a browser may ask 127.0.0.1 too. So a request must name this server as its host (which a name that was rebound to
127.0.0.1 does not), and one that comes from a page must come from this server's own or from an origin that was allowed.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import MutableMapping
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leukolens.errors import RequestError
from leukolens.serving.service.load import Load
from leukolens.serving.service.logs import log
from leukolens.serving.service.metrics import Metrics
from leukolens.serving.service.problems import answer, too_long

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'self'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_API = "/v1/"
_GUARDED = (_API, "/metrics")
_UNKNOWN = "unknown"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
# After its time a request has a moment more to say so; then a sender that dribbles and a reader that takes nothing are left.
_GRACE_SECONDS = 15.0
_CLIENT_GONE = 499


class Token:
    """The secret that requests must carry; None lets everybody in who reaches the address."""

    def __init__(self, secret: str | None) -> None:
        self.secret = secret

    def check(self, given: str) -> None:
        """Raise RequestError (401) unless the secret was given; takes equally long whichever letter is wrong."""
        if self.secret is not None and not hmac.compare_digest(given.encode(), self.secret.encode()):
            raise RequestError(
                "A token is needed.",
                status=401,
                expected="the header `Authorization: Bearer TOKEN` with this server's token",
                received="another token" if given else "none",
                remedy="ask whoever runs the server for the token",
            )

    def check_header(self, headers: Headers) -> None:
        """The same for the header Authorization."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        self.check(given.strip() if scheme.lower() == "bearer" else "")


class Guard:
    """Refuses requests that may not be made: by host, origin and token.

    Args:
        app: what answers the others.
        token: the secret.
        hosts: names that the header Host may hold; empty means any.
        origins: pages of other servers that may ask.
    """

    def __init__(self, app: ASGIApp, token: Token, hosts: frozenset[str], origins: frozenset[str]) -> None:
        self.app = app
        self.token = token
        self.hosts = hosts
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                self._check_host(headers)
                self._check_origin(scope, headers)
                if scope["path"].startswith(_GUARDED):
                    self.token.check_header(headers)
            except RequestError as error:
                await answer(error, scope["state"]["request_id"])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        if self.hosts and _host_of(f"//{headers.get('host', '')}") not in self.hosts:
            raise RequestError(
                "This server is not asked under that name.",
                status=400,
                expected=f"the header Host with one of {', '.join(sorted(self.hosts))}",
                received="another name",
                remedy="use the address that `leukolens serve` printed, or start it with --allow-host NAME",
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin = headers.get("origin")
        # Where a request comes from a page, its browser says so; programs send no origin.
        if origin is None and headers.get("sec-fetch-site") != "cross-site":
            return
        if origin in self.origins or (origin is not None and _authority(origin) == headers.get("host", "")):
            return
        if origin is None and scope["method"] in ("GET", "HEAD") and not scope["path"].startswith(_GUARDED):
            return  # a link on another page to this one
        raise RequestError(
            "This page may not ask this server.",
            status=403,
            expected="this server's own page" + (f", or {', '.join(sorted(self.origins))}" if self.origins else ""),
            received="a page of another origin",
            remedy="start the server with --allow-origin ORIGIN",
        )


class Gate:
    """The outermost layer: request id, headers, time limit, counting, log.

    Args:
        app: what answers.
        load: what is under way.
        metrics: where requests are counted.
        timeout_seconds: of any request.
    """

    def __init__(self, app: ASGIApp, load: Load, metrics: Metrics, timeout_seconds: float) -> None:
        self.app = app
        self.load = load
        self.metrics = metrics
        self.timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        passage = _Passage(scope, send)
        scope["state"] = {**scope.get("state", {}), "request_id": passage.id, "passage": passage}
        try:
            with self.load.request() if passage.is_api else nullcontext():
                async with asyncio.timeout(self.timeout_seconds + _GRACE_SECONDS):
                    await self.app(scope, receive, passage.send)
        except RequestError as error:
            await self._end(passage, error, receive)
        except TimeoutError:
            log("answer given up", logging.WARNING, request_id=passage.id)
            await self._end(passage, too_long(self.timeout_seconds), receive)
        finally:
            self._note(passage)

    async def _end(self, passage: _Passage, error: RequestError, receive: Receive) -> None:
        """Tell an error, unless the answer has begun: then the HTTP library closes the connection, and that tells it."""
        if not passage.status:
            await answer(error, passage.id)(passage.scope, receive, passage.send)

    def _note(self, passage: _Passage) -> None:
        scope, seconds = passage.scope, time.perf_counter() - passage.began
        route = getattr(scope.get("route"), "path", _UNKNOWN)
        method = scope["method"] if scope["method"] in _METHODS else _UNKNOWN
        status = passage.status or _CLIENT_GONE
        self.metrics.request(method, route, status, seconds)
        log("request", request_id=passage.id, method=method, route=route, status=status, ms=round(1000 * seconds, 1),
            bytes_out=passage.bytes_out, **passage.fields)  # fmt: skip


class _Passage:
    """One request on its way through; `fields` are further ones for its line of the log."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.id = uuid.uuid4().hex
        self.began = time.perf_counter()
        self.status = 0
        self.bytes_out = 0
        self.fields: MutableMapping[str, Any] = {}
        self.is_api = scope["path"].startswith(_API)
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass a message on, with the headers that all answers carry."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-ID"] = self.id
            headers.setdefault("Cache-Control", "no-store")
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
        await self._send(message)


def _authority(origin: str) -> str | None:
    """Host and port of an origin; None where it is no address."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _host_of(address: str) -> str | None:
    """Name in an address without its port, in small letters; None where there is none."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
