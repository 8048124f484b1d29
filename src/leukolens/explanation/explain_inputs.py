"""`leukolens explain` on loose images: files, folders, patterns and zip archives, the least certain of them on one sheet.

In: Run or bundle, and inputs as `predict` takes them. Out: InputsExplanation. Writes: `scores.csv` (all inputs, as `predict`
writes it), then what `pictures.py` writes. maps.csv has one row per map and, below these, one per input that could not be read.

All images are scored as they are read, a few at a time, and only the pixels of those that are the least certain so far are
kept: memory depends on the size of the sheet and not on the number of images.
"""

from __future__ import annotations

import csv
import heapq
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from leukolens.artifacts import FAILED, SCORED, Record
from leukolens.data.preprocessing import Pixels
from leukolens.decision.rule import Decision
from leukolens.errors import SettingsError
from leukolens.explanation.explain import compared, record_of_maps, threshold_of
from leukolens.explanation.loose import Explainer
from leukolens.explanation.pictures import Explanation, Material, frame_of, write_pictures
from leukolens.explanation.selection import UNCERTAIN, with_margin
from leukolens.explanation.wording import summary_lines as lines_of_maps
from leukolens.prediction.inputs import count_inputs
from leukolens.prediction.scores_file import DEFAULT_NAME, safe_text
from leukolens.prediction.stream import Columns, Failure, InputScorer, Outcome, Picture, ScoredInputs, write_scores
from leukolens.prediction.stream import summary_lines as lines_of_scores
from leukolens.settings import ExplainSettings, PredictSettings
from leukolens.training.runs import Run

INPUT_COLUMNS = ("input", "status", "chosen_as", "decision", "prediction_set", "refusal", "outlier_score", "seen_in", "margin",
                 "class", "probability", "method", "cell_share", "inside_share", "peak_inside", "overlay", "error",
                 "detail")  # fmt: skip

_SPLIT_LABEL = "images without a manifest"
_NOT_SEEN = "not seen before"


@dataclass(frozen=True)
class InputsExplanation:
    """What `explain_inputs` made: the maps, whose `table` lacks the inputs that could not be read, and the counts of all."""

    maps: Explanation
    scored: ScoredInputs


def explain_inputs(
    run: Run | Path | str, inputs: Sequence[Path | str], out: Path | str, settings: ExplainSettings | None = None
) -> InputsExplanation:
    """Map where a model's score is sensitive on the images, of those given, that it is least certain of.

    Args:
        run: a finished Run with its decision, its folder, or a bundle of it.
        inputs: image files, folders, patterns and zip archives, as `predict_inputs` takes them.
        out: folder to write into; what an earlier call left there is replaced.
        settings: how many images, methods, class, layer, device and the level of the prediction sets (`abstain`, as in
            `predict_inputs`). `images` chooses by the names of a manifest and has to be empty.

    Raises:
        SettingsError: pytorch-grad-cam is not installed; no such class or layer; no positive class and none given; no image is
            given, or a manifest is among the inputs; `images` is not empty.
        RunError, ArtifactError: as `predict_inputs`.
    """
    given, folder, settings = [str(each) for each in inputs], Path(out), settings or ExplainSettings()
    _check_images(settings)
    run = run if isinstance(run, Run) else Run.load(run)
    run.decision_record  # noqa: B018 - a run without one is refused before its inputs are gone through
    counted = count_inputs(given)
    explainer = Explainer(run, settings)
    scorer = InputScorer(run, PredictSettings(abstain=settings.abstain, device=settings.device))
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as spool:
        chosen = _Chosen(explainer, settings.count, spool)
        scored = write_scores(scorer, given, counted, folder / DEFAULT_NAME, chosen.watch)
        material = _material(chosen, {**scorer.record(), "split_label": _SPLIT_LABEL}, settings)
        return InputsExplanation(write_pictures(material, folder, INPUT_COLUMNS, chosen.failures()), scored)


def summary_lines(made: InputsExplanation) -> list[str]:
    """Give the counts of the inputs, and what the maps show, as text for a terminal."""
    return [*lines_of_scores(made.scored), *(lines_of_maps(made.maps.table) if len(made.maps.table) else [])]


@dataclass(frozen=True)
class _Candidate:
    """An image that may come onto the sheet: its picture and what is said of it."""

    picture: Picture
    row: dict[str, Any]


