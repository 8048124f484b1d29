"""The sections of a model card that rest on figures: metrics.json, analysis.json and foreign.csv, set into words and tables.

In: `Pieces` of a run folder, or the figures of one side in them. Out: values for the template, None for a section that has no
content. Writes: nothing; no figure of merit is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from leukolens.artifacts import TEST, TTA_SUFFIX, VALIDATION, Record
from leukolens.reporting import checklists, wording
from leukolens.reporting.markdown import Written, escape, known, table
from leukolens.reporting.run_folder import Pieces

Values = dict[str, Any]

# (name in metrics.json, words, how it is written), what is asked first comes first.
FIGURES: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("auroc", "AUROC", wording.decimal),
    ("auroc_within_folds", "AUROC within folds", wording.decimal),
    ("balanced_accuracy", "balanced accuracy", wording.percent),
    ("sensitivity", "sensitivity", wording.percent),
    ("specificity", "specificity", wording.percent),
    ("accuracy", "accuracy", wording.percent),
    ("auprc", "AUPRC", wording.decimal),
    ("mcc", "MCC", wording.decimal),
    ("f1_weighted", "F1, weighted", wording.percent),
    ("f1_macro", "F1, macro", wording.percent),
    ("precision_weighted", "precision, weighted", wording.percent),
    ("precision_macro", "precision, macro", wording.percent),
    ("recall_weighted", "recall, weighted", wording.percent),
    ("recall_macro", "recall, macro", wording.percent),
    ("auroc_macro_ovr", "AUROC, each class against the rest, mean", wording.decimal),
    ("auprc_macro_ovr", "AUPRC, each class against the rest, mean", wording.decimal),
    ("ece", "expected calibration error", wording.small),
    ("brier", "Brier score", wording.small),
)
CALIBRATION_FIGURES = (
    ("ece", "expected calibration error"),
    ("ece_uncalibrated", "the same before the temperature"),
    ("brier", "Brier score"),
    ("brier_uncalibrated", "the same before the temperature"),
    ("reliability", "Brier: reliability (less is better)"),
    ("resolution", "Brier: resolution (more is better)"),
    ("uncertainty", "Brier: uncertainty (of the data)"),
    ("within_bins", "Brier: within bins"),
)
SETS_HEADER = ("accepted error", "promised, by group", "groups (needed)", "kept, by group", "kept, by image", "answered",
               "right if answered", "classes per set")  # fmt: skip
_WRITER = {name: (words, write) for name, words, write in FIGURES}
_BEATEN: Mapping[bool | None, str] = {
    True: "all beaten by more than the paired interval",
    False: "**not all beaten** by more than the paired interval: simple measures of the cell may do as well",
    None: "not decided, because there is no interval of the difference",
}
_VERDICTS: Mapping[bool | None, str] = {True: "yes", False: "no", None: "not decided"}

_NAMED = 5


def figure_sections(pieces: Pieces) -> dict[str, Values | None]:
    """Give the sections that rest on the figures of the side that is reported.

    Args:
        pieces: what lies in the run folder and around it.

    Returns:
        Values for the template by heading (see `checklists`); None where a section has no content.
    """
    side = pieces.side
    return {
        checklists.FIGURES: _figures(pieces, side) if side else None,
        checklists.INTERVALS: _intervals(pieces, side) if side else None,
        checklists.ERRORS: _errors(side) if side else None,
        checklists.SUBJECTS: _subject_level(side) if side else None,
        checklists.SUBGROUPS: _subgroups(side, _confidence(pieces)) if side else None,
        checklists.VARIATION: _variation(side) if side else None,
        checklists.BASELINES: _baselines(pieces) if pieces.analysis else None,
        checklists.CALIBRATION: _calibration(pieces, side),
        checklists.ABSTENTION: _abstention(pieces, side),
    }


def in_short(pieces: Pieces) -> Iterator[Written]:
    """Give what a reader must know who reads no further: Markdown, one line each, figures with their intervals."""
    side = pieces.side
    if side is not None:
        yield _about_side(pieces, side)
        for name in _main_figures(pieces, side):
            yield Written(f"{_WRITER[name][0]}: {_with_interval(pieces, side, name)}")
    label = pieces.record.get("split_label") or (pieces.splits.record.get("label") if pieces.splits else None)
    yield Written(f"protocol: {escape(label or 'not known')}")
    beats = pieces.analysis.get("beats_baselines", {})
    if pieces.folder.resolve().name in beats:
        yield Written(f"baselines: {_BEATEN[beats[pieces.folder.resolve().name]]}")


def _about_side(pieces: Pieces, side: Values) -> Written:
    of = [f"{wording.count(side.get(unit))} {words}" for unit, words in (("subjects", "subjects"), ("groups", "subject groups"))
          if side.get(unit)]  # fmt: skip
    origin = f" of {' in '.join(of)}" if of else ", of which no subject is known"
    return Written(f"measured on {wording.count(side['images'])} images{origin} (side: {escape(pieces.shown)})")


def _confidence(pieces: Pieces) -> str:
    """Name the intervals, "95 % interval"."""
    confidence = pieces.record.get("evaluation", {}).get("confidence")
    return f"{wording.percent(confidence, 0)} interval" if confidence else "interval"


def _main_figures(pieces: Pieces, side: Values) -> list[str]:
    main = pieces.analysis.get("figure") or ("auroc" if side.get("auroc") is not None else "balanced_accuracy")
    wished = dict.fromkeys((main, "sensitivity", "specificity"))
    return [name for name in wished if name in _WRITER and side.get(name) is not None]


def _with_interval(pieces: Pieces, side: Values, name: str) -> str:
    written = _WRITER[name][1](side[name])
    interval = _interval(side, name)
    return f"{written}, {_confidence(pieces)} {interval}" if interval else f"{written}, no interval"


def _interval(side: Values, name: str) -> str | None:
    return _span(side.get("intervals", {}).get("intervals", {}).get(name), _WRITER[name][1])


def _span(ends: Sequence[float] | None, write: Callable[[float | None], str]) -> str | None:
    return f"{write(ends[0])} to {write(ends[1])}" if ends else None


def _figures(pieces: Pieces, side: Values) -> Values:
    validation = pieces.sides.get(VALIDATION, {})
    spread = side.get("repeats", {}).get("spread", {}) if side.get("repeats", {}).get("count", 1) > 1 else {}
    header = ["figure", str(pieces.shown), _confidence(pieces)]
    header += ["sd over repeats"] if spread else []
    header += ["validation (tuned on)"] if pieces.shown == TEST and validation else []
    rows = []
    for name, words, write in FIGURES:
        if side.get(name) is None:
            continue
        row = [words, write(side[name]), _interval(side, name) or "none"]
        row += [_spread(name, spread)] if spread else []
        row += [write(validation.get(name))] if len(header) > len(row) else []
        rows.append(row)
    return {
        "table": table(header, rows),
        "repeats": side.get("repeats", {}).get("count", 1),
        "counts": _pairs(side["counts"]),
        "positive_images": _pairs({name: n for name, n in side["counts"].items() if name in (pieces.says("positive") or [])}),
        "notes": side.get("notes", []),
    }


def _intervals(pieces: Pieces, side: Values) -> Values | None:
    """Say how intervals were made, or why there is none; None where neither is on record."""
    record = side.get("intervals", {})
    given = any((record.get("intervals") or {}).values())
    if not given and not record.get("note"):
        return None
    return {
        "given": given,
        "unit": record.get("unit"),
        "note": record.get("note"),
        "evaluation": known(pieces.record.get("evaluation", {})),
        "groups": _pairs(record.get("groups") or {}),
        "effective": [f"{name} {size:.1f}" for name, size in (record.get("effective_groups") or {}).items()],
    }


def _pairs(counts: Mapping[str, int]) -> list[str]:
    return [f"{name} {wording.count(n)}" for name, n in counts.items()]


def _spread(name: str, spread: Mapping[str, float | None]) -> str:
    return _WRITER[name][1](spread.get(name))


def _errors(side: Values) -> Values | None:
    matrix = side.get("confusion_matrix")
    if not matrix:
        return None
    classes = list(side["per_class"])
    return {
        "matrix": table(["true class", *(f"called {name}" for name in classes)],
                        [[name, *map(wording.count, row)] for name, row in zip(classes, matrix, strict=True)]),
        "per_class": table(["class", "images", "precision", "recall", "F1"],
                           [[name, wording.count(row.get("support")), *(wording.percent(row.get(figure))
                             for figure in ("precision", "recall", "f1"))] for name, row in side["per_class"].items()]),
        "worst": table(["subject", "class", "right", "images"],
                       [[row["subject"], row.get("label", wording.ABSENT), wording.count(row["correct"]),
                         wording.count(row["images"])] for row in side.get("per_subject", [])[:_NAMED]
                        if row["correct"] < row["images"]]),
        "subjects": len(side.get("per_subject", [])),
        "repeats": side.get("repeats", {}).get("count", 1),
    }  # fmt: skip


def _subject_level(side: Values) -> Values | None:
    level = side.get("subject_level")
    if not level:
        return None
    rows = []
    for name, rule in level["rules"].items():
        words = {"mean_logit": "mean logit of the cells", "share": "share of cells called positive"}.get(name, name)
        figures = [wording.percent(rule[figure]) + _in_brackets(rule.get(f"{figure}_interval")) for figure in
                   ("sensitivity", "specificity")]  # fmt: skip
        rows.append([words, *figures])
    return {
        "subjects": level["subjects"],
        "classes": _pairs(level["classes"]),
        "auroc": wording.decimal(level.get("auroc")),
        "interval": _span(level.get("auroc_interval"), wording.decimal),
        "rules": table(["rule", "sensitivity (interval)", "specificity (interval)"], rows),
        "notes": level.get("notes", []),
    }


def _in_brackets(ends: Sequence[float] | None) -> str:
    return f" ({_span(ends, wording.percent)})" if ends else " (none)"


def _subgroups(side: Values, confidence: str) -> Values | None:
    groups = side.get("subgroups")
    if not groups:
        return None
    rows = [[row["by"], row["name"], wording.count(row["images"]), wording.count(row.get("groups")),
             wording.percent(row["accuracy"]), _span(row.get("interval"), wording.percent) or "none",
             wording.percent(row["balanced_accuracy"])] for row in groups]  # fmt: skip
    header = ["by", "part", "images", "groups", "accuracy", confidence, "balanced accuracy"]
    return {"table": table(header, rows), "repeats": side.get("repeats", {}).get("count", 1)}


def _variation(side: Values) -> Values | None:
    repeats, folds = side.get("repeats", {}), side.get("folds", [])
    if repeats.get("count", 1) <= 1 and len(folds) <= 1:
        return None
    names = [name for name in ("auroc", "balanced_accuracy", "accuracy") if any(row.get(name) is not None for row in folds)]
    rows = [[str(row["repeat"]), str(row["fold"]), wording.count(row["images"]), wording.count(row.get("groups")),
             *(_WRITER[name][1](row.get(name)) for name in names)] for row in folds]  # fmt: skip
    return {
        "repeats": repeats.get("count", 1),
        "within": side.get("auroc_within_folds"),
        "folds": table(["repeat", "fold", "images", "groups", *(_WRITER[name][0] for name in names)], rows),
    }


def _baselines(pieces: Pieces) -> Values:
    analysis, name = pieces.analysis, pieces.folder.resolve().name
    words, write = _WRITER.get(analysis.get("figure", ""), (str(analysis.get("figure")), wording.decimal))
    shown = _names(analysis.get("models", []))
    compared = [[shown.get(row["baseline"], row["baseline"]), wording.difference(row["difference"]),
                 _span(row.get("interval"), wording.difference) or "none", _VERDICTS[row.get("beats")]]
                for row in analysis.get("against_baselines", []) if row["model"] == name]  # fmt: skip
    models = [[shown[each["model"]], each.get("kind") or "another tool's", write(each["value"]),
               _span(each.get("interval"), write) or "none"] for each in analysis.get("models", [])]  # fmt: skip
    return {
        "figure": words,
        "is_baseline": pieces.record.get("kind") == "baseline",
        "verdict": Written(_BEATEN[beats[name]]) if name in (beats := analysis.get("beats_baselines", {})) else None,
        "compared": table(["baseline", f"{words}: difference", "interval", "beaten"], compared),
        "models": table(["model", "kind", words, "interval"], models),
        "gains": _gains(analysis, name, shown, words),
        "notes": [*([analysis["note"]] if analysis.get("note") else []), *analysis.get("notes", [])],
    }


def _gains(analysis: Record, name: str, shown: Mapping[str, str], words: str) -> Written:
    """Tell what an ensemble or augmentation adds, where this model is the one that gains or the one that is gained upon."""
    rows = [[shown.get(row["model"], row["model"]), shown.get(row["against"], row["against"]),
             wording.difference(row["difference"]), _span(row.get("interval"), wording.difference) or "none",
             wording.duration(row.get("extra_seconds"))]
            for row in analysis.get("gains", []) if name in (row["model"], row["against"])]  # fmt: skip
    return table(["model", "against", f"{words}: gain", "interval", "further time"], rows)


def _names(models: Sequence[Record]) -> dict[str, str]:
    """Give each model's name, with "flips and turns" where it is augmented, with its folder where two still have one name."""
    names = [wording.augmented(name) if each["model"].endswith(TTA_SUFFIX) else name
             for each in models for name in (each.get("display_name") or each["model"],)]  # fmt: skip
    return {each["model"]: f"{name} ({each['model']})" if names.count(name) > 1 else name
            for each, name in zip(models, names, strict=True)}  # fmt: skip


