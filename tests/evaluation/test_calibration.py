"""Calibration error, Brier score and its parts: worked by hand, against naive code and scikit-learn, over repeats and folds."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import brier_score_loss

from leukolens.evaluation.calibration import (
    MAX_BINS,
    bins_for,
    brier_decomposition,
    brier_of_images,
    brier_parts,
    calibration_figures,
    ece_equal_mass,
    equal_mass_bins,
    event_of,
    reliability_bins,
    uncalibrated,
)
from leukolens.evaluation.metrics import Scored

TWO = {"classes": ["HEM", "ALL"], "positive": ["ALL"], "decisions": []}
SMEARS = ("Benign", "Early", "Pre")


def table_of(true: np.ndarray, scores: np.ndarray, classes=("HEM", "ALL"), **columns) -> pd.DataFrame:
    names = np.array(classes)
    table = pd.DataFrame({"image": [f"{row}.bmp" for row in range(len(true))], "repeat": 0, "fold": 0, "side": "test",
                          "y_true": names[true], "y_pred": names[scores.argmax(axis=1)]})  # fmt: skip
    for index, name in enumerate(classes):
        table[f"score_{name}"] = scores[:, index]
    return table.assign(**columns)


def two_class(seed: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    score = random.uniform(size=images)
    return (random.uniform(size=images) < score).astype(int), np.column_stack([1 - score, score])


def naive_ece(score, truth, bins: int) -> float:
    """Without ties and with a whole number of images per bin, equal-mass bins are the cuts of the sorted list."""
    pairs = sorted(zip(score.tolist(), truth.tolist(), strict=True))
    size, error = len(pairs) // bins, 0.0
    for start in range(0, len(pairs), size):
        members = pairs[start : start + size]
        error += abs(sum(p for p, _ in members) - sum(t for _, t in members))
    return error / len(pairs)


def test_hand_worked_error():
    score = np.array([0.1, 0.3, 0.6, 0.8])
    truth = np.array([False, True, True, True])
    # Two bins: mean score 0.2 against share 0.5, 0.7 against 1: (0.3 + 0.3) / 2
    assert ece_equal_mass(score, truth, bins=2) == pytest.approx(0.3)
    # Four bins: 0.1, 0.7, 0.4, 0.2 apart.
    assert ece_equal_mass(score, truth, bins=4) == pytest.approx(1.4 / 4)
    # One bin: 0.45 against 0.75.
    assert ece_equal_mass(score, truth, bins=1) == pytest.approx(0.3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), per_bin=st.integers(1, 12), bins=st.integers(1, 15))
def test_equal_to_a_naive_implementation(seed: int, per_bin: int, bins: int):
    random = np.random.default_rng(seed)
    score, truth = random.uniform(size=per_bin * bins), random.uniform(size=per_bin * bins) < 0.4
    assert ece_equal_mass(score, truth, bins) == pytest.approx(naive_ece(score, truth, bins))


def test_ties_are_never_torn_and_the_order_of_rows_does_not_matter():
    score = np.array([0.2, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9])
    truth = np.array([False, True, False, True, False, True, False, True])
    assert len(set(equal_mass_bins(score, 4)[1:7])) == 1
    # 0.2 below; the six ties are right on average; 0.9 above: gaps 0.2, 0, 0.1.
    assert ece_equal_mass(score, truth, 4) == pytest.approx(0.3 / 8)
    shuffled = np.random.default_rng(1).permutation(8)
    assert ece_equal_mass(score[shuffled], truth[shuffled], 4) == ece_equal_mass(score, truth, 4)


def test_bins_hold_as_equal_numbers_as_can_be():
    counts = np.bincount(equal_mass_bins(np.random.default_rng(0).uniform(size=233), 10))
    assert len(counts) == 10
    assert set(counts) == {23, 24}


def test_one_score_only():
    truth = np.array([True, False, False, False])
    assert ece_equal_mass(np.full(4, 0.75), truth, 10) == pytest.approx(0.5)
    assert reliability_bins(np.full(4, 0.75), truth) == [
        {"low": 0.75, "high": 0.75, "mean_score": 0.75, "share_positive": 0.25, "images": 4}
    ]
    parts = brier_decomposition(np.full(4, 0.75), truth, 10)
    assert (parts.reliability, parts.resolution, parts.uncertainty) == pytest.approx((0.25, 0, 3 / 16))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_whole_weights_are_repeated_images(seed: int):
    random = np.random.default_rng(seed)
    score, truth, weights = random.uniform(size=60).round(2), random.uniform(size=60) < 0.5, random.integers(0, 4, 60)
    weights[0] = 1
    repeated = ece_equal_mass(np.repeat(score, weights), np.repeat(truth, weights), 5)
    assert ece_equal_mass(score, truth, 5, weights.astype(float)) == pytest.approx(repeated)


def test_no_weight_is_undefined():
    assert np.isnan(ece_equal_mass(np.array([0.2]), np.array([True]), weights=np.zeros(1)))


@pytest.mark.parametrize(("images", "bins"), [(0, 1), (19, 1), (20, 1), (40, 2), (199, 9), (200, 10), (10_000, 10)])
def test_fewer_bins_for_few_images(images, bins):
    assert bins_for(images) == bins


def test_reliability_bins_worked_by_hand():
    bins = reliability_bins(np.array([0.8, 0.1, 0.6, 0.3]), np.array([True, False, False, True]), 2)
    assert [entry["images"] for entry in bins] == [2, 2]
    assert [(entry["low"], entry["high"]) for entry in bins] == [(0.1, 0.3), (0.6, 0.8)]
    assert [entry["mean_score"] for entry in bins] == pytest.approx([0.2, 0.7])
    assert [entry["share_positive"] for entry in bins] == [0.5, 0.5]


def test_brier_parts_worked_by_hand():
    score, truth = np.array([0.2, 0.2, 0.8, 0.8]), np.array([False, True, True, True])
    # Bins of one score each: 0.2 against 1/2, 0.8 against 1; rate 3/4.
    parts = brier_decomposition(score, truth, 2)
    assert parts.reliability == pytest.approx((0.3**2 + 0.2**2) / 2)
    assert parts.resolution == pytest.approx(0.25**2)
    assert parts.uncertainty == pytest.approx(3 / 16)
    assert parts.within_bins == pytest.approx(0)
    assert parts.brier == pytest.approx((0.04 + 0.64 + 0.04 + 0.04) / 4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), images=st.integers(1, 90), bins=st.integers(1, 12), decimals=st.integers(1, 6))
def test_the_parts_add_up_and_the_whole_is_scikit_learns(seed: int, images: int, bins: int, decimals: int):
    random = np.random.default_rng(seed)
    score, truth = random.uniform(size=images).round(decimals), random.uniform(size=images) < 0.5
    parts = brier_decomposition(score, truth, bins)
    whole = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins
    assert parts.brier == pytest.approx(whole, abs=1e-12)
    assert parts.brier == pytest.approx(brier_score_loss(truth, score, labels=[False, True]))
    # One bin per distinct score: Murphy's identity, without a rest.
    assert brier_decomposition(score, truth, images).within_bins == pytest.approx(0, abs=1e-12)


def test_without_a_positive_class_the_highest_score_and_all_classes_count():
    random = np.random.default_rng(2)
    scores, true = random.dirichlet(np.ones(3), 120), random.integers(0, 3, 120)
    scored = Scored(SMEARS, (), true, scores.argmax(axis=1), scores)
    score, truth = event_of(scored)
    assert score.tolist() == scores.max(axis=1).tolist()
    assert truth.tolist() == (scores.argmax(axis=1) == true).tolist()
    expected = brier_score_loss(true, scores, labels=[0, 1, 2], scale_by_half=False)
    assert brier_of_images(scored).mean() == pytest.approx(expected)
    parts = brier_parts(scored)
    assert parts.brier == pytest.approx(expected)
    assert parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins == pytest.approx(expected)


def test_several_positive_classes_are_one_event():
    scores = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    scored = Scored(SMEARS, SMEARS[1:], np.array([2, 1]), np.array([2, 0]), scores)
    score, truth = event_of(scored)
    assert score == pytest.approx([0.8, 0.4])
    assert truth.tolist() == [True, True]
    assert brier_of_images(scored) == pytest.approx([0.04, 0.36])


def test_the_temperature_is_taken_out_fold_by_fold():
    random = np.random.default_rng(3)
    logits, true = random.normal(0, 4, (40, 2)), random.integers(0, 2, 40)
    temperature = {(0, 0): 0.5, (0, 1): 3.0, (1, 0): 1.0, (1, 1): 2.0}
    repeat, fold = np.arange(40) // 20, np.arange(40) % 2
    each = np.array([temperature[key] for key in zip(repeat.tolist(), fold.tolist(), strict=True)])
    table = table_of(true, softmax(logits / each[:, None], axis=1), repeat=repeat, fold=fold)
    decisions = [{"repeat": r, "fold": f, "temperature": t} for (r, f), t in temperature.items()]
    record = {**TWO, "decisions": decisions}
    assert uncalibrated(table, record) == pytest.approx(softmax(logits, axis=1))
    assert uncalibrated(table, {**TWO, "decisions": decisions[:3]}) is None
    figures = calibration_figures(table, record)
    raw = softmax(logits, axis=1)[:, 1]
    assert figures["brier_uncalibrated"] == pytest.approx(brier_score_loss(true, raw))
    halves = [ece_equal_mass(raw[repeat == part], true[repeat == part] > 0) for part in (0, 1)]
    assert figures["ece_uncalibrated"] == pytest.approx(np.mean(halves))
    assert figures["decisions"] == decisions
    partly = calibration_figures(table, {**TWO, "decisions": decisions[:3]})
    assert (partly["ece_uncalibrated"], partly["brier_uncalibrated"]) == (None, None)
    assert partly["notes"][0] == "Some folds have no temperature on record: the scores before calibration are not known."


def test_scores_of_0_and_1_survive_the_way_back():
    table = table_of(np.array([1, 0]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    raw = uncalibrated(table, {**TWO, "decisions": [{"repeat": 0, "fold": 0, "temperature": 2.5}]})
    assert raw == pytest.approx(np.array([[0.0, 1.0], [1.0, 0.0]]))


def test_figures_over_repeats_are_means_and_bins_are_of_the_first():
    parts = [two_class(seed, 200) for seed in (4, 5)]
    table = pd.concat([table_of(*part, repeat=number) for number, part in enumerate(parts)], ignore_index=True)
    figures = calibration_figures(table, TWO)
    single = [calibration_figures(table_of(*part), TWO) for part in parts]
    for name in ("ece", "brier", "reliability", "resolution", "uncertainty", "within_bins"):
        assert figures[name] == pytest.approx((single[0][name] + single[1][name]) / 2)
    assert figures["bins"] == single[0]["bins"]
    assert sum(entry["images"] for entry in figures["bins"]) == 200
    assert len(figures["bins"]) == MAX_BINS
    assert figures["notes"] == ["No temperature was fitted: scores are taken as they came."]
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_calibrated_scores_have_a_small_error_and_pushed_ones_a_large_one():
    true, scores = two_class(6, 4000)
    assert calibration_figures(table_of(true, scores), TWO)["ece"] < 0.03
    pushed = scores**4 / (scores**4).sum(axis=1, keepdims=True)
    assert calibration_figures(table_of(true, pushed), TWO)["ece"] > 0.1


def test_notes_say_fewer_bins_and_no_positive_class():
    random = np.random.default_rng(7)
    scores = random.dirichlet(np.ones(3), 50)
    table = table_of(random.integers(0, 3, 50), scores, SMEARS)
    record = {"classes": list(SMEARS), "positive": [], "decisions": [{"repeat": 0, "fold": 0, "temperature": 1.0}]}
    figures = calibration_figures(table, record)
    assert figures["ece"] == pytest.approx(figures["ece_uncalibrated"])
    assert figures["notes"] == [
        "No positive class is named: the calibration error is that of the highest score, and the Brier score is summed over "
        "the classes (0 to 2).",
        "2 bins instead of 10: 50 images leave fewer than 20 for each.",
    ]
