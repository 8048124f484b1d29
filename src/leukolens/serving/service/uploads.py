"""Bodies of requests, read within limits and kept in memory: nothing that is uploaded touches the disk.

In: the messages of a request. Out: bytes, or the files of a form. Writes: nothing.

Limits hold while the body comes in, whatever its header says of its length. Starlette's own form parser would put files of more
than a megabyte into temporary files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.types import Message

from leukolens.errors import RequestError
from leukolens.serving.service.load import BytesHeld
from leukolens.settings import ServeLimits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# A name of a file is at most 255 bytes on common disks, its path 4,096; a browser sends three headers.
_HEADER_BYTES, _HEADERS = 16 << 10, 16
_CLIENT_GONE = 499  # as nginx calls it; nobody reads it
_FORM = b"multipart/form-data"


@dataclass(frozen=True)
class Upload:
    """One file of a form: the `name` that the sender gave it and its bytes."""

    name: str
    data: bytes


@dataclass
class _Part:
    """What is known of the part of a form that is being read."""

    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    disposition: str = ""
    name: str | None = None
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0


class _Form:
    """Collects the files of a form whose only field is `wanted`."""

    def __init__(self, wanted: str, most_files: int, limits: ServeLimits) -> None:
        self.wanted = wanted
        self.most_files = most_files
        self.limits = limits
        self.files: list[Upload] = []
        self.is_whole = False
        self.part = _Part()

    def callbacks(self) -> MultipartCallbacks:
        """Give what the parser calls."""
        return {"on_part_begin": self.part_begin, "on_part_data": self.part_data, "on_part_end": self.part_end,
                "on_header_field": self.header_field, "on_header_value": self.header_value, "on_header_end": self.header_end,
                "on_headers_finished": self.headers_finished, "on_end": self.end}  # fmt: skip

    def part_begin(self) -> None:
        if len(self.files) >= self.most_files:
            raise _too_large("The request has too many files.", f"at most {self.most_files:,}", "more")
        self.part = _Part()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self.part.header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.part.value += data[start:end]

    def header_end(self) -> None:
        if bytes(self.part.header).lower() == b"content-disposition":
            self.part.disposition = self.part.value.decode("latin-1")
        self.part.header, self.part.value = bytearray(), bytearray()

    def headers_finished(self) -> None:
        _, options = parse_options_header(self.part.disposition)
        given, name = options.get(b"name"), options.get(b"filename")
        if given != self.wanted.encode() or name is None:
            # What it was called instead is a stranger's text: not repeated.
            raise malformed(f"a field `{self.wanted}` with a file name", "another field, or one without a file name")
        self.part.name = name.decode("utf-8", "backslashreplace")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self.part.size += end - start
        if self.part.size > self.limits.max_file_bytes:
            raise _too_large("A file is too large.", f"at most {self.limits.max_file_bytes:,} bytes", "more")
        self.part.chunks.append(data[start:end])

    def part_end(self) -> None:
        self.files.append(Upload(self.part.name or "", b"".join(self.part.chunks)))
        self.part = _Part()

    def end(self) -> None:
        self.is_whole = True


async def read_body(request: Request, held: BytesHeld, limits: ServeLimits, most_bytes: int) -> bytes:
    """All of a body; raises RequestError where it is larger than `most_bytes`, stalls or breaks off."""
    return b"".join([chunk async for chunk in _chunks(request, held, limits, most_bytes)])


async def read_files(request: Request, wanted: str, held: BytesHeld, limits: ServeLimits, most_files: int) -> list[Upload]:
    """Files of a multipart form in their order, one at least, all in the field `wanted`.

    Raises:
        RequestError: 413 beyond the limits, 415 where it is no such form, 422 where the form is broken or empty, 429 where the
            server holds too many bytes already, 408 where the upload stalls.
    """
    form = _Form(wanted, most_files, limits)
    try:
        parser = _parser(request, form)
        async for chunk in _chunks(request, held, limits, limits.max_request_bytes):
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise malformed("a multipart form that is whole", f"one that cannot be read ({type(error).__name__})") from error
    if not form.is_whole or not form.files:
        received = "a form without files" if form.is_whole else "part of a form"
        raise malformed(f"a multipart form with a field `{wanted}`", received)
    return form.files


def _parser(request: Request, form: _Form) -> MultipartParser:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != _FORM or not boundary:
        raise RequestError(
            "The body is not a form with files.",
            status=415,
            expected="Content-Type: multipart/form-data with a boundary",
            received="another content type" if kind else "no content type",
            remedy=f"send the files as a form, `curl --form {form.wanted}=@cell.png` for example",
        )
    return MultipartParser(boundary, form.callbacks(), max_header_count=_HEADERS, max_header_size=_HEADER_BYTES)


async def _chunks(request: Request, held: BytesHeld, limits: ServeLimits, most_bytes: int) -> AsyncIterator[bytes]:
    """The body piece by piece, counted and timed."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > most_bytes:
        raise _too_large("The request is too large.", f"at most {most_bytes:,} bytes", f"{int(said):,} bytes announced")
    size, more = 0, True
    while more:
        message = await _message(request, limits.stall_seconds)
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > most_bytes:
            raise _too_large("The request is too large.", f"at most {most_bytes:,} bytes", "more")
        held.take(len(chunk))
        if chunk:
            yield chunk


async def _message(request: Request, seconds: float) -> Message:
    try:
        message: Message = await asyncio.wait_for(request.receive(), seconds)
    except TimeoutError as error:
        raise RequestError(
            "The upload stands still.",
            status=408,
            expected=f"a piece of it every {seconds:g} seconds",
            received="nothing",
            remedy="send the request again",
        ) from error
    if message["type"] == "http.disconnect":
        raise client_gone()
    return message


def client_gone() -> RequestError:
    """Give the error of a request whose sender has left: for the log, since nobody waits for the answer."""
    return RequestError(
        "The client has gone.", status=_CLIENT_GONE, expected="a client that waits", received="none", remedy="send it again"
    )


def malformed(expected: str, received: str) -> RequestError:
    """Give the error of a request that cannot be understood."""
    remedy = "correct the request; /openapi.json describes it"
    return RequestError("The request cannot be read.", status=422, expected=expected, received=received, remedy=remedy)


def _too_large(what: str, expected: str, received: str) -> RequestError:
    remedy = "send less at a time; /v1/models tells the limits"
    return RequestError(what, status=413, expected=expected, received=received, remedy=remedy)
