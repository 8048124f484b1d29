"""Risk over coverage and prediction sets: worked by hand, against naive code and MAPIE, over repeats and folds."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukolens.evaluation.abstention import abstention_figures, aurc, conformal_figures, risk_coverage
from leukolens.evaluation.metrics import MAX_CURVE_POINTS

RECORD = {"classes": ["HEM", "ALL"], "positive": ["ALL"], "decisions": []}
NAMES = np.array(["HEM", "ALL"])


def rows_of(score, true, side: str, group=None, **columns) -> pd.DataFrame:
    score, true = np.asarray(score, float), np.asarray(true)
    images = [f"{side}-{row}.bmp" for row in range(len(score))]
    return pd.DataFrame({
        "image": images, "repeat": 0, "fold": 0, "side": side, "group": images if group is None else group,
        "y_true": NAMES[true], "y_pred": NAMES[(score >= 0.5).astype(int)], "score_HEM": 1 - score, "score_ALL": score,
    }).assign(**columns)  # fmt: skip


def sure_validation(images: int = 19, **columns) -> pd.DataFrame:
    """All ALL, true class at 0.9, but for the last at 0.4: nonconformity 0.1 and once 0.6."""
    return rows_of([0.9] * (images - 1) + [0.4], [1] * images, "validation", **columns)


def test_risk_coverage_worked_by_hand():
    confidence, wrong = np.array([0.6, 0.9, 0.8, 0.7]), np.array([True, False, True, False])
    curve = risk_coverage(confidence, wrong)
    assert curve["coverage"] == [0.25, 0.5, 0.75, 1.0]
    assert curve["risk"] == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert aurc(confidence, wrong) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_refusals_of_the_predictions_are_counted():
    refusal = pd.array([None, "unlike", "unlike", None], dtype="string")
    rows = rows_of([0.9, 0.8, 0.2, 0.6], [1, 0, 0, 1], "test", refusal=refusal)
    assert abstention_figures(rows, RECORD)["refusals"] == {
        "answered": 0.5, "accuracy_answered": 1.0, "reasons": {"unlike": 2}}  # fmt: skip
    rows["refusal"] = pd.array(["uncertain"] * 4, dtype="string")
    assert abstention_figures(rows, RECORD)["refusals"] == {
        "answered": 0.0, "accuracy_answered": None, "reasons": {"uncertain": 4}}  # fmt: skip
    assert abstention_figures(rows.drop(columns="refusal"), RECORD)["refusals"] is None


def test_images_of_one_confidence_move_together():
    confidence, wrong = np.array([0.9, 0.1 + 0.6, 0.7, 0.5]), np.array([False, True, False, True])
    curve = risk_coverage(confidence, wrong)
    assert curve == {"coverage": [0.25, 0.75, 1.0], "risk": pytest.approx([0, 1 / 3, 2 / 4])}
    assert aurc(confidence, wrong) == pytest.approx(0.25 * 0 + 0.5 / 3 + 0.25 / 2)


def test_one_confidence_for_all_gives_the_share_of_wrong_answers():
    wrong = np.array([True, False, False, False])
    assert risk_coverage(np.full(4, 0.8), wrong) == {"coverage": [1.0], "risk": [0.25]}
    assert aurc(np.full(4, 0.8), wrong) == 0.25


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), images=st.integers(1, 60))
def test_aurc_is_the_mean_risk_over_all_coverages(seed: int, images: int):
    random = np.random.default_rng(seed)
    confidence, wrong = random.permutation(images) / images, random.uniform(size=images) < 0.3
    ranked = wrong[np.argsort(-confidence)].tolist()
    risks = [sum(ranked[:count]) / count for count in range(1, images + 1)]
    assert aurc(confidence, wrong) == pytest.approx(sum(risks) / images)


def test_long_curves_are_thinned_but_keep_their_ends():
    random = np.random.default_rng(0)
    confidence, wrong = random.uniform(size=3000), random.uniform(size=3000) < 0.2
    curve = risk_coverage(confidence, wrong)
    assert len(curve["coverage"]) == len(curve["risk"]) == MAX_CURVE_POINTS
    assert (curve["coverage"][0], curve["coverage"][-1]) == (1 / 3000, 1)
    assert curve["risk"][-1] == pytest.approx(wrong.mean())


def test_prediction_sets_worked_by_hand():
    # 19 groups: at alpha 0.1 the quantile is the 18th of 20 parts, 0.1; at 0.05 the 19th, 0.6.
    test = rows_of([0.95, 0.2, 0.92, 0.7, 0.5], [1, 0, 0, 1, 0], "test")
    entries, notes = conformal_figures(pd.concat([sure_validation(), test]), RECORD)
    assert notes == []
    assert [entry["alpha"] for entry in entries] == [0.05, 0.1, 0.2, 0.3]
    assert [entry["groups_needed"] for entry in entries] == [19, 9, 4, 3]
    # 0.1: sets of classes at 0.9 or more: {ALL}, {}, {ALL} (wrong), {}, {}.
    assert entries[1] == {
        "alpha": 0.1, "promised": 0.9, "groups": 19, "groups_needed": 9, "covered": pytest.approx(1 / 5),
        "covered_by_group": pytest.approx(1 / 5), "answered": pytest.approx(2 / 5),
        "accuracy_answered": pytest.approx(1 / 2), "mean_set_size": pytest.approx(2 / 5),
    }  # fmt: skip
    # 0.05: classes at 0.4 or more: one each but for the last, which has both.
    assert entries[0]["covered"] == pytest.approx(4 / 5)
    assert entries[0]["answered"] == pytest.approx(4 / 5)
    assert entries[0]["accuracy_answered"] == pytest.approx(3 / 4)
    assert entries[0]["mean_set_size"] == pytest.approx(6 / 5)


def test_a_set_also_holds_what_the_threshold_says():
    # At alpha 0.05 classes at 0.4 or more: {HEM}; a threshold of 0.3 called it ALL, so the answer is withheld.
    test = rows_of([0.35], [1], "test", y_pred="ALL")
    entry = conformal_figures(pd.concat([sure_validation(), test]), RECORD)[0][0]
    assert (entry["covered"], entry["answered"], entry["accuracy_answered"], entry["mean_set_size"]) == (1, 0, None, 2)


def test_too_few_groups_promise_nothing():
    validation = sure_validation(12, group=[f"S{row % 4}" for row in range(12)])
    entries, notes = conformal_figures(pd.concat([validation, rows_of([0.95, 0.2], [1, 0], "test")]), RECORD)
    assert entries[1] == {"alpha": 0.1, "promised": None, "groups": 4, "groups_needed": 9, "covered": None,
                          "covered_by_group": None, "answered": None, "accuracy_answered": None,
                          "mean_set_size": None}  # fmt: skip
    assert [entry["promised"] for entry in entries] == [None, None, 0.8, 0.7]
    assert notes == [
        "Too few subject groups in validation for prediction sets at alpha 0.05, 0.1: 4, where 19 are needed at 0.05."
    ]


def test_each_fold_has_its_own_sets_and_the_poorest_fold_speaks():
    surer = rows_of([0.99] * 20, [1] * 20, "validation", fold=1)
    tests = [rows_of([0.95, 0.95], [1, 0], "test", fold=fold) for fold in (0, 1)]
    entry = conformal_figures(pd.concat([sure_validation(), surer, *tests]), RECORD)[0][1]
    # Fold 0 asks for 0.9, fold 1 for 0.99: only the images of fold 0 get a set.
    assert (entry["groups"], entry["answered"], entry["covered"]) == (19, 0.5, 0.25)
    poor = rows_of([0.99] * 2, [1] * 2, "validation", fold=1)
    entry = conformal_figures(pd.concat([sure_validation(), poor, *tests]), RECORD)[0][3]
    assert (entry["groups"], entry["promised"]) == (2, None)


def test_repeats_are_averaged_and_none_where_one_answers_nothing():
    repeats = [sure_validation(repeat=0), sure_validation(repeat=1),
               rows_of([0.95, 0.95, 0.2, 0.2], [1, 1, 0, 0], "test", repeat=0),
               rows_of([0.6, 0.6, 0.4, 0.4], [1, 1, 0, 0], "test", repeat=1)]  # fmt: skip
    figures = abstention_figures(pd.concat(repeats), RECORD)
    entry = figures["conformal"][1]
    assert (entry["answered"], entry["covered"], entry["accuracy_answered"]) == (0.25, 0.25, None)
    assert figures["risk_coverage"]["coverage"] == [0.5, 1.0]  # of the first repeat: 0.95 twice, 0.8 twice
    assert figures["aurc"] == 0


def test_with_one_image_per_group_the_sets_are_those_of_mapie():
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class AsItCame(ClassifierMixin, BaseEstimator):
        """Columns are the probabilities."""

        classes_ = np.array([0, 1])

        def __sklearn_is_fitted__(self):
            return True

        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

    random = np.random.default_rng(8)
    score = random.uniform(size=500)
    true = (random.uniform(size=500) < score).astype(int)
    scores = np.column_stack([1 - score, score])
    calibrated = SplitConformalClassifier(AsItCame(), confidence_level=[0.95, 0.9, 0.8, 0.7], prefit=True)
    calibrated.conformalize(scores[:200], true[:200])
    _, sets = calibrated.predict_set(scores[200:])
    table = pd.concat([rows_of(score[:200], true[:200], "validation"), rows_of(score[200:], true[200:], "test")])
    for number, entry in enumerate(conformal_figures(table, RECORD)[0]):
        expected = sets[:, :, number].copy()
        fits = expected.any(axis=1)
        expected[fits, (score[200:] >= 0.5).astype(int)[fits]] = True
        assert entry["mean_set_size"] == pytest.approx(expected.sum(axis=1).mean())
        assert entry["covered"] == pytest.approx(expected[np.arange(300), true[200:]].mean())
        assert entry["answered"] == pytest.approx((expected.sum(axis=1) == 1).mean())


def test_the_promise_is_kept_for_new_subjects_of_unequal_size():
    random = np.random.default_rng(9)
    covered = []
    for _ in range(100):
        sides = []
        for side, groups in (("validation", 30), ("test", 30)):
            sizes = random.integers(1, 40, groups)
            group = np.repeat(np.arange(groups), sizes)
            # Every subject is off by an amount of its own; larger ones by more.
            logit = (2 + random.normal(0, 1.5, groups) - sizes / 40)[group] + random.normal(0, 0.5, sizes.sum())
            true = random.integers(0, 2, groups)[group]
            score = 1 / (1 + np.exp(-np.where(true, logit, -logit)))
            sides.append(rows_of(score, true, side, group=[f"{side}{number}" for number in group]))
        entry = conformal_figures(pd.concat(sides), RECORD)[0][2]
        covered.append((entry["covered_by_group"], entry["covered"]))
    by_group, by_image = np.mean(covered, axis=0)
    assert 0.79 < by_group < 0.85  # 0.8 is promised; 30 groups overshoot by up to 1/31, the threshold's class adds some
    assert by_image < by_group  # larger, harder subjects have more cells: by image the promise would not hold


def test_the_share_by_group_counts_every_subject_once():
    test = rows_of([0.95, 0.95, 0.95, 0.5], [1, 1, 1, 1], "test", group=["S1", "S1", "S1", None])
    entry = conformal_figures(pd.concat([sure_validation(), test]), RECORD)[0][1]
    assert (entry["covered"], entry["covered_by_group"]) == (0.75, 0.5)


def test_without_validation_or_test_rows_there_are_notes_and_no_sets():
    test = rows_of([0.9, 0.2, 0.3], [1, 0, 1], "test")
    figures = abstention_figures(test, RECORD)
    assert figures["conformal"] == []
    assert figures["notes"] == ["No validation images: prediction sets cannot be calibrated."]
    assert figures["risk_coverage"]["risk"] == pytest.approx([0, 0, 1 / 3])
    partly = pd.concat([sure_validation(), test, test.assign(fold=1)])
    assert conformal_figures(partly, RECORD) == (
        [], ["Some folds have no validation images: prediction sets cannot be calibrated."])  # fmt: skip
    only = abstention_figures(sure_validation(), RECORD)
    assert only["notes"] == ["No test images: prediction sets cannot be measured."]
    assert only["risk_coverage"]["coverage"][-1] == 1
    assert only["risk_coverage"]["risk"][-1] == pytest.approx(1 / 19)


def test_images_of_unknown_subject_are_named():
    validation = sure_validation(group=[None] * 4 + [f"S{row}" for row in range(15)])
    entries, notes = conformal_figures(pd.concat([validation, rows_of([0.95], [1], "test")]), RECORD)
    assert entries[0]["groups"] == 19
    assert notes == ["4 of 19 validation images have no known subject and count as one each: the prediction sets promise "
                     "nothing for new subjects."]  # fmt: skip


def test_outliers_are_counted_where_a_score_is_known():
    test = rows_of([0.9] * 5, [1] * 5, "test", outlier_score=[0.5, 1.0, 1.1, np.nan, 3.0])
    validation = sure_validation(outlier_score=9.0)
    figures = abstention_figures(pd.concat([validation, test]), RECORD)
    assert figures["outliers"] == {"refused": 0.5, "images": 4}
    assert abstention_figures(test.assign(outlier_score=np.nan), RECORD)["outliers"] is None
    assert abstention_figures(test.drop(columns="outlier_score"), RECORD)["outliers"] is None
    again = test.assign(repeat=1, outlier_score=[2.0, 2.0, 2.0, np.nan, np.nan])
    assert abstention_figures(pd.concat([test, again]), RECORD)["outliers"] == {"refused": 0.75, "images": 4}


def test_three_classes_and_json():
    random = np.random.default_rng(10)
    scores = random.dirichlet(np.ones(3), 90)
    names = np.array(["Benign", "Early", "Pre"])
    table = pd.DataFrame({
        "image": [f"{row}.bmp" for row in range(90)], "group": [f"S{row % 25}" for row in range(90)], "repeat": 0, "fold": 0,
        "side": ["validation"] * 50 + ["test"] * 40, "y_true": names[random.integers(0, 3, 90)],
        "y_pred": names[scores.argmax(axis=1)],
        **{f"score_{name}": scores[:, index] for index, name in enumerate(names)},
    })  # fmt: skip
    figures = abstention_figures(table, {"classes": list(names), "positive": [], "decisions": []})
    assert [entry["promised"] for entry in figures["conformal"]] == pytest.approx([0.95, 0.9, 0.8, 0.7])
    sizes = [entry["mean_set_size"] for entry in figures["conformal"]]
    assert sizes == sorted(sizes, reverse=True)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
