"""The data sheet: counts, measures and audits of the data that lie there."""

from __future__ import annotations

import pytest

from leukolens.artifacts import Manifest
from leukolens.errors import ArtifactError
from leukolens.reporting.data_sheet import write_data_sheet
from reporting.example_run import cells, headings, manifest, section, splits


def test_data_sheet_counts_and_describes(run):
    results = run.parents[1]
    text = write_data_sheet(results).read_text(encoding="utf-8")
    assert headings(text) == ["Motivation", "Composition", "Collection", "Preprocessing and labels", "Splits", "Uses",
                              "Distribution", "Maintenance"]  # fmt: skip
    assert f"`{Manifest.load(results).content_hash}`" in text
    assert "Files found: 22; usable: 20; labelled: 20; unlabelled: 0; 20 MiB in all." in text
    # Quartiles of 10, 20, 30, 40, 50 twice, and of 60 … 100 twice, by linear interpolation (numpy's default).
    assert cells(text, "area of the cell, px")[1:] == ["30 (20 to 40)", "80 (70 to 90)"]
    assert cells(text, "450") == ["450", "450", "BMP", "20"]
    assert "7 = 14" in text
    assert "`subject/splits.parquet`:\n\n```text\nsplit by subject, seed 3" in text
    for name in headings(text):
        if name not in ("Splits",):
            assert "- [ ] to be filled by people:" in section(text, name)


def test_data_sheet_shows_no_split_of_other_data(run):
    splits(manifest({"HEM": "normal"})).save(run.parent / "splits.parquet")
    assert "No split of these data lies in this folder." in write_data_sheet(run.parents[1]).read_text(encoding="utf-8")


def test_data_sheet_needs_a_manifest(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest\.parquet does not exist"):
        write_data_sheet(tmp_path)
    assert list(tmp_path.iterdir()) == []
