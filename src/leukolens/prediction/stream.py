"""`leukolens predict` on loose images: a model and whatever holds pictures in, one row per picture out.

In: a finished run, and files, folders, patterns or zip archives. Out: `ScoredInputs`. Writes: one table, CSV or Parquet, with
INPUT_SCORES_COLUMNS and the probability of each class.

Preprocessing, temperature, threshold, prediction sets, class names and the images to be like come from the run; none can be
given by hand. Images are read a few ahead and scored in batches, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leukolens.artifacts import CLASS_SEPARATOR, FAILED, INPUT_SCORES_COLUMNS, SCORED, Record
from leukolens.data.fingerprints import hash_pixels
from leukolens.data.preprocessing import Pixels
from leukolens.decision.temperature import probabilities
from leukolens.decision.threshold import positive_probability
from leukolens.errors import ImageError
from leukolens.models.compute import tune_allocator
from leukolens.prediction.inputs import Counted, Input, count_inputs, read_each
from leukolens.prediction.predict import asked_by
from leukolens.prediction.scores_file import scores_file, scores_path, scores_schema
from leukolens.prediction.table import Scored
from leukolens.progress import logger, progress
from leukolens.settings import IndexSettings, PredictSettings
from leukolens.training.features import VIEWS
from leukolens.training.head import linear_logits
from leukolens.training.runs import Run

DEFAULT_MISCOVERAGE = 0.1
"""Largest share of wrong prediction sets where none is asked for: needs nine subject groups in validation."""

BATCH = 32
"""Pictures that are scored at once."""

_CHANNELS = 3
# Where hardly any input is an image, rows are written before there is a whole batch of images.
_ROWS_AT_MOST = 4096
_NO_SUCH_DATA = ""

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Picture:
    """An input as the network reads it: `pixels` uint8 [input_px, input_px, 3]; `pixel_hash` of the cell as decoded."""

    name: str
    pixels: Pixels
    pixel_hash: str


@dataclass(frozen=True)
class Failure:
    """An input without a score, and why."""

    name: str
    error: ImageError


Outcome = Picture | Failure
Watch = Callable[[Sequence[Outcome], Columns], None]


@dataclass
class ScoredInputs:
    """What was written: `path` of the table, and the numbers of rows.

    `scored` and `failed` sum to the inputs; `errors` counts the failed ones by reason, `refusals` the scored ones that the
    model does not answer, `seen` those that it was trained or validated on, by side. `skipped` files of folders and archives
    have no row: hidden ones and those that do not end as images do. `synthetic`: the model knows drawn cells only.
    """

    path: Path
    skipped: int = 0
    synthetic: bool = False
    scored: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Number of inputs without a score."""
        return self.errors.total()

    def count(self, rows: Columns) -> None:
        """Add the rows of one batch."""
        self.scored += rows["status"].count(SCORED)
        for counter, column in ((self.errors, "error"), (self.refusals, "refusal"), (self.seen, "seen_in")):
            counter.update(value for value in rows[column] if value is not None)


def predict_inputs(
    run: Run | Path | str,
    inputs: Sequence[Path | str],
    out: Path | str | None = None,
    settings: PredictSettings | None = None,
) -> ScoredInputs:
    """Score images that no manifest lists: exactly one row per input, in the order given, with or without a score.

    Args:
        run: a finished Run with its decision, its folder, or a bundle of it.
        inputs: image files, folders (gone through in path order), patterns (`*`, `?`, `[…]`, `**`) and zip archives.
        out: the table, .csv or .parquet, or the folder for a `scores.csv`; None means the present folder.
        settings: the level of the prediction sets (`abstain`, else DEFAULT_MISCOVERAGE), test-time augmentation, device,
            engine.

    Raises:
        RunError: the run is unfinished or has no decision.
        ArtifactError: the run is a bundle, and one of its files is not as it was exported.
        SettingsError: no image is given, a manifest is among the inputs, `out` ends in another suffix, or the engine is not to
            be had.
    """
    tune_allocator()
    run = run if isinstance(run, Run) else Run.load(run)
    given, settings, path = [str(each) for each in inputs], settings or PredictSettings(), scores_path(out)
    run.decision_record  # noqa: B018 - a run without one is refused before its inputs are gone through
    counted = count_inputs(given)
    return write_scores(InputScorer(run, settings), given, counted, path)


