"""Intervals against textbook values, the words where there is none, and the coverage benchmark's smoke test."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from leukolens.errors import ArtifactError
from leukolens.evaluation.intervals import cautions, figure_intervals, interval_of, refusal
from leukolens.evaluation.metrics import measure, scored_of
from leukolens.evaluation.resampling import Clusters, measured_figures, resample, resampled_figures
from leukolens.settings import EvaluateSettings

RECORD = {"classes": ["HEM", "ALL"], "positive": ["ALL"]}
SETTINGS = EvaluateSettings(resamples=2000, minimum_groups=5)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# ALL images per subject group of the 330-cell sample.
DOMINATED = (113, 19, 4, 3, 3, 3, 3, 2, 2, 2, 2, *[1] * 12)


def cells(all_sizes, hem_sizes, seed: int = 0, right: float | None = None) -> pd.DataFrame:
    """Draw scores with subject effects; `right` gives every cell that score of its true class instead."""
    random = np.random.default_rng(seed)
    sizes = [*all_sizes, *hem_sizes]
    group = np.repeat(np.arange(len(sizes)), sizes)
    positive = group < len(all_sizes)
    latent = np.where(positive, 1.0, -1.0) + random.normal(0, 0.6, len(sizes))[group] + random.normal(0, 1, len(group))
    score = 1 / (1 + np.exp(-latent)) if right is None else np.where(positive, right, 1 - right)
    return pd.DataFrame({
        "image": [f"{cell:05}" for cell in range(len(group))],
        "group": [f"g{each:03}" for each in group],
        "repeat": 0,
        "y_true": np.where(positive, "ALL", "HEM"),
        "y_pred": np.where(score >= 0.5, "ALL", "HEM"),
        "score_HEM": 1 - score,
        "score_ALL": score,
    })  # fmt: skip


def shares_of(table: pd.DataFrame, label: str) -> tuple[np.ndarray, float]:
    """Share of right images in each group of one class, and overall."""
    rows = table[table["y_true"] == label]
    right = rows["y_true"] == rows["y_pred"]
    return right.groupby(rows["group"]).mean().to_numpy(), float(right.mean())


def test_groups_of_one_size_give_the_textbook_interval_of_a_mean():
    # With n groups of equal size a rate of one class is a mean of n values: mean ± t(n - 1) · s / sqrt(n).
    table = cells([20] * 15, [20] * 9)
    clusters = Clusters.of(table)
    settings = EvaluateSettings(resamples=20_000)
    samples = resampled_figures(table, RECORD, resample(clusters, settings), clusters)
    for label, figure in (("ALL", "sensitivity"), ("HEM", "specificity")):
        shares, rate = shares_of(table, label)
        n = len(shares)
        reach = student.ppf(0.975, n - 1) * shares.std(ddof=1) / math.sqrt(n)
        assert interval_of(samples[figure], rate, clusters, settings) == pytest.approx((rate - reach, rate + reach), abs=0.002)
        step, logit = reach / (rate * (1 - rate)), math.log(rate / (1 - rate))
        expected = tuple(1 / (1 + math.exp(-end)) for end in (logit - step, logit + step))
        assert interval_of(samples[figure], rate, clusters, settings, figure) == pytest.approx(expected, abs=0.002)


def test_one_dominating_group_widens_its_own_class_only():
    """The percentiles of the resamples are far too narrow there; specificity stays what the even class allows."""
    table = cells(DOMINATED, [15] * 11)
    clusters = Clusters.of(table)
    samples = resampled_figures(table, RECORD, resample(clusters, SETTINGS), clusters)
    figures = measured_figures(table, RECORD)
    width = {}
    for name in ("sensitivity", "specificity"):
        low, high = interval_of(samples[name], figures[name], clusters, SETTINGS, name)
        first, last = np.quantile(samples[name], [0.025, 0.975])
        width[name] = (high - low) / (last - first)
    assert width["sensitivity"] > 1.7
    assert 1 < width["specificity"] < 1.5


@pytest.mark.parametrize("seed", range(8))
def test_every_interval_holds_its_estimate_and_stays_in_range(seed: int):
    random = np.random.default_rng(seed)
    table = cells(random.integers(1, 30, 12), random.integers(1, 30, 7), seed)
    figures, result = measured_figures(table, RECORD), figure_intervals(table, RECORD, SETTINGS)
    assert result["unit"] == "subject group" and result["groups"] == {"ALL": 12, "HEM": 7}
    assert set(result["intervals"]) == set(figures)
    for name, (low, high) in result["intervals"].items():
        assert (-1 if name == "mcc" else 0) <= low < figures[name] < high <= 1, name


def test_every_scalar_figure_has_an_interval():
    table = cells([10] * 8, [10] * 8)
    scalars = {name for name, value in measure(scored_of(table, RECORD)).items() if isinstance(value, float)}
    intervals = figure_intervals(table, RECORD, SETTINGS)["intervals"]
    assert scalars | {"ece", "brier"} == set(intervals)
    assert None not in intervals.values()


def test_auroc_within_folds_has_an_interval_of_its_own():
    table = cells([10] * 8, [10] * 8)
    fold = pd.factorize(table["group"])[0] % 4
    folded = figure_intervals(table.assign(fold=fold), RECORD, SETTINGS)["intervals"]
    value = measured_figures(table.assign(fold=fold), RECORD)["auroc_within_folds"]
    low, high = folded["auroc_within_folds"]
    assert 0.5 < low < value < high < 1
    assert folded["auroc"] == figure_intervals(table, RECORD, SETTINGS)["intervals"]["auroc"]


def test_higher_confidence_is_wider_and_the_seed_decides():
    table = cells([10] * 8, [10] * 8)
    wide = figure_intervals(table, RECORD, EvaluateSettings(confidence=0.99))["intervals"]["auroc"]
    usual = figure_intervals(table, RECORD, EvaluateSettings())["intervals"]["auroc"]
    assert wide[0] < usual[0] < usual[1] < wide[1]
    assert figure_intervals(table, RECORD, EvaluateSettings())["intervals"]["auroc"] == usual
    assert figure_intervals(table, RECORD, EvaluateSettings(seed=1))["intervals"]["auroc"] != usual


def test_a_class_of_one_group_is_refused_by_name():
    result = figure_intervals(cells([5] * 9, [40]), RECORD, SETTINGS)
    assert result["note"] == "No interval: HEM has 1 subject group; an interval needs 5 of each class."
    assert set(result["intervals"].values()) == {None}


def test_every_class_of_too_few_groups_is_named():
    clusters = Clusters.of(cells([5] * 4, [40, 3]))
    assert refusal(clusters, SETTINGS) == (
        "No interval: ALL has 4 subject groups; HEM has 2 subject groups; an interval needs 5 of each class."
    )
    assert interval_of(np.linspace(0, 1, 2000), 0.5, clusters, SETTINGS) is None
    assert refusal(Clusters.of(cells([5] * 4, [4, 4])), EvaluateSettings(minimum_groups=2)) is None


def test_a_class_that_one_group_all_but_fills_is_refused():
    result = figure_intervals(cells([100, *[1] * 9], [10] * 9), RECORD, SETTINGS)
    # 109^2 / (100^2 + 9) = 1.19
    assert result["note"] == (
        "No interval: 100 of 109 ALL images are of one subject group: the 10 of this class weigh like 1.2 of equal size, "
        "and an interval needs the weight of 2."
    )
    assert result["intervals"]["auroc"] is None


def test_a_dominating_group_is_named_beside_the_interval():
    result = figure_intervals(cells(DOMINATED, [15] * 11), RECORD, SETTINGS)
    assert result["effective_groups"] == pytest.approx({"ALL": 2.14, "HEM": 11}, abs=0.01)
    assert result["intervals"]["auroc"] is not None
    assert result["note"] == (
        "113 of 168 ALL images are of one subject group: the 23 of this class weigh like 2.1 of equal size. Intervals are "
        "wide and hang on few subjects."
    )


def test_nothing_is_said_of_many_even_groups():
    assert figure_intervals(cells([10] * 8, [10] * 8), RECORD, SETTINGS)["note"] is None


def test_without_subjects_images_are_drawn_and_the_note_says_so():
    result = figure_intervals(cells([10] * 8, [10] * 8).assign(group=None), RECORD, SETTINGS)
    assert result["unit"] == "image" and result["groups"] == {"ALL": 80, "HEM": 80}
    assert result["note"] == (
        "No subject is known, so images are drawn as if each were of a subject of its own. Images of one subject resemble "
        "each other: the true intervals are wider."
    )


def test_images_of_unknown_subject_are_counted():
    table = cells([10] * 8, [10] * 8)
    table.loc[:2, "group"] = None
    assert cautions(Clusters.of(table)) == [
        "3 of 160 images have no known subject and are drawn as subjects of their own, which makes the intervals too narrow "
        "if some share one."
    ]


def test_many_clusters_give_nearly_the_interval_of_independent_images():
    table = cells([1] * 400, [1] * 300)
    low, high = figure_intervals(table, RECORD, SETTINGS)["intervals"]["sensitivity"]
    rate = shares_of(table, "ALL")[1]
    step, logit = 1.96 / math.sqrt(400 * rate * (1 - rate)), math.log(rate / (1 - rate))
    assert low == pytest.approx(1 / (1 + math.exp(step - logit)), abs=0.01)
    assert high == pytest.approx(1 / (1 + math.exp(-step - logit)), abs=0.01)


def test_no_mistake_at_all_is_no_certainty():
    result = figure_intervals(cells([10] * 8, [10] * 12, right=0.9), RECORD, SETTINGS)
    # All of 8 subject groups right: the exact 95 % interval of 8 of 8 starts at 0.025^(1/8) (Clopper & Pearson 1934).
    assert result["intervals"]["accuracy"] == pytest.approx([0.025 ** (1 / 8), 1])
    assert result["intervals"]["auroc"] == pytest.approx([0.6306, 1], abs=1e-4)
    assert result["intervals"]["mcc"] == pytest.approx([-1 + 2 * 0.6306, 1], abs=1e-4)
    assert result["intervals"]["brier"] is None
    assert "brier has no interval: it does not vary over the resamples." in result["note"]


def test_a_difference_that_never_varies_has_no_interval():
    clusters = Clusters.of(cells([10] * 8, [10] * 8))
    assert interval_of(np.zeros(2000), 0.0, clusters, SETTINGS) is None


def test_two_models_on_the_same_weights_differ_less_than_their_intervals_suggest():
    table = cells([10] * 12, [10] * 12)
    better = table["score_ALL"] + np.where(table["y_true"] == "ALL", 0.05, 0)
    other = table.assign(score_ALL=better, score_HEM=1 - better)
    clusters = Clusters.of(table)
    weights = resample(clusters, SETTINGS)
    first, second = (resampled_figures(each, RECORD, weights, clusters)["auroc"] for each in (other, table))
    values = [measured_figures(each, RECORD)["auroc"] for each in (other, table)]
    low, high = interval_of(first - second, values[0] - values[1], clusters, SETTINGS)
    own = interval_of(second, values[1], clusters, SETTINGS, "auroc")
    assert low > 0
    assert high - low < (own[1] - own[0]) / 2


def test_few_undefined_resamples_are_left_out_and_many_refused():
    table = cells([10] * 12, [10] * 12)
    clusters = Clusters.of(table)
    samples = resampled_figures(table, RECORD, resample(clusters, SETTINGS), clusters)["accuracy"]
    whole = interval_of(samples, 0.8, clusters, SETTINGS, "accuracy")
    samples[:20] = np.nan  # 1 % of 2,000
    assert interval_of(samples, 0.8, clusters, SETTINGS, "accuracy") == pytest.approx(whole, abs=0.003)
    samples[20] = np.nan
    assert interval_of(samples, 0.8, clusters, SETTINGS, "accuracy") is None


def test_calibration_error_that_may_be_chance_starts_at_zero():
    random = np.random.default_rng(0)
    score = random.random(400)
    table = cells([10] * 20, [10] * 20).assign(score_ALL=score, score_HEM=1 - score)
    truth = pd.Series(np.where(random.random(400) < score, "ALL", "HEM"))
    table["y_true"], table["group"] = truth, [f"{label}{row % 20}" for row, label in enumerate(truth)]
    low, high = figure_intervals(table, RECORD, SETTINGS)["intervals"]["ece"]
    assert low == 0 and high < 0.15


def test_samples_of_other_resamples_are_refused():
    clusters = Clusters.of(cells([10] * 8, [10] * 8))
    with pytest.raises(ArtifactError) as caught:
        interval_of(np.zeros(500), 0.5, clusters, SETTINGS)
    assert str(caught.value) == (
        "The values cannot be of these resamples.\n"
        "  expected: 2000 values, one per resample\n"
        "  received: 500 values\n"
        "  remedy:   pass the settings that the weights were drawn with"
    )


def test_repeats_are_resampled_together():
    table = cells([10] * 8, [10] * 8)
    once = figure_intervals(table, RECORD, SETTINGS)
    twice = figure_intervals(pd.concat([table, table.assign(repeat=1)], ignore_index=True), RECORD, SETTINGS)
    assert twice["groups"] == once["groups"]
    assert twice["intervals"]["auroc"] == pytest.approx(once["intervals"]["auroc"])


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("interval_coverage.py", ("--quick",), "34 groups of the 330-cell sample"),
        ("bootstrap_speed.py", ("--resamples", "200", "--loop", "2"), "200 resamples of 10661 cells"),
    ],
)
def test_benchmarks_run(script: str, arguments: tuple[str, ...], words: str):
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert words in done.stdout
