from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cohort import build_cohort
from leukolens import pipeline, study
from leukolens.artifacts import COMPARISON_FILE, Predictions, read_json
from leukolens.errors import RunError, SettingsError, WeightsError
from leukolens.evaluation import evaluate
from leukolens.pipeline import COMPARISON_RECORD_FILE, Comparison, compare, crossval
from leukolens.prediction import predict as predict_module
from leukolens.prediction.predict import predict
from leukolens.settings import CompareSettings, CrossvalSettings, EvaluateSettings, SplitSettings, TrainSettings
from leukolens.training.finetuning import FineTuning

ARCHITECTURES = ("timm:test_resnet", "timm:test_efficientnet")


STUDIES = ["crossval/subject", "crossval/image", "subject", "image"]
MODELS = ["timm_test_resnet", "timm_test_efficientnet"]
BASELINES = ["baseline_majority", "baseline_area", "baseline_area_colour", *(f"baseline_features_{name}" for name in MODELS)]


def folders_of(results: Path, trained: bool = False) -> list[Path]:
    """Folders of all models, or of the trained networks, in the order of the table."""
    rows = read_json(results / COMPARISON_RECORD_FILE)["rows"]
    return [results / row["run"] for row in rows if not trained or (results / row["run"] / "run.json").is_file()]


@pytest.fixture(scope="module")
def settings() -> CompareSettings:
    train = TrainSettings(
        weights="none", input_px=32, head_epochs=20, finetune_epochs=2, batch_size=8, device="cpu", precision="fp32"
    )
    return CompareSettings(
        architectures=ARCHITECTURES, protocol="both", train=train, folds=3, repeats=2, tta=True,
        evaluate=EvaluateSettings(resamples=200),
    )  # fmt: skip


