"""Archives from strangers: each trap is built here byte by byte, and must neither be followed nor take memory."""

from __future__ import annotations

import io
import os
import stat
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cohort import draw_cell
from leukolens.errors import ImageError
from leukolens.prediction.archives import Archive, ArchiveLimits

LIMIT_PX = 25_000_000


def encoded(seed: int = 1, form: str = "BMP") -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw_cell(seed)).save(file, form)
    return file.getvalue()


def build(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data, None if isinstance(name, str) else name.compress_type)
    return path


def outcomes(path: Path, limits: ArchiveLimits | None = None) -> dict[str, str]:
    """What becomes of each member: "read", or reason and what was received."""
    found = {}
    archive = Archive(path, path.name, limits or ArchiveLimits())
    try:
        for member in archive.members():
            try:
                member.read(LIMIT_PX)
            except ImageError as error:
                found[member.name] = f"{error.reason}: {error.received}"
            else:
                found[member.name] = "read"
    finally:
        archive.close()
    return found


def refusal(path: Path, limits: ArchiveLimits | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        Archive(path, path.name, limits or ArchiveLimits())
    return caught.value


def patched(path: Path, old: bytes, new: bytes, times: int) -> Path:
    data = path.read_bytes()
    assert data.count(old) == times
    path.write_bytes(data.replace(old, new))
    return path


def test_images_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    path = build(tmp_path / "a.zip", ("b.png", encoded(1, "PNG")), ("a/c.bmp", encoded(2)), ("a.bmp", encoded(3)))
    assert list(outcomes(path)) == ["a.zip/a.bmp", "a.zip/a/c.bmp", "a.zip/b.png"]
    assert set(outcomes(path).values()) == {"read"}
    archive = Archive(path, path.name)
    pixels = [member.read(LIMIT_PX).pixels for member in archive.members()]
    archive.close()
    np.testing.assert_array_equal(pixels, [draw_cell(3), draw_cell(2), draw_cell(1)])


def test_other_files_and_folders_are_left_out_and_numbered(tmp_path: Path) -> None:
    members = ("cells/", b""), ("cells/a.bmp", encoded()), ("labels.csv", b""), ("__MACOSX/._a.bmp", b"")
    archive = Archive(build(tmp_path / "a.zip", *members), "a.zip")
    assert ([member.name for member in archive.members()], archive.skipped) == (["a.zip/cells/a.bmp"], 2)
    archive.close()


def test_members_that_are_no_images_have_the_reasons_of_files(tmp_path: Path) -> None:
    black = io.BytesIO()
    Image.new("RGB", (20, 20)).save(black, "PNG")
    members = ("black.png", black.getvalue()), ("cut.bmp", encoded()[:200]), ("none.bmp", b"words"), ("zero.bmp", b"")
    path = build(tmp_path / "a.zip", *members)
    assert [outcome.partition(":")[0] for outcome in outcomes(path).values()] == ["blank", "truncated", "not_an_image", "empty"]


# Names and kinds


@pytest.mark.parametrize(
    "name", ["../out.bmp", "a/../../out.bmp", "/etc/cell.bmp", "..\\out.bmp", "C:\\cell.bmp", "\\\\host\\share\\cell.bmp"]
)
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = build(tmp_path / "a.zip", (name, encoded()), ("good.bmp", encoded()))
    assert sorted(outcomes(path).values()) == ["read", "unsafe_name: a name that leads out of it or holds a NUL"]
    assert list(tmp_path.iterdir()) == [path]


def test_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    """The library cuts such a name, so that `cell.exe` is not seen."""
    path = patched(build(tmp_path / "a.zip", ("cell_b.bmp", encoded())), b"cell_b.bmp", b"cell\0b.bmp", times=2)
    assert [outcome.partition(":")[0] for outcome in outcomes(path).values()] == ["unsafe_name"]


def test_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.bmp")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    assert outcomes(build(tmp_path / "a.zip", (link, b"/etc/passwd"))) == {"a.zip/link.bmp": "link: a link, device or pipe"}


def test_archives_in_the_archive_are_named_and_not_opened(tmp_path: Path) -> None:
    inner = build(tmp_path / "inner.zip", ("a.bmp", encoded())).read_bytes()
    found = outcomes(build(tmp_path / "a.zip", ("inner.zip", inner), ("more.tar.gz", b""), ("b.bmp", encoded())))
    assert found == {
        "a.zip/b.bmp": "read",
        "a.zip/inner.zip": "nested_archive: an archive in the archive",
        "a.zip/more.tar.gz": "nested_archive: an archive in the archive",
    }


def test_no_copy_of_a_name_that_stands_twice_is_taken_for_the_right_one(tmp_path: Path) -> None:
    path = build(tmp_path / "a.zip", ("aa.bmp", encoded(1)), ("ab.bmp", encoded(2)), ("c.bmp", encoded(3)))
    patched(path, b"ab.bmp", b"aa.bmp", times=2)
    archive = Archive(path, "a.zip")
    found = []
    for member in archive.members():
        try:
            member.read(LIMIT_PX)
            found.append((member.name, "read"))
        except ImageError as error:
            found.append((member.name, error.reason))
    archive.close()
    assert found == [("a.zip/aa.bmp", "duplicate_name"), ("a.zip/aa.bmp", "duplicate_name"), ("a.zip/c.bmp", "read")]


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "a.zip", ("a.bmp", encoded()))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    assert outcomes(path) == {"a.zip/a.bmp": "encrypted: an encrypted member"}


