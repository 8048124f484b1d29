"""How often do 95 % intervals hold the true value when cells come in clusters of subjects?

In: nothing but a seed. Out: a table of coverage for each setting on standard output. Writes: nothing.

Scores are drawn as latent = class mean + effect of the subject + noise of the cell, with the share `icc` of the variance
within a class between subjects, for two models whose effects and noises correlate by 0.7. Each setting has fixed sizes of
its subject groups; the true figures are those of 400,000 cells of as many subjects, at the setting's class mix. "Ours" is
`interval_of` on the resamples of `resample`. "Per cell" draws cells of each class instead and takes percentiles.

    python benchmarks/interval_coverage.py            # all settings
    python benchmarks/interval_coverage.py --quick    # a smoke test: two settings, few data sets
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when numpy is imported

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from leukolens.evaluation.intervals import interval_of
from leukolens.evaluation.resampling import Clusters, resample, resampled_figures
from leukolens.settings import EvaluateSettings

Floats = NDArray[np.float64]

RECORD = {"classes": ["HEM", "ALL"], "positive": ["ALL"]}
FIGURES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc", "auprc", "f1_weighted", "mcc", "ece",
           "brier")  # fmt: skip
DIFFERENCE = "auroc_difference"

# Distances of the class means of the two models, in standard deviations within a class: AUROC 0.91 and 0.89.
DISTANCES = (1.9, 1.7)
CORRELATION = 0.7
# Slope and offset of the logit of the score: too cautious by a third, and off to the negative side.
SLOPE, OFFSET = 1.3, -0.2
THRESHOLD = 0.5
POPULATION = 400_000

# Cells of the 44 ALL and 22 HEM subject groups of C-NMC 2019's training part, after subjects that share cells are merged.
C_NMC_ALL = (1074, 402, 352, 278, 268, 267, 253, 250, 246, 212, 201, 197, 197, 190, 181, 178, 178, 161, 156, 155, 146, 145, 142,
             113, 112, 111, 103, 99, 97, 92, 92, 89, 84, 74, 74, 73, 58, 53, 35, 31, 19, 14, 11, 9)  # fmt: skip
C_NMC_HEM = (441, 404, 385, 373, 327, 185, 167, 162, 140, 137, 119, 108, 100, 69, 50, 47, 46, 32, 30, 29, 20, 18)
# Of the 330 cells that can be had without registration.
SAMPLE_ALL = (113, 19, 4, 3, 3, 3, 3, 2, 2, 2, 2, *[1] * 12)
# One subject holds two thirds of its class.
DOMINATED = (98, *[7] * 7)
SAMPLE_HEM = (68, 47, 18, 8, 7, 4, 3, 2, 2, 2, 1)


@dataclass(frozen=True)
class Setting:
    """Cells of each subject group of the two classes."""

    name: str
    positive: tuple[int, ...]
    negative: tuple[int, ...]

    @property
    def of_row(self) -> NDArray[np.int64]:
        """Subject group of each cell, the positive ones first."""
        return np.repeat(np.arange(len(self.positive) + len(self.negative)), [*self.positive, *self.negative])

    @property
    def is_positive(self) -> NDArray[np.bool_]:
        """Bool [cells]."""
        return np.arange(sum(self.positive) + sum(self.negative)) < sum(self.positive)


@dataclass
class Tally:
    """How often intervals held the true value, lay above or below it, and how wide they were."""

    held: int = 0
    above: int = 0
    below: int = 0
    none: int = 0
    widths: list[float] = field(default_factory=list)

    def add(self, interval: tuple[float, float] | None, truth: float) -> None:
        """Count one interval."""
        if interval is None:
            self.none += 1
            return
        low, high = interval
        self.above += low > truth
        self.below += high < truth
        self.held += low <= truth <= high
        self.widths.append(high - low)

    def __str__(self) -> str:
        if not self.widths:
            return "none given"
        count = len(self.widths)
        absent = f" none {self.none}" if self.none else ""
        return (f"{self.held / count:6.1%} ({self.above / count:5.1%} above, {self.below / count:5.1%} below) "
                f"width {np.mean(self.widths):.3f}{absent}")  # fmt: skip


def settings_of(part: int) -> list[Setting]:
    """Give all settings; the sizes of C-NMC 2019 are divided by `part` to save time, at least 2 cells each."""
    every, hem = _smaller(C_NMC_ALL, part), _smaller(C_NMC_HEM, part)
    return [
        Setting("66 groups of C-NMC 2019, 44 + 22", every, hem),
        Setting("37 groups, 25 + 12", _spread(every, 25), _spread(hem, 12)),
        *(Setting(f"{each} + {each} groups", _lognormal(each), _lognormal(each)) for each in (12, 8, 5)),
        Setting("34 groups of the 330-cell sample, 23 + 11", SAMPLE_ALL, SAMPLE_HEM),
        Setting("8 + 8 groups, one of each with two thirds of the cells", DOMINATED, DOMINATED),
        Setting("4 + 4 groups", _lognormal(4), _lognormal(4)),
    ]


def coverage(setting: Setting, data_sets: int, icc: float, resamples: int) -> dict[str, tuple[Tally, Tally]]:
    """Draw data sets and count, for each figure, how often our interval and the per-cell one hold the truth."""
    random = np.random.default_rng(20190408)
    # What intervals do below the default minimum is to be seen, so no class is refused for too few groups.
    settings = EvaluateSettings(resamples=resamples, minimum_groups=2)
    clusters = Clusters.of(_table(setting, np.zeros(len(setting.of_row))))
    weights = np.vstack([np.ones((1, len(clusters.stratum))), resample(clusters, settings)])
    truth = true_figures(setting)
    tallies = {name: (Tally(), Tally()) for name in (*FIGURES, DIFFERENCE)}
    for _ in range(data_sets):
        tables = [_table(setting, score) for score in draw(setting, icc, random)]
        ours = _both(tables, weights, clusters)
        naive = _both(tables, *_per_cell(setting, resamples, random))
        for name, (one, other) in tallies.items():
            figure = None if name == DIFFERENCE else name
            one.add(interval_of(ours[name][1:], float(ours[name][0]), clusters, settings, figure), truth[name])
            low, high = np.nanquantile(naive[name], [0.025, 0.975])
            other.add((float(low), float(high)), truth[name])
    return tallies


def draw(setting: Setting, icc: float, random: np.random.Generator) -> Floats:
    """Draw the scores of both models, float64 [2, cells], 0–1."""
    of_row = setting.of_row
    effects = _pair(of_row.max() + 1, random) * math.sqrt(icc)
    latent = effects[:, of_row] + _pair(len(of_row), random) * math.sqrt(1 - icc)
    return _score(latent, setting.is_positive)


def true_figures(setting: Setting) -> dict[str, float]:
    """Measure a population in which every cell is of another subject, at the class mix of the setting."""
    positive = round(POPULATION * float(setting.is_positive.mean()))
    population = Setting("", (positive,), (POPULATION - positive,))
    scores = _score(_pair(POPULATION, np.random.default_rng(1)), population.is_positive)
    tables = [_table(population, score) for score in scores]
    figures = _both(tables, np.ones((1, 2)), Clusters.of(tables[0]))
    return {name: float(values[0]) for name, values in figures.items()}


def _pair(count: int, random: np.random.Generator) -> Floats:
    """Draw standard normal values of both models, float64 [2, count], that correlate by CORRELATION."""
    first, own = random.standard_normal((2, count))
    return np.stack([first, CORRELATION * first + math.sqrt(1 - CORRELATION**2) * own])


def _score(latent: Floats, is_positive: NDArray[np.bool_]) -> Floats:
    shift = np.array(DISTANCES)[:, None] * (is_positive - 0.5)
    return 1 / (1 + np.exp(-(SLOPE * (latent + shift) + OFFSET)))


def _table(setting: Setting, score: Floats) -> pd.DataFrame:
    return pd.DataFrame({
        "image": [f"{cell:06}" for cell in range(len(score))],
        "group": setting.of_row.astype(str),
        "repeat": 0,
        "y_true": np.where(setting.is_positive, "ALL", "HEM"),
        "y_pred": np.where(score >= THRESHOLD, "ALL", "HEM"),
        "score_HEM": 1 - score,
        "score_ALL": score,
    })  # fmt: skip


def _both(tables: Sequence[pd.DataFrame], weights: Floats, clusters: Clusters) -> dict[str, Floats]:
    first, second = (resampled_figures(table, RECORD, weights, clusters) for table in tables)
    return {**{name: first[name] for name in FIGURES}, DIFFERENCE: first["auroc"] - second["auroc"]}


def _per_cell(setting: Setting, resamples: int, random: np.random.Generator) -> tuple[Floats, Clusters]:
    """Draw cells of each class with replacement, as if each were of a subject of its own."""
    cells = len(setting.of_row)
    clusters = Clusters.of(_table(setting, np.zeros(cells)).assign(group=None))
    parts = [random.multinomial(count, np.full(count, 1 / count), size=resamples)
             for count in (int(setting.is_positive.sum()), int((~setting.is_positive).sum()))]  # fmt: skip
    return np.concatenate(parts, axis=1).astype(np.float64), clusters


def _smaller(sizes: Sequence[int], part: int) -> tuple[int, ...]:
    return tuple(max(2, round(size / part)) for size in sizes)


def _spread(sizes: Sequence[int], count: int) -> tuple[int, ...]:
    return tuple(sizes[index] for index in np.linspace(0, len(sizes) - 1, count).round().astype(int))


def _lognormal(count: int) -> tuple[int, ...]:
    """Give sizes at even quantiles of a log-normal distribution: median 30 cells, sigma 0.8, as unequal as C-NMC 2019's."""
    quantiles = norm.ppf((np.arange(count) + 0.5) / count)
    return tuple(int(size) for size in np.exp(math.log(30) + 0.8 * quantiles).round())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the coverage of every setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-sets", type=int, default=400, help="simulated data sets of each setting")
    parser.add_argument("--icc", type=float, default=0.3, help="share of the latent variance between subjects")
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--part", type=int, default=8, help="divide the sizes of C-NMC 2019 by this")
    parser.add_argument("--quick", action="store_true", help="smoke test")
    options = parser.parse_args(arguments)
    chosen = settings_of(options.part)
    if options.quick:
        chosen, options.data_sets, options.resamples = [chosen[4], chosen[5]], 5, 200
    for setting in chosen:
        start = time.perf_counter()
        tallies = coverage(setting, options.data_sets, options.icc, options.resamples)
        seconds = time.perf_counter() - start
        sys.stdout.write(f"\n{setting.name}: {options.data_sets} data sets, icc {options.icc}, {seconds:.0f} s\n")
        for name, (ours, naive) in tallies.items():
            sys.stdout.write(f"  {name:18} ours {ours}   per cell {naive}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
