"""A results folder as `compare` leaves it, of random scores: nothing is trained, everything that the report reads is there.

What `measure` can tell of the scores is told by it; intervals, comparisons and the other statistics are made up in the form
that docs/data-formats.md gives them, so that a test can ask for a claim, for no claim, or for no interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohort import draw_cell, write_image
from leukolens.artifacts import MANIFEST_COLUMNS, Manifest, Predictions, Splits, read_json, write_json
from leukolens.evaluation.metrics import Scored, accuracy_per_subject, auroc, measure, overall

PROTOCOLS = {
    "crossval/subject": ("cross-validated by subject, 3 folds × 2 seeds", False),
    "subject": ("split by subject", False),
    "crossval/image": ("cross-validated by image: optimistic, 3 folds × 2 seeds", True),
    "image": ("split by image: optimistic", True),
}
NAMES = {"vgg16": "VGG16", "efficientnet_b0": "EfficientNet-B0", "resnet50": "ResNet-50", "regnet_y_400mf": "RegNetY",
         "densenet121": "DenseNet-121", "alexnet": "AlexNet", "ensemble": "Ensemble of the networks",
         "baseline_majority": "Majority class", "baseline_area": "Cell area alone",
         "baseline_area_colour": "Cell area + mean colour"}  # fmt: skip
BASELINES = ("baseline_area_colour", "baseline_area", "baseline_majority")
FONTS = "NOT ImageNet: 12 historical font groups (OCR-D)"
FEW = "HEM has 4 subject groups, fewer than 8: no interval."
INTERVAL_FIGURES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc", "auroc_macro_ovr", "f1_weighted",
                    "f1_macro", "ece")  # fmt: skip


@dataclass(frozen=True)
class Example:
    """What the folder holds; `odd_subject` is the id of one subject, `skill` how well the scores know the truth.

    `claim`: the networks that the first one is said to be better than. `beats`: whether networks beat the baselines.
    """

    classes: tuple[str, ...] = ("HEM", "ALL")
    positive: tuple[str, ...] = ("ALL",)
    architectures: tuple[str, ...] = ("resnet50", "regnet_y_400mf")
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    subjects: int = 24
    cells: int = 8
    odd_subject: str | None = None
    known_subjects: bool = True
    synthetic: bool = True
    skill: float = 1.2
    intervals: bool = True
    claim: tuple[str, ...] = ()
    beats: bool | None = True
    tta: bool = True
    rare: int | None = None  # so many images of the first class, the rest of the second


def build_results(folder: Path, example: Example) -> Path:
    """Write manifest, splits, runs, predictions, metrics, analyses, the leak and comparison.json below `folder`."""
    manifest = _manifest(folder / "cells", example)
    manifest.save(folder / "manifest.parquet")
    rows = []
    for protocol in example.protocols:
        splits = _splits(manifest, protocol, example)
        name = "splits-0.parquet" if protocol.startswith("crossval") else "splits.parquet"
        splits.save(folder / protocol / name)
        models = _models(example)
        for number, model in enumerate(models):
            rows.append(_model(folder / protocol, manifest, splits, model, number, example))
        write_json(folder / protocol / "analysis.json", _analysis(rows[-len(models):], folder, example))
    if "crossval/image" in example.protocols and "crossval/subject" in example.protocols:
        write_json(folder / "leak.json", leak_record(example.architectures, intervals=example.intervals))
    write_json(folder / "comparison.json", _comparison(rows, example))
    return folder


def leak_record(architectures: tuple[str, ...], intervals: bool = True, shift: float = 0.05) -> dict[str, Any]:
    """The content of leak.json."""
    rows = []
    for place, name in enumerate(architectures):
        difference = shift + 0.004 * place
        rows.append({"architecture": name, "display_name": NAMES[name], "by_subject": 0.84 - 0.01 * place,
                     "by_image": 0.84 - 0.01 * place + difference, "difference": difference,
                     "interval": [difference - 0.02, difference + 0.02] if intervals else None})  # fmt: skip
    mean = {key: float(np.mean([row[key] for row in rows])) for key in ("by_subject", "by_image", "difference")}
    mean["interval"] = [mean["difference"] - 0.015, mean["difference"] + 0.015] if intervals else None
    return {"figure": "auroc", "unit": "subject group", "rows": rows, "mean": mean, "images": 192, "groups": 24,
            "note": None if intervals else FEW}  # fmt: skip


def _models(example: Example) -> list[str]:
    augmented = [f"{name}+tta" for name in example.architectures] if example.tta else []
    ensemble = ["ensemble"] if len(example.architectures) > 1 else []
    return [*example.architectures, *augmented, *ensemble, *BASELINES]


def _kind(model: str) -> str:
    return "ensemble" if model == "ensemble" else "baseline" if model in BASELINES else "network"


def _manifest(root: Path, example: Example) -> Manifest:
    cells = []
    total = example.subjects * example.cells
    for number in range(example.subjects):
        rare_subjects = None if example.rare is None else -(-example.rare // example.cells)
        label = example.classes[number % len(example.classes) if rare_subjects is None else int(number >= rare_subjects)]
        subject = f"H{number}" if label == "HEM" else str(number)
        subject = example.odd_subject if number == 1 and example.odd_subject else subject
        for cell in range(example.cells):
            if example.rare is not None and label == example.classes[0] and number * example.cells + cell >= example.rare:
                continue
            image = f"{label}/UID_{number}_{cell}.png"
            write_image(root / image, draw_cell(number * 100 + cell, 10 + 3 * (label != example.classes[0])))
            known = subject if example.known_subjects else None
            cells.append({"image": image, "label": label, "subject": known, "group": known, "part": "train"})
    images = pd.DataFrame(cells).reindex(columns=list(MANIFEST_COLUMNS))
    sizes = [name for name, kind in MANIFEST_COLUMNS.items() if kind != "string"]
    images[sizes] = images[sizes].astype(object).fillna(48)
    assert len(images) <= total
    record = {"root": str(root), "layout": "flat", "classes": list(example.classes), "positive": list(example.positive),
              "canvas_px": [48, 48], "synthetic": example.synthetic, "flow": _flow(len(images), example)}  # fmt: skip
    return Manifest(images, record)


def _flow(images: int, example: Example) -> dict[str, Any]:
    subjects = example.subjects if example.known_subjects else 0
    return {"found": images + 1, "set_aside": {"truncated": 1},
            "set_aside_images": [{"image": "ALL/<broken>.png", "reason": "truncated", "detail": "ends early"}],
            "csv_rows_without_image": 0, "images_without_csv_row": 0, "usable": images, "labelled": images,
            "unlabelled": 0, "duplicate_images": 2, "duplicate_sets": 2, "duplicate_sets_across_subjects": 1,
            "duplicate_sets_across_folds": 0, "duplicate_sets_across_parts": 0,
            "merged_groups": [["20", "21"]] if example.known_subjects else [],
            "subjects": subjects, "groups": subjects, "counts": []}  # fmt: skip


def _splits(manifest: Manifest, protocol: str, example: Example) -> Splits:
    label, optimistic = PROTOCOLS[protocol]
    images = manifest.images["image"]
    unit = np.arange(len(images)) if optimistic else images.str.extract(r"UID_(\d+)_")[0].astype(int).to_numpy()
    place = unit // (1 if example.rare else len(manifest.classes))
    if protocol.startswith("crossval"):
        part = place % 3
        sides = [np.array(["test", "validation", "train"])[(part - fold) % 3] for fold in range(3)]
    else:
        sides = [np.array(["train", "train", "train", "validation", "test", "test"])[place % 6]]
    table = pd.concat([pd.DataFrame({"fold": fold, "image": images, "side": side}) for fold, side in enumerate(sides)])
    audit = [f"{label}, seed 0", "train 96 images", "subjects on two sides: 0"]
    return Splits(table.reset_index(drop=True), {"strategy": protocol, "label": label, "optimistic": optimistic, "seed": 0,
                  "folds": len(sides), "fractions": [0.7, 0.15, 0.15], "manifest_hash": "f" * 64, "audit": audit})  # fmt: skip


def _model(folder: Path, manifest: Manifest, splits: Splits, model: str, number: int, example: Example) -> dict[str, Any]:
    """Write one model's folder; give its row of comparison.json."""
    kind, architecture = _kind(model), model.removesuffix("+tta")
    name, tta = NAMES[architecture], model.endswith("+tta")
    trained_on = FONTS if architecture == "regnet_y_400mf" else "ImageNet-1k"
    skill = {"network": example.skill - 0.2 * (number % len(example.architectures)), "ensemble": example.skill + 0.1}
    table = _table(manifest, splits, skill.get(kind, 0.5 - 0.1 * number % 0.4), len(model) + number)
    record = {"classes": list(example.classes), "positive": list(example.positive),
              "architecture": architecture if kind == "network" else None, "display_name": name, "kind": kind,
              "trained_on": trained_on, "split_label": splits.record["label"],
              "optimistic": splits.record["optimistic"], "synthetic": example.synthetic, "run_hash": "0", "tta": tta,
              "decisions": _decisions(splits, example), "images_per_second": 41.7}  # fmt: skip
    target = folder / model
    Predictions(table, record).save(target / "predictions.parquet")
    metrics = metrics_of(table, record, example.intervals)
    write_json(target / "metrics.json", metrics)
    trained = kind == "network" and not tta
    if trained:
        _run_files(target, record, splits, number, folder.parent.name != "crossval")
    printed = 0.953 - 0.019 * number if trained and len(example.classes) == 2 else None
    return {"study": splits.record["strategy"], "protocol": splits.record["label"], "optimistic": record["optimistic"],
            "kind": kind, "architecture": record["architecture"], "model": model,
            "display_name": name + (" + flips and turns" if tta else ""),
            "trained_on": trained_on if kind == "network" else "", "phase": "head" if trained else None,
            "parameters": 23_500_000 - number * 5_000_000 if trained else None, "epochs": 3 if trained else None,
            "train_seconds": 187.4 + 100 * number if trained else None, "images_per_second": 41.7,
            "source_document_accuracy": printed, "tta": tta,
            "run": f"{splits.record['strategy']}/{model}"}  # fmt: skip


