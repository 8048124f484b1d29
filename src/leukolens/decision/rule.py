"""What a network answers, and when it does not: the rule that was fitted on validation and travels with the weights.

In: ValidationScores and DecisionSettings; later logits. Out: Decision, and by it Answers and refusals. Writes: nothing;
its record becomes decision.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukolens.artifacts import Record
from leukolens.decision.conformal import Conformal, fit_conformal, groups_needed
from leukolens.decision.temperature import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    fit_temperature,
    probabilities,
)
from leukolens.decision.threshold import (
    OperatingPoint,
    OperatingPoints,
    Threshold,
    choose_threshold,
    operating_points,
    positive_probability,
)
from leukolens.decision.validation import ValidationScores
from leukolens.errors import ArtifactError
from leukolens.settings import DecisionSettings

UNLIKE_TRAINING = "unlike the training images"
NO_CLASS_FITS = "uncertain: no class fits"
# An outlier score is a distance over the largest accepted.
_LARGEST_OUTLIER_SCORE = 1.0
_NEAR_BOUND = 1.01
_CLASSES_WITH_A_THRESHOLD = 2


@dataclass(frozen=True)
class Answers:
    """`probabilities` float64 [n, C], calibrated; `y_pred` int64 [n], position of the predicted class."""

    probabilities: NDArray[np.float64]
    y_pred: NDArray[np.int64]

    def columns(self, classes: Sequence[str], positive: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Give the answers as columns of predictions.

        Args:
            classes: names, whose positions are the columns of `probabilities`.
            positive: names of the positive class or classes; may be empty.

        Returns:
            `y_pred` (name of the predicted class), `y_score` (0–1, probability of the positive class or the sum over
            several; NaN where none is named) and `score_<class>`, n values each.
        """
        positions = [classes.index(name) for name in positive]
        unnamed = np.full(len(self.y_pred), np.nan)
        return {
            "y_pred": np.array(classes)[self.y_pred],
            "y_score": positive_probability(self.probabilities, positions) if positions else unnamed,
            **{f"score_{name}": self.probabilities[:, index] for index, name in enumerate(classes)},
        }


