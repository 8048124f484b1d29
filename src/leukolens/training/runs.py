"""A run directory: one trained network and everything that made it.

In: what `train` found. Out: Run. Writes: `run.json` last, when all else is in place: `weights.safetensors`, `epochs.csv`,
`training_images.csv` (the cells that the network has seen, so that nobody can test on them unawares).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from leukolens.artifacts import RUN_FILE, WEIGHTS_FILE, Record, read_json
from leukolens.data.preprocessing import Preprocessing
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
        """The settings that it was trained with."""
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

    def training_images(self) -> pd.DataFrame:
        """The cells it was trained or validated on: columns image, side, group, pixel_hash."""
        return pd.read_csv(self.folder / TRAINING_IMAGES_FILE, dtype="string")
