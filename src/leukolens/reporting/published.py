"""Published results on C-NMC 2019, set beside those of a results folder: quoted, not reproduced, and compared with nothing.

In: `Results`. Out: values for the fold "Beside published values" and for the terminal. Writes: nothing.

Two tables, each only where its figures mean the same. The weighted F1 on the preliminary set stands beside ours where the
split is the official one and the manifest holds as many cells of each subject as the published set. The accuracies of the
project's source document stand beside ours where the split is by image, as theirs is. A synthetic set of the same make-up
has the tables too, and each says that its cells are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukolens.data.cnmc_2019 import is_complete
from leukolens.reporting.results import BASELINE, Model, Results, Study, read_results
from leukolens.reporting.wording import count, percent, percent_interval

Values = dict[str, Any]

OFFICIAL, BY_IMAGE = "official", "image"
PROCEEDINGS = (
    "Gupta & Gupta (eds.), ISBI 2019 C-NMC Challenge: Classification in Cancer Cell Imaging, Springer 2019, "
    "doi 10.1007/978-981-15-0798-4"
)


@dataclass(frozen=True)
class PublishedResult:
    """One work's weighted F1, 0–1: on the preliminary set (lowest and highest reported) and on the final set.

    `was_read`: whether the work or its abstract was read for them; else they are those of others' tables.
    """

    work: str
    method: str
    preliminary: tuple[float, float]
    final: float | None
    was_read: bool = False


# Source: the works themselves, in PROCEEDINGS; where `was_read` is False, the tables of results of other works on this set.
PUBLISHED = (
    PublishedResult("Pan et al. 2019", "ResNets, then a vote of the nearest test cells", (0.9250, 0.9250), 0.9104, True),
    PublishedResult("Honnalgere & Nayak 2019", "VGG16, fine-tuned", (0.9170, 0.9170), None),
    PublishedResult("Xiao et al. 2019", "six networks, pseudo-labels of test cells", (0.9030, 0.9030), 0.8856, True),
    PublishedResult("Verma & Singh 2019", "MobileNetV2", (0.8947, 0.8947), None),
    PublishedResult("Prellberg & Kramer 2019", "one SE-ResNeXt50, 8 turns and flips averaged", (0.887, 0.898), 0.8891, True),
    PublishedResult("Marzahl et al. 2019", "ResNet18 with a region-proposal branch", (0.8746, 0.8746), 0.8284, True),
    PublishedResult("Ding et al. 2019", "three networks, stacked", (0.8674, 0.8674), 0.8552),
)

_OFFICIAL_CAVEATS = (
    "Quoted, not reproduced. No score of theirs is at hand, so no difference between a row of ours and one of theirs is "
    "tested, and a higher figure is no claim.",
    "The training differs: here subjects that share a cell are merged, two folds train and the third chooses. In the folds as "
    "published 94 identical pairs of cells lie in two folds.",
    "Here the preliminary set is scored once, and nothing is chosen on it. Where a work gives both figures, the preliminary "
    "one is mostly the higher, by up to 4.6 points; the labels of the final set are not published, so we have none.",
    "Pan et al. and Xiao et al. use the test cells together (neighbours, pseudo-labels); a network that judges one cell at a "
    "time cannot.",
    "† taken from others' tables of results; the work itself was not read.",
)
_BY_IMAGE_CAVEATS = (
    "Quoted, not reproduced: another random draw of the same kind, so other training and test images, and other training.",
    "Cells of one person are on both sides here and there: no figure of this table tells how a network does on a new person.",
)
_SYNTHETIC = (
    "SYNTHETIC: our rows are of drawn cells, the published ones of real cells. There is nothing to compare; the table shows "
    "where the figures of the real set will stand."
)


def published_in(folder: Path) -> list[Values]:
    """Read a folder of results and give `beside_published` of it; raises what `read_results` raises."""
    return beside_published(read_results(folder))


def beside_published(results: Results) -> list[Values]:
    """Give the tables of published values that belong beside these results; empty where none does.

    Returns:
        For each study that has one: `kind` (OFFICIAL or BY_IMAGE), `study`, `caption`, `figure` (its name), `rows` of ours
        (`title`, `is_baseline`, `value`, `interval`, and `printed`: the source document's), `published` (PublishedResults
        as text; empty for BY_IMAGE) and `caveats`.
    """
    if results.manifest is None:
        return []
    synthetic = bool(results.manifest.record.get("synthetic"))
    complete = is_complete(results.manifest.images)
    tables = [_official(study) for study in results.studies if complete and _strategy(study) == OFFICIAL]
    tables += [_by_image(study) for study in results.studies if _strategy(study) == BY_IMAGE and _printed(study)]
    return [_said_synthetic(each) for each in tables] if synthetic else tables


def _said_synthetic(table: Values) -> Values:
    return {**table, "caption": f"SYNTHETIC CELLS. {table['caption']}", "caveats": [_SYNTHETIC, *table["caveats"]]}


def _strategy(study: Study) -> str | None:
    """How a study of trained networks was split; None for cross-validations and where no splits are at hand."""
    if study.splits is None or study.crossvalidated:
        return None
    return str(study.splits.record.get("strategy"))


def _printed(study: Study) -> list[Model]:
    return [model for model in study.models if model.row.get("source_document_accuracy") is not None]


def _official(study: Study) -> Values:
    side = study.models[0].side
    return {
        "kind": OFFICIAL,
        "study": study,
        "caption": f"Weighted F1 on the preliminary set of C-NMC 2019: {count(side['images'])} cells of "
                   f"{count(side['subjects'])} subjects",
        "figure": "f1_weighted",
        "rows": list(_rows(study.models, "f1_weighted")),
        "published": [_as_text(each) for each in PUBLISHED],
        "caveats": [*_OFFICIAL_CAVEATS, f"Source: {PROCEEDINGS}."],
    }  # fmt: skip


def _by_image(study: Study) -> Values:
    side = study.models[0].side
    return {
        "kind": BY_IMAGE,
        "study": study,
        "caption": f"Accuracy on {count(side['images'])} test images of a split by image, and as the project’s source document "
                   "prints it for such a split of C-NMC 2019",
        "figure": "accuracy",
        "rows": list(_rows(_printed(study), "accuracy")),
        "published": [],
        "caveats": list(_BY_IMAGE_CAVEATS),
    }  # fmt: skip


def _rows(models: Sequence[Model], figure: str) -> Iterator[Values]:
    """Give our rows, the highest first, baselines last."""
    for model in sorted(models, key=lambda model: (model.kind == BASELINE, -float(model.side[figure]))):
        printed = model.row.get("source_document_accuracy")
        yield {
            "title": model.title,
            "is_baseline": model.kind == BASELINE,
            "value": percent(model.side[figure]),
            "interval": percent_interval((model.side["intervals"]["intervals"] or {}).get(figure)),
            "printed": percent(printed),
        }


def _as_text(result: PublishedResult) -> dict[str, str]:
    low, high = result.preliminary
    return {
        "work": result.work + ("" if result.was_read else " †"),
        "method": result.method,
        "preliminary": percent(low, 2) if low == high else f"{100 * low:.1f}–{percent(high)}",
        "final": percent(result.final, 2),
    }
