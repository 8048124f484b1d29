"""The addresses of the service: each parses a request, asks one thing for the answer and words it.

In: requests. Out: responses. Writes: nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from leukolens.errors import RequestError
from leukolens.evaluation.patient import summarise_patient
from leukolens.prediction.archives import is_archive
from leukolens.provenance import versions
from leukolens.serving.service import schemas
from leukolens.serving.service.answering import Deadline, counted
from leukolens.serving.service.pictures import Pictures, UploadedPicture, open_pictures
from leukolens.serving.service.problems import problem, request_id_of
from leukolens.serving.service.served import ServedModel
from leukolens.serving.service.state import Service
from leukolens.serving.service.uploads import Upload, client_gone, malformed, read_body, read_files
from leukolens.settings import CamMethod, IndexSettings

NOTICE = (
    "Research software, not a medical device: not for diagnosis. A score is what one network makes of one picture of one cell."
)
VERSION = versions()["leukolens"]
NDJSON = "application/x-ndjson"
PNG = "image/png"

_SUMMARY_BYTES = 32 << 20  # a million probabilities
_PREDICT_ERRORS = schemas.problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
_BINARY = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
_SEVERAL = {"type": "array", "items": _BINARY, "minItems": 1}
_JSON_BODY = {"requestBody": {"required": True, "content": {
    "application/json": {"schema": schemas.SummaryRequest.model_json_schema()}}}}  # fmt: skip

Result = TypeVar("Result")

router = APIRouter(prefix="/v1", tags=["v1"])

ModelName = Query(default=None, max_length=100, description="name of a model; the first one where it is left out")


def _form(schema: dict[str, Any], field: str) -> dict[str, Any]:
    """Description of a request whose body is a form with files."""
    described = {"type": "object", "required": [field], "properties": {field: schema}, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": described}}}}


@router.get("/models", response_model=schemas.ModelsAnswer, responses=schemas.problems(400, 401, 403, 503))
async def models(request: Request) -> Response:
    """Tell which models answer here, what validation showed of them, and the limits of a request."""
    service = Service.of(request)
    limits = service.settings.limits
    said = {name: getattr(limits, name) for name in ("max_files", "max_request_bytes", "max_file_bytes", "timeout_seconds")}
    return JSONResponse({
        "models": [model.info for model in service.shelf.models.values()],
        "limits": {**said, "max_pixels": IndexSettings().max_pixels},
        "results": service.report() is not None,
        "version": VERSION,
        "notice": NOTICE,
    })  # fmt: skip


@router.post("/predict", response_model=schemas.PredictAnswer, openapi_extra=_form(_SEVERAL, "files"),
             responses={200: {"content": {NDJSON: {"schema": {"type": "string"}}}}, **_PREDICT_ERRORS})  # fmt: skip
async def predict(request: Request, model: str | None = ModelName) -> Response:
    """Score pictures and archives of pictures: one row for each, in their order, as `leukolens predict` writes it.

    With `Accept: application/x-ndjson` rows come one per line as soon as they are there.
    """
    service, deadline = Service.of(request), Deadline(Service.of(request).settings.limits.timeout_seconds)
    chosen = service.shelf.find(model)
    async with AsyncExitStack() as stack:
        service.load.check_room()
        held = stack.enter_context(service.load.body())
        limits = service.settings.limits
        uploads = await deadline.wait(read_files(request, "files", held, limits, limits.max_files))
        stack.enter_context(service.load.turn())
        pictures = await asyncio.to_thread(open_pictures, uploads, limits.max_files)
        stack.callback(pictures.close)
        request.state.passage.fields.update(model=chosen.name, bytes_in=held.bytes, cells=len(pictures.inputs))
        if NDJSON in request.headers.get("accept", ""):
            return _Stream(_lines(request, chosen, pictures, deadline), stack.pop_all())
        rows = await unless_gone(request, _all_rows(service, chosen, pictures, deadline))
    counts = counted(rows)
    service.metrics.outcomes(counts)
    return JSONResponse({"model": chosen.info, "results": rows, "counts": {**counts, "skipped": pictures.skipped},
                         "request_id": request_id_of(request)})  # fmt: skip


@router.post("/explain", response_model=schemas.ExplainAnswer, openapi_extra=_form(_BINARY, "file"),
             responses={200: {"content": {PNG: {"schema": _BINARY}}}, **_PREDICT_ERRORS, **schemas.problems(501)})  # fmt: skip
async def explain(request: Request, model: str | None = ModelName, method: CamMethod = "gradcam") -> Response:
    """Draw where the score of one picture is sensitive; not why the cell is malignant.

    With `Accept: image/png` the overlay alone.
    """
    service, deadline = Service.of(request), Deadline(Service.of(request).settings.limits.timeout_seconds)
    chosen = service.shelf.find(model)
    service.maps.check(chosen)
    with service.load.body() as held:
        uploads = await deadline.wait(read_files(request, "file", held, service.settings.limits, 1))
        request.state.passage.fields.update(model=chosen.name, bytes_in=held.bytes, cells=1)
        row, made = await deadline.wait(unless_gone(request, service.explained(chosen, _single(uploads[0]), method)))
    if PNG in request.headers.get("accept", ""):
        return Response(made.png(), media_type=PNG)
    overlay = f"data:{PNG};base64,{base64.b64encode(made.png()).decode()}"
    names = ("cell_share", "inside_share", "peak_inside", "method")
    return JSONResponse({"row": {"index": 0, **row}, "class": made.explained_class, "overlay": overlay,
                         **{name: getattr(made, name) for name in names}, "request_id": request_id_of(request)})  # fmt: skip


@router.post("/summary", response_model=schemas.SummaryAnswer, openapi_extra=_JSON_BODY, responses=_PREDICT_ERRORS)
async def summary(request: Request, model: str | None = ModelName) -> Response:
    """Give the share of positive cells of one patient, with its interval, and corrected for the model's error rates."""
    service = Service.of(request)
    chosen = service.shelf.find(model)
    with service.load.body() as held:
        body = await read_body(request, held, service.settings.limits, _SUMMARY_BYTES)
        asked = _summary_request(request, body)
    decision = chosen.scorer.decision
    if len(decision.positive) != 1:
        raise malformed("a model with one positive class", f"one with {len(decision.positive)}")
    threshold = asked.threshold if asked.threshold is not None else chosen.info["threshold"]
    if threshold is None:
        raise malformed("a threshold, since the model has none", "null")
    found = await asyncio.to_thread(
        summarise_patient, asked.probabilities, threshold, decision.operating_points, asked.refused + asked.failed
    )
    names = [name for name in schemas.SummaryAnswer.model_fields if name != "request_id"]
    return JSONResponse({**{name: getattr(found, name) for name in names}, "request_id": request_id_of(request)})


