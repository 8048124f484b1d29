"""Decide which synthetic cells of which synthetic subjects there are, before anything is drawn.

In: PhantomSettings, or the composition of a published set. Out: a `Plan`: every image with its subject, its name, and the
cell that it shows. Writes: nothing; `data/phantom.py` draws and writes what is planned.

A small set has the traps of the real one in few cells: uneven subjects, copies of cells (within a subject, across two
subjects in different folds, under another BMP header), one subject spelt in lower case, a final image that is a padded
training cell, a label without an image, and one truncated file. A set `like` a published one has exactly its cells per
subject, its shared cells, and no damaged file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from leukolens.data.cnmc_2019 import ALL, C_NMC_2019, HEM, Composition, class_of
from leukolens.data.phantom_cells import SubjectTraits, draw_traits
from leukolens.settings import PhantomSettings

TRAINING_FOLDER = "training_data"
COMPOSITIONS: Mapping[str, Composition] = {"c-nmc-2019": C_NMC_2019}

_FOLDS = ("fold_0", "fold_1", "fold_2")

# Proportions of C-NMC 2019 (counted from its published files): 26 of 73 training subjects and 3,389 of 10,661 training
# cells are HEM. A small set takes more HEM, so that each side of a split has enough of both classes.
_HEM_SUBJECTS = 26 / 73
_HEM_CELLS = 3_389 / 10_661
_HEM_CELLS_IN_SMALL_SET = 0.36
_SMALL_SET_CELLS = 1_000
# Log-normal spread of the cells per subject: the largest of 73 subjects then has 5 times the mean, as in C-NMC.
_CELLS_PER_SUBJECT_SD = 0.8
_FEWEST_CELLS_PER_SUBJECT = 2

_COPIES = 0.01
_FEWEST_COPIES = 3
_PRELIMINARY_CELLS = 0.08
_PRELIMINARY_SUBJECTS = 0.1
_FEWEST_PRELIMINARY_SUBJECTS = 2  # per class
_LOWER_CASE_SUBJECT = "H3"  # C-NMC spells this one subject h3
_CELLS_PER_IMAGE = 3
# The published name of the training cell that is also a final image, UID_51_147_4, says that an image can have four.
_CELLS_PER_IMAGE_OF_PUBLISHED_SET = 5


@dataclass(frozen=True)
class Subject:
    """One synthetic subject: `name` is upper-case, `fold` empty outside the training data."""

    name: str
    label: str
    fold: str
    cells: int
    stream: int  # position among all subjects: the random stream of its traits and cells
    cells_per_image: int = _CELLS_PER_IMAGE

    @property
    def spelling(self) -> str:
        """Its id as file names have it."""
        return self.name.lower() if self.name == _LOWER_CASE_SUBJECT else self.name


@dataclass(frozen=True)
class Cell:
    """One image: cell `number` (from 1) of `subject`, showing the pixels of `copy_of` where that is given."""

    subject: Subject
    number: int
    copy_of: Cell | None = None
    long_header: bool = False

    @property
    def name(self) -> str:
        """File name as in C-NMC: subject, microscope image, cell in that image, class."""
        image, cell = divmod(self.number - 1, self.subject.cells_per_image)
        return f"UID_{self.subject.spelling}_{image + 1}_{cell + 1}_{self.subject.label}.bmp"

    @property
    def training_path(self) -> str:
        """Path of a training image below the data set's root."""
        return f"{TRAINING_FOLDER}/{self.subject.fold}/{self.subject.label}/{self.name}"


@dataclass(frozen=True)
class Plan:
    """All that is decided before anything is drawn.

    `training`, `preliminary` and `final` in the order of their files. `truncated`: a training file that is cut short.
    `label_without_image`: a row of the label table. `traits`: of each subject, by its stream.
    """

    training: list[Cell]
    preliminary: list[Cell]
    final: list[Cell]
    traits: dict[int, SubjectTraits]
    truncated: Cell | None = None
    label_without_image: Cell | None = None


def plan(settings: PhantomSettings) -> Plan:
    """Plan the set that the settings ask for; the same settings give the same plan."""
    if settings.like is None:
        return _plan_small(settings)
    return plan_like(COMPOSITIONS[settings.like], settings.seed)


def plan_like(composition: Composition, seed: int) -> Plan:
    """Plan a set of exactly this composition; traits, order of the preliminary images and final cells hang on the seed."""
    random = np.random.default_rng([seed, 0])
    training = _published_subjects(composition.training, first_stream=0)
    preliminary = _published_subjects({"": composition.preliminary}, first_stream=len(training))
    final = _final_subjects(composition, len(training) + len(preliminary), random)
    copies = {(copy.subject.name, copy.number): copy for copy in _shared_copies(composition, training)}
    cells = [copies.get((s.name, k + 1), Cell(s, k + 1)) for s in training for k in range(s.cells)]
    traits: dict[int, SubjectTraits] = {}
    for subjects in (training, preliminary, final):
        traits |= _traits(subjects, seed)
    return Plan(
        training=cells,
        # All published preliminary files have the long header, all training files the short one.
        preliminary=[replace(cell, long_header=True) for cell in _shuffled(preliminary, random)],
        final=_final_cells(composition, cells, _shuffled(final, random)),
        traits=traits,
    )


def _published_subjects(cells: Mapping[str, Mapping[str, int]], first_stream: int) -> list[Subject]:
    """Give the subjects of each fold, ids and counts as published."""
    named = [(name, fold, count) for fold, subjects in cells.items() for name, count in subjects.items()]
    return [
        Subject(name, class_of(name).lower(), fold, count, stream, _CELLS_PER_IMAGE_OF_PUBLISHED_SET)
        for stream, (name, fold, count) in enumerate(named, start=first_stream)
    ]


