"""The model card of a run, in plain Markdown.

In: a run folder and what lies around it (see `run_folder`). Out: the path of the card. Writes: RUN/model_card.md.

The form follows Mitchell et al. 2019 (Model Cards for Model Reporting, FAT*); the sentences are ours. What is absent is named
as absent. No figure of merit is computed here. Whatever comes from the user's files (class names, subject ids, folder names)
is escaped, and of a path on the machine only the last part is written: cards are made to be passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leukolens.artifacts import MODEL_CARD_FILE, VALIDATION, WEIGHTS_FILE, Record, hash_file, write_text
from leukolens.evaluation.comparison import count_sides
from leukolens.reporting import checklists, wording
from leukolens.reporting.card_figures import figure_sections, in_short
from leukolens.reporting.data_sheet import data_values
from leukolens.reporting.markdown import code, fence, known, render, table
from leukolens.reporting.run_folder import Pieces, read_pieces

Values = dict[str, Any]

CARD_TEMPLATE = "model_card.md.j2"

# A cross-validation sets these itself for each network, fold and repetition: its settings hold idle defaults for them.
_SET_BY_CROSSVAL = frozenset({"architectures", "train.architecture", "train.seed", "train.fold"})


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
    text = render(CARD_TEMPLATE, card_values(read_pieces(folder, results)))
    path = folder / MODEL_CARD_FILE
    write_text(path, text)
    return path


def card_values(pieces: Pieces) -> Values:
    """Gather everything that the template of the model card shows; a section without content is None."""
    sections: Values = {
        checklists.DETAILS: _details(pieces),
        checklists.USE: {},
        checklists.DATA: data_values(pieces.manifest) if pieces.manifest else None,
        checklists.PROTOCOL: _protocol(pieces),
        checklists.TRAINING: _training(pieces.run) if pieces.run.get("settings") else None,
        **figure_sections(pieces),
        checklists.REPRODUCTION: _reproduction(pieces),
    }
    sections[checklists.LIMITS] = {"sentences": list(_limits(pieces, is_varied=sections[checklists.VARIATION] is not None))}
    filled = [heading for heading in checklists.HEADINGS if sections[heading] is not None]
    name = pieces.says("display_name") or pieces.folder.resolve().name
    return {
        "name": wording.augmented(name) if pieces.record.get("tta") else name,
        "record": pieces.record,
        "kind": pieces.record.get("kind") or ("network" if pieces.run else None),
        "is_crossval": pieces.is_crossval,
        "synthetic": _is_synthetic(pieces),
        "classes": pieces.says("classes") or [],
        "positive": pieces.says("positive") or [],
        "short": list(in_short(pieces)),
        "side": pieces.side,
        "shown": pieces.shown,
        "sections": sections,
        "missing": pieces.missing,
        "checklists": checklists.checklist_values(filled),
    }


def _is_synthetic(pieces: Pieces) -> bool:
    said = [pieces.run.get("synthetic"), pieces.record.get("synthetic")]
    return any(map(bool, [*said, pieces.manifest.record.get("synthetic") if pieces.manifest else None]))


def _details(pieces: Pieces) -> Values | None:
    if not pieces.run:
        return None
    weights = pieces.run.get("weights", {})
    return {
        "architecture": pieces.run.get("architecture"),
        "paper": weights.get("paper"),
        "weights": known(weights),
        "phase": _kept_phase(pieces.run),
        "epoch": pieces.run.get("best_epoch"),
        "parameters": pieces.run.get("parameters"),
        "preprocessing": _preprocessing(pieces.run.get("preprocessing") or {}),
        "tta": bool(pieces.record.get("tta")),
    }


def _kept_phase(run: Record) -> str | None:
    """Give the phase that was kept; a cross-validation has one recipe and no choice."""
    phase: str | None = run.get("best_phase") or run.get("phase")
    return phase


def _preprocessing(record: Record) -> Values | None:
    if not record:
        return None
    return {**record, "canvas": " x ".join(map(str, record.get("canvas_px", []))), "treatment": _treatment(record)}


def _treatment(record: Record) -> str:
    """Say what was done between canvas and resize; nothing for most networks."""
    crops = {
        "centre": f", cut down to its central square of {record.get('crop_px')} px",
        "cell": ", cut down to a square around the cell (its size is lost)",
    }
    colours = {"grey": ", turned grey", "constancy": ", its foreground put under a neutral light (shades of grey)"}
    return crops.get(record.get("crop", ""), "") + colours.get(record.get("colour", ""), "")


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


def _limits(pieces: Pieces, *, is_varied: bool) -> Iterator[str]:
    """Give what limits the figures, one sentence each, the gravest first; `is_varied`: other seeds or folds were measured."""
    side = pieces.side
    yield from _limits_of_split(pieces, side)
    note = (side or {}).get("intervals", {}).get("note")
    if note:
        yield note
    if pieces.analysis.get("beats_baselines", {}).get(pieces.folder.resolve().name) is False:
        yield "The model does not beat every baseline by more than the paired interval."
    trained_on = pieces.run.get("weights", {}).get("trained_on") or pieces.record.get("trained_on")
    if trained_on and not wording.knows_imagenet(str(trained_on)):
        yield f"The network did not start from ImageNet weights, as is usual, but from weights trained on: {trained_on}."
    if side is not None and pieces.is_ours and not (pieces.is_crossval or is_varied):
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
        "engine": run.get("engine"),
        "inference_precision": run.get("inference_precision"),
        "versions": [f"{name} {version}" for name, version in wording.flatten(run.get("versions") or {})],
        "hardware": [f"{name}: {value}" for name, value in wording.flatten(run.get("hardware") or {})],
    }