def _table(manifest: Manifest, splits: Splits, skill: float, seed: int) -> pd.DataFrame:
    """Scores of every placed image but the training ones; with folds, of two repeats."""
    several = splits.record["folds"] > 1
    sides = pd.concat([splits.sides.assign(repeat=repeat) for repeat in range(2 if several else 1)], ignore_index=True)
    table = sides.merge(manifest.images[["image", "label", "subject", "group"]], on="image")
    random, classes = np.random.default_rng(seed), list(manifest.classes)
    truth = table["label"].map(classes.index).to_numpy()
    known = (skill + 0.5 * splits.record["optimistic"]) * np.eye(len(classes))[truth]
    logits = random.normal(size=known.shape) + known
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    positive = [classes.index(name) for name in manifest.positive]
    table = table.rename(columns={"label": "y_true"}).assign(
        y_pred=np.array(classes)[scores.argmax(axis=1)],
        y_score=scores[:, positive].sum(axis=1) if positive else np.nan,
        **{f"score_{name}": scores[:, index] for index, name in enumerate(classes)},
    )
    return table[table["side"] != "train"]


def _decisions(splits: Splits, example: Example) -> list[dict[str, Any]]:
    two = len(example.classes) == 2
    return [{"repeat": repeat, "fold": fold, "temperature": 1.1 + 0.1 * fold, "aim": "balanced_accuracy",
             "threshold": 0.41 if two else None, "sensitivity": None}
            for repeat in range(2 if splits.record["folds"] > 1 else 1) for fold in range(splits.record["folds"])]  # fmt: skip