def _final_subjects(composition: Composition, first_stream: int, random: np.random.Generator) -> list[Subject]:
    """Give subjects of the final cells, with the training's share of each class; their names appear nowhere."""
    hem = round(composition.final * _HEM_CELLS)
    subjects: list[Subject] = []
    for label, cells in ((ALL, composition.final - hem), (HEM, hem)):
        for share in _cells_per_subject(cells, composition.final_subjects[label], random):
            stream = first_stream + len(subjects)
            subjects.append(Subject(f"final{len(subjects)}", label.lower(), "", share, stream))
    return subjects


def _shared_copies(composition: Composition, subjects: list[Subject]) -> Iterator[Cell]:
    """Give the cells that show another subject's: each subject's first numbers that are not yet taken, once each."""
    by_name = {subject.name: subject for subject in subjects}
    taken: Counter[str] = Counter()
    for source, target, count in composition.shared:
        originals = range(taken[source] + 1, taken[source] + count + 1)
        taken[source] += count
        for original in originals:
            taken[target] += 1
            yield Cell(by_name[target], taken[target], copy_of=Cell(by_name[source], original))


def _final_cells(composition: Composition, training: list[Cell], drawn: list[Cell]) -> list[Cell]:
    """Put the padded training cell first, and the same cell on both numbers of each pair."""
    name, image, cell = composition.padded
    number = (image - 1) * _CELLS_PER_IMAGE_OF_PUBLISHED_SET + cell
    padded = next(each for each in training if (each.subject.name, each.number) == (name, number))
    cells = [padded, *drawn[1:]]
    for first, second in composition.final_pairs:
        cells[second - 1] = cells[first - 1]
    return cells


def _plan_small(settings: PhantomSettings) -> Plan:
    random = np.random.default_rng([settings.seed, 0])
    training = _training_subjects(settings, random)
    preliminary = _preliminary_subjects(settings, training, random)
    known = training + preliminary
    unseen = Subject(str(sum(s.label == "all" for s in known) + 1), "all", fold="", cells=1, stream=len(known))
    cells = _plant_copies([Cell(s, k + 1) for s in training for k in range(s.cells)], random)
    victim = next(s for s in training if s.label == "all" and s.fold == _FOLDS[0])  # gets one file too many
    traits: dict[int, SubjectTraits] = {}
    for subjects in (training, preliminary, [unseen]):
        traits |= _traits(subjects, settings.seed)
    shuffled = _shuffled(preliminary, random)
    first = shuffled[0].subject
    return Plan(
        training=cells,
        preliminary=shuffled,
        final=[next(cell for cell in cells if cell.subject.label == "all"), Cell(unseen, 1)],
        traits=traits,
        truncated=Cell(victim, victim.cells + 1),
        label_without_image=Cell(first, first.cells + 1),
    )


def _shuffled(subjects: list[Subject], random: np.random.Generator) -> list[Cell]:
    """Give all cells of some subjects in random order."""
    pairs = random.permutation(np.array([(s, k + 1) for s in subjects for k in range(s.cells)], dtype=object))
    return [Cell(subject, number) for subject, number in pairs]


def _training_subjects(settings: PhantomSettings, random: np.random.Generator) -> list[Subject]:
    """ALL subjects 1…n and HEM subjects H1…m, each in one fold."""
    hem_subjects = round(settings.subjects * _HEM_SUBJECTS)
    counts = {"all": settings.subjects - hem_subjects, "hem": hem_subjects}
    subjects: list[Subject] = []
    for label, cells in _cells_per_class(settings.cells).items():
        per_subject = _cells_per_subject(cells, counts[label], random)
        folds = _balanced_folds(per_subject)
        for number, (share, fold) in enumerate(zip(per_subject, folds, strict=True), start=1):
            subjects.append(Subject(_subject_name(label, number), label, fold, share, len(subjects)))
    return subjects


def _preliminary_subjects(
    settings: PhantomSettings, training: list[Subject], random: np.random.Generator
) -> list[Subject]:
    subjects: list[Subject] = []
    for label, cells in _cells_per_class(round(settings.cells * _PRELIMINARY_CELLS)).items():
        of_class = sum(subject.label == label for subject in training)
        count = max(_FEWEST_PRELIMINARY_SUBJECTS, round(of_class * _PRELIMINARY_SUBJECTS))
        per_subject = _cells_per_subject(max(cells, count * _FEWEST_CELLS_PER_SUBJECT), count, random)
        for number, share in enumerate(per_subject, start=of_class + 1):
            stream = len(training) + len(subjects)
            subjects.append(Subject(_subject_name(label, number), label, "", share, stream))
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


def _traits(subjects: list[Subject], seed: int) -> dict[int, SubjectTraits]:
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


def _plant_copies(cells: list[Cell], random: np.random.Generator) -> list[Cell]:
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


def _across_subjects(cells: list[Cell]) -> list[Cell]:
    """Copies of one ALL subject's cells in another of a different fold: two of middling size, one pair only.

    One pair, because each pair merges two subjects into one group, and a small set can't spare many.
    """
    of_class = {cell.subject for cell in cells if cell.subject.label == "all"}
    subjects = sorted(of_class, key=lambda subject: (subject.cells, subject.stream))
    middle = subjects[len(subjects) // 2]
    nearest_first = sorted(subjects, key=lambda subject: (abs(subject.cells - middle.cells), subject.stream))
    source = next(subject for subject in nearest_first if subject.fold != middle.fold)
    numbers = range(2, min(middle.cells, source.cells) + 1, 2)
    return [Cell(middle, number, copy_of=Cell(source, number - 1)) for number in numbers]
