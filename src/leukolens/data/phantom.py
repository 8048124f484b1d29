"""Write a data set of synthetic cells of synthetic subjects in the folder layout of the Kaggle download of C-NMC.

In: PhantomSettings. Out: the root of the data set. Writes: `phantom_C-NMC_Leukemia/` with training, preliminary and
final images (BMP), the preliminary labels (CSV) and SYNTHETIC.json, which says that nothing in it is real.

Which cells there are, `data/phantom_plan.py` decides; how one is drawn, `data/phantom_cells.py`.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from leukolens.artifacts import Record, hash_json, read_json, write_json, write_text
from leukolens.data.phantom_cells import CANVAS_PX, draw_cell
from leukolens.data.phantom_plan import Cell, Plan, plan
from leukolens.data.preprocessing import Pixels
from leukolens.errors import SettingsError
from leukolens.partials import partial_path
from leukolens.progress import track
from leukolens.settings import PhantomSettings

ROOT_NAME = "phantom_C-NMC_Leukemia"
MARKER_FILE = "SYNTHETIC.json"
NOTICE = "synthetic phantom cells: no real cell, no patient"
GENERATOR_VERSION = 1  # raise it whenever the same settings give other files

_PRELIMINARY = "validation_data/C-NMC_test_prelim_phase_data"
_FINAL = "testing_data/C-NMC_test_final_phase_data"
_FINAL_PADDING_PX = 75  # final images are 600 x 600 at the scale of the 450 x 450 training images
_CELLS_PER_SUBJECT_AT_LEAST = 3  # on average, below which the subjects could not be uneven
_SHARE_OF_TRUNCATED_FILE = 0.4

_PIXELS_PER_METRE = 3_780  # 96 dots per inch, the usual filler
_V4_AND_V5_EXTRA = struct.pack("<4I4s36x3I4I", 0xFF0000, 0xFF00, 0xFF, 0, b"BGRs", 0, 0, 0, 4, 0, 0, 0)


def phantom(out: Path | str, settings: PhantomSettings = PhantomSettings()) -> Path:  # noqa: B008 - frozen
    """Write `OUT/phantom_C-NMC_Leukemia`, or return it at once where the same settings have written it before.

    The same settings give the same bytes. The folder appears under its name only when it is complete.

    Args:
        out: folder in which the data set's folder is made.
        settings: number of training cells and training subjects, or the published set that it is to be like, and the
            seed. A set like none has preliminary cells (8 % more), two final cells and one truncated file on top.

    Returns:
        The root of the data set, to be passed to `leukolens index`.

    Raises:
        SettingsError: too few cells for the subjects, a negative seed, `out` is a file or lies where there is too little
            room, or the folder exists and holds anything else than the set that these settings make.
    """
    _check(Path(out), settings)
    root = Path(out) / ROOT_NAME
    if root.exists():
        _check_same(root, settings)
        return root
    planned = plan(settings)
    with _atomic_folder(root) as folder:
        _check_room(folder, planned)
        _write_images(folder, planned, settings.seed)
        _write_preliminary_labels(folder, planned)
        write_json(folder / MARKER_FILE, _marker(folder, settings))
    return root


def encode_bmp(pixels: Pixels, *, long_header: bool = False) -> bytes:
    """Encode uint8 [height, width, 3] RGB as a 24-bit BMP.

    `long_header` chooses BITMAPV5HEADER (138 bytes before the pixels) over BITMAPINFOHEADER (54 bytes); C-NMC has both.
    """
    height, width = pixels.shape[:2]
    padding = _row_bytes(width) - width * 3  # rows are stored from the bottom up, blue first
    body = np.pad(pixels[::-1, :, ::-1].reshape(height, width * 3), ((0, 0), (0, padding))).tobytes()
    extra = _V4_AND_V5_EXTRA if long_header else b""
    start = 54 + len(extra)
    file_header = struct.pack("<2sI4xI", b"BM", start + len(body), start)
    size = (40 + len(extra), width, height, 1, 24, 0, len(body), _PIXELS_PER_METRE, _PIXELS_PER_METRE, 0, 0)
    return file_header + struct.pack("<I2i2H2I2i2I", *size) + extra + body


def _check(out: Path, settings: PhantomSettings) -> None:
    if settings.like is None and settings.cells < _CELLS_PER_SUBJECT_AT_LEAST * settings.subjects:
        raise SettingsError(
            "The phantom has too few cells for its subjects.",
            expected=f"at least {_CELLS_PER_SUBJECT_AT_LEAST} cells per subject",
            received=f"{settings.cells} cells of {settings.subjects} subjects",
            remedy="ask for more cells or fewer subjects",
        )
    if settings.seed < 0:
        raise SettingsError(
            "The phantom's seed cannot be used.",
            expected="a whole number from 0",
            received=str(settings.seed),
            remedy="pass a seed of 0 or more",
        )
    if out.exists() and not out.is_dir():
        raise SettingsError(
            f"{out} cannot hold the phantom.",
            expected="a folder, or a path where one can be made",
            received="a file",
            remedy="pass a folder",
        )


def _check_room(folder: Path, planned: Plan) -> None:
    """Raise where the set would not fit: one like C-NMC 2019 takes 10.4 GB."""
    needed = _bytes_of(planned)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SettingsError(
            f"{folder.parent} has too little room for the phantom.",
            expected=f"{needed / 1e9:.1f} GB free",
            received=f"{free / 1e9:.1f} GB free",
            remedy="make room, or write to another disk",
        )


def _bytes_of(planned: Plan) -> int:
    """Bytes of all images, but for their headers."""
    sides_px = ((len(planned.training) + len(planned.preliminary), CANVAS_PX),
                (len(planned.final), CANVAS_PX + 2 * _FINAL_PADDING_PX))  # fmt: skip
    return sum(images * side_px * _row_bytes(side_px) for images, side_px in sides_px)


def _row_bytes(width_px: int) -> int:
    """Bytes of one row of a 24-bit BMP: padded to a multiple of 4."""
    return width_px * 3 + -width_px * 3 % 4


def _said(settings: PhantomSettings) -> Record:
    """The settings that decide: cells and subjects, or the published set."""
    names = ("cells", "subjects", "seed") if settings.like is None else ("like", "seed")
    return settings.model_dump(include=set(names))


def _in_words(said: object) -> str:
    return ", ".join(f"{name} {value}" for name, value in said.items()) if isinstance(said, dict) else str(said)


def _check_same(root: Path, settings: PhantomSettings) -> None:
    """Raise unless `root` is exactly what these settings write, by its marker and the names and sizes of its files."""
    if not (root / MARKER_FILE).is_file():
        received = f"a folder without {MARKER_FILE}"
    elif (found := read_json(root / MARKER_FILE)) == _marker(root, settings):
        return
    elif not isinstance(found, dict) or found.get("settings") != _said(settings):
        received = f"another phantom: {_in_words(found.get('settings')) if isinstance(found, dict) else found}"
    else:
        received = "a phantom of these settings whose files were changed or that another version wrote"
    raise SettingsError(
        f"{root} exists already.",
        expected=f"nothing there, or the phantom of {_in_words(_said(settings))}",
        received=received,
        remedy="write to another folder, or move this one away",
    )


def _marker(folder: Path, settings: PhantomSettings) -> Record:
    """The content of SYNTHETIC.json for the files that stand in `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER_FILE)
    listing = [[path.relative_to(folder).as_posix(), path.stat().st_size] for path in files]
    return {
        "notice": NOTICE,
        "generator": "leukolens phantom",
        "version": GENERATOR_VERSION,
        "seed": settings.seed,
        "settings": _said(settings),
        "files": len(listing),
        "listing_hash": hash_json(listing),
    }


def _write_images(folder: Path, planned: Plan, seed: int) -> None:
    def draw(cell: Cell) -> Pixels:
        shown = cell.copy_of or cell
        random = np.random.default_rng([seed, 2, shown.subject.stream, shown.number])
        return draw_cell(planned.traits[shown.subject.stream], random)

    total = len(planned.training) + len(planned.preliminary) + len(planned.final) + (planned.truncated is not None)
    for path, content in track(_images(planned, draw), "drawing phantom cells", total):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _images(planned: Plan, draw: Callable[[Cell], Pixels]) -> Iterator[tuple[str, bytes]]:
    """Every image file of the set: path below the root and bytes."""
    for cell in planned.training:
        yield cell.training_path, encode_bmp(draw(cell), long_header=cell.long_header)
    if planned.truncated is not None:
        whole = encode_bmp(draw(planned.truncated))
        yield planned.truncated.training_path, whole[: int(len(whole) * _SHARE_OF_TRUNCATED_FILE)]
    for number, cell in enumerate(planned.preliminary, start=1):
        yield f"{_PRELIMINARY}/{number}.bmp", encode_bmp(draw(cell), long_header=cell.long_header)
    for number, cell in enumerate(planned.final, start=1):
        margins = ((_FINAL_PADDING_PX, _FINAL_PADDING_PX), (_FINAL_PADDING_PX, _FINAL_PADDING_PX), (0, 0))
        yield f"{_FINAL}/{number}.bmp", encode_bmp(np.pad(draw(cell), margins))


def _write_preliminary_labels(folder: Path, planned: Plan) -> None:
    """Write the CSV beside the preliminary images, in C-NMC's columns; a small set has a last row without an image."""
    rows = [*planned.preliminary, *([planned.label_without_image] if planned.label_without_image else [])]
    lines = [
        f"{cell.name},{number}.bmp,{int(cell.subject.label == 'all')}" for number, cell in enumerate(rows, start=1)
    ]
    write_text(folder / f"{_PRELIMINARY}_labels.csv", "\n".join(["Patient_ID,new_names,labels", *lines]) + "\n")


@contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; rename it when the block ends well, delete it when not."""
    temporary = partial_path(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
