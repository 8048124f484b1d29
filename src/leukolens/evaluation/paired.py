"""Models against each other on the same images: which differences are more than the luck of the subjects at hand.

In: predictions of several models for the same test images. Out: the record of analysis.json (`compare_models`) and that of
leak.json (`leak_difference`). Writes: nothing.

All models are measured on the same resamples of whole subject groups (`resampling`), so that what makes a resample easy or
hard for all of them cancels in a difference. docs/decisions/0014 says why each method was taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukolens.artifacts import TEST, VALIDATION, Predictions, Record
from leukolens.errors import ArtifactError
from leukolens.evaluation.comparison import OnValidation, best_on_validation
from leukolens.evaluation.intervals import RANGES, cautions, interval_of, refusal
from leukolens.evaluation.resampling import Clusters, measured_figures, resample, resampled_figures
from leukolens.evaluation.significance import LEAST_IMAGES_PER_CLASS, AreaComponents, delong_test, holm
from leukolens.settings import EvaluateSettings

Floats = NDArray[np.float64]

NETWORK, BASELINE, ENSEMBLE = "network", "baseline", "ensemble"
HEAD_PHASE = "head"

# Two models of the same ranking may differ by rounding, about 1e-16; a real difference is at least 1 / n^2 of n images.
_DECIMALS = 12
LEAST_P = 1e-6
"""Smaller p-values are given as this: that far out, neither a t distribution nor 2,000 resamples are to be trusted."""

# Steps that halve the range of log p from LEAST_P to 1: more than 9 digits.
_HALVINGS = 32

_Interval = tuple[float, float]


@dataclass(frozen=True)
class _Drawn:
    """One model on the shared resamples.

    `table`: its test rows, sorted by repeat and image. `value`: the figure on them, None where undefined. `samples`
    float64 [B]: the figure of each resample, NaN where undefined.
    """

    record: Record
    table: pd.DataFrame
    value: float | None
    samples: Floats

    @property
    def kind(self) -> str | None:
        """What the record says, "network", "baseline" or "ensemble"; None with test-time augmentation."""
        return None if self.record.get("tta") else self.record.get("kind")

    @property
    def is_constant(self) -> bool:
        """Whether every image has the same scores, as those of the majority baseline of one fold."""
        scores = [f"score_{name}" for name in self.record["classes"]]
        return len(self.table[scores].drop_duplicates()) == 1


@dataclass(frozen=True)
class _Difference:
    """a - b of two models: `value`, its `interval` and two-sided `p` (None where no interval can be given)."""

    value: float
    interval: _Interval | None
    p: float | None

    @property
    def above_zero(self) -> bool | None:
        """Whether the whole interval lies above 0; None without one."""
        return None if self.interval is None else self.interval[0] > 0


@dataclass(frozen=True)
class _Study:
    """Models measured on one set of resamples, in the order of the measured value, best first."""

    figure: str
    settings: EvaluateSettings
    clusters: Clusters
    models: Mapping[str, _Drawn]

    def of_kind(self, *kinds: str) -> list[str]:
        """Names of the models of these kinds whose figure is defined, without those with test-time augmentation."""
        return [name for name, model in self.models.items() if model.kind in kinds and model.value is not None]

    @property
    def note(self) -> str | None:
        """Why there are no intervals, or how far they can be trusted; None where there is nothing to say."""
        reason = refusal(self.clusters, self.settings)
        return reason or " ".join(cautions(self.clusters)) or None

    def interval(self, name: str) -> _Interval | None:
        """Interval of one model's own figure."""
        model = self.models[name]
        if model.value is None:
            return None
        return interval_of(model.samples, model.value, self.clusters, self.settings, self.figure)

    def difference(self, a: str, b: str) -> _Difference:
        """Difference of two models, resample by resample; raises ArtifactError where the figure of either is undefined."""
        return self.mean_difference([(a, b)])

    def mean_difference(self, pairs: Sequence[tuple[str, str]]) -> _Difference:
        """Mean over pairs (a, b) of a - b, with the interval of that mean of each resample."""
        sides = [(self.models[a], self.models[b]) for a, b in pairs]
        values = [_defined(a, self.figure) - _defined(b, self.figure) for a, b in sides]
        samples = np.mean([a.samples - b.samples for a, b in sides], axis=0)
        value = round(float(np.mean(values)), _DECIMALS)

        def interval_at(settings: EvaluateSettings) -> _Interval | None:
            if np.ptp(samples) > 0 or np.isnan(samples).any():
                return self._within_range(interval_of(samples, value, self.clusters, settings))
            return self._interval_without_spread(sides, value, settings)

        interval = interval_at(self.settings)
        return _Difference(value, interval, None if interval is None else _p(interval_at, self.settings))

    def _within_range(self, interval: _Interval | None) -> _Interval | None:
        """Cut off what no difference of two values of this figure can be."""
        if interval is None:
            return None
        low, high = RANGES.get(self.figure, (0.0, 1.0))
        return max(interval[0], low - high), min(interval[1], high - low)

    def _interval_without_spread(
        self, sides: Sequence[tuple[_Drawn, _Drawn]], value: float, settings: EvaluateSettings
    ) -> _Interval | None:
        """Give the interval of a difference that is the same in every resample.

        Models that vary alike (the same scores twice) differ by 0 for certain. Where neither varies, as a network
        without a mistake against the majority class, the ends follow from those of either model: low a - high b and
        high a - low b, at least as wide as a paired interval. None where such an end is not known.
        """
        if refusal(self.clusters, settings) is not None:
            return None
        if any(np.ptp(model.samples) > 0 for pair in sides for model in pair):
            return (0.0, 0.0) if value == 0 else None
        ends = [(self._ends(a, settings), self._ends(b, settings)) for a, b in sides]
        known = [(a, b) for a, b in ends if a is not None and b is not None]
        if len(known) < len(ends):
            return None
        lows, highs = [a[0] - b[1] for a, b in known], [a[1] - b[0] for a, b in known]
        return float(np.mean(lows)), float(np.mean(highs))

    def _ends(self, model: _Drawn, settings: EvaluateSettings) -> _Interval | None:
        value = _defined(model, self.figure)
        if model.is_constant:
            return value, value
        return interval_of(model.samples, value, self.clusters, settings, self.figure)


