"""Does a run notice what is no cell of its kind? Noise, photographs and whatever folders the user names.

In: a finished run and folders of foreign images. Out: one row per image with its outlier score. Writes: `foreign.csv`, with
the columns kind, image, outlier_score and refused.

All images go through the run's own preprocessing: its canvas, which crops or pads, then its input size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from leukolens.artifacts import FOREIGN_FILE, write_text
from leukolens.data.preprocessing import IMAGE_FORMATS, IMAGE_SUFFIXES, Pixels, read_pixels
from leukolens.decision.outliers import OutlierModel
from leukolens.errors import ImageError, SettingsError
from leukolens.progress import logger
from leukolens.settings import IndexSettings
from leukolens.training.features import Features
from leukolens.training.runs import Run

NOISE, PHOTOGRAPHS = "noise", "photographs"
COLUMNS = ("kind", "image", "outlier_score", "refused")

_BATCH = 32
_IMAGES_PER_FOLDER = 100
_IMAGES_PER_NOISE = 10
_NOISE_SEED = 0
_MIDDLE_GREY, _GREY_DEVIATION = 128, 50
# A disc of noise covers about what a cell covers of its canvas: a third of the shorter side.
_DISC_SHARE = 1 / 3
# The photographs that scikit-image's wheel carries as files, by the function that loads each; its drawings, printed pages
# and micrographs are left out, and so is what it would download.
_PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
                "moon", "retina", "rocket")  # fmt: skip
_CHANNELS = 3
_LARGEST_ACCEPTED = 1.0

Shape = tuple[int, int]


@dataclass(frozen=True)
class ForeignImage:
    """`pixels` uint8 [height, width, 3] of an image that is none of the run's kind, and where it is from."""

    kind: str
    image: str
    pixels: Pixels


def foreign_scores(run: Run | Path | str, out: Path | str | None, folders: Mapping[str, Path]) -> pd.DataFrame:
    """Score noise, photographs and named folders by their distance to the training images.

    Args:
        run: a finished Run with its decision, or its folder.
        out: folder to write FOREIGN_FILE into; None means the run's.
        folders: folders of images by the name that the report gives them; at most 100 of each, evenly spread over the
            sorted paths. What cannot be decoded is counted and named in the log.

    Returns:
        One row per image: kind, image, outlier_score (distance / largest accepted) and refused (above 1).

    Raises:
        RunError: the run has no decision.
        SettingsError: a folder holds no image that can be read, or has the name of a built-in kind.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    outliers, foreign = run.outliers(), _all_images(run.preprocessing.canvas_px, _checked(folders))
    tables = [_scored(outliers, features, images) for images, features in _features(run, foreign)]
    table = pd.concat(tables, ignore_index=True)
    write_text(Path(out or run.folder) / FOREIGN_FILE, table.to_csv(index=False))
    return table


def noise_images(canvas_px: Shape, seed: int = _NOISE_SEED) -> Iterator[ForeignImage]:
    """30 seeded images of `canvas_px` (height, width): uniform noise, Gaussian noise, discs of noise on black, 10 each."""
    random = np.random.default_rng(seed)
    shape = (*canvas_px, _CHANNELS)
    disc = _disc(canvas_px)[..., None]
    for number in range(1, _IMAGES_PER_NOISE + 1):
        uniform = random.integers(0, 256, shape, dtype=np.uint8)
        yield ForeignImage(NOISE, f"uniform {number}", uniform)
        gaussian = random.normal(_MIDDLE_GREY, _GREY_DEVIATION, shape)
        yield ForeignImage(NOISE, f"Gaussian {number}", np.clip(gaussian, 0, 255).astype(np.uint8))
        grains = random.integers(0, 256, shape, dtype=np.uint8)
        yield ForeignImage(NOISE, f"disc {number}", grains * disc)


def photographs() -> Iterator[ForeignImage]:
    """12 photographs that scikit-image carries and the two of scikit-learn; nothing is downloaded."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    for name in _PHOTOGRAPHS:
        yield ForeignImage(PHOTOGRAPHS, name, _in_colour(getattr(data, name)()))
    samples = load_sample_images()
    for path, pixels in zip(samples.filenames, samples.images, strict=True):
        yield ForeignImage(PHOTOGRAPHS, Path(path).stem, pixels)


