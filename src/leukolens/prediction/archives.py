"""Images in a zip archive, read in memory one at a time and never unpacked onto the disk.

In: a path to a zip file, or its bytes, which may come from a stranger. Out: `Archive` with its `Member`s, and their bytes.
Writes: nothing.

What an archive says of itself is not believed: its table of contents is bounded before it is parsed, a member is never read
beyond the size that was checked, and members that cannot be images of this archive alone (links, names that lead out of it,
archives in the archive) are refused by name.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from leukolens.data.layouts import is_hidden, is_image_name
from leukolens.data.preprocessing import Decoded, read_encoded
from leukolens.errors import ImageError

ARCHIVE_SUFFIX = ".zip"

_MEMBER_SIGNATURE = b"PK\x01\x02"
# What an archive begins with: its first member, or where it has none the end of its table of contents.
_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
_ENCRYPTED_FLAG = 0x1
_SMALL_BYTES = 1 << 20
# Python's decoders of bzip2 and LZMA cannot be told how much to give at most: 4 KB of bzip2 may become gigabytes.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What Python's zipfile raises on archives that are damaged or made to harm, beyond BadZipFile.
_ARCHIVE_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, OverflowError,
                   struct.error, zlib.error)  # fmt: skip
_NESTED_SUFFIXES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"})


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may hold; all of C-NMC 2019 is 15,114 images, 10 GB.

    Args:
        members: entries of any kind in one archive.
        directory_bytes: size of its table of contents, which is held in memory.
        total_bytes: all members together, unpacked.
        member_bytes: one member, unpacked; 25 megapixels of 8-bit RGB are 75 MB, with transparency 100 MB.
        ratio: unpacked over packed bytes of a member of more than 1 MiB. Deflate reaches 1,032; a cell that covers a
            twentieth of a black picture about 50.
    """

    members: int = 100_000
    directory_bytes: int = 32 << 20
    total_bytes: int = 256 << 30
    member_bytes: int = 128 << 20
    ratio: int = 200


_LIMITS = ArchiveLimits()


class Archive:
    """An open archive; its members may be read from several threads.

    Args:
        source: where it is, or all that it consists of.
        name: how the user called it, which the names of its members begin with.
        limits: what it may hold.

    Raises:
        ImageError: with the reason missing, no_permission, damaged_archive, or too_large where it holds more than the limits
            allow; nothing of it is read then.
    """

    def __init__(self, source: Path | bytes, name: str, limits: ArchiveLimits = _LIMITS) -> None:
        self.name = name
        self.limits = limits
        with _archive_reasons(name):
            self._file = _BoundedFile(source, name, limits)
        with ExitStack() as refused:
            refused.callback(self._file.close)
            with _archive_reasons(name):
                self._zip = zipfile.ZipFile(self._file)
            self._file.is_parsed = True
            _check_total(name, self._zip.infolist(), limits)
            # Nothing is wrong with it: it stays open.
            refused.pop_all()

    def close(self) -> None:
        """Close the file; no member can be read any more."""
        self._zip.close()
        self._file.close()

    def members(self) -> Iterator[Member]:
        """Give what is or may hold images, in order of the names; folders, hidden files and other files are left out."""
        infos = [info for info in self._zip.infolist() if not _is_folder(info) and _is_wanted(info.orig_filename)]
        times = Counter(info.orig_filename for info in infos)
        for info in sorted(infos, key=lambda info: info.orig_filename):
            yield Member(self, info, times[info.orig_filename])

    @property
    def entries(self) -> int:
        """Number of entries of any kind."""
        return len(self._zip.infolist())

    @property
    def skipped(self) -> int:
        """Number of files that are left out."""
        return sum(not _is_folder(info) and not _is_wanted(info.orig_filename) for info in self._zip.infolist())

    def read(self, info: zipfile.ZipInfo) -> bytes:
        """All bytes of a member, at most as many as its entry says; ImageError with the reason truncated where damaged."""
        try:
            with self._zip.open(info) as file:
                # What goes on beyond the size that its entry claims is cut off, and then its check sum is wrong.
                return file.read(info.file_size)
        except _ARCHIVE_ERRORS as error:
            # The library's own words may quote the archive's: only the kind of error is passed on.
            received = f"an entry that cannot be read ({type(error).__name__})"
            raise unusable(info.orig_filename, "truncated", "a whole, undamaged member", received) from error


@dataclass(frozen=True)
class Member:
    """One file of an archive; `times` counts the entries of its name."""

    archive: Archive
    info: zipfile.ZipInfo
    times: int

    @property
    def name(self) -> str:
        """`archive.zip/member`."""
        return f"{self.archive.name}/{self.info.orig_filename}"

    def read(self, max_pixels: int) -> Decoded:
        """Decode it; raises ImageError where it is refused (see `_refusal`), damaged or no usable image."""
        if refusal := _refusal(self.info, self.times, self.archive.limits):
            raise unusable(self.name, *refusal)
        return read_encoded(self.archive.read(self.info), Path(self.name), max_pixels)


