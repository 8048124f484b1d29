"""What the report says, in the order in which it says it: the values that the template sets into words.

In: `Results`. Out: one mapping for the template. Writes: nothing; figures of merit are taken over, none is computed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from leukolens.artifacts import TEST, VALIDATION, Manifest
from leukolens.data.preprocessing import Preprocessing, read_pixels
from leukolens.errors import ImageError
from leukolens.evaluation.comparison import DIFFERENCE_FIGURES, comparison_table, count_sides, protocol_difference
from leukolens.reporting import figures
from leukolens.reporting.figures import Line, Picture
from leukolens.reporting.results import Results, Trained
from leukolens.reporting.wording import GLOSSARY, flatten, knows_imagenet
from leukolens.settings import IndexSettings

Values = dict[str, Any]

# (column of the comparison table, heading, how it is written); a column that no network has a value for is left out.
RESULT_COLUMNS = (
    ("validation_balanced_accuracy", "validation: balanced accuracy", "percent"),
    ("test_balanced_accuracy", "balanced accuracy", "percent"),
    ("test_sensitivity", "sensi\u00adtivity", "percent"),
    ("test_specificity", "speci\u00adficity", "percent"),
    ("test_accuracy", "accuracy", "percent"),
    ("source_document_accuracy", "accuracy in the source document*", "percent"),
    ("test_precision_weighted", "precision, weighted", "percent"),
    ("test_recall_weighted", "recall, weighted", "percent"),
    ("test_f1_weighted", "F1, weighted", "percent"),
    ("test_f1_macro", "F1, macro", "percent"),
    ("test_mcc", "MCC", "decimal"),
    ("test_auroc", "AUROC", "decimal"),
    ("test_auprc", "AUPRC", "decimal"),
    ("test_auroc_macro_ovr", "AUROC, macro", "decimal"),
    ("test_auprc_macro_ovr", "AUPRC, macro", "decimal"),
)
COST_COLUMNS = (
    ("weights", "started from weights trained on", "text"),
    ("phase", "kept after", "phase"),
    ("epochs", "kept epoch", "count"),
    ("parameters", "parameters", "millions"),
    ("train_seconds", "training time", "duration"),
    ("images_per_second", "images per second, predicting", "rate"),
)
DIFFERENCE_HEADINGS: Mapping[str, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_weighted": "F1, weighted",
    "auroc": "AUROC",
    "auroc_macro_ovr": "AUROC, macro",
}

# Below this a test of subjects says little: with 20 subjects the 95 % interval of a share of 0.9 spans about 0.7 to 0.97
# (Wilson 1927), and the cells of one subject are alike.
FEW_SUBJECTS = 20
CELLS_PER_CLASS = 6
CELL_PX = 112
WORST_NAMED = 5


def page(results: Results) -> Values:
    """Gather everything that the template shows."""
    table = comparison_table([each.row for each in results.trained])
    colours = {name: figures.NETWORK_COLOURS[place % len(figures.NETWORK_COLOURS)]
               for place, name in enumerate(dict.fromkeys(table["architecture"]))}  # fmt: skip
    labels = sorted(dict.fromkeys(table["protocol"]), key=lambda label: _is_optimistic(table, label))
    has_test = table["test_balanced_accuracy"].notna().any()
    return {
        "title": results.record.get("title") or results.folder.resolve().name,
        "record": results.record,
        "synthetic": _is_synthetic(results),
        "answers": [_answer(table, label, results) for label in labels],
        "beware": list(_beware(results, table, labels)),
        "overview": figures.overview("overview", table, colours) if has_test else None,
        "protocols": [_protocol(results, table, label, colours, place) for place, label in enumerate(labels)],
        "difference": _difference(table),
        "data": _data(results),
        "making": _making(results),
        "missing": results.missing,
        "glossary": GLOSSARY,
    }


def _answer(table: pd.DataFrame, label: str, results: Results) -> Values:
    rows = table[table["protocol"] == label]
    best = rows[rows["is_best"]]
    record = results.trained[int(rows.index[0])].row["metrics"]["record"]
    return {
        "protocol": label,
        "optimistic": _is_optimistic(table, label),
        "networks": len(rows),
        "best": best.iloc[0].to_dict() if len(best) else None,
        "positive": record.get("positive", []),
        "classes": record.get("classes", []),
    }


def _beware(results: Results, table: pd.DataFrame, labels: Sequence[str]) -> Iterator[str]:
    """Give what a reader must know before believing a figure, one sentence each."""
    for label in labels:
        yield from _beware_of_split(label, _is_optimistic(table, label), results)
    started: dict[str, list[str]] = {}
    for name, trained_on in dict.fromkeys(zip(table["display_name"], table["weights"], strict=True)):
        started.setdefault(trained_on, []).append(name)
    for trained_on, names in started.items():
        if not knows_imagenet(trained_on):
            yield f"{', '.join(names)}: not started from ImageNet weights, as is usual, but trained on: {trained_on}."
    for name, note in dict.fromkeys((each.row["display_name"], _note(each)) for each in results.trained):
        if note:
            yield f"{name}: {note}."


def _beware_of_split(label: str, optimistic: bool, results: Results) -> Iterator[str]:
    sides = next(each.sides for each in results.trained if each.protocol == label)
    subjects = {side: sides[side]["subjects"] for side in (VALIDATION, TEST) if side in sides}
    if not any(subjects.values()):
        yield (f"“{label}”: no subject is known for these images. Images of one patient may be on the training and the "
               "test side, so the figures may be too high for new patients, and nobody can say by how much.")  # fmt: skip
        return
    if optimistic:
        yield (f"“{label}”: images of the same subject are on the training and the test side. Its figures are too high "
               "for new patients; they are shown because much of the literature is measured so.")  # fmt: skip
    few = [f"the {side} images come from {number} subjects" for side, number in subjects.items() if number < FEW_SUBJECTS]
    if few:
        yield (f"“{label}”: {' and '.join(few)} only. Another draw of subjects can give quite different figures; do not "
               "rank networks by small differences.")  # fmt: skip


def _note(trained: Trained) -> str:
    """Give what is to be said of ImageNet weights that are not the network's own; others are named anyway."""
    note = str(trained.run.get("weights", {}).get("note") or "")
    return note if knows_imagenet(trained.row["trained_on"]) else ""


