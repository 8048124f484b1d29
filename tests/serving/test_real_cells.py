from __future__ import annotations

from pathlib import Path

import pytest

from leukolens.artifacts import read_json
from leukolens.data.manifest import index
from leukolens.data.splits import split
from leukolens.serving.export import export
from leukolens.settings import ExportSettings, TrainSettings
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
