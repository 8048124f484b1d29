"""A run directory: one trained network and everything that made it.

In: what `train` found. Out: Run. Writes: `run.json` last, when all else is in place: `weights.safetensors`, `epochs.csv`,
`training_images.csv` (the cells that the network has seen, so that nobody can test on them unawares), `seen_before.csv` (those
of the run that it started from, if it did), `decision.json` and `outliers.safetensors` (see `deciding.py`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from leukolens.artifacts import BUNDLE_FILE, DECISION_FILE, OUTLIERS_FILE, RUN_FILE, WEIGHTS_FILE, Record, hash_file, read_json
from leukolens.data.preprocessing import Preprocessing
from leukolens.decision.outliers import OutlierModel
from leukolens.decision.rule import Decision
from leukolens.errors import RunError
from leukolens.models.architectures import Architecture, find_architecture
from leukolens.models.classifier import Backbone, Classifier
from leukolens.models.compute import TORCH, Compute, choose_compute, choose_engine
from leukolens.models.inference import Network
from leukolens.settings import Device, EngineChoice, TrainSettings
from leukolens.training.bundles import check_bundle, exported_engines
from leukolens.training.features import FeatureExtractor
from leukolens.training.run_records import check_run_record

TRAINING_IMAGES_FILE = "training_images.csv"
SEEN_BEFORE_FILE = "seen_before.csv"
KEY_FILE = "key.json"
"""What a training is asked for, written when it begins: without run.json beside it, it has not ended."""

_CELL_COLUMNS = ("image", "side", "group", "pixel_hash")
_SHOWN = 200


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and the record in its run.json."""

    folder: Path
    record: Record

    @classmethod
    def load(cls, folder: Path | str) -> Run:
        """Open a run directory, or a bundle of one, all of whose files are then checked.

        Raises RunError where the training has not ended or run.json is none, ArtifactError where a bundle is not as it was
        exported.
        """
        folder = Path(folder)
        # Whatever bears that name: a list that cannot be read must not make a bundle a run that nobody checks.
        if os.path.lexists(folder / BUNDLE_FILE):
            check_bundle(folder)
        if missing := [name for name in (RUN_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]:
            raise _no_model(folder, missing)
        return cls(folder, check_run_record(folder / RUN_FILE, read_json(folder / RUN_FILE)))

    @property
    def settings(self) -> TrainSettings:
        """The settings that it was trained with; those of the decision, which may be fitted again, stand in its record."""
        return TrainSettings.model_validate(self.record["settings"])

    @property
    def preprocessing(self) -> Preprocessing:
        """The canvas, input size and constants that its weights belong to."""
        return Preprocessing.from_record(self.record["preprocessing"])

    @property
    def is_bundle(self) -> bool:
        """Whether it was exported: sealed by the hashes of its files, so that nothing may be written into its folder."""
        return (self.folder / BUNDLE_FILE).is_file()

    @property
    def architecture(self) -> Architecture:
        """The row of what was really built, with its pooling and feature stages."""
        return find_architecture(self.record["weights"]["architecture"]).as_wished(self.settings)

    def compute(self, device: Device = "auto", engine: EngineChoice = "auto") -> Compute:
        """How to compute with it on this machine: its own precision where the device has it.

        Raises SettingsError where the device or the engine is not to be had.
        """
        # Every engine but PyTorch needs a processor; who names one has chosen the device by that.
        on = "cpu" if device == "auto" and engine not in ("auto", TORCH) else device
        chosen = choose_compute(self.architecture, self.settings.model_copy(update={"device": on}))
        return choose_engine(chosen, engine, exported_engines(self.folder))

    def extractor(self, batch_size: int, device: Device = "auto", engine: EngineChoice = "auto") -> FeatureExtractor:
        """Its backbone on the engine that was chosen, and its head as `classifier.head`; raises what `compute` raises."""
        compute = self.compute(device, engine)
        network = Network(exported_engines(self.folder).get(compute.engine))
        name = self.record["display_name"]
        return FeatureExtractor(self.classifier(), self.preprocessing, compute, batch_size, name, network=network)

    def classifier(self) -> Classifier:
        """Rebuild the network and load its weights."""
        with torch.random.fork_rng(devices=[]):
            backbone = Backbone(self.architecture, self.preprocessing.input_px)
        classifier = Classifier(backbone, self.preprocessing, len(self.record["classes"]), self.settings.dropout)
        try:
            classifier.load_state_dict(load_file(_regular(self.folder / WEIGHTS_FILE)))
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
            raise RunError(
                f"{self.folder / WEIGHTS_FILE} cannot be loaded.",
                expected="the weights of the network that run.json describes",
                received=(str(error).splitlines() or [type(error).__name__])[0],
                remedy="copy the run directory again, or train anew into another one",
            ) from error
        return classifier.eval()

    @property
    def decision_record(self) -> Record:
        """What decision.json says: the Decision, its `settings` and its `hash`; raises RunError where it is absent."""
        for name in (DECISION_FILE, OUTLIERS_FILE):
            if not (self.folder / name).is_file():
                raise self._undecided(f"{self.folder} has no {name}.", "a run without it, of an earlier version or damaged")
        record: Record = read_json(self.folder / DECISION_FILE)
        outliers = record.get("outliers") if isinstance(record, dict) else None
        if not isinstance(outliers, dict) or not isinstance(record.get("hash"), str):
            raise self._undecided(f"{self.folder / DECISION_FILE} is no record of a decision.", "one without outliers and hash")
        return record

    def decision(self) -> Decision:
        """Temperature, threshold and prediction sets, as fitted on validation; raises RunError where there are none."""
        decision = Decision.from_record(self.decision_record)
        if list(decision.classes) != self.record["classes"]:
            raise self._undecided(
                f"{self.folder / DECISION_FILE} is of another run.", f"the classes {', '.join(decision.classes)[:_SHOWN]}"
            )
        return decision

    def outliers(self) -> OutlierModel:
        """Features of training images and the distance that is still accepted; raises RunError where there are none."""
        path = self.folder / OUTLIERS_FILE
        if self.decision_record["outliers"].get("sha256") != (found := hash_file(path)):
            raise self._undecided(f"{path} is not the file that {DECISION_FILE} belongs to.", f"SHA-256 {found}")
        return OutlierModel.load(path)

    def _undecided(self, what: str, received: str) -> RunError:
        return RunError(
            what,
            expected=f"{DECISION_FILE} and {OUTLIERS_FILE}, fitted together at the end of the training",
            received=received,
            remedy="run the same train command again: only the decision is fitted",
        )

    def training_images(self) -> pd.DataFrame:
        """The cells it was trained or validated on: columns image, side, group, pixel_hash."""
        return _read_cells(self.folder / TRAINING_IMAGES_FILE, _CELL_COLUMNS)

    def all_seen(self) -> pd.DataFrame:
        """What it, the run it started from, that one's start and so on have seen: also manifest_hash, the latest last.

        Cells of earlier runs are all on the side `train`: whichever it was, they have shaped this network.
        """
        own = self.training_images().assign(manifest_hash=self.record["manifest_hash"]).astype("string")
        before = self.folder / SEEN_BEFORE_FILE
        if not before.exists():
            return own
        return pd.concat([_read_cells(before, (*_CELL_COLUMNS, "manifest_hash")), own], ignore_index=True)

    def seen_images(self, manifest_hash: str) -> pd.DataFrame:
        """The same as data of this hash know it: columns image, side, group, pixel_hash; groups of other data are null."""
        seen = self.all_seen()
        seen["group"] = seen["group"].where(seen["manifest_hash"] == manifest_hash)
        return seen.drop(columns="manifest_hash")


def _regular(path: Path) -> Path:
    """Give the path of a file; raises OSError for a pipe or device, which would be waited for without end."""
    if path.exists() and not path.is_file():
        raise OSError("a folder, device or pipe")
    return path


def _read_cells(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A list of cells; raises RunError where it is missing or none, because without it nobody knows what the run has seen."""
    try:
        cells = pd.read_csv(_regular(path), dtype="string")
        missing = [name for name in columns if name not in cells]
        if missing:
            raise ValueError(f"no column {missing[0]}")
    except (OSError, ValueError, ArithmeticError) as error:
        raise RunError(
            f"{path} cannot be read.",
            expected=f"the cells that the run has seen, with the columns {', '.join(columns)}",
            received=(str(error).splitlines() or [type(error).__name__])[0],
            remedy="copy the run directory again, or train anew into another one",
        ) from error
    return cells


def with_group_names(seen: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Name the groups of seen cells as these data do.

    A bundle names no subject. In place of a group stands the pixel hash of one of its cells (`serving/bundle.py`); whoever has
    the data can look up there whose cell that is.

    Args:
        seen: columns image, side, group, pixel_hash, as `Run.seen_images` gives them.
        images: rows of a manifest, with pixel_hash and group.

    Returns:
        The same rows; groups that are no pixel hash of these images stay as they are.
    """
    group_of = dict(zip(images["pixel_hash"], images["group"], strict=True))
    named = [group_of.get(group, group) for group in seen["group"]]
    return seen.assign(group=pd.Series(named, index=seen.index, dtype="string"))


def _no_model(folder: Path, missing: list[str]) -> RunError:
    below = sorted(path.parent for path in folder.glob(f"*/{RUN_FILE}"))
    if below:
        remedy = f"name the run itself, as in {below[0]}"
    elif (folder / KEY_FILE).is_file():
        remedy = "a training was interrupted here: the same `leukolens train` command goes on"
    else:
        remedy = "correct the path; `leukolens train` makes a run, `leukolens export` a bundle of it"
    return RunError(
        f"{folder} holds no finished run.",
        expected=f"a run directory or a bundle, with {RUN_FILE} and {WEIGHTS_FILE}",
        received=f"a folder without {' and '.join(missing)}" if folder.is_dir() else "no folder at that path",
        remedy=remedy,
    )
