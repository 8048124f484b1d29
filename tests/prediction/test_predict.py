from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cohort import build_cohort, draw_cell, write_image
from leukolens.artifacts import Manifest, Predictions, Splits, read_json, write_json
from leukolens.data.manifest import index
from leukolens.data.pixel_cache import PixelCache
from leukolens.data.splits import split
from leukolens.errors import LeakError, RunError, SettingsError
from leukolens.models.classifier import Classifier
from leukolens.prediction.predict import predict, predict_once
from leukolens.settings import PredictSettings, SplitSettings, TrainSettings
from leukolens.training.features import to_levels, turned
from leukolens.training.runs import Run
from leukolens.training.train import train

OPTIONAL = ["outlier_score", "area_px", "optical_density", "format"]
COLUMNS = ["image", "subject", "group", "repeat", "fold", "side", "y_true", "y_pred", "y_score", *OPTIONAL, "score_HEM",
           "score_ALL"]  # fmt: skip


def scores_of(table: pd.DataFrame) -> Any:
    return table[[name for name in table if name.startswith("score_")]].to_numpy()


def full_network(run: Run, pixels: PixelCache, images: list[str]) -> Any:
    """Calibrated scores of the whole network, computed without any of predict's own code."""
    levels = to_levels(pixels.pixels[pixels.rows_of(images)], "cpu")
    with torch.inference_mode():
        return (run.classifier()(levels).double() / run.decision_record["temperature"]).softmax(dim=1).numpy()


# The table


