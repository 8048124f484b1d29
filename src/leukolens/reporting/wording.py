"""How the report writes numbers and names: percentages, durations, settings, and one line for each term.

In: values of metrics.json and of the records. Out: text. Writes: nothing. Rounding is all that happens to a number here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

ABSENT = "–"
_NARROW_SPACE = "\u202f"
_MINUS = "\u2212"
_MINUTE, _HOUR = 60, 3600
_MILLION = 1_000_000
_SMALLEST_SHOWN = 0.001

FIGURE_NAMES: Mapping[str, str] = {
    "auroc": "AUROC",
    "auroc_macro_ovr": "AUROC, macro",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1_weighted": "F1, weighted",
    "f1_macro": "F1, macro",
    "mcc": "MCC",
    "ece": "ECE",
}
AUGMENTED = " + flips and turns"
PHASES: Mapping[str, str] = {"head": "new head, frozen backbone", "finetune": "fine-tuned"}

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("Positive class", "the finding that is looked for, here the leukemic class or classes; all others are negative."),
    ("Sensitivity", "of the images that truly are positive, the share that the network calls positive."),
    ("Specificity", "of the images that truly are negative, the share that the network calls negative."),
    ("Accuracy", "share of all images that are right; flattering where one class is much more frequent."),
    ("Balanced accuracy", "mean over the classes of the share that is right; guessing among two classes gives 50 %."),
    ("Precision", "of the images called a class, the share that truly are of it."),
    ("Recall", "of the images of a class, the share that is called so; for the positive class the sensitivity."),
    ("F1", "harmonic mean of precision and recall of a class."),
    ("Weighted, macro", "mean over the classes: each counting by its number of images, or all alike."),
    ("MCC", "Matthews' correlation of truth and call: 1 is perfect, 0 no better than chance."),
    ("AUROC", "chance that a positive image gets a higher score than a negative one; 0.5 is guessing."),
    ("AUPRC", "mean precision while the threshold falls; guessing gives the share of positive images."),
    ("Confusion matrix", "how many images of each true class (row) were called which class (column)."),
    ("Subject, group", "one person; subjects that share an identical image are merged into one group."),
    ("Training, validation, test", "images to learn from; to choose among networks; to measure the choice, once."),
    ("Split by subject", "all images of one person are on one side: the test asks about new persons."),
    ("Split by image", "images of one person are on both sides: the network may know the person. Optimistic."),
    ("Frozen backbone", "only the last layer, the head, is trained; the rest keeps its pretrained weights."),
    ("95 % interval", "made so that it holds the true figure about 95 times in 100: subject groups are redrawn thousands of "
     "times, all images of one together, for they resemble each other (cluster bootstrap)."),
    ("Paired difference", "two models on the same images, in each redraw: what both share, such as a hard subject, cancels."),
    ("Holm-adjusted p", "p-value made stricter for the number of comparisons (Holm 1979): of many, some differ by chance."),
    ("DeLong's p", "test of two AUROCs (DeLong et al. 1988); it takes images as independent, so it is too sure here."),
    ("P(best), expected rank", "share of the redraws in which a model comes first, and its mean place."),
    ("Shortcut baselines", "what needs no morphology: always the commonest class, cell area, area and colour."),
    ("Cross-validation", "every image is tested once, by a network trained without its fold; repeated with other seeds."),
    ("Calibration, ECE", "whether 80 % means 80 of 100; ECE is the mean gap over bins of equal size, 0 is perfect."),
    ("Temperature", "one number, fitted on validation, that logits are divided by to mend over-confidence (Guo et al. 2017)."),
    ("Brier score", "mean squared error of the probability: reliability (should be 0) − resolution (should be large) + "
     "uncertainty of the classes (Murphy 1973), and a small rest within the bins."),
    ("Threshold", "probability from which an image is called positive; chosen on validation."),
    ("Prediction set", "the classes that cannot be ruled out at the promised rate of errors; one class: an answer, else none "
     "(split conformal). The promise is a mean over new subject groups, not over images."),
    ("AUROC within folds", "the AUROC from pairs of images of one fold only, each pair counting alike; the pooled AUROC takes "
     "pairs across folds too, although each fold has a network and a scale of its own."),
    ("Risk–coverage", "error among the images that are answered while the least certain ones are left out; AURC is its mean."),
    ("Ensemble", "mean of several networks, as one more model."),
    ("Flips and turns", "mean over the 8 flips and quarter turns of one image (test-time augmentation)."),
    ("Fine-tuning", "the whole network is trained further, the backbone with a smaller learning rate."),
)


def percent(value: float | None, digits: int = 1) -> str:
    """A share of 0–1 as a percentage."""
    return ABSENT if _absent(value) else f"{100 * value:.{digits}f}{_NARROW_SPACE}%"  # type: ignore[operator]


def decimal(value: float | None) -> str:
    """An area or a correlation with three decimals."""
    return ABSENT if _absent(value) else f"{value:.3f}".replace("-", _MINUS)


def one_digit(value: float | None) -> str:
    """A mean rank."""
    return ABSENT if _absent(value) else f"{value:.1f}"


def two_digits(value: float | None) -> str:
    """A mean number of classes."""
    return ABSENT if _absent(value) else f"{value:.2f}"


def small(value: float | None) -> str:
    """A calibration error or a part of the Brier score with three decimals, "<0.001" where it would read 0.000."""
    if value is None or _absent(value):
        return ABSENT
    return f"<{_SMALLEST_SHOWN:.3f}" if 0 < value < _SMALLEST_SHOWN / 2 else decimal(value)


def difference(value: float | None) -> str:
    """A difference of areas or of errors with its sign and three decimals."""
    return ABSENT if _absent(value) else f"{value:+.3f}".replace("-", _MINUS)


def p_value(value: float | None) -> str:
    """A p-value with three decimals, "<0.001" below that."""
    if value is None or _absent(value):
        return ABSENT
    return f"<{_SMALLEST_SHOWN:.3f}" if value < _SMALLEST_SHOWN else f"{value:.3f}"


def percent_interval(ends: Sequence[float] | None) -> str:
    """Both ends of an interval of shares, in percent: "[77.0, 85.1]"."""
    return ABSENT if ends is None else f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]".replace("-", _MINUS)


def decimal_interval(ends: Sequence[float] | None) -> str:
    """Both ends of an interval of areas or errors: "[0.790, 0.880]"."""
    return ABSENT if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]".replace("-", _MINUS)


def difference_interval(ends: Sequence[float] | None) -> str:
    """Both ends of an interval of a difference, with their signs: "[−0.012, +0.034]"."""
    return ABSENT if ends is None else f"[{ends[0]:+.3f}, {ends[1]:+.3f}]".replace("-", _MINUS)


def listing(names: Sequence[str]) -> str:
    """Join names as a sentence does: "A, B and C"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def augmented(name: str) -> str:
    """Name a model that is scored with test-time augmentation, whether or not the name says so already."""
    return name if name.endswith(AUGMENTED) else name + AUGMENTED


