"""From the scores of a subject's images to an answer about the subject, and how good these answers are.

In: a table of predictions of one side, its record, and how intervals are drawn. Out: JSON-able numbers, lists and notes.
Writes: nothing.

Two rules. `mean_logit`: the mean, over a subject's images, of how far the logit of the positive probability lies above that
of the threshold is 0 or more; folds with thresholds of their own can so be pooled. `share`: at least half of the subject's
images are called positive (a majority vote).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from leukolens.artifacts import Record
from leukolens.decision.threshold import UNTUNED
from leukolens.decision.validation import log_scores
from leukolens.errors import ArtifactError
from leukolens.evaluation.intervals import interval_of, refusal
from leukolens.evaluation.metrics import Floats, auroc
from leukolens.evaluation.resampling import Clusters, areas, resample
from leukolens.settings import EvaluateSettings

MAJORITY = 0.5

# Scores whose mean is the threshold but for rounding are at it.
LEAST_MARGIN = -1e-9


def subject_figures(table: pd.DataFrame, record: Record, settings: EvaluateSettings) -> Record | None:
    """Give the record `subject_level` of one side.

    Args:
        table: the side's rows of predictions; images without a subject are left out. With several repeats, figures are
            means over them, and `rows` are those of the first.
        record: theirs; `decisions` has the threshold of each repeat and fold.
        settings: confidence, resamples, seed, and the subject groups that a class needs for the interval of AUROC.

    Returns:
        `subjects` (count), `classes` (count by name), `rows` (`subject`, `label`, `images`, `mean_logit`: of the positive
        probability, `share_positive`: of images called positive), `auroc` of the mean logit (None where all subjects are
        on one side), `auroc_interval` (by bootstrap over subject groups, or None), `rules` (`mean_logit` and `share`, each
        with `sensitivity` and `specificity` over subjects, None where no such subject, and `_interval`s), `notes`. None
        where no positive class is named or no subject known.

    Raises:
        ArtifactError: the images of a subject are of two classes; names it.
    """
    known = table[table["subject"].notna()]
    if known.empty or not record["positive"]:
        return None
    each = [subjects_of(rows, record).assign(repeat=repeat) for repeat, rows in known.groupby("repeat", sort=True)]
    every, first = pd.concat(each, ignore_index=True), each[0]
    clusters = Clusters.of(every.rename(columns={"subject": "image", "label": "y_true"}))
    area, interval, area_notes = _auroc(every, clusters, settings)
    return {
        "subjects": len(first),
        "classes": {name: int((first["label"] == name).sum()) for name in record["classes"]},
        "rows": _rows(first),
        "auroc": area,
        "auroc_interval": interval,
        "rules": {
            "mean_logit": _rule(every, "excess", LEAST_MARGIN, settings.confidence),
            "share": _rule(every, "share_positive", MAJORITY, settings.confidence),
        },
        "notes": [*area_notes, *_notes(known, every, clusters, record)],
    }


def subjects_of(rows: pd.DataFrame, record: Record) -> pd.DataFrame:
    """Give one row per subject, in the order of their ids.

    Args:
        rows: predictions of one side and repeat, all of known subject.
        record: theirs; names a positive class.

    Returns:
        Columns `subject`, `label` (its class), `positive` (bool: it is a positive one), `group` (the
        subject where none is known), `images` (count),
        `mean_logit` (natural logarithm of the odds), `excess` (mean of logit - logit of the threshold of its fold),
        `share_positive` (0–1, of images whose predicted class is positive).

    Raises:
        ArtifactError: the images of a subject are of two classes; names it.
    """
    images = pd.DataFrame({
        "subject": rows["subject"].astype(object),
        "label": rows["y_true"].astype(object),
        "positive": rows["y_true"].isin(record["positive"]).astype(bool),
        "group": rows["group"].astype(object).where(rows["group"].notna(), rows["subject"]),
        "logit": positive_logit(rows, record),
        "excess": positive_margin(rows, record),
        "called": rows["y_pred"].isin(record["positive"]).astype(float),
    })  # fmt: skip
    by_subject = images.groupby("subject", sort=True)
    _refuse_two_labels(by_subject["label"].unique())
    return by_subject.agg(
        label=("label", "first"),
        positive=("positive", "first"),
        group=("group", "first"),
        images=("logit", "size"),
        mean_logit=("logit", "mean"),
        excess=("excess", "mean"),
        share_positive=("called", "mean"),
    ).reset_index()


def positive_logit(rows: pd.DataFrame, record: Record) -> Floats:
    """Natural logarithm of the odds of the positive class or classes: float64 [n].

    From the scores on both sides, so that 1 - 1e-9 loses no digit; a side below 1e-12 counts as that, which bounds the
    logit at 27.6 and keeps one saturated image from outvoting all others of its subject.
    """
    positive = [f"score_{name}" for name in record["classes"] if name in record["positive"]]
    negative = [f"score_{name}" for name in record["classes"] if name not in record["positive"]]
    return _log_odds(*(rows[names].sum(axis=1).to_numpy(np.float64) for names in (positive, negative)))


def positive_margin(rows: pd.DataFrame, record: Record) -> Floats:
    """How far `positive_logit` lies above the logit of the threshold of its repeat and fold: float64 [n].

    Positive from LEAST_MARGIN on. Margins of folds with thresholds of their own can be averaged, scores cannot. A fold
    without a threshold is held against 0.5.
    """
    margin: Floats = positive_logit(rows, record) - _threshold_logit(rows, record)
    return margin


def wilson_interval(share: float, count: int, confidence: float) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), without continuity correction.

    Args:
        share: proportion observed, 0–1; `share` x `count` need not be whole, so that a mean over repeats can be given.
        count: independent trials, at least 1.
        confidence: such as 0.95.

    Returns:
        Low and high, 0–1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _auroc(
    every: pd.DataFrame, clusters: Clusters, settings: EvaluateSettings
) -> tuple[float | None, list[float] | None, list[str]]:
    """Give AUROC over subjects, its interval, and why there is none; `every` has one row per subject and repeat."""
    truth, score = every["positive"].to_numpy(bool), every["mean_logit"].to_numpy(np.float64)
    repeats = [np.flatnonzero(every["repeat"] == repeat) for repeat in every["repeat"].unique()]
    measured = [auroc(truth[rows], score[rows]) for rows in repeats]
    if None in measured:
        return None, None, ["All subjects are on one side of the positive class: AUROC over subjects is undefined."]
    area = float(np.mean(measured))  # type: ignore[arg-type]  # no None is left
    if reason := refusal(clusters, settings):
        return area, None, [f"No interval for AUROC over subjects: {reason.removeprefix('No interval: ')}"]
    weights = resample(clusters, settings)
    samples = [areas(truth[rows], score[rows], weights, clusters.of_row[rows])["auroc"] for rows in repeats]
    interval = interval_of(np.mean(samples, axis=0), area, clusters, settings, "auroc")
    if interval is None:
        return area, None, ["No interval for AUROC over subjects: it does not vary over the resamples."]
    return area, [float(end) for end in interval], []


def _rule(every: pd.DataFrame, column: str, least: float, confidence: float) -> dict[str, Any]:
    """Give sensitivity and specificity of calling a subject positive where `column` is at least `least`."""
    called = every[column] >= least
    figures: dict[str, Any] = {}
    for name, side in (("sensitivity", True), ("specificity", False)):
        of_side = every["positive"] == side
        subjects = every.loc[of_side, "subject"].nunique()
        right = (called[of_side] == side).groupby(every.loc[of_side, "repeat"]).mean()
        share = float(right.mean()) if subjects else None
        figures[name] = share
        figures[f"{name}_interval"] = None if share is None else list(wilson_interval(share, subjects, confidence))
    return figures


def _rows(subjects: pd.DataFrame) -> list[dict[str, Any]]:
    columns = ["subject", "label", "images", "mean_logit", "share_positive"]
    return [{str(name): value for name, value in row.items()} for row in subjects[columns].to_dict("records")]


def _log_odds(positive: Floats, negative: Floats) -> Floats:
    odds: Floats = log_scores(positive) - log_scores(negative)
    return odds


def _threshold_logit(rows: pd.DataFrame, record: Record) -> Floats:
    known = {(each["repeat"], each["fold"]): each["threshold"] for each in record["decisions"]}
    keys = zip(rows["repeat"].tolist(), rows["fold"].tolist(), strict=True)
    fitted = [known.get(key) for key in keys]
    values = np.array([UNTUNED if value is None else value for value in fitted], np.float64)
    return _log_odds(values, 1 - values)


def _refuse_two_labels(labels: pd.Series[Any]) -> None:
    torn = labels[labels.map(len) > 1]
    if not torn.empty:
        raise ArtifactError(
            f"Subject {torn.index[0]} cannot be judged as a whole.",
            expected="one class for all images of a subject",
            received=f"images of {' and '.join(torn.iloc[0])}",
            remedy="correct the labels, or give the subject's samples ids of their own",
        )


def _notes(known: pd.DataFrame, every: pd.DataFrame, clusters: Clusters, record: Record) -> list[str]:
    sentences = []
    fitted = {(each["repeat"], each["fold"]) for each in record["decisions"] if each["threshold"] is not None}
    if not set(zip(known["repeat"].tolist(), known["fold"].tolist(), strict=True)) <= fitted:
        sentences.append(f"No threshold is on record for some or all images: the mean logit is held against {UNTUNED:g}.")
    groups, subjects = len(clusters.stratum), every["subject"].nunique()
    if groups < subjects:
        sentences.append(f"{subjects} subjects stand in {groups} groups that share images: the intervals of sensitivity "
                         "and specificity take subjects as independent and are too narrow.")  # fmt: skip
    if known["repeat"].nunique() > 1:
        sentences.append("Sensitivity and specificity are means over the repeats; their intervals count each subject once.")
    return sentences
