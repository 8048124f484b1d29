"""Maps of single pictures, one at a time and beside the scoring.

In: a model and a decoded picture. Out: PictureMap. Writes: nothing.

The network of the maps is a second copy in float32; it is loaded when a map of that model is first asked for.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

from leukolens.errors import RequestError
from leukolens.explanation.loose import Explainer, PictureMap
from leukolens.prediction.stream import Picture
from leukolens.serving.service.served import ServedModel
from leukolens.settings import CamMethod, ExplainSettings, ServeSettings

_RETRY_SECONDS = 2


class Maps:
    """One thread that makes maps.

    Args:
        settings: device, and how many maps may be waited for.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.waiting = 0
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="map")
        # A version of a model that is served no more takes its second network along.
        self.explainers: WeakKeyDictionary[ServedModel, Explainer] = WeakKeyDictionary()

    async def make(self, model: ServedModel, picture: Picture, method: CamMethod) -> PictureMap:
        """Map one picture.

        Raises:
            RequestError: 429 where too many are waited for.
        """
        if self.waiting >= self.settings.limits.max_explanations:
            raise RequestError(
                "The server is busy with maps.",
                status=429,
                expected=f"at most {self.settings.limits.max_explanations} maps at the same time",
                received="one more",
                remedy="send it again after the seconds of Retry-After",
                retry_after=_RETRY_SECONDS,
            )
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, self._make, model, picture, method)
        finally:
            self.waiting -= 1

    def check(self, model: ServedModel) -> None:
        """Raise RequestError (501) where no map can be made of a model's scores."""
        if model.info["explain"]:
            return
        raise RequestError(
            "No maps can be made here.",
            status=501,
            expected="the package grad-cam, a model with a positive class and a network whose last feature map is known",
            received="a server or a model without one of these",
            remedy="pip install 'leukolens[explain]' and start again; or `leukolens explain --layer` for other networks",
        )

    def close(self) -> None:
        """Let the thread end after its map."""
        self.thread.shutdown(wait=True, cancel_futures=True)

    def _make(self, model: ServedModel, picture: Picture, method: CamMethod) -> PictureMap:
        explainer = self.explainers.get(model)
        if explainer is None:
            explainer = self.explainers[model] = Explainer(model.run, ExplainSettings(device=self.settings.device))
        return explainer.picture(picture.pixels, method)
