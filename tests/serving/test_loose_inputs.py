"""A bundle on loose images: every engine beside PyTorch in float32, and maps of a bundle's network."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from leukolens.artifacts import read_table
from leukolens.data.preprocessing import Pixels, read_pixels
from leukolens.decision.temperature import probabilities
from leukolens.explanation.explain import explain
from leukolens.explanation.explain_inputs import explain_inputs
from leukolens.explanation.loose import explain_picture
from leukolens.prediction.stream import predict_inputs
from leukolens.serving.bundle import Bundle
from leukolens.settings import EngineChoice, ExplainSettings, PredictSettings
from leukolens.training.runs import Run

ENGINES: tuple[EngineChoice, ...] = ("torch", "openvino", "onnx", "int8")
# Of a probability, by precision: rounding; bfloat16's eight bits; the ranges of 8-bit numbers, which a network of random
# weights has by chance.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.2}
MAPPED = ExplainSettings(layer="blocks", count=4, device="cpu")
SCORES = ["probability_HEM", "probability_ALL"]


@pytest.fixture(scope="module")
def inputs(cohort: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder, an archive and files of their own: 40 cells, and two inputs that are no image."""
    folder = tmp_path_factory.mktemp("inputs")
    cells = sorted(cohort.cells.rglob("*.bmp"))[:40]
    (folder / "cells").mkdir()
    for cell in cells[:30]:
        (folder / "cells" / cell.name).write_bytes(cell.read_bytes())
    (folder / "cells" / "broken.bmp").write_bytes(b"BM")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for cell in cells[30:36]:
            archive.write(cell, cell.name)
    return [folder / "cells", folder / "more.zip", folder / "absent.bmp", *cells[36:]]


@pytest.fixture(scope="module")
def tables(bundle: Bundle, inputs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[pd.DataFrame, Any]]:
    """By engine, also "auto": the table and its record."""
    folder = tmp_path_factory.mktemp("tables")
    for engine in (*ENGINES, "auto"):
        settings = PredictSettings(engine=engine, device="cpu")
        predict_inputs(bundle.folder, inputs, folder / f"{engine}.parquet", settings)
    return {engine: read_table(folder / f"{engine}.parquet", {}) for engine in (*ENGINES, "auto")}


@pytest.fixture(scope="module")
def plain(bundle: Bundle, cohort: Any) -> pd.DataFrame:
    """Probabilities by PyTorch in float32, one image at a time and by none of the engines' code."""
    classifier, preprocessing = bundle.run.classifier(), bundle.run.preprocessing
    cells = sorted(cohort.cells.rglob("*.bmp"))[:40]
    pixels = [preprocessing.apply(read_pixels(cell, 10**6).trimmed) for cell in cells]
    with torch.inference_mode():
        logits = torch.cat([classifier(torch.from_numpy(each[None]).permute(0, 3, 1, 2)) for each in pixels])
    found = probabilities(logits.numpy(), bundle.run.decision().temperature)
    return pd.DataFrame(found, columns=SCORES, index=[cell.name for cell in cells])


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_scores_loose_images_as_pytorch_does(
    engine: str, tables: dict[str, tuple[pd.DataFrame, Any]], plain: pd.DataFrame, bundle: Bundle
) -> None:
    table, record = tables[engine]
    assert record["engine"] == engine
    tolerance = TOLERANCE[record["inference_precision"]]
    found = table[table["status"] == "scored"]
    wanted = plain.loc[[Path(name).name for name in found["input"]]]
    assert len(found) == 40
    differences = np.abs(found[SCORES].to_numpy() - wanted.to_numpy())
    assert differences.max() < tolerance
    threshold = bundle.run.decision().threshold.value  # type: ignore[union-attr]
    clear = (wanted["probability_ALL"] - threshold).abs().to_numpy() > tolerance
    decided = np.where(wanted["probability_ALL"] >= threshold, "ALL", "HEM")
    assert (found["decision"].to_numpy() == decided)[clear].all()
    assert clear.any()
    if record["inference_precision"] == "int8":
        assert differences.max() > 1e-5  # it is the 8-bit network that answered


def test_rows_order_and_failures_do_not_depend_on_the_engine(tables: dict[str, tuple[pd.DataFrame, Any]]) -> None:
    first = tables["torch"][0]
    assert first.loc[first["status"] == "failed", "error"].tolist() == ["not_an_image", "missing"]
    for table, _ in tables.values():
        for column in ("input", "status", "seen_in", "error", "detail"):
            assert table[column].fillna("").tolist() == first[column].fillna("").tolist()


def test_left_to_the_program_it_is_openvino_to_the_last_bit(
    tables: dict[str, tuple[pd.DataFrame, Any]], bundle: Bundle
) -> None:
    """The fastest that keeps the network's own precision, and not the 8-bit network, which is faster still."""
    assert bundle.run.compute("cpu").engine == "openvino"
    (auto, record), (wanted, _) = tables["auto"], tables["openvino"]
    assert record["engine"] == "openvino"
    pd.testing.assert_frame_equal(auto, wanted, check_exact=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_image_alone_has_the_scores_that_it_has_among_others(
    engine: EngineChoice, tables: dict[str, tuple[pd.DataFrame, Any]], bundle: Bundle, tmp_path: Path
) -> None:
    row = tables[engine][0].iloc[-1]
    settings = PredictSettings(engine=engine, device="cpu")
    alone = pd.read_parquet(predict_inputs(bundle.folder, [row["input"]], tmp_path / "one.parquet", settings).path).iloc[0]
    assert alone.dropna().to_dict() == row.dropna().to_dict()


# Maps


def test_a_bundle_is_explained_as_its_run(bundle: Bundle, finetuned_run: Run, cohort: Any, tmp_path: Path) -> None:
    made = [
        explain(model, cohort.manifest, cohort.splits, tmp_path / name, cohort.cache, MAPPED).table
        for name, model in (("run", finetuned_run), ("bundle", bundle.folder))
    ]
    columns = ["image", "decision", "margin", "probability", "inside_share", "peak_inside"]
    # Scored by OpenVINO and by PyTorch, whose last digits differ: images of nearly the same margin may change places.
    first, second = (table.sort_values(["image", "method"])[columns].reset_index(drop=True) for table in made)
    pd.testing.assert_frame_equal(first, second, atol=0.02)


def test_loose_images_are_explained_by_a_bundle(bundle: Bundle, inputs: list[Path], tmp_path: Path) -> None:
    made = explain_inputs(bundle.folder, inputs, tmp_path, MAPPED)
    assert (made.scored.scored, made.scored.failed) == (40, 2)
    assert made.maps.record["run_hash"] == bundle.record["run_hash"]
    assert len(made.maps.table) == 8
    rows = pd.read_csv(tmp_path / "maps.csv")
    assert rows["error"].dropna().tolist() == ["not_an_image", "missing"]
    assert all((tmp_path / name).is_file() for name in rows["overlay"].dropna())


def test_a_picture_is_mapped_alike_by_run_and_bundle(bundle: Bundle, finetuned_run: Run, inputs: list[Path]) -> None:
    pixels: Pixels = bundle.run.preprocessing.apply(read_pixels(inputs[-1], 10**6).trimmed)
    first, second = (explain_picture(model, pixels, settings=MAPPED) for model in (bundle.run, finetuned_run))
    assert first.probability == second.probability
    np.testing.assert_array_equal(first.overlay, second.overlay)
