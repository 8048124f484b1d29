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
from typing import NamedTuple

import numpy as np
import pandas as pd

from leukolens.artifacts import Predictions, Record
from leukolens.data.fingerprints import hash_content
from leukolens.data.preprocessing import Pixels, read_pixels
from leukolens.data.threads import in_order
from leukolens.errors import ImageError
from leukolens.models.compute import tune_allocator
from leukolens.prediction.shards import FAILURE_COLUMNS, Shards, no_scores
from leukolens.prediction.table import Scored, predictions_table
from leukolens.settings import PredictSettings
from leukolens.training.features import VIEWS, FeatureExtractor
from leukolens.training.head import linear_logits
from leukolens.training.runs import Run

_BATCH = 32
_CHANGED = "changed"


class ShardRow(NamedTuple):
    """What is needed to read one image and to see that it is still the one that was indexed."""

    image: str
    height_px: int
    width_px: int
    content_hash: str


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
        self.decision, self.outliers, self.classifier = run.decision(), run.outliers(), run.classifier()
        compute, name = run.compute(settings.device), run.record["display_name"]
        self.extractor = FeatureExtractor(self.classifier, run.preprocessing, compute, _BATCH, name)

    def score(self, number: int) -> Record:
        """Score one shard unless that was done before; gives `shard`, `scored` and `failures` (numbers of images)."""
        if self.shards.part_path(number).is_file():
            return {"shard": number, "scored": 0, "failures": 0}
        began = time.perf_counter()
        rows = self.shards.rows(number)
        usable, scored, failures = self._scored(rows)
        record = {**self.shards.record["predictions"], "shard": number, "failures": len(failures)}
        record = {**record, "device": self.extractor.compute.device, "seconds": time.perf_counter() - began}
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
        head, views = self.classifier.head, range(VIEWS if self.settings.tta else 1)
        features = [self.extractor.of_view(view)(pixels) for view in views]
        logits = [linear_logits(each, head.weight, head.bias) for each in features]
        return np.mean(logits, axis=0), self.outliers.scores(features[0])

    def _decoded(self, rows: pd.DataFrame) -> Iterator[Pixels | Failure]:
        """Pixels uint8 [input_px, input_px, 3] of each row in order, or why there are none."""
        columns = rows[list(ShardRow._fields)]
        wanted = (ShardRow(*row) for row in columns.itertuples(index=False, name=None))
        return in_order(self._decode, wanted, self.workers)

    def _decode(self, row: ShardRow) -> Pixels | Failure:
        path, size_px = Path(self.shards.record["root"]) / row.image, (row.height_px, row.width_px)
        try:
            decoded = read_pixels(path, max_pixels=row.height_px * row.width_px).trimmed
        except ImageError as error:
            return Failure(row.image, error.reason, error.expected, error.received)
        found = decoded.size_px
        if found != size_px:
            return Failure(row.image, _CHANGED, _size(size_px), _size(found))
        # The sides were worked out from the pixels that were indexed: another cell may be one that the run has learned from.
        if (content_hash := hash_content(decoded)) != row.content_hash:
            return Failure(row.image, _CHANGED, f"content hash {row.content_hash}", content_hash)
        return self.run.preprocessing.apply(decoded)


def _size(size_px: tuple[int, int]) -> str:
    return f"{size_px[1]} x {size_px[0]} pixels"
