"""The checklists: every item has a place in the card, or is left to people by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukolens.reporting.checklists import CHECKLISTS, COVERED, HEADINGS, INTERVALS, PEOPLE, Checklist, checklist_values

each_checklist = pytest.mark.parametrize("checklist", CHECKLISTS, ids=lambda checklist: checklist.name)


def values_of(checklist: Checklist, filled):
    return next(each for each in checklist_values(filled) if each["name"] == checklist.name)


@pytest.mark.parametrize(
    ("name", "rows", "main_items"),
    # CLAIM has 44 items; STARD-AI 40, in 48 rows; TRIPOD+AI 27, in 52 rows, as their papers say.
    [("CLAIM, 2024 update", 44, 44), ("STARD-AI", 48, 40), ("TRIPOD+AI", 52, 27)],
)
def test_numbers_are_complete_and_unique(name, rows, main_items):
    numbers = [item.number for checklist in CHECKLISTS if checklist.name == name for item in checklist.items]
    assert len(numbers) == len(set(numbers)) == rows
    assert list(dict.fromkeys(int(number.rstrip("abcdefg")) for number in numbers)) == list(range(1, main_items + 1))


@each_checklist
def test_every_item_has_a_status_and_a_heading_that_exists(checklist):
    for item in checklist.items:
        assert item.status in (COVERED, PEOPLE)
        assert (item.status == COVERED) == (item.section in HEADINGS)
        assert item.status == COVERED or item.left is None, f"{item.number} is for people altogether"


@each_checklist
@pytest.mark.parametrize("filled", [HEADINGS, (), HEADINGS[1:4]], ids=["all", "none", "some"])
def test_no_item_is_lost_and_none_is_covered_by_an_empty_heading(checklist, filled):
    values = values_of(checklist, filled)
    covered = [item for _, items in values["covered"] for item in items]
    absent = [item for _, items in values["absent"] for item in items]
    left = [item for item in values["people"] if item.section is None]
    assert sorted((*covered, *absent, *left), key=checklist.items.index) == list(checklist.items)
    assert {item.section for item in covered} <= set(filled)
    assert not {item.section for item in absent} & set(filled)


@each_checklist
def test_what_a_program_cannot_know_stays_with_people_beside_the_covered_part(checklist):
    values = values_of(checklist, HEADINGS)
    named = {item.number for item in values["people"]}
    assert named == {item.number for item in checklist.items if item.status == PEOPLE or item.left}


@pytest.mark.parametrize(
    ("name", "number"),
    [("CLAIM, 2024 update", "44"), ("STARD-AI", "6"), ("STARD-AI", "16a"), ("TRIPOD+AI", "17"), ("TRIPOD+AI", "19")],
)
def test_funding_ethics_and_the_reference_standard_are_for_people(name, number):
    item = next(item for checklist in CHECKLISTS if checklist.name == name for item in checklist.items if item.number == number)
    assert item.status == PEOPLE


@pytest.mark.parametrize(("name", "number"), [("CLAIM, 2024 update", "29"), ("STARD-AI", "31"), ("TRIPOD+AI", "23a")])
def test_precision_counts_as_covered_by_intervals_only(name, number):
    item = next(item for checklist in CHECKLISTS if checklist.name == name for item in checklist.items if item.number == number)
    assert item.section == INTERVALS


DOCUMENT = Path(__file__).parents[2] / "docs" / "reporting-checklists.md"


def rows_below(heading: str) -> list[list[str]]:
    """Cells of the table below a heading of the document, without its head."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")][2:]


@pytest.mark.parametrize("place", range(3))
def test_document_lists_the_items_as_the_card_does(place):
    items = CHECKLISTS[place].items
    for row in rows_below("What leukolens fills"):
        assert row[2 + place] == ", ".join(item.number for item in items if item.section == row[1])
    people = [number for row in rows_below("What only people can fill") for number in row[1 + place].split(", ") if number]
    assert sorted(people) == sorted(item.number for item in items if item.section is None)
