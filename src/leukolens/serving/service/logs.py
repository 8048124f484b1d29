"""Lines of a server's log: what was asked, by request id, and never of whom.

In: events. Out: text or JSON, one line each, on standard error. Writes: nothing.

Names of files, pixels, scores, tokens and addresses of senders never reach a line.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("leukolens.serve")

_FIELDS = "fields"
_HTTP_LOGGER = "uvicorn.error"


class _Lines(logging.Formatter):
    """Time, level, what happened and its fields."""

    default_msec_format = "%s.%03dZ"

    def __init__(self, as_json: bool) -> None:
        super().__init__(datefmt=None)
        self.converter = time.gmtime
        self.as_json = as_json
        self.default_time_format = "%Y-%m-%dT%H:%M:%S"

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {"time": self.formatTime(record), "level": record.levelname.lower(),
                                "event": record.getMessage(), **getattr(record, _FIELDS, {})}  # fmt: skip
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        if self.as_json:
            return json.dumps(said)
        first = f"{said.pop('time')} {said.pop('level')} {said.pop('event')}"
        traceback = said.pop("traceback", None)
        return " ".join([first, *(f"{name}={value}" for name, value in said.items())]) + (f"\n{traceback}" if traceback else "")


def log(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Write a line with fields."""
    logger.log(level, event, extra={_FIELDS: fields})


@contextmanager
def logging_to_standard_error(as_json: bool) -> Iterator[None]:
    """Send the server's lines, and warnings of the HTTP library, to standard error until the block ends."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(as_json))
    # The package's own, for what loading a model has to say.
    package = logger.parent or logger
    loggers = [(package, package.level), (logger, logging.INFO), (logging.getLogger(_HTTP_LOGGER), logging.WARNING)]
    before = [(each, each.handlers[:], each.level, each.propagate) for each, _ in loggers]
    for each, level in loggers:
        each.handlers[:], each.propagate = [handler], False
        each.setLevel(level)
    try:
        yield
    finally:
        for each, handlers, level, propagate in before:
            each.handlers[:], each.propagate = handlers, propagate
            each.setLevel(level)