@pytest.mark.parametrize(("method", "number"), [(zipfile.ZIP_BZIP2, 12), (zipfile.ZIP_LZMA, 14)])
def test_packing_that_cannot_be_bounded_is_refused(tmp_path: Path, method: int, number: int) -> None:
    path = build(tmp_path / "a.zip", ("a.bmp", encoded()), method=method)
    assert outcomes(path) == {"a.zip/a.bmp": f"unsupported: method {number}"}


# Bombs


def test_member_that_grows_too_much_is_not_read(tmp_path: Path) -> None:
    bomb = b"\0" * (3 << 20)
    path = build(tmp_path / "a.zip", ("bomb.bmp", bomb), ("small.bmp", encoded()))
    assert outcomes(path)["a.zip/bomb.bmp"].startswith("too_large: 3,145,728 bytes from ")
    assert outcomes(path)["a.zip/small.bmp"] == "read"


def test_member_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = build(tmp_path / "a.zip", ("a.bmp", encoded()), method=zipfile.ZIP_STORED)
    size = len(encoded())
    assert outcomes(path, ArchiveLimits(member_bytes=size)) == {"a.zip/a.bmp": "read"}
    assert outcomes(path, ArchiveLimits(member_bytes=size - 1)) == {"a.zip/a.bmp": f"too_large: {size:,} bytes"}


def test_member_that_hides_its_size_is_read_no_further_than_it_says(tmp_path: Path) -> None:
    """Its entry claims 100 bytes; the rest is never unpacked, and the check sum tells."""
    bomb = b"\0" * (3 << 20)
    path = patched(build(tmp_path / "a.zip", ("bomb.bmp", bomb)), struct.pack("<L", len(bomb)), struct.pack("<L", 100), times=2)
    assert outcomes(path) == {"a.zip/bomb.bmp": "truncated: an entry that cannot be read (BadZipFile)"}


def test_archive_that_is_too_large_in_all_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = build(tmp_path / "a.zip", ("a.bmp", encoded()), ("b.txt", b"12345"))
    total = len(encoded()) + 5
    assert outcomes(path, ArchiveLimits(total_bytes=total)) == {"a.zip/a.bmp": "read"}
    error = refusal(path, ArchiveLimits(total_bytes=total - 1))
    assert (error.reason, error.received) == ("too_large", f"{total:,} bytes in 2 members")
    assert error.expected == f"at most {total - 1:,} bytes unpacked"


def test_hundred_thousand_members_are_refused_before_they_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,001 empty members, their table of contents written by hand: the library's own entries would take 70 MB."""
    name = b"x.bmp"
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0) + name
    directory = entry * 100_001
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFE, 0xFFFE, len(directory), len(header), 0)
    path = tmp_path / "many.zip"
    path.write_bytes(header + directory + end)

    def refuse(*_: object) -> None:
        raise AssertionError("an entry was parsed")

    monkeypatch.setattr(zipfile, "ZipInfo", refuse)
    error = refusal(path)
    assert (error.reason, error.received) == ("too_large", "100,001 members")
    assert error.expected == "at most 100,000 members"


def test_table_of_contents_of_any_size_is_not_read(tmp_path: Path) -> None:
    path = build(tmp_path / "a.zip", ("a.bmp", encoded()))
    error = refusal(path, ArchiveLimits(directory_bytes=40))
    assert (error.reason, error.received) == ("too_large", "one of 51 bytes")  # 46 and the five letters of the name


def test_as_many_members_as_allowed_are_read(tmp_path: Path) -> None:
    path = build(tmp_path / "a.zip", *((f"{number}.bmp", encoded(number)) for number in range(3)))
    assert len(outcomes(path, ArchiveLimits(members=3))) == 3
    assert refusal(path, ArchiveLimits(members=2)).reason == "too_large"


# Damage


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x05\x06" + b"\xff" * 18, b"PK\x05\x06" + b"\0" * 18 + b"rest"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    if data.endswith(b"rest"):
        assert outcomes(tmp_path / "a.zip") == {}  # an empty archive with a comment
        return
    assert refusal(tmp_path / "a.zip").reason in ("damaged_archive", "too_large")


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes among its files")
def test_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.zip")
    assert refusal(tmp_path / "a.zip").received == refusal(tmp_path).received == "a folder, device or pipe"


def test_archive_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "a.zip", ("a.bmp", encoded()), ("b.bmp", encoded(2)))
    path.write_bytes(path.read_bytes()[:-30])
    error = refusal(path)
    assert (error.reason, error.received) == ("damaged_archive", "a file that is none or is damaged (BadZipFile)")


def test_damaged_member_leaves_the_others_alone(tmp_path: Path) -> None:
    path = build(tmp_path / "a.zip", ("a.bmp", encoded(1)), ("b.bmp", encoded(2)), method=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(encoded(1)) + 3000] ^= 0xFF
    path.write_bytes(data)
    assert outcomes(path) == {
        "a.zip/a.bmp": "truncated: an entry that cannot be read (BadZipFile)",
        "a.zip/b.bmp": "read",
    }


def test_file_is_closed_when_the_archive_is_refused(tmp_path: Path) -> None:
    """Warnings are errors here: a file left open would be one."""
    path = build(tmp_path / "a.zip", ("a.bmp", encoded()))
    refusal(path, ArchiveLimits(total_bytes=1))
    path.unlink()
