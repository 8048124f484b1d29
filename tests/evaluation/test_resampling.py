"""Weighted figures against scikit-learn on rows counted several times, and what a resample keeps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sklearn import metrics as sk

from leukolens.evaluation.calibration import ece_equal_mass, event_of
from leukolens.evaluation.metrics import auroc_within_folds, measure, scored_of
from leukolens.evaluation.resampling import Clusters, areas, measured_figures, resample, resampled_figures
from leukolens.settings import EvaluateSettings

SMEARS = ("Benign", "Early", "Pre", "Pro")
SETTINGS = EvaluateSettings(resamples=400, seed=3)


def scored_table(true, scores, groups, classes=("HEM", "ALL"), repeat=0) -> pd.DataFrame:
    true, scores = np.asarray(true), np.asarray(scores, float)
    table = pd.DataFrame({"image": [f"cell-{row:03}" for row in range(len(true))], "group": groups, "repeat": repeat,
                          "y_true": np.array(classes)[true], "y_pred": np.array(classes)[scores.argmax(axis=1)]})  # fmt: skip
    return table.assign(**{f"score_{name}": scores[:, column] for column, name in enumerate(classes)})


def random_table(seed: int, images: int = 60, classes: int = 2, groups: int = 12) -> tuple[pd.DataFrame, dict]:
    """Scores of one decimal, so that many are tied; groups of one class each, every class in at least two."""
    random = np.random.default_rng(seed)
    names = ("HEM", "ALL") if classes == 2 else SMEARS[:classes]
    group = np.concatenate([np.arange(groups), random.integers(0, groups, images - groups)])
    scores = random.dirichlet(np.ones(classes), images).round(1)
    table = scored_table(group % classes, scores, [f"g{each:02}" for each in group], names)
    return table, {"classes": list(names), "positive": list(names[1:])}


def counted(table: pd.DataFrame, weights: np.ndarray, clusters: Clusters) -> pd.DataFrame:
    return table.loc[np.repeat(table.index.to_numpy(), weights[clusters.of_row])]


@examples(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 4))
def test_integer_weights_count_every_image_so_many_times(seed: int, classes: int):
    table, record = random_table(seed, classes=classes)
    clusters = Clusters.of(table)
    weights = np.random.default_rng(seed).integers(0, 4, (3, 12))
    figures = resampled_figures(table, record, weights.astype(float), clusters)
    for row, weight in enumerate(weights):
        if not weight.any():
            continue
        scored = scored_of(counted(table, weight, clusters), record)
        expected = {name: value for name, value in measure(scored).items() if name in figures}
        assert len(expected) == (13 if classes == 2 else 15)
        for name, value in expected.items():
            assert figures[name][row] == pytest.approx(np.nan if value is None else value, nan_ok=True), name
        score, event = event_of(scored)
        assert figures["brier"][row] == pytest.approx(np.mean((score - event) ** 2))


@examples(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_areas_equal_scikit_learns_with_sample_weight(seed: int):
    random = np.random.default_rng(seed)
    truth, score = random.permutation(40) < 15, random.integers(0, 6, 40) / 5
    weights = random.integers(0, 3, (4, 10)) * random.random((4, 10))
    of_row = random.integers(0, 10, 40)
    figures = areas(truth, score, weights, of_row)
    for row, weight in enumerate(weights[:, of_row]):
        if weight[truth].any() and weight[~truth].any():
            assert figures["auroc"][row] == pytest.approx(sk.roc_auc_score(truth, score, sample_weight=weight))
            expected = sk.average_precision_score(truth, score, sample_weight=weight)
            assert figures["auprc"][row] == pytest.approx(expected)
        else:
            assert np.isnan(figures["auroc"][row]) and np.isnan(figures["auprc"][row])


@examples(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_auroc_within_folds_of_a_resample_is_that_of_the_rows_counted_so_often(seed: int):
    table, record = random_table(seed)
    table = table.assign(fold=np.random.default_rng(seed).integers(0, 4, len(table)))
    clusters = Clusters.of(table)
    weights = np.random.default_rng(seed).integers(0, 4, (3, 12))
    within = resampled_figures(table, record, weights.astype(float), clusters)["auroc_within_folds"]
    for row, weight in enumerate(weights):
        rows = counted(table, weight, clusters)
        truth, score = (rows["y_true"] == "ALL").to_numpy(), rows["score_ALL"].to_numpy()
        expected = auroc_within_folds(truth, score, rows["fold"].to_numpy())
        assert within[row] == pytest.approx(np.nan if expected is None else expected, nan_ok=True)


def test_auroc_within_folds_stands_only_where_there_are_several_and_is_the_mean_over_repeats():
    table, record = random_table(3)
    assert "auroc_within_folds" not in measured_figures(table.assign(fold=1), record)
    fold = np.arange(len(table)) % 3
    twice = pd.concat([table.assign(fold=fold), table.assign(fold=(fold + 1) // 2, repeat=1)])
    truth, score = (table["y_true"] == "ALL").to_numpy(), table["score_ALL"].to_numpy()
    areas_of_repeats = [auroc_within_folds(truth, score, fold), auroc_within_folds(truth, score, (fold + 1) // 2)]
    assert measured_figures(twice, record)["auroc_within_folds"] == pytest.approx(np.mean(areas_of_repeats))
    assert measured_figures(twice, {**record, "positive": []})["auroc_within_folds"] is None


def test_areas_do_not_hang_on_how_many_resamples_are_summed_at_once(monkeypatch):
    random = np.random.default_rng(0)
    arguments = (random.random(50) < 0.5, random.random(50), random.random((7, 50)), np.arange(50))
    at_once = areas(*arguments)
    monkeypatch.setattr("leukolens.evaluation.resampling._CHUNK_NUMBERS", 150)
    assert areas(*arguments)["auroc"].tolist() == at_once["auroc"].tolist()


@pytest.mark.parametrize("positive", [["ALL"], []])
def test_calibration_error_is_that_of_the_room_calibration(positive: list[str]):
    table, record = random_table(5, images=300)
    record["positive"] = positive
    score, event = event_of(scored_of(table, record))
    assert measured_figures(table, record)["ece"] == pytest.approx(ece_equal_mass(score, event))


def test_calibration_error_of_a_resample_keeps_the_bins_of_the_sample():
    # 40 images make two bins of 20: scores 0.2 of which 5 are ALL, scores 0.8 of which 10 are.
    true = [1] * 5 + [0] * 15 + [1] * 10 + [0] * 10
    groups = ["a"] * 5 + ["b"] * 15 + ["c"] * 10 + ["d"] * 10
    table = scored_table(true, [[0.8, 0.2]] * 20 + [[0.2, 0.8]] * 20, groups)
    weights = np.array([[1.0, 1, 1, 1], [3, 1, 1, 0]])
    record = {"classes": ["HEM", "ALL"], "positive": ["ALL"]}
    ece = resampled_figures(table, record, weights, Clusters.of(table))["ece"]
    # First: |20·0.2 − 5| + |20·0.8 − 10| of 40. Then: |30·0.2 − 15| + |10·0.8 − 10| of 40.
    assert ece == pytest.approx([(1 + 6) / 40, (9 + 2) / 40])


def test_without_a_positive_class_brier_is_the_sum_over_classes():
    table = scored_table([0, 2], [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], ["a", "b"], SMEARS[:3])
    figures = measured_figures(table, {"classes": list(SMEARS[:3]), "positive": []})
    assert figures["brier"] == pytest.approx((0.25 + 0.09 + 0.04 + 0.01 + 0.01 + 0.04) / 2)
    assert figures["sensitivity"] is None and figures["auroc"] is None
    assert figures["auroc_macro_ovr"] is None  # no image is of class Early


def test_figures_are_the_mean_over_repeats():
    one, record = random_table(1)
    other = random_table(2)[0].assign(repeat=1, group=one["group"], y_true=one["y_true"])
    clusters = Clusters.of(one)
    weights = resample(clusters, SETTINGS)
    both = pd.concat([one, other], ignore_index=True)
    together = resampled_figures(both, record, resample(Clusters.of(both), SETTINGS), Clusters.of(both))
    apart = [resampled_figures(each, record, weights, clusters) for each in (one, other)]
    for name, values in together.items():
        assert values == pytest.approx((apart[0][name] + apart[1][name]) / 2), name


def test_two_tables_of_the_same_images_share_clusters_and_weights():
    table, record = random_table(4)
    shuffled = table.sample(frac=1, random_state=0)
    first, second = Clusters.of(table), Clusters.of(shuffled)
    weights = resample(first, SETTINGS)
    assert np.array_equal(weights, resample(second, SETTINGS))
    one = resampled_figures(table, record, weights, first)
    other = resampled_figures(shuffled, record, weights, second)
    assert all(one[name] == pytest.approx(other[name]) for name in one)


def test_the_seed_decides_the_weights():
    clusters = Clusters.of(random_table(4)[0])
    again = resample(clusters, EvaluateSettings(resamples=400, seed=3))
    other = resample(clusters, EvaluateSettings(resamples=400, seed=4))
    assert np.array_equal(resample(clusters, SETTINGS), again)
    assert not np.array_equal(again, other)


def test_every_resample_keeps_the_images_of_each_class():
    table, _ = random_table(7, images=90, classes=3)
    clusters = Clusters.of(table)
    weights = resample(clusters, SETTINGS)
    assert weights.shape == (400, 12)
    kept = weights @ clusters.images
    assert kept == pytest.approx(np.broadcast_to(clusters.images.sum(axis=0), kept.shape))


def test_n_minus_one_of_n_clusters_are_drawn():
    groups = [f"g{each}" for each in range(6)]
    table = scored_table([0, 0, 0, 0, 1, 1], [[0.5, 0.5]] * 6, groups)
    weights = resample(Clusters.of(table), EvaluateSettings(resamples=4000))
    # Of stratum ALL g0..g3: 3 draws that count 4/3; of stratum HEM g4, g5: one draw that counts 2.
    assert set(np.round(weights[:, :4] * 3 / 4, 9).ravel()) == {0, 1, 2, 3}
    assert set(weights[:, 4:].ravel()) == {0, 2}
    # Rao & Wu: a mean over n clusters varies by s^2 / n; weights uncorrelated with y vary by n / (n - 1) · (1 - 1/n) = 1.
    assert weights[:, :4].var() == pytest.approx(1, abs=0.05)


def test_clusters_count_each_image_once_however_many_repeats():
    table = scored_table([0, 0, 0, 1, 1, 1], [[0.5, 0.5]] * 6, ["a", "a", "b", "c", "c", "c"])
    twice = pd.concat([table, table.assign(repeat=1)])
    clusters = Clusters.of(twice)
    assert clusters.groups == {"ALL": 1, "HEM": 2}
    assert clusters.sizes.tolist() == [2, 1, 3]
    assert clusters.effective_groups == pytest.approx({"ALL": 1, "HEM": 3**2 / (2**2 + 1)})
    assert clusters.names == ("ALL", "HEM") and clusters.unit == "subject group"


def test_images_without_a_group_are_clusters_of_their_own():
    table = scored_table([0, 0, 1, 1], [[0.5, 0.5]] * 4, ["a", None, "b", None])
    some = Clusters.of(table)
    assert (some.unit, some.unknown, len(some.stratum)) == ("subject group", 2, 4)
    none = Clusters.of(table.assign(group=None))
    assert (none.unit, none.unknown, len(none.stratum)) == ("image", 4, 4)


def test_groups_of_several_classes_form_a_stratum_where_they_are_enough():
    groups = [f"m{each}" for each in range(5) for _ in range(3)] + [f"h{each}" for each in range(3)]
    table = scored_table([0, 1, 1] * 5 + [0] * 3, [[0.5, 0.5]] * 18, groups)
    assert Clusters.of(table).names == ("ALL+HEM", "HEM")
    few = Clusters.of(table[table["group"] != "m0"])
    assert few.names == ("ALL", "HEM") and few.stratum.tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert few.groups == {"ALL": 4, "HEM": 7}


def test_a_lone_cluster_keeps_its_weight():
    table = scored_table([0, 0, 1, 1], [[0.5, 0.5]] * 4, ["a", "b", "c", "c"])
    assert set(resample(Clusters.of(table), SETTINGS)[:, 2]) == {1}
