"""uvicorn, with what it lacks: a limit on how long the headers of a request may take, and a stop that tells before it acts.

In: an application and a socket. Out: a server that runs until it is told to stop. Writes: nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import ClassVar

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from leukolens.errors import SettingsError
from leukolens.serving.service.load import Load
from leukolens.serving.service.logs import log
from leukolens.settings import ServeSettings

_HEADER_BYTES = 32 << 10
_BACKLOG = 128
_POLL_SECONDS = 0.05
# What is left to close once all answers are given.
_CLOSE_SECONDS = 5


class Impatient(H11Protocol):
    """A connection that is closed where the headers of a request take longer than `header_seconds` to come."""

    header_seconds: ClassVar[float]
    waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what came; where that is not all of the headers, the clock runs on from their first byte."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Stop the clock: between two requests uvicorn's own limit on idle connections holds."""
        self._stop_watching()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_watching()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        if self._is_answering():
            self._stop_watching()
        elif self.waiting is None:
            self.waiting = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop_watching(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None

    def _give_up(self) -> None:
        if not self._is_answering() and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn that on SIGTERM or Ctrl-C first refuses new requests and answers those under way, and on SIGHUP reloads.

    Args:
        config: of uvicorn.
        load: what is under way.
        drain_seconds: how long that may go on.
        reload: what SIGHUP starts.
    """

    def __init__(self, config: uvicorn.Config, load: Load, drain_seconds: float, reload: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self.load = load
        self.drain_seconds = drain_seconds
        self.reload = reload
        self.when_listening: Callable[[], None] = lambda: None
        """Called once connections are taken."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.when_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the signals over until the server has stopped; uvicorn would end the process by the signal that it got."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        stops = (signal.SIGTERM, signal.SIGINT)
        for each in stops:
            loop.add_signal_handler(each, self.stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._start(self._reload()))
        try:
            yield
        finally:
            for each in (*stops, signal.SIGHUP):
                loop.remove_signal_handler(each)

    def stop(self) -> None:
        """Refuse new requests, answer those under way, and stop; asked again, stop at once."""
        if self.load.is_draining:
            self.should_exit = self.force_exit = True
            return
        self.load.is_draining = True
        log("stopping", requests_under_way=self.load.under_way)
        self._start(self._drain())

    async def _drain(self) -> None:
        until = time.monotonic() + self.drain_seconds
        while self.load.under_way and time.monotonic() < until:
            await asyncio.sleep(_POLL_SECONDS)
        log("stopped", requests_given_up=self.load.under_way)
        self.should_exit = True

    async def _reload(self) -> None:
        async with self._reloading:
            await self.reload()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        # Kept, so that it is not collected while it runs.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def server(app: ASGIApp, settings: ServeSettings, load: Load, reload: Callable[[], Awaitable[None]]) -> Server:
    """Make the server for an application."""
    limits = settings.limits
    config = uvicorn.Config(
        app,
        http=type("Impatient", (Impatient,), {"header_seconds": limits.stall_seconds}),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # What a proxy says of the sender is used for nothing.
        proxy_headers=False,
        limit_concurrency=limits.max_connections,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    return Server(config, load, limits.drain_seconds, reload)


def bound_socket(host: str, port: int) -> socket.socket:
    """Take an address; raises SettingsError where it is not to be had."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise _no_address(host, port, error) from error
    taken = socket.socket(family, kind, number)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise _no_address(host, port, error) from error
    return taken


def _no_address(host: str, port: int, error: OSError) -> SettingsError:
    return SettingsError(
        f"The server cannot listen at {host}, port {port}.",
        expected="an address of this machine and a port that nobody else has",
        received=error.strerror or str(error),
        remedy="end what listens there, or choose another --port or --host",
    )
