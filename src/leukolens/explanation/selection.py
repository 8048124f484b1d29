"""Which images are worth a map: those that the model was least sure of, and the mistakes that it was surest of.

In: a table of predictions, the decision behind it and ExplainSettings. Out: its rows, least certain first. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from leukolens.artifacts import TEST
from leukolens.errors import SettingsError
from leukolens.settings import MOST_IMAGES_EXPLAINED, ExplainSettings

MISTAKE, UNCERTAIN, NAMED = "mistake", "uncertain", "named"
# A third of the sheet at most is for mistakes: of a good model they are few, of a poor one they would fill it.
_PARTS_PER_MISTAKES = 3


def with_margin(table: pd.DataFrame, classes: Sequence[str], threshold: float | None) -> pd.DataFrame:
    """Add `margin` (0–1): how far each answer was from the other one.

    Args:
        table: rows of predictions.
        classes: their classes; of each there is a column `score_<class>`.
        threshold: the margin is the distance of `y_score` from it; None, where the highest score decides, means the
            highest score less the second.
    """
    if threshold is not None:
        return table.assign(margin=(table["y_score"] - threshold).abs())
    scores = np.sort(table[[f"score_{name}" for name in classes]].to_numpy(), axis=1)
    return table.assign(margin=scores[:, -1] - scores[:, -2])


def chosen(table: pd.DataFrame, settings: ExplainSettings) -> pd.DataFrame:
    """Give the rows to be explained, by `margin` from the smallest, with the reason in `chosen_as`.

    Those that `settings.images` names, of any side; else, of the test side, the mistakes with the largest margin, a third of
    `count` at most, and the images with the smallest.

    Raises:
        SettingsError: a name or pattern fits no image, the names fit too many, or there is no test image.
    """
    rows = _named(table, settings.images) if settings.images else _telling(table, settings.count)
    return rows.sort_values(["margin", "image"]).reset_index(drop=True)


def check_named(table: pd.DataFrame, patterns: Sequence[str]) -> None:
    """Raise the SettingsError of `chosen` where a name or pattern fits no image in `table`, or they fit too many."""
    _named(table, patterns)


def _named(table: pd.DataFrame, patterns: Sequence[str]) -> pd.DataFrame:
    wanted: set[str] = set()
    for pattern in patterns:
        # The name itself first: it may hold brackets.
        found = {name for name in table["image"] if name == pattern or fnmatchcase(name, pattern)}
        if not found:
            raise SettingsError(
                f"No image to explain is called {pattern}.",
                expected=f"a path below the data's folder, or a pattern with * and ?, as in {table['image'].min()}",
                received=f"{pattern}, which fits none of {len(table)} images",
                remedy="correct --images; training images of a split are explained with --all only",
            )
        wanted |= found
    if len(wanted) > MOST_IMAGES_EXPLAINED:
        raise SettingsError(
            "These are too many images for one sheet.",
            expected=f"at most {MOST_IMAGES_EXPLAINED}",
            received=f"{len(wanted)}, by {', '.join(patterns)}",
            remedy="give --images a narrower pattern, or leave it out for the least certain and the mistakes",
        )
    return table[table["image"].isin(wanted)].assign(chosen_as=NAMED)


def _telling(table: pd.DataFrame, count: int) -> pd.DataFrame:
    test = table[table["side"] == TEST].sort_values(["margin", "image"])
    if test.empty:
        raise SettingsError(
            "There is no test image to choose from.",
            expected="images that the run was neither trained nor validated on",
            received=f"{len(table)} images of other sides",
            remedy="name images with --images, or pass the splits of the run",
        )
    is_wrong = test["y_true"].notna() & (test["y_true"] != test["y_pred"]).fillna(value=False)
    mistakes = test[is_wrong].tail(count // _PARTS_PER_MISTAKES)
    others = test.drop(mistakes.index).head(count - len(mistakes))
    return pd.concat([mistakes.assign(chosen_as=MISTAKE), others.assign(chosen_as=UNCERTAIN)])
