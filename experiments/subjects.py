"""How much would more subjects help? AUROC on new subjects, over the number of subject groups that were learned from.

In: the folder of cells, weights, and the work folder of `run.py` (its base recipe gives the folds, its cache the pixels).
Out: one line per row on standard output. Writes: `results/subjects/<data>.json` beside this file, the table in
`docs/results.md` between the markers `subjects`, and `docs/images/results-subjects.png`.

Frozen features with logistic regression, tested on the folds of the base recipe, learned from a part of the other folds'
subject groups drawn at random, each class by its share; and, for comparison, the same features split by image. The penalty of
each kind of features is one fixed value: the best of three to five that were tried on these very folds, so that the figures
flatter.

    python experiments/subjects.py c-nmc-sample --images C-NMC_Leukemia --weights-dir weights
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from tables import replace_between

from leukolens.artifacts import Manifest, Record, Splits, write_json
from leukolens.crossvalidation import frozen_feature_table
from leukolens.data.manifest import index
from leukolens.models.architectures import FIVE_ARCHITECTURES
from leukolens.reporting.drawing import draw_file
from leukolens.settings import InputSettings, TrainSettings

HERE = Path(__file__).parent
FIGURE = HERE.parent / "docs" / "images" / "results-subjects.png"
POSITIVE = "ALL"
SHORTCUT = ["area_px", "mean_red", "mean_green", "mean_blue"]
SHARES = (0.25, 0.5, 0.75, 1.0)
DRAWS, SEEDS, FOLDS = 4, 5, 5
WIDTH_INCHES, HEIGHT_INCHES = 7.0, 4.0


@dataclass(frozen=True)
class Cells:
    """All cells in one order: `is_positive` bool [n], `group` [n], and each kind of features as float [n, width]."""

    images: pd.Index
    is_positive: NDArray[np.bool_]
    group: NDArray[np.object_]
    kinds: dict[str, tuple[NDArray[np.float64], float]]
    """Features, and the inverse penalty that goes with them."""


def main() -> None:
    """Measure, write down and draw."""
    wished = _arguments()
    work = wished.work / wished.data
    manifest = index(wished.images, work)
    cells = _cells(manifest, wished.weights_dir, work / "cache")
    splits = [Splits.load(work / "base" / f"splits-{seed}.parquet") for seed in range(SEEDS)]
    rows = [row for name in cells.kinds for row in _rows_of(name, cells, splits)]
    record: Record = {"data": wished.data, "draws": DRAWS, "seeds": SEEDS, "rows": rows}
    write_json(HERE / "results" / "subjects" / f"{wished.data}.json", record)
    for row in rows:
        sys.stdout.write(f"{row['features']}: {row['groups']}: {row['auroc']:.3f} ± {row['deviation']:.3f}\n")
    render(record)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--images", type=Path, required=True, help="the folder of images")
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--work", type=Path, default=Path("experiments-work"), help="as for run.py")
    return parser.parse_args()


def _cells(manifest: Manifest, weights_dir: Path | None, cache: Path) -> Cells:
    grey = TrainSettings(weights_dir=weights_dir, input=InputSettings(colour="grey"))
    colour = TrainSettings(weights_dir=weights_dir)
    networks = {name: frozen_feature_table(manifest, name, colour, cache) for name in FIVE_ARCHITECTURES}
    images = next(iter(networks.values())).index
    known = manifest.images.set_index("image").loc[images]
    shortcut = _standardised(known[SHORTCUT].to_numpy(float))
    # Each network with the same weight, however many features it has.
    side_by_side = np.hstack([_standardised(each.to_numpy()) / np.sqrt(each.shape[1]) for each in networks.values()])
    kinds = {
        "area and mean colour": (shortcut, 1.0),
        "EfficientNet-Lite0, grey": (_standardised(_grey("efficientnet_b0", manifest, grey, cache)), 0.01),
        "DenseNet-121, grey": (_standardised(_grey("densenet121", manifest, grey, cache)), 1.0),
        "five networks side by side": (side_by_side, 10.0),
        "five networks, area and colour": (np.hstack([side_by_side, shortcut]), 1.0),
    }
    return Cells(images, (known["label"] == POSITIVE).to_numpy(), known["group"].to_numpy(object), kinds)


def _grey(architecture: str, manifest: Manifest, settings: TrainSettings, cache: Path) -> NDArray[np.float32]:
    return frozen_feature_table(manifest, architecture, settings, cache).to_numpy()


def _standardised(features: NDArray[np.floating]) -> NDArray[np.float64]:
    # Over all cells: no label is in it, and the folds' own means differ by little.
    scaled: NDArray[np.float64] = StandardScaler().fit_transform(features.astype(float))
    return scaled


def _rows_of(name: str, cells: Cells, splits: list[Splits]) -> Iterator[Record]:
    for share in SHARES:
        # All groups can be drawn in one way only.
        draws = DRAWS if share < 1 else 1
        found = [_by_subject(name, cells, each, share, np.random.default_rng(draw)) for each in splits for draw in range(draws)]
        groups = float(np.mean([number for _, number in found]))
        yield _row(name, f"{groups:.0f}", "subject", [auroc for auroc, _ in found])
    yield _row(name, "all, split by image", "image", [_by_image(name, cells, seed) for seed in range(SEEDS)])


def _row(name: str, groups: str, protocol: str, found: list[float]) -> Record:
    return {"features": name, "groups": groups, "protocol": protocol,
            "auroc": float(np.mean(found)), "deviation": float(np.std(found, ddof=1))}  # fmt: skip


def _by_subject(name: str, cells: Cells, splits: Splits, share: float, draw: np.random.Generator) -> tuple[float, float]:
    """AUROC over all folds, and the mean number of groups learned from."""
    scores, numbers = np.zeros(len(cells.images)), []
    for fold in range(FOLDS):
        is_test = (splits.of_fold(fold).reindex(cells.images) == "test").to_numpy()
        kept = _drawn_groups(cells, ~is_test, share, draw)
        numbers.append(len(kept))
        scores[is_test] = _scores(name, cells, ~is_test & np.isin(cells.group, list(kept)), is_test)
    return float(roc_auc_score(cells.is_positive, scores)), float(np.mean(numbers))


def _drawn_groups(cells: Cells, is_free: NDArray[np.bool_], share: float, draw: np.random.Generator) -> set[str]:
    kept: set[str] = set()
    for is_positive in (False, True):
        groups = np.unique(cells.group[is_free & (cells.is_positive == is_positive)].astype(str))
        kept.update(draw.choice(groups, max(1, round(share * len(groups))), replace=False))
    return kept


def _by_image(name: str, cells: Cells, seed: int) -> float:
    scores = np.zeros(len(cells.images))
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(scores, cells.is_positive):
        learned, tested = np.isin(np.arange(len(scores)), train), np.isin(np.arange(len(scores)), test)
        scores[tested] = _scores(name, cells, learned, tested)
    return float(roc_auc_score(cells.is_positive, scores))


def _scores(name: str, cells: Cells, learned: NDArray[np.bool_], tested: NDArray[np.bool_]) -> NDArray[np.float64]:
    features, strength = cells.kinds[name]
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=3000)
    model.fit(features[learned], cells.is_positive[learned])
    scores: NDArray[np.float64] = model.decision_function(features[tested])
    return scores


def render(record: Record) -> None:
    """Write the table into the page and draw the figure; `record` as in the JSON."""
    columns = list(dict.fromkeys(row["groups"] for row in record["rows"]))
    lines = [
        f"| AUROC ± deviation over draws and seeds; learned from … groups | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in dict.fromkeys(row["features"] for row in record["rows"]):
        cells = {
            row["groups"]: f"{row['auroc']:.3f} ± {row['deviation']:.3f}" for row in record["rows"] if row["features"] == name
        }
        lines.append(f"| {name} | {' | '.join(cells.get(column, '–') for column in columns)} |")
    picture = "![AUROC over the number of subject groups learned from](images/results-subjects.png)"
    replace_between("subjects", f"{picture}\n\n" + "\n".join(lines))
    draw_file(FIGURE, (WIDTH_INCHES, HEIGHT_INCHES), lambda figure: _paint(figure, record))


def _paint(figure: Figure, record: Record) -> None:
    axes = figure.add_subplot()
    for name in dict.fromkeys(row["features"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["features"] == name]
        known = [row for row in rows if row["protocol"] == "subject"]
        groups = [int(row["groups"]) for row in known]
        (line,) = axes.plot(groups, [row["auroc"] for row in known], marker="o", markersize=4, label=name)
        by_image = next(row["auroc"] for row in rows if row["protocol"] == "image")
        axes.plot(groups[-1] + 2, by_image, marker="D", markersize=5, color=line.get_color())
    last = max(int(row["groups"]) for row in record["rows"] if row["protocol"] == "subject")
    axes.annotate("split by image", (last + 2, 0.99), ha="center", va="top", fontsize=8, xycoords=("data", "axes fraction"))
    axes.margins(y=0.12)
    axes.set_xlabel("subject groups learned from")
    axes.set_ylabel("AUROC on cells of other subjects")
    axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