def _p(interval_at: Callable[[EvaluateSettings], _Interval | None], settings: EvaluateSettings) -> float:
    """Give the two-sided p by inverting the interval: the least 1 - confidence at which it excludes 0.

    So p < 0.05 exactly where the 95 % interval excludes 0, whatever the method of the interval (Davison & Hinkley 1997,
    section 5.6: intervals and tests are inverses of each other). Not below LEAST_P.
    """

    def excludes_zero(level: float) -> bool:
        ends = interval_at(settings.model_copy(update={"confidence": 1 - level}))
        return ends is not None and not ends[0] <= 0 <= ends[1]

    low, high = LEAST_P, 1.0
    if excludes_zero(low):
        return low
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if excludes_zero(middle) else (middle, high)
    return high


def compare_models(models: Mapping[str, Predictions], figure: str, settings: EvaluateSettings) -> Record:
    """Compare all models that were scored on the same test images.

    Networks compete with each other; ensembles are measured beside them, baselines below them, and rows with test-time
    augmentation (`record["tta"]`) against the same model without. `record["kind"]`, `["architecture"]`, `["phase"]`
    ("head" where the backbone stayed frozen), `["display_name"]` and `["seconds"]` say what each is.

    Args:
        models: predictions by folder name; one repeat or several each, of the same images.
        figure: name of a scalar figure of `metrics.measure`, such as "auroc" or "balanced_accuracy"; the higher the better.
        settings: resamples, confidence, seed.

    Returns:
        The record of analysis.json:
        `models`, best first, with `value`, `interval`, and for networks `probability_best` (share of the resamples in
        which it has the highest value, ties shared) and `rank` (mean rank, 1 the best);
        `differences` of all pairs of networks with p of the paired cluster bootstrap and of DeLong et al. (1988), each
        adjusted over the pairs by Holm (1979), and `claim`;
        `against_baselines`, `beats_baselines`, `gains` and `notes`. Intervals and all that hangs on them are None where
        the subject groups are too few; `note` then says why.

    Raises:
        ArtifactError: no models, an unknown figure, or models that were not scored on the same images.
    """
    study = _draw(models, figure, settings)
    differences = _network_differences(study)
    against = _against_baselines(study)
    chances = _ranking(study)
    return {
        "figure": figure,
        "unit": study.clusters.unit,
        "note": study.note,
        "models": [_model_row(study, name, chances.get(name)) for name in study.models],
        "differences": differences,
        "against_baselines": against,
        "beats_baselines": _beats_baselines(study, against),
        "gains": _gains(study, models),
        "notes": _notes(study, differences),
    }


