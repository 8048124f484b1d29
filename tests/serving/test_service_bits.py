"""No answer depends on who asks beside it: to the bit, for every engine, served and predicted."""

from __future__ import annotations

import random
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cohort import draw_cell, write_image
from leukolens.decision.outliers import OutlierModel
from leukolens.models.classifier import Classifier
from leukolens.models.compute import Compute
from leukolens.models.inference import EagerEngine
from leukolens.prediction.stream import predict_inputs
from leukolens.serving.bundle import Bundle
from leukolens.settings import Engine, PredictSettings
from leukolens.training.head import linear_logits
from leukolens.training.runs import Run
from service_client import Running, running

CELLS = 33


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """33 cells: one more than a batch."""
    folder = tmp_path_factory.mktemp("cells")
    paths = [folder / f"{number:02}.png" for number in range(CELLS)]
    for number, path in enumerate(paths):
        write_image(path, draw_cell(700 + number, radius_px=8 + number % 8))
    return paths


def predicted(folder: Path, paths: list[Path], engine: Engine, out: Path) -> dict[str, dict[str, Any]]:
    """Rows of the table that `predict` writes, by input; in Parquet, which keeps every bit."""
    table = predict_inputs(folder, paths, out / "scores.parquet", PredictSettings(engine=engine, device="cpu")).path
    frame = pd.read_parquet(table).astype(object)
    return {row["input"]: row for row in frame.where(frame.notna(), None).to_dict("records")}


def served(server: Running, paths: list[Path]) -> list[dict[str, Any]]:
    answer = server.post("/v1/predict", [(str(path), path.read_bytes()) for path in paths])
    assert answer.status == 200
    rows: list[dict[str, Any]] = answer.json["results"]
    assert [row.pop("index") for row in rows] == list(range(len(paths)))
    return rows


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnx", "int8"])
def test_served_rows_are_those_of_predict_whoever_else_asks(
    engine: Engine, bundle: Bundle, cells: list[Path], tmp_path: Path
) -> None:
    wanted = predicted(bundle.folder, cells, engine, tmp_path)
    drawn = random.Random(0)
    requests = [drawn.sample(cells, count) for count in (1, 1, 7, CELLS, 1, 7, 2)]
    with running([bundle.folder], engine=engine) as server, ThreadPoolExecutor(len(requests)) as clients:
        for given, rows in zip(requests, clients.map(lambda given: served(server, given), requests), strict=True):
            assert rows == [wanted[str(path)] for path in given]


def test_predict_gives_each_cell_the_same_row_alone_and_among_others(
    head_run: Run, cells: list[Path], tmp_path: Path
) -> None:
    wanted = predicted(head_run.folder, cells, "torch", tmp_path)
    for given in ([cells[20]], cells[:7][::-1]):
        found = predicted(head_run.folder, given, "torch", tmp_path)
        assert found == {str(path): wanted[str(path)] for path in given}


def test_members_of_an_archive_and_failures_are_those_of_predict(
    head_run: Run, cells: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("more.zip", "w") as archive:
        archive.write(cells[3], "b/cell.png")
        archive.writestr("a/../../out.png", b"x")
        archive.writestr("notes.txt", b"left out")
    Path("bad.bmp").write_bytes(b"no picture")
    Path("empty.png").write_bytes(b"")
    given = [Path("bad.bmp"), Path("more.zip"), Path("empty.png")]
    wanted = list(predicted(head_run.folder, given, "torch", tmp_path).values())
    with running([head_run.folder], engine="torch") as server:
        answer = server.post("/v1/predict", [(str(path), path.read_bytes()) for path in given])
    rows = answer.json["results"]
    assert [row.pop("index") for row in rows] == [0, 1, 1, 2]
    assert rows == wanted
    refused = int(rows[2]["refusal"] is not None)
    assert answer.json["counts"] == {"inputs": 4, "scored": 1, "failed": 3, "refused": refused, "skipped": 1}


@pytest.mark.parametrize("width", [1, 7, 512, 1280, 9216])
def test_logits_of_a_row_do_not_depend_on_the_rows_beside_it(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    features = torch.randn(1100, width, generator=generator).numpy()
    weight, bias = torch.randn(3, width, generator=generator), torch.randn(3, generator=generator)
    together = linear_logits(features, weight, bias)
    for rows in ([0], [1099], [5, 4, 3], list(range(32)), list(range(31, -1, -1))):
        np.testing.assert_array_equal(linear_logits(features[rows], weight, bias), together[rows])
    wanted = features.astype(np.float64) @ weight.double().numpy().T + bias.double().numpy()
    np.testing.assert_allclose(together, wanted, rtol=1e-6, atol=1e-5)


def test_logits_of_no_row_are_an_empty_table() -> None:
    assert linear_logits(np.empty((0, 4), np.float32), torch.zeros(2, 4), torch.zeros(2)).shape == (0, 2)


@pytest.mark.parametrize("width", [3, 512, 1280])
def test_outlier_scores_of_a_row_do_not_depend_on_the_rows_beside_it(width: int) -> None:
    generator = np.random.default_rng(width)
    bank = generator.normal(size=(300, width))
    bank[50:60] = bank[40:50]  # copies, among which it must not matter who is nearest
    model = OutlierModel((bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32), 10, 0.5)
    features = generator.normal(size=(40, width)).astype(np.float32)
    features[7] = bank[41]
    together = model.scores(features)
    for rows in ([0], [7], [39, 7, 0], list(range(39, -1, -1))):
        np.testing.assert_array_equal(model.scores(features[rows]), together[rows])
    unit = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    distances = np.sort(np.linalg.norm(unit[:, None] - model.bank.astype(np.float64)[None], axis=2), axis=1)[:, 9]
    np.testing.assert_allclose(together, distances / 0.5, rtol=1e-9)


def test_eager_features_do_not_depend_on_neighbours_or_on_how_pixels_lie_in_memory(tiny_classifier: Classifier) -> None:
    engine = EagerEngine(tiny_classifier, Compute("cpu", "fp32"), 4)
    pixels = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    levels = pixels.permute(0, 3, 1, 2)
    together = engine(levels)
    assert together.shape == (9, tiny_classifier.head.in_features)
    np.testing.assert_array_equal(np.concatenate([engine(levels[[row]]) for row in range(9)]), together)
    np.testing.assert_array_equal(engine(levels.flip(0))[::-1], together)
    np.testing.assert_array_equal(engine(levels.contiguous()), together)

