"""Which pretrained weights are to be had without a network, and where; their hashes are checked.

In: perhaps a folder of weights. Out: Findings. Writes: nothing, and downloads nothing.
"""

from __future__ import annotations

from pathlib import Path

from leukolens.diagnosis.findings import NOTE, OK, PROBLEM, Finding
from leukolens.errors import ArtifactError, WeightsError
from leukolens.models.architectures import ARCHITECTURES, FIVE_ARCHITECTURES, Architecture
from leukolens.models.weights import find_file

TOPIC = "weights"


def check_weights(weights_dir: Path | None) -> list[Finding]:
    """One finding per network of the source document: where `find_weights` would take its weights from.

    A file that is not what it should be is a problem; weights that would have to be downloaded are a note.
    """
    return [_check(ARCHITECTURES[name], weights_dir) for name in FIVE_ARCHITECTURES]


def _check(architecture: Architecture, weights_dir: Path | None) -> Finding:
    name = architecture.display_name
    try:
        found = find_file(architecture, weights_dir)
    except (WeightsError, ArtifactError) as error:
        return Finding(TOPIC, name, PROBLEM, f"{error.what} {error.received}", error.remedy, {"path": None})
    if found is None:
        remedy = "downloaded when first needed; `leukolens fetch weights` makes a folder of them for a machine without network"
        return Finding(TOPIC, name, NOTE, "not on this machine", remedy, {"path": None})
    figures = {"path": str(found.path), "origin": found.origin, "bytes": found.path.stat().st_size,
               "trained_on": found.trained_on, "architecture": found.architecture.name}  # fmt: skip
    if found.architecture is not architecture:
        reason = "its own are not in the folder" if weights_dir else "its own have not been downloaded"
        shown = f"{found.origin}: {found.architecture.display_name}, which stands in where {reason}"
        return Finding(TOPIC, name, NOTE, shown, "", figures)
    return Finding(TOPIC, name, OK, f"{found.origin}: {found.path}, trained on {found.trained_on}", figures=figures)
