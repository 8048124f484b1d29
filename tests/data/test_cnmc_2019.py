"""What C-NMC 2019 is made of: totals as published, and a manifest of it is known by them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from leukolens.data.cnmc_2019 import C_NMC_2019, class_of, differences, is_complete
from leukolens.data.manifest import merge_subjects

LISTING = Path(__file__).parents[3] / "shared" / "data" / "c-nmc-2019-manifest.csv.gz"
needs_listing = pytest.mark.skipif(not LISTING.is_file(), reason="the listing of the published files is not at ../shared")
TRAINING_NAME = r"training_data/(?P<fold>fold_\d)/(?P<label>all|hem)/UID_(?P<subject>[Hh]?\d+)_\d+_\d+_"


@pytest.fixture
def images() -> pd.DataFrame:
    """The columns of a manifest that `is_complete` reads, of the whole set."""
    rows = [("train", fold, name, class_of(name)) for fold, subjects in C_NMC_2019.training.items()
            for name, cells in subjects.items() for _ in range(cells)]  # fmt: skip
    rows += [("preliminary", None, name, class_of(name)) for name, cells in C_NMC_2019.preliminary.items()
             for _ in range(cells)]  # fmt: skip
    rows += [("final", None, None, None)] * C_NMC_2019.final
    return pd.DataFrame(rows, columns=["part", "fold", "subject", "label"]).astype("string")


@pytest.fixture(scope="module")
def listing() -> pd.DataFrame:
    return pd.read_csv(LISTING)


def test_counts_are_those_of_the_published_set() -> None:
    cells = {fold: Counter[str]() for fold in C_NMC_2019.training}
    for fold, subjects in C_NMC_2019.training.items():
        for name, count in subjects.items():
            cells[fold][class_of(name)] += count
    assert cells == {"fold_0": {"ALL": 2_397, "HEM": 1_130}, "fold_1": {"ALL": 2_418, "HEM": 1_163},
                     "fold_2": {"ALL": 2_457, "HEM": 1_096}}  # fmt: skip
    assert C_NMC_2019.training_cells == 10_661
    subjects = [name for names in C_NMC_2019.training.values() for name in names]
    assert (len(set(subjects)), Counter(map(class_of, subjects))) == (73, {"ALL": 47, "HEM": 26})
    counts = [count for names in C_NMC_2019.training.values() for count in names.values()]
    assert (min(counts), max(counts), C_NMC_2019.training["fold_2"]["H3"]) == (9, 757, 36)
    assert Counter(map(class_of, C_NMC_2019.preliminary)) == {"ALL": 13, "HEM": 15}
    by_class = Counter({label: sum(count for name, count in C_NMC_2019.preliminary.items() if class_of(name) == label)
                        for label in ("ALL", "HEM")})  # fmt: skip
    assert by_class == {"ALL": 1_219, "HEM": 648}
    assert not set(subjects) & set(C_NMC_2019.preliminary)
    assert C_NMC_2019.training_cells + by_class.total() + C_NMC_2019.final == 15_114


def test_shared_cells_merge_73_subjects_into_66_groups() -> None:
    links = [{first, second} for first, second, _ in C_NMC_2019.shared]
    singles = [{name} for names in C_NMC_2019.training.values() for name in names]
    groups = merge_subjects([*links, *singles])
    assert {group for group in groups.values() if "+" in group} == {"20+21", "51+75+78", "H2+H4+H5+H6", "H3+H10"}
    by_class = Counter(class_of(group) for group in set(groups.values()))
    assert (len(set(groups.values())), by_class) == (66, {"ALL": 44, "HEM": 22})


def test_106_pairs_of_which_94_across_folds() -> None:
    fold_of = {name: fold for fold, names in C_NMC_2019.training.items() for name in names}
    pairs = sum(count for _, _, count in C_NMC_2019.shared)
    across = sum(count for first, second, count in C_NMC_2019.shared if fold_of[first] != fold_of[second])
    assert (pairs + len(C_NMC_2019.final_pairs), across) == (106, 94)


def test_the_whole_set_is_known_again(images: pd.DataFrame) -> None:
    assert is_complete(images)
    assert is_complete(images.sample(frac=1, random_state=0))
    assert is_complete(images[images["part"] != "final"])


def test_anything_else_is_not_the_whole_set(images: pd.DataFrame) -> None:
    assert not is_complete(images.iloc[1:])
    assert not is_complete(images[images["part"] == "train"])
    assert not is_complete(pd.concat([images, images.iloc[:1]]))
    assert not is_complete(images.assign(fold=images["fold"].replace("fold_0", "fold_3")))
    assert not is_complete(images.assign(subject=images["subject"].replace("57", "157")))
    assert not is_complete(images.assign(subject=pd.NA))
    assert not is_complete(images.iloc[:0])


def test_differences_are_said_in_words(images: pd.DataFrame) -> None:
    assert differences(images) == []
    one_less = images.drop(images[(images["subject"] == "57") & (images["part"] == "preliminary")].index[0])
    assert differences(one_less) == ["preliminary, ALL, subject 57: 261 cells, 262 expected"]
    assert differences(images[images["part"] != "final"]) == ["final test: 0 images, 2586 expected"]
    other = images.assign(subject=images["subject"].replace("H3", "H33"))
    assert differences(other) == [
        "fold_2, HEM, subject H3: 0 cells, 36 expected",
        "fold_2, HEM, subject H33: 36 cells, 0 expected",
    ]
    unlabelled = images.assign(label=images["label"].where(images["subject"] != "59"))
    assert differences(unlabelled) == [
        "preliminary, no class, subject 59: 12 cells, 0 expected",
        "preliminary, ALL, subject 59: 0 cells, 12 expected",
    ]


@needs_listing
@pytest.mark.real
def test_counts_are_those_of_the_listing(listing: pd.DataFrame) -> None:
    training = listing["path"].str.extract(TRAINING_NAME).dropna()
    training["subject"] = training["subject"].str.upper()
    counted = {key: int(count) for key, count in training.value_counts(["fold", "subject"]).items()}
    assert counted == {(fold, name): count for fold, names in C_NMC_2019.training.items() for name, count in names.items()}
    assert listing["path"].str.contains("final").sum() == C_NMC_2019.final
    assert listing["path"].str.contains("prelim").sum() == sum(C_NMC_2019.preliminary.values())


@needs_listing
@pytest.mark.real
def test_shared_cells_are_those_of_the_listing(listing: pd.DataFrame) -> None:
    named = listing.assign(subject=listing["path"].str.extract(TRAINING_NAME)["subject"].str.upper())
    pairs = Counter(tuple(sorted(rows["subject"])) for _, rows in named.dropna().groupby("sha256") if len(rows) == 2)
    assert pairs == {tuple(sorted((first, second))): count for first, second, count in C_NMC_2019.shared}
    final = named[named["path"].str.contains("final")]
    numbers = final["path"].str.extract(r"(\d+)\.bmp$")[0].astype(int)
    twice = {tuple(sorted(each)) for _, each in numbers.groupby(final["sha256"]) if len(each) == 2}
    assert twice == set(C_NMC_2019.final_pairs)
