"""Download C-NMC 2019 from Kaggle, and believe it only when its folders, counts and subjects are those that were published.

In: a folder and, where Kaggle asks for them, the user's credentials. Out: a `FetchedData`. Writes: OUT/C-NMC_Leukemia, in
one step when all is there and checked; until then only OUT/.download, where an interrupted download goes on.

The download itself is kagglehub's: it takes a broken file up where it ended and compares its check sum. It keeps what it
has in the folder of the variable KAGGLEHUB_CACHE, which is pointed at OUT/.download, so that nothing of 10 GB has to be
copied from another disk, and a failed download lies where the user looks.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from leukolens import extras
from leukolens.data.cnmc_2019 import C_NMC_2019, Composition, differences
from leukolens.data.layouts import find_layout
from leukolens.errors import FetchError, LayoutError
from leukolens.progress import logger

DATASET = "andrewmvd/leukemia-classification"
PAGE = f"https://www.kaggle.com/datasets/{DATASET}"
DATA_FOLDER = "C-NMC_Leukemia"
DOWNLOAD_FOLDER = ".download"
CREDENTIALS = (
    "a token of kaggle.com (Settings, API) in the variable KAGGLE_API_TOKEN or the file ~/.kaggle/access_token, "
    "or its older kaggle.json in ~/.kaggle"
)

_CACHE_VARIABLE = "KAGGLEHUB_CACHE"
_VERSION = re.compile(r"/versions/(\d+)")
# 12,528 files of 450 x 450 px and 2,586 of 600 x 600 px, 3 bytes per pixel, are 10.4 GB; beside them lies the archive.
_ROOM_BYTES = 12_500_000_000
_LINES_SHOWN = 8


@dataclass(frozen=True)
class FetchedData:
    """`folder` holds the data set, `images` of it and `subjects` with labels; `version` is Kaggle's, None where unknown.

    `is_new` tells whether anything was downloaded.
    """

    folder: Path
    images: int
    subjects: int
    version: int | None
    is_new: bool

    def summary_lines(self) -> list[str]:
        """Say what was found and what comes next, for a terminal."""
        version = "" if self.version is None else f", version {self.version} on Kaggle"
        return [
            f"C-NMC 2019{version}: {self.images} images, {self.subjects} labelled subjects, as published",
            f"next: leukolens index {self.folder} --out results",
        ]


def fetch_cnmc(out: Path | str, composition: Composition = C_NMC_2019) -> FetchedData:
    """Download C-NMC 2019 to OUT/C-NMC_Leukemia; where that folder is there already, only check it.

    Args:
        out: folder to write to. Interrupted, the same call goes on.
        composition: what the data set has to hold.

    Raises:
        SettingsError: kagglehub is not installed.
        FetchError: Kaggle cannot be reached or refuses, there is not enough room, or folders, counts or subjects are others
            than those published. OUT/C-NMC_Leukemia does not exist then, unless it did before.
    """
    out = Path(out)
    final = out / DATA_FOLDER
    if final.exists():
        logger.info("fetch: %s is there already, it is only checked", final)
        return _checked(final, final, composition, version=None, is_new=False)
    extras.require_package(
        "kagglehub",
        "fetch c-nmc needs kagglehub.",
        remedy=f"pip install 'leukolens[fetch]', or {_by_hand(out)}",
    )
    waiting = out / DOWNLOAD_FOLDER
    _check_room(out, waiting)
    downloaded = _download(out, waiting)
    folder = _data_folder(downloaded)
    version = _version(downloaded)
    # In a notebook on Kaggle or Colab the data set is mounted and nothing is downloaded: it is used where it lies.
    if not folder.is_relative_to(waiting.resolve()):
        return _checked(folder, folder, composition, version, is_new=False)
    checked = _checked(folder, final, composition, version, is_new=True)
    folder.replace(final)
    shutil.rmtree(waiting)
    return checked


def _download(out: Path, waiting: Path) -> Path:
    import kagglehub
    from kagglehub import exceptions

    refusals = (exceptions.CredentialError, exceptions.UnauthenticatedError, exceptions.DataCorruptionError,
                exceptions.BackendError, exceptions.NotFoundError)  # fmt: skip
    logging.getLogger("kagglehub").setLevel(logging.WARNING)  # it would talk on standard output
    logger.info("fetch: %s to %s", DATASET, waiting)
    try:
        with _environment(_CACHE_VARIABLE, str(waiting.resolve())):
            return Path(kagglehub.dataset_download(DATASET))
    # Errors of the network are OSErrors; damaged archives and credentials are ValueErrors.
    except (OSError, ValueError, zipfile.BadZipFile, *refusals) as error:
        raise FetchError(
            f"{DATASET} cannot be downloaded from Kaggle.",
            expected="an answer from Kaggle with the data set",
            received=" ".join(str(error).split()) or type(error).__name__,
            remedy=f"give the same command again, it goes on where it stopped; where Kaggle wants to know who asks, put "
            f"{CREDENTIALS}; or {_by_hand(out)}",
        ) from error


def _by_hand(out: Path) -> str:
    return (
        f"download archive.zip in a browser from {PAGE}, unpack it so that {out / DATA_FOLDER}/training_data is there, "
        "and give the same command to have it checked"
    )


def _check_room(out: Path, waiting: Path) -> None:
    """Raise FetchError where the archive and what is in it will not fit beside what was downloaded before."""
    there = next(folder for folder in (out, *out.resolve().parents) if folder.is_dir())
    downloaded = sum(path.stat().st_size for path in waiting.rglob("*") if path.is_file())
    free, needed = shutil.disk_usage(there).free, _ROOM_BYTES - downloaded
    if free < needed:
        raise FetchError(
            f"There is not enough room in {out} for C-NMC 2019.",
            expected=f"{needed / 1e9:.1f} GB free",
            received=f"{free / 1e9:.1f} GB",
            remedy="make room, or name a folder on another disk with --out",
        )


def _data_folder(downloaded: Path) -> Path:
    """The folder in the download that bears the data set's name, or all of it."""
    named = downloaded.resolve() / DATA_FOLDER
    return named if named.is_dir() else downloaded.resolve()


