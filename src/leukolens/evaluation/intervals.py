"""Confidence intervals from resamples of subject groups, and the plain words where there can be none.

In: a figure's values on the resamples of `resampling`, or rows of predictions of one side. Out: the ends of intervals, and
the record `intervals` of a side. Writes: nothing.

Few subjects of very unequal size make the usual percentile interval too narrow. Three things mend that; each was chosen by
simulation (benchmarks/interval_coverage.py, docs/decisions/0012): the standard error of the resamples is widened to what it
would be without bias if subjects were exchangeable; it is multiplied by a t quantile whose degrees of freedom fall with the
effective number of groups; and figures with a range are handled on the logit scale, so that the ends stay in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from leukolens.artifacts import Record
from leukolens.errors import ArtifactError
from leukolens.evaluation.resampling import IMAGE, Clusters, measured_figures, resample, resampled_figures
from leukolens.settings import EvaluateSettings

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

ECE = "ece"
# Lowest and highest value; every figure not named here lies in 0–1. The Brier score over several classes reaches 2.
RANGES = {"mcc": (-1.0, 1.0), "brier": (0.0, 2.0)}
MOST_UNDEFINED = 0.01
"""Share of resamples that may leave a figure undefined; beyond it, the rest no longer stand for all."""
LEAST_EFFECTIVE_GROUPS = 2.0
"""Kish's effective number of groups that each class needs: just below the most unequal simulated setting (2.1)."""
FRAGILE_EFFECTIVE_GROUPS = 5.0
"""Below this the note says how much of a class is one subject."""

# As many clusters as this are told apart by 2,000 resamples; more make their influences guesswork.
_MOST_INFLUENCES = 200
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class _Design:
    """What the sizes of the clusters say about the resamples, whatever the figure.

    `shares` float64 [B, G - strata]: centred share of each cluster but the last in its stratum's images, stratum by
    stratum (`of_column` int64 says which); None where the clusters are too many. `factors` float64 [strata]: by how much
    the resamples' variance is too small. `degrees` float64 [strata]: degrees of freedom.
    """

    shares: Floats | None
    of_column: Indices
    inverse: Floats | None
    factors: Floats
    degrees: Floats


def figure_intervals(table: pd.DataFrame, record: Record, settings: EvaluateSettings) -> Record:
    """Give the interval of every scalar figure of one side.

    Args:
        table: rows of predictions of one side, of one or several repeats; rows of all repeats are resampled together.
        record: that of the predictions.
        settings: resamples, confidence, minimum_groups, seed.

    Returns:
        `unit` ("subject group" or "image"), `groups` and `effective_groups` (of each class; see `Clusters`), `intervals`
        ([low, high] of each figure, None where the figure is undefined or the groups do not suffice) and `note`
        (sentences on why there is none or how far they can be trusted; None where there is nothing to say).
    """
    clusters = Clusters.of(table)
    figures = measured_figures(table, record)
    reason = refusal(clusters, settings)
    intervals: dict[str, list[float] | None] = dict.fromkeys(figures)
    sentences = [reason] if reason else cautions(clusters)
    if reason is None:
        samples = resampled_figures(table, record, resample(clusters, settings), clusters)
        for name, value in figures.items():
            ends = None if value is None else interval_of(samples[name], value, clusters, settings, name)
            intervals[name] = None if ends is None else list(ends)
            if value is not None and ends is None:
                sentences.append(_undefined(name, samples[name]))
    return {
        "unit": clusters.unit,
        "groups": clusters.groups,
        "effective_groups": clusters.effective_groups,
        "intervals": intervals,
        "note": " ".join(sentences) or None,
    }


def refusal(clusters: Clusters, settings: EvaluateSettings) -> str | None:
    """Say why these clusters allow no interval: a class of too few groups, or of one that holds nearly all images.

    Returns:
        One sentence that names each such class; None where intervals can be given.
    """
    few = [f"{name} has {count} {_units(clusters, count)}" for name, count in clusters.groups.items()
           if count < settings.minimum_groups]  # fmt: skip
    if few:
        return f"No interval: {'; '.join(few)}; an interval needs {settings.minimum_groups} of each class."
    for name, number in clusters.effective_groups.items():
        if number < LEAST_EFFECTIVE_GROUPS:
            return (f"No interval: {_dominance(clusters, name)}, and an interval needs the weight of "
                    f"{LEAST_EFFECTIVE_GROUPS:g}.")  # fmt: skip
    return None


