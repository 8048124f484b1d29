"""Small pictures in every format that leukolens reads, which other modules spoil.

In: nothing. Out: the bytes of files by name. Writes: nothing.
"""

from __future__ import annotations

import io
import struct
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE_PX = 48


def drawn(seed: int = 0, side_px: int = SIDE_PX) -> NDArray[np.uint8]:
    """A disc with noise on black: uint8 [side_px, side_px, 3]."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side_px, :side_px] - side_px // 2
    pixels = np.zeros((side_px, side_px, 3), np.uint8)
    inside = rows**2 + columns**2 < (side_px // 3) ** 2
    pixels[inside] = random.integers((90, 40, 120), (150, 90, 200), (int(inside.sum()), 3))
    return pixels


def encoded(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    """The drawn cell, or another picture, as Pillow writes it."""
    file = io.BytesIO()
    (image or Image.fromarray(drawn())).save(file, form, **options)
    return file.getvalue()


@cache
def seeds() -> dict[str, dict[str, bytes]]:
    """For each format, files of the variants that take another way through its decoder."""
    cell = Image.fromarray(drawn())
    palette = cell.convert("P")
    see_through = cell.convert("RGBA")
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "a cell"
    return {
        "BMP": {"24 bits": encoded("BMP"), "palette": encoded("BMP", palette), "one bit": encoded("BMP", cell.convert("1")),
                "run lengths": run_length_bmp(), "five-six-five": masked_bmp()},
        "PNG": {"colour": encoded("PNG"), "palette": encoded("PNG", palette, transparency=3),
                "see-through": encoded("PNG", see_through, exif=turned),
                "frames": encoded("PNG", cell, save_all=True, append_images=[palette.convert("RGB")])},
        "JPEG": {"baseline": encoded("JPEG", exif=turned), "progressive": encoded("JPEG", progressive=True),
                 "grey": encoded("JPEG", cell.convert("L")), "four inks": encoded("JPEG", cell.convert("CMYK"))},
        "TIFF": {"plain": encoded("TIFF"), "LZW": encoded("TIFF", compression="tiff_lzw"),
                 "deflate": encoded("TIFF", compression="tiff_deflate"), "packbits": encoded("TIFF", compression="packbits"),
                 "JPEG": encoded("TIFF", compression="jpeg"), "fax": encoded("TIFF", cell.convert("1"), compression="group4"),
                 "palette": encoded("TIFF", palette),
                 "pages": encoded("TIFF", cell, save_all=True, append_images=[cell])},
        "WEBP": {"lossy": encoded("WEBP"), "lossless": encoded("WEBP", lossless=True),
                 "see-through": encoded("WEBP", see_through, exif=turned),
                 "frames": encoded("WEBP", cell, save_all=True, append_images=[palette.convert("RGB")], duration=9)},
    }  # fmt: skip


def bmp(width: int, height: int, bits: int, data: bytes, *, compression: int = 0, between: bytes = b"") -> bytes:
    """A BMP with the header that it is told to have; `between` is its palette or its masks."""
    start = 54 + len(between)
    header = struct.pack("<2sLHHL", b"BM", start + len(data), 0, 0, start)
    info = struct.pack("<LllHHLLllLL", 40, width, height, 1, bits, compression, len(data), 2835, 2835, 0, 0)
    return header + info + between + data


def run_length_bmp() -> bytes:
    """Eight bits a pixel in run lengths, with a jump and a literal run."""
    palette = b"".join(bytes((level, 255 - level, level // 2, 0)) for level in range(256))
    row = bytes((SIDE_PX // 2, 200, 0, 4, 1, 2, 3, 4, SIDE_PX // 2 - 4, 90, 0, 0))
    return bmp(SIDE_PX, SIDE_PX, 8, row * 40 + bytes((0, 2, 3, 2, 5, 7, 0, 1)), compression=1, between=palette)


def masked_bmp() -> bytes:
    """Sixteen bits a pixel, shared out by masks."""
    masks = struct.pack("<LLL", 0xF800, 0x07E0, 0x001F)
    levels = np.arange(SIDE_PX * SIDE_PX, dtype="<u2") * 27
    return bmp(SIDE_PX, SIDE_PX, 16, levels.tobytes(), compression=3, between=masks)