class _Chosen:
    """The least certain images among those seen so far, and on a file the inputs that could not be read.

    The pixels are kept, at most 200 pictures of the network's input, and not read again: a file may change in the meantime,
    and the map is to be of what was scored. Of copies of one cell, known by their pixels, the first stands for all.
    """

    def __init__(self, explainer: Explainer, count: int, spool: IO[str]) -> None:
        self.explainer = explainer
        self.count = count
        self.spool = spool
        self.failed = csv.writer(spool, lineterminator="\n")
        self.seen = 0
        # A heap whose first is the one to go: the most certain, and of equals the last that was read.
        self.kept: list[tuple[float, int, _Candidate]] = []
        self.cells: set[str] = set()

    def watch(self, batch: Sequence[Outcome], rows: Columns) -> None:
        """See a batch of inputs and their rows."""
        margins = _margins(rows, self.explainer.decision)
        for place, outcome in enumerate(batch):
            self.seen += 1
            if isinstance(outcome, Failure):
                self._note(outcome)
            elif self._is_wanted(outcome, margins[place]):
                self._keep(outcome, {name: values[place] for name, values in rows.items()}, margins[place])

    def rows(self) -> pd.DataFrame:
        """Those on the sheet, least certain first, with the columns of a table of predictions that its words are made of."""
        rows = [candidate.row for *_, candidate in self._ordered()]
        if not rows:
            return pd.DataFrame()
        frame = frame_of(rows, list(rows[0]))
        probability = frame[[f"probability_{name}" for name in self.explainer.classes]].sum(axis=1).clip(0, 1)
        side = [f"seen in {row['seen_in']}" if row["seen_in"] else _NOT_SEEN for row in rows]
        return frame.assign(image=frame["input"], subject=None, side=side, chosen_as=UNCERTAIN, y_true=None,
                            y_pred=frame["decision"], probability=probability)  # fmt: skip

    def pixels(self) -> Pixels:
        """Their pixels uint8 [n, side, side, 3], in the same order."""
        side_px = self.explainer.side_px
        kept = [candidate.picture.pixels for *_, candidate in self._ordered()]
        return np.stack(kept) if kept else np.empty((0, side_px, side_px, 3), np.uint8)

    def failures(self) -> Iterator[list[str]]:
        """Rows of the inputs that could not be read, in their order, safe for a spreadsheet."""
        self.spool.seek(0)
        yield from csv.reader(self.spool)

    def _is_wanted(self, picture: Picture, margin: float) -> bool:
        # Of equals the first that was read stays.
        has_room = len(self.kept) < self.count or margin < -self.kept[0][0]
        return has_room and picture.pixel_hash not in self.cells

    def _keep(self, picture: Picture, row: dict[str, Any], margin: float) -> None:
        if len(self.kept) == self.count:
            *_, gone = heapq.heappop(self.kept)
            self.cells.remove(gone.picture.pixel_hash)
        heapq.heappush(self.kept, (-margin, -self.seen, _Candidate(picture, {**row, "margin": margin})))
        self.cells.add(picture.pixel_hash)

    def _ordered(self) -> list[tuple[float, int, _Candidate]]:
        return sorted(self.kept, key=lambda each: each[:2], reverse=True)

    def _note(self, failure: Failure) -> None:
        said = {"input": failure.name, "status": FAILED, "error": failure.error.reason, "detail": failure.error.received}
        self.failed.writerow([safe_text(said.get(name, "")) for name in INPUT_COLUMNS])


def _margins(rows: Columns, decision: Decision) -> dict[int, float]:
    """How far each answer of a batch was from the other one, by its place; inputs without a score are left out."""
    places = [place for place, status in enumerate(rows["status"]) if status == SCORED]
    found = {f"score_{name}": [rows[f"probability_{name}"][place] for place in places] for name in decision.classes}
    scores = pd.DataFrame(found, dtype="float64")
    scores["y_score"] = scores[[f"score_{name}" for name in decision.positive]].sum(axis=1)
    margins = with_margin(scores, decision.classes, threshold_of(decision))["margin"]
    return dict(zip(places, margins.tolist(), strict=True))


def _material(chosen: _Chosen, predicted: Record, settings: ExplainSettings) -> Material:
    """Map what was chosen."""
    rows, pixels = chosen.rows(), chosen.pixels()
    record = record_of_maps(predicted, chosen.explainer, settings)
    if rows.empty:
        return Material(rows, pixels, None, {**record, "largest_probability_difference": None})
    found = chosen.explainer.maps(pixels, settings.methods)
    difference = compared(found.probability, rows["probability"].to_numpy())
    return Material(rows, pixels, found, {**record, "largest_probability_difference": difference})


def _check_images(settings: ExplainSettings) -> None:
    if settings.images:
        raise SettingsError(
            "--images chooses among the images of a manifest.",
            expected="a manifest, or loose images without --images",
            received=", ".join(settings.images),
            remedy="name only the images that are to be explained, or leave --images out",
        )
