"""What a server counts, in the text format of Prometheus.

In: requests, cells and batches as they happen. Out: text. Writes: nothing. No name of a file or of a sender becomes a label.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

if TYPE_CHECKING:
    from leukolens.serving.service.served import ServedModel

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_BATCHES = (1, 2, 4, 8, 16, 24, 32)
_MODEL_LABELS = ("name", "architecture", "engine", "run_hash", "decision_hash")


class Metrics:
    """One set of counters per server."""

    def __init__(self) -> None:
        # The time at which each counter was made: as many lines again, and nobody asks.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("leukolens_requests", "Requests answered.", ("method", "route", "status"), registry=registry)
        self.request_seconds = Histogram("leukolens_request_seconds", "From a request's first byte to the last of its answer.",
                                         ("route",), buckets=_SECONDS, registry=registry)  # fmt: skip
        self.cells = Counter("leukolens_cells", "Pictures by what became of them; refused ones have a score.", ("outcome",),
                             registry=registry)  # fmt: skip
        for outcome in ("answered", "refused", "failed"):
            self.cells.labels(outcome)
        self.batches = Histogram("leukolens_batch_pictures", "Pictures scored at once.", buckets=_BATCHES, registry=registry)
        self.score_seconds = Histogram("leukolens_score_seconds", "Scoring of one batch.", buckets=_SECONDS, registry=registry)
        self.decode_seconds = Histogram("leukolens_decode_seconds", "Decoding of one picture, the wait for a thread included.",
                                        buckets=_SECONDS, registry=registry)  # fmt: skip
        self.models = Gauge("leukolens_model_info", "1 for each model that is served.", _MODEL_LABELS, registry=registry)
        self.reloads = Counter("leukolens_reloads", "Models loaded again, by what came of it.", ("outcome",), registry=registry)
        for outcome in ("done", "failed"):
            self.reloads.labels(outcome)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Add a gauge that is asked when the metrics are."""
        Gauge(f"leukolens_{name}", help_text, registry=self.registry).set_function(value)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered; `route` is the pattern that it fits and not what was asked for."""
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def batch(self, pictures: int, seconds: float) -> None:
        """Count a batch that was scored."""
        self.batches.observe(pictures)
        self.score_seconds.observe(seconds)

    def outcomes(self, counts: Counts[str]) -> None:
        """Count pictures: `scored` (refused ones among them), `refused`, `failed`."""
        self.cells.labels("answered").inc(counts["scored"] - counts["refused"])
        self.cells.labels("refused").inc(counts["refused"])
        self.cells.labels("failed").inc(counts["failed"])

    def serve(self, models: Iterable[ServedModel]) -> None:
        """Name the models that are served from now on."""
        self.models.clear()
        for model in models:
            self.models.labels(*(str(model.info[name]) for name in _MODEL_LABELS)).set(1)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
