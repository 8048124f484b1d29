"""The share of positive cells of one patient, with its interval, and corrected for the model's error rates on validation.

In: probabilities of the cells that the model answers, a threshold, and what validation showed with it. Out: PatientSummary.
Writes: nothing.

The correction is that of Rogan & Gladen (1978): a model that calls some normal cells positive finds positive ones in everybody.
Its interval is that of Lang & Reiczigel (2014), which takes in that sensitivity and specificity were estimated too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from leukolens.decision.threshold import OperatingPoints
from leukolens.evaluation.subjects import wilson_interval

CONFIDENCE = 0.95

Interval = tuple[float, float]

# Added to the images behind sensitivity and specificity, half to the right answers (Lang & Reiczigel 2014).
_PSEUDO_IMAGES = 2
_FEW_CELLS = 30
_SAME_THRESHOLD = 1e-9

_NOT_CONTAINED = (
    "The intervals hold for cells drawn at random from this patient's. They do not contain how the cells were chosen, how "
    "patients and laboratories differ, or cells that the model refused."
)
_CELLS_OF_ONE_SUBJECT = (
    "The correction takes the validation images as independent; many are cells of one subject, so that its interval is too "
    "narrow."
)


@dataclass(frozen=True)
class ErrorRates:
    """What validation showed with a threshold: `sensitivity` of `positives` images, `specificity` of `negatives`."""

    sensitivity: float
    specificity: float
    positives: int
    negatives: int


@dataclass(frozen=True)
class PatientSummary:
    """Of `answered` cells `positive` ones, and their `share`; None where a figure cannot be had.

    `interval` is Wilson's, `corrected_interval` Lang and Reiczigel's, both at 95 % and within 0–1.
    """

    answered: int
    positive: int
    threshold: float
    share: float | None = None
    interval: Interval | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    corrected_share: float | None = None
    corrected_interval: Interval | None = None
    notes: tuple[str, ...] = ()


def summarise_patient(
    probabilities: Sequence[float], threshold: float, points: OperatingPoints | None, left_out: int = 0
) -> PatientSummary:
    """Summarise the cells of one patient.

    Args:
        probabilities: of the positive class, 0–1, of the cells that were answered; may be empty.
        threshold: a cell is positive where its probability is at least this.
        points: what validation showed; None leaves the correction out.
        left_out: cells that were refused or could not be read, for the notes.
    """
    answered, positive = len(probabilities), sum(value >= threshold for value in probabilities)
    notes = _notes_on_cells(answered, left_out)
    rates = None
    if points is None:
        notes.append("Validation's sensitivity and specificity are not recorded with this model: the share is not corrected.")
    else:
        point = points.nearest(threshold)
        rates = ErrorRates(point.sensitivity, point.specificity, points.positives, points.negatives)
        if abs(point.threshold - threshold) > _SAME_THRESHOLD:
            notes.append(f"Sensitivity and specificity are those at the threshold {point.threshold:g}, the nearest recorded.")
    if not answered:
        return PatientSummary(answered, positive, threshold, None, None, *_told(rates), notes=tuple(notes))
    share = positive / answered
    corrected = corrected_share(share, rates) if rates else None
    if rates and corrected is None:
        notes.append("With this threshold the model does no better than chance on validation: the share cannot be corrected.")
    elif rates:
        notes.append(_CELLS_OF_ONE_SUBJECT)
    return PatientSummary(
        answered,
        positive,
        threshold,
        share,
        _around(share, wilson_interval(share, answered, CONFIDENCE)),
        *_told(rates),
        corrected_share=corrected,
        corrected_interval=corrected_interval(positive, answered, rates) if rates and corrected is not None else None,
        notes=(*notes, _NOT_CONTAINED),
    )


def corrected_share(share: float, rates: ErrorRates) -> float | None:
    """Share of truly positive cells behind an observed `share`, 0–1 (Rogan & Gladen 1978, Am J Epidemiol 107:71–76).

    None where sensitivity and specificity sum to 1 or less: then what is called positive says nothing.
    """
    gain = rates.sensitivity + rates.specificity - 1
    return _within((share + rates.specificity - 1) / gain) if gain > 0 else None


def corrected_interval(positive: int, cells: int, rates: ErrorRates, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the corrected share, 0–1 (Lang & Reiczigel 2014, Prev Vet Med 113:13–22).

    Args:
        positive: cells called positive.
        cells: all cells, 1 at least.
        rates: with a sum of sensitivity and specificity above 1.
        confidence: such as 0.95.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    tried = cells + z**2
    share = (positive + z**2 / 2) / tried
    sensitivity, of_sensitivity = _shrunk(rates.sensitivity, rates.positives)
    specificity, of_specificity = _shrunk(rates.specificity, rates.negatives)
    gain = sensitivity + specificity - 1
    if gain <= 0:  # so few validation images that they do not rule out chance
        return 0.0, 1.0
    centre = (share + specificity - 1) / gain
    shift = 2 * z**2 * (centre * of_sensitivity - (1 - centre) * of_specificity)
    variance = share * (1 - share) / tried + centre**2 * of_sensitivity + (1 - centre) ** 2 * of_specificity
    half = z * math.sqrt(variance) / gain
    return _within(centre + shift - half), _within(centre + shift + half)


def _shrunk(rate: float, images: int) -> tuple[float, float]:
    """A rate drawn towards a half, and its variance."""
    tried = images + _PSEUDO_IMAGES
    shrunk = (rate * images + _PSEUDO_IMAGES / 2) / tried
    return shrunk, shrunk * (1 - shrunk) / tried


def _within(share: float) -> float:
    return min(1.0, max(0.0, share))


def _around(share: float, interval: Interval) -> Interval:
    """An interval that rounding has not put beside its share."""
    return min(share, interval[0]), max(share, interval[1])


def _told(rates: ErrorRates | None) -> tuple[float | None, float | None]:
    return (None, None) if rates is None else (rates.sensitivity, rates.specificity)


def _notes_on_cells(answered: int, left_out: int) -> list[str]:
    notes = []
    if not answered:
        notes.append("No cell was answered: there is no share.")
    elif answered < _FEW_CELLS:
        notes.append(f"Only {answered} cells: the interval is wide.")
    if left_out:
        notes.append(f"{left_out} further cells were refused or could not be read; they count as neither.")
    return notes
