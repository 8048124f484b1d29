"""Ensembles over recipes: do networks that see different things of a cell err on different cells?

In: the folder of images, and the work folder of `run.py`, where all five networks of each recipe that is named below lie.
Out: one line per mixture on standard output. Writes: `results/mixtures/<data>.json` beside this file, and the table in
`docs/results.md` between the markers `mixtures`.

The mean of the calibrated logits on the same folds and seeds, as `compare` makes it of one recipe's networks. The last
mixture takes area and mean colour in as half of the whole: what the networks know beside the shortcut.

    python experiments/mixtures.py c-nmc-sample --images C-NMC_Leukemia
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from run import HERE, bracketed, difference_of, row_of, with_interval
from tables import replace_between

from leukolens.artifacts import Predictions, Record, Splits, write_json
from leukolens.data.manifest import index
from leukolens.evaluation.baselines import AREA_COLOUR, Protocol, shortcut_baseline
from leukolens.evaluation.ensembles import ensemble
from leukolens.models.architectures import FIVE_ARCHITECTURES
from leukolens.settings import CrossvalSettings

STAGES, GREY, CENTRE = "stages-1-2", "grey", "centre-300"
MIXTURES = ((STAGES,), (GREY,), (STAGES, GREY), (STAGES, GREY, CENTRE))
REPEATS = 5


def main() -> None:
    """Average, measure and write down."""
    wished = _arguments()
    work = wished.work / wished.data
    manifest = index(wished.images, work)
    settings = CrossvalSettings(folds=5, repeats=REPEATS)
    splits = tuple(Splits.load(work / STAGES / f"splits-{repeat}.parquet") for repeat in range(REPEATS))
    label = Predictions.load(work / STAGES / FIVE_ARCHITECTURES[0]).record["split_label"]
    shortcut = shortcut_baseline(AREA_COLOUR, Protocol(manifest, splits, label, settings.train.decision))
    found = {" and ".join(recipes): _mixture(work, recipes, settings) for recipes in MIXTURES}
    halves = {"networks": found[" and ".join(MIXTURES[-1])], AREA_COLOUR: shortcut}
    found["these and area + colour"] = ensemble(halves, settings.train.decision)
    rows = {AREA_COLOUR: row_of(shortcut, settings)}
    for name, each in found.items():
        rows[name] = {**row_of(each, settings), "against_area_colour": difference_of(each, shortcut, settings)}
        sys.stdout.write(f"{name}: {_line(rows[name])}\n")
    record: Record = {"data": wished.data, "repeats": REPEATS, "rows": rows}
    write_json(HERE / "results" / "mixtures" / f"{wished.data}.json", record)
    render(record)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--images", type=Path, required=True, help="the folder of images")
    parser.add_argument("--work", type=Path, default=Path("experiments-work"), help="as for run.py")
    return parser.parse_args()


def _mixture(work: Path, recipes: tuple[str, ...], settings: CrossvalSettings) -> Predictions:
    folders = {f"{recipe}/{name}": work / recipe / name for recipe in recipes for name in FIVE_ARCHITECTURES}
    members = {name: Predictions.load(folder) for name, folder in folders.items()}
    return ensemble(members, settings.train.decision)


def _line(row: Record) -> str:
    against = row["against_area_colour"]
    said = f"against area + colour {against['value']:+.3f}{bracketed(against['interval'])}"
    return f"auroc {with_interval(row['auroc'])}, balanced accuracy {with_interval(row['balanced_accuracy'])}, {said}"


def render(record: Record) -> None:
    """Write the table into the page; `record` as in the JSON."""
    titles = ("mean of all five networks under", "AUROC", "within folds", "balanced accuracy", "AUROC less area + colour's")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, row in record["rows"].items():
        against = row.get("against_area_colour")
        said = "–" if against is None else f"{against['value']:+.3f}{bracketed(against['interval'])}"
        pooled, within, balanced = (row[figure] for figure in ("auroc", "auroc_within_folds", "balanced_accuracy"))
        title = "*area + colour, no network*" if name == AREA_COLOUR else name
        lines.append(f"| {title} | {with_interval(pooled)} | {within['value']:.3f} | {with_interval(balanced)} | {said} |")
    replace_between("mixtures", "\n".join(lines))


if __name__ == "__main__":
    main()