def leak_difference(
    by_subject: Mapping[str, Predictions], by_image: Mapping[str, Predictions], figure: str, settings: EvaluateSettings
) -> Record:
    """Measure what a split by image adds to a figure: the same recipe, the same images, only the split differs.

    Networks (without test-time augmentation) are paired by `record["architecture"]`; other kinds are passed over. Both
    studies must have scored the same images, as two cross-validations of one pool do. Resamples draw subject groups.

    Args:
        by_subject: predictions of the study split by subject, by folder name.
        by_image: those of the study split by image.
        figure: as in `compare_models`.
        settings: resamples, confidence, seed.

    Returns:
        The record of leak.json: `rows`, one per architecture in both studies, in the order of `by_subject`, and `mean` over
        them, each with `by_subject`, `by_image`, `difference` (image - subject; above 0: the split by image flatters) and
        `interval`; `images`, `groups` (clusters drawn), `note`.

    Raises:
        ArtifactError: no architecture in both studies, an undefined figure, or studies of other images.
    """
    honest, optimistic = _by_architecture(by_subject), _by_architecture(by_image)
    shared = [architecture for architecture in honest if architecture in optimistic]
    if not shared:
        raise ArtifactError(
            "The split by subject and the split by image have no network in common.",
            expected="at least one architecture trained under both",
            received=f"by subject: {', '.join(honest) or 'none'}; by image: {', '.join(optimistic) or 'none'}",
            remedy="cross-validate the same architectures with both strategies",
        )
    names = {architecture: (f"{architecture} by subject", f"{architecture} by image") for architecture in shared}
    drawn = {names[each][0]: honest[each] for each in shared} | {names[each][1]: optimistic[each] for each in shared}
    study = _draw(drawn, figure, settings)
    clusters = study.clusters
    return {
        "figure": figure,
        "unit": clusters.unit,
        "rows": [_leak_row(study, architecture, *names[architecture]) for architecture in shared],
        "mean": _leak_mean(study, list(names.values())),
        "images": len(clusters.of_row),
        "groups": len(clusters.stratum),
        "note": study.note,
    }


def _draw(models: Mapping[str, Predictions], figure: str, settings: EvaluateSettings) -> _Study:
    """Check that the models were scored on the same images, then measure all of them on the same resamples."""
    tables = {name: _test_rows(name, predictions) for name, predictions in models.items()}
    if not tables:
        raise ArtifactError(
            "There is nothing to compare.",
            expected="predictions of at least one model",
            received="none",
            remedy="run predict or crossval first, then compare what they wrote",
        )
    first = next(iter(tables))
    reference = tables[first].drop_duplicates("image").reset_index(drop=True)
    for name, table in tables.items():
        _check_record(name, models[name].record, first, models[first].record)
        _check_images(name, table, first, reference)
    clusters = Clusters.of(reference)
    weights = resample(clusters, settings)
    position = pd.Index(reference["image"])
    drawn = {}
    for name, table in tables.items():
        own = replace(clusters, of_row=clusters.of_row[position.get_indexer(table["image"])])
        record = models[name].record
        value = _of(figure, measured_figures(table, record))
        samples = resampled_figures(table, record, weights, own)[figure].round(_DECIMALS)
        drawn[name] = _Drawn(record, table, value, samples)
    best_first = sorted(drawn, key=lambda name: _descending(drawn[name].value))
    return _Study(figure, settings, clusters, {name: drawn[name] for name in best_first})


def _test_rows(name: str, predictions: Predictions) -> pd.DataFrame:
    """Give the labelled rows of the test side, sorted by repeat and image."""
    table = predictions.table
    rows = table[(table["side"] == TEST) & table["y_true"].notna()]
    if rows.empty:
        raise ArtifactError(
            f"Model '{name}' has no scores to compare.",
            expected=f"rows of the {TEST} side with a label",
            received=f"{len(table)} rows, none of them such",
            remedy="predict with the splits, so that the test side is scored",
        )
    again = rows.duplicated(["repeat", "image"])
    if again.any():
        repeat, image = rows.loc[again, ["repeat", "image"]].iloc[0]
        raise ArtifactError(
            f"Model '{name}' has scored image '{image}' more than once.",
            expected="each test image once per repeat",
            received=f"several rows of it in repeat {repeat}",
            remedy="compare tables that predict or crossval wrote, without rows added twice",
        )
    return rows.sort_values(["repeat", "image"], ignore_index=True)


