from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from leukolens import crossvalidation
from leukolens.artifacts import CROSSVAL_FILE, Manifest, Predictions, Splits, read_json
from leukolens.crossvalidation import cross_validate, folder_name, frozen_feature_table
from leukolens.data.leak_door import check_disjoint
from leukolens.data.pixel_cache import PixelCache
from leukolens.decision.rule import fit_decision
from leukolens.decision.validation import ValidationScores
from leukolens.errors import RunError, SettingsError, SplitError
from leukolens.models.classifier import Classifier
from leukolens.prediction.predict import predict
from leukolens.settings import CrossvalSettings, DecisionSettings, InputSettings, PredictSettings, TrainSettings
from leukolens.training.features import to_levels, turned
from leukolens.training.head import fit_head
from leukolens.training.train import train

# Networks that timm ships for tests.
TINY_RESNET, TINY_EFFICIENTNET = "timm:test_resnet", "timm:test_efficientnet"
FOLDS, REPEATS = 3, 2
RESNET = "timm_test_resnet"


@pytest.fixture(scope="module")
def settings(tiny: TrainSettings) -> CrossvalSettings:
    frozen = tiny.model_copy(update={"finetune_epochs": 0, "precision": "fp32"})
    return CrossvalSettings(architectures=(TINY_RESNET,), folds=FOLDS, repeats=REPEATS, tta=True, train=frozen, seed=4)


