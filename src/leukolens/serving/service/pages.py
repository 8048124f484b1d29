"""The page, its files, the report, health and metrics: what is not under /v1.

In: requests. Out: responses. Writes: nothing.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from leukolens.errors import RequestError
from leukolens.serving.service import schemas
from leukolens.serving.service.problems import unfound
from leukolens.serving.service.state import Service
from leukolens.serving.service.uploads import read_body

PAGE = Path(str(resources.files("leukolens.serving") / "page"))

# Not guessed from the system's list of types, which may lack them: a browser runs no module of another type.
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png",
          ".ico": "image/x-icon", ".json": "application/json", ".webmanifest": "application/manifest+json"}  # fmt: skip
# The report carries its style in itself, and no script.
_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox"
_FRESH = {"Cache-Control": "no-cache"}
_FORM_BYTES = 4096

router = APIRouter()


@router.get("/", include_in_schema=False)
async def index() -> Response:
    """The page."""
    return _file("index.html")


@router.get("/report", include_in_schema=False)
async def report() -> Response:
    """The page that shows the report."""
    return _file("report.html")


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str) -> Response:
    """A file of the page."""
    return _file(name)


@router.get("/report/document", include_in_schema=False)
async def document(request: Request) -> Response:
    """The report of --results itself."""
    service = Service.of(request)
    service.token.check_header(request.headers)
    return _report(service)


@router.post("/report/document", include_in_schema=False)
async def document_by_form(request: Request) -> Response:
    """The same for a frame, which can send no header: the token comes as a field of a form."""
    service = Service.of(request)
    with service.load.body() as held:
        body = await read_body(request, held, service.settings.limits, _FORM_BYTES)
    service.token.check(parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0])
    return _report(service)


@router.get("/health/live", response_model=schemas.HealthAnswer, tags=["health"],
            responses={503: {"model": schemas.HealthAnswer, "description": "nothing is scored any more"}})  # fmt: skip
async def live(request: Request) -> Response:
    """Tell that the process answers and scores."""
    is_alive = Service.of(request).answering.queue.is_alive
    return JSONResponse({"status": "live" if is_alive else "dead"}, 200 if is_alive else 503)


@router.get("/health/ready", response_model=schemas.HealthAnswer, tags=["health"],
            responses={503: {"model": schemas.HealthAnswer, "description": "about to stop"}})  # fmt: skip
async def ready(request: Request) -> Response:
    """Tell whether requests are taken."""
    is_draining = Service.of(request).load.is_draining
    return JSONResponse({"status": "draining" if is_draining else "ready"}, 503 if is_draining else 200)


@router.get("/metrics", tags=["health"], response_class=Response, responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **schemas.problems(400, 401, 403)})  # fmt: skip
async def metrics(request: Request) -> Response:
    """Counters as Prometheus reads them."""
    return Response(Service.of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _file(name: str) -> Response:
    # Only what lies there under exactly this name: a path that leads elsewhere is not among them.
    found = {path.name: path for path in PAGE.iterdir()} if PAGE.is_dir() else {}
    if name not in found or found[name].suffix not in _TYPES:
        raise unfound(404)
    return FileResponse(found[name], headers=_FRESH, media_type=_TYPES[found[name].suffix])


def _report(service: Service) -> Response:
    path = service.report()
    if path is None:
        raise RequestError(
            "There is no report here.",
            status=404,
            expected="a server started with --results and a folder that holds report.html",
            received="a server without one",
            remedy="run `leukolens report RESULTS`, then `leukolens serve MODEL --results RESULTS`",
        )
    headers = {"Content-Security-Policy": _REPORT_POLICY, "Cache-Control": "no-store"}
    return FileResponse(path, media_type="text/html", headers=headers)