def _check_record(name: str, record: Record, first: str, reference: Record) -> None:
    for key in ("classes", "positive"):
        if list(record[key]) != list(reference[key]):
            raise ArtifactError(
                f"Models '{first}' and '{name}' do not judge the same classes.",
                expected=f"{key} {', '.join(reference[key]) or 'none'}, as '{first}'",
                received=f"{key} {', '.join(record[key]) or 'none'}",
                remedy="compare models of one data set, indexed once",
            )


def _check_images(name: str, table: pd.DataFrame, first: str, reference: pd.DataFrame) -> None:
    """Raise ArtifactError at the first image that one model has and the other lacks, or that they know differently."""
    expected = pd.Index(reference["image"])
    for repeat, rows in table.groupby("repeat"):
        differing = expected.symmetric_difference(pd.Index(rows["image"]))
        if len(differing):
            where = f"repeat {repeat} of '{name}'"
            in_first = differing[0] in expected
            known = f"scored by '{first}' and not in {where}" if in_first else f"in {where} and not in '{first}'"
            raise ArtifactError(
                f"Models '{first}' and '{name}' were not scored on the same images.",
                expected="the same test images of every model, in every repeat",
                received=f"image '{differing[0]}' {known}",
                remedy="predict all models with the same splits, or cross-validate them on the same pool",
            )
    of_first = reference.set_index("image").loc[table["image"]]
    for column in ("y_true", "group"):
        theirs, ours = _values(of_first[column]), _values(table[column])
        differs = np.flatnonzero(theirs != ours)
        if len(differs):
            raise ArtifactError(
                f"Models '{first}' and '{name}' do not agree about image '{table['image'].iloc[differs[0]]}'.",
                expected=f"{column} {theirs[differs[0]]}, as '{first}'",
                received=f"{column} {ours[differs[0]]}",
                remedy="predict both with the same manifest",
            )


def _values(column: pd.Series[str]) -> NDArray[np.object_]:
    """Give a column as objects, None where null, so that two nulls are equal."""
    return column.astype(object).where(column.notna(), None).to_numpy()


def _of(figure: str, figures: Mapping[str, float | None]) -> float | None:
    if figure not in figures:
        raise ArtifactError(
            "The figure to compare by is not known.",
            expected=f"one of {', '.join(figures)}",
            received=figure,
            remedy="name one of them",
        )
    return figures[figure]


def _descending(value: float | None) -> float:
    return np.inf if value is None else -value


def _model_row(study: _Study, name: str, chance: tuple[float, float] | None) -> Record:
    model = study.models[name]
    best, rank = chance or (None, None)
    return {
        "model": name,
        "display_name": model.record.get("display_name") or name,
        "kind": model.record.get("kind"),
        "value": model.value,
        "interval": _as_list(study.interval(name)),
        "probability_best": best,
        "rank": rank,
    }


def _ranking(study: _Study) -> dict[str, tuple[float, float]]:
    """Give each network's share of resamples in which it is best, and its mean rank; empty where no interval is given.

    Networks that tie in a resample share its first place, and have the mean of the ranks that they take up. Resamples
    in which the figure is undefined are left out. With fewer than two networks there is nothing to rank.
    """
    names = study.of_kind(NETWORK)
    if len(names) < 2 or refusal(study.clusters, study.settings) is not None:
        return {}
    values = np.stack([study.models[name].samples for name in names])
    values = values[:, np.isfinite(values).all(axis=0)]
    if not values.size:
        return {}
    best = values == values.max(axis=0)
    share = (best / best.sum(axis=0)).mean(axis=1)
    above = (values[None, :] > values[:, None]).sum(axis=1)
    level = (values[None, :] == values[:, None]).sum(axis=1)
    rank = (above + (level + 1) / 2).mean(axis=1)
    return {name: (float(share[index]), float(rank[index])) for index, name in enumerate(names)}


