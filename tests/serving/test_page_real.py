"""The page with 200 real cells, and hostile files among them: what it shows is what `predict` writes."""

from __future__ import annotations

import csv
import io
import random
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from browser import NAMES, served, visit
from leukolens.data.manifest import index
from leukolens.data.splits import split
from leukolens.prediction.stream import predict_inputs
from leukolens.settings import TrainSettings
from leukolens.training.runs import Run
from leukolens.training.train import train

SHARED = Path(__file__).parents[2].parent / "shared"
CELLS = SHARED / "data" / "c-nmc-sample" / "C-NMC_Leukemia"
WEIGHTS = SHARED / "weights"
COUNT = 200

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """EfficientNet-B0 with a new head, trained on real cells."""
    if not CELLS.is_dir() or not WEIGHTS.is_dir():
        pytest.skip("the real cells or the pretrained weights of ../shared are not there")
    folder = tmp_path_factory.mktemp("real")
    manifest = index(CELLS, folder)
    settings = TrainSettings(architecture="efficientnet_b0", weights_dir=WEIGHTS, finetune_epochs=0, device="cpu")
    return train(manifest, split(manifest, folder), folder / "run", settings, folder / "cache")


def hostile(folder: Path, cell: bytes) -> list[str]:
    """Write files that are no usable images, cells under names that shall be more than names, and an archive."""
    (folder / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\x7f\xff\xff\xff\x7f\x08\x02\0\0\0" + bytes(40)
    )
    (folder / "page.bmp").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='window.hacked=1'/>")
    (folder / "half.jpg").write_bytes(cell[: len(cell) // 2])
    (folder / "empty.bmp").write_bytes(b"")
    for name in NAMES:
        (folder / name).write_bytes(cell)
    with zipfile.ZipFile(folder / "pack.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside/cell.jpg", cell)
        archive.writestr("../../out.jpg", cell)
        archive.writestr("zeros.bmp", bytes(20 << 20))
        archive.writestr("more.zip", b"PK\x05\x06" + bytes(18))
    return sorted(path.name for path in folder.iterdir())


def test_200_real_cells_with_hostile_files_among_them(
    browser: Any, real_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    pictures = [path for path in sorted(CELLS.rglob("UID_*")) if path.suffix in (".bmp", ".jpg")]
    names = hostile(folder, next(path for path in pictures if path.suffix == ".jpg").read_bytes())
    for path in pictures[:COUNT]:
        (folder / path.name).write_bytes(path.read_bytes())
        names.append(path.name)
    random.Random(0).shuffle(names)
    monkeypatch.chdir(folder)
    predict_inputs(real_run, names, tmp_path / "scores.csv")
    table = (tmp_path / "scores.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    assert Counter(row["status"] for row in rows) == {"scored": COUNT + len(NAMES) + 1, "failed": 7}
    with served(tmp_path, real_run.folder) as address, visit(browser, address) as opened:
        opened.send(*[folder / name for name in names], results=len(rows))
        assert opened.download() == ("scores.csv", table)
        assert opened.page.evaluate("window.hacked") is None
        refused = [row for row in rows if row["refusal"]]
        assert len(opened.texts("#refused .card")) == len(refused)
        assert len(opened.texts("#failed tr")) == 7
        answered = [row for row in rows if row["status"] == "scored" and not row["refusal"]]
        positive = sum(row["decision"] == "ALL" for row in answered)
        opened.page.get_by_text(f"{positive} of {len(answered)} answered cells.").wait_for()
        opened.page.locator(".cell").first.focus()
        opened.page.locator("#inspected-map img").wait_for()
        assert "of the map is on the cell" in opened.text("#map-words") or "No place stands out" in opened.text("#map-words")
