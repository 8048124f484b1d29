"""Write a data set of synthetic cells of synthetic subjects in the folder layout of the Kaggle download of C-NMC.

In: PhantomSettings. Out: the root of the data set. Writes: `phantom_C-NMC_Leukemia/` with training, preliminary and
final images (BMP), the preliminary labels (CSV) and SYNTHETIC.json, which says that nothing in it is real.

The set has the traps of the real one: a stain of each subject's own, copies of cells (within a subject, across two
subjects in different folds, under another BMP header), one subject spelt in lower case, a final image that is a padded
training cell, a label without an image, and one truncated file.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

from leukolens.artifacts import Record, hash_json, read_json, write_json, write_text
from leukolens.data.phantom_cells import SubjectTraits, draw_cell, draw_traits
from leukolens.data.preprocessing import Pixels
from leukolens.errors import SettingsError
from leukolens.progress import track
from leukolens.settings import PhantomSettings

ROOT_NAME = "phantom_C-NMC_Leukemia"
MARKER_FILE = "SYNTHETIC.json"
NOTICE = "synthetic phantom cells: no real cell, no patient"
GENERATOR_VERSION = 1  # raise it whenever the same settings give other files

_FOLDS = ("fold_0", "fold_1", "fold_2")
_TRAINING = "training_data"
_PRELIMINARY = "validation_data/C-NMC_test_prelim_phase_data"
_FINAL = "testing_data/C-NMC_test_final_phase_data"
_FINAL_PADDING_PX = 75  # final images are 600 x 600 at the scale of the 450 x 450 training images

# Proportions of C-NMC 2019 (counted from its published files): 26 of 73 training subjects and 3,389 of 10,661 training
# cells are HEM. A small set takes more HEM, so that each side of a split has enough of both classes.
_HEM_SUBJECTS = 26 / 73
_HEM_CELLS = 3_389 / 10_661
_HEM_CELLS_IN_SMALL_SET = 0.36
_SMALL_SET_CELLS = 1_000
# Log-normal spread of the cells per subject: the largest of 73 subjects then has 5 times the mean, as in C-NMC.
_CELLS_PER_SUBJECT_SD = 0.8
_FEWEST_CELLS_PER_SUBJECT = 2
_CELLS_PER_SUBJECT_AT_LEAST = 3  # on average, below which the subjects could not be uneven

_COPIES = 0.01
_FEWEST_COPIES = 3
_PRELIMINARY_CELLS = 0.08
_PRELIMINARY_SUBJECTS = 0.1
_FEWEST_PRELIMINARY_SUBJECTS = 2  # per class
_LOWER_CASE_SUBJECT = "H3"  # C-NMC spells this one subject h3
_SHARE_OF_TRUNCATED_FILE = 0.4

_PIXELS_PER_METRE = 3_780  # 96 dots per inch, the usual filler
_V4_AND_V5_EXTRA = struct.pack("<4I4s36x3I4I", 0xFF0000, 0xFF00, 0xFF, 0, b"BGRs", 0, 0, 0, 4, 0, 0, 0)


@dataclass(frozen=True)
class _Subject:
    """One synthetic subject: `name` is upper-case, `fold` empty outside the training data."""

    name: str
    label: str
    fold: str
    cells: int
    stream: int  # position among all subjects: the random stream of its traits and cells

    @property
    def spelling(self) -> str:
        return self.name.lower() if self.name == _LOWER_CASE_SUBJECT else self.name


@dataclass(frozen=True)
class _Cell:
    """One image: cell `number` (from 1) of `subject`, showing the pixels of `copy_of` where that is given."""

    subject: _Subject
    number: int
    copy_of: _Cell | None = None
    long_header: bool = False

    @property
    def name(self) -> str:
        """File name as in C-NMC: subject, microscope image, cell in that image, class."""
        image, cell = divmod(self.number - 1, 3)
        return f"UID_{self.subject.spelling}_{image + 1}_{cell + 1}_{self.subject.label}.bmp"

    @property
    def training_path(self) -> str:
        return f"{_TRAINING}/{self.subject.fold}/{self.subject.label}/{self.name}"


@dataclass(frozen=True)
class _Plan:
    """All that the settings decide before anything is drawn."""

    training: list[_Cell]
    preliminary: list[_Cell]
    truncated: _Cell
    final: list[_Cell]
    traits: dict[int, SubjectTraits]  # by stream


def phantom(out: Path | str, settings: PhantomSettings = PhantomSettings()) -> Path:  # noqa: B008 - frozen
    """Write `OUT/phantom_C-NMC_Leukemia`, or return it at once where the same settings have written it before.

    The same settings give the same bytes. The folder appears under its name only when it is complete.

    Args:
        out: folder in which the data set's folder is made.
        settings: number of training cells and training subjects, and the seed. The preliminary cells (8 % more), two
            final cells and one truncated file come on top.

    Returns:
        The root of the data set, to be passed to `leukolens index`.

    Raises:
        SettingsError: too few cells for the subjects, a negative seed, `out` is a file, or the folder exists and holds
            anything else than the set that these settings make.
    """
    _check(Path(out), settings)
    root = Path(out) / ROOT_NAME
    if root.exists():
        _check_same(root, settings)
        return root
    plan = _plan(settings)
    with _atomic_folder(root) as folder:
        _write_images(folder, plan, settings.seed)
        _write_preliminary_labels(folder, plan.preliminary)
        write_json(folder / MARKER_FILE, _marker(folder, settings))
    return root


def encode_bmp(pixels: Pixels, *, long_header: bool = False) -> bytes:
    """Encode uint8 [height, width, 3] RGB as a 24-bit BMP.

    `long_header` chooses BITMAPV5HEADER (138 bytes before the pixels) over BITMAPINFOHEADER (54 bytes); C-NMC has both.
    """
    height, width = pixels.shape[:2]
    padding = -width * 3 % 4  # rows are padded to 4 bytes and stored from the bottom up, blue first
    body = np.pad(pixels[::-1, :, ::-1].reshape(height, width * 3), ((0, 0), (0, padding))).tobytes()
    extra = _V4_AND_V5_EXTRA if long_header else b""
    start = 54 + len(extra)
    file_header = struct.pack("<2sI4xI", b"BM", start + len(body), start)
    size = (40 + len(extra), width, height, 1, 24, 0, len(body), _PIXELS_PER_METRE, _PIXELS_PER_METRE, 0, 0)
    return file_header + struct.pack("<I2i2H2I2i2I", *size) + extra + body


def _check(out: Path, settings: PhantomSettings) -> None:
    if settings.cells < _CELLS_PER_SUBJECT_AT_LEAST * settings.subjects:
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


def _check_same(root: Path, settings: PhantomSettings) -> None:
    """Raise unless `root` is exactly what these settings write, by its marker and the names and sizes of its files."""
    if not (root / MARKER_FILE).is_file():
        received = f"a folder without {MARKER_FILE}"
    elif (found := read_json(root / MARKER_FILE)) == _marker(root, settings):
        return
    elif not isinstance(found, dict) or found.get("settings") != settings.model_dump():
        received = f"another phantom: {found.get('settings') if isinstance(found, dict) else found}"
    else:
        received = "a phantom of these settings whose files were changed or that another version wrote"
    raise SettingsError(
        f"{root} exists already.",
        expected=f"nothing there, or the phantom of {settings.model_dump()}",
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
        "settings": settings.model_dump(),
        "files": len(listing),
        "listing_hash": hash_json(listing),
    }


def _plan(settings: PhantomSettings) -> _Plan:
    random = np.random.default_rng([settings.seed, 0])
    training = _training_subjects(settings, random)
    preliminary = _preliminary_subjects(settings, training, random)
    known = training + preliminary
    unseen = _Subject(str(sum(s.label == "all" for s in known) + 1), "all", fold="", cells=1, stream=len(known))
    cells = _plant_copies([_Cell(s, k + 1) for s in training for k in range(s.cells)], random)
    victim = next(s for s in training if s.label == "all" and s.fold == _FOLDS[0])  # gets one file too many
    traits: dict[int, SubjectTraits] = {}
    for subjects in (training, preliminary, [unseen]):
        traits |= _traits(subjects, settings.seed)
    shuffled = random.permutation(np.array([(s, k + 1) for s in preliminary for k in range(s.cells)], dtype=object))
    return _Plan(
        training=cells,
        preliminary=[_Cell(subject, number) for subject, number in shuffled],
        truncated=_Cell(victim, victim.cells + 1),
        final=[next(cell for cell in cells if cell.subject.label == "all"), _Cell(unseen, 1)],
        traits=traits,
    )


def _training_subjects(settings: PhantomSettings, random: np.random.Generator) -> list[_Subject]:
    """ALL subjects 1…n and HEM subjects H1…m, each in one fold."""
    hem_subjects = round(settings.subjects * _HEM_SUBJECTS)
    counts = {"all": settings.subjects - hem_subjects, "hem": hem_subjects}
    subjects: list[_Subject] = []
    for label, cells in _cells_per_class(settings.cells).items():
        per_subject = _cells_per_subject(cells, counts[label], random)
        folds = _balanced_folds(per_subject)
        for number, (share, fold) in enumerate(zip(per_subject, folds, strict=True), start=1):
            subjects.append(_Subject(_subject_name(label, number), label, fold, share, len(subjects)))
    return subjects


def _preliminary_subjects(
    settings: PhantomSettings, training: list[_Subject], random: np.random.Generator
) -> list[_Subject]:
    subjects: list[_Subject] = []
    for label, cells in _cells_per_class(round(settings.cells * _PRELIMINARY_CELLS)).items():
        of_class = sum(subject.label == label for subject in training)
        count = max(_FEWEST_PRELIMINARY_SUBJECTS, round(of_class * _PRELIMINARY_SUBJECTS))
        per_subject = _cells_per_subject(max(cells, count * _FEWEST_CELLS_PER_SUBJECT), count, random)
        for number, share in enumerate(per_subject, start=of_class + 1):
            stream = len(training) + len(subjects)
            subjects.append(_Subject(_subject_name(label, number), label, "", share, stream))
    return subjects


def _subject_name(label: str, number: int) -> str:
    return f"H{number}" if label == "hem" else str(number)


def _cells_per_class(cells: int) -> dict[str, int]:
    hem = round(cells * (_HEM_CELLS_IN_SMALL_SET if cells < _SMALL_SET_CELLS else _HEM_CELLS))
    return {"all": cells - hem, "hem": hem}


def _cells_per_subject(cells: int, subjects: int, random: np.random.Generator) -> list[int]:
    """Uneven shares that sum to `cells`: a few large subjects, many small ones, none below the fewest allowed."""
    weights = np.exp(_CELLS_PER_SUBJECT_SD * _even_normal_scores(subjects, random))
    spare = cells - _FEWEST_CELLS_PER_SUBJECT * subjects
    edges = np.rint(np.cumsum(weights) / weights.sum() * spare).astype(int)
    return [int(extra) + _FEWEST_CELLS_PER_SUBJECT for extra in np.diff(edges, prepend=0)]


def _even_normal_scores(count: int, random: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The `count` mid-quantiles of the standard normal in random order: a small set is as spread as a large one."""
    quantiles = [NormalDist().inv_cdf((rank + 0.5) / count) for rank in range(count)]
    return random.permutation(np.array(quantiles))


