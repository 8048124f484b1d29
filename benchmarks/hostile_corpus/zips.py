"""Zip archives made to harm: names that lead out, links, bombs, lies about sizes, archives in archives.

In: a seed. Out: cases of the kinds "zip: …". Writes: nothing.
"""

from __future__ import annotations

import io
import random
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator

from hostile_corpus.case import REFUSED, SCORED, WITHOUT_SCORE, Case, file_case
from hostile_corpus.headers import Anatomy, Field
from hostile_corpus.pictures import encoded

_MIB = 1 << 20
_TEN_GIB_IN_MIB = 10 * 1024
_ANY = (SCORED, WITHOUT_SCORE, REFUSED)
_LOCAL, _ENTRY, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_NAMES = {
    "climbs out": "../../outside.png",
    "climbs out by backslashes": "..\\..\\outside.png",
    "absolute": "/outside.png",
    "drive": "C:\\outside.png",
    "share": "\\\\host\\share\\outside.png",
    "climbs midway": "a/../../../outside.png",
    "new line": "a\nscored,1,1.png",
    "carriage return": "a\r\nb.png",
    "right to left": "\u202egnp.exe.png",
    "formula": "=cmd|' /C calc'!A0.png",
    "formula by a tab": "\t=1+1.png",
    "formula in wide letters": "＝1＋1.png",
    "script": "<script>alert(1)</script>.png",
    "image tag": '"><img src=x onerror=alert(1)>.png',
    "terminal": "\x1b]0;title\x07\x1b[2J.png",
    "quotes": '","",";drop.png',
    "long": "n" * 60_000 + ".png",
    "deep": "d/" * 20_000 + "a.png",
    "device": "CON.png",
    "space and point": "a. .png ",
    "point": "./a.png",
    "double slash": "a//b.png",
    "line separator": "a\u2028b.png",
    "zero width": "a\u200b\ufeff.png",
    "template": "{{7*7}}${7*7}%(a)s.png",
    "percent": "%2e%2e%2foutside.png",
    "home": "~/outside.png",
    "dash": "--out=x.png",
}


def zip_cases(seed: int, damaged: int) -> Iterator[Case]:
    """All kinds; `damaged` is the number of archives whose own fields are spoilt."""
    for name, member in _NAMES.items():
        yield file_case("zip: name", name, "a.zip", lambda member=member: packed((member, encoded("PNG"))), _ANY)
    yield file_case("zip: name", "NUL", "a.zip", lambda: packed(("a_b.png", encoded("PNG"))).replace(b"a_b.png", b"a\0b.png"))
    yield file_case(
        "zip: name",
        "no UTF-8",
        "a.zip",
        lambda: packed(("a_b.png", encoded("PNG"))).replace(b"a_b.png", b"\xff\xfe\x80.png"),
        _ANY,
    )
    yield file_case("zip: name", "none", "a.zip", _nameless, _ANY)
    for kind, makers in (("zip: link or device", _special()), ("zip: bomb", _bombs()), ("zip: lie", _lies())):
        for name, make in makers.items():
            yield file_case(kind, name, "a.zip", make, _ANY)
    for number in range(damaged):
        yield file_case("zip: header", str(number), "a.zip", lambda number=number: _damaged(f"{seed} zip {number}"), _ANY)


