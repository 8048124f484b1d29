"""The first page: which model, how good, how sure, what to beware of.

In: `Results`. Out: values and sentences for the template. Writes: nothing. A sentence claims what analysis.json claims and
no more: where no interval could be drawn, the reason stands in the place of a claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leukolens.artifacts import VALIDATION
from leukolens.evaluation.comparison import comparison_table
from leukolens.reporting import claims
from leukolens.reporting.results import BASELINE, NETWORK, Model, Results, Study
from leukolens.reporting.wording import FIGURE_NAMES, count, decimal, decimal_interval, percent, percent_interval, sentence

Values = dict[str, Any]

_AREAS = ("auroc", "auroc_macro_ovr", "ece")


def choose(study: Study) -> Model | None:
    """Give the model of a study with the highest balanced accuracy on validation (`comparison_table`), or the only one.

    Ensembles, augmented repeats and baselines stand beside the choice, not in it. None where there are several
    and none of them was measured on validation.
    """
    candidates = [model for model in study.models if model.is_candidate] or list(study.models)
    if len(candidates) == 1:
        return candidates[0]
    known = [{**model.row, "study": study.place, "model": model.name, "kind": NETWORK, "metrics": model.metrics}
             for model in candidates]  # fmt: skip
    table = comparison_table(known)
    return next((model for model, best in zip(candidates, table["is_best"], strict=True) if best), None)


def answer(results: Results) -> Values:
    """Gather the first page of the study that answers."""
    study = results.studies[0]
    chosen = choose(study)
    shown = chosen or study.models[0]
    return {
        "study": study,
        "chosen": chosen,
        "headline": _headline(study, chosen),
        "tested": _tested(study, shown),
        "key_figures": _key_figures(chosen) if chosen else [],
        "no_interval": _reason(shown),
        "sure": list(claims.how_sure(results, study, chosen)),
        "beware": list(claims.beware(results, study, chosen)),
    }


def _headline(study: Study, chosen: Model | None) -> str:
    """Say how the model was chosen; the sentence goes on from its name."""
    if chosen is None:
        return "No model is chosen: none was measured on validation images. The table gives what was measured."
    number = sum(model.is_candidate for model in study.models)
    validated = chosen.sides.get(VALIDATION, {}).get("balanced_accuracy")
    if chosen.kind is None and number == 1:
        return "is another tool’s model, measured from its table of scores; how it was chosen is not recorded."
    if number > 1:
        return (f"was chosen among {number} networks for the highest balanced accuracy on the validation images "
                f"({percent(validated)}).")  # fmt: skip
    alone = "is the only network here"
    return f"{alone}; its balanced accuracy on the validation images is {percent(validated)}." if validated else f"{alone}."


def _tested(study: Study, model: Model) -> str:
    """Say on what it was measured, and whether it knew the subjects."""
    side = model.side
    images = f"{count(side['images'])} {model.shown_side} images"
    if not side["subjects"]:
        whom = "of unknown subjects"
    else:
        groups = f" in {count(side['groups'])} groups" if side["groups"] != side["subjects"] else ""
        whom = f"of {count(side['subjects'])} subjects{groups}{_acquaintance(study)}"
    place = sentence(study.label)
    return f"{place}: {images} {whom}."


def _acquaintance(study: Study) -> str:
    if study.optimistic is None:
        return "; whether it was trained on some of them is not recorded"
    if study.optimistic:
        return ", some of whose other images it was trained on"
    if study.crossvalidated:
        return ", each scored by networks that were trained on none of that subject’s images"
    return ", none of whom it was trained on"


def _key_figures(model: Model) -> list[Values]:
    """Give (value, interval, name) of the figures that the answer rests on."""
    positive = model.record.get("positive", [])
    names = ("auroc", "balanced_accuracy", "sensitivity", "specificity", "ece")
    if not positive:
        names = ("balanced_accuracy", "accuracy", "f1_macro", "auroc_macro_ovr", "ece")
    figures = [figure_cell(model, name) for name in names if name in model.side]
    for each in figures:
        if each["figure"] == "sensitivity":
            each["name"] = f"sensitivity for {', '.join(positive)}"
    return figures


def figure_cell(model: Model, figure: str) -> Values:
    """Give one figure as it is printed: `value`, `interval` (None where there is none) and `name`."""
    area = figure in _AREAS
    ends = model.side["intervals"]["intervals"].get(figure) if model.side["intervals"] else None
    value = model.side.get(figure)
    return {
        "figure": figure,
        "name": FIGURE_NAMES[figure],
        "value": decimal(value) if area else percent(value),
        "interval": None if ends is None or value is None else decimal_interval(ends) if area else percent_interval(ends),
    }


def _reason(model: Model) -> str | None:
    """Give why no interval stands beside the figures, or what is fragile about them."""
    note: str | None = model.side["intervals"]["note"]
    return note


def main_table(study: Study, chosen: Model | None) -> Values:
    """Gather all models of a study in one table: networks and ensembles by value, then the baselines."""
    ranked = {each["model"]: each for each in study.analysis["models"]} if study.analysis else {}
    beats = study.analysis["beats_baselines"] if study.analysis else {}
    models = sorted(study.models, key=lambda model: _falling(model, study.figure))
    columns = _columns(models, study.figure)
    parts = [[model for model in models if (model.kind == BASELINE) is baseline] for baseline in (False, True)]
    return {
        "caption": _caption(study, chosen),
        "columns": [FIGURE_NAMES[name] for name in columns],
        "parts": [
            [_table_row(model, columns, chosen if len(models) > 1 else None) for model in part] for part in parts if part
        ],
        "has_chance": any(each["probability_best"] is not None for each in ranked.values()),
        "has_verdict": bool(beats),
        "has_printed": any(model.row.get("source_document_accuracy") is not None for model in models),
        "chances": {name: each["probability_best"] for name, each in ranked.items()},
        "verdicts": beats,
    }


def _caption(study: Study, chosen: Model | None) -> str:
    some = any(ends for model in study.models for ends in model.side["intervals"]["intervals"].values())
    shown = study.models[0]
    brackets = f"; in brackets {percent(shown.confidence, 0)} intervals" if some else "; no intervals"
    star = "; ★ chosen on validation" if chosen is not None and len(study.models) > 1 else ""
    return f"{study.label}: figures on {shown.shown_side}{brackets}{star}"


def _falling(model: Model, figure: str) -> float:
    value = model.side.get(figure)
    return float("inf") if value is None else -float(value)


def _columns(models: Sequence[Model], figure: str) -> list[str]:
    """Name the figures that are measured, first the one that models are compared by."""
    names = ("auroc", "auroc_macro_ovr", "balanced_accuracy", "sensitivity", "specificity", "f1_weighted", "accuracy", "ece")
    measured = [name for name in names if any(model.side.get(name) is not None for model in models)]
    # Where a positive class is named, the area is its own; a second one, of all classes, is in the fold of each network.
    shown = [name for name in measured if not (name == "auroc_macro_ovr" and "auroc" in measured)]
    return sorted(shown, key=lambda name: name != figure)


def _table_row(model: Model, columns: Sequence[str], chosen: Model | None) -> Values:
    with_interval = ("auroc", "auroc_macro_ovr", "balanced_accuracy")
    cells = [figure_cell(model, name) for name in columns]
    return {
        "model": model,
        "chosen": model is chosen,
        "cells": [{**cell, "interval": cell["interval"] if cell["figure"] in with_interval else None} for cell in cells],
    }
