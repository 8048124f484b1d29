"""The rehearsal of the full C-NMC 2019: its stages run, go on where they stopped, and end in both reports."""

from __future__ import annotations

import importlib
import time
from functools import partial
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import yaml

from leukolens.artifacts import Record, Splits, read_json
from leukolens.data import phantom_plan
from leukolens.data.cnmc_2019 import is_complete
from leukolens.reporting import published
from leukolens.settings import CompareSettings
from small_composition import SMALL

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
TINY = {"architectures": ["timm:test_resnet", "timm:test_efficientnet"],
        "train": {"input_px": 32, "head_epochs": 20, "batch_size": 8, "device": "cpu", "precision": "fp32"},
        "evaluate": {"resamples": 200}}  # fmt: skip


@pytest.fixture
def rehearsal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, on a small composition, tiny networks and 32 px, its stages in this process."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("rehearsal")
    for name in (script.OFFICIAL, script.BY_IMAGE):
        settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        tiny = {**settings, **TINY, "train": {**settings.get("train", {}), **TINY["train"]}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tiny))
    monkeypatch.setattr(script, "CONFIGS", tmp_path)
    monkeypatch.setattr(script, "NETWORKS", ("timm:test_resnet",))
    monkeypatch.setattr(script, "FINE_TUNED", "timm:test_resnet")
    monkeypatch.setattr(script, "INPUT_PX", 32)
    monkeypatch.setattr(phantom_plan, "COMPOSITIONS", {"c-nmc-2019": SMALL})
    monkeypatch.setattr(script, "_in_a_process", in_this_process)
    return script


def in_this_process(rehearsal: object, stage: str) -> Record:
    began = time.perf_counter()
    rehearsal.stages()[stage]()  # type: ignore[attr-defined]
    return {"seconds": time.perf_counter() - began, "peak_memory_gib": 0.5}


def load(name: str) -> CompareSettings:
    return CompareSettings.model_validate(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))


def test_settings_files_ask_for_their_protocols() -> None:
    official, by_image = load("c-nmc-2019"), load("source-document")
    assert (official.protocol, by_image.protocol) == ("official", "image")
    assert by_image.split.fractions == (0.70, 0.15, 0.15)
    assert official.architectures == by_image.architectures == ()  # the five of the source document
    assert official.train.finetune_epochs > 0
    assert by_image.train.finetune_epochs > 0
    assert "weights_dir" not in official.train.model_fields_set


@pytest.mark.parametrize("name", ["c-nmc-2019", "source-document"])
def test_settings_files_say_command_time_and_what_was_not_run(name: str) -> None:
    head = [line for line in (CONFIGS / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert f"leukolens compare C-NMC_Leukemia --config configs/{name}.yaml --out" in " ".join(head)
    assert any(line.startswith("# Time:") for line in head)
    assert "not yet run on the real set" in " ".join(head).lower().replace("# ", "")


@pytest.mark.slow
def test_both_settings_files_go_from_drawing_to_report(
    rehearsal: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(published, "is_complete", partial(is_complete, composition=SMALL))
    work, out = tmp_path / "work", tmp_path / "rehearsal.json"
    given = [str(work), "--weights", "none", "--out", str(out)]
    rehearsal.main([*given, "--only", "draw", "index"])
    assert list(read_json(work / "rehearsal.json")["stages"]) == ["draw", "index"]
    assert not out.exists()
    drawn = work / "cells" / "phantom_C-NMC_Leukemia" / "SYNTHETIC.json"
    before = drawn.stat().st_mtime_ns
    rehearsal.main(given)
    assert drawn.stat().st_mtime_ns == before  # what was done is not done again
    assert list(read_json(out)["stages"]) == ["draw", "index", "pixels", "features timm:test_resnet", "epoch timm:test_resnet",
                                              "compare c-nmc-2019", "compare source-document"]  # fmt: skip
    assert read_json(out)["stages"]["draw"]["disk_gb"] == pytest.approx((69 + 12) * 0.6084e-3 + 8 * 1.08e-3, rel=0.01)
    printed = capsys.readouterr().out
    assert "compare source-document" in printed

    official = Splits.load(work / "c-nmc-2019" / "official")
    images = official.of_fold(0)
    test = images.index[images == "test"]
    assert len(test) == sum(SMALL.preliminary.values())
    assert all(image.startswith("validation_data/") for image in test)
    table = pd.read_csv(work / "c-nmc-2019" / "comparison.csv")
    assert set(table["study"]) == {"official"}
    assert set(table.loc[table["kind"] == "network", "test_images"]) == {12}
    page = (work / "c-nmc-2019" / "report.html").read_text(encoding="utf-8")
    assert "Marzahl et al. 2019" in page
    assert "SYNTHETIC: our rows are of drawn cells" in page
    assert set(pd.read_csv(work / "source-document" / "comparison.csv")["study"]) == {"image"}
    assert (work / "source-document" / "cache").resolve() == (work / "cache").resolve()
