"""The sentences of the first page: how sure the answer is, and what to beware of.

In: `Results`, the study that answers and the model chosen in it. Out: sentences. Writes: nothing. A sentence claims what
analysis.json and leak.json claim and no more: where no interval could be drawn, the reason stands in the place of a claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leukolens.artifacts import Record
from leukolens.reporting.results import NETWORK, Model, Results, Study
from leukolens.reporting.wording import (
    FIGURE_NAMES,
    count,
    difference,
    difference_interval,
    knows_imagenet,
    listing,
    percent,
    percent_interval,
    sentence,
)

# The note that `models.weights` gives weights of another architecture.
_STAND_IN = re.compile(r"stands in for [^:)]+")


def how_sure(results: Results, study: Study, chosen: Model | None) -> Iterator[str]:
    """Give one sentence each on the other networks, the shortcuts, the split by image and the ensembles."""
    if chosen is not None:
        yield from _ranking(study, chosen)
        yield from _shortcuts(study, chosen)
    yield from _leak(results.leak)
    if chosen is not None:
        yield from _gains(study, chosen)


def beware(results: Results, study: Study, chosen: Model | None) -> Iterator[str]:
    """Give what a reader must know before believing a figure, one sentence each, the gravest first."""
    shown = chosen or study.models[0]
    yield from _beware_of_subjects(study, shown)
    yield from _beware_of_counts(shown)
    if chosen and study.crossvalidated and sum(model.is_candidate for model in study.models) > 1:
        yield ("In a cross-validation the validation images of one fold are the test images of another, so the choice is not "
               "independent of the test: the chosen model’s figures are a little flattered.")  # fmt: skip
    yield from _beware_of_subgroups(shown)
    yield from _beware_of_foreign(results)
    yield from _beware_of_weights(results)


def _ranking(study: Study, chosen: Model) -> Iterator[str]:
    """Say which networks the chosen one can be told apart from."""
    rivals = [model for model in study.models if model.is_candidate and model is not chosen]
    if not rivals:
        return
    if study.analysis is None:
        yield "Whether it is better than the others was not measured: the models were not compared on the same images."
        return
    own = [pair for pair in study.analysis["differences"] if chosen.name in (pair["a"], pair["b"])]
    pairs = {pair["b"] if pair["a"] == chosen.name else pair["a"]: pair for pair in own}
    known = [(rival.title, pairs[rival.name]) for rival in rivals if rival.name in pairs]
    figure = FIGURE_NAMES[study.figure]
    if not any(pair["interval"] for _, pair in known):
        yield f"Whether it is better than the others cannot be said: the differences in {figure} have no interval."
        # The reason stands under the key figures already, unless it is one of its own.
        if study.analysis["note"] and study.analysis["note"] != chosen.side["intervals"]["note"]:
            yield str(study.analysis["note"])
        return
    how = f"paired differences in {figure}, {percent(chosen.confidence, 0)} intervals, Holm-adjusted"
    yield f"{sentence(_ranked(known, chosen, figure))} ({how})."


def _ranked(known: Sequence[tuple[str, Mapping[str, Any]]], chosen: Model, figure: str) -> str:
    """Tell those that are claimed to be lower or higher from those that nothing is claimed of."""
    lower = [title for title, pair in known if pair["claim"] and pair["a"] == chosen.name]
    higher = [title for title, pair in known if pair["claim"] and pair["b"] == chosen.name]
    alike = [title for title, pair in known if not pair["claim"]]
    said = [f"its {figure} is higher than that of {listing(lower)}"] if lower else []
    said += [f"its {figure} is lower than that of {listing(higher)}"] if higher else []
    said += [f"it cannot be told apart from {listing(alike)}"] if alike else []
    return "; ".join(said)


def _shortcuts(study: Study, chosen: Model) -> Iterator[str]:
    """Say whether the chosen network does better than what needs no network."""
    if study.analysis is None:
        return
    own = [each for each in study.analysis["against_baselines"] if each["model"] == chosen.name]
    if not own or chosen.name not in study.analysis["beats_baselines"]:
        return
    # Of those that it does not beat, the one that it does worst against; a wide interval alone makes none the hardest.
    unbeaten = [each for each in own if not each["beats"]]
    hardest = min(unbeaten, key=lambda each: each["difference"]) if unbeaten else min(own, key=_at_least)
    title = study.titles().get(hardest["baseline"], hardest["baseline"])
    against = f"the hardest, “{title}”: {_shown(hardest)} {FIGURE_NAMES[study.figure]}"
    beats = study.analysis["beats_baselines"][chosen.name]
    if beats is None:
        yield f"It is not shown to beat the shortcut baselines: the differences have no interval ({against})."
    elif beats:
        yield f"It beats every shortcut baseline ({against})."
    else:
        yield f"It does not beat the shortcuts ({against})."


def _at_least(each: Mapping[str, Any]) -> tuple[bool, float]:
    """Order differences by what is certain of them: the low end of the interval, or the difference where there is none."""
    return each["interval"] is None, float(each["interval"][0] if each["interval"] else each["difference"])


def _shown(each: Mapping[str, Any]) -> str:
    ends = f" {difference_interval(each['interval'])}" if each["interval"] else ""
    return f"{difference(each['difference'])}{ends}"


def _leak(record: Record | None) -> Iterator[str]:
    """Say how much a split by image would flatter."""
    if record is None:
        return
    mean, shown = record["mean"], f"{_shown(record['mean'])} {FIGURE_NAMES[record['figure']]} on average"
    if mean["interval"] is None:
        yield f"Split by image, the same recipe shows {shown}; how much of that is chance is not known: no interval."
    elif mean["interval"][0] > 0:
        yield f"A split by image would flatter: {shown} for the same recipe."
    else:
        yield f"A split by image changes the figures by {shown}: no flattery could be shown here."


def _gains(study: Study, chosen: Model) -> Iterator[str]:
    """Say what each ensemble adds: to the chosen model where that was measured, else to what it was measured against."""
    if study.analysis is None:
        return
    titles = study.titles()
    augmented = {model.name for model in study.models if model.row.get("tta")}
    measured = [each for each in study.analysis["gains"] if each["model"] not in augmented]
    for name in dict.fromkeys(each["model"] for each in measured):
        own = [each for each in measured if each["model"] == name]
        gain = next((each for each in own if each["against"] == chosen.name), own[0])
        over = titles.get(gain["against"], gain["against"])
        yield f"“{titles.get(name, name)}” against {over}: {_shown(gain)} {FIGURE_NAMES[study.figure]}, {_verdict(gain)}."


def _verdict(gain: Mapping[str, Any]) -> str:
    if not gain["interval"]:
        return "no interval"
    low, high = gain["interval"]
    return "a gain" if low > 0 else "a loss" if high < 0 else "no gain shown"


def _beware_of_subjects(study: Study, model: Model) -> Iterator[str]:
    if not model.side["subjects"]:
        yield ("No subject is known for these images. Images of one patient may be on the training and the test side, so the "
               "figures may be too high for new patients, and nobody can say by how much.")  # fmt: skip
    elif study.optimistic:
        yield ("Images of the same subject are on the training and the test side: the figures are too high for new "
               "patients.")  # fmt: skip
    elif study.optimistic is None:
        yield ("Whether the test subjects were kept out of the training is not recorded. If they were not, the figures are "
               "too high for new patients.")  # fmt: skip


def _beware_of_counts(model: Model) -> Iterator[str]:
    """Name the class that rests on the fewest groups, where that is why there is no interval, and what notes say."""
    rows = model.side["intervals"]["groups"]
    least = model.record.get("evaluation", {}).get("minimum_groups")
    few = {name: number for name, number in rows.items() if least is not None and number < least}
    for name, number in few.items():
        images = model.side["counts"].get(name)
        of = f"{count(images)} of {count(model.side['images'])} images, in " if images is not None else ""
        yield f"{name} rests on {of}{count(number)} {_units(model, number)}: another draw can give quite different figures."


def _units(model: Model, number: int) -> str:
    unit = str(model.side["intervals"]["unit"])
    return unit if number == 1 else f"{unit}s"


def _beware_of_subgroups(model: Model) -> Iterator[str]:
    """Name the subgroup with the lowest accuracy, where its interval lies below the accuracy of all."""
    overall = model.side["accuracy"]
    below = [each for each in model.side["subgroups"] if each["interval"] and each["interval"][1] < overall]
    if below:
        worst = min(below, key=lambda each: each["accuracy"])
        yield (f"Weakest by {worst['by']}: {worst['name']}, accuracy {percent(worst['accuracy'])} "
               f"{percent_interval(worst['interval'])} against {percent(overall)} of all.")  # fmt: skip


def _beware_of_foreign(results: Results) -> Iterator[str]:
    """Give the share of images of another kind that the most permissive network would answer, where it is not none."""
    permissive: dict[str, tuple[float, str]] = {}
    for model in results.models:
        if model.foreign is None:
            continue
        for kind, refused in model.foreign.groupby("kind")["refused"].mean().items():
            answered = 1 - float(refused)
            if answered > permissive.get(str(kind), (0.0, ""))[0]:
                permissive[str(kind)] = (answered, model.title)
    if permissive:
        listed = "; ".join(f"{kind}: {percent(share)} ({title})" for kind, (share, title) in permissive.items())
        yield f"Images of another kind that would be answered and not refused, at worst: {listed}."


def _beware_of_weights(results: Results) -> Iterator[str]:
    """Name networks that did not start from ImageNet weights."""
    # Of the studies one may say more than another, as with a note behind the name of the weights: the longest counts.
    described: dict[str, str] = {}
    for model in results.models:
        if model.kind == NETWORK and not model.row.get("tta"):
            described[model.title] = max(described.get(model.title, ""), str(model.row["trained_on"]), key=len)
    started: dict[str, list[str]] = {}
    for title, trained_on in described.items():
        started.setdefault(trained_on, []).append(title)
    for trained_on, titles in started.items():
        if not knows_imagenet(trained_on):
            yield f"{listing(titles)}: not started from ImageNet weights, as is usual, but trained on: {trained_on}."
        if replaced := _STAND_IN.search(trained_on):
            yield f"{listing(titles)} {replaced[0]}, whose weights were not to be had."
