"""Which recipe is best: cross-validate settings files one after the other, on the same folds, and write down what came out.

In: a folder of images and settings files of `leukolens crossval` (`experiments/<data>/<name>.yaml`). Out: one line per file
and network on standard output. Writes: `results/<data>.json` beside this file (a file's entry is replaced when it is run
again) and the comment lines at the head of each settings file: its command, its time, its result. Caches and predictions
lie in the work folder; an interrupted call goes on where it stopped.

Every file of one data set uses the same folds and seeds, so that differences to the file `base.yaml` are taken on the same
images; their intervals are over subject groups, or over images where no subject is known.

    python experiments/run.py c-nmc-sample --images C-NMC_Leukemia --weights-dir weights
    python experiments/run.py b-all-smears --images b-all-smears --weights-dir weights experiments/b-all-smears/base.yaml
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from leukolens.artifacts import (
    CROSSVAL_FILE,
    TEST,
    TTA_SUFFIX,
    Manifest,
    Predictions,
    Record,
    Splits,
    read_json,
    write_json,
    write_text,
)
from leukolens.crossvalidation import cross_validate
from leukolens.data.manifest import index
from leukolens.evaluation.baselines import AREA, AREA_COLOUR, Protocol, shortcut_baseline
from leukolens.evaluation.ensembles import ensemble
from leukolens.evaluation.evaluate import evaluate, figure_of_merit
from leukolens.evaluation.paired import compare_models
from leukolens.models.architectures import FIVE_ARCHITECTURES
from leukolens.provenance import git_commit, hardware, versions
from leukolens.settings import CrossvalSettings, IndexSettings

HERE = Path(__file__).parent
BASE = "base"
SHORTCUTS = (AREA, AREA_COLOUR)
ENSEMBLE = "ensemble"
COMMENT = "#"

# What is called positive where the classes are not ALL and HEM.
POSITIVE = {"b-all-smears": ("Early", "Pre", "Pro")}
FIGURES = ("auroc", "auroc_within_folds", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "auroc_macro_ovr")


def main() -> None:
    """Run what is asked for."""
    wished = _arguments()
    data, work = wished.data, wished.work / wished.data
    manifest = index(wished.images, work, IndexSettings(positive=POSITIVE.get(data, ())))
    for path in wished.files or sorted((HERE / data).glob("*.yaml"), key=lambda file: (file.stem != BASE, file.stem)):
        began = time.perf_counter()
        settings = _settings(path, wished)
        networks = cross_validate(manifest, work / path.stem, settings, work / "cache")
        entry = _entry(manifest, networks, settings, work / path.stem, _base_of(work, path.stem, networks, settings))
        entry["seconds"] = round(time.perf_counter() - began, 1)
        _write_down(data, path, entry)
        for line in _lines(entry):
            sys.stdout.write(f"{path.stem}: {line}\n")
        sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of settings files: c-nmc-sample or b-all-smears")
    parser.add_argument("files", nargs="*", type=Path, help="settings files; all of the folder by default, base.yaml first")
    parser.add_argument("--images", type=Path, required=True, help="the folder of images")
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--work", type=Path, default=Path("experiments-work"), help="caches and predictions")
    parser.add_argument("--arch", action="append", help="in place of the networks that a file names")
    parser.add_argument("--device", default="auto")
    return parser.parse_intermixed_args()  # files after options


def _settings(path: Path, wished: argparse.Namespace) -> CrossvalSettings:
    settings = CrossvalSettings.model_validate(yaml.safe_load(path.read_text()) or {})
    train = settings.train.model_copy(update={"weights_dir": wished.weights_dir, "device": wished.device})
    architectures = tuple(wished.arch or settings.architectures or FIVE_ARCHITECTURES)
    return settings.model_copy(update={"train": train, "architectures": architectures})


def _base_of(work: Path, recipe: str, names: Iterable[str], settings: CrossvalSettings) -> dict[str, Predictions]:
    """The base recipe's predictions on the same folds, where they are there and of as many repeats."""
    found = {each: work / BASE / each for each in names if recipe != BASE}
    loaded = {each: Predictions.load(folder) for each, folder in found.items() if (folder / CROSSVAL_FILE).is_file()}
    return {each: one for each, one in loaded.items() if one.record["repeats"] >= settings.repeats}


