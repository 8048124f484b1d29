"""Structure-aware mutation: a file's fields by name, and files in which some of them lie.

In: a well-formed file of a known format, and a seed. Out: the bytes of spoilt files. Writes: nothing.

What is a field is read from the file itself, as its format lays it down: lengths, offsets, sizes, depths, counts, types,
codes of run lengths. A mutation sets one to three of them to values on the edges of what they can hold (or to those of
another field), moves, doubles or drops a whole part, or cuts the file there; check sums are set right again in two of three
PNGs, so that what lies behind them is reached.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hostile_corpus.case import Case, file_case
from hostile_corpus.pictures import seeds

_SUFFIX = {"BMP": "bmp", "PNG": "png", "JPEG": "jpg", "TIFF": "tif", "WEBP": "webp"}
_BMP_FIELDS = (
    (0, 2),
    (2, 4),
    (6, 4),
    (10, 4),
    (14, 4),
    (18, 4),
    (22, 4),
    (26, 2),
    (28, 2),
    (30, 4),
    (34, 4),
    (38, 4),
    (42, 4),
    (46, 4),
    (50, 4),
)
_PNG_HEADER_FIELDS = ((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1))
_TIFF_ENTRY_BYTES = 12
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})
_FIELDS_CHANGED_AT_MOST = 3


@dataclass(frozen=True)
class Field:
    """A number in a file: where, of how many bytes, in which order."""

    offset: int
    size: int
    order: str = "little"

    def read(self, data: bytes) -> int:
        """Its value."""
        return int.from_bytes(data[self.offset : self.offset + self.size], self.order)  # type: ignore[arg-type]

    def written(self, data: bytes, value: int) -> bytes:
        """The file with another value."""
        new = (value % (1 << 8 * self.size)).to_bytes(self.size, self.order)  # type: ignore[arg-type]
        return data[: self.offset] + new + data[self.offset + self.size :]


@dataclass(frozen=True)
class Anatomy:
    """Fields of a file, and the (start, stop) of parts that can be moved, doubled or dropped."""

    fields: list[Field]
    parts: list[tuple[int, int]]


def header_cases(seed: int, count: int) -> Iterator[Case]:
    """Give `count` spoilt files of each of the five formats."""
    for form, variants in seeds().items():
        for number in range(count):
            variant = list(variants)[number % len(variants)]
            # A generator of its own for each file, so that one can be made again by itself.
            spoilt = mutated(form, variants[variant], random.Random(f"{seed} {form} {number}"))  # noqa: S311
            yield file_case(
                f"{form} header", f"{number}, {variant}", f"cell{number}.{_SUFFIX[form]}", lambda spoilt=spoilt: spoilt
            )


def mutated(form: str, data: bytes, chance: random.Random) -> bytes:
    """One spoilt copy of a file."""
    anatomy = ANATOMIES[form](data)
    for _ in range(chance.randint(1, _FIELDS_CHANGED_AT_MOST)):
        field = chance.choice(anatomy.fields)
        data = field.written(data, _edge(field, data, anatomy, chance))
    if form == "PNG" and chance.random() < 2 / 3:
        data = with_right_sums(data)
    way = chance.random()
    if way < 0.1:
        return data[: chance.choice(anatomy.parts)[chance.randint(0, 1)]]
    if way < 0.3:
        return _rearranged(data, anatomy, chance)
    return data


def _edge(field: Field, data: bytes, anatomy: Anatomy, chance: random.Random) -> int:
    now, most = field.read(data), (1 << 8 * field.size) - 1
    other = chance.choice(anatomy.fields).read(data)
    return chance.choice(
        [
            0,
            1,
            most,
            most >> 1,
            (most >> 1) + 1,
            most - 7,
            now + 1,
            now - 1,
            now * 2,
            now << 8,
            len(data),
            other,
            chance.randint(0, most),
        ]
    )


def _rearranged(data: bytes, anatomy: Anatomy, chance: random.Random) -> bytes:
    start, stop = chance.choice(anatomy.parts)
    part = data[start:stop]
    kind = chance.randint(0, 3)
    if kind == 0:
        return data[:start] + data[stop:]
    if kind == 1:
        return data[:stop] + part * chance.choice([1, 2, 1000]) + data[stop:]
    if kind == 2:
        return data[:start] + bytes(chance.randrange(256) for _ in part) + data[stop:]
    where = chance.choice(anatomy.parts)[0]
    return data[:where] + part + data[where:]


def bmp_anatomy(data: bytes) -> Anatomy:
    """The two headers, the first codes or rows after them."""
    start = min(int.from_bytes(data[10:14], "little"), len(data))
    fields = [Field(offset, size) for offset, size in _BMP_FIELDS]
    fields += [Field(offset, 1) for offset in range(54, min(start, 66))]  # masks or palette
    fields += [Field(offset, 1) for offset in range(start, min(start + 24, len(data)))]  # run lengths
    return Anatomy(fields, [(0, 14), (14, 54), (54, start), (start, len(data))])


def png_anatomy(data: bytes) -> Anatomy:
    """Length, type and sum of each chunk, the numbers of its header chunk, the first bytes of others."""
    fields, parts, place = [], [], 8
    while place + 8 <= len(data):
        length, kind = struct.unpack(">L4s", data[place : place + 8])
        fields += [Field(place, 4, "big"), Field(place + 4, 4, "big"), Field(place + 8 + length, 4, "big")]
        if kind == b"IHDR":
            fields += [Field(place + 8 + offset, size, "big") for offset, size in _PNG_HEADER_FIELDS] * 3
        else:
            fields += [Field(place + 8 + offset, 1) for offset in range(min(length, 16))]
        parts.append((place, place + 12 + length))
        place += 12 + length
    return Anatomy(fields, parts)


def with_right_sums(data: bytes) -> bytes:
    """A PNG whose chunks, as far as they can be followed, have right check sums."""
    place = 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(data):
            break
        data = data[:end] + struct.pack(">L", zlib.crc32(data[place + 4 : end])) + data[end + 4 :]
        place = end + 4
    return data


def jpeg_anatomy(data: bytes) -> Anatomy:
    """Marker and length of each segment, the first bytes in it, and a few of the compressed pixels."""
    fields, parts, place = [], [], 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] in _JPEG_ALONE:
            place += 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        fields += [Field(place + 1, 1), Field(place + 2, 2, "big"), Field(place + 2, 2, "big")]
        fields += [Field(place + 4 + offset, 1) for offset in range(min(length - 2, 20))]
        parts.append((place, place + 2 + length))
        place += 2 + length
        if data[parts[-1][0] + 1] == 0xDA:
            fields += [Field(offset, 1) for offset in range(place, min(place + 12, len(data)))]
            following = data.find(b"\xff\xc4", place)
            place = following if following > 0 else len(data)
    return Anatomy(fields, parts)


def tiff_anatomy(data: bytes) -> Anatomy:
    """The header, the four numbers of each entry of each directory, and the pointer to the next."""
    order = "little" if data[:2] == b"II" else "big"
    fields, parts = [Field(0, 2), Field(2, 2, order), Field(4, 4, order)], [(0, 8)]
    directory = fields[2].read(data)
    while directory:
        count = Field(directory, 2, order)
        fields.append(count)
        for entry in range(directory + 2, directory + 2 + count.read(data) * _TIFF_ENTRY_BYTES, _TIFF_ENTRY_BYTES):
            fields += [
                Field(entry, 2, order),
                Field(entry + 2, 2, order),
                Field(entry + 4, 4, order),
                Field(entry + 8, 4, order),
            ]
            parts.append((entry, entry + _TIFF_ENTRY_BYTES))
        following = Field(directory + 2 + count.read(data) * _TIFF_ENTRY_BYTES, 4, order)
        fields.append(following)
        directory = following.read(data)
    return Anatomy(fields, parts)


def webp_anatomy(data: bytes) -> Anatomy:
    """The container's size, the size of each chunk, the first bytes in it: flags, dimensions, frame header."""
    fields, parts, place = [Field(4, 4), Field(8, 4)], [(0, 12)], 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        fields += [Field(place, 4), Field(place + 4, 4), Field(place + 8, 3), Field(place + 12, 3), Field(place + 15, 3)]
        fields += [Field(place + 8 + offset, 1) for offset in range(min(length, 16))]
        parts.append((place, place + 8 + length))
        place += 8 + length + length % 2
    return Anatomy([field for field in fields if field.offset + field.size <= len(data)], parts)


ANATOMIES: dict[str, Callable[[bytes], Anatomy]] = {
    "BMP": bmp_anatomy,
    "PNG": png_anatomy,
    "JPEG": jpeg_anatomy,
    "TIFF": tiff_anatomy,
    "WEBP": webp_anatomy,
}
