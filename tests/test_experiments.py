"""The experiments' script: files that can be run, and what it writes down; on a tiny network and the fake cohort."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from conftest import TINY_RESNET
from leukolens.artifacts import read_json
from leukolens.settings import CrossvalSettings

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = sorted(EXPERIMENTS.glob("*/*.yaml"))
RECIPE = "folds: 3\nrepeats: 2\ntrain:\n  weights: none\n  input_px: 32\n  head_epochs: 5\n"


@pytest.fixture
def experiments(tmp_path: Path) -> ModuleType:
    """The script, in a folder of its own, so that nothing is written into the real one."""
    copy = tmp_path / "experiments" / "run.py"
    copy.parent.mkdir()
    shutil.copy(EXPERIMENTS / "run.py", copy)
    spec = importlib.util.spec_from_file_location("experiments_run", copy)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "experiments" / "c-nmc-sample").mkdir()
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, cohort: Any, tmp_path: Path) -> None:
    arguments = ["c-nmc-sample", "--images", str(cohort.cells), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments, "--arch", TINY_RESNET, "--device", "cpu"])
    module.main()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_settings_file_is_valid_and_says_why(path: Path) -> None:
    CrossvalSettings.model_validate(yaml.safe_load(path.read_text()))
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ") and not first.startswith("# | ")


@pytest.mark.parametrize("data", sorted({path.parent.name for path in FILES}))
def test_all_files_of_one_data_set_use_the_same_folds(data: str) -> None:
    settings = [CrossvalSettings.model_validate(yaml.safe_load(path.read_text())) for path in FILES if path.parent.name == data]
    assert {(each.strategy, each.folds, each.seed) for each in settings} == {(settings[0].strategy, 5, 0)}


def test_base_and_a_recipe_are_measured_on_the_same_images_and_written_down(
    experiments: ModuleType, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "experiments" / "c-nmc-sample"
    (folder / "base.yaml").write_text(f"# Where it starts.\n{RECIPE}")
    (folder / "grey.yaml").write_text(f"# No colour.\n{RECIPE}  input:\n    colour: grey\n")
    run(experiments, monkeypatch, cohort, tmp_path)
    results = read_json(tmp_path / "experiments/results/c-nmc-sample.json")
    name = TINY_RESNET.replace(":", "_")
    assert set(results) == {"base", "grey"}
    assert set(results["grey"]["rows"]) == {name, "area", "area_colour"}
    assert "against_base" not in results["base"]["rows"][name]
    difference = results["grey"]["rows"][name]["against_base"]
    figures = [results[each]["rows"][name]["auroc"]["value"] for each in ("grey", "base")]
    assert difference["value"] == pytest.approx(figures[0] - figures[1], abs=1e-9)
    head = (folder / "grey.yaml").read_text().splitlines()
    assert head[0] == "# No colour."
    assert head[1].startswith("# | python experiments/run.py c-nmc-sample")
    assert any(line.startswith(f"# | {name}: auroc ") for line in head)
    assert "grey: area_colour: auroc" in capsys.readouterr().out
    before = CrossvalSettings.model_validate(yaml.safe_load(RECIPE)).train.head_epochs
    assert CrossvalSettings.model_validate(yaml.safe_load((folder / "grey.yaml").read_text())).train.head_epochs == before


def test_running_again_replaces_the_head_and_keeps_other_networks(experiments: ModuleType) -> None:
    known = {"settings": {"architectures": ["a"], "seed": 0}, "rows": {"a": 1}, "seconds": 2.0}
    further = {"settings": {"architectures": ["b"], "seed": 0}, "rows": {"b": 2}, "seconds": 3.0}
    assert experiments._merged(known, further)["rows"] == {"a": 1, "b": 2}
    assert experiments._merged(known, further)["seconds"] == 5.0
    assert experiments._merged(known, {**further, "settings": {"architectures": ["b"], "seed": 1}})["rows"] == {"b": 2}