def _balanced_folds(cells: list[int]) -> list[str]:
    """Give each subject, largest first, to the fold with the fewest cells so far."""
    loads = dict.fromkeys(_FOLDS, 0)
    folds = [""] * len(cells)
    for position in sorted(range(len(cells)), key=lambda index: -cells[index]):
        folds[position] = min(loads, key=lambda name: loads[name])
        loads[folds[position]] += cells[position]
    return folds


def _traits(subjects: list[_Subject], seed: int) -> dict[int, SubjectTraits]:
    traits: dict[int, SubjectTraits] = {}
    for label in ("all", "hem"):
        of_class = [subject for subject in subjects if subject.label == label]
        if not of_class:
            continue
        random = np.random.default_rng([seed, 1, of_class[0].stream])
        sizes, chromatin_scores = (_even_normal_scores(len(of_class), random) for _ in range(2))
        for subject, size, chromatin in zip(of_class, sizes, chromatin_scores, strict=True):
            traits[subject.stream] = draw_traits(label, (float(size), float(chromatin)), random)
    return traits


def _plant_copies(cells: list[_Cell], random: np.random.Generator) -> list[_Cell]:
    """Turn about 1 % of the cells, at least three, into copies of other cells of the same class.

    In turn: across two linked subjects, within a subject, within a subject under the long BMP header. Copies take even
    cell numbers and originals odd ones, so that no copy is copied.
    """
    wanted = max(_FEWEST_COPIES, round(len(cells) * _COPIES))
    across = _across_subjects(cells)[: math.ceil(wanted / 3)]
    taken = {(copy.subject, copy.number) for copy in across}
    by_place = {(cell.subject, cell.number): cell for cell in cells}
    free = [cell for cell in cells if cell.number % 2 == 0 and (cell.subject, cell.number) not in taken]
    chosen = sorted(random.choice(len(free), wanted - len(across), replace=False).tolist())
    within = [
        replace(free[place], copy_of=by_place[free[place].subject, free[place].number - 1], long_header=turn % 2 == 1)
        for turn, place in enumerate(chosen)
    ]
    copies = {(copy.subject, copy.number): copy for copy in across + within}
    return [copies.get((cell.subject, cell.number), cell) for cell in cells]


