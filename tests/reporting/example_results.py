"""A results folder as `compare` leaves it, of random scores: nothing is trained, everything that the report reads is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cohort import draw_cell, write_image
from leukolens.artifacts import MANIFEST_COLUMNS, Manifest, Predictions, Splits, write_json
from leukolens.evaluation.evaluate import evaluate

PROTOCOLS = {"subject": ("split by subject", False), "image": ("split by image: optimistic", True)}
NAMES = {"vgg16": "VGG16", "efficientnet_b0": "EfficientNet-B0", "resnet50": "ResNet-50", "regnet_y_400mf": "RegNetY",
         "alexnet": "AlexNet"}  # fmt: skip
FONTS = "NOT ImageNet: 12 historical font groups (OCR-D)"


@dataclass(frozen=True)
class Example:
    """What the folder holds; `odd_subject` is the id of one subject, `skill` how well the scores know the truth."""

    classes: tuple[str, ...] = ("HEM", "ALL")
    positive: tuple[str, ...] = ("ALL",)
    architectures: tuple[str, ...] = ("resnet50", "regnet_y_400mf")
    protocols: tuple[str, ...] = ("subject", "image")
    subjects: int = 24
    cells: int = 8
    odd_subject: str | None = None
    known_subjects: bool = True
    synthetic: bool = True
    skill: float = 1.2


def build_results(folder: Path, example: Example) -> Path:
    """Write manifest, splits, runs, predictions, metrics and comparison.json below `folder`."""
    manifest = _manifest(folder / "cells", example)
    manifest.save(folder / "manifest.parquet")
    rows = []
    for protocol in example.protocols:
        splits = _splits(manifest, protocol)
        splits.save(folder / protocol / "splits.parquet")
        for number, architecture in enumerate(example.architectures):
            rows.append(_network(folder / protocol / architecture, manifest, splits, architecture, number, example))
    write_json(folder / "comparison.json", _comparison(rows, example))
    return folder


def _manifest(root: Path, example: Example) -> Manifest:
    cells = []
    for number in range(example.subjects):
        label = example.classes[number % len(example.classes)]
        subject = f"H{number}" if label == "HEM" else str(number)
        subject = example.odd_subject if number == 1 and example.odd_subject else subject
        for cell in range(example.cells):
            image = f"{label}/UID_{number}_{cell}.png"
            write_image(root / image, draw_cell(number * 100 + cell, 10 + 3 * (label != example.classes[0])))
            known = subject if example.known_subjects else None
            cells.append({"image": image, "label": label, "subject": known, "group": known, "part": "train"})
    images = pd.DataFrame(cells).reindex(columns=list(MANIFEST_COLUMNS))
    sizes = [name for name, kind in MANIFEST_COLUMNS.items() if kind != "string"]
    images[sizes] = images[sizes].astype(object).fillna(48)
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


def _splits(manifest: Manifest, protocol: str) -> Splits:
    label, optimistic = PROTOCOLS[protocol]
    images = manifest.images["image"]
    unit = np.arange(len(images)) if optimistic else images.str.extract(r"UID_(\d+)_")[0].astype(int).to_numpy()
    side = np.array(["train", "train", "train", "validation", "test", "test"])[unit // len(manifest.classes) % 6]
    table = pd.DataFrame({"fold": 0, "image": images, "side": side})
    audit = [f"{label}, seed 0", "train 96 images", "subjects on two sides: 0"]
    return Splits(table, {"strategy": protocol, "label": label, "optimistic": optimistic, "seed": 0, "folds": 1,
                          "fractions": [0.7, 0.15, 0.15], "manifest_hash": "f" * 64, "audit": audit})  # fmt: skip


def _network(
    folder: Path, manifest: Manifest, splits: Splits, architecture: str, number: int, example: Example
) -> dict[str, Any]:
    folder.mkdir(parents=True)
    label, optimistic = splits.record["label"], splits.record["optimistic"]
    trained_on = FONTS if architecture == "regnet_y_400mf" else "ImageNet-1k"
    predictions = _predictions(manifest, splits, architecture, example.skill + optimistic - 0.2 * number, trained_on)
    predictions.save(folder / "predictions.parquet")
    evaluate(folder, folder)
    _epochs(number).to_csv(folder / "epochs.csv", index=False)
    row = {"architecture": architecture, "display_name": NAMES[architecture], "phase": "finetune",
           "parameters": 23_500_000 - number * 10_000_000 // 2, "train_seconds": 187.4 + 100 * number}  # fmt: skip
    write_json(folder / "run.json", {
        **row, "classes": list(example.classes), "positive": list(example.positive), "best_epoch": 3,
        "best_phase": "finetune", "manifest_hash": "f" * 64, "git_commit": "0" * 40, "versions": {"torch": "2.15"},
        "hardware": {"cores": 2}, "seed": 0, "precision": "bf16", "device": "cpu", "synthetic": example.synthetic,
        "settings": {"batch_size": 32, "fold": 0}, "preprocessing": {},
        "split": {name: splits.record[name] for name in ("strategy", "label", "optimistic", "seed")},
        "weights": {"origin": f"folder: {architecture}.safetensors", "trained_on": trained_on, "licence": "BSD-3-Clause",
                    "source": "https://example.org/weights", "sha256": "a" * 64, "note": ""},
    })  # fmt: skip
    printed = 0.953 - 0.019 * number if len(example.classes) == 2 else None
    return {**row, "protocol": label, "optimistic": optimistic, "trained_on": trained_on, "images_per_second": 41.7,
            "epochs": 3, "source_document_accuracy": printed, "run": f"{folder.parent.name}/{folder.name}"}  # fmt: skip


def _predictions(manifest: Manifest, splits: Splits, architecture: str, skill: float, trained_on: str) -> Predictions:
    random = np.random.default_rng(len(architecture) + 7 * splits.record["optimistic"])
    table = splits.sides.merge(manifest.images[["image", "label", "subject", "group"]], on="image")
    classes = list(manifest.classes)
    truth = table["label"].map(classes.index).to_numpy()
    logits = random.normal(size=(len(table), len(classes))) + skill * np.eye(len(classes))[truth]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    positive = [classes.index(name) for name in manifest.positive]
    table = table.rename(columns={"label": "y_true"}).assign(
        y_pred=np.array(classes)[scores.argmax(axis=1)],
        y_score=scores[:, positive].sum(axis=1) if positive else np.nan,
        **{f"score_{name}": scores[:, index] for index, name in enumerate(classes)},
    )
    record = {"classes": classes, "positive": list(manifest.positive), "architecture": architecture,
              "display_name": NAMES[architecture], "trained_on": trained_on, "split_label": splits.record["label"],
              "optimistic": splits.record["optimistic"], "synthetic": manifest.record["synthetic"],
              "run_hash": "0"}  # fmt: skip
    return Predictions(table[table["side"] != "train"], record)


def _epochs(number: int) -> pd.DataFrame:
    rows = []
    for phase, length, start in (("head", 40, 0.7), ("finetune", 6, 0.45)):
        for epoch in range(1, length + 1):
            fall = start * np.exp(-epoch / length) + 0.02 * number
            rows.append({"phase": phase, "epoch": epoch, "train_loss": fall, "validation_loss": fall + 0.05,
                         "validation_balanced_accuracy": 0.95 - fall / 2, "learning_rate": 0.01, "seconds": 2.0})  # fmt: skip
    return pd.DataFrame(rows)


def _comparison(rows: list[dict[str, Any]], example: Example) -> dict[str, Any]:
    return {"title": "example cells", "rows": rows,
            "settings": {"architectures": list(example.architectures), "train": {"batch_size": 32}},
            "hardware": {"processor": "a processor", "cores": 2}, "versions": {"torch": "2.15"},
            "git_commit": "0" * 40, "created": "2026-01-31T12:00:00+00:00", "seconds": 754.2,
            "peak_memory_gib": 3.1}  # fmt: skip
