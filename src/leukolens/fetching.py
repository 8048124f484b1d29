"""`leukolens fetch`: the data set or pretrained weights, from where they are published to a folder.

In: what is wanted and a folder. Out: what was made of it. Writes: what `data/fetch.py` and `models/weights_folder.py` write.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from leukolens.errors import SettingsError

if TYPE_CHECKING:
    from leukolens.data.fetch import FetchedData
    from leukolens.models.weights_folder import WeightsFolder


def fetch(what: Literal["c-nmc", "weights"], out: Path | str, architectures: Sequence[str] = ()) -> FetchedData | WeightsFolder:
    """Download C-NMC 2019 (`data.fetch.fetch_cnmc`) or pretrained weights (`models.weights_folder.fetch_weights`).

    Args:
        what: "c-nmc" or "weights".
        out: folder to write to.
        architectures: of the weights, as `--arch` takes them; none means the five of the source document.

    Raises:
        SettingsError: architectures were named of a data set, or one that nobody knows.
        FetchError, WeightsError: it cannot be downloaded, or is not what it should be.
    """
    if what == "c-nmc":
        if architectures:
            raise SettingsError(
                "Architectures go with weights.",
                expected="`leukolens fetch weights --arch NAME`",
                received=f"{what} and {', '.join(architectures)}",
                remedy="leave --arch out, or fetch weights",
            )
        from leukolens.data.fetch import fetch_cnmc

        return fetch_cnmc(out)
    # PyTorch is loaded for weights only.
    from leukolens.models.architectures import FIVE_ARCHITECTURES
    from leukolens.models.weights_folder import fetch_weights

    return fetch_weights(out, architectures or FIVE_ARCHITECTURES)