def cautions(clusters: Clusters) -> list[str]:
    """Say, one sentence each, how far intervals from these clusters can be trusted; empty where nothing is to be said."""
    sentences = []
    if clusters.unit == IMAGE:
        sentences.append("No subject is known, so images are drawn as if each were of a subject of its own. Images of one "
                         "subject resemble each other: the true intervals are wider.")  # fmt: skip
    elif clusters.unknown:
        sentences.append(f"{clusters.unknown} of {clusters.images.sum()} images have no known subject and are drawn as "
                         "subjects of their own, which makes the intervals too narrow if some share one.")  # fmt: skip
    few = [name for name, number in clusters.effective_groups.items() if number < FRAGILE_EFFECTIVE_GROUPS]
    if few:
        sentences.append(f"{'; '.join(_dominance(clusters, name) for name in few)}. Intervals are wide and hang on few "
                         "subjects.")  # fmt: skip
    return sentences


def interval_of(
    samples: Floats, estimate: float, clusters: Clusters, settings: EvaluateSettings, figure: str | None = None
) -> tuple[float, float] | None:
    """Give the confidence interval of one figure, or of a difference of two.

    estimate ± t · standard error, both from `_spread`, on the logit scale of the figure's range by the delta method (for
    AUROC: Pepe 2003, section 5.2.5). `ece` is never negative and chance makes it larger, so its low end comes from its
    square, whose bias is the same whatever the true value: E[(d + noise)^2] = d^2 + variance.

    At the end of a figure's range (all images right) resamples do not vary. The other end is then, as a share of the
    range, (1 - confidence) / 2 to the power 1 / effective groups of the smallest class: the exact bound for a share when
    every group counts as one trial (Clopper & Pearson 1934 with the effective sample size of Korn & Graubard 1998).

    Args:
        samples: float64 [B], the figure (or difference) on the resamples that `resample(clusters, settings)` drew.
        estimate: its value on the data themselves.
        clusters: what was drawn.
        settings: resamples, confidence, minimum_groups, seed.
        figure: its name, which says its range; None for a difference, which is taken as it is.

    Returns:
        (low, high), the estimate between them; None where `refusal` has a reason, where more than MOST_UNDEFINED of the
        resamples are NaN, or where a difference does not vary at all.

    Raises:
        ArtifactError: the samples are not as many as the resamples.
    """
    if len(samples) != settings.resamples:
        raise ArtifactError(
            "The values cannot be of these resamples.",
            expected=f"{settings.resamples} values, one per resample",
            received=f"{len(samples)} values",
            remedy="pass the settings that the weights were drawn with",
        )
    if refusal(clusters, settings) is not None or np.isnan(samples).mean() > MOST_UNDEFINED:
        return None
    error, degrees, rise = _spread(samples, clusters, settings)
    reach = error * float(student.ppf(0.5 + settings.confidence / 2, degrees))
    if figure is None:
        return None if error < _NO_SPREAD else (estimate - reach, estimate + reach)
    if error < _NO_SPREAD:
        return _at_the_end(estimate, clusters, settings, figure)
    if figure == ECE:
        return _ece_interval(samples, estimate, reach, rise)
    return _on_logit_scale(estimate, reach, RANGES.get(figure, (0.0, 1.0)))


def _spread(samples: Floats, clusters: Clusters, settings: EvaluateSettings) -> tuple[float, float, float]:
    """Give standard error, degrees of freedom, and the factor by which the resamples' variance was raised.

    The strata are drawn independently, so the variance of the samples is the sum of what each contributes, found by
    regressing the samples on the clusters' shares. Each part is raised by its stratum's factor; the degrees of freedom
    of the sum are Satterthwaite's (1946).
    """
    design = _design(clusters, settings.resamples, settings.seed)
    known = samples[~np.isnan(samples)]
    variance = float(known.var())
    if design.shares is None or design.inverse is None:
        # Too many clusters to part the variance: as if the least certain stratum made all of it.
        factor, degrees = float(design.factors.max()), float(design.degrees.min())
        return math.sqrt(variance * factor), degrees, factor
    centred = np.where(np.isnan(samples), 0, samples - known.mean())
    slope = design.inverse @ centred
    parts = np.array(
        [(design.shares[:, column] @ slope[column]).var()
         for column in (design.of_column == stratum for stratum in range(len(clusters.names)))]
    )  # fmt: skip
    total = parts.sum()
    if total < _NO_SPREAD**2:
        return math.sqrt(variance), float(design.degrees.min()), 1.0
    raised = parts / total * design.factors
    factor = float(raised.sum())
    return math.sqrt(variance * factor), float(factor**2 / (raised**2 / design.degrees).sum()), factor


