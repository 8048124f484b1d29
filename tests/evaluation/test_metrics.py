"""Metrics against scikit-learn on random inputs, against hand-worked values on small ones, and where undefined."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from leukolens.evaluation.metrics import (
    MAX_CURVE_POINTS,
    Scored,
    accuracy_per_subject,
    auprc,
    auroc,
    auroc_within_folds,
    has_folds,
    measure,
    scored_of,
    within_folds,
)

SMEARS = ("Benign", "Early", "Pre", "Pro")


def random_scored(seed: int, images: int, classes: int) -> Scored:
    random = np.random.default_rng(seed)
    names = ("HEM", "ALL") if classes == 2 else SMEARS[:classes]
    scores = random.dirichlet(np.ones(classes), images)
    true = np.concatenate([np.arange(classes), random.integers(0, classes, images - classes)])
    return Scored(names, names[1:], true, scores.argmax(axis=1), scores)


# Ten images: 6 ALL of which 4 are found, 4 HEM of which 3 are found.
HAND = Scored(
    classes=("HEM", "ALL"),
    positive=("ALL",),
    y_true=np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0]),
    y_pred=np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 1]),
    scores=np.array([[1 - p, p] for p in (0.9, 0.8, 0.8, 0.7, 0.4, 0.2, 0.1, 0.3, 0.4, 0.6)]),
)


def test_hand_worked_counts_and_rates():
    figures = measure(HAND)
    assert figures["images"] == 10
    assert figures["counts"] == {"HEM": 4, "ALL": 6}
    assert figures["confusion_matrix"] == [[3, 1], [2, 4]]
    assert figures["accuracy"] == pytest.approx(7 / 10)
    assert figures["sensitivity"] == pytest.approx(4 / 6)
    assert figures["specificity"] == pytest.approx(3 / 4)
    assert figures["balanced_accuracy"] == pytest.approx((4 / 6 + 3 / 4) / 2)
    # MCC = (TP·TN − FP·FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)) = (12 − 2) / sqrt(5·6·4·5)
    assert figures["mcc"] == pytest.approx(10 / 600**0.5)
    assert figures["per_class"]["ALL"]["precision"] == pytest.approx(4 / 5)
    assert figures["per_class"]["HEM"]["precision"] == pytest.approx(3 / 5)
    assert figures["per_class"]["ALL"]["f1"] == pytest.approx(8 / 11)
    assert figures["f1_macro"] == pytest.approx((8 / 11 + 6 / 9) / 2)
    assert figures["f1_weighted"] == pytest.approx((6 * 8 / 11 + 4 * 6 / 9) / 10)
    assert figures["precision_weighted"] == pytest.approx((6 * 4 / 5 + 4 * 3 / 5) / 10)
    assert figures["recall_weighted"] == pytest.approx(figures["accuracy"])
    assert figures["notes"] == []


def test_hand_worked_auroc_counts_ties_one_half():
    # 24 pairs: ALL 0.9, 0.8, 0.8, 0.7 beat all four HEM (16); 0.4 beats 0.1 and 0.3 and ties 0.4 (2.5); 0.2 beats 0.1 (1).
    assert measure(HAND)["auroc"] == pytest.approx(19.5 / 24)


def test_hand_worked_average_precision():
    truth = np.array([True, False, True, False])
    # Ranked: hit (1/1), miss, hit (2/3), miss: (1 + 2/3) / 2
    assert auprc(truth, np.array([0.9, 0.8, 0.7, 0.1])) == pytest.approx(5 / 6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), images=st.integers(8, 60), classes=st.integers(2, 4))
def test_equal_to_scikit_learn(seed: int, images: int, classes: int):
    scored = random_scored(seed, images, classes)
    figures = measure(scored)
    true, predicted = scored.y_true, scored.y_pred
    assert figures["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    assert figures["mcc"] == pytest.approx(sk.matthews_corrcoef(true, predicted))
    assert figures["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, predicted))
    for average in ("weighted", "macro"):
        expected = sk.precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        names = ("precision", "recall", "f1")
        assert [figures[f"{name}_{average}"] for name in names] == pytest.approx(list(expected[:3]))
    assert figures["confusion_matrix"] == sk.confusion_matrix(true, predicted, labels=range(classes)).tolist()
    positive = true > 0
    assert figures["auroc"] == pytest.approx(sk.roc_auc_score(positive, 1 - scored.scores[:, 0]))
    assert figures["auprc"] == pytest.approx(sk.average_precision_score(positive, scored.scores[:, 1:].sum(axis=1)))
    assert figures["sensitivity"] == pytest.approx(sk.recall_score(positive, predicted > 0))
    assert figures["specificity"] == pytest.approx(sk.recall_score(~positive, predicted == 0))
    if classes > 2:
        ovr = sk.roc_auc_score(true, scored.scores, multi_class="ovr", average="macro")
        assert figures["auroc_macro_ovr"] == pytest.approx(ovr)
        assert figures["per_class"]["Pre"]["auprc"] == pytest.approx(
            sk.average_precision_score(true == 2, scored.scores[:, 2])
        )
    json.dumps(figures, allow_nan=False)


def test_positive_of_several_classes_counts_any_of_them():
    scored = Scored(
        classes=SMEARS,
        positive=("Early", "Pre", "Pro"),
        y_true=np.array([0, 1, 2, 3, 0]),
        y_pred=np.array([0, 2, 2, 0, 3]),  # Early called Pre is still positive
        scores=np.eye(4)[[0, 2, 2, 0, 3]],
    )
    figures = measure(scored)
    assert figures["sensitivity"] == pytest.approx(2 / 3)
    assert figures["specificity"] == pytest.approx(1 / 2)
    assert figures["accuracy"] == pytest.approx(2 / 5)
    assert set(figures["curves"]["per_class"]) == set(SMEARS)


def test_no_positive_class_gives_none_and_says_so():
    scored = random_scored(1, 40, 4)
    figures = measure(Scored(scored.classes, (), scored.y_true, scored.y_pred, scored.scores))
    assert [figures[name] for name in ("sensitivity", "specificity", "auroc", "auprc")] == [None] * 4
    assert figures["curves"]["positive"] is None
    assert figures["notes"] == [
        "No positive class is named: sensitivity, specificity, AUROC and AUPRC are undefined."
    ]
    assert figures["auroc_macro_ovr"] is not None


def test_one_class_only_is_undefined_and_never_nan():
    scored = Scored(("HEM", "ALL"), ("ALL",), np.array([1, 1]), np.array([1, 1]), np.array([[0.1, 0.9], [0.2, 0.8]]))
    figures = measure(scored)
    for name in ("balanced_accuracy", "mcc", "auroc", "auprc", "specificity"):
        assert figures[name] is None, name
    assert figures["sensitivity"] == 1.0
    assert figures["per_class"]["HEM"] == {
        "precision": None, "recall": None, "f1": None, "support": 0, "auroc": None, "auprc": None,
    }  # fmt: skip
    assert figures["notes"] == [
        "No image is of class HEM: its recall, AUROC and AUPRC are undefined.",
        "No image was predicted as HEM: its precision is undefined, and 0 in averages.",
        "All images are of one class: balanced accuracy and MCC are undefined.",
        "Every image is of a positive class: specificity, AUROC and AUPRC are undefined.",
    ]
    json.dumps(figures, allow_nan=False)


def test_absent_class_leaves_the_macro_area_undefined():
    scored = random_scored(3, 40, 4)
    kept = scored.y_true != 2
    figures = measure(
        Scored(scored.classes, scored.positive, scored.y_true[kept], scored.y_pred[kept], scored.scores[kept])
    )
    assert figures["auroc_macro_ovr"] is None
    assert figures["per_class"]["Pre"]["auroc"] is None
    assert figures["curves"]["per_class"]["Pre"] is None
    assert figures["per_class"]["Pro"]["auroc"] is not None


def test_always_the_majority_class_has_mcc_zero_and_balanced_accuracy_one_half():
    true = np.array([1, 1, 1, 0])
    scored = Scored(("HEM", "ALL"), ("ALL",), true, np.ones(4, int), np.tile([0.4, 0.6], (4, 1)))
    figures = measure(scored)
    assert (figures["accuracy"], figures["balanced_accuracy"], figures["mcc"]) == (0.75, 0.5, 0.0)
    assert figures["auroc"] == 0.5


def test_curves_are_thinned_and_keep_their_ends():
    scored = random_scored(5, 5000, 2)
    curve = measure(scored)["curves"]["positive"]
    assert len(curve["roc"]["fpr"]) == len(curve["roc"]["tpr"]) == MAX_CURVE_POINTS
    assert (curve["roc"]["fpr"][0], curve["roc"]["tpr"][0]) == (0.0, 0.0)
    assert (curve["roc"]["fpr"][-1], curve["roc"]["tpr"][-1]) == (1.0, 1.0)
    assert len(curve["pr"]["recall"]) <= MAX_CURVE_POINTS
    drawn = sk.auc(curve["roc"]["fpr"], curve["roc"]["tpr"])
    assert drawn == pytest.approx(auroc(scored.is_positive, scored.positive_score), abs=0.005)


def test_accuracy_per_subject_lists_the_worst_first_and_leaves_out_the_unknown():
    subjects = ["1", "1", "1", "2", "2", "2", "H1", "H1", "H1", None]
    entries = accuracy_per_subject(subjects, HAND)
    # Subject 1: rows 0–2 right; 2: row 3 right, 4 and 5 wrong; H1: rows 6–8 right; row 9 has no subject.
    assert entries == [
        {"subject": "2", "label": "ALL", "images": 3, "correct": 1, "accuracy": pytest.approx(1 / 3)},
        {"subject": "1", "label": "ALL", "images": 3, "correct": 3, "accuracy": 1.0},
        {"subject": "H1", "label": "HEM", "images": 3, "correct": 3, "accuracy": 1.0},
    ]


def test_a_subject_of_two_classes_names_both():
    entries = accuracy_per_subject(["7"] * 10, HAND)
    assert [(entry["label"], entry["correct"]) for entry in entries] == [("HEM+ALL", 7)]


def test_rows_of_predictions_become_positions_and_scores():
    table = pd.DataFrame({"y_true": ["ALL", "HEM"], "y_pred": ["HEM", "HEM"], "score_ALL": [0.2, 0.1], "score_HEM": [0.8, 0.9]})
    scored = scored_of(table, {"classes": ["HEM", "ALL"], "positive": ["ALL"]})
    assert (scored.classes, scored.positive) == (("HEM", "ALL"), ("ALL",))
    assert (scored.y_true.tolist(), scored.y_pred.tolist()) == ([1, 0], [0, 0])
    assert scored.scores.tolist() == [[0.8, 0.2], [0.9, 0.1]]


# Fold 0: of its 2 x 2 pairs 3 are in order. Fold 1: both of its 1 x 2. Fold 2 holds no negative image.
FOLD = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
TRUTH = np.array([1, 1, 0, 0, 1, 0, 0, 1, 1], dtype=bool)
SCORE = np.array([0.9, 0.4, 0.6, 0.1, 0.8, 0.2, 0.1, 0.0, 0.7])


def test_auroc_within_folds_by_hand():
    # 5 of 6 pairs; the plain mean of the two folds would be (3/4 + 1) / 2.
    assert auroc_within_folds(TRUTH, SCORE, FOLD) == pytest.approx(5 / 6)
    tied = np.where(SCORE == 0.2, 0.8, SCORE)
    assert auroc_within_folds(TRUTH, tied, FOLD) == pytest.approx(4.5 / 6)
    assert auroc_within_folds(TRUTH, SCORE, np.zeros(9, int)) == pytest.approx(sk.roc_auc_score(TRUTH, SCORE))
    assert auroc_within_folds(TRUTH, SCORE, TRUTH.astype(int)) is None


def test_a_scale_of_scores_for_each_fold_lowers_the_pooled_auroc_alone():
    """The rarer the positive class in the training folds, the lower all scores: as when the test fold holds more of it."""
    random = np.random.default_rng(0)
    fold = np.repeat(np.arange(5), 400)
    share = np.array([0.2, 0.35, 0.5, 0.65, 0.8])[fold]
    truth = random.random(2000) < share
    logit = 1.5 * truth + random.normal(size=2000)
    shifted = logit - 3 * share
    within, pooled = auroc_within_folds(truth, logit, fold), auroc(truth, logit)
    assert within == pytest.approx(pooled, abs=0.01)
    assert auroc_within_folds(truth, shifted, fold) == within
    assert auroc(truth, shifted) < pooled - 0.05


def test_within_folds_needs_a_positive_class():
    scores = np.stack([1 - SCORE, SCORE], axis=1)
    scored = Scored(("HEM", "ALL"), ("ALL",), TRUTH.astype(np.int64), TRUTH.astype(np.int64), scores)
    assert within_folds(scored, FOLD) == {"auroc_within_folds": pytest.approx(5 / 6)}
    unnamed = Scored(("HEM", "ALL"), (), scored.y_true, scored.y_pred, scores)
    assert within_folds(unnamed, FOLD) == {"auroc_within_folds": None}


def test_folds_are_several_within_a_repeat():
    assert not has_folds(pd.DataFrame({"repeat": [0, 1], "fold": [0, 1]}))
    assert has_folds(pd.DataFrame({"repeat": [0, 1, 1], "fold": [0, 0, 1]}))
    assert not has_folds(pd.DataFrame({"repeat": [0, 0]}))
