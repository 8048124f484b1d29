"""What subgroups are formed by: taken over from the manifest, the depth of the stain worked out by hand."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

from leukolens.data.covariates import image_covariates, optical_density


def test_optical_density_is_the_mean_over_the_channels() -> None:
    # 256/256, 25.6/256 and 2.56/256: densities 0, 1 and 2.
    rows = pd.DataFrame({"mean_red": [255.0], "mean_green": [24.6], "mean_blue": [1.56]})
    assert optical_density(rows).tolist() == pytest.approx([1.0])


def test_optical_density_of_black_and_white() -> None:
    """Black has -log10(1/256) = 2.408, white 0; one channel of three black, a third of it."""
    rows = pd.DataFrame({"mean_red": [0, 255, 0], "mean_green": [0, 255, 255], "mean_blue": [0, 255, 255]})
    assert optical_density(rows).tolist() == pytest.approx([2.40824, 0, 2.40824 / 3], abs=1e-5)


def test_covariates_keep_the_index_and_know_nothing_of_an_image_without_foreground() -> None:
    means = {name: [255.0, float("nan")] for name in ("mean_red", "mean_green", "mean_blue")}
    rows = pd.DataFrame({"area_px": [7, 0], "format": ["BMP", "PNG"], "label": "ALL", **means}, index=[5, 3])
    found = image_covariates(rows)
    assert found.index.tolist() == [5, 3]
    assert list(found) == ["area_px", "optical_density", "format"]
    assert found["area_px"].tolist() == [7.0, 0.0] and found["area_px"].dtype == "float64"
    assert found["optical_density"].isna().tolist() == [False, True]


def test_no_deep_learning_framework_is_loaded() -> None:
    code = "import sys, leukolens.data.covariates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