def _protocol(results: Results, table: pd.DataFrame, label: str, colours: Mapping[str, str], place: int) -> Values:
    trained = [each for each in results.trained if each.protocol == label]
    rows = table[table["protocol"] == label]
    key = f"p{place}"
    return {
        "label": label,
        "optimistic": _is_optimistic(table, label),
        "rows": rows.to_dict("records"),
        "result_columns": _present(rows, RESULT_COLUMNS),
        "cost_columns": _present(rows, COST_COLUMNS),
        "counts": rows.iloc[0].to_dict(),
        "curves": _protocol_curves(key, trained, colours),
        "networks": [_network(f"{key}n{index}", each, colours) for index, each in enumerate(trained)],
    }


def _present(rows: pd.DataFrame, columns: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Leave out what no network has, and the macro F1 of two classes, which balanced accuracy says already."""
    two_classes = rows["test_auroc_macro_ovr"].isna().all()
    return [column for column in columns
            if rows[column[0]].notna().any() and not (two_classes and column[0] == "test_f1_macro")]  # fmt: skip


def _shown_side(trained: Trained) -> str:
    """Give the side that figures are drawn of: test, or what there is."""
    return next((side for side in (TEST, VALIDATION) if side in trained.sides), next(iter(trained.sides)))


def _protocol_curves(key: str, trained: Sequence[Trained], colours: Mapping[str, str]) -> list[Picture]:
    """Draw all networks in one figure: the positive class or classes against the rest."""
    drawn: dict[str, list[Line]] = {"roc": [], "pr": []}
    names = list(colours)
    for each in trained:
        side = each.sides[_shown_side(each)]
        curves = side["curves"]["positive"]
        if curves is None:
            continue
        architecture = each.row["architecture"]
        colour = colours[architecture]
        pattern = figures.LINE_PATTERNS[names.index(architecture) % len(figures.LINE_PATTERNS)]
        drawn["roc"].append(Line(each.row["display_name"], curves["roc"], side["auroc"], colour, pattern))
        drawn["pr"].append(Line(each.row["display_name"], curves["pr"], side["auprc"], colour, pattern))
    if not drawn["roc"]:
        return []
    positive = ", ".join(trained[0].row["metrics"]["record"]["positive"])
    what = f"{positive} against the rest, {_shown_side(trained[0])} images"
    return [figures.roc(f"{key}roc", drawn["roc"], what), figures.precision_recall(f"{key}pr", drawn["pr"], what)]


def _network(key: str, trained: Trained, colours: Mapping[str, str]) -> Values:
    name = _shown_side(trained)
    side = trained.sides[name]
    classes = list(side["per_class"])
    pictures = [
        *_learning_pictures(key, trained, colours[trained.row["architecture"]]),
        figures.confusion(f"{key}c", side["confusion_matrix"], classes, name),
        *_class_curves(key, side, name),
    ]
    if side["per_subject"]:
        pictures.append(figures.subject_accuracy(f"{key}s", side["per_subject"], classes, name))
    return {
        "name": trained.row["display_name"],
        "colour": colours[trained.row["architecture"]],
        "side": name,
        "figures": side,
        "pictures": pictures,
        "worst": [entry for entry in side["per_subject"][:WORST_NAMED] if entry["correct"] < entry["images"]],
    }


def _learning_pictures(key: str, trained: Trained, colour: str) -> list[Picture]:
    if trained.epochs is None:
        return []
    pictures = []
    for place, (phase, epochs) in enumerate(trained.epochs.groupby("phase", sort=False)):
        best = trained.run.get("best_epoch") if trained.run.get("best_phase") == phase else None
        pictures.append(figures.learning_curves(f"{key}l{place}", epochs, colour, best))
    return pictures


def _class_curves(key: str, side: Mapping[str, Any], name: str) -> list[Picture]:
    """Draw each class against the rest, where there are more than two."""
    lines: dict[str, list[Line]] = {"roc": [], "pr": []}
    for index, (label, curves) in enumerate(side["curves"]["per_class"].items()):
        if curves is None:
            continue
        colour = figures.CLASS_COLOURS[index % len(figures.CLASS_COLOURS)]
        pattern = figures.LINE_PATTERNS[index % len(figures.LINE_PATTERNS)]
        for kind, area in (("roc", "auroc"), ("pr", "auprc")):
            lines[kind].append(Line(label, curves[kind], side["per_class"][label][area], colour, pattern))
    if not lines["roc"]:
        return []
    what = f"each class against the rest, {name} images"
    return [figures.roc(f"{key}roc", lines["roc"], what), figures.precision_recall(f"{key}pr", lines["pr"], what)]


def _difference(table: pd.DataFrame) -> Values | None:
    difference = protocol_difference(table)
    if difference.empty:
        return None
    shown = [name for name in DIFFERENCE_FIGURES if f"{name}_difference" in difference]
    return {
        "rows": difference.to_dict("records"),
        "figures": [(name, DIFFERENCE_HEADINGS[name], "decimal" if "auroc" in name else "percent") for name in shown],
    }


def _data(results: Results) -> Values | None:
    manifest = results.manifest
    if manifest is None:
        return None
    cells, unread = _sample_cells(manifest)
    return {
        "record": manifest.record,
        "flow": manifest.record.get("flow", {}),
        "classes": manifest.classes,
        "positive": manifest.positive,
        "sides": [_sides(results, manifest, label, place) for place, label in enumerate(results.splits)],
        "cells": cells,
        "unread": unread,
    }


def _sides(results: Results, manifest: Manifest, label: str, place: int) -> Values:
    fold = next(int(each.run.get("settings", {}).get("fold", 0)) for each in results.trained if each.protocol == label)
    counts = count_sides(manifest, results.splits[label], fold)
    units = [unit for unit in ("images", "subjects") if counts[unit].any()]
    return {
        "label": label,
        "rows": counts.to_dict("records"),
        "pictures": [figures.class_counts(f"d{place}{unit}", counts, unit) for unit in units],
        "audit": results.splits[label].record.get("audit", []),
        "record": results.splits[label].record,
    }


def _sample_cells(manifest: Manifest) -> tuple[list[tuple[str, list[Values]]], int]:
    """Give a few cells of each class, of as many subjects as there are, and how many files could not be read."""
    preprocessing = Preprocessing(canvas_px=tuple(manifest.record["canvas_px"]), input_px=CELL_PX)
    shown, unread = [], 0
    for label in manifest.classes:
        cells = []
        for image, subject in _chosen(manifest.images, label):
            source = _data_uri(manifest.root / image, preprocessing)
            if source is None:
                unread += 1
            else:
                cells.append({"source": source, "subject": subject, "image": image})
        if cells:
            shown.append((label, cells))
    return shown, unread


def _chosen(images: pd.DataFrame, label: str) -> list[tuple[str, str | None]]:
    """Give the first image of each subject, then second ones, spread over the class where no subject is known."""
    usable = images[(images["label"] == label) & images["duplicate_of"].isna()].sort_values("image")
    if usable["subject"].notna().any():
        turn = usable.groupby("subject").cumcount()
        usable = usable.assign(turn=turn).sort_values(["turn", "image"]).head(CELLS_PER_CLASS)
    else:
        usable = usable.iloc[:: max(1, len(usable) // CELLS_PER_CLASS)].head(CELLS_PER_CLASS)
    subjects = [None if pd.isna(subject) else str(subject) for subject in usable["subject"]]
    return list(zip(usable["image"].astype(str), subjects, strict=True))


def _data_uri(path: Path, preprocessing: Preprocessing) -> str | None:
    try:
        pixels = preprocessing.apply(read_pixels(path, IndexSettings().max_pixels).pixels)
    except ImageError:  # counted by the caller and said in the report: the data may have moved since they were indexed
        return None
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _making(results: Results) -> Values:
    runs = [each.run for each in results.trained]
    first: Values = next((run for run in runs if run), {})
    settings = results.record.get("settings") or first.get("settings", {})
    return {
        "settings": list(flatten(settings)),
        "versions": list(flatten(results.record.get("versions") or first.get("versions", {}))),
        "hardware": list(flatten(results.record.get("hardware") or first.get("hardware", {}))),
        "git_commit": results.record.get("git_commit") or first.get("git_commit"),
        "manifest_hash": first.get("manifest_hash"),
        "weights": list(_weights(results).values()),
        "runs": [(each.row, each.run, each.row["metrics"]["record"]) for each in results.trained],
    }


def _weights(results: Results) -> dict[tuple[str, str], Values]:
    """Give the record of the weights of each network, once where both protocols used the same."""
    return {(each.row["display_name"], each.row["trained_on"]): {"row": each.row, **each.run.get("weights", {})}
            for each in results.trained}  # fmt: skip


def _is_optimistic(table: pd.DataFrame, label: str) -> bool:
    return bool(table.loc[table["protocol"] == label, "optimistic"].astype(bool).any())


def _is_synthetic(results: Results) -> bool:
    """Whether any piece says that the cells are drawn, not photographed."""
    said = [results.manifest.record.get("synthetic")] if results.manifest else []
    said += [each.run.get("synthetic") for each in results.trained]
    said += [each.row["metrics"]["record"].get("synthetic") for each in results.trained]
    return any(map(bool, said))