def _network_differences(study: _Study) -> list[Record]:
    """Compare all networks in pairs, the better measured first, and adjust the p-values over the pairs."""
    pairs = list(combinations(study.of_kind(NETWORK), 2))
    differences = [study.difference(a, b) for a, b in pairs]
    adjusted = _adjusted([each.p for each in differences])
    delong = _delong(study, pairs)
    rows = []
    for index, ((a, b), each) in enumerate(zip(pairs, differences, strict=True)):
        p_holm = adjusted[index]
        small = p_holm is not None and p_holm < 1 - study.settings.confidence
        rows.append({"a": a, "b": b, "difference": each.value, "interval": _as_list(each.interval), "p": each.p,
                     "p_holm": p_holm, "delong_p": delong[index][0], "delong_p_holm": delong[index][1],
                     "claim": small and each.above_zero is True})  # fmt: skip
    return rows


def _delong(study: _Study, pairs: Sequence[tuple[str, str]]) -> list[tuple[float | None, float | None]]:
    """Give DeLong's p of each pair, plain and adjusted, on the images of the first repeat; None where it has no say."""
    nothing: list[tuple[float | None, float | None]] = [(None, None)] * len(pairs)
    if study.figure != "auroc" or not pairs:
        return nothing
    components = {}
    for name in {name for pair in pairs for name in pair}:
        table, positive = study.models[name].table, list(study.models[name].record["positive"])
        rows = table[table["repeat"] == table["repeat"].min()]
        truth = rows["y_true"].isin(positive).to_numpy(np.bool_)
        if min(truth.sum(), (~truth).sum()) < LEAST_IMAGES_PER_CLASS:
            return nothing
        score = rows[[f"score_{each}" for each in positive]].sum(axis=1).to_numpy(np.float64)
        components[name] = AreaComponents.of(truth, score)
    plain: list[float | None] = [delong_test(components[a], components[b])[1] for a, b in pairs]
    return list(zip(plain, _adjusted(plain), strict=True))


def _adjusted(p: Sequence[float | None]) -> list[float | None]:
    """Adjust the p-values that are known, by Holm."""
    known = iter(holm([value for value in p if value is not None]))
    return [None if value is None else next(known) for value in p]


def _against_baselines(study: _Study) -> list[Record]:
    """Compare networks and ensembles with the baselines that they have to beat."""
    rows = []
    for name in study.of_kind(NETWORK, ENSEMBLE):
        for baseline in _hurdles(study, name):
            difference = study.difference(name, baseline)
            rows.append({"model": name, "baseline": baseline, "difference": difference.value,
                         "interval": _as_list(difference.interval), "beats": difference.above_zero})  # fmt: skip
    return rows


def _hurdles(study: _Study, name: str) -> list[str]:
    """Name the baselines that a model has to beat.

    A baseline without an architecture (majority class, area, area and colour) counts against all. Logistic regression on
    frozen features asks what fine-tuning added: it counts against the network of these features, unless only its head
    was trained, which is much the same model.
    """
    record = study.models[name].record
    own = record.get("architecture") if record.get("kind") == NETWORK and record.get("phase") != HEAD_PHASE else None
    architectures = {each: study.models[each].record.get("architecture") for each in study.of_kind(BASELINE)}
    return [each for each, architecture in architectures.items() if architecture is None or architecture == own]


def _beats_baselines(study: _Study, rows: Sequence[Record]) -> dict[str, bool | None]:
    """Say of each network and ensemble whether it beats all of its baselines; None where that is not known."""
    verdicts: dict[str, bool | None] = {}
    for name in (each for each, model in study.models.items() if model.kind in (NETWORK, ENSEMBLE)):
        beats = [row["beats"] for row in rows if row["model"] == name]
        unknown = not beats or None in beats
        verdicts[name] = False if False in beats else None if unknown else True
    return verdicts


def _gains(study: _Study, models: Mapping[str, Predictions]) -> list[Record]:
    """Measure what ensembles add to the network that validation picks, and test-time augmentation to its own model."""
    rows = []
    networks = set(study.of_kind(NETWORK))
    picked = best_on_validation({name: _on_validation(each) for name, each in models.items() if name in networks})
    for name, model in study.models.items():
        against = picked if model.kind == ENSEMBLE else _base(study, name) if model.record.get("tta") else None
        if against is None or model.value is None:
            continue
        difference = study.difference(name, against)
        seconds = model.record.get("seconds"), study.models[against].record.get("seconds")
        extra = None if seconds[0] is None or seconds[1] is None else float(seconds[0] - seconds[1])
        rows.append({"model": name, "against": against, "difference": difference.value,
                     "interval": _as_list(difference.interval), "extra_seconds": extra})  # fmt: skip
    return rows


