"""What stands behind the answer, study by study: differences, calibration, patients, subgroups, abstention, folds, gains.

In: a `Study` and the model chosen in it. Out: values for the folds of the page. Writes: nothing; figures of merit are taken
over as they stand in metrics.json and analysis.json, none is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leukolens.artifacts import PREDICTIONS_FILE, Manifest, Predictions
from leukolens.reporting import drawing, figures_statistics
from leukolens.reporting.cells import cells_of_subjects
from leukolens.reporting.drawing import GREY, Picture
from leukolens.reporting.figures import Line, subject_accuracy
from leukolens.reporting.results import BASELINE, ENSEMBLE, Model, Results, Study
from leukolens.reporting.wording import ABSENT, FIGURE_NAMES, decimal, two_lines

Values = dict[str, Any]

WORST_NAMED = 5
SPREAD_FIGURES = ("auroc", "auroc_macro_ovr", "balanced_accuracy", "sensitivity", "specificity", "accuracy")
_RULES = (("mean_logit", "mean logit"), ("share", "share of cells above the threshold"))


def colour_of(model: Model, colours: Mapping[str, str]) -> str:
    """Give the colour of a network's architecture, black for ensembles, grey for baselines."""
    if model.kind == BASELINE:
        return GREY
    return "#000000" if model.kind == ENSEMBLE else colours.get(model.row["architecture"], GREY)


def evidence(study: Study, shown: Model, colours: Mapping[str, str], key: str, manifest: Manifest | None) -> Values:
    """Gather the folds of one study.

    Args:
        study: whose models are set side by side.
        shown: the model that figures and lists are of: the chosen one where there is one.
        colours: colour of each architecture.
        key: begins every id of the study's drawings.
        manifest: where the cells of the worst subjects are read, None shows none.
    """
    # Augmented repeats have their row in the main table and their gain; here they would double every list.
    networks = [model for model in study.models if model.kind != BASELINE and not model.row.get("tta")]
    return {
        "study": study,
        "shown": shown,
        "ranks": _ranks(study, colours, key),
        "differences": _differences(study),
        "calibration": _calibration(networks, shown, colours, key),
        "patients": _patients(networks, shown, key, manifest),
        "subgroups": _subgroups(shown, colours, key),
        "abstention": _abstention(networks, shown, colours, key),
        "folds": _folds(networks, shown),
        "within": _within_folds(study),
        "gains": _gains(study),
    }


def foreign_rates(results: Results) -> Values | None:
    """Give the share of images of each other kind that each network refuses, and how many there were."""
    tables = [model for model in results.models if model.foreign is not None]
    if not tables:
        return None
    counts: dict[str, int] = {}
    rows = []
    for model in tables:
        grouped = model.foreign.groupby("kind", sort=False)["refused"]  # type: ignore[union-attr]
        counts.update({str(kind): int(number) for kind, number in grouped.size().items()})
        rows.append({"title": model.title, "protocol": model.row["protocol"], "rates": grouped.mean().to_dict()})
    return {"kinds": list(counts), "counts": counts, "rows": rows}


def forest(study: Study, colours: Mapping[str, str], key: str) -> Picture | None:
    """Draw all models of a study with their intervals, where more than one was compared."""
    if study.analysis is None or len(study.analysis["models"]) < 2:
        return None
    own, titles = {model.name: colour_of(model, colours) for model in study.models}, study.titles()
    models = [{**each, "display_name": titles.get(each["model"], each["display_name"])}
              for each in study.analysis["models"] if each["value"] is not None]  # fmt: skip
    return figures_statistics.forest(key, models, study.analysis["figure"], own) if models else None


def _ranks(study: Study, colours: Mapping[str, str], key: str) -> Values | None:
    if study.analysis is None:
        return None
    titles = study.titles()
    rows = [{**each, "title": titles.get(each["model"], each["display_name"])} for each in study.analysis["models"]]
    return {
        "rows": rows,
        "has_chance": any(each["probability_best"] is not None for each in rows),
        "picture": forest(study, colours, f"{key}forest"),
    }


def _differences(study: Study) -> Values | None:
    """Give the paired differences with the names that a reader knows."""
    if study.analysis is None:
        return None
    titles = study.titles()
    pairs = [_named(each, titles, ("a", "b")) for each in study.analysis["differences"]]
    against: dict[str, dict[str, Values]] = {}
    for each in study.analysis["against_baselines"]:
        model, baseline = (titles.get(each[key], each[key]) for key in ("model", "baseline"))
        against.setdefault(model, {})[_own(model, baseline)] = each
    return {
        "figure": FIGURE_NAMES[study.analysis["figure"]],
        "pairs": pairs,
        "against": against,
        "baselines": list(dict.fromkeys(name for row in against.values() for name in row)),
        "has_delong": any(each["delong_p"] is not None for each in pairs),
        "note": study.analysis["note"],
        "notes": study.analysis["notes"],
    }


def _own(model: str, baseline: str) -> str:
    """Name the baseline of a network's own features alike for all networks: they share a column."""
    network, made = two_lines(baseline)
    return f"its own {made}" if made and network == f"{model}:" else baseline


def _named(each: Mapping[str, Any], titles: Mapping[str, str], keys: Sequence[str]) -> Values:
    return {**each, **{key: titles.get(each[key], each[key]) for key in keys}}


def _calibration(networks: Sequence[Model], shown: Model, colours: Mapping[str, str], key: str) -> Values:
    calibration = shown.side["calibration"]
    positive = shown.record.get("positive", [])
    event = f"share of {', '.join(positive)}" if positive else "share of right calls"
    picture = None
    if calibration["bins"]:
        colour = colour_of(shown, colours)
        picture = figures_statistics.reliability(f"{key}rel", calibration, shown.title, colour, event)
    return {
        "rows": [_calibration_row(model) for model in networks],
        "picture": picture,
        "aims": _aims(networks),
        "notes": calibration["notes"],
    }