@dataclass(frozen=True)
class Decision:
    """Everything that was fitted on validation to turn logits into answers.

    Args:
        temperature: what logits are divided by.
        threshold: on the score of the positive class; None where the highest score decides.
        conformal: what prediction sets are made by.
        classes: names; positions are the columns of logits.
        positive: names of the positive class or classes.
        validation_images: number of images that all this was fitted on.
        validation_groups: number of their subject groups, an image of unknown subject counted as one.
        notes: what a reader must know of the fit, as sentences.
        operating_points: what other thresholds would have done on validation; None without a fitted threshold, and in
            decisions of before they were recorded.
    """

    temperature: float
    threshold: Threshold | None
    conformal: Conformal
    classes: tuple[str, ...]
    positive: tuple[str, ...]
    validation_images: int
    validation_groups: int
    notes: tuple[str, ...] = ()
    operating_points: OperatingPoints | None = None

    def apply(self, logits: NDArray[np.floating]) -> Answers:
        """Answer for logits [n, C]: with a threshold, positive where the positive class reaches it; else the highest."""
        scores = probabilities(logits, self.temperature)
        return Answers(scores, self.predicted(scores))

    def predicted(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Position of the predicted class, int64 [n], for calibrated probabilities [n, C]."""
        if self.threshold is None:
            return np.asarray(scores.argmax(axis=1), dtype=np.int64)
        positive = self.classes.index(self.positive[0])
        return np.where(scores[:, positive] >= self.threshold.value, positive, 1 - positive).astype(np.int64)

    def prediction_sets(self, scores: NDArray[np.float64], alpha: float) -> NDArray[np.bool_]:
        """Sets of classes, bool [n, C], for calibrated probabilities [n, C], at most `alpha` of them wrong.

        A set that lacks the threshold's class is widened by it, so that no answer contradicts its set; an empty one stays.
        """
        sets = self.conformal.prediction_sets(scores, alpha)
        fits = sets.any(axis=1)
        sets[fits, self.predicted(scores)[fits]] = True
        return sets

    def refusals(
        self, scores: NDArray[np.float64], outlier_score: NDArray[np.float64] | None, alpha: float
    ) -> list[str | None]:
        """Why each image is not answered; None where it is.

        An image is answered where its prediction set holds exactly the predicted class and it is like the training
        images.

        Args:
            scores: calibrated probabilities [n, C].
            outlier_score: distance / limit [n]; None leaves the question out.
            alpha: largest share of wrong sets that is accepted, between 0 and 1.
        """
        reasons = [self._uncertainty(row) for row in self.prediction_sets(scores, alpha)]
        if outlier_score is None:
            return reasons
        unlike = outlier_score > _LARGEST_OUTLIER_SCORE
        return [UNLIKE_TRAINING if strange else reason for strange, reason in zip(unlike, reasons, strict=True)]

    def caution(self, alpha: float) -> str | None:
        """Say that no image is answered at this `alpha`, where validation had too few subject groups; else None."""
        groups, needed = self.conformal.groups, groups_needed(alpha)
        if groups >= needed:
            return None
        return (f"No image is answered: {alpha:g} wrong takes {needed} subject groups in validation, which had {groups}; "
                f"with these, {1 / (groups + 1):.2g} is the least.")  # fmt: skip

    def entry(self, repeat: int, fold: int) -> Record:
        """Give what a predictions record says, under `decisions`, of the decision behind the rows of one repeat and fold."""
        threshold = self.threshold
        return {
            "repeat": repeat,
            "fold": fold,
            "temperature": self.temperature,
            "threshold": threshold.value if threshold else None,
            "aim": threshold.aim if threshold else None,
            "sensitivity": threshold.sensitivity if threshold else None,
        }

    def to_record(self) -> Record:
        """Give a JSON object without NaN or infinity."""
        conformal = {
            "scores": self.conformal.scores.tolist(),
            "weights": self.conformal.weights.tolist(),
            "groups": self.conformal.groups,
        }
        names = ("temperature", "validation_images", "validation_groups")
        return {
            **{name: getattr(self, name) for name in names},
            "threshold": asdict(self.threshold) if self.threshold else None,
            "classes": list(self.classes),
            "positive": list(self.positive),
            "notes": list(self.notes),
            "conformal": conformal,
            "operating_points": asdict(self.operating_points) if self.operating_points else None,
        }

    @classmethod
    def from_record(cls, record: Record) -> Decision:
        """Take back what `to_record` gave, further keys beside it ignored; raises ArtifactError where keys are missing."""
        try:
            conformal = record["conformal"]
            scores, weights = (np.array(conformal[name], dtype=np.float64) for name in ("scores", "weights"))
            return cls(
                temperature=float(record["temperature"]),
                threshold=None if record["threshold"] is None else Threshold(**record["threshold"]),
                conformal=Conformal(scores, weights, int(conformal["groups"])),
                classes=tuple(record["classes"]),
                positive=tuple(record["positive"]),
                validation_images=int(record["validation_images"]),
                validation_groups=int(record["validation_groups"]),
                notes=tuple(record["notes"]),
                operating_points=_points_of(record.get("operating_points")),
            )._checked()
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(
                "The record of the decision cannot be used.",
                expected="temperature, threshold, classes, positive and prediction-set scores, written by leukolens",
                received=f"{type(error).__name__}: {error}",
                remedy="run `leukolens train` again on this run",
            ) from error

    def _checked(self) -> Decision:
        """Give itself back; raises ValueError where it cannot be computed with, as a record from a stranger may be."""
        conformal, value = self.conformal, 0.0 if self.threshold is None else self.threshold.value
        if not all(isinstance(name, str) for name in (*self.classes, *self.positive)) or set(self.positive) - set(self.classes):
            raise ValueError(f"classes {self.classes!r:.100}, positive {self.positive!r:.100}")
        if self.threshold is not None and (len(self.classes) != _CLASSES_WITH_A_THRESHOLD or not self.positive):
            raise ValueError(f"a threshold between {len(self.classes)} classes, {len(self.positive)} of them positive")
        if not (0 < self.temperature < np.inf and isinstance(value, int | float) and 0 <= value <= np.inf):
            raise ValueError(f"temperature {self.temperature}, threshold {value!r:.100}")
        if conformal.scores.ndim != 1 or conformal.scores.shape != conformal.weights.shape or not len(conformal.scores):
            raise ValueError(f"{conformal.scores.shape} scores of prediction sets, {conformal.weights.shape} weights")
        if not (np.isfinite(conformal.scores).all() and np.isfinite(conformal.weights).all()):
            raise ValueError("scores of prediction sets that are not finite")
        return self

    def _uncertainty(self, members: NDArray[np.bool_]) -> str | None:
        names = [self.classes[position] for position in np.flatnonzero(members)]
        if len(names) == 1:
            return None
        return f"uncertain: {_either(names)}" if names else NO_CLASS_FITS


def fit_decision(validation: ValidationScores, settings: DecisionSettings) -> Decision:
    """Fit temperature, then threshold and prediction sets on the scores that it gives."""
    temperature = fit_temperature(validation)
    threshold = choose_threshold(validation, temperature, settings)
    return Decision(
        temperature=temperature,
        threshold=threshold,
        conformal=fit_conformal(validation, temperature),
        classes=validation.classes,
        positive=validation.positive,
        validation_images=len(validation.y_true),
        validation_groups=int(validation.clusters.max()) + 1,
        notes=tuple(_notes(validation, temperature)),
        operating_points=operating_points(validation, temperature, threshold),
    )


def _points_of(record: Record | None) -> OperatingPoints | None:
    """Read what was recorded of other thresholds; None of a run that was decided before they were."""
    if record is None:
        return None
    points = tuple(OperatingPoint(**point) for point in record["points"])
    if not points:
        raise ValueError("operating_points without a point")
    return OperatingPoints(int(record["positives"]), int(record["negatives"]), points)


def _notes(validation: ValidationScores, temperature: float) -> list[str]:
    notes = []
    if validation.lack:
        notes.append(f"The temperature stays 1 and a threshold 0.5: {validation.lack}.")
    if temperature * _NEAR_BOUND > HIGHEST_TEMPERATURE or temperature < LOWEST_TEMPERATURE * _NEAR_BOUND:
        notes.append(f"The temperature stands at the end of its range, {temperature:.3g}: do not read scores as chances.")
    if unknown := sum(group is None for group in validation.groups):
        notes.append(
            f"The subject of {unknown} of {len(validation.groups)} validation images is unknown: each counts as a subject "
            "of its own, and the prediction sets promise nothing for new subjects."
        )
    return notes


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
