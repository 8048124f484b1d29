r"""The table of scored inputs, written piece by piece: CSV or Parquet, whole or not at all.

In: pieces of a pyarrow table. Out: nothing. Writes: the file that was asked for, under a temporary name that becomes the
right one when the last row is written.

Names of files come from strangers. In CSV text is written so that no spreadsheet computes it and no line is broken by it:
what cannot be printed becomes `\n`, `\x1b`, `\u202e` and so on, a backslash becomes two, and text that begins as a formula
does, or with an apostrophe, gets an apostrophe before it. Parquet holds text as it is, bytes that are no UTF-8 written as in
CSV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from leukolens.artifacts import INPUT_SCORES_COLUMNS, Record, atomic_path, with_record
from leukolens.errors import SettingsError

DEFAULT_NAME = "scores.csv"

_CSV, _PARQUET = ".csv", ".parquet"
# A row group of Parquet for every 32 images would take more room for its description than for its values.
_ROWS_AT_ONCE = 8192
# Formulas of spreadsheets, full-width letters too; the apostrophe, so that one that was there can be told from one that was
# added.
_FORMULA_STARTS = tuple("=+-@'＝＋－＠")


class TableWriter(Protocol):
    """Anything that writes pyarrow tables one after the other."""

    def write_table(self, table: pa.Table) -> None:
        """Write one piece."""


class ScoresFile:
    """Rows on their way into a file; a few thousand of them wait in memory.

    Args:
        writer: what writes them.
        schema: their columns.
        text: how text must be written so that the file can hold it.
    """

    def __init__(self, writer: TableWriter, schema: pa.Schema, text: Callable[[str], str]) -> None:
        self.writer = writer
        self.schema = schema
        self.text = text
        self.waiting: dict[str, list[Any]] = {name: [] for name in schema.names}

    def write(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add rows: for each column of the schema its values, None where there is none."""
        # They wait as Python's own objects. A small table of pyarrow for every batch would come to lie between the batches'
        # pixels in the C library's heap, which then finds no room for the next batch: 6 MB more for each.
        for name, values in self.waiting.items():
            values.extend(columns[name])
        if len(self.waiting[self.schema.names[0]]) >= _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self.waiting[self.schema.names[0]]:
            arrays = [self._array(field, self.waiting[field.name]) for field in self.schema]
            self.writer.write_table(pa.table(arrays, self.schema))
            self.waiting = {name: [] for name in self.schema.names}

    def _array(self, field: pa.Field, values: Sequence[Any]) -> pa.Array:
        if pa.types.is_string(field.type):
            values = [None if value is None else self.text(value) for value in values]
        return pa.array(values, field.type)


def scores_schema(classes: list[str]) -> pa.Schema:
    """Columns and types of the table: those of INPUT_SCORES_COLUMNS and, after `score`, `probability_<class>`."""
    columns = dict(INPUT_SCORES_COLUMNS)
    place = list(columns).index("score") + 1
    names = [*list(columns)[:place], *(f"probability_{name}" for name in classes), *list(columns)[place:]]
    types = {"string": pa.string(), "float64": pa.float64()}
    return pa.schema([(name, types[columns.get(name, "float64")]) for name in names])


def scores_path(out: Path | str | None) -> Path:
    """Where the table goes: the file that was named, DEFAULT_NAME in a folder that was named, or in the present one.

    Raises SettingsError where a file is named that is neither .csv nor .parquet.
    """
    path = Path(DEFAULT_NAME if out is None else out)
    if path.is_dir() or not path.suffix:
        return path / DEFAULT_NAME
    if path.suffix.lower() not in (_CSV, _PARQUET):
        raise SettingsError(
            f"Scores cannot be written to {path}.",
            expected="a name that ends in .csv or .parquet, or a folder",
            received=f"the suffix {path.suffix}",
            remedy="give another --out",
        )
    return path


@contextmanager
def scores_file(path: Path, schema: pa.Schema, record: Record) -> Iterator[ScoresFile]:
    """Open a table to be written; the file exists when the block ends well, and stays what it was when not.

    Args:
        path: see `scores_path`; folders are made, an earlier file is replaced.
        schema: see `scores_schema`.
        record: what the scores were made by; Parquet carries it in its metadata, CSV cannot.
    """
    is_parquet = path.suffix.lower() == _PARQUET
    schema = with_record(schema, record)
    with atomic_path(path) as temporary:
        opened = pq.ParquetWriter(temporary, schema) if is_parquet else pc.CSVWriter(temporary, schema)
        with opened as writer:
            file = ScoresFile(writer, schema, _storable if is_parquet else safe_text)
            yield file
            file.flush()


def safe_text(text: str) -> str:
    """Text for a cell of CSV, as the module says."""
    escaped = _without_unprintable(text.replace("\\", "\\\\"))
    return f"'{escaped}" if escaped.startswith(_FORMULA_STARTS) else escaped


def _storable(text: str) -> str:
    """Text for Parquet: as it is, unless bytes of a name were no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _without_unprintable(text: str) -> str:
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
