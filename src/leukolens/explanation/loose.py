"""Maps of pictures in memory: a run's network loaded once, asked for one picture after the other.

In: a finished run or a bundle, and pixels as `Preprocessing.apply` gives them. Out: PictureMap. Writes: nothing.

`leukolens serve` asks for single pictures, `leukolens explain` for all that are on its sheet.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, get_args

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from leukolens import extras
from leukolens.data.preprocessing import Pixels, foreground
from leukolens.decision.rule import Decision
from leukolens.errors import ImageError, SettingsError
from leukolens.explanation.localisation import localise
from leukolens.explanation.overlays import WARNING, overlaid
from leukolens.models.compute import tune_allocator
from leukolens.progress import logger
from leukolens.settings import CamMethod, ExplainSettings
from leukolens.training.runs import Run

# pytorch-grad-cam is an extra: what needs it is imported once it is known to be there.
if TYPE_CHECKING:
    from leukolens.explanation.cams import ClassMaps

LIBRARY = "grad-cam"
"""The name by which pytorch-grad-cam is installed."""


@dataclass(frozen=True)
class PictureMap:
    """Where a score is sensitive in one picture.

    Args:
        method: how the map was made.
        explained_class: name of the class whose score it is of; several positive classes are joined by " or ".
        probability: of that class, calibrated, by the network in float32; `predict` may compute in another precision, and
            what it says is the answer.
        overlay: uint8 [side, side, 3] RGB: the picture in grey, the map over it, the cell's edge white, a cross at the peak.
        cell_share: share of the picture that is cell, 0–1: what a map without any preference would have inside.
        inside_share: share of the map's mass on the cell, 0–1; None where the map is empty.
        peak_inside: whether the map's largest value lies on the cell; None where the map is empty.
    """

    method: CamMethod
    explained_class: str
    probability: float
    overlay: Pixels
    cell_share: float
    inside_share: float | None
    peak_inside: bool | None

    def png(self) -> bytes:
        """Give the overlay as a PNG file, which says in its metadata what a map does not show."""
        notes = PngInfo()
        notes.add_itxt("Warning", WARNING)
        file = io.BytesIO()
        Image.fromarray(self.overlay).save(file, format="PNG", pnginfo=notes)
        return file.getvalue()


class Explainer:
    """A run whose network stays loaded, in float32 and eagerly, for maps of any number of pictures.

    May be called from several threads; they take turns, because a network that is being asked carries hooks.

    Args:
        run: a finished Run with its decision, its folder, or a bundle of it.
        settings: class, layer and device of the maps; the rest is for the verb.

    Raises:
        SettingsError: pytorch-grad-cam is not installed; no such class, layer or device; no positive class and none given.
        RunError, ArtifactError: as `Run.load`.
    """

    def __init__(self, run: Run | Path | str, settings: ExplainSettings | None = None) -> None:
        extras.require_package(
            "pytorch_grad_cam", "Maps need pytorch-grad-cam.", remedy="pip install 'leukolens[explain]'", package=LIBRARY
        )
        from leukolens.explanation.cams import Explained, LogOdds, see_black

        tune_allocator()
        self.run = run if isinstance(run, Run) else Run.load(run)
        self.settings = settings or ExplainSettings()
        self.decision = self.run.decision()
        self.classes = asked_classes(self.decision, self.settings.target_class)
        self.side_px = self.run.preprocessing.input_px
        device = self.run.compute(self.settings.device).device
        self.explained = Explained(self.run.classifier(), self.run.architecture, self.settings.layer, device)
        positions = tuple(self.decision.classes.index(name) for name in self.classes)
        self.target = LogOdds(positions, self.decision.temperature)
        self.black = see_black(self.explained, self.side_px)
        self._turn = Lock()
        logger.debug("maps of %s, %s", self.explained.layer_name, type(self.explained.module).__name__)

    def maps(self, pixels: Pixels, methods: Sequence[CamMethod]) -> ClassMaps:
        """Map pictures uint8 [n, input_px, input_px, 3], n at least 1; raises SettingsError where a method is not known."""
        from leukolens.explanation.cams import class_maps

        if unknown := set(methods) - set(get_args(CamMethod)):
            raise SettingsError(
                "There is no such method of making maps.",
                expected=" or ".join(get_args(CamMethod)),
                received=", ".join(sorted(unknown)),
                remedy="correct the method",
            )
        with self._turn:
            return class_maps(self.explained, self.target, pixels, methods, self.black)

    def picture(self, pixels: Pixels, method: CamMethod = "gradcam") -> PictureMap:
        """Map one picture uint8 [input_px, input_px, 3]; raises ImageError where it is none."""
        wanted = (self.side_px, self.side_px, 3)
        if pixels.shape != wanted or pixels.dtype != np.uint8:
            raise ImageError(
                "A picture to be mapped is not as its network reads it.",
                reason="unsupported",
                expected=f"uint8 {list(wanted)}, as the run's `preprocessing.apply` gives it",
                received=f"{pixels.dtype} {list(pixels.shape)}",
                remedy="bring the decoded image through `Run.preprocessing.apply` first",
            )
        found = self.maps(pixels[None], (method,))
        values, mask = found.maps[method][0], foreground(pixels)
        place = localise(values, mask)
        return PictureMap(
            method=method,
            explained_class=" or ".join(self.classes),
            probability=float(found.probability[0]),
            overlay=overlaid(pixels, values, mask),
            cell_share=place.cell_share,
            inside_share=place.inside_share,
            peak_inside=place.peak_inside,
        )


def explain_picture(
    model: Explainer | Run | Path | str,
    pixels: Pixels,
    method: CamMethod = "gradcam",
    settings: ExplainSettings | None = None,
) -> PictureMap:
    """Map where a model's score is sensitive in one picture in memory.

    Args:
        model: an Explainer, which keeps its network for the next picture; or a finished run, its folder or a bundle of it,
            whose network is loaded for this picture alone (seconds).
        pixels: uint8 [input_px, input_px, 3], as the run's `preprocessing.apply` gives it.
        method: "gradcam" or "eigencam".
        settings: class, layer and device; an Explainer has its own already.

    Raises:
        SettingsError, RunError, ArtifactError: as Explainer; settings were given beside one that has others.
        ImageError: the pixels are not as the network reads them.
    """
    if not isinstance(model, Explainer):
        model = Explainer(model, settings)
    elif settings not in (None, model.settings):
        raise SettingsError(
            "This explainer was made with other settings.",
            expected="its own, or none",
            received="others beside it",
            remedy="make an Explainer with these settings",
        )
    return model.picture(pixels, method)


def asked_classes(decision: Decision, wanted: str | None) -> tuple[str, ...]:
    """Give the class that was asked for, else the positive ones together; raises SettingsError where there is none."""
    if wanted is None and decision.positive:
        return decision.positive
    if wanted in decision.classes:
        return (wanted,)
    raise SettingsError(
        "It is not known which class the maps are to be of.",
        expected=f"one of {', '.join(decision.classes)}",
        received=wanted or "none, and the run has no positive class",
        remedy="give --class",
    )
