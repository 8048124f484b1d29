"""A results folder with one run and everything beside it: made-up figures, no two alike, so that none can stand for another.

And how its documents are read: a section, a row of a table, the headings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt

from leukolens.artifacts import MANIFEST_COLUMNS, Manifest, Splits, read_json, write_json
from leukolens.reporting.model_card import write_model_card

HOME = "/home/jane doe/private"
# Names that would break a careless document.
HOSTILE = ("<script>alert(1)</script>", "|x|", "# h", "`a` **b** _c_", "[x](http://x)", "![i](i)", "a\n## Limits\n", "&lt;",
           "\\|", "~~s~~", "- [x] done", "1. one", "$a$", "<!-- c", "\u202eabc", "a\x1b[31m")  # fmt: skip
SUBJECTS = {"1": "ALL", "2": "ALL", "H1": "HEM", "H2": "HEM"}
# Area of the five cells of each subject, in px.
AREAS = {"1": (60, 70, 80, 90, 100), "2": (60, 70, 80, 90, 100), "H1": (10, 20, 30, 40, 50), "H2": (10, 20, 30, 40, 50)}


def manifest(classes: Mapping[str, str] | None = None, subject: str = "1", *, synthetic: bool = False) -> Manifest:
    """20 cells of four subjects; `classes` renames ALL and HEM, `subject` the first subject."""
    name = {"ALL": "ALL", "HEM": "HEM", **(classes or {})}
    rows = [{"image": f"{who}_{cell}.bmp", "label": name[label], "subject": subject if who == "1" else who,
             "group": subject if who == "1" else who, "part": "train", "area_px": area, "format": "BMP", "width_px": 450,
             "height_px": 450, "pixel_hash": f"{who}{cell}", "content_hash": f"{who}{cell}", "mean_red": 100.0,
             "mean_green": 90.0, "mean_blue": 80.0, "bytes": 1_048_576}
            for who, label in SUBJECTS.items() for cell, area in enumerate(AREAS[who])]  # fmt: skip
    flow = {"found": 22, "set_aside": {"truncated": 2}, "usable": 20, "labelled": 20, "unlabelled": 0, "subjects": 4,
            "groups": 4,
            "set_aside_images": [{"image": "a.bmp", "reason": "truncated", "detail": f"cannot identify {HOME}/a.bmp"}],
            "csv_rows_without_image": 0, "images_without_csv_row": 0, "duplicate_images": 3, "duplicate_sets": 2,
            "duplicate_sets_across_subjects": 1, "duplicate_sets_across_folds": 0, "duplicate_sets_across_parts": 0,
            "merged_groups": [["7", "14"]],
            "counts": [{"part": "train", "fold": None, "label": label, "images": 10, "subjects": 2}
                       for label in name.values()]}  # fmt: skip
    record = {"root": f"{HOME}/cells", "layout": "flat", "classes": [name["HEM"], name["ALL"]], "positive": [name["ALL"]],
              "canvas_px": [450, 450], "synthetic": synthetic, "flow": flow}  # fmt: skip
    return Manifest(pd.DataFrame(rows).reindex(columns=list(MANIFEST_COLUMNS)), record)


def splits(data: Manifest, **record: Any) -> Splits:
    sides = ["test" if image.startswith(("1_", "H1_")) else "train" for image in data.images["image"]]
    return Splits(
        pd.DataFrame({"fold": 0, "image": data.images["image"], "side": sides}),
        {"strategy": "subject", "label": "split by subject", "optimistic": False, "seed": 3, "folds": 1,
         "fractions": [0.7, 0.15, 0.15], "manifest_hash": data.content_hash,
         "audit": ["split by subject, seed 3", "groups on two sides: 0"], **record},
    )  # fmt: skip


def run_record(data: Manifest) -> dict[str, Any]:
    return {
        "architecture": "resnet50", "display_name": "ResNet-50", "classes": data.record["classes"],
        "positive": data.record["positive"], "synthetic": data.record["synthetic"], "manifest_hash": data.content_hash,
        "weights": {"trained_on": "ImageNet-1k", "origin": "folder: r.safetensors", "source": "torchvision",
                    "licence": "BSD-3-Clause", "note": "", "sha256": "b" * 64, "paper": "He et al. 2016"},
        "preprocessing": {"canvas_px": [450, 450], "input_px": 224, "mean": [0.4], "std": [0.2], "resizer": "bilinear"},
        "settings": {"weights_dir": f"{HOME}/weights", "finetune_epochs": 6, "class_weights": True, "fold": 0},
        "split": {"strategy": "subject", "label": "split by subject", "optimistic": False, "seed": 3},
        "best_phase": "finetune", "best_epoch": 4, "validation_balanced_accuracy": 0.9, "parameters": 23_510_081,
        "train_seconds": 90.0, "run_hash": "c" * 64, "seed": 3, "device": "cpu", "precision": "fp32", "git_commit": "d" * 40,
        "versions": {"torch": "2.15.0"}, "hardware": {"cores": 2},
    }  # fmt: skip


def side_figures(classes: list[str], subject: str = "1") -> dict[str, Any]:
    """Figures of ten test images as the contract of metrics.json has them; no two are alike, so none can stand for another."""
    return {
        "images": 10, "subjects": 2, "groups": 2, "counts": {classes[0]: 5, classes[1]: 5},
        "accuracy": 0.8, "balanced_accuracy": 0.81, "sensitivity": 0.82, "specificity": 0.83, "auroc": 0.9123, "auprc": 0.884,
        "mcc": -0.25, "precision_weighted": 0.71, "recall_weighted": 0.72, "f1_weighted": 0.73, "precision_macro": 0.74,
        "recall_macro": 0.75, "f1_macro": 0.76, "ece": 0.061, "brier": 0.122,
        "intervals": {"unit": "subject group", "groups": {classes[0]: 9, classes[1]: 11},
                      "effective_groups": {classes[0]: 6.24, classes[1]: 8.46},
                      "intervals": {"auroc": [0.7012, 0.9534], "balanced_accuracy": [0.6, 0.95], "sensitivity": None},
                      "note": "HEM has 9 groups: the interval is fragile."},
        "repeats": {"count": 1, "spread": {}, "values": {}},
        "folds": [{"repeat": 0, "fold": 0, "images": 10, "groups": 2, "accuracy": 0.8, "balanced_accuracy": 0.81}],
        "calibration": {"ece": 0.061, "ece_uncalibrated": 0.093, "brier": 0.122, "brier_uncalibrated": 0.141,
                        "reliability": 0.0001, "resolution": 0.087, "uncertainty": 0.237, "within_bins": 0.0, "bins": [],
                        "decisions": [], "notes": ["2 bins instead of 15."]},
        "subject_level": {"subjects": 2, "classes": {classes[0]: 1, classes[1]: 1}, "rows": [], "auroc": 0.931,
                          "auroc_interval": [0.812, 0.987], "notes": ["Two subjects."],
                          "rules": {"mean_logit": {"sensitivity": 0.875, "sensitivity_interval": [0.529, 0.978],
                                                   "specificity": 0.75, "specificity_interval": None}}},
        "subgroups": [{"by": "cell area", "name": "quartile 1: up to 24,000 px", "images": 5, "groups": 2, "accuracy": 0.77,
                       "balanced_accuracy": None, "interval": [0.5, 0.9], "counts": {classes[0]: 5}}],
        "abstention": {"risk_coverage": {"coverage": [], "risk": []}, "aurc": 0.052,
                       "conformal": [{"alpha": 0.1, "promised": 0.9, "groups": 12, "groups_needed": 9, "covered": 0.913,
                                      "covered_by_group": 0.874,
                                      "answered": 0.621, "accuracy_answered": 0.889, "mean_set_size": 1.384},
                                     {"alpha": 0.05, "promised": None, "groups": 12, "groups_needed": 19, "covered": None,
                                      "covered_by_group": None,
                                      "answered": None, "accuracy_answered": None, "mean_set_size": None}],
                       "outliers": {"refused": 0.021, "images": 10}, "notes": []},
        "per_class": {name: {"precision": 0.7, "recall": 0.8, "f1": 0.75, "support": 5} for name in classes},
        "confusion_matrix": [[4, 1], [2, 3]],
        "per_subject": [{"subject": subject, "label": classes[1], "images": 5, "correct": 3, "accuracy": 0.6}],
        "curves": {}, "notes": ["One sentence of the evaluation."],
    }  # fmt: skip


def metrics(data: Manifest, subject: str = "1", **record: Any) -> dict[str, Any]:
    classes = list(data.record["classes"])
    decision = {"repeat": 0, "fold": 0, "temperature": 1.4, "threshold": 0.41, "aim": "sensitivity", "sensitivity": 0.95}
    return {
        "record": {"classes": classes, "positive": data.record["positive"], "display_name": "ResNet-50", "kind": "network",
                   "split_label": "split by subject", "optimistic": False, "synthetic": data.record["synthetic"], "tta": False,
                   "manifest_hash": data.content_hash, "predictions_hash": "e" * 64, "decisions": [decision],
                   "evaluation": {"resamples": 2000, "confidence": 0.95, "minimum_groups": 8, "seed": 0}, **record},
        "sides": {"validation": {"images": 4, "balanced_accuracy": 0.99, "counts": {}}, "test": side_figures(classes, subject)},
    }  # fmt: skip


ANALYSIS = {
    "figure": "auroc", "unit": "subject group", "note": None, "notes": ["Area alone comes close."], "differences": [],
    "models": [{"model": "resnet50", "display_name": "ResNet-50", "kind": "network", "value": 0.9123,
                "interval": [0.7012, 0.9534]},
               {"model": "baseline_area", "display_name": "Cell area alone", "kind": "baseline", "value": 0.85,
                "interval": None}],
    "against_baselines": [{"model": "resnet50", "baseline": "baseline_area", "difference": 0.0623,
                           "interval": [-0.0212, 0.1434], "beats": False}],
    "beats_baselines": {"resnet50": False},
    "gains": [],
}  # fmt: skip
DECISION = {"temperature": 1.4, "validation_images": 36, "validation_groups": 7, "classes": [], "positive": [], "notes": [],
            "threshold": {"value": 0.41, "aim": "sensitivity", "sensitivity": 0.95, "reached": 0.967}, "conformal": {},
            "outliers": {"images": 200, "neighbours": 10, "limit": 0.3, "notes": []}, "hash": "a" * 64}  # fmt: skip


def build(folder: Path, data: Manifest, subject: str = "1") -> Path:
    """A results folder with one run and everything beside it; gives the run folder."""
    run = folder / "subject" / "resnet50"
    run.mkdir(parents=True)
    data.save(folder / "manifest.parquet")
    splits(data).save(folder / "subject" / "splits.parquet")
    for path, value in {run / "run.json": run_record(data), run / "metrics.json": metrics(data, subject),
                        run / "decision.json": DECISION, run.parent / "analysis.json": ANALYSIS}.items():  # fmt: skip
        write_json(path, value)
    rows = ("kind,image,outlier_score,refused", "noise,n0,3.1,True", "noise,n1,2.0,True", "photographs,cat,0.9,False")
    (run / "foreign.csv").write_text("\n".join(rows))
    (run / "weights.safetensors").write_bytes(b"weights")
    return run


def card(run: Path, results: Path | None = None) -> str:
    return write_model_card(run, results).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def cells(text: str, first: str) -> list[str]:
    """Cells of the table row that begins with `first`."""
    line = next(line for line in text.splitlines() if re.match(rf"\| {re.escape(first)} +\|", line))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def rewrite(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def headings(text: str, level: str = "h2") -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    places = [place for place, token in enumerate(tokens) if token.type == "heading_open" and token.tag == level]
    return [tokens[place + 1].content for place in places]