class _BoundedFile(io.BufferedReader):
    """A zip file whose table of contents is looked at before the library parses it: an entry becomes 700 bytes of memory."""

    def __init__(self, source: Path | bytes, name: str, limits: ArchiveLimits) -> None:
        super().__init__(io.BytesIO(source) if isinstance(source, bytes) else _regular(source, name))
        self.name_given = name
        self.limits = limits
        self.is_parsed = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.is_parsed:
            return super().read(size)
        limits = self.limits
        if size is not None and size > limits.directory_bytes:
            expected = f"a table of contents of at most {limits.directory_bytes:,} bytes"
            raise unusable(self.name_given, "too_large", expected, f"one of {size:,} bytes")
        data = super().read(size)
        if (members := data.count(_MEMBER_SIGNATURE)) > limits.members:
            raise unusable(self.name_given, "too_large", f"at most {limits.members:,} members", f"{members:,} members")
        return data


def is_archive(data: bytes) -> bool:
    """Tell by its first bytes whether a file is a zip archive."""
    return data.startswith(_SIGNATURES)


def _regular(path: Path, name: str) -> io.FileIO:
    # A pipe of that name would be waited for without end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise unusable(name, "missing", "a zip archive", "a folder, device or pipe")
    return io.FileIO(path)


def unusable(name: str, reason: str, expected: str, received: str) -> ImageError:
    """Give the error of an input that cannot be scored, for the reason and for what was found instead."""
    remedy = "mend or replace it; all other inputs are scored"
    return ImageError(f"{name} cannot be used.", reason=reason, expected=expected, received=received, remedy=remedy)


@contextmanager
def _archive_reasons(name: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise unusable(name, "no_permission", "a file that may be read", "no read permission") from error
    except FileNotFoundError as error:
        raise unusable(name, "missing", "a zip archive", error.strerror or "nothing at that path") from error
    except _ARCHIVE_ERRORS as error:
        received = f"a file that is none or is damaged ({type(error).__name__})"
        raise unusable(name, "damaged_archive", "a zip archive", received) from error


def _check_total(name: str, infos: list[zipfile.ZipInfo], limits: ArchiveLimits) -> None:
    total = sum(info.file_size for info in infos)
    if total > limits.total_bytes:
        expected = f"at most {limits.total_bytes:,} bytes unpacked"
        raise unusable(name, "too_large", expected, f"{total:,} bytes in {len(infos):,} members")


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.orig_filename.endswith("/")


def _is_wanted(name: str) -> bool:
    """Tell whether a member is or may hold images: archives in the archive are named and refused, not passed over."""
    path = PurePosixPath(PureWindowsPath(name).as_posix())
    # ".." begins with a point, but such a name is to be seen, with slashes of either kind.
    if any(is_hidden(part) and part != ".." for part in path.parts):
        return False
    return is_image_name(str(path)) or path.suffix.lower() in _NESTED_SUFFIXES


def _refusal(info: zipfile.ZipInfo, times: int, limits: ArchiveLimits) -> tuple[str, str, str] | None:
    """Why a member is not read, as reason, expected and received; None where it may be."""
    name, size = info.orig_filename, info.file_size
    ratio = size / max(1, info.compress_size)
    refusals = (
        (_leads_out(name), "unsafe_name", "a path below the archive", "a name that leads out of it or holds a NUL"),
        (_is_link(info), "link", "a regular file", "a link, device or pipe"),
        (times > 1, "duplicate_name", "one member of this name", f"{times} members of this name"),
        (not is_image_name(name), "nested_archive", "an image", "an archive in the archive"),
        (bool(info.flag_bits & _ENCRYPTED_FLAG), "encrypted", "a member without a password", "an encrypted member"),
        (info.compress_type not in _METHODS, "unsupported", "a member stored or deflated", f"method {info.compress_type}"),
        (size > limits.member_bytes, "too_large", f"at most {limits.member_bytes:,} bytes", f"{size:,} bytes"),
        (size > _SMALL_BYTES and ratio > limits.ratio, "too_large", f"at most {limits.ratio} bytes from each packed one",
         f"{size:,} bytes from {info.compress_size:,}"),
    )  # fmt: skip
    return next(((reason, expected, received) for applies, reason, expected, received in refusals if applies), None)


def _leads_out(name: str) -> bool:
    windows = PureWindowsPath(name)
    return "\0" in name or name.startswith("/") or ".." in windows.parts or bool(windows.drive or windows.root)


def _is_link(info: zipfile.ZipInfo) -> bool:
    """Tell by the mode that Unix archivers store; 0 where none was stored."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    return kind not in (0, stat.S_IFREG)