def _calibration(pieces: Pieces, side: Values | None) -> Values | None:
    decisions = pieces.record.get("decisions") or []
    if not pieces.decision and not decisions:
        return None
    measured = (side or {}).get("calibration") or {}
    rows = [[str(each.get("repeat", 0)), str(each.get("fold", 0)), wording.decimal(each["temperature"]),
             wording.decimal(each.get("threshold"))] for each in decisions]  # fmt: skip
    told = [(name, words) for name, words in CALIBRATION_FIGURES if measured.get(name) is not None]
    threshold = pieces.decision.get("threshold") or {}
    is_told = len(rows) == 1 and bool(pieces.decision)
    return {
        "decision": known(pieces.decision) if pieces.decision else None,
        "threshold": known(threshold),
        "aim": _aim(threshold or next(iter(decisions), {})),
        "decisions": None if is_told else table(["repeat", "fold", "temperature", "threshold"], rows),
        "measured": table(["figure", str(pieces.shown)], [[words, wording.small(measured[name])] for name, words in told]),
        "notes": [*pieces.decision.get("notes", []), *measured.get("notes", [])],
    }


def _aim(threshold: Record) -> str | None:
    """Say what the threshold was chosen for; None where the record does not tell."""
    if threshold.get("aim") == "sensitivity":
        return f"the highest specificity with a sensitivity of at least {wording.percent(threshold.get('sensitivity'))}"
    return "the highest balanced accuracy" if threshold.get("aim") == "balanced_accuracy" else None