def write_scores(
    scorer: InputScorer, given: Sequence[str], counted: Counted, path: Path, watch: Watch | None = None
) -> ScoredInputs:
    """Score inputs into one table, whole or not at all.

    Args:
        scorer: the run.
        given: as for `count_inputs`.
        counted: what that gave.
        path: as `scores_path` gives it.
        watch: sees each batch with its rows, as `InputScorer.rows` gives them, on the way.
    """
    run = scorer.run
    scored = ScoredInputs(path, counted.skipped, run.record["synthetic"])
    with (
        scores_file(path, scores_schema(run.record["classes"]), scorer.record()) as file,
        progress(f"{run.record['display_name']}: scoring", counted.inputs) as advance,
        closing(read_each(given, scorer.read)) as outcomes,
    ):
        for batch in batches(outcomes):
            rows = scorer.rows(batch)
            file.write(rows)
            scored.count(rows)
            if watch is not None:
                watch(batch, rows)
            advance(len(batch))
    return scored


def summary_lines(scored: ScoredInputs) -> list[str]:
    """Give the counts as text for a terminal: scored and not, left out, not answered, and cells that the model has seen."""
    lines = [f"{scored.scored + scored.failed} inputs: {scored.scored} scored, {scored.failed} could not be"]
    lines += _counted_lines(scored.errors)
    if scored.synthetic:
        lines.insert(0, "SYNTHETIC: the model has learned from drawn cells of no patient; of real cells its scores say nothing")
    if scored.skipped:
        lines.append(f"left out: {scored.skipped} files of folders and archives, hidden or without an image's suffix")
    lines.append(f"not answered: {scored.refusals.total()} of those scored")
    lines += _counted_lines(scored.refusals)
    if scored.seen:
        sides = " and ".join(f"{count} in {side}" for side, count in scored.seen.most_common())
        lines.append(f"seen by the model before: {sides} (column seen_in); do not measure it on these")
    return lines


def _counted_lines(counter: Counter[str]) -> list[str]:
    return [f"  {count} {reason}" for reason, count in counter.most_common()]


