"""Types of what the service answers, as its OpenAPI description tells them, with examples.

In: nothing. Out: pydantic models. Writes: nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_MOST_CELLS = 1_000_000
Share = Annotated[float, Field(ge=0, le=1)]


class Problem(BaseModel):
    """What went wrong."""

    message: str
    expected: str
    received: str
    remedy: str
    request_id: str = Field(description="also in the header X-Request-ID and in the server's log")


class ProblemAnswer(BaseModel):
    """Any answer but a good one."""

    error: Problem

    model_config = ConfigDict(json_schema_extra={"example": {"error": {
        "message": "The body is not a form with files.", "expected": "Content-Type: multipart/form-data with a boundary",
        "received": "another content type", "remedy": "send the files as a form, `curl --form files=@cell.png` for example",
        "request_id": "5f0c1d0e8b7a4c6f9e2d3b1a0c9f8e7d"}}})  # fmt: skip


class OperatingPoint(BaseModel):
    """What validation showed where a picture counts as positive from `threshold` on."""

    threshold: Share
    sensitivity: Share
    specificity: Share


class ModelInfo(BaseModel):
    """A model that is served."""

    name: str
    display_name: str
    architecture: str
    classes: list[str] = Field(description="in the order of the columns probability_<class>")
    positive: list[str]
    positive_name: str
    synthetic: bool = Field(description="it knows drawn cells only; of real cells its scores say nothing")
    trained_on: str = Field(description="what its pretrained weights come from")
    optimistic: bool = Field(description="it was split by image: cells of one patient stood on both sides")
    engine: str
    precision: str
    threshold: float | None
    aim: str | None
    temperature: float
    miscoverage: float
    operating_points: list[OperatingPoint] | None = Field(description="null where none were recorded")
    validation_positives: int | None = Field(description="pictures behind each sensitivity")
    validation_negatives: int | None = Field(description="pictures behind each specificity")
    validation_images: int
    validation_groups: int
    notes: list[str]
    run_hash: str
    decision_hash: str
    explain: bool = Field(description="whether /v1/explain can be asked")


class Limits(BaseModel):
    """What one request may hold."""

    max_files: int
    max_request_bytes: int
    max_file_bytes: int
    max_pixels: int
    timeout_seconds: float


class ModelsAnswer(BaseModel):
    """The models, the limits and what this is."""

    models: list[ModelInfo]
    limits: Limits
    results: bool = Field(description="whether there is a report at /report/document")
    version: str
    notice: str


class Row(BaseModel):
    """A row of the table that `leukolens predict` writes, and `probability_<class>` for each class; null where empty."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"example": {
        "index": 0, "input": "cell.png", "status": "scored", "score": 0.98, "probability_HEM": 0.04, "probability_ALL": 0.96,
        "decision": "ALL", "prediction_set": "ALL", "outlier_score": 0.61, "refusal": None, "seen_in": None, "error": None,
        "detail": None}})  # fmt: skip

    index: int = Field(ge=0, description="place of the file in the request, from 0; members of an archive have that of it")
    input: str = Field(description="name of the file as it was sent; `archive.zip/member` in an archive")
    status: Literal["scored", "failed"]
    score: float | None
    decision: str | None
    prediction_set: str | None
    outlier_score: float | None
    refusal: str | None = None
    seen_in: str | None = None
    error: str | None = None
    detail: str | None = None


class Counts(BaseModel):
    """Numbers of rows; `refused` ones are among those scored, `skipped` files of archives have no row."""

    inputs: int
    scored: int
    failed: int
    refused: int
    skipped: int


class PredictAnswer(BaseModel):
    """Scores."""

    model: ModelInfo
    results: list[Row]
    counts: Counts
    request_id: str


class ExplainAnswer(BaseModel):
    """A map of where the score is sensitive, laid over the cell."""

    row: Row
    method: Literal["gradcam", "eigencam"]
    target: str = Field(alias="class", description="class whose score was asked for")
    cell_share: float | None
    inside_share: float | None
    peak_inside: bool | None
    overlay: str = Field(description="data:image/png;base64,…")
    request_id: str


class SummaryRequest(BaseModel):
    """The answered cells of one patient."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {
        "probabilities": [0.98, 0.91, 0.07, 0.88], "threshold": None, "refused": 1, "failed": 0}})  # fmt: skip

    probabilities: Annotated[list[Share], Field(max_length=_MOST_CELLS)]
    threshold: Share | None = Field(default=None, description="null for the model's own")
    refused: int = Field(default=0, ge=0, le=_MOST_CELLS)
    failed: int = Field(default=0, ge=0, le=_MOST_CELLS)


# Not a tuple, whose description with `prefixItems` not every reader of OpenAPI takes.
_Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class SummaryAnswer(BaseModel):
    """Share of positive cells of one patient; intervals at 95 %."""

    answered: int
    positive: int
    share: float | None
    interval: _Interval | None
    threshold: float
    sensitivity: float | None
    specificity: float | None
    corrected_share: float | None
    corrected_interval: _Interval | None
    notes: list[str]
    request_id: str


class HealthAnswer(BaseModel):
    """Whether the server lives, or takes requests."""

    status: Literal["live", "dead", "ready", "draining"]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the answers of these statuses."""
    said = {400: "a name in the header Host that is not this server's", 401: "no token, or another one",
            403: "a page of another origin", 404: "there is no such model, or nothing of that name",
            408: "the upload stands still", 413: "beyond the limits that /v1/models tells", 415: "another content type",
            422: "a request that cannot be read", 429: "busy; come again after Retry-After seconds",
            500: "an error of the server; its log has the request id", 501: "not installed here",
            503: "about to stop; come again after Retry-After seconds", 504: "longer than timeout_seconds"}  # fmt: skip
    return {status: {"model": ProblemAnswer, "description": said[status]} for status in statuses}
