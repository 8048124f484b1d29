"""The service as one ASGI application.

In: a Service. Out: what uvicorn runs. Writes: nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from leukolens.errors import RequestError
from leukolens.serving.service import pages, routes
from leukolens.serving.service.gate import Gate, Guard
from leukolens.serving.service.logs import log
from leukolens.serving.service.problems import answer, request_id_of, unforeseen, unfound
from leukolens.serving.service.state import Service

# FastAPI would report requests, with what stands in their address, to whatever collector this machine's environment names.
_NOTHING_REPORTED: TelemetryConfig = {
    "tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}  # fmt: skip


def build(service: Service, hosts: frozenset[str]) -> ASGIApp:
    """Put the application together; its models need not be loaded yet.

    Args:
        service: what it answers from.
        hosts: names that the header Host may hold; empty means any.
    """
    origins = service.settings.allow_origin
    # Swagger's and ReDoc's pages load from elsewhere: only the description itself is served.
    app = FastAPI(title="leukolens", version=routes.VERSION, description=routes.NOTICE, docs_url=None, redoc_url=None,
                  lifespan=_lifespan, telemetry=_NOTHING_REPORTED)  # fmt: skip
    app.state.service = service
    app.include_router(routes.router)
    app.include_router(pages.router)
    for kind, handler in ((RequestError, _refused), (RequestValidationError, _malformed), (HTTPException, _unrouted),
                          (Exception, _unforeseen)):  # fmt: skip
        app.add_exception_handler(kind, handler)
    app.add_middleware(Guard, token=service.token, hosts=hosts, origins=frozenset(origins))
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"],
                           allow_headers=["Authorization", "Content-Type"],
                           expose_headers=["X-Request-ID", "Retry-After"])  # fmt: skip
    return Gate(app, service.load, service.metrics, service.settings.limits.timeout_seconds)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Score for as long as the server runs."""
    service: Service = app.state.service
    scoring = asyncio.create_task(service.answering.queue.run())
    scoring.add_done_callback(service.answering.queue.ended)
    try:
        yield
    finally:
        scoring.cancel()
        await asyncio.gather(scoring, return_exceptions=True)
        await asyncio.to_thread(service.close)


async def _refused(request: Request, error: Exception) -> Response:
    return answer(error if isinstance(error, RequestError) else unforeseen(), request_id_of(request))


async def _malformed(request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    return answer(routes.malformed_fields(found), request_id_of(request))


async def _unrouted(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    response = answer(unfound(status), request_id_of(request))
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


async def _unforeseen(request: Request, error: Exception) -> Response:
    # The traceback comes with the next line, which uvicorn writes.
    log("unforeseen error", logging.ERROR, request_id=request_id_of(request), error=type(error).__name__)
    return answer(unforeseen(), request_id_of(request))