def _summary_request(request: Request, body: bytes) -> schemas.SummaryRequest:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("The body is no JSON.", status=415, expected="Content-Type: application/json",
                           received="another content type", remedy="send a JSON object")  # fmt: skip
    try:
        return schemas.SummaryRequest.model_validate_json(body)
    except ValidationError as error:
        raise malformed_fields(error.errors()) from error


def malformed_fields(errors: Sequence[Mapping[str, Any]]) -> RequestError:
    """Give the error for the first field that is wrong; what it holds is a stranger's text and not repeated."""
    where = ".".join(str(part) for part in errors[0]["loc"] if isinstance(part, int) or str(part).isidentifier())
    # The library's own words where they say what may stand there; others may quote what does.
    wanted = str(errors[0].get("msg", "")).removeprefix("Input should be ")
    is_value = wanted != errors[0].get("msg", "")
    expected = f"{where}: {wanted}" if is_value else "fields as /openapi.json describes them"
    return malformed(expected, f"{where or 'the body'}: {errors[0]['type']}")


def _single(upload: Upload) -> UploadedPicture:
    if is_archive(upload.data):
        raise malformed("one picture", "an archive")
    return UploadedPicture(upload.name, upload.data)


async def _all_rows(service: Service, model: ServedModel, pictures: Pictures, deadline: Deadline) -> list[dict[str, Any]]:
    async with aclosing(service.answering.rows(model, pictures.inputs, deadline)) as rows:
        return [row async for row in rows]


class _Stream(StreamingResponse):
    """Lines as they come; whatever their request `holds` is given back when the last is sent, or when nobody reads on."""

    def __init__(self, lines: AsyncGenerator[str, None], holds: AsyncExitStack) -> None:
        super().__init__(lines, media_type=NDJSON)
        self.lines = lines
        self.holds = holds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.holds, aclosing(self.lines):
            await super().__call__(scope, receive, send)


async def _lines(request: Request, model: ServedModel, pictures: Pictures, deadline: Deadline) -> AsyncGenerator[str, None]:
    """One JSON object per line: the model, rows, counts or an error."""
    service, told = Service.of(request), []
    yield _line({"model": model.info})
    try:
        async with aclosing(service.answering.rows(model, pictures.inputs, deadline)) as rows:
            async for row in rows:
                told.append({"status": row["status"], "refusal": row["refusal"]})
                yield _line({"row": row})
    except RequestError as error:
        yield _line(problem(error, request_id_of(request)))
        return
    finally:
        service.metrics.outcomes(counted(told))
    yield _line({"counts": {**counted(told), "skipped": pictures.skipped}, "request_id": request_id_of(request)})


def _line(said: dict[str, Any]) -> str:
    return json.dumps(said, allow_nan=False) + "\n"


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do something for as long as its client waits; raises RequestError (499) where it does not any more."""
    doing, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise client_gone()
        return doing.result()
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
