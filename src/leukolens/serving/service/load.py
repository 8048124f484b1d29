"""How much a server takes on at once: bytes held, requests answered, and whether it still takes new ones.

In: requests that come and go. Out: RequestError where there is no room. Writes: nothing. All of it runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from leukolens.errors import RequestError

_RETRY_SECONDS = 2


class BytesHeld:
    """Bytes of one request in memory, counted against those of all; use as a context, which gives them back."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.bytes = 0

    def take(self, count: int) -> None:
        """Count bytes that have come in; raises RequestError (429) where all requests together hold too many."""
        self.bytes += count
        self.load.bytes_held += count
        if self.load.bytes_held > self.load.most_bytes:
            expected = f"at most {self.load.most_bytes:,} bytes of all requests together"
            raise _busy("The server holds too many pictures at this moment.", expected, "more")


class Load:
    """What is under way.

    Args:
        most_bytes: bodies of all requests together.
        most_requests: requests for scores at the same time.
    """

    def __init__(self, most_bytes: int, most_requests: int) -> None:
        self.most_bytes = most_bytes
        self.most_requests = most_requests
        self.bytes_held = 0
        self.scoring = 0
        self.under_way = 0
        """Requests to /v1 of any kind, uploads included: what a drain waits for."""
        self.is_draining = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request from its first to its last byte; raises RequestError (503) where no new ones are taken."""
        if self.is_draining:
            raise RequestError(
                "The server is about to stop.",
                status=503,
                expected="a request before it was told to",
                received="one after",
                remedy="send it again in some seconds",
                retry_after=_RETRY_SECONDS,
            )
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    @contextmanager
    def body(self) -> Iterator[BytesHeld]:
        """Hold the body of a request, and give its bytes back in the end."""
        held = BytesHeld(self)
        try:
            yield held
        finally:
            self.bytes_held -= held.bytes

    def check_room(self) -> None:
        """Raise RequestError (429) where as many requests are scored as may be."""
        if self.scoring >= self.most_requests:
            raise _busy("The server is busy.", f"at most {self.most_requests} requests at the same time", "one more")

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Count a request while it is scored; raises RequestError (429) where there is no room for it."""
        self.check_room()
        self.scoring += 1
        try:
            yield
        finally:
            self.scoring -= 1


def _busy(what: str, expected: str, received: str) -> RequestError:
    remedy = "send it again after the seconds of Retry-After"
    return RequestError(what, status=429, expected=expected, received=received, remedy=remedy, retry_after=_RETRY_SECONDS)
