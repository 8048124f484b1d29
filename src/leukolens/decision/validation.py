"""The one door to everything that is fitted on validation: no row of another side passes it.

In: rows of a predictions table, or logits with the side of each row. Out: ValidationScores. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import VALIDATION, Record
from leukolens.errors import ArtifactError, LeakError

# Scores of exactly 0 have no logarithm; 1e-12 lies far below what a table of predictions can be sure of.
SMALLEST_SCORE = 1e-12


@dataclass(frozen=True)
class ValidationScores:
    """What temperature, threshold and prediction sets are fitted on: labelled images of the validation side, no other.

    Args:
        classes: names, C of them; their positions are the columns of `logits`.
        positive: names of the positive class or classes; may be empty.
        y_true: int64 [n], position of each image's class.
        logits: float64 [n, C], uncalibrated; logarithms of probabilities will do, the softmax is the same.
        groups: subject group of each image, n; None where the subject is unknown.
        sides: side of each image, n; every one must be "validation".
        images: paths, n, for messages; may be empty.

    Raises:
        LeakError: a row is on another side than validation.
        ArtifactError: no rows, lengths that differ, an unknown class, or a logit that is no finite number.
    """

    classes: tuple[str, ...]
    positive: tuple[str, ...]
    y_true: NDArray[np.int64]
    logits: NDArray[np.float64]
    groups: tuple[str | None, ...]
    sides: Sequence[str]
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _refuse_other_sides(self.sides, self.images)
        _require_rows(self)

    @classmethod
    def of_rows(
        cls, rows: pd.DataFrame, logits: NDArray[np.floating], classes: Sequence[str], positive: Sequence[str]
    ) -> ValidationScores:
        """Take labelled rows of the validation side and their logits.

        Args:
            rows: n rows with `image`, `group`, `side` and `y_true` (class names).
            logits: [n, C], uncalibrated, in the order of the rows.
            classes: names in the order of the logits.
            positive: names of the positive classes; may be empty.

        Raises:
            LeakError: a row is on another side; names its image.
            ArtifactError: no rows, a class that is not among `classes`, or a logit that is no finite number.
        """
        return cls(
            classes=tuple(classes),
            positive=tuple(positive),
            y_true=np.asarray(pd.Index(list(classes)).get_indexer(pd.Index(rows["y_true"])), dtype=np.int64),
            logits=np.asarray(logits, dtype=np.float64),
            groups=tuple(None if pd.isna(group) else str(group) for group in rows["group"]),
            sides=tuple(rows["side"]),
            images=tuple(rows["image"]),
        )

    @classmethod
    def of_table(cls, table: pd.DataFrame, record: Record) -> ValidationScores:
        """Take the validation rows of one repeat and fold of a predictions table, and that table's record.

        The scores may be uncalibrated or calibrated; what is fitted holds for scores of the same kind.

        Raises:
            LeakError: a row is on another side; names its image.
            ArtifactError: no rows, or a class that is not in the record.
        """
        scores = table[[f"score_{name}" for name in record["classes"]]].to_numpy(np.float64)
        return cls.of_rows(table, log_scores(scores), record["classes"], record["positive"])

    @property
    def positive_positions(self) -> list[int]:
        """Columns of the positive class or classes."""
        return [self.classes.index(name) for name in self.positive]

    @property
    def lack(self) -> str | None:
        """Why neither temperature nor threshold can be fitted, as a half sentence; None where they can."""
        present = np.unique(self.y_true)
        if len(present) > 1:
            return None
        return f"the {len(self.y_true)} validation images are all of class {self.classes[present[0]]}"

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """int64 [n], number of each image's subject group from 0; an image of unknown subject is a group of its own."""
        keys = [(1, str(row)) if group is None else (0, group) for row, group in enumerate(self.groups)]
        number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        return np.array([number[key] for key in keys], dtype=np.int64)


def log_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithms of probabilities, which serve as logits; those below SMALLEST_SCORE count as that."""
    logs: NDArray[np.float64] = np.log(np.clip(scores, SMALLEST_SCORE, 1.0))
    return logs


def _refuse_other_sides(sides: Sequence[str], images: Sequence[str]) -> None:
    strangers = [row for row, side in enumerate(sides) if side != VALIDATION]
    if not strangers:
        return
    first = strangers[0]
    name = images[first] if len(images) else f"Row {first}"
    more = f", and {len(strangers) - 1} more rows that are not validation" if len(strangers) > 1 else ""
    raise LeakError(
        f"{name} is not a validation image: nothing may be fitted on it.",
        expected="rows of the side validation only, for temperature, threshold and prediction sets",
        received=f"side {sides[first]}{more}",
        remedy='pass the validation rows: table[table["side"] == "validation"]',
    )


def _require_rows(scores: ValidationScores) -> None:
    count = len(scores.y_true)
    lengths = {len(scores.logits), len(scores.groups), len(scores.sides), len(scores.images) or count}
    if not count or lengths != {count} or scores.logits.shape[1:] != (len(scores.classes),):
        raise ArtifactError(
            "The validation scores do not fit together.",
            expected=f"at least one image, and for each a class, {len(scores.classes)} logits, a group and a side",
            received=f"{count} classes, logits {list(scores.logits.shape)}, {len(scores.groups)} groups, "
            f"{len(scores.sides)} sides",
            remedy="score the validation side again",
        )
    bad = ~np.isfinite(scores.logits).all(axis=1) | (scores.y_true < 0) | (scores.y_true >= len(scores.classes))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ArtifactError(
            f"{scores.images[row] if scores.images else f'Row {row}'} cannot be used to fit anything.",
            expected=f"finite scores and a class among {', '.join(scores.classes)}",
            received=f"scores {scores.logits[row].tolist()} and class position {scores.y_true[row]}",
            remedy="score the validation side again, or correct the label",
        )
