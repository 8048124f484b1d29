"""What C-NMC 2019 is made of: cells of each subject, cells that two subjects share, and how to know the whole set again.

In: nothing, or the images of a manifest. Out: counts. Writes: nothing. No image is here, only numbers of them.

Source: names and SHA-256 of all 15,114 published files (TCIA, doi 10.7937/tcia.2019.dc64i46r; Gupta & Gupta 2019), and, for
the preliminary set, its published table of labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from leukolens.artifacts import FINAL, POOL, PRELIMINARY

ALL, HEM = "ALL", "HEM"


@dataclass(frozen=True)
class Composition:
    """Which cells a data set in the form of C-NMC holds; subjects whose id begins with H are HEM, the others ALL.

    `training`: for each official fold the cells of each subject. `preliminary`: the cells of each of its subjects. `final`:
    unlabelled cells. `final_subjects`: of how many ALL and HEM subjects they are. `shared`: (subject, subject, cells): so
    many cells of the first lie, byte by byte, among those of the second too. `padded`: (subject, image, cell) in the name of
    the training cell that is also the first final image, with black around it. `final_pairs`: numbers of final images that
    are the same file.
    """

    training: Mapping[str, Mapping[str, int]]
    preliminary: Mapping[str, int]
    final: int
    final_subjects: Mapping[str, int]
    shared: tuple[tuple[str, str, int], ...]
    padded: tuple[str, int, int]
    final_pairs: tuple[tuple[int, int], ...]

    @property
    def training_cells(self) -> int:
        """Cells of all official folds."""
        return sum(sum(subjects.values()) for subjects in self.training.values())


C_NMC_2019 = Composition(
    training={
        "fold_0": {"1": 19, "3": 11, "4": 113, "5": 112, "11": 92, "14": 99, "15": 58, "17": 74, "19": 9, "20": 76,
                   "22": 103, "26": 142, "28": 92, "35": 155, "43": 73, "45": 253, "48": 268, "50": 246, "52": 402,
                   "H6": 18, "H7": 18, "H11": 47, "H12": 185, "H15": 162, "H16": 69, "H17": 119, "H19": 108, "H24": 404},
        "fold_1": {"2": 84, "16": 53, "23": 97, "30": 201, "32": 212, "33": 181, "34": 352, "38": 145, "44": 146,
                   "46": 190, "51": 757, "H10": 405, "H14": 385, "H22": 373},
        "fold_2": {"13": 89, "18": 74, "21": 80, "24": 161, "25": 178, "27": 178, "31": 111, "36": 35, "37": 197,
                   "47": 278, "49": 197, "67": 267, "68": 250, "72": 14, "74": 31, "75": 99, "78": 218,
                   "H1": 32, "H2": 112, "H3": 36, "H4": 9, "H5": 28, "H8": 20, "H9": 46, "H13": 137, "H18": 30,
                   "H20": 100, "H23": 327, "H40": 140, "H46": 29, "H48": 50},
    },
    preliminary={
        "53": 201, "54": 111, "55": 47, "57": 262, "58": 96, "59": 12, "60": 18, "61": 7, "62": 10, "63": 83, "64": 69,
        "65": 139, "66": 164, "H25": 19, "H26": 25, "H27": 13, "H28": 9, "H29": 38, "H30": 35, "H31": 77, "H32": 54,
        "H33": 5, "H34": 20, "H35": 31, "H36": 47, "H39": 84, "H49": 162, "H50": 29,
    },
    final=2_586,
    # Neither their subjects nor their classes are published: these numbers are an assumption and serve drawing only.
    final_subjects={ALL: 9, HEM: 8},
    shared=(("20", "21", 71), ("51", "75", 10), ("51", "78", 11), ("H2", "H4", 3), ("H2", "H5", 2), ("H2", "H6", 1),
            ("H10", "H3", 1), ("H10", "H10", 5)),
    padded=("51", 147, 4),
    final_pairs=((581, 914), (972, 2217)),
)  # fmt: skip


def class_of(subject: str) -> str:
    """Class of a subject, by its id."""
    return HEM if subject.upper().startswith("H") else ALL


def is_complete(images: pd.DataFrame, composition: Composition = C_NMC_2019) -> bool:
    """Tell whether a manifest holds the labelled cells of the published set: as many of each subject, fold and class.

    Args:
        images: `Manifest.images`. Unlabelled (final) images are not looked at, names and pixels neither: a synthetic set
            of the same composition is complete too, and says that it is synthetic elsewhere.
        composition: what the set should hold.
    """
    labelled = images[images["part"].isin([POOL, PRELIMINARY]) & images["label"].notna()]
    found = labelled[["part", "fold", "subject", "label"]].fillna("").value_counts()
    return found.to_dict() == dict(_expected(composition))


def differences(images: pd.DataFrame, composition: Composition = C_NMC_2019) -> list[str]:
    """Say in words how a list of images differs from the published set; nothing where it does not.

    Args:
        images: columns part, fold, subject and label, as in `Manifest.images`; one row per image, the unlabelled ones too.
        composition: what the set should hold.

    Returns:
        Final images first, then one line per fold, class and subject that has more or fewer cells than it should.
    """
    rows = images[["part", "fold", "subject", "label"]].fillna("").itertuples(index=False, name=None)
    found: Counter[tuple[str, str, str, str]] = Counter(row for row in rows if row[0] != FINAL)
    final, expected = int((images["part"] == FINAL).sum()), dict(_expected(composition))
    lines = [f"final test: {final} images, {composition.final} expected"] if final != composition.final else []
    for key in sorted({*found, *expected}):
        if found[key] != expected.get(key, 0):
            part, fold, subject, label = key
            whose = f"{fold or part}, {label or 'no class'}, subject {subject or 'unknown'}"
            lines.append(f"{whose}: {found[key]} cells, {expected.get(key, 0)} expected")
    return lines


def _expected(composition: Composition) -> Iterable[tuple[tuple[str, str, str, str], int]]:
    """Give (part, fold, subject, class) and how many cells there are of it."""
    for fold, subjects in composition.training.items():
        yield from (((POOL, fold, name, class_of(name)), cells) for name, cells in subjects.items())
    yield from (((PRELIMINARY, "", name, class_of(name)), cells) for name, cells in composition.preliminary.items())