def _version(downloaded: Path) -> int | None:
    found = _VERSION.search(downloaded.as_posix())
    return int(found.group(1)) if found else None


def _checked(folder: Path, final: Path, composition: Composition, version: int | None, *, is_new: bool) -> FetchedData:
    """Compare folders, counts and subjects with what was published; no image is opened."""
    try:
        layout = find_layout(folder)
    except LayoutError as error:
        raise _another(folder, [error.what], is_new) from error
    columns = ("part", "fold", "subject", "label")
    images = pd.DataFrame([[getattr(row, name) for name in columns] for row in layout.rows], columns=list(columns))
    lines = [] if layout.name == "Kaggle" else [f"the layout is that of {layout.name}, not of Kaggle's download"]
    lines += ["these cells are synthetic"] if layout.synthetic else []
    lines += [f"empty file: {listed.path}" for listed in layout.listing if listed.size == 0]
    lines += differences(images, composition)
    if lines:
        raise _another(folder, lines, is_new)
    subjects = images.loc[images["label"].notna(), "subject"].nunique()
    return FetchedData(final, len(images), int(subjects), version, is_new)


def _another(folder: Path, lines: list[str], is_new: bool) -> FetchError:
    more = f"; and {len(lines) - _LINES_SHOWN} more" if len(lines) > _LINES_SHOWN else ""
    start = "delete that folder and give the same command to download it again" if is_new else "download it again elsewhere"
    return FetchError(
        f"{folder} is not C-NMC 2019 as it was published.",
        expected=f"{C_NMC_2019.training_cells} training cells, the preliminary and the final test set, in Kaggle's folders",
        received="; ".join(lines[:_LINES_SHOWN]) + more,
        remedy=f"{start}; if it is meant to be so, `leukolens index` takes it as it is",
    )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable of this process for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