@pytest.fixture(scope="module")
def compared(cohort: Any, settings: CompareSettings, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two networks by subject and by image. Read only."""
    return compare(cohort.cells, tmp_path_factory.mktemp("compared"), settings)


def test_results_folder_holds_one_run_per_protocol_and_network(compared: Comparison) -> None:
    results = compared.results
    runs = sorted(str(path.parent.relative_to(results)) for path in results.rglob("run.json"))
    assert runs == [
        "image/timm_test_efficientnet", "image/timm_test_resnet", "subject/timm_test_efficientnet", "subject/timm_test_resnet",
    ]  # fmt: skip
    for run in runs:
        assert {path.name for path in (results / run).iterdir()} == {
            "decision.json", "epochs.csv", "foreign.csv", "key.json", "metrics.json", "model_card.md", "outliers.safetensors",
            "predictions.parquet", "run.json", "training_images.csv", "weights.safetensors",
        }  # fmt: skip
    assert {"analysis.json", "splits.parquet"} <= {path.name for path in (results / "subject").iterdir()}
    assert {"analysis.json", "splits-0.parquet", "splits-1.parquet"} <= {
        path.name for path in (results / "crossval" / "image").iterdir()
    }
    assert {"leak.json", "data_sheet.md", "comparison.csv"} <= {path.name for path in results.iterdir()}
    assert compared.report == results / "report.html"
    assert compared.report.is_file()
    # Pixels are decoded once for all, features computed once per network and view and shared by all studies.
    assert len(list((results / "cache").glob("pixels-*.npy"))) == 1
    assert len(list((results / "cache").glob("features-*"))) == 2 * 8


def test_every_study_has_networks_ensemble_and_baselines(compared: Comparison) -> None:
    table = compared.table
    assert list(dict.fromkeys(table["study"])) == STUDIES
    for key, rows in table.groupby("study"):
        seeds = ["ensemble_seeds"] if str(key).startswith("crossval") else []
        augmented = [f"{name}+tta" for name in MODELS]
        assert sorted(rows["model"]) == sorted([*MODELS, *augmented, "ensemble", *seeds, *BASELINES]), key
        assert rows["test_images"].nunique() == 1


def test_table_has_a_row_per_model_with_what_its_metrics_say(compared: Comparison) -> None:
    table = compared.table
    written = pd.read_csv(compared.results / COMPARISON_FILE)
    assert list(written.columns) == list(table.columns)
    for row, folder in zip(table.to_dict("records"), folders_of(compared.results), strict=True):
        side = read_json(folder / "metrics.json")["sides"]["test"]
        assert row["test_accuracy"] == side["accuracy"]
        interval = side["intervals"]["intervals"]["auroc"]
        assert interval is None or interval == [row["test_auroc_low"], row["test_auroc_high"]]
        if (folder / "run.json").is_file():
            run = read_json(folder / "run.json")
            assert (row["parameters"], row["train_seconds"]) == (run["parameters"], run["train_seconds"])


def test_cross_validation_scores_every_image_of_the_pool_once_per_repeat(compared: Comparison, cohort: Any) -> None:
    for key in STUDIES[:2]:
        for name in (*MODELS, "ensemble", "baseline_area_colour"):
            table = Predictions.load(compared.results / key / name).table
            test = table[table["side"] == "test"]
            assert set(test.groupby("image")["repeat"].apply(tuple).map(sorted).map(tuple)) == {(0, 1)}
            assert len(test) == 2 * len(cohort.manifest.images)


def test_leak_is_measured_on_the_same_cells(compared: Comparison, cohort: Any) -> None:
    leak = read_json(compared.results / "leak.json")
    assert leak["images"] == len(cohort.manifest.images)
    table = compared.table.set_index(["study", "model"])["test_auroc"]
    for row, name in zip(leak["rows"], MODELS, strict=True):
        assert row["by_subject"] == pytest.approx(table["crossval/subject", name])
        assert row["by_image"] == pytest.approx(table["crossval/image", name])
        assert row["difference"] == pytest.approx(row["by_image"] - row["by_subject"])


def test_without_folds_there_is_no_cross_validation(cohort: Any, settings: CompareSettings, tmp_path: Path) -> None:
    train = settings.train.model_copy(update={"finetune_epochs": 0})
    short = settings.model_copy(update={"folds": 0, "protocol": "image", "tta": False, "train": train})
    compared = compare(cohort.cells, tmp_path, short)
    assert set(compared.table["study"]) == {"image"}
    assert not (tmp_path / "leak.json").exists()


def test_cross_validation_of_a_manifest_has_a_results_folder_of_its_own(
    compared: Comparison, cohort: Any, settings: CompareSettings, tmp_path: Path
) -> None:
    train = settings.train.model_copy(update={"finetune_epochs": 0})
    wanted = CrossvalSettings(architectures=ARCHITECTURES, folds=3, repeats=2, train=train, evaluate=settings.evaluate)
    made = crossval(cohort.results, tmp_path, wanted, compared.results / "cache")
    assert made.report == tmp_path / "report.html"
    assert made.report.is_file()
    # The same recipe as that of the comparison gives the same scores.
    both = [Predictions.load(results / "crossval/subject/timm_test_resnet").table for results in (tmp_path, compared.results)]
    pd.testing.assert_frame_equal(*both)


def test_best_network_is_chosen_on_validation(compared: Comparison) -> None:
    for _, rows in compared.table[compared.table["kind"] == "network"].groupby("study"):
        rows = rows[~rows["tta"].astype(bool)]
        best = rows[rows["is_best"]]
        assert len(best) == 1
        assert best["validation_balanced_accuracy"].item() == rows["validation_balanced_accuracy"].max()


def test_record_says_what_was_compared(compared: Comparison, settings: CompareSettings) -> None:
    record = read_json(compared.results / COMPARISON_RECORD_FILE)
    assert CompareSettings.model_validate(record["settings"]) == settings
    runs = [row["run"] for row in record["rows"]]
    assert {f"{study}/{name}" for study in STUDIES for name in MODELS} <= set(runs)
    assert record["title"] == "cells"
    assert record["seconds"] > 0
    assert record["peak_memory_gib"] > 0


def test_figures_of_the_source_document_stand_beside_real_cells_only(compared: Comparison) -> None:
    rows = read_json(compared.results / COMPARISON_RECORD_FILE)["rows"]
    assert {row["source_document_accuracy"] for row in rows} == {None}


def test_same_call_trains_and_predicts_nothing_anew(
    compared: Comparison, cohort: Any, settings: CompareSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("scored again")

    for module, name in ((predict_module, "predict"), (pipeline, "foreign_scores"), (study, "ensemble"),
                         (study, "shortcut_baseline"), (study, "compare_models"), (evaluate, "measure")):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    again = compare(cohort.cells, compared.results, settings)
    pd.testing.assert_frame_equal(again.table, compared.table)


def test_broken_comparison_goes_on_and_ends_like_an_unbroken_one(
    compared: Comparison, cohort: Any, settings: CompareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = FineTuning.training_step, []

    def interrupted(self: FineTuning, batch: Any, batch_index: int) -> Any:
        steps.append(batch_index)
        if len(steps) == 18:  # two epochs of five batches a network: in the second epoch of the second
            raise KeyboardInterrupt
        return step(self, batch, batch_index)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FineTuning, "training_step", interrupted)
        compare(cohort.cells, tmp_path, settings)
    assert len(list(tmp_path.rglob("run.json"))) == 1
    assert not (tmp_path / COMPARISON_FILE).exists()
    gone_on = compare(cohort.cells, tmp_path, settings)
    timed = ["train_seconds", "images_per_second"]
    pd.testing.assert_frame_equal(gone_on.table.drop(columns=timed), compared.table.drop(columns=timed))
    for pair in zip(folders_of(tmp_path), folders_of(compared.results), strict=True):
        pd.testing.assert_frame_equal(*(Predictions.load(folder).table for folder in pair))


def test_predictions_of_another_run_are_made_anew(
    compared: Comparison, cohort: Any, settings: CompareSettings, tmp_path: Path
) -> None:
    shutil.copytree(compared.results, tmp_path / "results")
    runs = [tmp_path / "results" / "subject" / name for name in ("timm_test_resnet", "timm_test_efficientnet")]
    shutil.copy(runs[1] / "predictions.parquet", runs[0] / "predictions.parquet")
    compare(cohort.cells, tmp_path / "results", settings)
    assert Predictions.load(runs[0]).record["run_hash"] == read_json(runs[0] / "run.json")["run_hash"]


def test_predictions_of_other_images_in_a_run_directory_are_made_anew(
    compared: Comparison, cohort: Any, settings: CompareSettings, tmp_path: Path
) -> None:
    results = Path(shutil.copytree(compared.results, tmp_path / "results"))
    run = results / "subject" / "timm_test_resnet"
    predict(run, results, None, run, results / "cache")  # every image, over the predictions of the run's own test side
    again = compare(cohort.cells, results, settings)
    tables = [comparison.table.drop(columns="images_per_second") for comparison in (again, compared)]
    pd.testing.assert_frame_equal(*tables)


def test_another_seed_or_other_data_in_the_same_folder_is_refused(
    compared: Comparison, cohort: Any, settings: CompareSettings, tmp_path: Path
) -> None:
    path = compared.results / "subject" / "splits.parquet"
    other_seed = settings.model_copy(update={"split": SplitSettings(seed=4), "folds": 0})
    with pytest.raises(RunError) as caught:
        compare(cohort.cells, compared.results, other_seed)
    assert caught.value.what == f"{path} was made of other data, another seed or other fractions."
    assert caught.value.received == "split by subject, seed 4"
    shutil.copytree(compared.results, tmp_path / "results")
    with pytest.raises(RunError):
        compare(build_cohort(tmp_path / "cells", 7), tmp_path / "results", settings)


def test_other_training_settings_in_the_same_folder_are_refused(
    compared: Comparison, cohort: Any, settings: CompareSettings
) -> None:
    other = settings.model_copy(update={"train": settings.train.model_copy(update={"dropout": 0.5})})
    with pytest.raises(RunError, match=r"made with other settings\.dropout"):
        compare(cohort.cells, compared.results, other)


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"architectures": ("timm:test_resnet", "no_net")}, SettingsError), ({"train": TrainSettings()}, WeightsError)],
)
def test_names_and_weights_are_checked_before_anything_is_done(
    settings: CompareSettings, cohort: Any, tmp_path: Path, changes: dict[str, Any], error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def nowhere(*_: Any) -> None:
        raise WeightsError("no weights", expected="", received="", remedy="")

    monkeypatch.setattr("leukolens.models.weights._downloaded", nowhere)
    with pytest.raises(error):
        compare(cohort.cells, tmp_path / "out", settings.model_copy(update=changes))
    assert not (tmp_path / "out").exists()
