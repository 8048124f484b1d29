"""All hostile inputs, in one fixed order.

In: a seed, how many files of each format to spoil, and perhaps a folder filled by `guided.py`. Out: Cases. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hostile_corpus.bombs import bomb_cases
from hostile_corpus.case import Case
from hostile_corpus.commands import command_cases
from hostile_corpus.guided import guided_cases
from hostile_corpus.headers import header_cases
from hostile_corpus.models import model_cases
from hostile_corpus.polyglots import polyglot_cases
from hostile_corpus.tables import table_cases
from hostile_corpus.zips import zip_cases


def corpus(seed: int, per_format: int, guided: Path | None = None) -> Iterator[Case]:
    """Give every case, made one by one as they are asked for."""
    yield from header_cases(seed, per_format)
    if guided is not None:
        yield from guided_cases(guided)
    yield from bomb_cases()
    yield from polyglot_cases()
    yield from zip_cases(seed, per_format)
    yield from command_cases()
    yield from model_cases()
    yield from table_cases()
