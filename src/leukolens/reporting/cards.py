"""The model card of a run and the data sheet of a results folder, in plain Markdown.

In: a run folder with what lies in it of run.json (or crossval.json), decision.json, metrics.json and foreign.csv, beside it
analysis.json and the splits, and the results folder's manifest. Out: paths. Writes: RUN/model_card.md, RESULTS/data_sheet.md.

The form follows Mitchell et al. 2019 (Model Cards for Model Reporting, FAT*) and Gebru et al. 2021 (Datasheets for Datasets,
Communications of the ACM 64:86); the sentences are ours. What is absent is named as absent. No figure of merit is computed
here. Whatever comes from the user's files (class names, subject ids, folder names) is escaped, and of a path on the machine
only the last part is written: cards are made to be passed on.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from leukolens.artifacts import (
    ANALYSIS_FILE,
    DATA_SHEET_FILE,
    DECISION_FILE,
    FOREIGN_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    MODEL_CARD_FILE,
    RUN_FILE,
    SPLITS_FILE,
    TEST,
    VALIDATION,
    WEIGHTS_FILE,
    Manifest,
    Record,
    Splits,
    hash_file,
    read_json,
    write_text,
)
from leukolens.errors import ArtifactError
from leukolens.evaluation.comparison import count_sides
from leukolens.reporting import checklists, wording

Values = dict[str, Any]

CARD_TEMPLATE = "model_card.md.j2"
SHEET_TEMPLATE = "data_sheet.md.j2"
CROSSVAL_FILE = "crossval.json"
OPEN = "- [ ] to be filled by people:"

# (name in metrics.json, words, how it is written), what is asked first comes first.
FIGURES: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("auroc", "AUROC", wording.decimal),
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
SETS_HEADER = ("accepted error", "promised", "groups (needed)", "sets that hold the truth", "answered", "right if answered",
               "classes per set")  # fmt: skip
_WRITER = {name: (words, write) for name, words, write in FIGURES}
_BEATEN: Mapping[bool | None, str] = {
    True: "all beaten by more than the paired interval",
    False: "**not all beaten** by more than the paired interval: simple measures of the cell may do as well",
    None: "not decided, because there is no interval of the difference",
}
_VERDICTS: Mapping[bool | None, str] = {True: "yes", False: "no", None: "not decided"}
# A results folder is at most this far above a run: results/crossval/subject/resnet50/repeat-0/fold-0.
_LEVELS_UP = 5
_NAMED = 5
# A cross-validation sets these itself for each network, fold and repetition: its settings hold idle defaults for them.
_SET_BY_CROSSVAL = frozenset({"architectures", "train.architecture", "train.seed", "train.fold"})
_WIDEST_PADDED = 66  # a SHA-256 and its two backticks

# Markdown's signs, and $, which GitHub reads as mathematics. An underscore within a word is none.
_SIGNS = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_LINE_START = re.compile(r"^(?=[#+\-=>])|^\d+(?=[.)](?:\s|$))")
# What can begin a tag, a comment or an entity; "<0.001" cannot, and stays as it reads.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
# How an absolute path begins, POSIX or Windows; and one within a sentence, up to its last part: no URL and no fraction.
_ABSOLUTE = re.compile(r"[A-Za-z]:[\\/]|\\\\|/|~/")
_FOLDERS = re.compile(rf"(?<![\w.:/\\])(?:{_ABSOLUTE.pattern})(?:[^\\/\s]+[\\/])+(?=[^\\/\s])")
_CODE = re.compile(r"[\w.+:/@=,-]+( [\w.+:/@=,-]+)*")


class Written(str):
    """Markdown of our own making, which is not escaped again."""

    __slots__ = ()


@dataclass(frozen=True)
class Pieces:
    """What lies in a run folder and around it; None or empty where it is absent, and `missing` says so in sentences."""

    folder: Path
    run: Record
    is_crossval: bool
    decision: Record
    metrics: Record
    analysis: Record
    foreign: pd.DataFrame | None
    manifest: Manifest | None
    splits: Splits | None
    missing: list[str] = field(default_factory=list)

    @property
    def record(self) -> Record:
        """What the predictions say of themselves."""
        record: Record = self.metrics.get("record", {})
        return record

    @property
    def sides(self) -> Mapping[str, Values]:
        """Figures of each side."""
        sides: Mapping[str, Values] = self.metrics.get("sides", {})
        return sides

    @property
    def shown(self) -> str | None:
        """The side that is reported: test, or what there is."""
        return next((side for side in (TEST, VALIDATION) if side in self.sides), next(iter(self.sides), None))

    @property
    def is_ours(self) -> bool:
        """Whether leukolens made the scores: by a run, or as a baseline or an ensemble, which have none."""
        return bool(self.run) or self.record.get("kind") is not None

    def says(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Give a field of the run, else of its predictions; None where neither has it."""
        value = self.run.get(name)
        return self.record.get(name) if value is None else value