def packed(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings(action="ignore"):  # of names that stand twice
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def _nameless() -> bytes:
    header, entry = _member(b"", zlib.compress(encoded("PNG"), 9)[2:-4], len(encoded("PNG")), sum_=zlib.crc32(encoded("PNG")))
    return _archive(header, entry, 1)


def _special() -> dict[str, Callable[[], bytes]]:
    kinds = {
        "link": stat.S_IFLNK,
        "pipe": stat.S_IFIFO,
        "character device": stat.S_IFCHR,
        "block device": stat.S_IFBLK,
        "socket": stat.S_IFSOCK,
        "folder that is named as image": stat.S_IFDIR,
    }

    def member(kind: int) -> bytes:
        info = zipfile.ZipInfo("a.png")
        info.create_system, info.external_attr = 3, (kind | 0o4777) << 16
        return packed((info, b"../../outside.png"), ("b.png", encoded("PNG")))

    return {name: lambda kind=kind: member(kind) for name, kind in kinds.items()}  # type: ignore[misc]


def _bombs() -> dict[str, Callable[[], bytes]]:
    return {
        "10 GiB from 10 MB": lambda: _zeros(_TEN_GIB_IN_MIB),
        "10 GiB, said to be 100 bytes": lambda: _zeros(_TEN_GIB_IN_MIB, says=100),
        "10 GiB, said to be 127 MiB from 1 MiB": lambda: _zeros(_TEN_GIB_IN_MIB, says=127 * _MIB, packed_says=_MIB),
        "128 MiB from 128 KiB": lambda: packed(("a.png", bytes(128 * _MIB))),
        "1 MiB often": lambda: _overlapping(2_000),
        "100,001 members": lambda: _entries(100_001),
        "100,000 members without a header": lambda: _entries(100_000),
        "table of contents of 40 MB": lambda: _entries(700, extra=60_000),
        "archive in archive in archive": lambda: _nested(9),
        "bzip2": lambda: packed(("a.png", bytes(64 * _MIB)), method=zipfile.ZIP_BZIP2),
        "LZMA": lambda: packed(("a.png", bytes(64 * _MIB)), method=zipfile.ZIP_LZMA),
        "PNG bomb in it": lambda: packed(("a.png", _png_bomb())),
    }


def _lies() -> dict[str, Callable[[], bytes]]:
    plain = lambda: packed(("a.png", encoded("PNG")), ("b.png", encoded("PNG")))  # noqa: E731
    return {
        "one name twice": lambda: packed(("a.png", encoded("PNG")), ("a.png", encoded("BMP"))),
        "one name in two cases": lambda: packed(("a.png", encoded("PNG")), ("A.PNG", encoded("BMP"))),
        "archive in it": lambda: packed(("inner.zip", plain()), ("b.png", encoded("PNG"))),
        "password": lambda: _patched(plain(), _ENTRY, 8, b"\x01"),
        "strong encryption": lambda: _patched(plain(), _ENTRY, 8, b"\x41"),
        "method 9": lambda: _patched(plain(), _ENTRY, 10, b"\x09"),
        "method 93": lambda: _patched(plain(), _ENTRY, 10, b"\x5d"),
        "method 99": lambda: _patched(plain(), _ENTRY, 10, b"\x63"),
        "wrong check sum": lambda: _patched(plain(), _ENTRY, 16, b"\0\0\0\0"),
        "packed size of zero": lambda: _patched(plain(), _ENTRY, 20, b"\0\0\0\0"),
        "size of 4 GiB": lambda: _patched(plain(), _ENTRY, 24, b"\xfe\xff\xff\xff"),
        "member behind the end": lambda: _patched(plain(), _ENTRY, 42, b"\xf0\xff\xff\x7f"),
        "zip64 without its field": lambda: _patched(plain(), _ENTRY, 24, b"\xff\xff\xff\xff"),
        "zip64 size of 2^63": lambda: _zip64(1 << 63),
        "zip64 size of 2^64 - 1": lambda: _zip64((1 << 64) - 1),
        "zip64 end that points nowhere": _lost_end,
        "65,535 entries said": lambda: _patched(plain(), _END, 10, b"\xff\xff"),
        "table of contents at 4 GiB": lambda: _patched(plain(), _END, 16, b"\xfe\xff\xff\xff"),
        "table of contents of 4 GiB": lambda: _patched(plain(), _END, 12, b"\xfe\xff\xff\xff"),
        "two ends": lambda: plain() + plain()[plain().index(_END) :],
        "rubbish before": lambda: b"MZ" + bytes(5000) + plain(),
        "comment longer than the file": lambda: _patched(plain(), _END, 20, b"\xff\xff"),
        "other name in the header": lambda: plain().replace(b"a.png", b"z.png", 1),
        "table of contents alone": lambda: plain()[plain().index(_ENTRY) :],
        "half": lambda: plain()[: len(plain()) // 2],
        "end alone": lambda: _END + bytes(18),
        "empty": lambda: b"",
        "100,000 signatures and nothing": lambda: _ENTRY * 100_000 + _END + bytes(18),
    }


def _patched(data: bytes, signature: bytes, offset: int, new: bytes) -> bytes:
    place = data.index(signature) + offset
    return data[:place] + new + data[place + len(new) :]


def _damaged(seed: str) -> bytes:
    """An archive of three members in which one to three fields of its own lie."""
    chance = random.Random(seed)  # noqa: S311
    data = packed(("a.png", encoded("PNG")), ("b/c.bmp", encoded("BMP")), ("d.txt", b"words"))
    fields = _anatomy(data).fields
    for _ in range(chance.randint(1, 3)):
        field = chance.choice(fields)
        most = (1 << 8 * field.size) - 1
        data = field.written(
            data, chance.choice([0, 1, most, most >> 1, field.read(data) + 1, len(data), chance.randint(0, most)])
        )
    return data


def _anatomy(data: bytes) -> Anatomy:
    layouts = {
        _LOCAL: ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
        _ENTRY: (
            (4, 2),
            (6, 2),
            (8, 2),
            (10, 2),
            (16, 4),
            (20, 4),
            (24, 4),
            (28, 2),
            (30, 2),
            (32, 2),
            (34, 2),
            (38, 4),
            (42, 4),
        ),
        _END: ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    }
    fields = []
    for signature, layout in layouts.items():
        place = data.find(signature)
        while place >= 0:
            fields += [Field(place + offset, size) for offset, size in layout]
            place = data.find(signature, place + 4)
    return Anatomy(fields, [(0, len(data))])


def _member(
    name: bytes, data: bytes, size: int, *, packed_size: int | None = None, offset: int = 0, extra: bytes = b"", sum_: int = 0
) -> tuple[bytes, bytes]:
    """Header with data, and entry, of a deflated member, with the sizes that they are told to say."""
    packed_size = len(data) if packed_size is None else packed_size
    said = struct.pack("<5H3L2H", 45, 0, 8, 0, 0, sum_, packed_size, min(size, 0xFFFFFFFF), len(name), len(extra))
    entry = _ENTRY + struct.pack("<H", 45) + said + struct.pack("<3H2L", 0, 0, 0, 0, offset) + name + extra
    return _LOCAL + said + name + extra + data, entry


def _archive(headers: bytes, entries: bytes, count: int) -> bytes:
    count = min(count, 0xFFFE)
    return headers + entries + _END + struct.pack("<4H2LH", 0, 0, count, count, len(entries), len(headers), 0)


def _zeros(mebibytes: int, says: int | None = None, packed_says: int | None = None) -> bytes:
    """One member of so many MiB of zeros: a piece of deflate that gives 1 MiB, again and again."""
    size = mebibytes * _MIB
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(_MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = piece * mebibytes + packer.flush()
    extra = struct.pack("<HHQ", 1, 8, size) if says is None else b""
    header, entry = _member(b"a.png", data, size if says is None else says, packed_size=packed_says, extra=extra)
    return _archive(header, entry, 1)


def _overlapping(count: int) -> bytes:
    """So many entries whose data is the same piece, each of just under 1 MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(bytes(_MIB)) + packer.flush()
    header, _ = _member(b"00000000.png", data, _MIB)
    entries = b"".join(_member(f"{number:08}.png".encode(), data, _MIB)[1] for number in range(count))
    return _archive(header, entries, count)


def _entries(count: int, extra: int = 0) -> bytes:
    """So many entries, and no member to any of them."""
    entries = b"".join(_member(f"{number}.png".encode(), b"", 0, extra=bytes(extra))[1] for number in range(count))
    return _archive(b"", entries, count)


def _nested(depth: int) -> bytes:
    data = encoded("PNG")
    name = "a.png"
    for level in range(depth):
        data, name = packed((name, data), (f"beside{level}.png", encoded("PNG"))), f"{level}.zip"
    return data


def _zip64(size: int) -> bytes:
    data = zlib.compress(encoded("PNG"), 9)[2:-4]
    header, entry = _member(b"a.png", data, 0xFFFFFFFF, extra=struct.pack("<HHQ", 1, 8, size))
    return _archive(header, entry, 1)


def _lost_end() -> bytes:
    whole = packed(("a.png", encoded("PNG")))
    place = whole.index(_END)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 1 << 62, 1)
    end = whole[place:]
    return whole[:place] + locator + end[:8] + b"\xff\xff\xff\xff" + b"\xff" * 8 + end[20:]


def _png_bomb() -> bytes:
    from hostile_corpus.bombs import png

    return png(65535, 65535, b"\0" * 1000)
