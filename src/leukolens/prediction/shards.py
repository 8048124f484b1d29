"""Shards of a data set that is too large to score in one go: what is to be done, what is done, what came out.

In: the rows to score and what they are scored with. Out: Shards. Writes, into one folder: `shards/shard-00000.parquet` …
(manifest rows with their side, repeat and fold) and then `shards.json`, the list that makes them count; for each shard
that was scored `failures/failures-00000.parquet` where an image could not be used, and then `parts/part-00000.parquet`,
which makes it count as done; and `scored.json` when all are done.

Every file is written under another name first, so a shard is either done or not begun. Each image is in exactly one
shard, and each image of a finished shard has one row: in its part, or among its failures with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from leukolens.artifacts import (
    MANIFEST_COLUMNS,
    PREDICTIONS_COLUMNS,
    PREDICTIONS_OPTIONAL_COLUMNS,
    Predictions,
    Record,
    read_json,
    read_table,
    write_json,
    write_table,
)
from leukolens.errors import ArtifactError, RunError

SHARDS_FILE = "shards.json"
SCORED_FILE = "scored.json"
SHARD_COLUMNS = {**MANIFEST_COLUMNS, "repeat": "int16", "fold": "int16", "side": "string"}
FAILURE_COLUMNS = {
    "image": "string",
    "reason": "string",  # as in the flow of the manifest ("truncated", "missing", …), or "changed" since it was indexed
    "expected": "string",
    "received": "string",
}

_MADE_OF = "made_of"
_ASKED_BY = ("engine", "inference_precision")


@dataclass(frozen=True)
class Shards:
    """A folder of shards and the `record` in its shards.json.

    The record holds `made_of` (hashes of run, decision, data and splits, and the settings: what the scores depend on),
    `predictions` (the record that every part carries), `root` (folder that image paths start from), `images` and `shards`
    (how many there are).
    """

    folder: Path
    record: Record

    @classmethod
    def open(cls, folder: Path | str) -> Shards:
        """Read the list of shards in a folder; raises ArtifactError where there is none."""
        return cls(Path(folder), read_json(Path(folder) / SHARDS_FILE))

    @property
    def numbers(self) -> range:
        """Numbers of the shards, from 0."""
        return range(self.record["shards"])

    def unfinished(self) -> list[int]:
        """Numbers of the shards that have no part yet."""
        return [number for number in self.numbers if not self.part_path(number).is_file()]

    def rows(self, number: int) -> pd.DataFrame:
        """Rows of one shard, with SHARD_COLUMNS."""
        return read_table(self._path("shard", number), SHARD_COLUMNS)[0]

    def part_path(self, number: int) -> Path:
        """Where the scores of one shard are."""
        return self._path("part", number)

    def finish(self, number: int, scored: Predictions, failures: pd.DataFrame) -> None:
        """Write the failures of one shard (with FAILURE_COLUMNS), if there are any, and then its part."""
        if len(failures):
            write_table(failures, self._path("failures", number), FAILURE_COLUMNS, scored.record)
        scored.save(self.part_path(number))

    def count_rows(self) -> tuple[int, int]:
        """Number of scored images and of failures in all parts.

        Raises ArtifactError naming the shards that are not done, or where the rows are not as many as the images.
        """
        if missing := self.unfinished():
            raise _incomplete(self.folder, f"{self.record['shards']} parts", f"none for the shards {_few(missing)}")
        scored = sum(_count_rows(self.part_path(number)) for number in self.numbers)
        paths = [self._path("failures", number) for number in self.numbers]
        failures = sum(_count_rows(path) for path in paths if path.is_file())
        if scored + failures != self.record["images"]:
            found = f"{scored} rows and {failures} failures"
            raise _incomplete(self.folder, f"one row for each of {self.record['images']} images", found)
        return scored, failures

    def _path(self, kind: str, number: int) -> Path:
        folder = {"shard": "shards", "part": "parts", "failures": "failures"}[kind]
        return self.folder / folder / f"{kind}-{number:05d}.parquet"


def list_shards(rows: pd.DataFrame, record: Record, images_per_shard: int, folder: Path) -> Shards:
    """Write the shards of `rows`, or go on with those in `folder` if they were made of the same.

    Args:
        rows: SHARD_COLUMNS, one row per image.
        record: `made_of`, `predictions` and `root` of the Shards.
        images_per_shard: rows of each shard but the last.
        folder: where to write.

    Raises:
        RunError: the folder holds shards that were made of something else.
    """
    starts = range(0, len(rows), images_per_shard)
    record = {**record, "images": len(rows), "shards": len(starts)}
    if (folder / SHARDS_FILE).is_file():
        shards = Shards.open(folder)
        _check_same(shards, record)
        return shards
    shards = Shards(folder, record)
    for number, start in enumerate(starts):
        write_table(rows.iloc[start : start + images_per_shard], shards._path("shard", number), SHARD_COLUMNS, {})
    write_json(folder / SHARDS_FILE, record)
    return shards


def read_parts(folder: Path | str) -> Predictions:
    """All scores of a finished folder as one table in the order of the data set; it must fit in memory.

    Raises ArtifactError where shards are missing, or where workers computed with different engines or precisions.
    """
    shards = Shards.open(folder)
    shards.count_rows()
    parts = [Predictions.load(shards.part_path(number)) for number in shards.numbers]
    record = {**shards.record["predictions"], **_asked_by_one(shards.folder, parts)}
    return Predictions(pd.concat([part.table for part in parts], ignore_index=True), record)


def read_failures(folder: Path | str) -> pd.DataFrame:
    """Images that could not be scored, with FAILURE_COLUMNS; none where all could."""
    shards = Shards.open(folder)
    paths = [path for number in shards.numbers if (path := shards._path("failures", number)).is_file()]
    tables = [read_table(path, FAILURE_COLUMNS)[0] for path in paths]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(FAILURE_COLUMNS), dtype="string")


def no_scores(record: Record, has_refusals: bool) -> Predictions:
    """Predictions of no image at all, with the columns of the others: of a shard whose images all failed."""
    optional = {name: kind for name, kind in PREDICTIONS_OPTIONAL_COLUMNS.items() if has_refusals or name != "refusal"}
    columns = {**PREDICTIONS_COLUMNS, **optional, **{f"score_{name}": "float64" for name in record["classes"]}}
    return Predictions(pd.DataFrame(columns=list(columns)).astype(columns), record)


def _check_same(shards: Shards, record: Record) -> None:
    then, now = shards.record, record
    differing = [name for name in now[_MADE_OF] if then[_MADE_OF].get(name) != now[_MADE_OF][name]]
    if differing:
        name = differing[0]
        raise RunError(
            f"{shards.folder} holds shards that were made with other {' and '.join(differing)}.",
            expected=f"the {name} that it was begun with: {then[_MADE_OF].get(name)}",
            received=str(now[_MADE_OF][name]),
            remedy="choose another --out, or delete that folder to score anew",
        )


def _asked_by_one(folder: Path, parts: Sequence[Predictions]) -> Record:
    """Give the engine and precision that all parts were computed with."""
    found = {tuple((name, part.record[name]) for name in _ASKED_BY if name in part.record) for part in parts}
    if len(found) > 1:
        raise ArtifactError(
            f"The parts in {folder} were not all computed alike, and cannot stand in one table.",
            expected="one engine and one precision",
            received="; ".join(sorted(", ".join(f"{name} {value}" for name, value in each) for each in found)),
            remedy="score again into another folder, with --engine and --device named",
        )
    return dict(next(iter(found), ()))


def _count_rows(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def _few(numbers: Sequence[int], at_most: int = 5) -> str:
    shown = ", ".join(map(str, numbers[:at_most]))
    return f"{shown} and {len(numbers) - at_most} more" if len(numbers) > at_most else shown


def _incomplete(folder: Path, expected: str, received: str) -> ArtifactError:
    return ArtifactError(
        f"{folder} is not scored as a whole.",
        expected=expected,
        received=received,
        remedy="give the same `leukolens predict --ray` command again: it goes on with what is missing",
    )
