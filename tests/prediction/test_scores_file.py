from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from leukolens.artifacts import INPUT_SCORES_COLUMNS
from leukolens.errors import SettingsError
from leukolens.prediction.scores_file import safe_text, scores_file, scores_path, scores_schema

CLASSES = ["HEM", "ALL"]
NAMES = ["input", "status", "score", "probability_HEM", "probability_ALL", "decision", "prediction_set", "outlier_score",
         "refusal", "seen_in", "error", "detail"]  # fmt: skip


def rows(*names: str, **values: Any) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [None] * len(names) for name in NAMES}
    return columns | {"input": list(names), "status": ["scored"] * len(names)} | values


def write(path: Path, *pieces: dict[str, list[Any]]) -> Path:
    with scores_file(path, scores_schema(CLASSES), {"run_hash": "abc"}) as file:
        for piece in pieces:
            file.write(piece)
    return path


def test_columns_stand_in_this_order() -> None:
    assert scores_schema(CLASSES).names == NAMES
    assert list(INPUT_SCORES_COLUMNS) == [name for name in NAMES if not name.startswith("probability_")]
    assert {str(field.type) for field in scores_schema(CLASSES)} == {"string", "double"}


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    values = [1 / 3, 0.1 + 0.2, 5e-324, 1 - 2**-53, None]
    piece = rows(*"abcde", score=values)
    with write(tmp_path / "a.csv", piece).open(newline="") as file:
        assert [float(row["score"]) if row["score"] else None for row in csv.DictReader(file)] == values
    assert pq.read_table(write(tmp_path / "a.parquet", piece))["score"].to_pylist() == values


def test_nothing_and_an_empty_set_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", rows("a", "b", prediction_set=["", None]))
    assert path.read_text().splitlines()[1:] == ['"a","scored",,,,,"",,,,,', '"b","scored",,,,,,,,,,']


def test_parquet_carries_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", rows("a"))
    assert json.loads(pq.read_schema(path).metadata[b"leukolens"]) == {"run_hash": "abc"}


def test_rows_are_written_in_large_pieces_and_in_order(tmp_path: Path) -> None:
    pieces = [rows(*(f"{piece}-{row}" for row in range(32))) for piece in range(300)]
    path = write(tmp_path / "a.parquet", *pieces)
    assert pq.read_table(path)["input"].to_pylist() == [name for piece in pieces for name in piece["input"]]
    assert pq.read_metadata(path).num_row_groups == 2


def test_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    assert pd.read_csv(write(tmp_path / "a.csv")).columns.tolist() == NAMES
    assert pd.read_parquet(write(tmp_path / "a.parquet")).columns.tolist() == NAMES


# Text from strangers


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cells/UID_1_1_1_all.bmp", "cells/UID_1_1_1_all.bmp"),
        ("Zelle ä 細胞.bmp", "Zelle ä 細胞.bmp"),
        ('=HYPERLINK("x").bmp', "'=HYPERLINK(\"x\").bmp"),
        ("+1.bmp", "'+1.bmp"),
        ("-1.bmp", "'-1.bmp"),
        ("@SUM(A1).bmp", "'@SUM(A1).bmp"),
        ("＝1.bmp", "'＝1.bmp"),
        ("'quoted.bmp", "''quoted.bmp"),
        ("a\nb.bmp", r"a\nb.bmp"),
        ("a\r=1.bmp", r"a\r=1.bmp"),
        ("\t=1.bmp", r"\t=1.bmp"),
        ("a\x1b[31m.bmp", r"a\x1b[31m.bmp"),
        ("a\u202egpj.bmp", r"a\u202egpj.bmp"),
        ("a\\nb.bmp", r"a\\nb.bmp"),
        ("a\udcff.bmp", r"a\udcff.bmp"),
    ],
)
def test_names_are_safe_in_csv(tmp_path: Path, name: str, wanted: str) -> None:
    assert safe_text(name) == wanted
    path = write(tmp_path / "a.csv", rows(name, "next"))
    with path.open(newline="", encoding="utf-8") as file:
        assert [row["input"] for row in csv.DictReader(file)] == [wanted, "next"]
    assert len(path.read_bytes().splitlines()) == 3


def test_no_two_names_become_one() -> None:
    names = ["a\nb", "a\\nb", "a\\\nb", "=a", "'=a", "''=a", "\\x1b", "\x1b"]
    assert len({safe_text(name) for name in names}) == len(names)


def test_parquet_keeps_names_as_they_are(tmp_path: Path) -> None:
    names = ["=1\n\\.bmp", "a\udcff.bmp"]
    assert pd.read_parquet(write(tmp_path / "a.parquet", rows(*names)))["input"].tolist() == [names[0], r"a\udcff.bmp"]


# Where it goes


def test_place_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("v1.2").mkdir()
    assert scores_path(None) == Path("scores.csv")
    assert scores_path("new") == Path("new/scores.csv")
    assert scores_path("v1.2") == Path("v1.2/scores.csv")
    assert scores_path("a.CSV") == Path("a.CSV")
    assert scores_path(tmp_path / "a.parquet") == tmp_path / "a.parquet"
    with pytest.raises(SettingsError, match=r"^Scores cannot be written to a\.xlsx\.\n") as caught:
        scores_path("a.xlsx")
    assert caught.value.received == "the suffix .xlsx"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize("earlier", [None, "earlier"])
def test_interrupted_writing_leaves_what_was_there(tmp_path: Path, name: str, earlier: str | None) -> None:
    path = tmp_path / "new" / name
    if earlier:
        path.parent.mkdir()
        path.write_text(earlier)
    with pytest.raises(KeyboardInterrupt), scores_file(path, scores_schema(CLASSES), {}) as file:
        for _ in range(300):
            file.write(rows(*map(str, range(32))))
        assert any(each.name.endswith(".partial") for each in path.parent.iterdir())
        raise KeyboardInterrupt
    assert [each.read_text() for each in path.parent.iterdir()] == ([earlier] if earlier else [])
