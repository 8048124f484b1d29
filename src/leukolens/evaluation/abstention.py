"""What a model gains where it may leave images unanswered, and whether its prediction sets keep their promise.

In: a table of predictions of all sides and its record. Out: JSON-able numbers, lists and notes. Writes: nothing.

Measured on the test side (where there is none, on whatever side there is). Prediction sets are calibrated on the validation
rows of the same repeat and fold, and measured on its test rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from leukolens.artifacts import TEST, VALIDATION, Record
from leukolens.decision.conformal import Conformal, fit_conformal, groups_needed
from leukolens.decision.validation import ValidationScores
from leukolens.evaluation.metrics import MAX_CURVE_POINTS, Flags, Floats, scored_of

ALPHAS = (0.05, 0.1, 0.2, 0.3)

_SAME_CONFIDENCE_DECIMALS = 12  # 1 - 0.9 and 0.1 are one confidence
_TABLE_IS_CALIBRATED = 1.0  # the temperature is in the scores already
_FIGURES = ("covered", "covered_by_group", "answered", "accuracy_answered", "mean_set_size")

_Fold = tuple[int, int]


def abstention_figures(table: pd.DataFrame, record: Record) -> Record:
    """Give the record `abstention`.

    Args:
        table: rows of predictions of all sides; with several repeats, scalar figures are means over them.
        record: theirs.

    Returns:
        `risk_coverage` (of the first repeat; see `risk_coverage`), `aurc`, `conformal` (see `conformal_figures`),
        `outliers` (`refused`: share of images with an outlier score above 1, `images`: how many have a score; None
        where no score is known), `refusals` (see `_refusals`; None where the predictions refuse nothing), `notes`.
    """
    test = table[table["side"] == TEST]
    rows = table if test.empty else test
    repeats = [_confidence(repeat, record) for _, repeat in rows.groupby("repeat", sort=True)]
    conformal, notes = conformal_figures(table, record)
    return {
        "risk_coverage": risk_coverage(*repeats[0]),
        "aurc": float(np.mean([aurc(*each) for each in repeats])),
        "conformal": conformal,
        "outliers": _outliers(rows),
        "refusals": _refusals(rows, record),
        "notes": notes,
    }


def risk_coverage(confidence: Floats, wrong: Flags) -> Record:
    """Give the curve of the share of wrong answers over the share of images answered, the surest first.

    El-Yaniv & Wiener 2010. Images of one confidence are answered together, so there is one point per distinct value.

    Args:
        confidence: float64 [n], n at least 1; higher is surer.
        wrong: bool [n], whether the answer is wrong.

    Returns:
        `coverage` and `risk`: lists of at most MAX_CURVE_POINTS shares, coverage rising to 1.
    """
    coverage, risk = _risks(confidence, wrong)
    points = len(coverage)
    kept = np.unique(np.linspace(0, points - 1, min(points, MAX_CURVE_POINTS)).round().astype(np.int64))
    return {"coverage": coverage[kept].tolist(), "risk": risk[kept].tolist()}


def aurc(confidence: Floats, wrong: Flags) -> float:
    """Area under the risk-coverage curve (Geifman & El-Yaniv 2017; Geifman, Uziel & El-Yaniv 2019); lower is better.

    The mean, over the images, of the share of wrong answers among all images as sure or surer. Where no two are equally
    sure, that is the mean risk over all coverages 1/n, 2/n, …, 1; where all are, it is the overall share of wrong answers.

    Args are those of `risk_coverage`.
    """
    coverage, risk = _risks(confidence, wrong)
    return float(np.diff(coverage, prepend=0) @ risk)


def conformal_figures(table: pd.DataFrame, record: Record) -> tuple[list[Record], list[str]]:
    """Measure split-conformal prediction sets at each of ALPHAS (Vovk et al. 2005; `decision.conformal`).

    Returns:
        One entry per alpha: `alpha`, `promised` (1 - alpha), `groups` (validation subject groups, the fewest of any fold),
        `groups_needed`, `covered` (share of test images whose set holds the true class), `covered_by_group` (the mean of
        that share over subject groups, which is what is promised), `answered` (share of images whose set is of one class),
        `accuracy_answered` (share of right predictions among these, None where some repeat answers none) and
        `mean_set_size` (classes); `promised` and figures are None where `groups` is below `groups_needed`. No entry where
        a fold of the test side has no validation rows. And notes.
    """
    test, validation = (_by_fold(table[table["side"] == side]) for side in (TEST, VALIDATION))
    if not test or not test.keys() <= validation.keys():
        return [], [_lack(bool(test), bool(validation))]
    calibrated = {
        fold: fit_conformal(ValidationScores.of_table(validation[fold], record), _TABLE_IS_CALIBRATED) for fold in test
    }
    entries = [_at(alpha, test, record, calibrated) for alpha in ALPHAS]
    groups = pd.concat([validation[fold]["group"] for fold in test])
    return entries, _notes(entries, int(groups.isna().sum()), len(groups))


def _by_fold(table: pd.DataFrame) -> dict[_Fold, pd.DataFrame]:
    keys = list(zip(table["repeat"].tolist(), table["fold"].tolist(), strict=True))
    return {(repeat, fold): table[(table["repeat"] == repeat) & (table["fold"] == fold)] for repeat, fold in sorted(set(keys))}


def _at(alpha: float, test: Mapping[_Fold, pd.DataFrame], record: Record, calibrated: Mapping[_Fold, Conformal]) -> Record:
    groups, needed = min(each.groups for each in calibrated.values()), groups_needed(alpha)
    enough = groups >= needed
    figures: Mapping[str, float | None] = dict.fromkeys(_FIGURES)
    if enough:
        answers = [_answers(rows, record, calibrated[fold], alpha) for fold, rows in test.items()]
        figures = _mean_over_repeats(pd.concat(answers))
    return {
        "alpha": alpha,
        "promised": 1 - alpha if enough else None,
        "groups": groups,
        "groups_needed": needed,
        **figures,
    }


def _answers(rows: pd.DataFrame, record: Record, conformal: Conformal, alpha: float) -> pd.DataFrame:
    """Give, for each row, its group, whether its set holds the true class, the set's size, whether the prediction is right."""
    scored = scored_of(rows, record)
    sets = conformal.prediction_sets(scored.scores, alpha)
    # As `decision.rule` refuses: a set that is not empty also holds what the threshold says.
    fits = sets.any(axis=1)
    sets[fits, scored.y_pred[fits]] = True
    return pd.DataFrame({
        "repeat": rows["repeat"].to_numpy(),
        "group": rows["group"].astype(object).where(rows["group"].notna(), rows["image"]).to_numpy(),
        "covered": sets[np.arange(len(sets)), scored.y_true],
        "size": sets.sum(axis=1),
        "right": scored.y_true == scored.y_pred,
    })  # fmt: skip


