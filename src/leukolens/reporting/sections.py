"""What the report says, in the order in which it says it: the values that the templates set into words.

In: `Results`. Out: one mapping for the templates. Writes: nothing; figures of merit are taken over, none is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leukolens.artifacts import Manifest, Splits
from leukolens.evaluation.comparison import count_sides
from leukolens.reporting import drawing, figures, figures_statistics
from leukolens.reporting.answer import answer, choose, main_table
from leukolens.reporting.cells import sample_cells
from leukolens.reporting.drawing import Picture
from leukolens.reporting.evidence import colour_of, evidence, foreign_rates, forest
from leukolens.reporting.figures import Line
from leukolens.reporting.published import beside_published
from leukolens.reporting.results import Model, Results, Study
from leukolens.reporting.wording import GLOSSARY, flatten

Values = dict[str, Any]


def page(results: Results) -> Values:
    """Gather everything that the template shows.

    Beside a study that keeps subjects apart, an optimistic one has its table and curves, but no evidence: it proves nothing.
    """
    colours = network_colours(results)
    chosen = [choose(study) for study in results.studies]
    return {
        "title": _title(results),
        "record": results.record,
        "synthetic": _is_synthetic(results),
        "answer": answer(results),
        "others": [{"study": study, "note": (best or study.models[0]).side["intervals"]["note"]}
                   for study, best in zip(results.studies[1:], chosen[1:], strict=True)],
        "tables": [main_table(study, best) for study, best in zip(results.studies, chosen, strict=True)],
        "first_picture": _first_picture(results, colours),
        "published": beside_published(results),
        "leak": results.leak,
        "evidence": [evidence(study, best or study.models[0], colours, f"e{place}", results.manifest)
                     for place, (study, best) in enumerate(zip(results.studies, chosen, strict=True))
                     if study.optimistic == results.studies[0].optimistic],
        "foreign": foreign_rates(results),
        "studies": [_study(study, colours, place) for place, study in enumerate(results.studies)],
        "data": _data(results),
        "making": _making(results),
        "missing": results.missing,
        "glossary": GLOSSARY,
    }  # fmt: skip


def _title(results: Results) -> str:
    named = results.record.get("title") or results.folder.resolve().name
    return f"{named}: comparison of image classifiers" if len(results.models) > 1 else f"{results.models[0].title}: evaluation"


def network_colours(results: Results) -> dict[str, str]:
    """Give each architecture its colour, the same in every figure of the page."""
    names = dict.fromkeys(str(model.row["architecture"]) for model in results.models if model.is_candidate)
    return {name: drawing.cycled(drawing.NETWORK_COLOURS, place) for place, name in enumerate(names)}


def _first_picture(results: Results, colours: Mapping[str, str]) -> Picture | None:
    """Draw the leak where it was measured, else the models side by side, else the curve of the only one."""
    if results.leak is not None:
        return figures_statistics.leak("leak", results.leak, colours)
    study = results.studies[0]
    curves = _curves("first", [model for model in study.models if model.is_candidate], colours)
    return forest(study, colours, "firstforest") or (curves[0] if curves else None)


def _study(study: Study, colours: Mapping[str, str], place: int) -> Values:
    networks = [model for model in study.models if model.is_candidate]
    return {
        "label": study.label,
        "optimistic": study.optimistic,
        "curves": _curves(f"p{place}", networks, colours),
        "networks": [_network(f"p{place}n{index}", model, colours) for index, model in enumerate(networks)],
    }


def _curves(key: str, networks: Sequence[Model], colours: Mapping[str, str]) -> list[Picture]:
    """Draw all networks in one figure: the positive class or classes against the rest."""
    drawn: dict[str, list[Line]] = {"roc": [], "pr": []}
    for place, model in enumerate(networks):
        curves = model.side["curves"]["positive"]
        if curves is None:
            continue
        colour, pattern = colour_of(model, colours), drawing.LINE_PATTERNS[place % len(drawing.LINE_PATTERNS)]
        drawn["roc"].append(Line(model.title, curves["roc"], model.side["auroc"], colour, pattern))
        drawn["pr"].append(Line(model.title, curves["pr"], model.side["auprc"], colour, pattern))
    if not drawn["roc"]:
        return []
    what = f"{', '.join(networks[0].record['positive'])} against the rest, {networks[0].shown_side} images"
    return [figures.roc(f"{key}roc", drawn["roc"], what), figures.precision_recall(f"{key}pr", drawn["pr"], what)]


def _network(key: str, model: Model, colours: Mapping[str, str]) -> Values:
    side, name = model.side, model.shown_side
    classes = list(side["per_class"])
    pictures = [
        *_learning_pictures(key, model, colour_of(model, colours)),
        figures.confusion(f"{key}c", side["confusion_matrix"], classes, name),
        *_class_curves(key, side, name),
    ]
    if side["per_subject"]:
        pictures.append(figures.subject_accuracy(f"{key}s", side["per_subject"], classes, name))
    return {"model": model, "colour": colour_of(model, colours), "pictures": pictures}


def _learning_pictures(key: str, model: Model, colour: str) -> list[Picture]:
    if model.epochs is None:
        return []
    pictures = []
    for place, (phase, epochs) in enumerate(model.epochs.groupby("phase", sort=False)):
        best = model.run.get("best_epoch") if model.run.get("best_phase") == phase else None
        pictures.append(figures.learning_curves(f"{key}l{place}", epochs, colour, best))
    return pictures


def _class_curves(key: str, side: Mapping[str, Any], name: str) -> list[Picture]:
    """Draw each class against the rest, where there are more than two."""
    lines: dict[str, list[Line]] = {"roc": [], "pr": []}
    for index, (label, curves) in enumerate(side["curves"]["per_class"].items()):
        if curves is None:
            continue
        colour = drawing.cycled(drawing.CLASS_COLOURS, index)
        pattern = drawing.LINE_PATTERNS[index % len(drawing.LINE_PATTERNS)]
        for kind, area in (("roc", "auroc"), ("pr", "auprc")):
            lines[kind].append(Line(label, curves[kind], side["per_class"][label][area], colour, pattern))
    if not lines["roc"]:
        return []
    what = f"each class against the rest, {name} images"
    return [figures.roc(f"{key}roc", lines["roc"], what), figures.precision_recall(f"{key}pr", lines["pr"], what)]


def _data(results: Results) -> Values | None:
    manifest = results.manifest
    if manifest is None:
        return None
    cells, unread = sample_cells(manifest)
    return {
        "record": manifest.record,
        "flow": manifest.record.get("flow", {}),
        "classes": manifest.classes,
        "positive": manifest.positive,
        "sides": [_sides(manifest, study, study.splits, place)
                  for place, study in enumerate(results.studies) if study.splits is not None],
        "cells": cells,
        "unread": unread,
    }  # fmt: skip


def _sides(manifest: Manifest, study: Study, splits: Splits, place: int) -> Values:
    """Give the audit of a split, and, where it is one split and no cross-validation, the counts of its sides."""
    fold = next((int(model.run["settings"].get("fold", 0)) for model in study.models if "settings" in model.run), 0)
    counts = count_sides(manifest, splits, fold)
    units = [unit for unit in ("images", "subjects") if counts[unit].any() and not study.crossvalidated]
    return {
        "label": study.label,
        "pictures": [figures.class_counts(f"d{place}{unit}", counts, unit) for unit in units],
        "audit": splits.record.get("audit", []),
    }


def _making(results: Results) -> Values:
    networks = [model for model in results.models if model.is_candidate]
    first: Values = next((model.run for model in networks if model.run), {})
    settings = results.record.get("settings") or first.get("settings", {})
    return {
        "settings": list(flatten(settings)),
        "versions": list(flatten(results.record.get("versions") or first.get("versions", {}))),
        "hardware": list(flatten(results.record.get("hardware") or first.get("hardware", {}))),
        "git_commit": results.record.get("git_commit") or first.get("git_commit"),
        "manifest_hash": first.get("manifest_hash"),
        "weights": list(_weights(networks).values()),
        "runs": networks,
    }


def _weights(networks: Sequence[Model]) -> dict[tuple[str, str], Values]:
    """Give the record of the weights of each network, once where several studies used the same."""
    described = sorted(networks, key=lambda model: not model.run.get("weights"))
    found: dict[tuple[str, str], Values] = {}
    for model in described:
        key = (model.title, str(model.row["trained_on"]))
        found.setdefault(key, {"title": key[0], "trained_on": key[1], **model.run.get("weights", {})})
    return found


def _is_synthetic(results: Results) -> bool:
    """Whether any piece says that the cells are drawn, not photographed."""
    said = [results.manifest.record.get("synthetic")] if results.manifest else []
    said += [model.run.get("synthetic") for model in results.models]
    said += [model.record.get("synthetic") for model in results.models]
    return any(map(bool, said))
