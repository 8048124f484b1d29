"""Loose images as a user names them: files, folders, patterns and zip archives, as one long list that is never held at once.

In: what stands on the command line. Out: one `Input` per image, in order, and what a function makes of each in threads.
Writes: nothing.

A file that is named always counts, so that it gets its row, whatever it holds. Of a folder and of an archive only what ends
as image files do counts, hidden files apart; the others are numbered. Folders are gone through in the order of the paths
below them, as a manifest is sorted.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

from leukolens.artifacts import MANIFEST_FILE
from leukolens.data.layouts import is_hidden, is_image_name, shown
from leukolens.data.preprocessing import Decoded, read_pixels
from leukolens.data.threads import in_order
from leukolens.errors import ImageError, SettingsError
from leukolens.prediction.archives import ARCHIVE_SUFFIX, Archive, unusable

Result = TypeVar("Result")
Identity = tuple[int, int]

_TABLE_SUFFIX = ".parquet"
_RECURSIVE = "**"
_NAMES_SHOWN = 3


class Input(Protocol):
    """One image that is to be scored, and its row."""

    @property
    def name(self) -> str:
        """What the row calls it."""
        ...

    def read(self, max_pixels: int) -> Decoded:
        """Decode it; raises ImageError where it cannot be used."""
        ...


@dataclass(frozen=True)
class ImageFile:
    """A file that is, or should be, an image."""

    name: str

    def read(self, max_pixels: int) -> Decoded:
        """Decode it as every verb does; raises ImageError with the reasons of `read_pixels`."""
        return read_pixels(Path(self.name), max_pixels)


@dataclass(frozen=True)
class Unusable:
    """What is known to be no image before it is read: a folder that cannot be entered, a pattern that fits nothing."""

    error: ImageError
    name: str

    def read(self, max_pixels: int) -> Decoded:
        """Raise its error."""
        raise self.error


@dataclass(frozen=True)
class ArchiveFile:
    """A zip archive, whose members are the inputs."""

    name: str


@dataclass
class Tally:
    """How many files in folders and archives were left out, because they are hidden or do not end as images do."""

    skipped: int = 0


@dataclass(frozen=True)
class Counted:
    """Number of rows there will be and of files that get none."""

    inputs: int
    skipped: int


Place = ImageFile | Unusable | ArchiveFile


def is_manifest(given: str) -> bool:
    """Tell whether what was given is a manifest or a folder that holds one: known data, with sides, and no loose images."""
    # Not pathlib, which raises where a name is too long or a folder on the way may not be entered.
    return given.endswith(_TABLE_SUFFIX) or os.path.isfile(os.path.join(given, MANIFEST_FILE))  # noqa: PTH113, PTH118


def count_inputs(given: Sequence[str]) -> Counted:
    """Go through all names once, reading no image.

    Raises:
        SettingsError: a manifest stands among them, or there is no image at all.
    """
    if manifests := [each for each in given if is_manifest(each)]:
        raise SettingsError(
            f"{shown(manifests[0])} is a manifest, or a folder that holds one.",
            expected="a manifest alone, or else images, folders, patterns and zip archives",
            received=f"{len(given)} inputs",
            remedy="score it by itself, or name the folders of its images",
        )
    tally = Tally()
    inputs = 0
    for place in _places(given, tally):
        if isinstance(place, ArchiveFile):
            members, skipped = _count_members(place)
            inputs += members
            tally.skipped += skipped
        else:
            inputs += 1
    if not inputs:
        raise SettingsError(
            f"There is no image in {_few(given)}.",
            expected=f"images, or a folder with {MANIFEST_FILE}",
            received=f"{tally.skipped} files, hidden or without an image's suffix",
            remedy="correct the path, name the files themselves, or run `leukolens index` first for a data set with labels",
        )
    return Counted(inputs, tally.skipped)


def read_each(
    given: Sequence[str], read: Callable[[Input], Result], workers: int | None = None
) -> Generator[Result, None, None]:
    """Give `read(input)` for every input, in order, computed in threads a few images ahead.

    Args:
        given: as for `count_inputs`. Names that a pattern fits, and those in one folder, are held in memory; images and the
            names in all other folders are not.
        read: what to run; from several threads at once.
        workers: number of threads; None means one per processor.
    """
    for is_archive, places in groupby(_places(given, Tally()), key=lambda place: isinstance(place, ArchiveFile)):
        if not is_archive:
            yield from in_order(read, _images(places), workers)
            continue
        for place in places:
            yield from _of_archive(place.name, read, workers)


def _of_archive(name: str, read: Callable[[Input], Result], workers: int | None) -> Iterator[Result]:
    """The members of an archive or, where it is refused as a whole, one result for all of it."""
    try:
        archive = Archive(Path(name), name)
    except ImageError as error:
        yield read(Unusable(error, name))
        return
    with closing(archive):
        yield from in_order(read, archive.members(), workers)


def _few(given: Sequence[str]) -> str:
    names = ", ".join(shown(name) for name in given[:_NAMES_SHOWN])
    return f"{names} and {len(given) - _NAMES_SHOWN} more inputs" if len(given) > _NAMES_SHOWN else names


def _count_members(place: ArchiveFile) -> tuple[int, int]:
    """Number of rows and of files left out."""
    try:
        archive = Archive(Path(place.name), place.name)
    except ImageError:
        return 1, 0
    with closing(archive):
        return sum(1 for _ in archive.members()), archive.skipped


def _images(places: Iterable[Place]) -> Iterator[Input]:
    for place in places:
        if not isinstance(place, ArchiveFile):
            yield place


def _places(given: Sequence[str], tally: Tally) -> Iterator[Place]:
    """Files, archives and what cannot be entered, one after the other, in the order given."""
    for name in given:
        if os.path.lexists(name) or not glob.has_magic(name):
            yield from _named(name, tally)
            continue
        found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - takes absolute patterns, as shells do
        if not found:
            yield Unusable(unusable(name, "missing", "a pattern that fits a file", "nothing that it fits"), name)
        for each in found:
            # With ** the files of folders are found by themselves.
            if _RECURSIVE not in name or not _is_folder(each):
                yield from _named(each, tally)


def _named(name: str, tally: Tally) -> Iterator[Place]:
    """What one path stands for."""
    if _is_folder(name):
        yield from _below(name, tally, frozenset())
    elif name.lower().endswith(ARCHIVE_SUFFIX):
        yield ArchiveFile(name)
    else:
        yield ImageFile(name)


def _below(folder: str, tally: Tally, above: frozenset[Identity]) -> Iterator[Place]:
    """Images below a folder in the order of their paths; a link back to a folder above is named, not followed."""
    try:
        found = Path(folder).stat()
        entries = sorted(_entries(folder))
    except OSError as error:
        received = error.strerror or "a folder that may not be read"
        yield Unusable(unusable(folder, "no_permission", "a folder that may be read", received), folder)
        return
    identity = (found.st_dev, found.st_ino)
    if identity in above:
        yield Unusable(unusable(folder, "link_loop", "a folder of its own", "a link to a folder above it"), folder)
        return
    for name in entries:
        path = os.path.join(folder, name)  # noqa: PTH118 - pathlib would change what the user wrote ("./cells")
        if is_hidden(name.rstrip("/")):
            tally.skipped += 1
        elif name.endswith("/"):
            yield from _below(path.rstrip("/"), tally, above | {identity})
        elif is_image_name(name):
            yield ImageFile(path)
        else:
            tally.skipped += 1


def _entries(folder: str) -> Iterator[str]:
    """Names in a folder, those of folders with a slash: so sorted, they give paths in the order of their letters."""
    with os.scandir(folder) as entries:
        for entry in entries:
            # The entry itself knows whether it is a folder, unless it is a link.
            is_folder = _is_folder(entry.path) if entry.is_symlink() else entry.is_dir()
            yield f"{entry.name}/" if is_folder else entry.name


def _is_folder(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - pathlib raises where a folder on the way may not be entered
