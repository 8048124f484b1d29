"""What the manifest knows of an image beside its label, as predictions carry it along: size, stain, format.

In: rows of the manifest. Out: columns of predictions that subgroups are formed by. Writes: nothing.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

_CHANNELS = ("mean_red", "mean_green", "mean_blue")
# Grey levels 0–255, one added so that black has a logarithm.
_LEVELS = 256


def image_covariates(images: pd.DataFrame) -> pd.DataFrame:
    """Give the columns by which results are broken down, so that a shortcut can be seen.

    Args:
        images: n rows of the manifest.

    Returns:
        n rows under the same index: `area_px` (float64, foreground pixels), `optical_density` (float64, see
        `optical_density`) and `format` (of the file, "BMP").
    """
    return pd.DataFrame(
        {
            "area_px": images["area_px"].astype("float64"),
            "optical_density": optical_density(images),
            "format": images["format"],
        }
    )


def optical_density(images: pd.DataFrame) -> pd.Series[float]:
    """Depth of the stain: mean over the channels of -log10((mean grey level of the foreground + 1) / 256), float64 [n].

    Lambert-Beer (Ruifrok & Johnston 2001, "Quantification of histochemical staining by color deconvolution"). From 0
    (white) to 2.4 (black); NaN where the image has no foreground.
    """
    levels = images[list(_CHANNELS)].astype("float64")
    density: pd.Series[float] = (-np.log10((levels + 1) / _LEVELS)).mean(axis=1)
    return density