def _abstention(pieces: Pieces, side: Values | None) -> Values | None:
    measured = (side or {}).get("abstention") or {}
    if not measured and pieces.foreign is None:
        return None
    rows = [[wording.percent(row["alpha"], 0), wording.percent(row["promised"]), f"{row['groups']} ({row['groups_needed']})",
             *map(wording.percent, (row.get("covered_by_group"), row["covered"], row["answered"], row["accuracy_answered"])),
             wording.two_digits(row["mean_set_size"])] for row in measured.get("conformal", [])]  # fmt: skip
    return {
        "conformal": table(SETS_HEADER, rows),
        "rule": known(pieces.decision.get("outliers") or {}),
        "aurc": measured.get("aurc"),
        "outliers": measured.get("outliers"),
        "foreign": _foreign_table(pieces.foreign),
        "notes": [*(pieces.decision.get("outliers") or {}).get("notes", []), *measured.get("notes", [])],
    }


def _foreign_table(foreign: pd.DataFrame | None) -> Written:
    if foreign is None:
        return Written("")
    kinds = foreign.groupby("kind", sort=False)["refused"].agg(["sum", "count"])
    rows = [[str(kind), wording.count(row["sum"]), wording.count(row["count"])] for kind, row in kinds.iterrows()]
    return table(["kind of image", "refused", "tried"], rows)