def test_validation_and_test_images_of_the_split_are_scored(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    table = predict(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache).table
    sides = cohort.splits.of_fold(0)
    assert list(table.columns) == COLUMNS
    assert table["image"].tolist() == sorted(sides.index[sides != "train"])
    assert table["side"].tolist() == sides[table["image"]].tolist()
    manifest = cohort.manifest.images.set_index("image")
    for column, source in (("subject", "subject"), ("group", "group"), ("y_true", "label")):
        assert table[column].tolist() == manifest.loc[table["image"], source].tolist()
    assert set(table["fold"]) == set(table["repeat"]) == {0}


def test_what_subgroups_need_comes_from_the_manifest(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    table = predict(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache).table
    manifest = cohort.manifest.images.set_index("image").loc[table["image"]]
    assert table["area_px"].tolist() == manifest["area_px"].tolist()
    assert set(table["format"]) == {"BMP"}
    row = manifest.iloc[0]
    means = [row["mean_red"], row["mean_green"], row["mean_blue"]]
    wanted = sum(-math.log10((mean + 1) / 256) for mean in means) / 3
    assert table["optical_density"].iloc[0] == pytest.approx(wanted)


def test_images_without_a_label_are_scored(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    images = cohort.manifest.images.copy()
    unknown = sorted(set(images["image"]) - set(head_run.training_images()["image"]))[:3]
    images.loc[images["image"].isin(unknown), "label"] = pd.NA
    predict(head_run, Manifest(images, cohort.manifest.record), None, tmp_path, cohort.cache)
    rows = Predictions.load(tmp_path).table.set_index("image").loc[unknown]
    assert rows["y_true"].isna().all()
    assert rows["score_ALL"].notna().all()


def test_scores_are_probabilities_and_the_threshold_predicts(finetuned_run: Run, cohort: Any, tmp_path: Path) -> None:
    threshold = finetuned_run.decision_record["threshold"]["value"]
    table = predict(finetuned_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache).table
    np.testing.assert_allclose(scores_of(table).sum(axis=1), 1, atol=1e-12)
    assert ((scores_of(table) >= 0) & (scores_of(table) <= 1)).all()
    assert table["y_score"].tolist() == table["score_ALL"].tolist()
    assert table["y_pred"].tolist() == np.where(table["score_ALL"] >= threshold, "ALL", "HEM").tolist()


def redecided(run: Run, folder: Path, change: Callable[[dict[str, Any]], None]) -> Run:
    """A copy of a run whose decision was changed by hand."""
    copy = Path(shutil.copytree(run.folder, folder))
    record = read_json(copy / "decision.json")
    change(record)
    write_json(copy / "decision.json", record)
    return Run.load(copy)


@pytest.mark.parametrize("value", [0.0, 0.31, 1.0])
def test_another_threshold_changes_the_class_and_no_score(
    head_run: Run, cohort: Any, tmp_path: Path, value: float
) -> None:
    plain = predict(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache).table
    moved = redecided(head_run, tmp_path / "run", lambda record: record["threshold"].update(value=value))
    table = predict(moved, cohort.manifest, cohort.splits, tmp_path / "moved", cohort.cache).table
    assert table["y_pred"].tolist() == np.where(plain["score_ALL"] >= value, "ALL", "HEM").tolist()
    np.testing.assert_array_equal(scores_of(table), scores_of(plain))


def test_another_temperature_divides_the_logits(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    first = predict(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache)
    temperature = first.record["decisions"][0]["temperature"]
    hot = redecided(head_run, tmp_path / "run", lambda record: record.update(temperature=3 * temperature))
    second = predict(hot, cohort.manifest, cohort.splits, tmp_path / "hot", cohort.cache)
    odds = [np.log(table["score_ALL"] / table["score_HEM"]) for table in (first.table, second.table)]
    np.testing.assert_allclose(odds[0], 3 * odds[1], rtol=1e-6)


def test_what_is_returned_is_what_is_written(finetuned_run: Run, cohort: Any, tmp_path: Path) -> None:
    predictions = predict(str(finetuned_run.folder), cohort.results, cohort.results, str(tmp_path), cohort.cache)
    written = Predictions.load(tmp_path)
    assert written.record == predictions.record
    assert written.record["images_per_second"] == pytest.approx(len(written.table) / written.record["seconds"])
    del predictions.record["images_per_second"], predictions.record["seconds"]
    decision = finetuned_run.decision_record
    assert predictions.record == {
        "classes": ["HEM", "ALL"],
        "positive": ["ALL"],
        "architecture": "timm:test_efficientnet",
        "display_name": "test_efficientnet",
        "synthetic": False,
        "run_hash": finetuned_run.record["run_hash"],
        "trained_on": "nothing: random weights",
        "split_label": "split by subject",
        "optimistic": False,
        "manifest_hash": cohort.manifest.content_hash,
        "splits_hash": cohort.splits.content_hash,
        "kind": "network",
        "phase": "finetune",
        "parameters": finetuned_run.record["parameters"],
        "decisions": [
            {"repeat": 0, "fold": 0, "temperature": decision["temperature"], "threshold": decision["threshold"]["value"],
             "aim": "balanced_accuracy", "sensitivity": None}
        ],
        "decision_hash": decision["hash"],
        "tta": False,
        "abstain": None,
        "engine": "torch",
        "inference_precision": "fp32",
    }  # fmt: skip
    assert list(written.table.columns) == COLUMNS
    np.testing.assert_array_equal(scores_of(written.table), scores_of(predictions.table))


def test_predictions_go_beside_the_run_unless_told_otherwise(cohort: Any, tiny: TrainSettings, tmp_path: Path) -> None:
    settings = tiny.model_copy(update={"finetune_epochs": 0})
    run = train(cohort.manifest, cohort.splits, tmp_path / "run", settings, cohort.cache)
    predict(run, cohort.manifest, cohort.splits, cache_dir=cohort.cache)
    assert (tmp_path / "run" / "predictions.parquet").is_file()


# The two ways to a score


def test_frozen_backbone_is_scored_from_cached_features_as_by_the_whole_network(
    head_run: Run, cohort: Any, pixels: PixelCache, tmp_path: Path
) -> None:
    table = predict(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache).table
    np.testing.assert_allclose(scores_of(table), full_network(head_run, pixels, list(table["image"])), atol=1e-3)
    assert scores_of(table)[:, 1].std() > 0.05


def test_frozen_backbone_computes_only_what_is_not_cached(
    head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache)

    def refuse(*_: Any) -> None:
        raise AssertionError("the backbone was asked")

    monkeypatch.setattr(Classifier, "features", refuse)
    predict(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache)


def test_tuned_network_is_scored_as_a_whole(finetuned_run: Run, cohort: Any, pixels: PixelCache, tmp_path: Path) -> None:
    assert finetuned_run.record["best_phase"] == "finetune"
    table = predict(finetuned_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache).table
    np.testing.assert_allclose(scores_of(table), full_network(finetuned_run, pixels, list(table["image"])), atol=1e-3)


@pytest.mark.parametrize("kind", ["head_run", "finetuned_run"])
def test_validation_scores_give_the_balanced_accuracy_of_the_record(
    kind: str, cohort: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(kind)
    table = predict(run, cohort.manifest, cohort.splits, tmp_path, cohort.cache).table
    validation = table[table["side"] == "validation"]
    recalls = (validation["y_pred"] == validation["y_true"]).groupby(validation["y_true"]).mean()
    assert recalls.mean() == pytest.approx(run.record["validation_balanced_accuracy"])


# Outliers, refusals and test-time augmentation


@pytest.mark.parametrize("kind", ["head_run", "finetuned_run"])
def test_outlier_scores_are_those_of_the_features(
    kind: str, cohort: Any, pixels: PixelCache, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(kind)
    table = predict(run, cohort.manifest, cohort.splits, tmp_path, cohort.cache).table
    with torch.inference_mode():
        features = run.classifier().features(to_levels(pixels.pixels[pixels.rows_of(list(table["image"]))], "cpu")).numpy()
    np.testing.assert_allclose(table["outlier_score"], run.outliers().scores(features), rtol=1e-2)
    assert table.loc[table["side"] == "validation", "outlier_score"].max() == pytest.approx(1, abs=1e-2)


def test_refusals_are_written_where_asked_for(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    settings = PredictSettings(abstain=0.4)
    predictions = predict(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, settings)
    table = Predictions.load(tmp_path).table
    wanted = head_run.decision().refusals(scores_of(table), table["outlier_score"].to_numpy(), 0.4)
    assert [None if pd.isna(reason) else reason for reason in table["refusal"]] == wanted
    assert predictions.record["abstain"] == 0.4
    unlike = table["outlier_score"] > 1
    assert unlike.any()
    assert set(table.loc[unlike, "refusal"]) == {"unlike the training images"}
    plain = predict(head_run, cohort.manifest, cohort.splits, tmp_path / "plain", cohort.cache).table
    assert "refusal" not in plain
    assert table["y_pred"].tolist() == plain["y_pred"].tolist()


def test_the_eight_views_are_those_of_numpy(pixels: PixelCache) -> None:
    image = pixels.pixels[[30]]
    wanted = [np.rot90(mirrored, turns, axes=(1, 2)) for mirrored in (image, image[:, :, ::-1]) for turns in range(4)]
    found = [turned(to_levels(image, "cpu"), view).permute(0, 2, 3, 1).numpy() for view in range(8)]
    assert len({view.tobytes() for view in found}) == 8
    assert {view.tobytes() for view in found} == {np.ascontiguousarray(view).tobytes() for view in wanted}
    np.testing.assert_array_equal(found[0], image)


@pytest.mark.parametrize("kind", ["head_run", "finetuned_run"])
def test_augmented_scores_are_those_of_the_mean_logits_of_turned_pixels(
    kind: str, cohort: Any, pixels: PixelCache, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(kind)
    plain = predict(run, cohort.manifest, cohort.splits, tmp_path, cohort.cache)
    settings = PredictSettings(tta=True)
    predictions = predict(run, cohort.manifest, cohort.splits, tmp_path / "tta", cohort.cache, settings)
    images = pixels.pixels[pixels.rows_of(list(plain.table["image"]))]
    views = [np.rot90(mirrored, turns, axes=(1, 2)) for mirrored in (images, images[:, :, ::-1]) for turns in range(4)]
    with torch.inference_mode():
        logits = torch.stack([run.classifier()(to_levels(view.copy(), "cpu")) for view in views]).mean(dim=0).double()
    wanted = (logits / run.decision_record["temperature"]).softmax(dim=1).numpy()
    np.testing.assert_allclose(scores_of(predictions.table), wanted, atol=1e-3)
    np.testing.assert_allclose(predictions.table["outlier_score"], plain.table["outlier_score"], rtol=1e-3)
    assert predictions.record["tta"] is True
    assert predictions.record["seconds"] > plain.record["seconds"]


def test_run_without_a_decision_is_refused_with_the_remedy(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(head_run.folder, tmp_path / "run"))
    (copy / "decision.json").unlink()
    with pytest.raises(RunError, match=r"has no decision\.json") as caught:
        predict(copy, cohort.manifest, cohort.splits, tmp_path, cohort.cache)
    assert caught.value.remedy == "run the same train command again: only the decision is fitted"


def test_what_was_predicted_is_read_until_something_changes(
    head_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = (head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache)
    first = predict_once(*once)
    asked: list[Any] = []
    monkeypatch.setattr("leukolens.prediction.predict.predict", lambda *arguments: asked.append(arguments))
    assert predict_once(*once).record == first.record
    assert not asked
    predict_once(*once, PredictSettings(tta=True))
    predict_once(*once, PredictSettings(abstain=0.1))
    predict_once(redecided(head_run, tmp_path / "run", lambda record: record.update(hash="another")), *once[1:])
    assert len(asked) == 3


# The leak door


def test_splits_of_another_seed_are_refused_naming_image_and_subject(
    head_run: Run, cohort: Any, tmp_path: Path
) -> None:
    other = split(cohort.manifest, settings=SplitSettings(seed=3))
    seen = set(head_run.training_images()["image"])
    sides = other.of_fold(0)
    first = sorted(image for image in sides.index[sides == "test"] if image in seen)[0]
    subject = first.split("UID_")[1].split("_")[0]
    with pytest.raises(LeakError) as caught:
        predict(head_run, cohort.manifest, other, tmp_path, cohort.cache)
    assert caught.value.what.endswith(f"images to be scored were seen in the training of {head_run.folder}.")
    assert f"{first} (subject {subject})" in caught.value.received
    assert caught.value.remedy == "pass the splits that the run was trained with, or train with these"
    assert not (tmp_path / "predictions.parquet").exists()


def test_validation_images_that_were_trained_on_are_refused(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    sides = cohort.splits.sides.copy()
    turned = {"train": "validation", "validation": "train"}
    sides["side"] = sides["side"].map(lambda side: turned.get(side, side)).astype("string")
    with pytest.raises(LeakError, match=r"^40 images to be scored were seen"):
        predict(head_run, cohort.manifest, replace(cohort.splits, sides=sides), tmp_path, cohort.cache)


@pytest.fixture
def run_of_all_subjects(cohort: Any, tiny: TrainSettings, tmp_path: Path) -> tuple[Run, Splits]:
    """A run by image, which has seen some cells of nearly every subject, and its splits."""
    by_image = split(cohort.manifest, settings=SplitSettings(strategy="image"))
    settings = tiny.model_copy(update={"finetune_epochs": 0})
    return train(cohort.manifest, by_image, tmp_path / "run", settings, cohort.cache), by_image


def test_split_by_image_is_scored_and_called_optimistic(run_of_all_subjects: tuple[Run, Splits], cohort: Any) -> None:
    run, by_image = run_of_all_subjects
    predictions = predict(run, cohort.manifest, by_image, cache_dir=cohort.cache)
    assert predictions.record["split_label"] == "split by image: optimistic"
    assert predictions.record["optimistic"]


def test_other_cells_of_a_subject_that_was_trained_on_are_refused(
    run_of_all_subjects: tuple[Run, Splits], cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, by_image = run_of_all_subjects
    # The leak door of the splits themselves would find these out: only the one of the network is looked at here.
    monkeypatch.setattr("leukolens.prediction.predict.check_disjoint", lambda *_: None)
    called_by_subject = replace(by_image, record={**by_image.record, "strategy": "subject"})
    with pytest.raises(LeakError, match=r"^\d+ images to be scored were seen"):
        predict(run, cohort.manifest, called_by_subject, tmp_path, cohort.cache)


def test_without_splits_cells_that_were_seen_keep_their_sides(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    table = predict(head_run, cohort.manifest, None, tmp_path, cohort.cache).table
    assert len(table) == 60
    assert table["side"].tolist() == cohort.splits.of_fold(0)[table["image"]].tolist()


def test_cells_that_were_seen_are_known_by_their_pixels_wherever_they_lie(
    head_run: Run, cohort: Any, tmp_path: Path
) -> None:
    """The same cells, padded with black, under other names: one canvas for all, sides and scores as before."""
    padded = build_cohort(tmp_path / "padded", side_px=64)
    for path in padded.rglob("*.bmp"):
        path.rename(path.with_name(path.name.replace("_1_", "_7_").replace("UID_", "UID_9")))
    elsewhere = index(padded)
    assert elsewhere.record["canvas_px"] == [64, 64]
    found = predict(head_run, elsewhere, None, tmp_path / "new", tmp_path / "cache").table
    known = predict(head_run, cohort.manifest, None, tmp_path / "old", cohort.cache).table
    cells = [
        pd.DataFrame({"cell": manifest.images.set_index("image")["pixel_hash"], "side": table.set_index("image")["side"],
                      "score": table.set_index("image")["score_ALL"]}).set_index("cell").sort_index()
        for manifest, table in ((elsewhere, found), (cohort.manifest, known))
    ]  # fmt: skip
    assert not set(found["image"]) & set(known["image"])
    pd.testing.assert_frame_equal(*cells, check_exact=False, atol=1e-6)


def test_data_that_the_run_has_not_seen_is_all_test(head_run: Run, tmp_path: Path) -> None:
    cells = build_cohort(tmp_path / "new", subjects_per_class=2, cells_per_subject=2, first_seed=1000)
    table = predict(head_run, index(cells), None, tmp_path, tmp_path / "cache").table
    assert table["side"].tolist() == ["test"] * 8


# What does not fit


def test_data_of_other_classes_is_refused(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    record = {**cohort.manifest.record, "classes": ["Benign", "Early"]}
    with pytest.raises(RunError) as caught:
        predict(head_run, Manifest(cohort.manifest.images, record), None, tmp_path, cohort.cache)
    assert str(caught.value) == (
        f"{head_run.folder} was trained on other classes.\n"
        "  expected: HEM, ALL\n"
        "  received: Benign, Early\n"
        "  remedy:   predict on data with the classes of the run"
    )


def test_folder_without_a_run_is_refused(cohort: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no finished run"):
        predict(tmp_path, cohort.manifest, cohort.splits)


# More than two classes


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in one folder each, of no known subjects."""
    folder = tmp_path_factory.mktemp("smears")
    for number, name in enumerate(("Benign", "Early", "Pro")):
        for cell in range(10):
            write_image(folder / name / f"{cell}.png", draw_cell(100 * number + cell, radius_px=8 + 5 * number))
    return folder


@pytest.mark.parametrize("positive", [("Early", "Pro"), ()])
def test_three_classes_have_a_score_each_and_one_of_the_positive_ones_together(
    smears: Path, tiny: TrainSettings, tmp_path: Path, positive: tuple[str, ...]
) -> None:
    manifest = index(smears)
    manifest = Manifest(manifest.images, {**manifest.record, "positive": list(positive)})
    splits = split(manifest, settings=SplitSettings(strategy="image"))
    run = train(manifest, splits, tmp_path / "run", tiny.model_copy(update={"finetune_epochs": 1}))
    table = predict(run, manifest, splits).table
    names = [f"score_{name}" for name in manifest.classes]
    assert len(names) == 3
    np.testing.assert_allclose(table[names].sum(axis=1), 1)
    assert table["subject"].isna().all()
    if positive:
        np.testing.assert_allclose(table["y_score"], table["score_Early"] + table["score_Pro"])
    else:
        assert table["y_score"].isna().all()
    assert read_json(run.folder / "run.json")["positive"] == list(positive)


def test_other_cells_of_a_seen_subject_are_no_test_without_splits(cohort: Any, tiny: TrainSettings, tmp_path: Path) -> None:
    """A split file that leaves cells of a training subject out must not make them test cells of `predict --all`."""
    sides = cohort.splits.of_fold(0)
    images = cohort.manifest.images.set_index("image")
    left_out = sorted(sides.index[sides == "train"])[0]
    listed = sides.drop(left_out).rename_axis("image").reset_index(name="side")
    listed.to_csv(tmp_path / "sides.csv", index=False)
    own = split(cohort.manifest, settings=SplitSettings(strategy="file", file=tmp_path / "sides.csv"))
    run = train(cohort.manifest, own, tmp_path / "run", tiny, cohort.cache)
    table = predict(run, cohort.manifest, None, tmp_path, cohort.cache).table.set_index("image")
    assert images.loc[left_out, "subject"] in set(images.loc[sides.index[sides == "train"], "subject"])
    assert table.loc[left_out, "side"] == "train"
    assert set(table.loc[sides.index[sides == "test"], "side"]) == {"test"}


def test_predictions_of_a_whole_data_set_do_not_replace_those_of_the_run(head_run: Run, cohort: Any) -> None:
    with pytest.raises(SettingsError, match="need a folder of their own") as caught:
        predict(head_run, cohort.manifest, None, None, cohort.cache)
    assert caught.value.remedy == "give --out"


def test_weights_that_are_cut_short_are_named(head_run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(head_run.folder, tmp_path / "copy"))
    whole = (copy / "weights.safetensors").read_bytes()
    (copy / "weights.safetensors").write_bytes(whole[:1000])
    with pytest.raises(RunError, match=r"weights\.safetensors cannot be loaded"):
        Run.load(copy).classifier()


def test_scores_of_drawn_cells_are_marked_synthetic_whatever_the_run_was_made_of(
    head_run: Run, cohort: Any, tmp_path: Path
) -> None:
    drawn = Manifest(cohort.manifest.images, {**cohort.manifest.record, "synthetic": True})
    assert head_run.record["synthetic"] is False
    assert predict(head_run, drawn, cohort.splits, tmp_path, cohort.cache).record["synthetic"] is True
