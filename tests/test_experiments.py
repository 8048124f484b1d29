"""The experiments' script: files that can be run, and what it writes down; on a tiny network and the fake cohort."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from conftest import TINY_EFFICIENTNET, TINY_RESNET
from leukolens.artifacts import Predictions, Splits, read_json
from leukolens.crossvalidation import cross_validate, folder_name
from leukolens.settings import CompareSettings, CrossvalSettings

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = sorted(EXPERIMENTS.glob("*/*.yaml"))
TINY = (TINY_RESNET, TINY_EFFICIENTNET)
RECIPE = "folds: 3\nrepeats: 2\ntrain:\n  weights: none\n  input_px: 32\n  head_epochs: 5\n"


def loaded(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"experiments_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their own module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def experiments(tmp_path: Path) -> ModuleType:
    """The script, in a folder of its own, so that nothing is written into the real one."""
    copy = tmp_path / "experiments" / "run.py"
    copy.parent.mkdir()
    shutil.copy(EXPERIMENTS / "run.py", copy)
    module = loaded(copy)
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


def learning_cells(curve: ModuleType, count: int = 60) -> Any:
    """Cells of ten subjects of either class, told apart by their one feature."""
    is_positive = np.arange(count) % 2 == 0
    group = np.array([f"{'A' if positive else 'H'}{(place // 2) % 10}" for place, positive in enumerate(is_positive)], object)
    kinds = {"told": (is_positive[:, None].astype(float), 1.0)}
    return curve.Cells(pd.Index([f"{place}.bmp" for place in range(count)]), is_positive, group, kinds)


@pytest.fixture
def among_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a script is started: those beside it are found by their names."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))


@pytest.mark.usefixtures("among_scripts")
def test_curve_over_subjects_learns_from_the_asked_share_and_never_from_the_tested_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    curve = loaded(EXPERIMENTS / "subjects.py")
    cells = learning_cells(curve)
    fold = np.array([int(name[1]) % 5 for name in cells.group])
    rows = [
        (image, each, "test" if each == own else "train")
        for image, own in zip(cells.images, fold, strict=True)
        for each in range(5)
    ]
    splits = Splits(pd.DataFrame(rows, columns=["image", "fold", "side"]))
    learned: list[tuple[set[str], set[str]]] = []
    inner = curve._scores

    def watched(name: str, every: Any, train: Any, test: Any) -> Any:
        learned.append((set(every.group[train]), set(every.group[test])))
        return inner(name, every, train, test)

    monkeypatch.setattr(curve, "_scores", watched)
    assert curve._by_subject("told", cells, splits, 0.5, np.random.default_rng(0)) == (1.0, 8.0)
    assert [(len(train), len(test), train & test) for train, test in learned] == [(8, 4, set())] * 5


def first_test_scores(predictions: Predictions) -> pd.Series:
    """Log odds of the first repeat's test rows, by fold and image."""
    table = predictions.table[(predictions.table["repeat"] == 0) & (predictions.table["side"] == "test")]
    table = table.set_index(["fold", "image"]).sort_index()
    return np.log(table["score_ALL"] / table["score_HEM"])


@pytest.mark.usefixtures("among_scripts")
def test_mixture_is_the_mean_of_its_recipes_networks_and_stands_beside_the_shortcut(
    cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixtures = loaded(EXPERIMENTS / "mixtures.py")
    settings = CrossvalSettings.model_validate(yaml.safe_load(RECIPE)).model_copy(update={"architectures": TINY})
    work = tmp_path / "work" / "cells"
    for recipe in ("one", "other"):
        train = settings.train.model_copy(update={"seed": 7, "head_epochs": 5 if recipe == "one" else 40})
        cross_validate(cohort.manifest, work / recipe, settings.model_copy(update={"train": train}), cohort.cache)
    names = tuple(folder_name(each) for each in TINY)
    logits = [first_test_scores(Predictions.load(work / recipe / name)) for recipe in ("one", "other") for name in names]
    changes = {"HERE": tmp_path, "STAGES": "one", "MIXTURES": (("one",), ("one", "other")), "REPEATS": 2,
               "FIVE_ARCHITECTURES": names}  # fmt: skip
    for each, value in changes.items():
        monkeypatch.setattr(mixtures, each, value)
    made = first_test_scores(mixtures._mixture(work, ("one", "other"), settings))
    # Each fold's mean is calibrated by one temperature.
    ratio = made / (sum(logits) / len(logits))
    assert ratio.groupby(level="fold").agg(lambda each: each.max() - each.min()).max() < 1e-3
    assert (ratio > 0).all()
    shown: list[tuple[str, str]] = []
    monkeypatch.setattr(mixtures, "replace_between", lambda *given: shown.append(given))
    monkeypatch.setattr(sys, "argv", ["mixtures.py", "cells", "--images", str(cohort.cells), "--work", str(tmp_path / "work")])
    mixtures.main()
    rows = read_json(tmp_path / "results" / "mixtures" / "cells.json")["rows"]
    assert list(rows) == ["area_colour", "one", "one and other", "these and area + colour"]
    assert all("against_area_colour" in row for each, row in rows.items() if each != "area_colour")
    (name_of_marker, table), = shown
    assert name_of_marker == "mixtures"
    assert len(table.splitlines()) == 6


def test_recipe_for_few_subjects_serves_crossval_and_compare_and_is_that_of_the_experiment() -> None:
    given = yaml.safe_load((EXPERIMENTS.parent / "configs" / "few-subjects.yaml").read_text())
    tried = CrossvalSettings.model_validate(yaml.safe_load((EXPERIMENTS / "c-nmc-sample" / "stages-1-2.yaml").read_text()))
    assert CrossvalSettings.model_validate(given).train == tried.train == CompareSettings.model_validate(given).train
