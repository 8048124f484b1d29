"""The figures of merit of one side of a split, as pure functions of arrays.

In: true classes, predicted classes and class probabilities of n images, or rows of predictions that hold them. Out:
JSON-able numbers, lists and notes. Writes: nothing.

A figure that the data cannot define (AUROC with one class only) is None, and `notes` says why; it is never NaN and
never a convenient 0. Wherever scikit-learn has the metric, its definition is the one used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics as sk

from leukolens.artifacts import Record

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Enough for a curve of 10 cm in print; a curve of 10,000 images would weigh more than the rest of the file.
MAX_CURVE_POINTS = 200
_BINARY = 2


@dataclass(frozen=True)
class Scored:
    """What is known of n images: the input of every metric.

    `classes` are the class names in order, `positive` the names of those that count as positive (may be empty),
    `y_true` and `y_pred` int64 [n] positions in `classes`, `scores` float64 [n, classes] probabilities (0–1).
    """

    classes: tuple[str, ...]
    positive: tuple[str, ...]
    y_true: Indices
    y_pred: Indices
    scores: Floats

    @property
    def positive_indices(self) -> list[int]:
        """Positions of the positive classes; empty where none is named."""
        return [self.classes.index(name) for name in self.positive]

    @property
    def is_positive(self) -> Flags:
        """Bool [n]: the true class is one of the positive ones."""
        return np.isin(self.y_true, self.positive_indices)

    @property
    def predicted_positive(self) -> Flags:
        """Bool [n]: the predicted class is one of the positive ones."""
        return np.isin(self.y_pred, self.positive_indices)

    @property
    def positive_score(self) -> Floats:
        """Float64 [n]: probability that the image is of any positive class, the sum of theirs."""
        total: Floats = self.scores[:, self.positive_indices].sum(axis=1)
        return total


def scored_of(table: pd.DataFrame, record: Record) -> Scored:
    """Turn rows of predictions into arrays: class positions [n] and scores [n, classes]."""
    classes = tuple(record["classes"])
    position = {name: index for index, name in enumerate(classes)}
    return Scored(
        classes=classes,
        positive=tuple(record["positive"]),
        y_true=np.array([position[name] for name in table["y_true"]], np.int64),
        y_pred=np.array([position[name] for name in table["y_pred"]], np.int64),
        scores=table[[f"score_{name}" for name in classes]].to_numpy(np.float64),
    )


def measure(scored: Scored) -> dict[str, Any]:
    """Give every figure of one side.

    Returns:
        `images`, `counts` per class, `accuracy`, `balanced_accuracy`, `mcc`, `{precision,recall,f1}_{weighted,macro}`,
        `sensitivity`, `specificity`, `auroc`, `auprc` (positive set against the rest), with more than two classes also
        `auroc_macro_ovr` and `auprc_macro_ovr`, `per_class`, `confusion_matrix`, `curves`, `notes`.
    """
    return {
        "images": len(scored.y_true),
        "counts": {name: int((scored.y_true == index).sum()) for index, name in enumerate(scored.classes)},
        **overall(scored),
        **averages(scored),
        **positive_against_rest(scored),
        **macro_one_vs_rest(scored),
        "per_class": per_class(scored),
        "confusion_matrix": confusion_matrix(scored),
        "curves": curves(scored),
        "notes": notes(scored),
    }


def overall(scored: Scored) -> dict[str, float | None]:
    """Accuracy, balanced accuracy and Matthews' correlation coefficient.

    Balanced accuracy is the mean recall of the classes that occur (Brodersen et al. 2010; scikit-learn's
    `balanced_accuracy_score`). MCC (Matthews 1975; Gorodkin 2004 for more classes) is 0 where only one class is ever
    predicted, its limit there. Both are None where all images are of one class.
    """
    true, predicted = scored.y_true, scored.y_pred
    present = np.unique(true)
    several = len(present) > 1
    recall = sk.recall_score(true, predicted, labels=present, average="macro", zero_division=0)
    return {
        "accuracy": float(np.mean(true == predicted)),
        "balanced_accuracy": float(recall) if several else None,
        "mcc": float(sk.matthews_corrcoef(true, predicted)) if several else None,
    }


def averages(scored: Scored) -> dict[str, float]:
    """Precision, recall and F1 averaged over classes, `_weighted` by the true counts or `_macro`, all classes alike.

    As scikit-learn's `precision_recall_fscore_support` (van Rijsbergen 1979 for F): over the classes that occur as
    true or predicted; a class that is never predicted has precision 0. `recall_weighted` equals accuracy.
    """
    figures: dict[str, float] = {}
    for average in ("weighted", "macro"):
        values = sk.precision_recall_fscore_support(scored.y_true, scored.y_pred, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), values[:3], strict=True):
            figures[f"{name}_{average}"] = float(value)
    return figures


def positive_against_rest(scored: Scored) -> dict[str, float | None]:
    """Sensitivity, specificity, AUROC and AUPRC of the positive class or classes against all others.

    Sensitivity = TP / (TP + FN), specificity = TN / (TN + FP) (Yerushalmy 1947), on the predicted classes; the areas
    on the summed probability. All None where no positive class is named.
    """
    if not scored.positive:
        return dict.fromkeys(("sensitivity", "specificity", "auroc", "auprc"))
    truth, predicted = scored.is_positive, scored.predicted_positive
    return {
        "sensitivity": _share(predicted[truth]),
        "specificity": _share(~predicted[~truth]),
        "auroc": auroc(truth, scored.positive_score),
        "auprc": auprc(truth, scored.positive_score),
    }


def has_folds(table: pd.DataFrame) -> bool:
    """Whether rows of predictions are of more than one fold in any repeat: the pooled scores are then of several models."""
    return "fold" in table and bool((table.groupby("repeat")["fold"].nunique() > 1).any())


def within_folds(scored: Scored, fold: Indices) -> dict[str, float | None]:
    """Give `auroc_within_folds` of the positive class or classes; None where none is named or no fold holds both kinds.

    Args:
        scored: n images.
        fold: int64 [n], fold of each.
    """
    area = auroc_within_folds(scored.is_positive, scored.positive_score, fold) if scored.positive else None
    return {"auroc_within_folds": area}


def auroc_within_folds(truth: Flags, score: Floats, fold: Indices) -> float | None:
    """Chance that a positive image scores above a negative one of the same fold.

    Each fold of a cross-validation has a model, and so a scale of scores, of its own. The pooled AUROC also compares scores
    of different models; where the shares of the classes differ by fold, that tends to make it too low: a fold with more
    positive images than others leaves fewer to train on, and scores lower (Parker, Günter & Bedo 2007; Airola et al. 2011, who
    compare pooling with averaging). Here the AUROC inside each fold is averaged (Forman & Scholz 2010), weighted by its
    pairs of a positive and a negative image: the share of the pairs of one fold that are in the right order.

    Args:
        truth: bool [n].
        score: float64 [n], higher for the positive ones; ties count one half.
        fold: int64 [n]; a fold of one kind only has no pairs and no weight.

    Returns:
        0–1, or None where no fold holds both kinds.
    """
    ordered = pairs = 0.0
    for each in np.unique(fold):
        members = fold == each
        area, positives = auroc(truth[members], score[members]), int(truth[members].sum())
        if area is not None:
            of_fold = positives * (int(members.sum()) - positives)
            ordered, pairs = ordered + area * of_fold, pairs + of_fold
    return ordered / pairs if pairs else None


def macro_one_vs_rest(scored: Scored) -> dict[str, float | None]:
    """Mean over the classes of each one's AUROC and AUPRC against the rest; empty with two classes.

    As scikit-learn's `roc_auc_score(multi_class="ovr", average="macro")` (Provost & Domingos 2000). None where a class
    has no image: a mean over the others would be another figure under the same name.
    """
    if len(scored.classes) == _BINARY:
        return {}
    classes = per_class(scored).values()
    return {f"{name}_macro_ovr": _mean_or_none([each[name] for each in classes]) for name in ("auroc", "auprc")}


def per_class(scored: Scored) -> dict[str, dict[str, float | int | None]]:
    """Precision, recall, F1, support (true images), AUROC and AUPRC (one against the rest) of each class.

    Precision is None where the class is never predicted, recall where it never occurs, F1 = 2TP / (2TP + FP + FN)
    where neither.
    """
    values = sk.precision_recall_fscore_support(
        scored.y_true, scored.y_pred, labels=range(len(scored.classes)), average=None, zero_division=0
    )
    figures: dict[str, dict[str, float | int | None]] = {}
    for index, name in enumerate(scored.classes):
        precision, recall, f1, support = (column[index] for column in values)
        truth, predicted = scored.y_true == index, bool((scored.y_pred == index).any())
        figures[name] = {
            "precision": float(precision) if predicted else None,
            "recall": float(recall) if support else None,
            "f1": float(f1) if support or predicted else None,
            "support": int(support),
            "auroc": auroc(truth, scored.scores[:, index]),
            "auprc": auprc(truth, scored.scores[:, index]),
        }
    return figures


def auroc(truth: Flags, score: Floats) -> float | None:
    """Area under the ROC curve (Hanley & McNeil 1982): the chance that a positive scores above a negative.

    Args:
        truth: bool [n].
        score: float64 [n], higher for the positive ones; ties count one half.

    Returns:
        0–1, or None where `truth` is all true or all false.
    """
    return float(sk.roc_auc_score(truth, score)) if _both(truth) else None


def auprc(truth: Flags, score: Floats) -> float | None:
    """Area under the precision-recall curve as average precision, without interpolation (Davis & Goadrich 2006).

    Args and Returns are those of `auroc`; chance level is the share of positives, not one half.
    """
    return float(sk.average_precision_score(truth, score)) if _both(truth) else None


def confusion_matrix(scored: Scored) -> list[list[int]]:
    """Count images by true class (rows) and predicted class (columns), both in class order."""
    size = len(scored.classes)
    matrix = np.zeros((size, size), np.int64)
    np.add.at(matrix, (scored.y_true, scored.y_pred), 1)
    rows: list[list[int]] = matrix.tolist()
    return rows


def curves(scored: Scored) -> dict[str, Any]:
    """ROC and precision-recall points for drawing, at most MAX_CURVE_POINTS each.

    Returns:
        `{"positive": {"roc": {"fpr", "tpr"}, "pr": {"recall", "precision"}} | None, "per_class": {name: the same}}`;
        `per_class` is empty with two classes, whose curves mirror each other.
    """
    positive = _curve_pair(scored.is_positive, scored.positive_score) if scored.positive else None
    several = len(scored.classes) > _BINARY
    return {
        "positive": positive,
        "per_class": {
            name: _curve_pair(scored.y_true == index, scored.scores[:, index])
            for index, name in enumerate(scored.classes)
            if several
        },
    }


def accuracy_per_subject(subjects: Sequence[str | None], scored: Scored) -> list[dict[str, Any]]:
    """Share of right images of each subject, lowest first (the C-NMC 2019 organisers ask for it).

    Args:
        subjects: n ids; images with None belong to no entry.
        scored: the same n images.

    Returns:
        Entries `subject`, `label` (its class, or several joined by "+"), `images`, `correct`, `accuracy`.
    """
    members: dict[str, list[int]] = {}
    for position, subject in enumerate(subjects):
        if subject is not None:
            members.setdefault(subject, []).append(position)
    entries = []
    for subject, positions in members.items():
        true = scored.y_true[positions]
        correct = int((true == scored.y_pred[positions]).sum())
        label = "+".join(scored.classes[index] for index in np.unique(true))
        entries.append({"subject": subject, "label": label, "images": len(positions), "correct": correct,
                        "accuracy": correct / len(positions)})  # fmt: skip
    return sorted(entries, key=lambda entry: (entry["accuracy"], -entry["images"], entry["subject"]))


def notes(scored: Scored) -> list[str]:
    """Say, one sentence each, which figures of this side are undefined and why."""
    sentences = []
    for index, name in enumerate(scored.classes):
        if not (scored.y_true == index).any():
            sentences.append(f"No image is of class {name}: its recall, AUROC and AUPRC are undefined.")
        if not (scored.y_pred == index).any():
            sentences.append(f"No image was predicted as {name}: its precision is undefined, and 0 in averages.")
    if len(np.unique(scored.y_true)) == 1:
        sentences.append("All images are of one class: balanced accuracy and MCC are undefined.")
    if not scored.positive:
        sentences.append("No positive class is named: sensitivity, specificity, AUROC and AUPRC are undefined.")
    elif not scored.is_positive.any():
        sentences.append("No image is of a positive class: sensitivity, AUROC and AUPRC are undefined.")
    elif scored.is_positive.all():
        sentences.append("Every image is of a positive class: specificity, AUROC and AUPRC are undefined.")
    return sentences


def _curve_pair(truth: Flags, score: Floats) -> dict[str, dict[str, list[float]]] | None:
    if not _both(truth):
        return None
    false_positive, true_positive, _ = sk.roc_curve(truth, score)
    precision, recall, _ = sk.precision_recall_curve(truth, score)
    roc = _thin(len(false_positive))
    pr = _thin(len(precision))
    return {
        "roc": {"fpr": false_positive[roc].tolist(), "tpr": true_positive[roc].tolist()},
        "pr": {"recall": recall[pr].tolist(), "precision": precision[pr].tolist()},
    }


def _thin(points: int) -> Indices:
    """Give at most MAX_CURVE_POINTS evenly spread positions, the first and the last among them."""
    return np.unique(np.linspace(0, points - 1, min(points, MAX_CURVE_POINTS)).round().astype(np.int64))


def _both(truth: Flags) -> bool:
    return bool(truth.any() and not truth.all())


def _share(flags: Flags) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _mean_or_none(values: Sequence[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
