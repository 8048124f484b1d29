"""The plan of a phantom: uneven subjects and planted copies in a small one, exactly the published counts in one like C-NMC."""

from __future__ import annotations

from collections import Counter

import pytest

from leukolens.data.phantom_plan import Plan, plan, plan_like
from leukolens.settings import PhantomSettings
from small_composition import SMALL


@pytest.fixture(scope="module")
def full() -> Plan:
    """As many cells as C-NMC 2019, none of them drawn."""
    return plan(PhantomSettings(like="c-nmc-2019"))


def test_subjects_are_uneven() -> None:
    made = plan(PhantomSettings(cells=10_661, subjects=73))
    cells = Counter(cell.subject.name for cell in made.training)
    labels = Counter(cell.subject.label for cell in made.training)
    assert (len(cells), sum(cells.values())) == (73, 10_661)
    assert labels == {"all": 7_272, "hem": 3_389}
    assert max(cells.values()) > 4 * min(sorted(cells.values())[36:])
    assert sum(name.startswith("H") for name in cells) == 26
    folds = Counter(cell.subject.fold for cell in made.training)
    assert max(folds.values()) < 1.05 * min(folds.values())
    copies = [cell for cell in made.training if cell.copy_of]
    assert len(copies) == 107
    assert all(cell.copy_of.copy_of is None and cell.copy_of.number % 2 == 1 for cell in copies)
    pairs = {(cell.subject.name, cell.copy_of.subject.name) for cell in copies if cell.subject != cell.copy_of.subject}
    assert len(pairs) == 1
    assert len(made.preliminary) == pytest.approx(0.08 * 10_661, abs=1)
    assert made.truncated is not None
    assert made.label_without_image is not None


def test_like_c_nmc_has_its_cells_in_every_fold_class_and_part(full: Plan) -> None:
    folds = Counter((cell.subject.fold, cell.subject.label) for cell in full.training)
    assert folds == {("fold_0", "all"): 2_397, ("fold_0", "hem"): 1_130, ("fold_1", "all"): 2_418, ("fold_1", "hem"): 1_163,
                     ("fold_2", "all"): 2_457, ("fold_2", "hem"): 1_096}  # fmt: skip
    assert Counter(cell.subject.label for cell in full.preliminary) == {"all": 1_219, "hem": 648}
    assert len(full.final) == 2_586
    assert (full.truncated, full.label_without_image) == (None, None)
    cells = Counter(cell.subject.name for cell in full.training)
    assert (len(cells), min(cells.values()), max(cells.values()), cells["51"], cells["H3"]) == (73, 9, 757, 757, 36)
    assert len({cell.subject.name for cell in full.preliminary}) == 28
    assert len({cell.training_path for cell in full.training}) == 10_661


def test_like_c_nmc_spells_one_subject_in_lower_case(full: Plan) -> None:
    paths = [cell.training_path for cell in full.training if "_h" in cell.name.split("_hem")[0]]
    assert len(paths) == 36
    assert all(path.startswith("training_data/fold_2/hem/UID_h3_") for path in paths)


def test_like_c_nmc_has_its_shared_cells(full: Plan) -> None:
    copies = [cell for cell in full.training if cell.copy_of]
    links = Counter((cell.copy_of.subject.name, cell.subject.name) for cell in copies)
    assert links == {("20", "21"): 71, ("51", "75"): 10, ("51", "78"): 11, ("H2", "H4"): 3, ("H2", "H5"): 2, ("H2", "H6"): 1,
                     ("H10", "H3"): 1, ("H10", "H10"): 5}  # fmt: skip
    assert sum(cell.subject.fold != cell.copy_of.subject.fold for cell in copies) == 94
    copied = [(cell.copy_of.subject.name, cell.copy_of.number) for cell in copies]
    names = {(cell.subject.name, cell.number) for cell in copies}
    assert len(set(copied)) == len(copied)  # pairs, not threes
    assert not set(copied) & names  # no copy is copied


def test_like_c_nmc_final_images_repeat_what_the_published_ones_repeat(full: Plan) -> None:
    first = full.final[0]
    assert first.training_path == "training_data/fold_1/all/UID_51_147_4_all.bmp"
    assert first in full.training
    shown = Counter((cell.subject.stream, cell.number) for cell in full.final)
    assert sorted(shown.values())[-3:] == [1, 2, 2]
    assert full.final[913] == full.final[580]
    assert full.final[2216] == full.final[971]
    known = {cell.subject.stream for cell in full.training + full.preliminary}
    assert not {cell.subject.stream for cell in full.final[1:]} & known


def test_like_c_nmc_preliminary_files_have_the_long_header(full: Plan) -> None:
    assert all(cell.long_header for cell in full.preliminary)
    assert not any(cell.long_header for cell in full.training + full.final)


def test_every_subject_has_traits_of_its_class(full: Plan) -> None:
    for cell in full.training + full.preliminary + full.final:
        assert full.traits[cell.subject.stream].label == cell.subject.label


def test_another_seed_moves_the_preliminary_images_and_no_count() -> None:
    first, again, other = (plan_like(SMALL, seed) for seed in (0, 0, 1))
    assert [cell.name for cell in first.preliminary] == [cell.name for cell in again.preliminary]
    assert [cell.name for cell in first.preliminary] != [cell.name for cell in other.preliminary]
    assert [cell.training_path for cell in first.training] == [cell.training_path for cell in other.training]


def test_like_and_counts_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="leave cells and subjects out"):
        PhantomSettings(like="c-nmc-2019", cells=100)
    with pytest.raises(ValueError, match="Input should be 'c-nmc-2019'"):
        PhantomSettings.model_validate({"like": "c-nmc-2018"})