def _mean_over_repeats(answers: pd.DataFrame) -> dict[str, float | None]:
    each = []
    for _, rows in answers.groupby("repeat"):
        answered = rows[rows["size"] == 1]
        by_group = rows.groupby("group")["covered"].mean().mean()
        shares = (rows["covered"].mean(), by_group, len(answered) / len(rows), answered["right"].mean())
        each.append((*shares, rows["size"].mean()))
    means = np.mean(each, axis=0)  # NaN where a repeat answers nothing
    return {name: None if np.isnan(mean) else float(mean) for name, mean in zip(_FIGURES, means, strict=True)}


def _confidence(rows: pd.DataFrame, record: Record) -> tuple[Floats, Flags]:
    """Give the highest probability of each image, and whether its predicted class is wrong."""
    scored = scored_of(rows, record)
    return scored.scores.max(axis=1), scored.y_true != scored.y_pred


def _risks(confidence: Floats, wrong: Flags) -> tuple[Floats, Floats]:
    """Give coverage and risk after each distinct confidence, the highest first."""
    # Sorted by the negative value: the surest come first.
    _, level = np.unique(-np.round(confidence, _SAME_CONFIDENCE_DECIMALS), return_inverse=True)
    answered = np.cumsum(np.bincount(level))
    errors = np.cumsum(np.bincount(level, wrong))
    return answered / len(confidence), errors / answered


def _outliers(rows: pd.DataFrame) -> dict[str, Any] | None:
    if "outlier_score" not in rows or not rows["outlier_score"].notna().any():
        return None
    known = rows[rows["outlier_score"].notna()]
    refused = (known["outlier_score"] > 1).groupby(known["repeat"]).mean()
    return {"refused": float(refused.mean()), "images": int((known["repeat"] == known["repeat"].min()).sum())}


def _refusals(rows: pd.DataFrame, record: Record) -> dict[str, Any] | None:
    """Give what the predictions themselves left unanswered: `answered` (share), `accuracy_answered`, images by `reasons`."""
    if "refusal" not in rows:
        return None
    scored, answered = scored_of(rows, record), rows["refusal"].isna().to_numpy(np.bool_)
    right = scored.y_true == scored.y_pred
    return {
        "answered": float(answered.mean()),
        "accuracy_answered": float(right[answered].mean()) if answered.any() else None,
        "reasons": {str(reason): int(count) for reason, count in rows["refusal"].value_counts().items()},
    }


def _lack(test: bool, validation: bool) -> str:
    if not test:
        return "No test images: prediction sets cannot be measured."
    if not validation:
        return "No validation images: prediction sets cannot be calibrated."
    return "Some folds have no validation images: prediction sets cannot be calibrated."


def _notes(entries: list[Record], unknown: int, images: int) -> list[str]:
    sentences = []
    short = [entry for entry in entries if entry["promised"] is None]
    if short:
        alphas = ", ".join(f"{entry['alpha']:g}" for entry in short)
        sentences.append(f"Too few subject groups in validation for prediction sets at alpha {alphas}: {short[0]['groups']}, "
                         f"where {short[0]['groups_needed']} are needed at {short[0]['alpha']:g}.")  # fmt: skip
    if unknown:
        sentences.append(f"{unknown} of {images} validation images have no known subject and count as one each: the prediction "
                         "sets promise nothing for new subjects.")  # fmt: skip
    return sentences
