"""How long do 2,000 resamples of 10,661 cells take, all figures at once, against a loop over scikit-learn?

In: nothing but a seed. Out: both times and their ratio on standard output. Writes: nothing.

The cells have the group sizes of C-NMC 2019's training part: 66 subject groups, 44 ALL and 22 HEM. The loop computes the
same figures but ECE, which scikit-learn lacks, with `sample_weight`, for 50 resamples, and is scaled up.

    python benchmarks/bootstrap_speed.py
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when numpy is imported

import numpy as np
import pandas as pd
from interval_coverage import C_NMC_ALL, C_NMC_HEM, RECORD
from numpy.typing import NDArray
from sklearn import metrics as sk

from leukolens.evaluation.resampling import Clusters, resample, resampled_figures
from leukolens.settings import EvaluateSettings

Floats = NDArray[np.float64]

THRESHOLD = 0.5


def cells() -> pd.DataFrame:
    """Draw a table of predictions with the group sizes of C-NMC 2019."""
    sizes = (*C_NMC_ALL, *C_NMC_HEM)
    group = np.repeat(np.arange(len(sizes)), sizes)
    positive = group < len(C_NMC_ALL)
    score = 1 / (1 + np.exp(-np.random.default_rng(0).normal(positive - 0.5)))
    return pd.DataFrame({
        "image": [f"{cell:06}" for cell in range(len(group))],
        "group": group.astype(str),
        "repeat": 0,
        "y_true": np.where(positive, "ALL", "HEM"),
        "y_pred": np.where(score >= THRESHOLD, "ALL", "HEM"),
        "score_HEM": 1 - score,
        "score_ALL": score,
    })  # fmt: skip


def ours(table: pd.DataFrame, resamples: int) -> float:
    """Seconds to draw all resamples and measure all figures on them."""
    start = time.perf_counter()
    clusters = Clusters.of(table)
    resampled_figures(table, RECORD, resample(clusters, EvaluateSettings(resamples=resamples)), clusters)
    return time.perf_counter() - start


def one_by_one(table: pd.DataFrame, resamples: int) -> float:
    """Seconds to measure the figures on each resample in turn with scikit-learn."""
    clusters = Clusters.of(table)
    weights = resample(clusters, EvaluateSettings(resamples=max(resamples, 200)))[:resamples]
    truth, called = (table[name].to_numpy() == "ALL" for name in ("y_true", "y_pred"))
    start = time.perf_counter()
    for row in weights:
        _scikit_learn(truth, called, table["score_ALL"].to_numpy(), row[clusters.of_row])
    return time.perf_counter() - start


def _scikit_learn(truth: NDArray[np.bool_], called: NDArray[np.bool_], score: Floats, weight: Floats) -> None:
    sk.accuracy_score(truth, called, sample_weight=weight)
    sk.balanced_accuracy_score(truth, called, sample_weight=weight)
    sk.matthews_corrcoef(truth, called, sample_weight=weight)
    for average in ("weighted", "macro"):
        sk.precision_recall_fscore_support(truth, called, average=average, sample_weight=weight, zero_division=0)
    sk.recall_score(truth, called, sample_weight=weight)
    sk.recall_score(~truth, ~called, sample_weight=weight)
    sk.roc_auc_score(truth, score, sample_weight=weight)
    sk.average_precision_score(truth, score, sample_weight=weight)
    sk.brier_score_loss(truth, score, sample_weight=weight)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--loop", type=int, default=50, help="resamples that the loop measures before scaling up")
    options = parser.parse_args(arguments)
    table = cells()
    together = ours(table, options.resamples)
    loop = one_by_one(table, options.loop) * options.resamples / options.loop
    sys.stdout.write(f"{options.resamples} resamples of {len(table)} cells: {together:.2f} s together, {loop:.0f} s one by one "
                     f"with scikit-learn, {loop / together:.0f} times as long\n")  # fmt: skip


if __name__ == "__main__":
    main()