def _across_subjects(cells: list[_Cell]) -> list[_Cell]:
    """Copies of one ALL subject's cells in another of a different fold: two of middling size, one pair only.

    One pair, because each pair merges two subjects into one group, and a small set can't spare many.
    """
    of_class = {cell.subject for cell in cells if cell.subject.label == "all"}
    subjects = sorted(of_class, key=lambda subject: (subject.cells, subject.stream))
    middle = subjects[len(subjects) // 2]
    nearest_first = sorted(subjects, key=lambda subject: (abs(subject.cells - middle.cells), subject.stream))
    source = next(subject for subject in nearest_first if subject.fold != middle.fold)
    numbers = range(2, min(middle.cells, source.cells) + 1, 2)
    return [_Cell(middle, number, copy_of=_Cell(source, number - 1)) for number in numbers]


def _write_images(folder: Path, plan: _Plan, seed: int) -> None:
    def draw(cell: _Cell) -> Pixels:
        shown = cell.copy_of or cell
        random = np.random.default_rng([seed, 2, shown.subject.stream, shown.number])
        return draw_cell(plan.traits[shown.subject.stream], random)

    total = len(plan.training) + len(plan.preliminary) + len(plan.final) + 1
    for path, content in track(_images(plan, draw), "drawing phantom cells", total):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _images(plan: _Plan, draw: Callable[[_Cell], Pixels]) -> Iterator[tuple[str, bytes]]:
    """Every image file of the set: path below the root and bytes."""
    for cell in plan.training:
        yield cell.training_path, encode_bmp(draw(cell), long_header=cell.long_header)
    whole = encode_bmp(draw(plan.truncated))
    yield plan.truncated.training_path, whole[: int(len(whole) * _SHARE_OF_TRUNCATED_FILE)]
    for number, cell in enumerate(plan.preliminary, start=1):
        yield f"{_PRELIMINARY}/{number}.bmp", encode_bmp(draw(cell))
    for number, cell in enumerate(plan.final, start=1):
        margins = ((_FINAL_PADDING_PX, _FINAL_PADDING_PX), (_FINAL_PADDING_PX, _FINAL_PADDING_PX), (0, 0))
        yield f"{_FINAL}/{number}.bmp", encode_bmp(np.pad(draw(cell), margins))


def _write_preliminary_labels(folder: Path, cells: list[_Cell]) -> None:
    """Write the CSV beside the preliminary images, in C-NMC's columns, with a last row that has no image."""
    subject = cells[0].subject
    rows = [*cells, _Cell(subject, subject.cells + 1)]
    lines = [
        f"{cell.name},{number}.bmp,{int(cell.subject.label == 'all')}" for number, cell in enumerate(rows, start=1)
    ]
    write_text(folder / f"{_PRELIMINARY}_labels.csv", "\n".join(["Patient_ID,new_names,labels", *lines]) + "\n")


@contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; rename it when the block ends well, delete it when not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