def write_model_card(run_folder: Path, results: Path | None = None) -> Path:
    """Write RUN/model_card.md.

    Args:
        run_folder: folder of a run, a cross-validation, a baseline, an ensemble, or of another tool's metrics.json.
        results: folder with manifest.parquet. None looks in the folders above, and takes over a manifest only if it is the
            one that the run names by its hash.

    Returns:
        Path of the card.

    Raises:
        ArtifactError: the folder holds nothing to report, or a file in it is damaged.
    """
    folder = Path(run_folder)
    text = _render(CARD_TEMPLATE, card_values(read_pieces(folder, results)))
    path = folder / MODEL_CARD_FILE
    write_text(path, text)
    return path


def write_data_sheet(results: Path) -> Path:
    """Write RESULTS/data_sheet.md from the manifest, its flow and the audits of all splits below the folder.

    Args:
        results: folder with manifest.parquet.

    Returns:
        Path of the sheet.

    Raises:
        ArtifactError: there is no manifest, or it is damaged.
    """
    folder = Path(results)
    text = _render(SHEET_TEMPLATE, sheet_values(folder))
    path = folder / DATA_SHEET_FILE
    write_text(path, text)
    return path


def read_pieces(folder: Path, results: Path | None = None) -> Pieces:
    """Read what there is; raises ArtifactError where there is neither a run nor its figures, or a file is damaged."""
    missing: list[str] = []
    is_crossval = (folder / CROSSVAL_FILE).is_file()
    run = _json(folder / CROSSVAL_FILE) or _json(folder / RUN_FILE)
    metrics = _json(folder / METRICS_FILE)
    if not run and not metrics:
        raise ArtifactError(
            f"{folder} holds nothing to write a model card from.",
            expected=f"{RUN_FILE}, {CROSSVAL_FILE} or {METRICS_FILE}",
            received="none of them",
            remedy="run `leukolens train`, or `leukolens evaluate` on the scores, and write the card again",
        )
    known = run.get("manifest_hash") or metrics.get("record", {}).get("manifest_hash")
    manifest = _manifest(folder, results, known, missing)
    pieces = Pieces(
        folder=folder,
        run=run,
        is_crossval=is_crossval,
        decision=_json(folder / DECISION_FILE),
        metrics=metrics,
        analysis=_analysis(folder),
        foreign=_foreign(folder / FOREIGN_FILE),
        manifest=manifest,
        splits=_splits(folder, results, known or (manifest.content_hash if manifest else None), missing),
        missing=missing,
    )
    missing[:0] = _absent_files(pieces)
    return pieces


def _json(path: Path) -> Record:
    return read_json(path) if path.is_file() else {}


def _analysis(folder: Path) -> Record:
    """Give the study's comparison if this folder is one of its models; the one of other models says nothing here."""
    analysis = _json(folder.parent / ANALYSIS_FILE)
    return analysis if folder.resolve().name in {each["model"] for each in analysis.get("models", [])} else {}


def _absent_files(pieces: Pieces) -> Iterator[str]:
    if not pieces.is_ours:
        yield f"{RUN_FILE}: what made the scores (network, training, versions) is not known here."
    if not pieces.metrics:
        yield f"{METRICS_FILE}: no figure is reported."
    if not pieces.decision and not pieces.record.get("decisions"):
        yield f"{DECISION_FILE}: no temperature and no threshold is known to have been fitted on validation."
    if not pieces.analysis:
        yield f"{ANALYSIS_FILE}: no comparison with baselines on the same images."
    has_own_network = bool(pieces.run) and not pieces.is_crossval
    if pieces.foreign is None and (has_own_network or not pieces.is_ours):
        yield f"{FOREIGN_FILE}: nothing is known of images that are no cells."


