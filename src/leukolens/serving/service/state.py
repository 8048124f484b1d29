"""Everything that one server holds, in one place.

In: settings. Out: Service. Writes: nothing.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request

from leukolens.artifacts import REPORT_FILE
from leukolens.errors import RequestError
from leukolens.explanation.loose import PictureMap
from leukolens.prediction.stream import Failure
from leukolens.serving.service.answering import Answering
from leukolens.serving.service.gate import Token
from leukolens.serving.service.load import Load
from leukolens.serving.service.maps import Maps
from leukolens.serving.service.metrics import Metrics
from leukolens.serving.service.microbatches import Row
from leukolens.serving.service.pictures import UploadedPicture
from leukolens.serving.service.served import ServedModel, Shelf
from leukolens.settings import CamMethod, ServeSettings


class Service:
    """Models, queue, counters and limits of one server.

    Args:
        settings: as resolved.
        paths: where each model lies, by name.
        token: the secret.
    """

    def __init__(self, settings: ServeSettings, paths: dict[str, Path], token: Token) -> None:
        self.settings = settings
        self.token = token
        self.metrics = Metrics()
        self.shelf = Shelf(paths, settings, self.metrics)
        self.load = Load(settings.limits.max_bytes_in_flight, settings.limits.max_requests)
        self.answering = Answering(settings.limits, self.metrics)
        self.maps = Maps(settings)
        queue, load = self.answering.queue, self.load
        self.metrics.watch("queue_pictures", "Pictures that wait to be scored.", lambda: float(queue.waiting()))
        self.metrics.watch("bytes_in_flight", "Bytes of requests in memory.", lambda: float(load.bytes_held))
        self.metrics.watch("requests_in_flight", "Requests to /v1 under way.", lambda: float(load.under_way))

    @classmethod
    def of(cls, request: Request) -> Service:
        """The service that a request came to."""
        found: Service = request.app.state.service
        return found

    def report(self) -> Path | None:
        """The report that is shown; None where there is none, or not yet."""
        results = self.settings.results
        return results / REPORT_FILE if results is not None and (results / REPORT_FILE).is_file() else None

    async def explained(self, model: ServedModel, given: UploadedPicture, method: CamMethod) -> tuple[Row, PictureMap]:
        """Row and map of one picture; raises RequestError (422) where it cannot be used."""
        outcome = await self.answering.picture(model, given)
        if isinstance(outcome, Failure):
            error = outcome.error
            raise RequestError("The picture cannot be used.", status=422, expected=error.expected,
                               received=f"{error.reason}: {error.received}", remedy="send another picture")  # fmt: skip
        return await self.answering.scored(model, outcome), await self.maps.make(model, outcome, method)

    def close(self) -> None:
        """Let all threads end."""
        self.answering.close()
        self.maps.close()