def metrics_of(table: pd.DataFrame, record: dict[str, Any], intervals: bool) -> dict[str, Any]:
    """The content of metrics.json."""
    evaluation = {"resamples": 2000, "confidence": 0.95, "minimum_groups": 8, "seed": 0}
    sides = {side: _side(rows, record, intervals) for side, rows in table.groupby("side")}
    return {"record": {**record, "predictions_hash": "c" * 64, "evaluation": evaluation}, "sides": sides}


def _scored(rows: pd.DataFrame, record: dict[str, Any]) -> Scored:
    classes = tuple(record["classes"])
    return Scored(classes, tuple(record["positive"]), rows["y_true"].map(classes.index).to_numpy(np.int64),
                  rows["y_pred"].map(classes.index).to_numpy(np.int64),
                  rows[[f"score_{name}" for name in classes]].to_numpy())  # fmt: skip


def _side(table: pd.DataFrame, record: dict[str, Any], intervals: bool) -> dict[str, Any]:
    rows = table[table["repeat"] == 0]
    figures = measure(_scored(rows, record))
    subjects = [None if pd.isna(each) else str(each) for each in rows["subject"]]
    per_subject = accuracy_per_subject(subjects, _scored(rows, record))
    calibration = _calibration(rows, record)
    named = [name for name in INTERVAL_FIGURES if {**figures, "ece": 0.04}.get(name) is not None]
    ends = {name: _around({**figures, "ece": calibration["ece"]}[name]) if intervals else None for name in named}
    several = table["fold"].nunique() > 1
    within = {"auroc_within_folds": figures["auroc"] + 0.0371} if several and record["positive"] else {}
    ends.update({name: _around(value, 0.03) if intervals else None for name, value in within.items()})
    groups = {name: int(rows.loc[rows["y_true"] == name, "group"].nunique() or (rows["y_true"] == name).sum())
              for name in record["classes"]}  # fmt: skip
    scalars = [name for name, value in figures.items() if isinstance(value, float)]
    return {
        **figures,
        **within,
        "subjects": int(rows["subject"].nunique()),
        "groups": int(rows["group"].nunique()),
        "ece": calibration["ece"],
        "brier": calibration["brier"],
        "intervals": {"unit": "subject group" if any(subjects) else "image", "groups": groups,
                      "effective_groups": {name: 0.8 * number for name, number in groups.items()},
                      "intervals": ends, "note": None if intervals else FEW},
        "repeats": {"count": 2 if several else 1, "spread": dict.fromkeys(scalars, 0.0121) if several else {},
                    "values": {name: [figures[name]] * 2 for name in scalars} if several else {}},
        "folds": [{"repeat": repeat, "fold": fold, "images": len(each), "groups": int(each["group"].nunique()),
                   **_fold(each, record)} for (repeat, fold), each in table.groupby(["repeat", "fold"])] if several else [],
        "calibration": calibration,
        "subject_level": _subject_level(rows, record, intervals) if any(subjects) and record["positive"] else None,
        "subgroups": _subgroups(rows, record, intervals),
        "abstention": _abstention(rows, intervals),
        "per_subject": per_subject,
    }  # fmt: skip


