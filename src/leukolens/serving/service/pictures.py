"""Uploaded files to the inputs that `predict` knows: a picture is one, an archive as many as it has members.

In: uploads. Out: inputs in order, each with the place of its file in the request. Writes: nothing.

What a file is, is told by its content and never by its name or by what its sender calls its type.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from leukolens.data.preprocessing import Decoded, read_encoded
from leukolens.errors import ImageError, RequestError
from leukolens.prediction.archives import Archive, ArchiveLimits, is_archive
from leukolens.prediction.inputs import Input, Unusable
from leukolens.serving.service.uploads import Upload

_LIMITS = ArchiveLimits(directory_bytes=4 << 20, total_bytes=8 << 30)
# Folders and files that are no pictures, in all archives of a request: each takes 700 bytes of memory.
_OTHER_ENTRIES = 5000


@dataclass(frozen=True)
class UploadedPicture:
    """A file of a request that is, or should be, an image."""

    name: str
    data: bytes

    def read(self, max_pixels: int) -> Decoded:
        """Decode it as every verb does; raises ImageError."""
        return read_encoded(self.data, Path(self.name), max_pixels)


@dataclass(frozen=True)
class Placed:
    """An input, and the place of the file that it came in, from 0."""

    index: int
    input: Input


@dataclass(frozen=True)
class Pictures:
    """What a request holds: `inputs` in order, and how many files of its archives were `skipped` as no images."""

    inputs: tuple[Placed, ...]
    skipped: int
    archives: ExitStack

    def close(self) -> None:
        """Close the archives; nothing can be read any more."""
        self.archives.close()


def open_pictures(uploads: Sequence[Upload], most: int) -> Pictures:
    """Open the archives among the uploads, and list all pictures.

    Raises:
        RequestError: 413 where there are more than `most` pictures, or far more files in archives; 422 where there is none.
    """
    inputs: list[Placed] = []
    skipped = entries = 0
    with ExitStack() as opened:
        for index, upload in enumerate(uploads):
            if not is_archive(upload.data):
                inputs.append(Placed(index, UploadedPicture(upload.name, upload.data)))
                continue
            try:
                archive = Archive(upload.data, upload.name, replace(_LIMITS, members=most + _OTHER_ENTRIES))
            except ImageError as error:
                inputs.append(Placed(index, Unusable(error, upload.name)))
                continue
            opened.callback(archive.close)
            entries += archive.entries
            _check_count(entries, most + _OTHER_ENTRIES)
            inputs += [Placed(index, member) for member in archive.members()]
            skipped += archive.skipped
        _check_count(len(inputs), most)
        if not inputs:
            raise _no_picture(skipped)
        return Pictures(tuple(inputs), skipped, opened.pop_all())


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise RequestError(
            "The request has too many pictures.",
            status=413,
            expected=f"at most {most:,} in one request, files in archives counted",
            received=f"{count:,}",
            remedy="send them in several requests, or have the server started with a larger limits.max_files",
        )


def _no_picture(skipped: int) -> RequestError:
    return RequestError(
        "There is no picture in the request.",
        status=422,
        expected="a picture, or an archive with pictures",
        received=f"archives with {skipped:,} other files",
        remedy="send pictures as BMP, PNG, JPEG, TIFF or WebP",
    )
