"""Score one shard: decode, ask the network, write the part. One process does one shard after another.

In: Shards, the number of one, and the run. Out: how many images were scored and how many could not be. Writes: the part of
the shard and, before it, its failures (see `shards.py`). In memory are a batch and the images decoded ahead of it, however
large the shard.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from leukolens.artifacts import Predictions, Record
from leukolens.data.indexed import IndexedImage, indexed_images, read_indexed
from leukolens.data.preprocessing import Pixels
from leukolens.data.threads import in_order
from leukolens.errors import ImageError
from leukolens.models.compute import tune_allocator
from leukolens.prediction.predict import asked_by
from leukolens.prediction.shards import FAILURE_COLUMNS, Shards, no_scores
from leukolens.prediction.table import Scored, predictions_table
from leukolens.settings import PredictSettings
from leukolens.training.features import VIEWS
from leukolens.training.head import linear_logits
from leukolens.training.runs import Run

_BATCH = 32


@dataclass(frozen=True)
class Failure:
    """Why one image was not scored."""

    image: str
    reason: str
    expected: str
    received: str


class ShardScorer:
    """A run, loaded once, that scores shards; raises what `Run` and `Shards` raise.

    Args:
        run: a finished run.
        shards: folder of the shards.
        settings: whether to refuse, test-time augmentation, device.
        workers: threads that decode.
    """

    def __init__(self, run: Run, shards: Shards, settings: PredictSettings, workers: int) -> None:
        tune_allocator()
        self.run = run
        self.shards = shards
        self.settings = settings
        self.workers = workers
        self.decision, self.outliers = run.decision(), run.outliers()
        self.extractor = run.extractor(_BATCH, settings.device, settings.engine)

    def score(self, number: int) -> Record:
        """Score one shard unless that was done before; gives `shard`, `scored` and `failures` (numbers of images)."""
        if self.shards.part_path(number).is_file():
            return {"shard": number, "scored": 0, "failures": 0}
        began = time.perf_counter()
        rows = self.shards.rows(number)
        usable, scored, failures = self._scored(rows)
        record = {**self.shards.record["predictions"], "shard": number, "failures": len(failures)}
        compute = self.extractor.compute
        record = {**record, **asked_by(compute), "device": compute.device, "seconds": time.perf_counter() - began}
        part = self._part(rows[usable], scored, record)
        names = list(FAILURE_COLUMNS)
        self.shards.finish(number, part, pd.DataFrame([vars(failure) for failure in failures], columns=names))
        return {"shard": number, "scored": len(part.table), "failures": len(failures)}

    def _part(self, rows: pd.DataFrame, scored: Scored | None, record: Record) -> Predictions:
        abstain = self.settings.abstain
        if scored is None:
            return no_scores(record, has_refusals=abstain is not None)
        return Predictions(predictions_table(rows.reset_index(drop=True), scored, self.decision, abstain), record)

    def _scored(self, rows: pd.DataFrame) -> tuple[list[bool], Scored | None, list[Failure]]:
        """Which rows are usable, what the network says of these (None where none is), and why the others are not."""
        usable: list[bool] = []
        failures: list[Failure] = []

        def sifted() -> Iterator[Pixels]:
            for outcome in self._decoded(rows):
                usable.append(not isinstance(outcome, Failure))
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                else:
                    yield outcome

        pixels, parts = sifted(), []
        while batch := list(islice(pixels, _BATCH)):
            parts.append(self._scores_of(np.stack(batch)))
        if not parts:
            return usable, None, failures
        logits, distances = (np.concatenate(values) for values in zip(*parts, strict=True))
        return usable, Scored(logits, distances), failures

    def _scores_of(self, pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
        """Logits [batch, classes], as `predict` has them, and distances [batch] to the training images."""
        head, views = self.extractor.classifier.head, range(VIEWS if self.settings.tta else 1)
        features = [self.extractor.of_view(view)(pixels) for view in views]
        logits = [linear_logits(each, head.weight, head.bias) for each in features]
        return np.mean(logits, axis=0), self.outliers.scores(features[0])

    def _decoded(self, rows: pd.DataFrame) -> Iterator[Pixels | Failure]:
        """Pixels uint8 [input_px, input_px, 3] of each row in order, or why there are none."""
        root = Path(self.shards.record["root"])
        return in_order(lambda row: self._decode(root, row), indexed_images(rows), self.workers)

    def _decode(self, root: Path, row: IndexedImage) -> Pixels | Failure:
        try:
            return self.run.preprocessing.apply(read_indexed(root, row))
        except ImageError as error:
            return Failure(row.image, error.reason, error.expected, error.received)