def _fold(rows: pd.DataFrame, record: dict[str, Any]) -> dict[str, Any]:
    scored = _scored(rows, record)
    return {**overall(scored), "auroc": auroc(scored.is_positive, scored.positive_score) if record["positive"] else None}


def _around(value: float, half: float = 0.04) -> list[float]:
    return [max(0.0, value - half), min(1.0, value + half)]


def _calibration(rows: pd.DataFrame, record: dict[str, Any]) -> dict[str, Any]:
    score = rows["y_score"].to_numpy() if record["positive"] else rows.filter(like="score_").max(axis=1).to_numpy()
    truth = rows["y_true"].isin(record["positive"]) if record["positive"] else rows["y_true"] == rows["y_pred"]
    order = np.array_split(np.argsort(score), max(1, len(rows) // 20))
    bins = [{"low": float(score[part].min()), "high": float(score[part].max()), "mean_score": float(score[part].mean()),
             "share_positive": float(truth.to_numpy()[part].mean()), "images": len(part)} for part in order]  # fmt: skip
    return {"ece": 0.0412, "ece_uncalibrated": 0.0934, "brier": 0.1523, "brier_uncalibrated": 0.1711, "reliability": 0.0031,
            "resolution": 0.0875, "uncertainty": 0.2367, "within_bins": 0.0, "bins": bins,
            "decisions": record["decisions"], "notes": []}  # fmt: skip


def _subject_level(rows: pd.DataFrame, record: dict[str, Any], intervals: bool) -> dict[str, Any]:
    by_subject = rows.groupby("subject")
    labels = by_subject["y_true"].first()
    rule = {"sensitivity": 0.875, "sensitivity_interval": [0.529, 0.978], "specificity": 0.75, "specificity_interval": None}
    return {"subjects": len(labels), "classes": {name: int((labels == name).sum()) for name in record["classes"]},
            "rows": [{"subject": str(name), "label": str(labels[name]), "images": len(each), "mean_logit": 0.4,
                      "share_positive": 0.6} for name, each in by_subject],
            "auroc": 0.9312, "auroc_interval": [0.8123, 0.9871] if intervals else None,
            "rules": {"mean_logit": rule, "share": {**rule, "sensitivity": 0.625}}, "notes": []}  # fmt: skip


def _subgroups(rows: pd.DataFrame, record: dict[str, Any], intervals: bool) -> list[dict[str, Any]]:
    quarter = np.arange(len(rows)) % 4
    right = (rows["y_true"] == rows["y_pred"]).to_numpy()
    entries = []
    for by, unit in (("cell area", "px"), ("stain", "optical density")):
        for place in range(4):
            own = rows[quarter == place]
            entries.append({"by": by, "name": f"quartile {place + 1}: up to {10 + place},000 {unit}", "images": len(own),
                            "groups": int(own["group"].nunique()), "accuracy": float(right[quarter == place].mean()),
                            "balanced_accuracy": None if place == 3 else 0.71,
                            "interval": _around(float(right[quarter == place].mean()), 0.02) if intervals else None,
                            "counts": {name: int((own["y_true"] == name).sum()) for name in record["classes"]}})  # fmt: skip
    return entries


def _abstention(rows: pd.DataFrame, intervals: bool) -> dict[str, Any]:
    coverage = np.linspace(1 / len(rows), 1, len(rows))
    few = {"covered": None, "covered_by_group": None, "answered": None, "accuracy_answered": None, "mean_set_size": None}
    enough = {"covered": 0.913, "covered_by_group": 0.874, "answered": 0.621, "accuracy_answered": 0.889, "mean_set_size": 1.38}
    return {"risk_coverage": {"coverage": coverage.tolist(), "risk": (0.22 * coverage).tolist()}, "aurc": 0.1104,
            "conformal": [{"alpha": 0.05, "promised": None, "groups": 12, "groups_needed": 19, **few},
                          {"alpha": 0.1, "promised": 0.9, "groups": 12, "groups_needed": 9, **enough}],
            "outliers": {"refused": 0.0213, "images": len(rows)}, "notes": []}  # fmt: skip


def _run_files(folder: Path, record: dict[str, Any], splits: Splits, number: int, finetuned: bool) -> None:
    _epochs(number).to_csv(folder / "epochs.csv", index=False)
    if finetuned:
        foreign_table(number).to_csv(folder / "foreign.csv", index=False)
    write_json(folder / ("run.json" if finetuned else "crossval.json"), {
        "architecture": record["architecture"], "display_name": record["display_name"], "parameters": 23_500_000,
        "train_seconds": 187.4, "classes": record["classes"], "positive": record["positive"], "best_epoch": 3,
        "best_phase": "finetune", "manifest_hash": "f" * 64, "git_commit": "0" * 40, "versions": {"torch": "2.15"},
        "hardware": {"cores": 2}, "seed": 0, "precision": "bf16", "device": "cpu", "synthetic": record["synthetic"],
        "settings": {"batch_size": 32, "fold": 0}, "preprocessing": {},
        "split": {name: splits.record[name] for name in ("strategy", "label", "optimistic", "seed")},
        "weights": {"origin": f"folder: {record['architecture']}.safetensors", "trained_on": record["trained_on"],
                    "licence": "BSD-3-Clause", "source": "https://example.org/weights", "sha256": "a" * 64, "note": ""},
    })  # fmt: skip


def foreign_table(answered: int) -> pd.DataFrame:
    """The content of foreign.csv: all noise is refused, and all photographs but `answered` + 1."""
    kinds = ["noise"] * 30 + ["photographs"] * 20
    return pd.DataFrame({"kind": kinds, "image": [f"{kind}-{place}" for place, kind in enumerate(kinds)],
                         "outlier_score": 1.4, "refused": [True] * 30 + [place > answered for place in range(20)]})  # fmt: skip


def _epochs(number: int) -> pd.DataFrame:
    rows = []
    for phase, length, start in (("head", 40, 0.7), ("finetune", 6, 0.45)):
        for epoch in range(1, length + 1):
            fall = start * np.exp(-epoch / length) + 0.02 * number
            rows.append({"phase": phase, "epoch": epoch, "train_loss": fall, "validation_loss": fall + 0.05,
                         "validation_balanced_accuracy": 0.95 - fall / 2, "learning_rate": 0.01, "seconds": 2.0})  # fmt: skip
    return pd.DataFrame(rows)


def _analysis(rows: list[dict[str, Any]], folder: Path, example: Example) -> dict[str, Any]:
    """The content of analysis.json: the figures of metrics.json, with the claims that the example asks for."""
    figure = "auroc" if example.positive else "balanced_accuracy"
    values = {row["model"]: read_json(folder / row["run"] / "metrics.json")["sides"]["test"][figure] for row in rows}
    ranked = sorted(rows, key=lambda row: -(values[row["model"]] or 0))
    models = [{"model": row["model"], "display_name": NAMES[row["model"].removesuffix("+tta")], "kind": row["kind"],
               "value": values[row["model"]],
               "interval": _around(values[row["model"]]) if example.intervals and values[row["model"]] else None,
               "probability_best": 1 / (place + 2) if example.intervals else None,
               "rank": place + 1.3 if example.intervals else None} for place, row in enumerate(ranked)]  # fmt: skip
    networks = [row["model"] for row in ranked if row["kind"] == "network" and not row["tta"]]
    rivals = [*networks, *(["ensemble"] if "ensemble" in values else [])]
    against = [_difference(values, model, baseline, example) for model in rivals for baseline in BASELINES]
    return {
        "figure": figure, "unit": "subject group", "note": None if example.intervals else FEW, "models": models,
        "differences": [_pair(values, a, b, example) for place, a in enumerate(networks) for b in networks[place + 1:]],
        "against_baselines": [{"model": each["a"], "baseline": each["b"], "difference": each["difference"],
                               "interval": each["interval"], "beats": example.beats if example.intervals else None}
                              for each in against],
        "beats_baselines": {each["a"]: example.beats if example.intervals else None for each in against},
        "gains": [*({"model": f"{name}+tta", "against": name, "extra_seconds": 61.5,
                     **_ends(values, f"{name}+tta", name, example)} for name in networks if f"{name}+tta" in values),
                  *({"model": "ensemble", "against": name, "extra_seconds": None, **_ends(values, "ensemble", name, example)}
                    for name in networks if "ensemble" in values)],
        "notes": [],
    }  # fmt: skip


def _ends(values: dict[str, float], a: str, b: str, example: Example) -> dict[str, Any]:
    difference = (values[a] or 0) - (values[b] or 0)
    return {"difference": difference, "interval": [difference - 0.03, difference + 0.03] if example.intervals else None}


def _difference(values: dict[str, float], a: str, b: str, example: Example) -> dict[str, Any]:
    ends = _ends(values, a, b, example)
    if b in BASELINES and ends["interval"]:  # so that the verdict is that of the interval
        ends["interval"][0] = ends["difference"] / 2 if example.beats else -0.01
    return {"a": a, "b": b, **ends}


def _pair(values: dict[str, float], a: str, b: str, example: Example) -> dict[str, Any]:
    some, claim = example.intervals, b in example.claim
    p = (0.0004 if claim else 0.21) if some else None
    return {**_difference(values, a, b, example), "p": p, "p_holm": None if p is None else 2 * p,
            "delong_p": 0.012 if some else None, "delong_p_holm": 0.024 if some else None, "claim": some and claim}  # fmt: skip


def _comparison(rows: list[dict[str, Any]], example: Example) -> dict[str, Any]:
    return {"title": "example cells", "rows": rows,
            "settings": {"architectures": list(example.architectures), "train": {"batch_size": 32}},
            "hardware": {"processor": "a processor", "cores": 2}, "versions": {"torch": "2.15"},
            "git_commit": "0" * 40, "created": "2026-01-31T12:00:00+00:00", "seconds": 754.2,
            "peak_memory_gib": 3.1}  # fmt: skip
