"""Pictures that are small on disk and large, slow or endless to decode.

In: nothing. Out: cases of the kind "decompression bomb". Writes: nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

from hostile_corpus.case import SCORED, WITHOUT_SCORE, Case, file_case
from hostile_corpus.pictures import bmp, encoded

_KIND = "decompression bomb"
_MIB = 1 << 20
_ALLOWED_SIDE_PX = 5000  # 25 megapixels, the limit
_SCANS = 20_000
_PAGES = 30_000
_STRIPS = 1_000_000


def bomb_cases() -> Iterator[Case]:
    """Bombs that must be refused, and pictures of the largest size allowed, which must be read within the memory limit."""
    refused: dict[str, tuple[str, Callable[[], bytes]]] = {
        "PNG of 65,535 x 65,535": ("a.png", lambda: png(65535, 65535, b"\0" * 1000)),
        "PNG of 2,147,483,647 x 1": ("a.png", lambda: png(0x7FFFFFFF, 1, b"\0" * 1000)),
        "PNG of 5,001 x 5,000": ("a.png", lambda: png(5001, 5000, b"\0" * 1000)),
        "JPEG of 65,500 x 65,500": ("a.jpg", lambda: _jpeg_of_size(65500, 65500)),
        "BMP of 30,000 x 30,000": ("a.bmp", lambda: bmp(30000, 30000, 24, b"\1" * 100)),
        "BMP of -2^31 rows": ("a.bmp", lambda: bmp(1, -(1 << 31), 24, b"\1" * 100)),
        "BMP of run lengths, 60,000 x 60,000": (
            "a.bmp",
            lambda: bmp(60000, 60000, 8, b"\xff\1" * 9, compression=1, between=bytes(1024)),
        ),
        "TIFF of 100,000 x 100,000": ("a.tif", lambda: tiff({256: 100_000, 257: 100_000})),
        "TIFF of 4,294,967,295 x 1": ("a.tif", lambda: tiff({256: 0xFFFFFFFF, 257: 1})),
        "WebP of 16,383 x 16,383": ("a.webp", lambda: _webp_of_size(16384, 16384)),
        "PNG of 16 bits": ("a.png", lambda: png(64, 64, bytes(64 * 64 * 6 + 64), depth=16)),
        "PNG that claims 2^31 frames": (
            "a.png",
            lambda: png(64, 64, bytes(64 * 193), extra=[(b"acTL", struct.pack(">LL", 1 << 31, 0))]),
        ),
        "PNG with 300 MiB of compressed text": ("a.png", lambda: _png_with(b"zTXt", b"Comment\0\0")),
        "PNG with 300 MiB of international text": ("a.png", lambda: _png_with(b"iTXt", b"Comment\0\1\0\0\0")),
        "PNG with 300 MiB of colour profile": ("a.png", lambda: _png_with(b"iCCP", b"profile\0\0")),
        "PNG of one packed pixel row in 5,000": ("a.png", lambda: png(5000, 5000, bytes(15001), packed_twice=True)),
        "TIFF of 30,000 pages": ("a.tif", _many_pages),
        "TIFF whose next page is itself": ("a.tif", lambda: tiff({256: 8, 257: 8, 273: 8, 279: 192}, following=8)),
        "TIFF of a million strips": ("a.tif", _many_strips),
        "TIFF with a tag of 4,294,967,295 values": ("a.tif", lambda: tiff({256: 64, 257: 64}, lying_tag=True)),
        "TIFF whose strip unpacks to 300 MiB": ("a.tif", lambda: tiff({256: 64, 257: 64, 259: 8}, strip=_packed_zeros(300))),
        f"progressive JPEG of {_SCANS:,} scans": ("a.jpg", _many_scans),
    }
    # A picture may be read in spite of what it carries beside its pixels; it may only not cost what that unpacks to.
    for name, (file_name, data) in refused.items():
        yield file_case(_KIND, name, file_name, data, (SCORED, WITHOUT_SCORE))
    side = _ALLOWED_SIDE_PX
    allowed: dict[str, tuple[str, Callable[[], bytes]]] = {
        "PNG of 25 megapixels, white": ("a.png", lambda: encoded("PNG", Image.new("RGB", (side, side), "white"))),
        "PNG of 25 megapixels, black": ("a.png", lambda: encoded("PNG", Image.new("RGB", (side, side)))),
        "PNG of 25 megapixels, see-through": ("a.png", lambda: encoded("PNG", Image.new("RGBA", (side, side), (9, 9, 9, 9)))),
        "PNG of 25,000,000 x 1": ("a.png", lambda: encoded("PNG", Image.new("RGB", (25_000_000, 1), "white"))),
        "WebP of 25 megapixels": ("a.webp", lambda: encoded("WEBP", Image.new("RGB", (side, side), "white"), method=0)),
        "JPEG of 25 megapixels, four inks": ("a.jpg", lambda: encoded("JPEG", Image.new("CMYK", (side, side), (9, 9, 9, 9)))),
        "TIFF of 25 megapixels": (
            "a.tif",
            lambda: encoded("TIFF", Image.new("RGB", (side, side), "white"), compression="tiff_deflate"),
        ),
        "BMP of 25 megapixels in 50 KB of run lengths": ("a.bmp", _run_lengths),
    }
    for name, (file_name, data) in allowed.items():
        yield file_case(_KIND, name, file_name, data)


def png(
    width: int,
    height: int,
    rows: bytes,
    *,
    depth: int = 8,
    extra: list[tuple[bytes, bytes]] | None = None,
    packed_twice: bool = False,
) -> bytes:
    """A PNG in RGB with the header that it is told to have."""
    packed = zlib.compress(rows, 9)
    chunks = [
        (b"IHDR", struct.pack(">LLBBBBB", width, height, depth, 2, 0, 0, 0)),
        *(extra or []),
        (b"IDAT", packed),
        *([(b"IDAT", packed)] if packed_twice else []),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, data = chunk
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def _png_with(kind: bytes, start: bytes) -> bytes:
    """A whole picture with a chunk that unpacks to 300 MiB."""
    rows = (b"\0" + b"\x50\x30\x70" * 64) * 64
    return png(64, 64, rows, extra=[(kind, start + _packed_zeros(300))])


def _packed_zeros(mebibytes: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(_MIB)
    return b"".join(packer.compress(block) for _ in range(mebibytes)) + packer.flush()


def tiff(tags: dict[int, int], *, strip: bytes = b"", following: int = 0, lying_tag: bool = False) -> bytes:
    """A TIFF in RGB, 8 bits, one strip, with the tags that it is told to have."""
    strip = strip or b"\x40" * 20_000
    said = {258: 8, 259: 1, 262: 2, 277: 3, 278: tags.get(257, 1), **tags}
    entries = len({*said, 273, 279}) + lying_tag
    start = 8 + 2 + entries * 12 + 4
    said = {273: start, 279: len(strip), **said}
    fields = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in sorted(said.items()))
    if lying_tag:
        fields += struct.pack("<HHLL", 0x8769, 2, 0xFFFFFFFF, 8)
    return struct.pack("<2sHL", b"II", 42, 8) + struct.pack("<H", entries) + fields + struct.pack("<L", following) + strip


def _many_pages() -> bytes:
    """Pages of the same pixels, each with a directory of its own that names the next."""
    whole = tiff({256: 16, 257: 16}, strip=b"\x40" * 768)
    length = 2 + struct.unpack("<H", whole[8:10])[0] * 12 + 4
    pixels, directory = whole[8 + length :], whole[8 : 4 + length]
    # The first directory stays where the header says; the others follow the pixels.
    starts = [8, *(8 + length + len(pixels) + length * page for page in range(_PAGES - 1)), 0]
    directories = [directory + struct.pack("<L", following) for following in starts[1:]]
    return whole[:8] + directories[0] + pixels + b"".join(directories[1:])


def _many_strips() -> bytes:
    """One row each, all of them the same bytes of the file."""
    start = 8 + 2 + 9 * 12 + 4
    values = {
        256: (4, 1, 8),
        257: (4, 1, _STRIPS),
        258: (4, 1, 8),
        259: (4, 1, 1),
        262: (4, 1, 2),
        273: (4, _STRIPS, start),
        277: (4, 1, 3),
        278: (4, 1, 1),
        279: (4, _STRIPS, start + 4 * _STRIPS),
    }
    fields = b"".join(struct.pack("<HHLL", tag, *value) for tag, value in values.items())
    offsets, sizes = struct.pack("<L", start) * _STRIPS, struct.pack("<L", 24) * _STRIPS
    return struct.pack("<2sHLH", b"II", 42, 8, 9) + fields + struct.pack("<L", 0) + offsets + sizes


def _run_lengths() -> bytes:
    side = _ALLOWED_SIDE_PX
    palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    row = b"\xff\xc8" * (side // 255) + bytes((side % 255, 0xC8, 0, 0))
    return bmp(side, side, 8, row * side + b"\0\1", compression=1, between=palette)


def _jpeg_of_size(width: int, height: int) -> bytes:
    whole = encoded("JPEG")
    frame = whole.index(b"\xff\xc0")
    return whole[: frame + 5] + struct.pack(">HH", height, width) + whole[frame + 9 :]


def _webp_of_size(width: int, height: int) -> bytes:
    whole = encoded("WEBP", lossless=True)
    place = whole.index(b"VP8L") + 9
    bits = int.from_bytes(whole[place : place + 4], "little") >> 28 << 28 | (height - 1) << 14 | (width - 1)
    return whole[:place] + bits.to_bytes(4, "little") + whole[place + 4 :]


def _many_scans() -> bytes:
    """A picture of 4,096 x 4,096 whose refinement scans are each a few bytes, and each gone through for every block."""
    whole = encoded("JPEG", Image.new("L", (4096, 4096), 200), progressive=True)
    first = whole.index(b"\xff\xda")
    second = whole.index(b"\xff", first + 2 + int.from_bytes(whole[first + 2 : first + 4], "big") + 2)
    while whole[second + 1] in (0, *range(0xD0, 0xD8)):
        second = whole.index(b"\xff", second + 2)
    scan = b"\xff\xda" + struct.pack(">HBBB", 8, 1, 1, 0) + bytes((1, 63, 0)) + bytes(8)
    return whole[:second] + _one_bit_table() + scan * _SCANS + b"\xff\xd9"


def _one_bit_table() -> bytes:
    """An AC table whose shortest code ends the longest run of bands (0xE0: 32,767 blocks)."""
    counts = bytes((1, *([0] * 15)))
    return b"\xff\xc4" + struct.pack(">HB", 2 + 1 + 16 + 1, 0x10) + counts + b"\xe0"