def _foreign(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    lacking = [name for name in ("kind", "refused") if name not in table]
    if lacking:
        raise ArtifactError(
            f"{path} cannot be used.",
            expected="columns kind, image, outlier_score, refused",
            received=f"no column {' and '.join(lacking)}",
            remedy="delete the file, or run the verb that writes it again",
        )
    return table


def _manifest(folder: Path, results: Path | None, known: str | None, missing: list[str]) -> Manifest | None:
    """Give the manifest of the results, or the nearest above that the run names; another data set's is never shown."""
    above = [folder, *folder.resolve().parents][: _LEVELS_UP + 1]
    places = [Path(results)] if results is not None else above if known else []
    for place in places:
        if not (place / MANIFEST_FILE).is_file():
            continue
        manifest = Manifest.load(place)
        if known in (None, manifest.content_hash):
            return manifest
        missing.append(f"{MANIFEST_FILE}: the one found describes other data (its hash differs) and is left out.")
        return None
    missing.append(f"{MANIFEST_FILE}: the data and their flow are not described here.")
    return None


def _splits(folder: Path, results: Path | None, known: str | None, missing: list[str]) -> Splits | None:
    """Give the splits beside the run: of the first repetition, where there are several."""
    places = [folder, folder.parent] if results is None else [folder, folder.parent, Path(results)]
    paths = [place / name for place in places for name in (SPLITS_FILE, "splits-0.parquet")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        missing.append(f"{SPLITS_FILE}: the audit of the split is not shown.")
        return None
    splits = Splits.load(path)
    if known in (None, splits.record.get("manifest_hash")):
        return splits
    missing.append(f"{SPLITS_FILE}: the one found splits other data (its hash differs) and is left out.")
    return None


def card_values(pieces: Pieces) -> Values:
    """Gather everything that the template of the model card shows; a section without content is None."""
    side = pieces.sides[pieces.shown] if pieces.shown else None
    sections: Values = {
        checklists.DETAILS: _details(pieces),
        checklists.USE: {},
        checklists.DATA: _data(pieces.manifest) if pieces.manifest else None,
        checklists.PROTOCOL: _protocol(pieces),
        checklists.TRAINING: _training(pieces.run) if pieces.run.get("settings") else None,
        checklists.FIGURES: _figures(pieces) if side else None,
        checklists.INTERVALS: _intervals(pieces, side) if side else None,
        checklists.ERRORS: _errors(side) if side else None,
        checklists.SUBJECTS: _subject_level(side) if side else None,
        checklists.SUBGROUPS: _subgroups(side, _confidence(pieces)) if side else None,
        checklists.VARIATION: _variation(side) if side else None,
        checklists.BASELINES: _baselines(pieces) if pieces.analysis else None,
        checklists.CALIBRATION: _calibration(pieces, side),
        checklists.ABSTENTION: _abstention(pieces, side),
        checklists.LIMITS: {"sentences": list(_limits(pieces, side))},
        checklists.REPRODUCTION: _reproduction(pieces),
    }
    filled = [heading for heading in checklists.HEADINGS if sections[heading] is not None]
    return {
        "name": pieces.says("display_name") or pieces.folder.resolve().name,
        "record": pieces.record,
        "kind": pieces.record.get("kind") or ("network" if pieces.run else None),
        "is_crossval": pieces.is_crossval,
        "synthetic": _is_synthetic(pieces),
        "classes": pieces.says("classes") or [],
        "positive": pieces.says("positive") or [],
        "short": list(_in_short(pieces)),
        "side": side,
        "shown": pieces.shown,
        "sections": sections,
        "missing": pieces.missing,
        "checklists": checklists.checklist_values(filled),
    }


def _is_synthetic(pieces: Pieces) -> bool:
    said = [pieces.run.get("synthetic"), pieces.record.get("synthetic")]
    return any(map(bool, [*said, pieces.manifest.record.get("synthetic") if pieces.manifest else None]))


def _confidence(pieces: Pieces) -> str:
    """Name the intervals, "95 % interval"."""
    confidence = pieces.record.get("evaluation", {}).get("confidence")
    return f"{wording.percent(confidence, 0)} interval" if confidence else "interval"


def _in_short(pieces: Pieces) -> Iterator[Written]:
    """Give what a reader must know who reads no further, one line each."""
    side = pieces.sides[pieces.shown] if pieces.shown else None
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


def _details(pieces: Pieces) -> Values | None:
    if not pieces.run:
        return None
    weights = pieces.run.get("weights", {})
    return {
        "architecture": pieces.run.get("architecture"),
        "paper": weights.get("paper"),
        "weights": _known(weights),
        "phase": _kept_phase(pieces.run),
        "epoch": pieces.run.get("best_epoch"),
        "parameters": pieces.run.get("parameters"),
        "preprocessing": _preprocessing(pieces.run.get("preprocessing") or {}),
        "tta": bool(pieces.record.get("tta")),
    }


def _known(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let a template ask for what is not on record: None, written as a dash."""
    return defaultdict(lambda: None, record)


def _kept_phase(run: Record) -> str | None:
    """Give the phase that was kept; a cross-validation has one recipe and no choice."""
    phase: str | None = run.get("best_phase") or run.get("phase")
    return phase


def _preprocessing(record: Record) -> Values | None:
    if not record:
        return None
    return {**record, "canvas": " x ".join(map(str, record.get("canvas_px", [])))}


def _data(manifest: Manifest) -> Values:
    record = manifest.record
    flow = record.get("flow", {})
    aside = flow.get("set_aside", {})
    return {
        "root": folder_name(record["root"]),
        "layout": record.get("layout"),
        "hash": manifest.content_hash,
        "flow": _known(flow),
        "aside": sum(aside.values()),
        "set_aside": table(["reason for setting aside", "files"],
                           [[reason, wording.count(n)] for reason, n in aside.items()]),
        "counts": table(["part", "official fold", "class", "images", "subjects"],
                        [[row["part"], row["fold"] or wording.ABSENT, row["label"] or "no label", wording.count(row["images"]),
                          wording.count(row["subjects"])] for row in flow.get("counts", [])]),
        "without_subject": int(manifest.images["subject"].isna().sum()),
        "merged": [" = ".join(map(str, names)) for names in flow.get("merged_groups", [])],
    }  # fmt: skip


def _protocol(pieces: Pieces) -> Values | None:
    if pieces.splits is None:
        return None
    splits = pieces.splits
    fold = int(pieces.run.get("settings", {}).get("fold") or 0)
    sides = None
    if pieces.manifest and splits.record.get("folds", 1) == 1:
        rows = count_sides(pieces.manifest, splits, fold).to_dict("records")
        sides = table(["side", "class", "images", "subjects", "groups"],
                      [[row["side"], row["label"], *(wording.count(row[unit]) for unit in ("images", "subjects", "groups"))]
                       for row in rows])  # fmt: skip
    return {
        "record": splits.record,
        "label": pieces.record.get("split_label") or splits.record.get("label"),
        "hash": splits.content_hash,
        "audit": fence(splits.record.get("audit", [])),
        "sides": sides,
        "fold": fold if splits.record.get("folds", 1) > 1 and not pieces.is_crossval else None,
    }


def _training(run: Record) -> Values:
    settings = [[name, value] for name, value in wording.flatten(run["settings"]) if name not in _SET_BY_CROSSVAL]
    return {
        "settings": table(["setting", "value"], settings),
        "class_weights": _setting(run, "class_weights"),
        "finetune": _setting(run, "finetune_epochs"),
        "phase": _kept_phase(run),
        "epoch": run.get("best_epoch"),
        "validation": run.get("validation_balanced_accuracy"),
        "seconds": run.get("train_seconds"),
    }


def _setting(run: Record, name: str) -> object:
    """Give a setting of the training; a cross-validation has it one level down."""
    settings = run["settings"]
    return settings.get(name, settings.get("train", {}).get(name))


def _figures(pieces: Pieces) -> Values:
    side, validation = pieces.sides[pieces.shown or TEST], pieces.sides.get(VALIDATION, {})
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
        "evaluation": _known(pieces.record.get("evaluation", {})),
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
        "gains": table(["against", f"{words}: gain", "interval", "further seconds"],
                       [[shown.get(row["against"], row["against"]), wording.difference(row["difference"]),
                         _span(row.get("interval"), wording.difference) or "none", wording.decimal(row.get("extra_seconds"))]
                        for row in analysis.get("gains", []) if row["model"] == name]),
        "notes": [*([analysis["note"]] if analysis.get("note") else []), *analysis.get("notes", [])],
    }


def _names(models: Sequence[Record]) -> dict[str, str]:
    """Give each model's name, with its folder where two have one name (a network and the same with augmentation)."""
    names = [each.get("display_name") or each["model"] for each in models]
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
        "decision": _known(pieces.decision) if pieces.decision else None,
        "threshold": _known(threshold),
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
             wording.percent(row["covered"]), wording.percent(row["answered"]), wording.percent(row["accuracy_answered"]),
             wording.two_digits(row["mean_set_size"])] for row in measured.get("conformal", [])]  # fmt: skip
    return {
        "conformal": table(SETS_HEADER, rows),
        "rule": _known(pieces.decision.get("outliers") or {}),
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


def _limits(pieces: Pieces, side: Values | None) -> Iterator[str]:
    """Give what limits the figures, one sentence each, the gravest first."""
    yield from _limits_of_split(pieces, side)
    note = (side or {}).get("intervals", {}).get("note")
    if note:
        yield note
    if pieces.analysis.get("beats_baselines", {}).get(pieces.folder.resolve().name) is False:
        yield "The model does not beat every baseline by more than the paired interval."
    trained_on = pieces.run.get("weights", {}).get("trained_on") or pieces.record.get("trained_on")
    if trained_on and not wording.knows_imagenet(str(trained_on)):
        yield f"The network did not start from ImageNet weights, as is usual, but from weights trained on: {trained_on}."
    if side is not None and pieces.is_ours and not (pieces.is_crossval or _variation(side)):
        yield "One training with one seed: how much another seed or another split would change is not measured."
    yield from _limits_of_data(pieces)


def _limits_of_data(pieces: Pieces) -> Iterator[str]:
    if pieces.is_ours:
        yield ("No external test: nothing here says how the model does on another hospital's stain, microscope, camera and "
               "patients.")  # fmt: skip
    else:
        yield "Whether these images come from another place than the training images is not known."
    yield "The labels are taken as given: errors in them are errors in every figure."
    if pieces.splits is not None:
        yield ("Identical cells are found by their pixels; a cell that was saved again, cropped or turned is not recognised as "
               "a copy.")  # fmt: skip
    else:
        yield "Whether an image of the test is also one of the training was not checked here."
    if VALIDATION in pieces.sides and pieces.shown != VALIDATION:
        yield "Figures on validation are too high for new images: what was tuned was tuned there."


def _limits_of_split(pieces: Pieces, side: Values | None) -> Iterator[str]:
    said = [pieces.record, pieces.run.get("split", {}), pieces.splits.record if pieces.splits else {}]
    optimistic = next((each["optimistic"] for each in said if each.get("optimistic") is not None), None)
    if optimistic is None:
        yield ("How training and test images were separated is not known: if cells of one subject were on both sides, the "
               "figures are too high.")  # fmt: skip
    elif optimistic:
        yield ("Cells of the same subject may be on the training and on the test side: the figures are too high for new "
               "patients.")  # fmt: skip
    if side is not None and not side.get("subjects"):
        yield "No subject is known for the measured images: intervals treat cells as if each were a person, and are too narrow."


def _reproduction(pieces: Pieces) -> Values | None:
    if not pieces.run:
        return None
    run, record = pieces.run, pieces.record
    hashes = {
        "data (manifest)": run.get("manifest_hash"),
        "splits": record.get("splits_hash") or (pieces.splits.content_hash if pieces.splits else None),
        "starting weights": run.get("weights", {}).get("sha256"),
        "trained weights": hash_file(weights) if (weights := pieces.folder / WEIGHTS_FILE).is_file() else None,
        "run": run.get("run_hash"),
        "decision": pieces.decision.get("hash") or record.get("decision_hash"),
        "predictions": record.get("predictions_hash"),
    }
    return {
        "hashes": table(["what", "SHA-256"], [[name, code(value)] for name, value in hashes.items() if value]),
        "commit": run.get("git_commit"),
        "seed": run.get("seed"),
        "device": run.get("device"),
        "precision": run.get("precision"),
        "versions": [f"{name} {version}" for name, version in wording.flatten(run.get("versions") or {})],
        "hardware": [f"{name}: {value}" for name, value in wording.flatten(run.get("hardware") or {})],
    }


def sheet_values(results: Path) -> Values:
    """Gather everything that the template of the data sheet shows; raises ArtifactError where there is no manifest."""
    manifest = Manifest.load(results / MANIFEST_FILE)
    images = manifest.images
    sizes = images.groupby(["width_px", "height_px", "format"], dropna=False).size().reset_index(name="images")
    labelled = images["label"].notna()
    return {
        **_data(manifest),
        "synthetic": bool(manifest.record.get("synthetic")),
        "classes": manifest.classes,
        "positive": manifest.positive,
        "canvas": " x ".join(map(str, manifest.record.get("canvas_px", []))),
        "sizes": table(["width, px", "height, px", "format", "images"],
                       [[*map(wording.count, (row["width_px"], row["height_px"])), str(row["format"]),
                         wording.count(row["images"])] for row in sizes.to_dict("records")]),
        "measures": _measures(images[labelled], manifest.classes),
        "set_aside_images": table(["file", "reason"], [[row["image"], row["reason"]] for row in
                                                       manifest.record.get("flow", {}).get("set_aside_images", [])[:_NAMED]]),
        "bytes": int(images["bytes"].sum()),
        "audits": list(_audits(results, manifest)),
    }  # fmt: skip


def _measures(images: pd.DataFrame, classes: Sequence[str]) -> Written:
    """Describe cell size and colour per class by median and quartiles: where classes differ, a shortcut lies open."""
    names = (("area_px", "area of the cell, px"), ("mean_red", "mean red, 0-255"), ("mean_green", "mean green, 0-255"),
             ("mean_blue", "mean blue, 0-255"))  # fmt: skip
    rows = []
    for name, words in names:
        own = [images.loc[images["label"] == label, name].astype("float64") for label in classes]
        rows.append([words, *(_quartiles(values) for values in own)])
    return table(["measure: median (quartiles)", *classes], rows)


def _quartiles(values: pd.Series[float]) -> str:
    low, middle, high = (wording.count(float(values.quantile(share))) for share in (0.25, 0.5, 0.75))
    return f"{middle} ({low} to {high})"


def _audits(results: Path, manifest: Manifest) -> Iterator[tuple[str, Written]]:
    """Give the audit of each split of these data, with the place of its file."""
    patterns = (SPLITS_FILE, f"*/{SPLITS_FILE}", "splits-*.parquet", "*/splits-*.parquet", "*/*/splits-*.parquet")
    for path in (path for pattern in patterns for path in sorted(results.glob(pattern))):
        splits = Splits.load(path)
        if splits.record.get("manifest_hash") == manifest.content_hash:
            yield path.relative_to(results).as_posix(), fence(splits.record.get("audit", []))


def folder_name(path: str) -> str:
    """Last part of a path, POSIX or Windows: no more of somebody's machine is anybody's business."""
    return next((part for part in reversed(re.split(r"[\\/]+", path)) if part), path)


def plain(value: object) -> str:
    """Text of a value on one line, without control signs and without the folders of absolute paths."""
    text = " ".join(str(value).split())
    shown = "".join("\ufffd" if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co") else sign for sign in text)
    return folder_name(shown) if _ABSOLUTE.match(shown) else _FOLDERS.sub("", shown)


def escape(value: object) -> Written:
    """Make a value of somebody else's inert wherever it stands: it opens no HTML and begins no heading or list."""
    return value if isinstance(value, Written) else Written(_LINE_START.sub(r"\g<0>\\", inline(value)))


def inline(value: object) -> Written:
    """Make a value of somebody else's inert within a line or a table cell, which it cannot end."""
    if isinstance(value, Written):
        return value
    text = _TAG.sub("&lt;", _ENTITY.sub("&amp;", plain(value)))
    return Written(_SIGNS.sub(r"\\\g<0>", text))


def code(value: object) -> Written:
    """Write a hash or a name as code; what has signs that could end the code is escaped instead."""
    text = plain(value)
    return Written(f"`{text}`") if _CODE.fullmatch(text) else escape(text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Written:
    """Write a table whose columns are aligned for a terminal too; "" where there are no rows."""
    if not rows:
        return Written("")
    cells = [[inline(cell) for cell in row] for row in (header, *rows)]
    widths = [min(max(len(row[place]) for row in cells), _WIDEST_PADDED) for place in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return Written("\n".join(lines))


def fence(lines: Sequence[str]) -> Written:
    """Write lines as they are, in a fence longer than any run of backticks in them; "" where there are none."""
    if not lines:
        return Written("")
    shown = [plain(line) for line in lines]
    ticks = "`" * max(3, 1 + max(len(run) for line in shown for run in (*re.findall("`+", line), "")))
    return Written("\n".join([f"{ticks}text", *shown, ticks]))


def _render(template: str, values: Values) -> str:
    # autoescape is for HTML; `finalize` gives every value of an expression to `escape`, so nothing can be forgotten.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("leukolens.reporting"),
        undefined=StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    written = (wording.percent, wording.decimal, wording.count, wording.millions, wording.duration, wording.phase)
    environment.filters.update({write.__name__: write for write in written}, code=code, listed=_listed)
    environment.globals.update(open=Written(OPEN), numbering=checklists.NUMBERING)
    text = environment.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _listed(values: Sequence[object], between: str = ", ") -> Written:
    """Join escaped values."""
    return Written(between.join(inline(value) for value in values))