def _entry(
    manifest: Manifest, networks: dict[str, Predictions], settings: CrossvalSettings, folder: Path, base: dict[str, Predictions]
) -> Record:
    splits = tuple(Splits.load(folder / f"splits-{repeat}.parquet") for repeat in range(settings.repeats))
    label = next(iter(networks.values())).record["split_label"]
    protocol = Protocol(manifest, splits, label, settings.train.decision)
    models = dict(networks)
    for suffix in ("", TTA_SUFFIX):
        alike = {name: each for name, each in networks.items() if name.endswith(TTA_SUFFIX) == bool(suffix)}
        if len(alike) > 1:
            models[ENSEMBLE + suffix] = ensemble(alike, settings.train.decision)
    shortcuts = {name: shortcut_baseline(name, protocol) for name in SHORTCUTS}
    rows = {name: row_of(each, settings) for name, each in {**models, **shortcuts}.items()}
    for name, each in networks.items():
        if (plain := name.removesuffix(TTA_SUFFIX)) in base:
            rows[name]["against_base"] = difference_of(each, base[plain], settings)
        rows[name]["against_area_colour"] = difference_of(each, shortcuts[AREA_COLOUR], settings)
    return {
        "protocol": label,
        "images": rows[AREA]["images"],
        "settings": settings.model_dump(mode="json", exclude={"train": {"weights_dir", "device"}}),
        "rows": rows,
        "commit": git_commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": versions(),
    }


def row_of(predictions: Predictions, settings: CrossvalSettings) -> Record:
    """Figures on the test images, each with its interval and its spread over seeds; null where there is none."""
    side = evaluate(predictions, settings=settings.evaluate)["sides"][TEST]
    intervals, spread = side["intervals"]["intervals"] or {}, (side.get("repeats") or {}).get("spread") or {}
    figures = {
        name: {"value": side[name], "interval": intervals.get(name), "spread_over_seeds": spread.get(name)}
        for name in FIGURES
        if side.get(name) is not None
    }
    # What was really built: a stand-in goes by its own name.
    return {"display_name": predictions.record["display_name"], "images": side["images"], **figures}


def difference_of(new: Predictions, old: Predictions, settings: CrossvalSettings) -> Record:
    """New minus old in the figure of merit, on the same images; its interval is null where none can be given."""
    repeats = settings.repeats
    models = {name: _as_network(each, name, repeats) for name, each in {"new": new, "old": old}.items()}
    figure = figure_of_merit(new.record)
    found = compare_models(models, figure, settings.evaluate)["differences"][0]
    sign = 1 if found["a"] == "new" else -1
    interval = None if found["interval"] is None else sorted(sign * end for end in found["interval"])
    return {"figure": figure, "value": sign * found["difference"], "interval": interval, "p": found["p"]}


def _as_network(predictions: Predictions, name: str, repeats: int) -> Predictions:
    table = predictions.table[predictions.table["repeat"] < repeats]
    # Augmented scores are compared as what they are here: another recipe.
    said = {"kind": "network", "architecture": name, "display_name": name, "tta": False}
    return Predictions(table, {**predictions.record, **said})


def _write_down(data: str, path: Path, entry: Record) -> None:
    results = HERE / "results" / f"{data}.json"
    known: Record = read_json(results) if results.is_file() else {}
    write_json(results, {**known, path.stem: _merged(known.get(path.stem), entry)})
    body = path.read_text().splitlines()
    first = next((number for number, line in enumerate(body) if not line.startswith(COMMENT)), len(body))
    why = [line for line in body[:first] if not line.startswith(f"{COMMENT} | ")]
    command = f"python experiments/run.py {data} --images FOLDER --weights-dir WEIGHTS experiments/{data}/{path.name}"
    head = [f"{COMMENT} | {line}" for line in (command, *_lines(read_json(results)[path.stem]))]
    write_text(path, "\n".join([*why, *head, *body[first:]]) + "\n")


def _merged(known: Record | None, entry: Record) -> Record:
    """Further networks of the same recipe stand beside those that are there; a recipe that changed starts anew."""
    if known is None or _recipe(known) != _recipe(entry):
        return entry
    return {**entry, "rows": {**known["rows"], **entry["rows"]}, "seconds": round(known["seconds"] + entry["seconds"], 1)}


def _recipe(entry: Record) -> dict[str, Any]:
    return {name: value for name, value in entry["settings"].items() if name != "architectures"}


def _lines(entry: Record) -> list[str]:
    machine = f"{entry['hardware']['cores']} cores of {entry['hardware']['processor']}"
    first = f"{entry['date']}, {entry['protocol']}, {entry['seconds']:.0f} s on {machine}"
    return [first, *(f"{name}: {_said(row)}" for name, row in entry["rows"].items())]


def _said(row: Record) -> str:
    said = [f"{name} {with_interval(row[name])}" for name in ("auroc", "balanced_accuracy", "accuracy") if name in row]
    if "against_base" in row:
        said.append(f"against base {row['against_base']['value']:+.3f}{bracketed(row['against_base']['interval'])}")
    return ", ".join(said)


def with_interval(figure: Record) -> str:
    """A figure in words: value, interval, spread over seeds."""
    spread = figure["spread_over_seeds"]
    return f"{figure['value']:.3f}{bracketed(figure['interval'])}" + (f" ±{spread:.3f}" if spread is not None else "")


def bracketed(interval: list[float] | None) -> str:
    """An interval in words; nothing where there is none."""
    return "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"


if __name__ == "__main__":
    main()
