"""Every scalar figure of one side, measured again on many resamples of whole subject groups at once.

In: rows of predictions of one side. Out: clusters, a matrix of weights, and for each figure one value per resample.
Writes: nothing.

Cells of one subject resemble each other, so that subjects, not cells, are what a resample draws (Davison & Hinkley 1997,
section 3.8; Field & Welsh 2007). A resample is a row of weights, one per cluster; every image of a cluster bears its weight.
The same weights used for several models give paired differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import Record
from leukolens.evaluation.calibration import brier_of_images, equal_mass_bins, event_of
from leukolens.evaluation.metrics import Scored, has_folds, scored_of
from leukolens.settings import EvaluateSettings

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

SUBJECT_GROUP, IMAGE = "subject group", "image"

_BINARY = 2
# Clusters of several classes form a stratum of their own from so many on, the least that intervals were simulated with
# (docs/decisions/0012); a stratum of one could not be resampled at all.
_LEAST_JOINED = 5
# Weights of 64 resamples x 10,661 images are 5 MB: they stay in the processor's cache while they are summed.
_CHUNK_NUMBERS = 700_000


@dataclass(frozen=True, eq=False)  # eq=False: compared and hashed as the object it is, arrays have no hash
class Clusters:
    """What a resample draws.

    `of_row` int64 [n]: cluster of each row. `stratum` int64 [G]: position in `names` of each cluster's stratum.
    `names`: the strata, class names (joined by "+" where the images of its clusters are of several classes). `unit`:
    "subject group", or "image" where no subject is known. `classes`: the class names that occur, sorted. `images` int64
    [G, classes]: images of each cluster by class, each counted once however many repeats have it. `unknown`: how many
    clusters are single images of unknown subject.
    """

    of_row: Indices
    stratum: Indices
    names: tuple[str, ...]
    unit: str
    classes: tuple[str, ...]
    images: Indices
    unknown: int

    @cached_property
    def sizes(self) -> Indices:
        """Int64 [G]: images of each cluster."""
        total: Indices = self.images.sum(axis=1)
        return total

    @property
    def groups(self) -> dict[str, int]:
        """How many clusters hold images of each class."""
        return dict(zip(self.classes, map(int, (self.images > 0).sum(axis=0)), strict=True))

    @property
    def effective_groups(self) -> dict[str, float]:
        """Kish's (1965) effective number of clusters of each class, (sum n)^2 / sum n^2 over their images n.

        It is the number of clusters where all have the same size, and near 1 where one of them holds nearly all images.
        """
        squares = (self.images.astype(np.float64) ** 2).sum(axis=0)
        return dict(zip(self.classes, map(float, self.images.sum(axis=0) ** 2 / squares), strict=True))

    @classmethod
    def of(cls, table: pd.DataFrame) -> Clusters:
        """Cluster the rows of a table of predictions by `group`; an image without one is a cluster of its own.

        Clusters stand in the order of their names, whatever that of the rows: two tables of the same images have the
        same clusters. Fewer than 5 clusters with the same several classes join the stratum of the class that most of
        their images are of.

        Args:
            table: rows with `image`, `group` and `y_true`, of one or several repeats.
        """
        known = table["group"].notna()
        name = table["group"].astype(object).where(known, table["image"].astype(object)).astype(str)
        # The prefix keeps a group named like an image apart from it.
        of_row, clusters = pd.factorize(known.map({True: "group ", False: "image "}) + name, sort=True)
        once = ~table["image"].duplicated().to_numpy()
        counts = pd.crosstab(of_row[once], table["y_true"].astype(str).to_numpy()[once])
        stratum, names = pd.factorize(_strata(counts), sort=True)
        return cls(
            of_row=of_row.astype(np.int64),
            stratum=stratum.astype(np.int64),
            names=tuple(map(str, names)),
            unit=SUBJECT_GROUP if known.any() else IMAGE,
            classes=tuple(map(str, counts.columns)),
            images=counts.to_numpy(np.int64),
            unknown=sum(cluster.startswith("image ") for cluster in clusters),
        )


def _strata(counts: pd.DataFrame) -> pd.Series[str]:
    """Name the stratum of each cluster from its images by class."""
    names = counts.columns.to_numpy()
    labels = pd.Series(["+".join(names[row > 0]) for row in counts.to_numpy()])
    joined = (counts > 0).sum(axis=1).to_numpy() > 1
    few = joined & (labels.map(labels.value_counts()) < _LEAST_JOINED).to_numpy()
    return labels.where(~few, names[counts.to_numpy().argmax(axis=1)])


def resample(clusters: Clusters, settings: EvaluateSettings) -> Floats:
    """Draw the weights of all resamples.

    Within each stratum n - 1 of its n clusters are drawn with replacement, and weigh n / (n - 1) for each time drawn:
    the rescaled bootstrap (Rao & Wu 1988), whose variance is not too small by the factor (n - 1) / n. Then the weights
    are scaled so that every stratum keeps its number of images: the figures are those of the class mix at hand.

    Returns:
        Float64 [resamples, clusters], not negative; the same for the same clusters, seed and number of resamples.
    """
    random = np.random.default_rng(settings.seed)
    weights = np.ones((settings.resamples, len(clusters.stratum)))
    for stratum in range(len(clusters.names)):
        members = np.flatnonzero(clusters.stratum == stratum)
        if len(members) > 1:
            weights[:, members] = _draw(clusters.sizes[members], settings.resamples, random)
    return weights


def _draw(sizes: Indices, resamples: int, random: np.random.Generator) -> Floats:
    counts = random.multinomial(len(sizes) - 1, np.full(len(sizes), 1 / len(sizes)), size=resamples)
    scaled: Floats = counts * (sizes.sum() / (counts @ sizes))[:, None]
    return scaled


def measured_figures(table: pd.DataFrame, record: Record) -> dict[str, float | None]:
    """Give every scalar figure of the rows themselves: the mean over repeats of `resampled_figures` with weights 1.

    Returns:
        Figures by name; None where one is undefined in any repeat.
    """
    clusters = Clusters.of(table)
    figures = resampled_figures(table, record, np.ones((1, len(clusters.stratum))), clusters)
    return {name: None if np.isnan(values[0]) else float(values[0]) for name, values in figures.items()}


def resampled_figures(table: pd.DataFrame, record: Record, weights: Floats, clusters: Clusters) -> dict[str, Floats]:
    """Measure every scalar figure of `metrics.measure`, `ece` and `brier` on each resample, of folds `auroc_within_folds` too.

    Args:
        table: rows of predictions of one side, of one or several repeats.
        record: that of the predictions; `classes` and `positive` are read.
        weights: float64 [B, G] from `resample`.
        clusters: of this table.

    Returns:
        Float64 [B] by name of the figure, the mean over the repeats; NaN where a resample leaves it undefined. A figure
        that no resample could define (sensitivity without a positive class) is NaN throughout.
    """
    repeats = table["repeat"].to_numpy() if "repeat" in table else np.zeros(len(table), np.int64)
    several, parts = has_folds(table), []
    for repeat in np.unique(repeats):
        rows = np.flatnonzero(repeats == repeat)
        scored, of_row = scored_of(table.iloc[rows], record), clusters.of_row[rows]
        figures = _figures(scored, weights, of_row)
        if several:
            figures["auroc_within_folds"] = _within_folds(scored, table["fold"].to_numpy()[rows], weights, of_row)
        parts.append(figures)
    return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}


def _figures(scored: Scored, weights: Floats, of_row: Indices) -> dict[str, Floats]:
    confusion = _confusion(scored, weights, of_row)
    return {
        **overall(confusion),
        **averages(confusion),
        **_positive_rates(confusion, scored.positive_indices),
        **_areas(scored, weights, of_row),
        "ece": _ece(scored, weights, of_row),
        "brier": _brier(scored, weights, of_row),
    }


def _confusion(scored: Scored, weights: Floats, of_row: Indices) -> Floats:
    """Weighted counts, float64 [B, classes, classes]: true by predicted."""
    size = len(scored.classes)
    counts = np.zeros((weights.shape[1], size, size))
    np.add.at(counts, (of_row, scored.y_true, scored.y_pred), 1)
    return (weights @ counts.reshape(len(counts), -1)).reshape(-1, size, size)


def overall(confusion: Floats) -> dict[str, Floats]:
    """Give accuracy, balanced accuracy and MCC of weighted confusion matrices [B, classes, classes]."""
    true, predicted, hits = _margins(confusion)
    total = true.sum(axis=1)
    present = true > 0
    several = present.sum(axis=1) > 1
    recall = np.where(present, _ratio(hits, true), 0).sum(axis=1)
    covariance = hits.sum(axis=1) * total - (true * predicted).sum(axis=1)
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1))
    # Rounding leaves about 1e-16 of total^4 where only one class is predicted; MCC is 0 there by definition.
    flat = spread <= 1e-12 * total**4
    mcc = np.where(flat, 0, covariance / np.sqrt(np.where(flat, 1, spread)))
    return {
        "accuracy": _ratio(hits.sum(axis=1), total),
        "balanced_accuracy": np.where(several, recall / np.maximum(present.sum(axis=1), 1), np.nan),
        "mcc": np.where(several, mcc, np.nan),
    }


def averages(confusion: Floats) -> dict[str, Floats]:
    """Give precision, recall and F1, `_weighted` and `_macro`, of weighted confusion matrices [B, classes, classes].

    As `metrics.averages`: over the classes that occur as true or predicted; precision of one never predicted is 0.
    """
    true, predicted, hits = _margins(confusion)
    occurs = (true > 0) | (predicted > 0)
    values = {"precision": _ratio(hits, predicted), "recall": _ratio(hits, true), "f1": _ratio(2 * hits, true + predicted)}
    figures = {}
    for average, weight in (("weighted", true), ("macro", occurs.astype(np.float64))):
        for name, value in values.items():
            figures[f"{name}_{average}"] = _ratio((np.nan_to_num(value) * weight).sum(axis=1), weight.sum(axis=1))
    return figures


def _positive_rates(confusion: Floats, positive: list[int]) -> dict[str, Floats]:
    if not positive:
        return dict.fromkeys(("sensitivity", "specificity"), np.full(len(confusion), np.nan))
    negative = [index for index in range(confusion.shape[1]) if index not in positive]
    found = confusion[:, positive][:, :, positive].sum(axis=(1, 2))
    cleared = confusion[:, negative][:, :, negative].sum(axis=(1, 2))
    return {
        "sensitivity": _ratio(found, confusion[:, positive].sum(axis=(1, 2))),
        "specificity": _ratio(cleared, confusion[:, negative].sum(axis=(1, 2))),
    }


def _areas(scored: Scored, weights: Floats, of_row: Indices) -> dict[str, Floats]:
    figures = dict.fromkeys(("auroc", "auprc"), np.full(len(weights), np.nan))
    if scored.positive:
        figures = areas(scored.is_positive, scored.positive_score, weights, of_row)
    if len(scored.classes) > _BINARY:
        each = [areas(scored.y_true == index, scored.scores[:, index], weights, of_row) for index in range(len(scored.classes))]
        figures |= {f"{name}_macro_ovr": np.mean([one[name] for one in each], axis=0) for name in ("auroc", "auprc")}
    return figures


def areas(truth: Flags, score: Floats, weights: Floats, of_row: Indices) -> dict[str, Floats]:
    """Give AUROC and AUPRC of every resample; images are sorted once, then weighted counts are summed down the ranking.

    Ties and weights are handled as by scikit-learn's `roc_auc_score` and `average_precision_score`: images of one score
    form one step of the curve.

    Args:
        truth: bool [n].
        score: float64 [n].
        weights: float64 [B, G].
        of_row: int64 [n], column of `weights` that each image belongs to.

    Returns:
        `auroc`, `auprc`: float64 [B], NaN where a resample holds only one kind.
    """
    parts = [_curve_areas(hits, total) for hits, total in _down_the_ranking(truth, score, weights, of_row)]
    auroc, auprc = np.concatenate(parts, axis=1)
    return {"auroc": auroc, "auprc": auprc}


def _within_folds(scored: Scored, fold: Indices, weights: Floats, of_row: Indices) -> Floats:
    """AUROC within folds [B] as `metrics.auroc_within_folds`: the weights of ordered pairs of one fold over those of all."""
    ordered, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    truth, score = scored.is_positive, scored.positive_score
    for each in np.unique(fold) if scored.positive else ():
        rows = np.flatnonzero(fold == each)
        ranked = _down_the_ranking(truth[rows], score[rows], weights, of_row[rows])
        of_fold = np.concatenate([_pairs(hits, total) for hits, total in ranked], axis=1)
        ordered, pairs = ordered + of_fold[0], pairs + of_fold[1]
    return _ratio(ordered, pairs)


def _down_the_ranking(truth: Flags, score: Floats, weights: Floats, of_row: Indices) -> Iterator[tuple[Floats, Floats]]:
    """Weight of the positives and of all images from the highest score down to each distinct one, some resamples at a time.

    Yields:
        Two float64 [resamples, steps].
    """
    order = np.argsort(-score, kind="stable")
    steps = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    of_sorted, positive = of_row[order], truth[order].astype(np.float64)
    chunk = max(1, _CHUNK_NUMBERS // len(score))
    for start in range(0, len(weights), chunk):
        weight = weights[start : start + chunk][:, of_sorted]
        yield np.cumsum(weight * positive, axis=1)[:, steps], np.cumsum(weight, axis=1)[:, steps]


def _pairs(hits: Floats, total: Floats) -> Floats:
    """Weight of the pairs of a positive and a negative in the right order, ties one half, and of all: float64 [2, B]."""
    gained = np.diff(hits, axis=1, prepend=0)
    # Every negative passed at a step stands below the hits before it and level with half of those gained.
    misses = np.diff(total, axis=1, prepend=0) - gained
    return np.stack([((hits - gained / 2) * misses).sum(axis=1), hits[:, -1] * (total[:, -1] - hits[:, -1])])


def _curve_areas(hits: Floats, total: Floats) -> Floats:
    """AUROC and AUPRC, float64 [2, B], from `_down_the_ranking`; NaN where there is no pair."""
    ordered, pairs = _pairs(hits, total)
    gained = np.diff(hits, axis=1, prepend=0)
    precision = (gained * np.nan_to_num(_ratio(hits, total))).sum(axis=1)
    return np.stack([_ratio(ordered, pairs), np.where(pairs > 0, _ratio(precision, hits[:, -1]), np.nan)])


def _ece(scored: Scored, weights: Floats, of_row: Indices) -> Floats:
    """Expected calibration error [B] as `calibration.ece_equal_mass`; every resample has the bins of the original sample.

    Bins that moved with the resample would hide from it that a bin's gap is partly chance.
    """
    probability, event = event_of(scored)
    bins = equal_mass_bins(probability)
    gaps = np.zeros((weights.shape[1], bins.max() + 1))
    np.add.at(gaps, (of_row, bins), probability - event)
    return _ratio(np.abs(weights @ gaps).sum(axis=1), weights @ np.bincount(of_row, minlength=weights.shape[1]))


def _brier(scored: Scored, weights: Floats, of_row: Indices) -> Floats:
    """Brier score [B], the mean of `calibration.brier_of_images`."""
    size = weights.shape[1]
    sums = np.bincount(of_row, brier_of_images(scored), minlength=size)
    return _ratio(weights @ sums, weights @ np.bincount(of_row, minlength=size))


def _margins(confusion: Floats) -> tuple[Floats, Floats, Floats]:
    return confusion.sum(axis=2), confusion.sum(axis=1), np.diagonal(confusion, axis1=1, axis2=2)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide where the denominator is above 0; NaN elsewhere."""
    result: Floats = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