@pytest.fixture(scope="module")
def out(cohort: Any, settings: CrossvalSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cross-validation. Read only."""
    folder = tmp_path_factory.mktemp("crossval") / "subject"
    cross_validate(cohort.manifest, folder, settings, cohort.cache)
    return folder


def scores_of(table: pd.DataFrame) -> Any:
    return table[["score_HEM", "score_ALL"]].to_numpy()


# The table


def test_every_pooled_image_is_tested_once_per_repeat_and_validated_once(out: Path, cohort: Any) -> None:
    table = Predictions.load(out / RESNET).table
    assert len(table) == 2 * REPEATS * len(cohort.manifest.images)
    for _, rows in table.groupby(["repeat", "side"]):
        assert sorted(rows["image"]) == sorted(cohort.manifest.images["image"])
    assert set(table["repeat"]) == set(range(REPEATS))
    assert set(table["fold"]) == set(range(FOLDS))


def test_no_group_stands_on_two_sides_of_a_fold_and_the_splits_are_those_that_were_saved(out: Path, cohort: Any) -> None:
    table = Predictions.load(out / RESNET).table
    for repeat in range(REPEATS):
        splits = Splits.load(out / f"splits-{repeat}.parquet")
        check_disjoint(cohort.manifest, splits)
        assert splits.record["seed"] == 4 + repeat
        for fold in range(FOLDS):
            rows = table[(table["repeat"] == repeat) & (table["fold"] == fold)]
            assert rows.groupby("group")["side"].nunique().max() == 1
            sides = splits.of_fold(fold)
            assert rows["image"].tolist() == sorted(sides.index[sides != "train"])
            assert rows["side"].tolist() == sides[rows["image"]].tolist()


def test_repeats_have_other_folds(out: Path) -> None:
    first, second = (Splits.load(out / f"splits-{repeat}.parquet").of_fold(0) for repeat in range(REPEATS))
    assert not first.equals(second[first.index])


def test_record_says_what_it_is(out: Path, cohort: Any) -> None:
    record = Predictions.load(out / RESNET).record
    assert {name: record[name] for name in ("kind", "architecture", "display_name", "phase", "tta", "optimistic")} == {
        "kind": "network", "architecture": TINY_RESNET, "display_name": "test_resnet", "phase": "head", "tta": False,
        "optimistic": False,
    }  # fmt: skip
    assert record["split_label"] == f"cross-validated by subject, {FOLDS} folds × {REPEATS} seeds"
    assert (record["folds"], record["repeats"], record["seed"]) == (FOLDS, REPEATS, 4)
    assert record["manifest_hash"] == cohort.manifest.content_hash
    assert record["trained_on"] == "nothing: random weights (asked for: --weights none)"
    assert record["images_per_second"] > 0
    assert record["seconds"] >= record["train_seconds"] > 0


def test_folder_says_what_made_it(out: Path, settings: CrossvalSettings) -> None:
    made, record = read_json(out / RESNET / "crossval.json"), Predictions.load(out / RESNET).record
    assert sorted(path.name for path in (out / RESNET).iterdir()) == ["crossval.json", "key.json", "predictions.parquet"]
    assert {name: made[name] for name in record} == record
    assert made["weights"]["builder"] == "timm.test_resnet"
    assert made["preprocessing"]["input_px"] == 32
    assert made["images"] == 60
    assert CrossvalSettings.model_validate(made["settings"]) == settings
    assert {"versions", "hardware", "git_commit", "device", "precision", "source_document_accuracy"} <= set(made)


def test_each_fold_is_decided_on_its_own_validation_rows(out: Path) -> None:
    """Fit the decision anew from the table alone: raw scores from the calibrated ones, then temperature and threshold."""
    predictions = Predictions.load(out / RESNET)
    table, decisions = predictions.table, predictions.record["decisions"]
    assert [(each["repeat"], each["fold"]) for each in decisions] == [
        (repeat, fold) for repeat in range(REPEATS) for fold in range(FOLDS)
    ]
    for each in decisions:
        rows = table[(table["repeat"] == each["repeat"]) & (table["fold"] == each["fold"])].copy()
        raw = softmax(each["temperature"] * np.log(scores_of(rows)), axis=1)
        rows[["score_HEM", "score_ALL"]] = raw
        again = fit_decision(
            ValidationScores.of_table(rows[rows["side"] == "validation"], predictions.record), DecisionSettings()
        )
        assert again.temperature == pytest.approx(each["temperature"], rel=1e-3)
        assert again.threshold is not None
        assert again.threshold.value == pytest.approx(each["threshold"], abs=1e-3)
        calibrated = table.loc[rows.index, "score_ALL"]
        assert rows["y_pred"].tolist() == np.where(calibrated >= each["threshold"], "ALL", "HEM").tolist()


# The same as a training of each fold


@pytest.mark.parametrize(("repeat", "fold"), [(0, 0), (0, 2)])
def test_frozen_path_gives_what_train_and_predict_give_for_the_fold(
    out: Path, cohort: Any, settings: CrossvalSettings, tmp_path: Path, repeat: int, fold: int
) -> None:
    splits = Splits.load(out / f"splits-{repeat}.parquet")
    own = settings.train.model_copy(update={"architecture": TINY_RESNET, "seed": 4 + repeat, "fold": fold})
    run = train(cohort.manifest, splits, tmp_path / "run", own, cohort.cache)
    alone = predict(run, cohort.manifest, splits, None, cohort.cache)
    together = Predictions.load(out / RESNET)
    rows = together.table[(together.table["repeat"] == repeat) & (together.table["fold"] == fold)].reset_index(drop=True)
    assert rows["image"].tolist() == alone.table["image"].tolist()
    np.testing.assert_allclose(scores_of(rows), scores_of(alone.table), atol=1e-4)
    np.testing.assert_allclose(rows["outlier_score"], alone.table["outlier_score"], rtol=1e-3)
    assert rows["y_pred"].tolist() == alone.table["y_pred"].tolist()
    decision = next(each for each in together.record["decisions"] if (each["repeat"], each["fold"]) == (repeat, fold))
    assert decision["temperature"] == pytest.approx(alone.record["decisions"][0]["temperature"], rel=1e-3)


def test_fine_tuned_folds_are_runs_put_together(
    cohort: Any, settings: CrossvalSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = settings.train.model_copy(update={"finetune_epochs": 1, "batch_size": 32})
    one = settings.model_copy(update={"repeats": 1, "train": tuned})
    found = cross_validate(cohort.manifest, tmp_path / "cv", one, cohort.cache)
    assert sorted(found) == [RESNET, f"{RESNET}+tta"]
    for name in found:
        parts = [Predictions.load(tmp_path / "cv" / name / "repeat-0" / f"fold-{fold}") for fold in range(FOLDS)]
        pd.testing.assert_frame_equal(
            found[name].table, pd.concat([part.table for part in parts], ignore_index=True)[list(found[name].table)]
        )
        assert found[name].record["decisions"] == [part.record["decisions"][0] for part in parts]
        assert found[name].record["seconds"] > sum(part.record["seconds"] for part in parts)
    folder = tmp_path / "cv" / RESNET
    assert read_json(folder / "repeat-0" / "fold-1" / "run.json")["settings"]["fold"] == 1
    # Without the last word, all is read and nothing trained or scored.
    (folder / "crossval.json").unlink()
    monkeypatch.setattr(Classifier, "features", refuse)
    again = cross_validate(cohort.manifest, tmp_path / "cv", one, cohort.cache)
    pd.testing.assert_frame_equal(again[RESNET].table, found[RESNET].table)


# Test-time augmentation


def test_augmented_scores_are_those_of_the_mean_logits_of_explicitly_turned_pixels(
    out: Path, cohort: Any, settings: CrossvalSettings, pixels: PixelCache, tmp_path: Path
) -> None:
    splits = Splits.load(out / "splits-0.parquet")
    own = settings.train.model_copy(update={"architecture": TINY_RESNET, "seed": 4})
    run = train(cohort.manifest, splits, tmp_path / "run", own, cohort.cache)
    plain, augmented = (Predictions.load(out / name) for name in (RESNET, f"{RESNET}+tta"))
    table = augmented.table
    rows = table[(table["repeat"] == 0) & (table["fold"] == 0)]
    levels = to_levels(pixels.pixels[pixels.rows_of(list(rows["image"]))], "cpu")
    classifier = run.classifier()
    with torch.inference_mode():
        logits = torch.stack([classifier(turned(levels, view).contiguous()) for view in range(8)]).mean(dim=0).numpy()
    wanted = softmax(logits / augmented.record["decisions"][0]["temperature"], axis=1)
    np.testing.assert_allclose(scores_of(rows), wanted, atol=1e-4)
    # The decision and the outlier scores are those of the images as they are.
    assert augmented.record["decisions"] == plain.record["decisions"]
    assert table["outlier_score"].tolist() == plain.table["outlier_score"].tolist()
    assert not np.allclose(scores_of(table), scores_of(plain.table), atol=1e-6)
    assert augmented.record["tta"] is True
    assert augmented.record["seconds"] > plain.record["seconds"]


# The same call again


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("computed again")


def test_finished_folder_is_read(
    out: Path, cohort: Any, settings: CrossvalSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (out / RESNET).rglob("*")}
    monkeypatch.setattr(crossvalidation, "fit_head", refuse)
    monkeypatch.setattr(crossvalidation, "cache_pixels", refuse)
    again = cross_validate(cohort.manifest, out, settings, cohort.cache)
    assert list(again) == [RESNET, f"{RESNET}+tta"]
    pd.testing.assert_frame_equal(again[RESNET].table, Predictions.load(out / RESNET).table)
    assert {path: path.stat().st_mtime_ns for path in (out / RESNET).rglob("*")} == before


def test_interrupted_call_goes_on_and_ends_the_same(
    out: Path, cohort: Any, settings: CrossvalSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = settings.model_copy(update={"architectures": (TINY_RESNET, TINY_EFFICIENTNET), "tta": False})
    fitted: list[int] = []

    def broken(*arguments: Any) -> Any:
        fitted.append(1)
        if len(fitted) == FOLDS * REPEATS + 2:  # in the second network
            raise KeyboardInterrupt
        return fit_head(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(crossvalidation, "fit_head", broken)
        cross_validate(cohort.manifest, tmp_path / "cv", both, cohort.cache)
    assert (tmp_path / "cv" / RESNET / CROSSVAL_FILE).is_file()
    assert not (tmp_path / "cv" / "timm_test_efficientnet" / "predictions.parquet").exists()
    first = (tmp_path / "cv" / RESNET / "crossval.json").read_bytes()
    found = cross_validate(cohort.manifest, tmp_path / "cv", both, cohort.cache)
    assert (tmp_path / "cv" / RESNET / "crossval.json").read_bytes() == first
    assert list(found) == [RESNET, "timm_test_efficientnet"]
    pd.testing.assert_frame_equal(found[RESNET].table, Predictions.load(out / RESNET).table)


@pytest.mark.parametrize(
    ("changes", "training", "differing", "then", "now"),
    [
        ({"repeats": 3}, {}, "crossval.repeats", "2", "3"),
        ({}, {"dropout": 0.5}, "settings.dropout", "0.2", "0.5"),
        ({}, {"decision": DecisionSettings(neighbours=3)}, "settings.decision", None, None),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(
    out: Path, cohort: Any, settings: CrossvalSettings, changes: dict[str, Any], training: dict[str, Any],
    differing: str, then: str | None, now: str | None,
) -> None:  # fmt: skip
    other = settings.model_copy(update={**changes, "train": settings.train.model_copy(update=training)})
    with pytest.raises(RunError) as caught:
        cross_validate(cohort.manifest, out, other, cohort.cache)
    assert caught.value.what == f"{out / RESNET} was made with other {differing}."
    if then is not None:
        assert caught.value.expected == f"the {differing} that it was started with: {then}"
        assert caught.value.received == now


def test_another_network_of_other_folds_in_the_same_folder_is_refused(
    out: Path, cohort: Any, settings: CrossvalSettings
) -> None:
    other = settings.model_copy(update={"architectures": (TINY_EFFICIENTNET,), "seed": 9})
    with pytest.raises(RunError) as caught:
        cross_validate(cohort.manifest, out, other, cohort.cache)
    path = out / "splits-0.parquet"
    assert caught.value.what == f"{path} was made of other data, another seed or another number of folds."
    assert caught.value.received == "cross-validated by subject, 3 folds × 2 seeds, seed 9"
    assert Splits.load(path).record["seed"] == 4
    assert not (out / "timm_test_efficientnet").exists()


# By image


def test_cross_validation_by_image_is_called_optimistic(
    cohort: Any, settings: CrossvalSettings, tmp_path: Path
) -> None:
    by_image = settings.model_copy(update={"strategy": "image", "repeats": 1, "tta": False})
    predictions = cross_validate(cohort.manifest, tmp_path / "image", by_image, cohort.cache)[RESNET]
    assert predictions.record["optimistic"] is True
    assert predictions.record["split_label"] == "cross-validated by image: optimistic, 3 folds × 1 seed"
    table = predictions.table
    assert sorted(table.loc[table["side"] == "test", "image"]) == sorted(cohort.manifest.images["image"])
    assert table.groupby(["fold", "group"])["side"].nunique().max() == 2


# What is refused before anything is done


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"architectures": (TINY_RESNET, "no_net")}, SettingsError), ({"folds": 7}, SplitError)],
)
def test_names_and_folds_are_checked_first(
    cohort: Any, settings: CrossvalSettings, tmp_path: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        cross_validate(cohort.manifest, tmp_path / "cv", settings.model_copy(update=changes), cohort.cache)
    assert not (tmp_path / "cv").exists()


def test_too_many_folds_name_two_ways_on(cohort: Any, settings: CrossvalSettings, tmp_path: Path) -> None:
    with pytest.raises(SplitError) as caught:
        cross_validate(cohort.manifest, tmp_path / "cv", settings.model_copy(update={"folds": 7}), cohort.cache)
    name = caught.value.what.split()[1]
    assert str(caught.value) == (
        f"Class {name} cannot be put on every side of 7 folds.\n"
        f"  expected: at least 7 subject groups of {name}\n"
        "  received: 6\n"
        f"  remedy:   add subjects of {name}, or say --folds 6, or say --strategy image (its results are optimistic), or "
        "leave the cross-validation out of `leukolens compare`: --folds 0"
    )


def test_unknown_subjects_are_not_blamed_on_the_folds(cohort: Any, settings: CrossvalSettings, tmp_path: Path) -> None:
    unknown = cohort.manifest.images.assign(subject=pd.NA, group=pd.NA)
    with pytest.raises(SplitError, match=r"^The data set has no subjects\.") as caught:
        cross_validate(Manifest(unknown, cohort.manifest.record), tmp_path / "cv", settings, cohort.cache)
    assert caught.value.remedy == "say --strategy image (its results are optimistic)"


# Features for others


def test_feature_table_is_that_of_the_frozen_backbone_and_shares_the_cache(
    out: Path, cohort: Any, settings: CrossvalSettings, pixels: PixelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = settings.train.model_copy(update={"seed": 4})
    backbone = crossvalidation.frozen_extractor(
        cohort.manifest, own.model_copy(update={"architecture": TINY_RESNET})
    ).classifier
    some = sorted(cohort.manifest.images["image"])[3:5][::-1]
    with torch.inference_mode():
        wanted = backbone.features(to_levels(pixels.pixels[pixels.rows_of(some)], "cpu")).numpy()
    monkeypatch.setattr(Classifier, "features", refuse)
    table = frozen_feature_table(cohort.manifest, TINY_RESNET, own, cohort.cache)
    assert table.index.tolist() == sorted(cohort.manifest.images["image"])
    assert set(table.dtypes) == {np.dtype("float32")}
    np.testing.assert_allclose(table.loc[some].to_numpy(), wanted, rtol=1e-3, atol=1e-4)
    two = frozen_feature_table(cohort.manifest, TINY_RESNET, own, cohort.cache, some)
    assert two.index.tolist() == some


def test_features_of_another_treatment_are_computed_of_other_pixels(cohort: Any, settings: CrossvalSettings) -> None:
    plain = frozen_feature_table(cohort.manifest, TINY_RESNET, settings.train, cohort.cache)
    cell = settings.train.model_copy(update={"input": InputSettings(crop="cell")})
    cropped = frozen_feature_table(cohort.manifest, TINY_RESNET, cell, cohort.cache)
    assert cropped.index.equals(plain.index)
    assert float((cropped - plain).abs().max().max()) > 0.01


def test_folder_names_hold_no_separators() -> None:
    assert folder_name("timm:hf_hub:x/y") == "timm_hf_hub_x_y"
    assert folder_name("resnet50") == "resnet50"


def test_cache_lies_beside_the_folder_unless_told_otherwise(
    cohort: Any, settings: CrossvalSettings, tmp_path: Path
) -> None:
    few = settings.model_copy(update={"repeats": 1, "tta": False})
    cross_validate(str(cohort.results), str(tmp_path / "cv"), few)
    assert len(list((tmp_path / "cache").glob("features-*"))) == 1


# Options of the training


def test_heads_on_all_views_are_those_that_train_fits(cohort: Any, settings: CrossvalSettings, tmp_path: Path) -> None:
    options = {"head_views": 8, "head_solver": "lbfgs", "pooling": "max_mean"}
    wanted = settings.model_copy(update={"repeats": 1, "train": settings.train.model_copy(update=options)})
    found = cross_validate(cohort.manifest, tmp_path / "cv", wanted, cohort.cache)
    splits = Splits.load(tmp_path / "cv" / "splits-0.parquet")
    own = wanted.train.model_copy(update={"architecture": TINY_RESNET, "seed": 4, "fold": 1})
    run = train(cohort.manifest, splits, tmp_path / "run", own, cohort.cache)
    for name, tta in ((RESNET, False), (f"{RESNET}+tta", True)):
        alone = predict(run, cohort.manifest, splits, tmp_path / name, cohort.cache, PredictSettings(tta=tta)).table
        rows = found[name].table[found[name].table["fold"] == 1].reset_index(drop=True)
        np.testing.assert_allclose(scores_of(rows), scores_of(alone), atol=1e-4)
        # Eight views were computed, and each counts once.
        assert found[name].record["seconds"] == pytest.approx(found[RESNET].record["seconds"])


def test_fine_tuned_folds_take_every_option(cohort: Any, settings: CrossvalSettings, tmp_path: Path) -> None:
    options = {"finetune_epochs": 2, "batch_size": 32, "swa_epochs": 2, "mixup_alpha": 0.2, "label_smoothing": 0.1,
               "pooling": "gem", "head_solver": "lbfgs"}  # fmt: skip
    wanted = settings.model_copy(update={"repeats": 1, "tta": False, "train": settings.train.model_copy(update=options)})
    found = cross_validate(cohort.manifest, tmp_path / "cv", wanted, cohort.cache)
    assert np.isfinite(scores_of(found[RESNET].table)).all()
    record = read_json(tmp_path / "cv" / RESNET / "repeat-0" / "fold-2" / "run.json")
    assert record["settings"] | options == record["settings"]


def test_settings_that_do_not_name_epochs_keep_the_backbone_frozen() -> None:
    assert CrossvalSettings.model_validate({"train": {"dropout": 0.1}}).train.finetune_epochs == 0
    assert CrossvalSettings.model_validate({"train": {"finetune_epochs": 4}}).train.finetune_epochs == 4
    assert CrossvalSettings(train=TrainSettings()).train.finetune_epochs == TrainSettings().finetune_epochs
