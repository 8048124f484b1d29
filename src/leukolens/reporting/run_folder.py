"""What lies in a run folder and around it: the sources of a model card.

In: a run folder with what there is of run.json (or crossval.json), decision.json, metrics.json and foreign.csv, beside it
analysis.json and the splits, above it the manifest. Out: `Pieces`, which name what is absent. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from leukolens.artifacts import (
    ANALYSIS_FILE,
    CROSSVAL_FILE,
    DECISION_FILE,
    FOREIGN_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    RUN_FILE,
    SPLITS_FILE,
    TEST,
    VALIDATION,
    Manifest,
    Record,
    Splits,
    read_json,
)
from leukolens.errors import ArtifactError

Values = dict[str, Any]

# A results folder is at most this far above a run: results/crossval/subject/resnet50/repeat-0/fold-0.
_LEVELS_UP = 5


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
    def side(self) -> Values | None:
        """The figures of that side."""
        return self.sides[self.shown] if self.shown else None

    @property
    def is_ours(self) -> bool:
        """Whether leukolens made the scores: by a run, or as a baseline or an ensemble, which have none."""
        return bool(self.run) or self.record.get("kind") is not None

    def says(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Give a field of the run, else of its predictions; None where neither has it."""
        value = self.run.get(name)
        return self.record.get(name) if value is None else value


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
