"""Errors as answers: one JSON shape for all of them.

In: errors. Out: responses. Writes: nothing.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from leukolens.errors import LeukolensError, RequestError

_TOLD_BY_STATUS = {
    404: ("There is nothing at this address.", "one of the addresses in /openapi.json", "another one"),
    405: ("This address is asked otherwise.", "the method that /openapi.json names", "another method"),
}


def problem(error: LeukolensError, request_id: str) -> dict[str, Any]:
    """Give the JSON object that tells an error."""
    said = {"message": error.what, "expected": error.expected, "received": error.received, "remedy": error.remedy}
    return {"error": {**said, "request_id": request_id}}


def answer(error: RequestError, request_id: str) -> Response:
    """Give the response for an error."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(problem(error, request_id), error.status, headers)


def unfound(status: int) -> RequestError:
    """Give the error for what the router itself refuses."""
    what, expected, received = _TOLD_BY_STATUS.get(status, ("The request is refused.", "another request", f"status {status}"))
    remedy = "GET /openapi.json describes all of them"
    return RequestError(what, status=status, expected=expected, received=received, remedy=remedy)


def too_long(seconds: float) -> RequestError:
    """Give the error for a request beyond its time."""
    return RequestError(
        "The request took too long.",
        status=504,
        expected=f"an answer within {seconds:g} seconds",
        received="more than could be done in that time",
        remedy="send fewer pictures at a time, or try again when the server has less to do",
    )


def unforeseen() -> RequestError:
    """Give the error for what nobody foresaw: it says nothing of the inside, the log does."""
    return RequestError(
        "The server met an error of its own.",
        status=500,
        expected="none",
        received="one",
        remedy="look the request id up in the server's log and report it",
    )


def request_id_of(request: Request) -> str:
    """The id that `gate.py` gave the request."""
    given: str = request.scope["state"]["request_id"]
    return given