def _all_images(canvas_px: Shape, folders: Mapping[str, list[Path]]) -> Iterator[ForeignImage]:
    yield from noise_images(canvas_px)
    yield from photographs()
    for kind, paths in folders.items():
        yield from _of_folder(kind, paths)


def _disc(canvas_px: Shape) -> Pixels:
    """1 within the disc and 0 without: uint8 [height, width]."""
    height, width = canvas_px
    rows, columns = np.ogrid[:height, :width]
    radius_px = min(height, width) * _DISC_SHARE
    inside: Pixels = ((rows - height / 2) ** 2 + (columns - width / 2) ** 2 < radius_px**2).astype(np.uint8)
    return inside


def _in_colour(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[..., None], _CHANNELS, axis=2) if pixels.ndim == 2 else pixels[..., :_CHANNELS]


def _checked(folders: Mapping[str, Path]) -> dict[str, list[Path]]:
    """At most 100 image files of each folder; raises SettingsError where there is none, before anything is computed."""
    found: dict[str, list[Path]] = {}
    for kind, folder in folders.items():
        if kind in (NOISE, PHOTOGRAPHS):
            raise SettingsError(
                f"A folder of foreign images cannot be called {kind!r}.",
                expected=f"another name than {NOISE} and {PHOTOGRAPHS}, which are tried in any case",
                received=kind,
                remedy="give the folder another name",
            )
        paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise _no_image(kind, folder, "none" if Path(folder).is_dir() else "no folder at that path")
        spread = np.linspace(0, len(paths) - 1, min(len(paths), _IMAGES_PER_FOLDER)).round().astype(int)
        found[kind] = [paths[position] for position in spread]
    return found


def _of_folder(kind: str, paths: list[Path]) -> Iterator[ForeignImage]:
    """What can be decoded; what cannot is named in the log and counted."""
    unreadable = 0
    for path in paths:
        try:
            pixels = read_pixels(path, IndexSettings().max_pixels).pixels
        except ImageError as error:
            unreadable += 1
            logger.warning("%s: %s left out (%s)", kind, path, error.reason)
        else:
            yield ForeignImage(kind, path.name, pixels)
    if unreadable:
        logger.warning("%s: %d of %d images could not be read", kind, unreadable, len(paths))
    if unreadable == len(paths):
        raise _no_image(kind, paths[0].parent, f"{unreadable} files that cannot be decoded")


def _no_image(kind: str, folder: Path, received: str) -> SettingsError:
    return SettingsError(
        f"{folder} holds no image to try as {kind!r}.",
        expected=f"at least one readable file of {', '.join(IMAGE_FORMATS)}",
        received=received,
        remedy="correct the path, or leave that folder out",
    )


def _features(run: Run, images: Iterable[ForeignImage]) -> Iterator[tuple[list[ForeignImage], Features]]:
    """Batches of images and the features that the run's backbone gives them, float32 [batch, width]."""
    extractor = run.extractor(_BATCH)
    extractor.ready()
    # One by one, so that a batch of large photographs never waits in memory at its full size.
    small = (replace(image, pixels=run.preprocessing.apply(image.pixels)) for image in images)
    while batch := list(islice(small, _BATCH)):
        yield batch, extractor(np.stack([image.pixels for image in batch]))


def _scored(outliers: OutlierModel, features: Features, images: list[ForeignImage]) -> pd.DataFrame:
    scores = outliers.scores(features)
    names = {"kind": [image.kind for image in images], "image": [image.image for image in images]}
    return pd.DataFrame({**names, "outlier_score": scores, "refused": scores > _LARGEST_ACCEPTED})