def _calibration_row(model: Model) -> Values:
    figures = model.side["calibration"]
    ends = model.side["intervals"]["intervals"]
    decisions = figures["decisions"]
    return {
        **{name: figures[name] for name in ("ece", "ece_uncalibrated", "brier", "brier_uncalibrated", "reliability",
                                            "resolution", "uncertainty")},
        "title": model.title,
        "ece_interval": ends.get("ece"),
        "temperature": _range(each["temperature"] for each in decisions),
        "threshold": _range(each["threshold"] for each in decisions),
    }  # fmt: skip


def _range(values: Iterable[float | None]) -> str:
    """Write one value, or the least and the greatest of those of several folds."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return ABSENT
    low, high = decimal(known[0]), decimal(known[-1])
    return low if low == high else f"{low} to {high}"


def _aims(networks: Sequence[Model]) -> list[str]:
    """Say what the thresholds were chosen for."""
    said = [(each["aim"], each["sensitivity"]) for model in networks for each in model.side["calibration"]["decisions"]
            if each["threshold"] is not None]  # fmt: skip
    return [
        "the highest balanced accuracy" if aim == "balanced_accuracy"
        else f"the highest specificity with a sensitivity of at least {100 * float(sensitivity):g} %"
        for aim, sensitivity in dict.fromkeys(said)
    ]  # fmt: skip


def _patients(networks: Sequence[Model], shown: Model, key: str, manifest: Manifest | None) -> Values:
    """Give figures over subjects, and the subjects on which the shown model does worst."""
    side = shown.side
    measured = [model for model in networks if model.side["subject_level"]]
    worst = [entry for entry in side["per_subject"][:WORST_NAMED] if entry["correct"] < entry["images"]]
    predictions = shown.folder / PREDICTIONS_FILE
    if manifest is not None and worst and predictions.is_file():
        worst = cells_of_subjects(manifest, Predictions.load(predictions), shown.shown_side, worst)
    picture = None
    if side["per_subject"]:
        picture = subject_accuracy(f"{key}who", side["per_subject"], list(side["per_class"]), shown.shown_side)
    level = side["subject_level"] or {}
    return {
        "rows": [{"title": model.title, **model.side["subject_level"]} for model in measured],
        "rules": _RULES,
        "subjects": level.get("subjects"),
        "classes": level.get("classes", {}),
        "notes": level.get("notes", []),
        "worst": worst,
        "picture": picture,
    }


def _subgroups(shown: Model, colours: Mapping[str, str], key: str) -> Values | None:
    entries = shown.side["subgroups"]
    if not entries:
        return None
    colour = colour_of(shown, colours)
    return {
        "rows": entries,
        "classes": list(shown.side["counts"]),
        "picture": figures_statistics.subgroups(f"{key}sub", entries, shown.side["accuracy"], colour),
    }


def _abstention(networks: Sequence[Model], shown: Model, colours: Mapping[str, str], key: str) -> Values:
    curves = [_risk_line(model, colours, place) for place, model in enumerate(networks)]
    outliers = [{"title": model.title, **model.side["abstention"]["outliers"]} for model in networks
                if model.side["abstention"]["outliers"]]  # fmt: skip
    return {
        "picture": figures_statistics.risk_coverage(f"{key}risk", curves) if curves else None,
        "conformal": shown.side["abstention"]["conformal"],
        "is_by_group": any("covered_by_group" in each for each in shown.side["abstention"]["conformal"]),
        "outliers": outliers,
        "refusals": shown.side["abstention"].get("refusals"),
        "notes": shown.side["abstention"]["notes"],
    }


def _risk_line(model: Model, colours: Mapping[str, str], place: int) -> Line:
    figures = model.side["abstention"]
    pattern = drawing.LINE_PATTERNS[place % len(drawing.LINE_PATTERNS)]
    return Line(model.title, figures["risk_coverage"], figures["aurc"], colour_of(model, colours), pattern)


def _folds(networks: Sequence[Model], shown: Model) -> Values | None:
    """Give the figures of each fold of the shown model, and the spread over the repeats of all."""
    folds = shown.side["folds"]
    if not folds:
        return None
    names = [name for name in SPREAD_FIGURES if any(each.get(name) is not None for each in folds)]
    repeats = [model for model in networks if model.side["repeats"]["count"] > 1]
    return {
        "rows": folds,
        "names": names,
        "headings": [FIGURE_NAMES[name] for name in names],
        "repeats": [{"title": model.title, "side": model.side, **model.side["repeats"]} for model in repeats],
    }


def _within_folds(study: Study) -> list[Values]:
    """Give the pooled AUROC of each model beside that of pairs of one fold; empty where the latter was not measured."""
    rows = []
    for model in study.models:
        value = model.side.get("auroc_within_folds")
        if value is None or model.row.get("tta"):
            continue
        ends = model.side["intervals"]["intervals"]
        rows.append({
            "title": model.title,
            "is_baseline": model.kind == BASELINE,
            "pooled": model.side["auroc"],
            "pooled_interval": ends.get("auroc"),
            "within": value,
            "within_interval": ends.get("auroc_within_folds"),
        })  # fmt: skip
    return rows


def _gains(study: Study) -> list[Values]:
    if study.analysis is None:
        return []
    titles = study.titles()
    return [_named(each, titles, ("model", "against")) for each in study.analysis["gains"]]