@lru_cache(maxsize=16)
def _design(clusters: Clusters, resamples: int, seed: int) -> _Design:
    members = [np.flatnonzero(clusters.stratum == stratum) for stratum in range(len(clusters.names))]
    degrees = np.array([_degrees(clusters.sizes[each]) for each in members])
    if len(clusters.stratum) > _MOST_INFLUENCES:
        factors = np.array([_linear_factor(clusters.sizes[each]) for each in members])
        return _Design(None, np.zeros(0, np.int64), None, factors, degrees)
    weights = resample(clusters, EvaluateSettings(resamples=resamples, seed=seed))
    every = [weights[:, each] * clusters.sizes[each] / clusters.sizes[each].sum() for each in members]
    factors = np.array([_factor(clusters.sizes[each], share) for each, share in zip(members, every, strict=True)])
    shares = np.concatenate([share[:, :-1] - share[:, :-1].mean(axis=0) for share in every], axis=1)
    of_column = np.repeat(np.arange(len(members)), [len(each) - 1 for each in members])
    return _Design(shares, of_column, np.linalg.pinv(shares), factors, degrees)


def _factor(sizes: Indices, shares: Floats) -> float:
    """By how much the resamples' variance of a stratum's mean is too small when its clusters are exchangeable.

    With one variance s^2 of every cluster's mean, the mean over images varies by s^2 sum w^2 (w: shares of the images),
    and its resamples by s^2 times the summed variances of the resampled shares. The quotient is 1 for equal sizes, and
    2 to 3 where one of two dozen clusters holds two thirds of the images. Never below 1.
    """
    spread = float(shares.var(axis=0).sum())
    return max(1.0, float(((sizes / sizes.sum()) ** 2).sum()) / spread) if spread > 0 else 1.0


def _linear_factor(sizes: Indices) -> float:
    """`_factor` for small resampled deviations, in closed form: no resamples are needed."""
    share = sizes / sizes.sum()
    squares, cubes, count = float((share**2).sum()), float((share**3).sum()), len(sizes)
    return max(1.0, (count - 1) / count / (1 - 2 * cubes / squares + squares)) if count > 1 else 1.0


def _degrees(sizes: Indices) -> float:
    """Degrees of freedom of a stratum: the geometric mean of its clusters' number and Kish's effective number, less 1.

    For equal sizes the usual n - 1. The effective number alone made intervals needlessly wide where one cluster
    dominates, the number alone too narrow (docs/decisions/0012).
    """
    effective = float(sizes.sum()) ** 2 / float((sizes.astype(np.float64) ** 2).sum())
    return max(1.0, math.sqrt(effective * len(sizes)) - 1)


def _on_logit_scale(estimate: float, reach: float, limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    share = (estimate - low) / (high - low)
    # Half of one in ten thousand from the end, so that an estimate at it that some resamples leave has an interval.
    inside = min(max(share, 5e-5), 1 - 5e-5)
    logit, step = math.log(inside / (1 - inside)), reach / (high - low) / (inside * (1 - inside))
    ends = (low + (high - low) * _expit(logit - step), low + (high - low) * _expit(logit + step))
    return min(ends[0], estimate), max(ends[1], estimate)


def _expit(logit: float) -> float:
    return float(0.5 * (1 + math.tanh(logit / 2)))


def _ece_interval(samples: Floats, estimate: float, reach: float, rise: float) -> tuple[float, float]:
    excess = max(0.0, float(np.nanmean(samples**2)) - estimate**2) * rise
    square = estimate**2 - excess - 2 * estimate * reach
    return math.sqrt(max(0.0, square)), min(1.0, estimate + reach)


def _at_the_end(estimate: float, clusters: Clusters, settings: EvaluateSettings, figure: str) -> tuple[float, float] | None:
    low, high = RANGES.get(figure, (0.0, 1.0))
    length = (high - low) * ((1 - settings.confidence) / 2) ** (1 / min(clusters.effective_groups.values()))
    if math.isclose(estimate, high):
        return low + length, high
    if math.isclose(estimate, low, abs_tol=_NO_SPREAD):
        return low, high - length
    return None


def _undefined(name: str, samples: Floats) -> str:
    undefined = float(np.isnan(samples).mean())
    if undefined > MOST_UNDEFINED:
        return f"{name} has no interval: {undefined:.0%} of the resamples leave it undefined."
    return f"{name} has no interval: it does not vary over the resamples."


def _dominance(clusters: Clusters, name: str) -> str:
    counts = clusters.images[:, clusters.classes.index(name)]
    return (f"{counts.max()} of {counts.sum()} {name} images are of one {clusters.unit}: the {clusters.groups[name]} of "
            f"this class weigh like {clusters.effective_groups[name]:.1f} of equal size")  # fmt: skip


def _units(clusters: Clusters, count: int) -> str:
    return clusters.unit if count == 1 else f"{clusters.unit}s"
