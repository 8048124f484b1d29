"""Reporting checklists: which items a model card answers, and which only people can.

In: the headings of the card that have content. Out: values for the template. Writes: nothing.

Three lists: CLAIM, 2024 update (Tejani et al. 2024, Radiology: Artificial Intelligence 6:e240300), STARD-AI (Sounderajah et
al. 2025, Nature Medicine 31:3283) and TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378). The names of the items are our own
words.

Where the numbers come from: from ROADMAP, the ontology of the Radiological Society of North America, which holds the items of
all three with their numbers (Suri et al. 2026, Radiology: Artificial Intelligence 8:e260069), and from public transcriptions
of the published tables, compared with it item by item. They agree. Items 24 and 38 of STARD-AI and 5b and 20a of TRIPOD+AI are
not in the excerpt of the ontology that was read; their numbers rest on the transcriptions. The publishers' own files were not
at hand. `NUMBERING` says so in every card. Nothing here replaces the published checklist, which whoever submits a paper must
fill in.

An item is "covered" where the card has the matter, under the named heading. `left` is the part of it that a program cannot
know. An item without a heading is for people altogether.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

DETAILS = "Model details"
USE = "Intended use"
DATA = "Data"
PROTOCOL = "Protocol"
TRAINING = "Training"
FIGURES = "Figures"
INTERVALS = "Intervals"
ERRORS = "Errors"
SUBJECTS = "Subjects"
SUBGROUPS = "Subgroups"
VARIATION = "Variation"
BASELINES = "Baselines"
CALIBRATION = "Calibration and threshold"
ABSTENTION = "Abstention and foreign images"
LIMITS = "Limits"
REPRODUCTION = "Reproduction"
HEADINGS = (DETAILS, USE, DATA, PROTOCOL, TRAINING, FIGURES, INTERVALS, ERRORS, SUBJECTS, SUBGROUPS, VARIATION, BASELINES,
            CALIBRATION, ABSTENTION, LIMITS, REPRODUCTION)  # fmt: skip

COVERED, PEOPLE = "covered", "people"

NUMBERING = (
    "Item numbers were taken from ROADMAP, the ontology of the Radiological Society of North America (Suri et al. 2026), and "
    "from public transcriptions of the published tables, which agree with it; for items 24 and 38 of STARD-AI and 5b and 20a "
    "of TRIPOD+AI from the transcriptions alone. The publishers' own files were not at hand: compare before you submit. The "
    "names of the items are our own words."
)


@dataclass(frozen=True)
class Item:
    """One item: its `number`, its `name`, the heading where the card covers it, and what is `left` to people."""

    number: str
    name: str
    section: str | None = None
    left: str | None = None

    @property
    def status(self) -> str:
        """COVERED or PEOPLE."""
        return PEOPLE if self.section is None else COVERED

    @property
    def label(self) -> str:
        """Number and name."""
        return f"{self.number} {self.name}"


@dataclass(frozen=True)
class Checklist:
    """One checklist: `name`, `source` and its items in their order."""

    name: str
    source: str
    items: tuple[Item, ...]


CLAIM = Checklist("CLAIM, 2024 update", "Tejani et al. 2024, Radiology: Artificial Intelligence 6:e240300", (
    Item("1", "title that names the kind of AI"),
    Item("2", "structured abstract"),
    Item("3", "background and intended role", USE, "the clinical background and today's practice"),
    Item("4", "aims and hypotheses"),
    Item("5", "data taken before or after the study was planned"),
    Item("6", "goal of the study"),
    Item("7", "sources of the data", DATA, "hospitals, dates and links to the data"),
    Item("8", "inclusion and exclusion", DATA, "by which criteria patients and samples were chosen"),
    Item("9", "preprocessing", DETAILS, "what was done to the images before leukolens read them"),
    Item("10", "choice of subsets", PROTOCOL),
    Item("11", "de-identification"),
    Item("12", "missing data", DATA),
    Item("13", "acquisition: stain, microscope, camera"),
    Item("14", "how the true label was obtained"),
    Item("15", "why this reference standard"),
    Item("16", "who labelled, and with what training"),
    Item("17", "labelling of the test images"),
    Item("18", "agreement between and within raters"),
    Item("19", "how images were assigned to sides", PROTOCOL),
    Item("20", "level at which the sides are disjoint", PROTOCOL),
    Item("21", "intended sample size"),
    Item("22", "the model", DETAILS),
    Item("23", "software and versions", REPRODUCTION),
    Item("24", "starting values of the parameters", DETAILS),
    Item("25", "training", TRAINING),
    Item("26", "choice of the final model", TRAINING),
    Item("27", "ensembling", DETAILS),
    Item("28", "figures of merit", FIGURES),
    Item("29", "measures of uncertainty and significance", INTERVALS),
    Item("30", "robustness", VARIATION, "other stains, microscopes and cameras"),
    Item("31", "explanation of single answers"),
    Item("32", "internal test", FIGURES),
    Item("33", "external test", LIMITS, "an external test, or why there is none"),
    Item("34", "registration of the trial"),
    Item("35", "numbers included and excluded", DATA, "patients who never came into the data set"),
    Item("36", "who is on each side", PROTOCOL, "age, sex and diagnoses of the subjects on each side"),
    Item("37", "performance with its uncertainty", INTERVALS),
    Item("38", "diagnostic accuracy and its precision", INTERVALS),
    Item("39", "wrong answers", ERRORS, "what a hematologist sees in the wrongly called cells"),
    Item("40", "limits of the study", LIMITS, "limits of how the data were collected"),
    Item("41", "what follows for practice"),
    Item("42", "full study protocol"),
    Item("43", "availability of software, model and data", REPRODUCTION, "where model and data can be had, on what terms"),
    Item("44", "funding and the funders' part"),
))  # fmt: skip

STARD_AI = Checklist("STARD-AI", "Sounderajah et al. 2025, Nature Medicine 31:3283-3289", (
    Item("1", "title or abstract that names AI and a measure of accuracy"),
    Item("2", "structured abstract"),
    Item("3", "background, intended use and place in the workflow", USE, "the clinical background and the workflow"),
    Item("4", "aims and hypotheses"),
    Item("5", "data taken before or after the study was planned"),
    Item("6", "approval by an ethics committee"),
    Item("7", "eligibility of participants and of images", DATA, "by which criteria participants were chosen"),
    Item("8", "how eligible participants were found"),
    Item("9", "setting, place and dates"),
    Item("10", "consecutive, random or convenience series"),
    Item("11", "source of the data", DATA, "whether routine care, this study or a public collection"),
    Item("12", "who labelled, and how"),
    Item("13", "devices that took the images, software that made the test", REPRODUCTION, "stainer, microscope and camera"),
    Item("14", "acquisition and preprocessing", DETAILS, "how smears were made, stained and photographed"),
    Item("15a", "the index test", DETAILS),
    Item("15b", "how it was developed, with numbers", PROTOCOL),
    Item("15c", "threshold and how it was set", CALIBRATION, "why this aim suits the clinical question"),
    Item("15d", "end user and expertise needed", USE, "who would use it"),
    Item("16a", "the reference standard"),
    Item("16b", "why this reference standard"),
    Item("16c", "categories of the reference standard"),
    Item("17a", "what the index test knew of the truth", PROTOCOL),
    Item("17b", "what the labellers knew of the index test"),
    Item("18", "methods of estimating and comparing accuracy", FIGURES),
    Item("19", "indeterminate results", ABSTENTION),
    Item("20", "missing data", DATA),
    Item("21", "variability of accuracy", SUBGROUPS, "which of these analyses were planned beforehand"),
    Item("22", "intended sample size"),
    Item("23", "analysis of errors, bias and fairness", ERRORS, "fairness between groups of patients"),
    Item("24", "flow of participants", DATA, "a diagram from the patients to the images"),
    Item("25", "who and what is on each side", PROTOCOL, "age, sex and clinical state of the subjects on each side"),
    Item("26a", "severity of the disease"),
    Item("26b", "other diagnoses among the negative"),
    Item("27", "time and treatment between index test and reference standard"),
    Item("28", "whether the data are like the intended population"),
    Item("29", "how external data differ"),
    Item("30", "cross tabulation of calls and truth", ERRORS),
    Item("31", "accuracy and its precision", INTERVALS),
    Item("32", "adverse events"),
    Item("33", "limits, bias and generalisation", LIMITS, "limits of how the data were collected"),
    Item("34", "what follows for practice"),
    Item("35", "ethics and fairness of use"),
    Item("36", "registration"),
    Item("37", "full study protocol"),
    Item("38", "funding and the funders' part"),
    Item("39", "commercial interests"),
    Item("40a", "availability of data and code", REPRODUCTION, "where data and code can be had, on what terms"),
    Item("40b", "stored and auditable outputs", REPRODUCTION),
))  # fmt: skip

TRIPOD_AI = Checklist("TRIPOD+AI", "Collins et al. 2024, BMJ 385:e078378", (
    Item("1", "title that names model, population and outcome"),
    Item("2", "abstract after TRIPOD+AI for Abstracts"),
    Item("3a", "medical context and earlier models"),
    Item("3b", "target population, purpose and users", USE, "population, place in the care pathway, users"),
    Item("3c", "known inequalities in health"),
    Item("4", "aims: development, evaluation or both"),
    Item("5a", "sources of the data and how representative", DATA, "where the data come from and whom they represent"),
    Item("5b", "dates"),
    Item("6a", "setting and centres"),
    Item("6b", "eligibility", DATA, "by which criteria participants were chosen"),
    Item("6c", "treatments received"),
    Item("7", "preparation and quality control of the data", DATA, "whether alike for all groups of patients"),
    Item("8a", "the outcome and how it was assessed"),
    Item("8b", "who assessed the outcome"),
    Item("8c", "blinding of the outcome"),
    Item("9a", "choice of predictors", DETAILS),
    Item("9b", "definition of predictors", DETAILS, "how smears were made, stained and photographed"),
    Item("9c", "who assessed the predictors"),
    Item("10", "sample size"),
    Item("11", "missing data", DATA),
    Item("12a", "use and partition of the data", PROTOCOL),
    Item("12b", "handling of predictors", DETAILS),
    Item("12c", "kind of model, building and internal validation", TRAINING),
    Item("12d", "heterogeneity between clusters, methods", SUBJECTS, "centres, where there are several"),
    Item("12e", "measures and plots of performance", FIGURES, "clinical utility"),
    Item("12f", "updating after evaluation, methods", CALIBRATION),
    Item("12g", "how predictions were calculated", DETAILS),
    Item("13", "class imbalance", TRAINING),
    Item("14", "approaches to fairness"),
    Item("15", "output and thresholds", CALIBRATION, "why this aim suits the clinical question"),
    Item("16", "differences between development and evaluation data", PROTOCOL, "differences of setting, if there are any"),
    Item("17", "ethics approval and consent"),
    Item("18a", "funding and the funders' part"),
    Item("18b", "conflicts of interest"),
    Item("18c", "study protocol"),
    Item("18d", "registration"),
    Item("18e", "sharing of data"),
    Item("18f", "sharing of code", REPRODUCTION, "where the code of the study can be had"),
    Item("19", "patient and public involvement"),
    Item("20a", "flow of participants", DATA, "a diagram from the patients to the images"),
    Item("20b", "characteristics of participants"),
    Item("20c", "comparison of evaluation with development data", PROTOCOL, "age, sex and diagnoses on each side"),
    Item("21", "numbers in each analysis", PROTOCOL),
    Item("22", "full model, for use on new cells", REPRODUCTION, "how others get the weights, on what terms"),
    Item("23a", "performance with intervals, and of subgroups", INTERVALS, "subgroups by age, sex and origin"),
    Item("23b", "heterogeneity between clusters, results", SUBJECTS, "centres, where there are several"),
    Item("24", "updating after evaluation, results", CALIBRATION),
    Item("25", "interpretation"),
    Item("26", "limits", LIMITS, "limits of how the data were collected"),
    Item("27a", "poor or missing input in use", ABSTENTION),
    Item("27b", "what users must do and know", USE, "training of users"),
    Item("27c", "next steps of research"),
))  # fmt: skip

CHECKLISTS: tuple[Checklist, ...] = (CLAIM, STARD_AI, TRIPOD_AI)


def checklist_values(filled: Collection[str]) -> list[dict[str, Any]]:
    """Sort the items of each checklist by what a card has.

    Args:
        filled: headings of the card under which there is content. A heading that only says that a file is absent is not
            among them, and the items that it would have covered stay open.

    Returns:
        For each checklist `name`, `source`, how many items it has (`total`), `covered` (pairs of a heading and its items),
        `people` (items of which all or a part is for people) and `absent` (pairs of an empty heading and its items).
    """
    return [{
        "name": checklist.name,
        "source": checklist.source,
        "total": len(checklist.items),
        "covered": _by_section(checklist.items, [name for name in HEADINGS if name in filled]),
        "people": [item for item in checklist.items if item.section is None or item.left],
        "absent": _by_section(checklist.items, [name for name in HEADINGS if name not in filled]),
    } for checklist in CHECKLISTS]  # fmt: skip


def _by_section(items: Sequence[Item], headings: Sequence[str]) -> list[tuple[str, list[Item]]]:
    found = [(heading, [item for item in items if item.section == heading]) for heading in headings]
    return [(heading, own) for heading, own in found if own]