def two_lines(title: str) -> tuple[str, str]:
    """Part the name of a model for a narrow column: what it is of, and how it was made ("" where the name does not say)."""
    for mark in (AUGMENTED, " × "):
        if mark in title:
            first, _, rest = title.partition(mark)
            return first, (mark + rest).strip()
    first, colon, rest = title.partition(": ")
    return first + colon.strip(), rest


def sentence(text: str) -> str:
    """Begin with a capital."""
    return text[:1].upper() + text[1:]


def count(value: float | None) -> str:
    """A whole number with thousands set apart."""
    return ABSENT if _absent(value) else f"{int(value):,}"  # type: ignore[arg-type]


def millions(value: float | None) -> str:
    """A number of parameters."""
    return ABSENT if _absent(value) else f"{value / _MILLION:.1f}{_NARROW_SPACE}M"  # type: ignore[operator]


def rate(value: float | None) -> str:
    """Images per second."""
    return ABSENT if _absent(value) else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"  # type: ignore[operator]


def duration(seconds: float | None) -> str:
    """Seconds as s, min or h."""
    if seconds is None or _absent(seconds):
        return ABSENT
    if seconds < _MINUTE:
        return f"{seconds:.0f}{_NARROW_SPACE}s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.1f}{_NARROW_SPACE}min"
    return f"{seconds / _HOUR:.1f}{_NARROW_SPACE}h"


def phase(name: str | None) -> str:
    """Name of a training phase for a reader."""
    return ABSENT if _absent(name) else PHASES.get(str(name), str(name))


def flatten(record: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Give every leaf of nested settings as ("train.batch_size", "32")."""
    for key, value in record.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping):
            yield from flatten(value, name)
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value)) or ABSENT
        else:
            yield name, ABSENT if value is None else str(value)


def knows_imagenet(trained_on: str) -> bool:
    """Whether weights started from ImageNet photographs, as their record says."""
    text = trained_on.lower()
    return "imagenet" in text and not text.startswith(("not ", "nothing", "random"))


def _absent(value: object) -> bool:
    return value is None or bool(pd.isna(value))  # type: ignore[call-overload]
