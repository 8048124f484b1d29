"""Files that are two things at once, or another thing than their name says.

In: nothing. Out: cases of the kind "polyglot or disguise". Writes: nothing.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator

from PIL import Image

from hostile_corpus.case import REFUSED, SCORED, WITHOUT_SCORE, Case, Good, Sandbox, file_case, predict
from hostile_corpus.code import Payload, script
from hostile_corpus.pictures import bmp, drawn, encoded

_KIND = "polyglot or disguise"


def polyglot_cases() -> Iterator[Case]:
    """Each is read as what its bytes are, if that is one of the five formats, and as nothing else."""
    files: dict[str, tuple[str, Callable[[], bytes]]] = {
        "PNG and zip, named as image": ("a.png", lambda: encoded("PNG") + _zip()),
        "zip and PNG, named as image": ("a.png", lambda: _zip() + encoded("PNG")),
        "PNG and zip, named as zip": ("a.zip", lambda: encoded("PNG") + _zip()),
        "GIF and HTML": ("a.png", lambda: b"GIF89a/*" + encoded("GIF")[8:] + b"*/=1;<script>alert(1)</script>"),
        "GIF": ("a.bmp", lambda: encoded("GIF", Image.fromarray(drawn()).convert("P"))),
        "JPEG and HTML": ("a.jpg", lambda: encoded("JPEG", comment=b"<html><script>alert(1)</script>")),
        "BMP and script": ("a.bmp", lambda: bmp(42, 8, 24, b"/*" + bytes(1100) + b"*/=1;alert(1)")),
        "PDF and JPEG": ("a.jpg", lambda: encoded("JPEG", comment=b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript>>>>")),
        "PDF": ("a.png", lambda: b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj"),
        "PostScript": ("a.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n"),
        "SVG with an external entity": ("a.png", lambda: b'<!DOCTYPE s [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>'),
        "SVG with a billion laughs": ("a.png", _laughing_svg),
        "TIFF named PNG": ("a.png", lambda: encoded("TIFF")),
        "PNG named JPEG": ("a.jpg", lambda: encoded("PNG")),
        "PNG without a suffix": ("a", lambda: encoded("PNG")),
        "ICO": ("a.png", lambda: encoded("ICO")),
        "PSD": ("a.png", lambda: b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x30\0\0\0\x30\0\x08\0\3" + bytes(9000)),
        "MPO, two JPEGs in one": ("a.jpg", lambda: encoded("MPO", save_all=True, append_images=[Image.fromarray(drawn())])),
        "JPEG 2000": ("a.jpg", lambda: encoded("JPEG2000")),
        "WMF": ("a.bmp", lambda: b"\xd7\xcd\xc6\x9a" + bytes(200)),
        "FLI": ("a.bmp", lambda: b"\0\0\1\0\x12\xaf" + bytes(300)),
        "XBM": ("a.bmp", lambda: b"#define a_width 9999\n#define a_height 9999\nstatic char a_bits[] = {0x00};"),
        "HDF5": ("a.tif", lambda: b"\x89HDF\r\n\x1a\n" + bytes(500)),
        "gzip of a PNG": ("a.png", lambda: gzip.compress(encoded("PNG"), mtime=0)),
        "tar of a PNG": ("a.png", _tar),
        "ELF program": ("a.png", lambda: b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\x3e\0" + bytes(400)),
        "empty": ("a.png", lambda: b""),
        "one byte": ("a.png", lambda: b"B"),
        "signature alone, PNG": ("a.png", lambda: b"\x89PNG\r\n\x1a\n"),
        "signature alone, TIFF": ("a.tif", lambda: b"II*\0"),
        "signature alone, WebP": ("a.webp", lambda: b"RIFF\0\0\0\0WEBP"),
        "16 MiB and a byte of one letter": ("a.png", lambda: b"A" * ((16 << 20) + 1)),
    }  # fmt: skip
    for name, (file_name, data) in files.items():
        yield file_case(_KIND, name, file_name, data, (SCORED, WITHOUT_SCORE))
    for name, file_name, make in (
        ("pickle with code, named as image", "a.png", pickle.dumps),
        ("pickle with code, named as zip", "a.zip", pickle.dumps),
        ("archive of PyTorch with code, named as image", "a.png", _torch_archive),
        ("archive of PyTorch with code, named as zip", "a.zip", _torch_archive),
        ("Python with code, named as image", "a.png", script),
    ):
        yield _with_code(name, file_name, make)


def _with_code(name: str, file_name: str, make: Callable[[Payload], bytes]) -> Case:
    """The code would write this sandbox's canary; a zip without an image in it has nothing that could be scored."""

    def prepare(sandbox: Sandbox, good: Good) -> list[str]:
        path = sandbox.inputs / file_name
        path.write_bytes(make(Payload(sandbox.canary)))
        return predict(good.run, [str(path)], sandbox)

    return Case(_KIND, name, prepare, frozenset({WITHOUT_SCORE, REFUSED}))


def _torch_archive(payload: Payload) -> bytes:
    """A zip as torch.save writes it, whose pickle is code."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(payload, protocol=2))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inside.png", encoded("PNG"))
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("../../outside.png")
        data = encoded("PNG")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _laughing_svg() -> bytes:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    return f'<!DOCTYPE s [<!ENTITY l0 "ha">{entities}]><svg>&l11;</svg>'.encode()