class InputScorer:
    """A run that turns inputs into rows.

    Args:
        run: a finished run, loaded once.
        settings: level of the prediction sets, test-time augmentation, device, engine.
    """

    def __init__(self, run: Run, settings: PredictSettings) -> None:
        self.run = run
        self.settings = settings
        self.preprocessing, self.max_pixels = run.preprocessing, IndexSettings().max_pixels
        self.decision, self.outliers = run.decision(), run.outliers()
        seen = run.seen_images(_NO_SUCH_DATA)
        self.side_of_cell = dict(zip(seen["pixel_hash"], seen["side"], strict=True))
        self.miscoverage = DEFAULT_MISCOVERAGE if settings.abstain is None else settings.abstain
        self.extractor = run.extractor(BATCH, settings.device, settings.engine)
        self.extractor.ready()
        # One place for the pixels of all batches, so that the heap has no holes of this size to keep.
        self.pixels = np.empty((BATCH, self.preprocessing.input_px, self.preprocessing.input_px, _CHANNELS), np.uint8)
        self.views = [self.extractor.of_view(view) for view in range(VIEWS if settings.tta else 1)]
        if caution := self.decision.caution(self.miscoverage):
            logger.warning("%s", caution)

    def read(self, source: Input) -> Outcome:
        """Decode one input and bring it to the network's size; from any thread."""
        try:
            decoded = source.read(self.max_pixels)
        except ImageError as error:
            return Failure(source.name, error)
        return Picture(source.name, self.preprocessing.apply(decoded.trimmed), hash_pixels(decoded.trimmed.window))

    def rows(self, batch: Sequence[Outcome]) -> Columns:
        """Columns of the table for a batch of at most 32 pictures and any number of failures, in their order."""
        classes = [f"probability_{name}" for name in self.decision.classes]
        rows: Columns = {name: [None] * len(batch) for name in (*INPUT_SCORES_COLUMNS, *classes)}
        places = [place for place, outcome in enumerate(batch) if isinstance(outcome, Picture)]
        for name, values in self._answers([outcome for outcome in batch if isinstance(outcome, Picture)]).items():
            for place, value in zip(places, values, strict=True):
                rows[name][place] = value
        for place, outcome in enumerate(batch):
            rows["input"][place] = outcome.name
            rows["status"][place] = SCORED if isinstance(outcome, Picture) else FAILED
            if isinstance(outcome, Failure):
                rows["error"][place] = outcome.error.reason
                rows["detail"][place] = outcome.error.received
        return rows

    def record(self) -> Record:
        """Give what made the scores: the record of a table in Parquet."""
        run = self.run
        names = ("classes", "positive", "architecture", "display_name", "run_hash", "synthetic", "parameters")
        return {
            **{name: run.record[name] for name in names},
            "kind": "network",
            "phase": run.record["best_phase"],
            "trained_on": run.record["weights"]["trained_on"],
            "optimistic": run.record["split"]["optimistic"],
            "preprocessing": self.preprocessing.to_record(),
            "decisions": [self.decision.entry(repeat=0, fold=run.settings.fold)],
            "decision_hash": run.decision_record["hash"],
            "tta": self.settings.tta,
            "abstain": self.miscoverage,
            **asked_by(self.extractor.compute),
        }

    def _answers(self, pictures: Sequence[Picture]) -> Columns:
        """What the model says of pictures, by column."""
        if not pictures:
            return {}
        pixels = np.stack([picture.pixels for picture in pictures], out=self.pixels[: len(pictures)])
        decision, scored = self.decision, self._score(pixels)
        answers = decision.apply(scored.logits)
        sets = decision.prediction_sets(answers.probabilities, self.miscoverage)
        return {
            "score": self._raw_scores(scored),
            **{f"probability_{name}": answers.probabilities[:, c].tolist() for c, name in enumerate(decision.classes)},
            "decision": [decision.classes[position] for position in answers.y_pred],
            "prediction_set": [self._named(members) for members in sets],
            "outlier_score": scored.outlier_score.tolist(),
            "refusal": decision.refusals(answers.probabilities, scored.outlier_score, self.miscoverage),
            "seen_in": [self.side_of_cell.get(picture.pixel_hash) for picture in pictures],
        }

    def _score(self, pixels: Pixels) -> Scored:
        """Logits of uint8 [batch, input_px, input_px, 3], as `predict` has them, and distance to the training images."""
        features = [view(pixels) for view in self.views]
        head = self.extractor.classifier.head
        logits = [linear_logits(each, head.weight, head.bias) for each in features]
        return Scored(np.mean(logits, axis=0), self.outliers.scores(features[0]))

    def _raw_scores(self, scored: Scored) -> list[float | None]:
        """Score of the positive class or classes before calibration; None where none is named."""
        positions = [self.decision.classes.index(name) for name in self.decision.positive]
        if not positions:
            return [None] * len(scored.logits)
        raw: list[float | None] = positive_probability(probabilities(scored.logits, 1.0), positions).tolist()
        return raw

    def _named(self, members: Iterable[bool]) -> str:
        named = [name for name, is_member in zip(self.decision.classes, members, strict=True) if is_member]
        return CLASS_SEPARATOR.join(named)


def batches(outcomes: Iterable[Outcome]) -> Iterator[list[Outcome]]:
    """Cut a stream into pieces of 32 pictures and the failures between them, or of 4,096 rows; order is kept."""
    batch: list[Outcome] = []
    pictures = 0
    for outcome in outcomes:
        batch.append(outcome)
        pictures += isinstance(outcome, Picture)
        if pictures == BATCH or len(batch) == _ROWS_AT_MOST:
            yield batch
            batch, pictures = [], 0
    if batch:
        yield batch
