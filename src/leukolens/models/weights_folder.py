"""Make a folder of pretrained weights on a machine with a network, for one without: what `--weights-dir` reads.

In: names of architectures. Out: a `WeightsFolder`. Writes: OUT/NAME.safetensors for each, and after each of them
OUT/index.json with its entry, so that whatever the index names is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from leukolens.artifacts import atomic_path, hash_file, read_json, write_json
from leukolens.errors import WeightsError
from leukolens.models.architectures import FIVE_ARCHITECTURES, Architecture, find_architecture
from leukolens.models.classifier import Backbone
from leukolens.models.weights import INDEX_FILE, PretrainedWeights, find_file, find_weights
from leukolens.progress import logger
from leukolens.settings import TrainSettings

_INPUT_PX = 224


@dataclass(frozen=True)
class WeightsFolder:
    """`folder` holds weights of the networks in `names` (display names; of a stand-in, its own)."""

    folder: Path
    names: tuple[str, ...]

    def summary_lines(self) -> list[str]:
        """Say what is there and how it is used, for a terminal."""
        return [
            f"weights of {', '.join(self.names)}",
            f"next, here or elsewhere: leukolens compare CELLS --weights-dir {self.folder}",
        ]


def fetch_weights(out: Path | str, names: Sequence[str] = FIVE_ARCHITECTURES) -> WeightsFolder:
    """Download pretrained weights as `find_weights` does, and keep the backbones as safetensors with an index.

    A file that is there already, with the hash of its entry, is kept: interrupted, the same call goes on. Heads of other
    tasks are left out, which makes VGG16 59 MB instead of 528.

    Args:
        out: the folder.
        names: architectures, as `--arch` takes them.

    Raises:
        SettingsError: no such architecture.
        WeightsError: weights cannot be downloaded or do not fit their network; those before them are in the folder.
        ArtifactError: the folder's index.json cannot be read.
    """
    folder = Path(out)
    rows = [find_architecture(name) for name in names]
    return WeightsFolder(folder, tuple(_fetch(row, folder).display_name for row in rows))


def _fetch(row: Architecture, folder: Path) -> Architecture:
    index: dict[str, Any] = read_json(folder / INDEX_FILE) if (folder / INDEX_FILE).is_file() else {}
    # A stand-in that is there does not keep the network itself from being asked for.
    if row.builder in index and find_file(row, folder) is not None:
        logger.info("%s: there already", row.display_name)
        return row
    try:
        found = find_weights(row, TrainSettings(weights="pretrained"))
    except WeightsError as error:
        # Its own remedy is for who trains.
        remedy = "run this on a machine with a network and copy the folder here; interrupted, the same command goes on"
        raise WeightsError(error.what, expected=error.expected, received=error.received, remedy=remedy) from error
    path = folder / f"{found.architecture.builder}.safetensors"
    _save(found, path)
    write_json(folder / INDEX_FILE, {**index, found.architecture.builder: _entry(found, path)})
    logger.info("%s: written to %s%s", row.display_name, path, f" ({found.note})" if found.note else "")
    return found.architecture


def _save(found: PretrainedWeights, path: Path) -> None:
    """Write the backbone's tensors; loading them first shows that they fit."""
    backbone = Backbone(found.architecture, _INPUT_PX)
    backbone.load(found.state or {})
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in backbone.network.state_dict().items()}, temporary)


def _entry(found: PretrainedWeights, path: Path) -> dict[str, Any]:
    return {
        "bytes": path.stat().st_size,
        "sha256": hash_file(path),
        "library": found.architecture.library,
        "trained_on": found.trained_on,
        "mean": list(found.mean),
        "std": list(found.std),
        "source": found.source,
        "licence": found.licence,
    }