def _base(study: _Study, name: str) -> str | None:
    """Name the model without test-time augmentation that a row with it belongs to."""
    record = study.models[name].record
    same = (record.get("kind"), record.get("architecture"))
    for other in study.of_kind(NETWORK, ENSEMBLE):
        if (study.models[other].record.get("kind"), study.models[other].record.get("architecture")) == same:
            return other
    return None


def _on_validation(network: Predictions) -> OnValidation:
    """Measure what the choice of the best goes by; nothing is known without labelled rows of validation."""
    table = network.table
    rows = table[(table["side"] == VALIDATION) & table["y_true"].notna()]
    figures = measured_figures(rows, network.record) if len(rows) else {}
    area = figures.get("auroc")
    return OnValidation(
        balanced_accuracy=figures.get("balanced_accuracy"),
        auroc=figures.get("auroc_macro_ovr") if area is None else area,
        parameters=network.record.get("parameters"),
    )


def _by_architecture(models: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Give the networks without test-time augmentation by architecture."""
    networks = [each for each in models.values() if each.record.get("kind") == NETWORK and not each.record.get("tta")]
    return {str(each.record["architecture"]): each for each in networks}


def _leak_row(study: _Study, architecture: str, subject: str, image: str) -> Record:
    difference = study.difference(image, subject)
    return {
        "architecture": architecture,
        "display_name": study.models[subject].record.get("display_name") or architecture,
        "by_subject": study.models[subject].value,
        "by_image": study.models[image].value,
        "difference": difference.value,
        "interval": _as_list(difference.interval),
    }


def _leak_mean(study: _Study, pairs: Sequence[tuple[str, str]]) -> Record:
    """Give the mean over architectures; its interval is that of the mean difference of each resample."""
    difference = study.mean_difference([(image, subject) for subject, image in pairs])
    models = study.models
    return {
        "by_subject": float(np.mean([_defined(models[subject], study.figure) for subject, _ in pairs])),
        "by_image": float(np.mean([_defined(models[image], study.figure) for _, image in pairs])),
        "difference": difference.value,
        "interval": _as_list(difference.interval),
    }


def _notes(study: _Study, differences: Sequence[Record]) -> list[str]:
    """Say, one sentence each, how the record is to be read and what is missing from it."""
    return [
        *_notes_on_gaps(study),
        *(_notes_on_pairs(study, differences) if differences else []),
        "Intervals and p-values speak of other subjects under the models as trained, not of other training runs.",
    ]


def _notes_on_gaps(study: _Study) -> list[str]:
    sentences = []
    undefined = [name for name, model in study.models.items() if model.value is None]
    if undefined:
        sentences.append(f"{study.figure} is undefined for {', '.join(undefined)}: they are not compared.")
    if not study.of_kind(BASELINE):
        sentences.append("No baseline was measured on these images: whether a network has learned more is not known.")
    alone = [name for name, model in study.models.items() if model.record.get("tta") and _base(study, name) is None]
    if alone:
        sentences.append(f"{', '.join(alone)}: there is no row of the same model without test-time augmentation.")
    return sentences


def _notes_on_pairs(study: _Study, differences: Sequence[Record]) -> list[str]:
    settings, count = study.settings, len(differences)
    level = 1 - settings.confidence
    sentences = [
        f"Each difference is paired: both models are measured on the same {settings.resamples} resamples of "
        f"{study.clusters.unit}s. A network is called better only where the interval lies above 0 and p, adjusted by Holm "
        f"over {count} {'pair' if count == 1 else 'pairs'} of networks, is below {level:.3g}."
    ]
    if not any(row["claim"] for row in differences):
        sentences.append("No network is shown to be better than another; the order of their values is no ranking.")
    if any(row["delong_p"] is not None for row in differences):
        sentences.append(
            "DeLong's test, on the images of the first repeat, takes images as independent. Cells of one subject are not: "
            "its p-values tend to be too small, and no claim rests on them."
        )
    return sentences


def _defined(model: _Drawn, figure: str) -> float:
    if model.value is None:
        raise ArtifactError(
            f"{figure} of '{model.record.get('display_name') or model.record.get('architecture')}' is undefined.",
            expected="test images that define it, of two classes at least",
            received="images that do not",
            remedy="compare by another figure, or on more images",
        )
    return model.value


def _as_list(interval: _Interval | None) -> list[float] | None:
    return None if interval is None else [float(end) for end in interval]
