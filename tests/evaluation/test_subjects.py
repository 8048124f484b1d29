"""Answers about subjects: worked by hand, against statsmodels, SciPy and scikit-learn, over repeats and folds."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from leukolens.errors import ArtifactError
from leukolens.evaluation.subjects import positive_logit, subject_figures, wilson_interval
from leukolens.settings import EvaluateSettings

RECORD = {"classes": ["HEM", "ALL"], "positive": ["ALL"], "decisions": []}
AT_HALF = {**RECORD, "decisions": [{"repeat": 0, "fold": 0, "temperature": 1.0, "threshold": 0.5}]}
SETTINGS = EvaluateSettings(resamples=200, minimum_groups=8)

# Subject 1 (ALL): two of three above; 2 (ALL): both just below; H1 (HEM): one high, one very low; H2 (HEM): low.
CELLS = [("1", 1, 0.9), ("1", 1, 0.8), ("1", 1, 0.4), ("2", 1, 0.45), ("2", 1, 0.4), ("H1", 0, 0.7), ("H1", 0, 0.01),
         ("H2", 0, 0.2)]  # fmt: skip


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def table_of(cells, threshold: float = 0.5, **columns) -> pd.DataFrame:
    names = np.array(["HEM", "ALL"])
    score = np.array([cell[2] for cell in cells])
    subject = [cell[0] for cell in cells]
    return pd.DataFrame({
        "image": [f"{row}.bmp" for row in range(len(cells))], "subject": subject, "group": subject, "repeat": 0, "fold": 0,
        "side": "test", "y_true": names[[cell[1] for cell in cells]], "y_pred": names[(score >= threshold).astype(int)],
        "score_HEM": 1 - score, "score_ALL": score,
    }).assign(**columns)  # fmt: skip


def many_subjects(seed: int, each: int, images: int = 5) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    cells = []
    for number in range(2 * each):
        own = (1.0 if number < each else -1.0) + random.normal(0, 1.5)
        scores = 1 / (1 + np.exp(-(own + random.normal(0, 0.5, images))))
        cells.extend((f"S{number:02d}", int(number < each), score) for score in scores)
    return table_of(cells)


def test_hand_worked_subjects():
    figures = subject_figures(table_of(CELLS), AT_HALF, SETTINGS)
    assert (figures["subjects"], figures["classes"]) == (4, {"HEM": 2, "ALL": 2})
    rows = {row["subject"]: row for row in figures["rows"]}
    assert [(name, row["label"], row["images"]) for name, row in rows.items()] == [
        ("1", "ALL", 3), ("2", "ALL", 2), ("H1", "HEM", 2), ("H2", "HEM", 1),
    ]  # fmt: skip
    assert rows["1"]["mean_logit"] == pytest.approx((logit(0.9) + logit(0.8) + logit(0.4)) / 3)
    assert rows["H1"]["mean_logit"] == pytest.approx((logit(0.7) + logit(0.01)) / 2)
    assert [row["share_positive"] for row in rows.values()] == pytest.approx([2 / 3, 0, 1 / 2, 0])
    # Mean logits: 1 above 0, then 2 (-0.3), H2 (-1.4), H1 (-1.9): every ALL above every HEM.
    assert figures["auroc"] == 1
    assert figures["rules"]["mean_logit"]["sensitivity"] == 1 / 2
    assert figures["rules"]["mean_logit"]["specificity"] == 1
    # Half of H1's images are called positive: enough.
    assert figures["rules"]["share"]["sensitivity"] == 1 / 2
    assert figures["rules"]["share"]["specificity"] == 1 / 2
    expected = proportion_confint(1, 2, method="wilson")
    assert figures["rules"]["share"]["specificity_interval"] == pytest.approx(expected)
    assert figures["auroc_interval"] is None
    assert figures["notes"] == [
        "No interval for AUROC over subjects: ALL has 2 subject groups; HEM has 2 subject groups; an interval needs 8 of each "
        "class."
    ]
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_wilson_1927_against_a_published_example():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I: 81/263, 15/148, 0/20, 1/29.
    published = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (count, total), interval in published.items():
        assert wilson_interval(count / total, total, 0.95) == pytest.approx(interval, abs=5e-5)


@given(total=st.integers(1, 200), data=st.data(), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_statsmodels_and_scipy(total: int, data: st.DataObject, confidence: float):
    count = data.draw(st.integers(0, total))
    interval = wilson_interval(count / total, total, confidence)
    assert interval == pytest.approx(proportion_confint(count, total, 1 - confidence, "wilson"), abs=1e-12)
    scipy = binomtest(count, total).proportion_ci(confidence, method="wilson")
    assert interval == pytest.approx((scipy.low, scipy.high), abs=1e-12)


def test_each_fold_is_held_against_its_own_threshold():
    # The same scores; the threshold is 0.3 in fold 0 and 0.8 in fold 1.
    cells = [("1", 1, 0.4), ("2", 1, 0.4), ("H1", 0, 0.4), ("H2", 0, 0.4)]
    fold = [0, 1, 0, 1]
    decisions = [{"repeat": 0, "fold": 0, "temperature": 1.0, "threshold": 0.3},
                 {"repeat": 0, "fold": 1, "temperature": 1.0, "threshold": 0.8}]  # fmt: skip
    figures = subject_figures(table_of(cells, fold=fold), {**RECORD, "decisions": decisions}, SETTINGS)
    assert figures["rules"]["mean_logit"]["sensitivity"] == 1 / 2
    assert figures["rules"]["mean_logit"]["specificity"] == 1 / 2
    assert figures["auroc"] == 0.5


def test_a_mean_at_the_threshold_but_for_rounding_is_positive():
    cells = [("1", 1, 0.1), ("1", 1, 0.9), ("1", 1, 0.3), ("1", 1, 0.7), ("H1", 0, 0.2)]
    rule = subject_figures(table_of(cells), AT_HALF, SETTINGS)["rules"]["mean_logit"]
    assert (rule["sensitivity"], rule["specificity"]) == (1, 1)


def test_without_a_threshold_the_mean_logit_is_held_against_one_half():
    notes = subject_figures(table_of(CELLS), RECORD, SETTINGS)["notes"]
    assert "No threshold is on record for some or all images: the mean logit is held against 0.5." in notes


def test_saturated_scores_are_bounded():
    table = table_of([("1", 1, 1.0), ("H1", 0, 0.0), ("H2", 0, 0.25)])
    assert positive_logit(table, RECORD) == pytest.approx([12 * math.log(10), -12 * math.log(10), math.log(1 / 3)])


def test_several_positive_classes_are_summed():
    scores = {"score_Benign": [0.2, 0.7], "score_Early": [0.5, 0.2], "score_Pre": [0.3, 0.1]}
    table = pd.DataFrame({"image": ["a", "b"], "subject": ["1", "2"], "group": ["1", "2"], "repeat": 0, "fold": 0,
                          "y_true": ["Pre", "Benign"], "y_pred": ["Early", "Benign"], **scores})  # fmt: skip
    record = {"classes": ["Benign", "Early", "Pre"], "positive": ["Early", "Pre"], "decisions": []}
    figures = subject_figures(table, record, SETTINGS)
    assert [row["mean_logit"] for row in figures["rows"]] == pytest.approx([logit(0.8), logit(0.3)])
    assert [row["share_positive"] for row in figures["rows"]] == [1, 0]
    assert figures["classes"] == {"Benign": 1, "Early": 0, "Pre": 1}
    assert figures["rules"]["share"]["sensitivity"] == 1


def test_enough_groups_give_an_interval_round_the_area():
    table = many_subjects(1, 20)
    figures = subject_figures(table, AT_HALF, EvaluateSettings(resamples=1000))
    truth = [row["label"] == "ALL" for row in figures["rows"]]
    assert figures["auroc"] == pytest.approx(roc_auc_score(truth, [row["mean_logit"] for row in figures["rows"]]))
    low, high = figures["auroc_interval"]
    assert 0.5 < low < figures["auroc"] < high <= 1
    # Hanley & McNeil 1982 put the standard error of such an area near 0.06.
    assert 0.12 < high - low < 0.40
    assert figures["notes"] == []
    assert subject_figures(table, AT_HALF, EvaluateSettings(resamples=1000))["auroc_interval"] == [low, high]


def test_merged_groups_move_together_and_are_named():
    table = many_subjects(2, 20)
    number = table["subject"].str[1:].astype(int)
    table["group"] = "G" + (number // 2).astype(str)
    merged = subject_figures(table, AT_HALF, EvaluateSettings(resamples=1000))
    assert merged["notes"] == [
        "40 subjects stand in 20 groups that share images: the intervals of sensitivity and specificity take subjects as "
        "independent and are too narrow."
    ]
    assert merged["auroc_interval"] is not None
    fewer = table.assign(group="G" + (number // 4).astype(str))
    few = subject_figures(fewer, AT_HALF, SETTINGS)
    assert few["auroc_interval"] is None
    assert few["notes"][0] == (
        "No interval for AUROC over subjects: ALL has 5 subject groups; HEM has 5 subject groups; an interval needs 8 of each "
        "class."
    )


def test_an_interval_stays_below_1_and_needs_scores_that_vary():
    apart = table_of([(f"S{number:02d}", int(number < 10), 0.9 if number < 10 else 0.1) for number in range(20)])
    figures = subject_figures(apart, AT_HALF, SETTINGS)
    assert figures["auroc"] == 1
    low, high = figures["auroc_interval"]
    assert 0.5 < low < high == 1
    same = subject_figures(apart.assign(score_ALL=0.5, score_HEM=0.5), AT_HALF, SETTINGS)
    assert (same["auroc"], same["auroc_interval"]) == (0.5, None)
    assert same["notes"] == ["No interval for AUROC over subjects: it does not vary over the resamples."]


def test_a_subject_without_a_group_is_a_group_of_its_own():
    table = many_subjects(3, 9).assign(group=None)
    assert subject_figures(table, AT_HALF, SETTINGS)["auroc_interval"] is not None


def test_repeats_are_averaged_and_rows_are_of_the_first():
    first, second = many_subjects(4, 10), many_subjects(5, 10)
    decisions = [{"repeat": repeat, "fold": 0, "temperature": 1.0, "threshold": 0.5} for repeat in (0, 1)]
    record = {**RECORD, "decisions": decisions}
    both = subject_figures(pd.concat([first, second.assign(repeat=1)]), record, SETTINGS)
    single = [subject_figures(table, AT_HALF, SETTINGS) for table in (first, second)]
    assert both["auroc"] == pytest.approx((single[0]["auroc"] + single[1]["auroc"]) / 2)
    for rule in ("mean_logit", "share"):
        for name in ("sensitivity", "specificity"):
            mean = (single[0]["rules"][rule][name] + single[1]["rules"][rule][name]) / 2
            assert both["rules"][rule][name] == pytest.approx(mean)
            assert both["rules"][rule][f"{name}_interval"] == pytest.approx(wilson_interval(mean, 10, 0.95))
    assert both["rows"] == single[0]["rows"]
    assert both["subjects"] == 20
    assert both["notes"] == ["Sensitivity and specificity are means over the repeats; their intervals count each subject once."]


def test_one_kind_of_subject_only():
    figures = subject_figures(table_of(CELLS[:5]), AT_HALF, SETTINGS)
    assert (figures["auroc"], figures["auroc_interval"]) == (None, None)
    assert figures["rules"]["share"]["specificity"] is None
    assert figures["rules"]["share"]["specificity_interval"] is None
    assert figures["rules"]["share"]["sensitivity"] == 1 / 2
    assert figures["notes"] == ["All subjects are on one side of the positive class: AUROC over subjects is undefined."]


def test_nothing_without_a_subject_or_a_positive_class():
    assert subject_figures(table_of(CELLS, subject=None), AT_HALF, SETTINGS) is None
    assert subject_figures(table_of(CELLS), {**AT_HALF, "positive": []}, SETTINGS) is None


def test_images_of_unknown_subject_are_left_out():
    cells = [*CELLS, (None, 0, 0.99), (None, 0, 0.98)]
    assert subject_figures(table_of(cells), AT_HALF, SETTINGS) == subject_figures(table_of(CELLS), AT_HALF, SETTINGS)


def test_a_subject_of_two_classes_is_named():
    with pytest.raises(ArtifactError) as caught:
        subject_figures(table_of([*CELLS, ("H2", 1, 0.9)]), AT_HALF, SETTINGS)
    assert str(caught.value) == (
        "Subject H2 cannot be judged as a whole.\n  expected: one class for all images of a subject\n"
        "  received: images of HEM and ALL\n  remedy:   correct the labels, or give the subject's samples ids of their own"
    )
