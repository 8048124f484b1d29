"""A run directory: one trained network and everything that made it.

In: what `train` found. Out: Run. Writes: `run.json` last, when all else is in place: `weights.safetensors`, `epochs.csv`,
`training_images.csv` (the cells that the network has seen, so that nobody can test on them unawares), `decision.json` and
`outliers.safetensors` (see `deciding.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from leukolens.artifacts import DECISION_FILE, OUTLIERS_FILE, RUN_FILE, WEIGHTS_FILE, Record, hash_file, read_json
from leukolens.data.preprocessing import Preprocessing
from leukolens.decision.outliers import OutlierModel
from leukolens.decision.rule import Decision
from leukolens.errors import RunError
from leukolens.models.architectures import find_architecture
from leukolens.models.classifier import Backbone, Classifier
from leukolens.models.compute import Compute, choose_compute
from leukolens.settings import TrainSettings

TRAINING_IMAGES_FILE = "training_images.csv"


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and the record in its run.json."""

    folder: Path
    record: Record

    @classmethod
    def load(cls, folder: Path | str) -> Run:
        """Open a run directory; raises RunError where the training has not ended."""
        folder = Path(folder)
        if not (folder / RUN_FILE).is_file():
            raise RunError(
                f"{folder} holds no finished run.",
                expected=f"a folder with {RUN_FILE} and {WEIGHTS_FILE}",
                received="a folder without them" if folder.is_dir() else "no folder at that path",
                remedy="run `leukolens train` with this folder as --out; an interrupted training goes on",
            )
        return cls(folder, read_json(folder / RUN_FILE))

    @property
    def settings(self) -> TrainSettings:
        """The settings that it was trained with; those of the decision, which may be fitted again, stand in its record."""
        return TrainSettings.model_validate(self.record["settings"])

    @property
    def preprocessing(self) -> Preprocessing:
        """The canvas, input size and constants that its weights belong to."""
        return Preprocessing.from_record(self.record["preprocessing"])

    def compute(self, device: str = "auto") -> Compute:
        """How to compute with it on this machine: its own precision where the device has it."""
        architecture = find_architecture(self.record["weights"]["architecture"])
        return choose_compute(architecture, self.settings.model_copy(update={"device": device}))

    def classifier(self) -> Classifier:
        """Rebuild the network and load its weights."""
        architecture = find_architecture(self.record["weights"]["architecture"])
        with torch.random.fork_rng(devices=[]):
            backbone = Backbone(architecture, self.preprocessing.input_px)
        classifier = Classifier(backbone, self.preprocessing, len(self.record["classes"]), self.settings.dropout)
        try:
            classifier.load_state_dict(load_file(self.folder / WEIGHTS_FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise RunError(
                f"{self.folder / WEIGHTS_FILE} cannot be loaded.",
                expected="the weights of the network that run.json describes",
                received=str(error).splitlines()[0],
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
        return record

    def decision(self) -> Decision:
        """Temperature, threshold and prediction sets, as fitted on validation; raises RunError where there are none."""
        return Decision.from_record(self.decision_record)

    def outliers(self) -> OutlierModel:
        """Features of training images and the distance that is still accepted; raises RunError where there are none."""
        path = self.folder / OUTLIERS_FILE
        if self.decision_record["outliers"]["sha256"] != (found := hash_file(path)):
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
        return pd.read_csv(self.folder / TRAINING_IMAGES_FILE, dtype="string")
