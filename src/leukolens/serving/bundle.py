"""A bundle: everything that is needed to use a trained network rightly, in one folder that may be passed on.

In: a finished run. Out: Bundle. Writes, into a new folder: the run's `weights.safetensors`, `decision.json` and
`outliers.safetensors` as they are; `run.json` without paths of this machine; `training_images.csv` (and `seen_before.csv`) with
hashes in place of names; `model_card.md` without subjects; and last `bundle.json`, the hashes of all of these and of the
exported networks. It is a run directory, so that every verb that opens a run opens it (`training/bundles.py` checks it).

What it still says of the people behind the cells: hashes of the decoded pixels of the cells that the network has seen, which
tell whoever has a cell whether it was among them, and which cells share a subject; and features of at most 2,000 training
cells (`outliers.safetensors`). docs/export.md says so to whoever passes a bundle on.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd

from leukolens.artifacts import (
    BUNDLE_FILE,
    DECISION_FILE,
    MODEL_CARD_FILE,
    OUTLIERS_FILE,
    RUN_FILE,
    WEIGHTS_FILE,
    Record,
    hash_file,
    hash_json,
    write_json,
    write_text,
)
from leukolens.errors import ArtifactError
from leukolens.reporting import checklists
from leukolens.reporting.markdown import render
from leukolens.reporting.model_card import CARD_TEMPLATE, card_values
from leukolens.reporting.run_folder import read_pieces
from leukolens.training.bundles import BUNDLE_FORMAT, ENGINE_FILES, check_bundle, exported_engines
from leukolens.training.runs import SEEN_BEFORE_FILE, TRAINING_IMAGES_FILE, Run

_SHIPPED_AS_IT_IS = (WEIGHTS_FILE, DECISION_FILE, OUTLIERS_FILE)
_CELLS, _DATA = "pixel_hash", "manifest_hash"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were all checked: its folder, the record in bundle.json, and the run in it."""

    folder: Path
    record: Record
    run: Run

    @classmethod
    def load(cls, folder: Path | str) -> Bundle:
        """Open a bundle.

        Raises:
            ArtifactError: the folder is no bundle, or one of another version, or a file is missing or altered.
        """
        folder = Path(folder)
        if not (folder / BUNDLE_FILE).is_file():
            raise ArtifactError(
                f"{folder} is no bundle.",
                expected=f"a folder with {BUNDLE_FILE}",
                received="a folder without it" if folder.is_dir() else "no folder at that path",
                remedy="make one of a finished run with `leukolens export`",
            )
        return cls(folder, check_bundle(folder), Run(folder, Run.load(folder).record))

    @property
    def engines(self) -> dict[str, Path]:
        """The exported networks, by the engine that runs them."""
        return exported_engines(self.folder)


def copy_run(run: Run, folder: Path, results: Path | None) -> None:
    """Write into `folder` what a bundle takes over of a run; `results` is the folder with its manifest, for the card.

    Raises RunError where the run has no decision, ArtifactError where a file of it is damaged.
    """
    # Read, not only copied: what cannot be used shall not be passed on.
    run.decision(), run.outliers()
    for name in _SHIPPED_AS_IT_IS:
        shutil.copyfile(run.folder / name, folder / name)
    write_json(folder / RUN_FILE, without_paths(run.record))
    seen = without_names(run.all_seen())
    # Its own are the last of them.
    earlier = len(seen) - len(run.training_images())
    _write_cells(seen.iloc[earlier:].drop(columns=_DATA), folder / TRAINING_IMAGES_FILE)
    if earlier:
        _write_cells(seen.iloc[:earlier], folder / SEEN_BEFORE_FILE)
    write_text(folder / MODEL_CARD_FILE, _card(run, results))


def seal(folder: Path, run: Run) -> Record:
    """List every file of the folder with its hash in bundle.json, which makes it a bundle; give the record."""
    names = sorted(path.name for path in folder.iterdir())
    said = {name: run.record[name] for name in ("run_hash", "display_name", "classes", "positive", "synthetic")}
    record: Record = {
        "format": BUNDLE_FORMAT,
        "leukolens": metadata.version("leukolens"),
        **said,
        "decision_hash": run.decision_record["hash"],
        "engines": [engine for engine, name in ENGINE_FILES.items() if name in names],
        "files": {name: {"sha256": hash_file(folder / name), "bytes": (folder / name).stat().st_size} for name in names},
    }
    record["hash"] = hash_json(record)
    write_json(folder / BUNDLE_FILE, record)
    return record


def without_paths(value: Any) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """Give a JSON value in which every absolute path is cut down to its last part: it says where somebody keeps things."""
    if isinstance(value, dict):
        return {key: without_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    if isinstance(value, str):
        kinds = (PurePosixPath(value), PureWindowsPath(value))
        return next((path.name for path in kinds if path.is_absolute()), value)
    return value


def without_names(seen: pd.DataFrame) -> pd.DataFrame:
    """Give seen cells without names of images and subjects; the leak rules need the rest.

    Args:
        seen: image, side, group, pixel_hash, manifest_hash, as `Run.all_seen` gives them.

    Returns:
        The same rows and columns. `image` is null; in place of a group stands the smallest pixel hash of its cells in the same
        data, which says which cells belong together and, to whoever has the data, to which subject.
    """
    # A group that is a pixel hash already, as in a bundle of a bundle, becomes the same one.
    first = seen.groupby([_DATA, "group"])[_CELLS].transform("min")
    return seen.assign(image=pd.array([pd.NA] * len(seen), dtype="string"), group=first)


def _write_cells(seen: pd.DataFrame, path: Path) -> None:
    # In the order of the names that are gone, neighbours would be of one subject.
    write_text(path, seen.sort_values(_CELLS).to_csv(index=False))


def _card(run: Run, results: Path | None) -> str:
    """The model card as `write_model_card` writes it, without ids of subjects."""
    if run.is_bundle:
        return (run.folder / MODEL_CARD_FILE).read_text(encoding="utf-8")
    values = card_values(read_pieces(run.folder, results))
    if values["sections"][checklists.DATA]:
        values["sections"][checklists.DATA]["merged"] = []
    if values["sections"][checklists.ERRORS]:
        values["sections"][checklists.ERRORS]["worst"] = None
    return render(CARD_TEMPLATE, values)
