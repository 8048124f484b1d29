"""Coverage-guided fuzzing of the decoder and of the archive reader, by atheris (libFuzzer for Python).

In: the seeds of `pictures.py`, or of `zips.py`. Out: cases of the kind "found by coverage". Writes: a folder with every input
that reached code which no input before had reached, found again from the same seed.

Every other mutation is libFuzzer's own; the rest are those of `headers.py`, so that check sums and lengths do not keep it out.
What is measured is the coverage of the Python code (Pillow's readers, zipfile, leukolens); the libraries in C behind Pillow
are not instrumented, so the search is blind to what is reached in them. An exception other than ImageError stops the search
and is a finding.

    python benchmarks/hostile_corpus/guided.py FOLDER --runs 20000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile_corpus.case import REFUSED, SCORED, WITHOUT_SCORE, Case, file_case
from hostile_corpus.headers import ANATOMIES, mutated
from hostile_corpus.pictures import seeds
from hostile_corpus.zips import packed

_KIND = "found by coverage"
_MAX_PIXELS = 1_000_000
_MAX_BYTES = 40_000
_ZIP = b"PK"
_FORMATS = {b"BM": "BMP", b"\x89P": "PNG", b"\xff\xd8": "JPEG", b"II": "TIFF", b"MM": "TIFF", b"RI": "WEBP"}
_INSTRUMENTED = ["PIL", "zipfile", "leukolens.data.preprocessing", "leukolens.data.trimmed", "leukolens.prediction.archives"]


def search(folder: Path, runs: int, seed: int) -> None:
    """Fill `folder` by a search in a process of its own; raises CalledProcessError, its input in the folder, on a finding."""
    command = [sys.executable, __file__, str(folder), "--runs", str(runs), "--seed", str(seed)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def guided_cases(folder: Path) -> Iterator[Case]:
    """What a search has found, the seeds left out."""
    known = set(_seeds())
    for number, path in enumerate(sorted(each for each in folder.rglob("*") if each.is_file())):
        data = path.read_bytes()
        if data in known:
            continue
        suffix = "zip" if data.startswith(_ZIP) else "png"
        yield file_case(
            _KIND, f"{number} {path.name[:12]}", f"a.{suffix}", lambda data=data: data, (SCORED, WITHOUT_SCORE, REFUSED)
        )


def _seeds() -> list[bytes]:
    pictures = [data for variants in seeds().values() for data in variants.values()]
    return [*pictures, packed(("a.png", pictures[0]), ("b/c.bmp", pictures[1]))]


def _fuzz(folder: Path, runs: int, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from leukolens.data import preprocessing
        from leukolens.errors import ImageError
        from leukolens.prediction import archives

    for number, data in enumerate(_seeds()):
        (folder / f"seed{number}").write_bytes(data)
    place = Path(tempfile.mkdtemp()) / "a.zip"

    def read(data: bytes) -> None:
        try:
            if data.startswith(_ZIP):
                place.write_bytes(data)
                _read_archive(archives.Archive(place, "a.zip"), ImageError)
            else:
                preprocessing.read_encoded(data, Path("a"), _MAX_PIXELS)
        except ImageError:
            return

    def mutate(data: bytes, max_size: int, chance: int) -> bytes:
        return _mutate(data, random.Random(chance), lambda: atheris.Mutate(data, max_size))[:max_size]  # noqa: S311

    options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={_MAX_BYTES}", "-timeout=30", "-rss_limit_mb=4096",
               f"-artifact_prefix={folder}/finding-"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(folder)], read, custom_mutator=mutate)
    atheris.Fuzz()


def _read_archive(archive: object, refused: type[Exception]) -> None:
    try:
        for member in archive.members():  # type: ignore[attr-defined]
            try:
                member.read(_MAX_PIXELS)
            except refused:
                continue
    finally:
        archive.close()  # type: ignore[attr-defined]


def _mutate(data: bytes, chance: random.Random, blindly: Callable[[], bytes]) -> bytes:
    form = _FORMATS.get(bytes(data[:2]))
    if form is None or chance.random() < 0.5:
        return blindly()
    try:
        return mutated(form, bytes(data), chance)
    except (IndexError, ValueError, OverflowError, KeyError, LookupError):
        # Too damaged for its parts to be told apart.
        return blindly() if ANATOMIES else data


def main() -> None:
    """Search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    _fuzz(options.folder, options.runs, options.seed)


if __name__ == "__main__":
    main()
