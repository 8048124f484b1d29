"""A fake cohort in a temporary folder: small cells with a black background, in the folder layout of the Kaggle download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def draw_cell(seed: int, radius_px: int = 10, side_px: int = 48) -> NDArray[np.uint8]:
    """A violet disc with random texture on exact black: uint8 [side_px, side_px, 3]."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side_px, :side_px] - side_px // 2
    inside = rows**2 + columns**2 < radius_px**2
    pixels = np.zeros((side_px, side_px, 3), np.uint8)
    pixels[inside] = random.integers((90, 40, 120), (150, 90, 200), (int(inside.sum()), 3))
    return pixels


def write_image(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """Write pixels in the format of the suffix, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def build_cohort(
    root: Path, subjects_per_class: int = 6, cells_per_subject: int = 5, side_px: int = 48, first_seed: int = 0
) -> Path:
    """Write `training_data/fold_k/{all,hem}/UID_…bmp`: ALL subjects 1…n with large cells, HEM subjects H1…n with small."""
    seed = first_seed
    for number in range(1, subjects_per_class + 1):
        for subject, label, radius_px in ((f"{number}", "all", 14), (f"H{number}", "hem", 10)):
            folder = root / "training_data" / f"fold_{number % 3}" / label
            for cell in range(1, cells_per_subject + 1):
                seed += 1
                name = f"UID_{subject}_{cell}_1_{label}.bmp"
                write_image(folder / name, draw_cell(seed, radius_px, side_px))
    return root
