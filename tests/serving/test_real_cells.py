from __future__ import annotations

from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from leukolens.artifacts import read_json
from leukolens.data.manifest import index
from leukolens.data.splits import split
from leukolens.prediction.stream import predict_inputs
from leukolens.serving.export import export
from leukolens.settings import Engine, ExportSettings, PredictSettings, TrainSettings
from leukolens.training.train import train

SHARED = Path(__file__).parents[2].parent / "shared"
REAL_CELLS = SHARED / "data" / "c-nmc-sample" / "C-NMC_Leukemia"


@pytest.mark.real
@pytest.mark.slow
def test_exported_networks_decide_real_cells_as_pytorch_does(tmp_path: Path) -> None:
    if not REAL_CELLS.is_dir() or not (SHARED / "weights" / "index.json").is_file():
        pytest.skip("the real cells or the pretrained weights of ../shared are not there")
    manifest = index(REAL_CELLS, tmp_path)
    splits = split(manifest, tmp_path)
    head_only = TrainSettings(architecture="alexnet", weights_dir=SHARED / "weights", finetune_epochs=0, device="cpu")
    run = train(manifest, splits, tmp_path / "run", head_only)
    # 39 cells: one that changes sides is 2.6 %.
    settings = ExportSettings(formats=("onnx", "openvino", "int8"), changed_decisions=0.1, auroc_loss=0.05)
    made = export(run, manifest, splits, tmp_path / "bundle", settings)
    record = read_json(made.folder / "export.json")
    assert record["data"]["synthetic"] is False
    for name in ("onnx", "openvino"):
        assert record["formats"][name]["changed_decisions"] == 0
        assert record["formats"][name]["probability"] < 1e-4
    assert record["formats"]["int8"]["probability"] > 1e-4
    # The same cells as loose images, all of them, by every engine: AlexNet changed at most 4 of 330 (docs/export.md).
    tables = {}
    for engine in get_args(Engine):
        asked = PredictSettings(engine=engine, device="cpu")
        tables[engine] = pd.read_csv(predict_inputs(made.folder, [REAL_CELLS], tmp_path / f"{engine}.csv", asked).path)
    plain = tables["torch"]
    assert (plain["status"] == "scored").all()
    for engine, table in tables.items():
        assert table["input"].tolist() == plain["input"].tolist()
        assert (table["decision"] != plain["decision"]).mean() < 0.05, engine
        assert (table["probability_ALL"] - plain["probability_ALL"]).abs().max() < 0.1, engine
