"""Tables and figures of the experiments, from their results.

In: `results/<data>.json` beside this file. Out: nothing. Writes: `docs/results.md` between the two markers of each data set,
and `docs/images/results-<data>.png`.

    python experiments/tables.py
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from leukolens.artifacts import TTA_SUFFIX, Record, read_json, write_text
from leukolens.evaluation.baselines import AREA, AREA_COLOUR
from leukolens.models.architectures import FIVE_ARCHITECTURES
from leukolens.reporting.drawing import CLASS_MARKERS, GREY, NETWORK_COLOURS, draw_file

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results.md"
IMAGES = HERE.parent / "docs" / "images"
BASE, ENSEMBLE = "base", "ensemble"
TITLES = {ENSEMBLE: "Ensemble", AREA: "Area", AREA_COLOUR: "Area + colour"}
NOTHING = "–"
ROW_INCHES, WIDTH_INCHES, FRAME_INCHES = 0.3, 8.0, 1.1


def main() -> None:
    """Write the tables of every data set that has results into the page, and draw its figure."""
    for path in sorted((HERE / "results").glob("*.json")):
        entries = _in_order(read_json(path))
        replace_between(path.stem, "\n\n".join(_tables(path.stem, entries)))
        draw_file(IMAGES / f"results-{path.stem}.png", _size(entries), lambda figure, shown=entries: _paint(figure, shown))


def replace_between(marker: str, body: str) -> None:
    """Write the body into the page between the two comments of this name."""
    begin, end = (f"<!-- {marker}: {which} -->" for which in ("begin", "end"))
    page, found = re.subn(f"(?s){begin}.*?{end}", lambda _: f"{begin}\n{body}\n{end}", PAGE.read_text())
    if found != 1:
        raise SystemExit(f"{PAGE.name}: expected {begin} and {end} once, received {found} pairs; put them in place")
    write_text(PAGE, page)


def _in_order(entries: dict[str, Record]) -> dict[str, Record]:
    """The base first, then what leaves the backbone frozen, then what fine-tunes it."""

    def place(name: str) -> tuple[bool, bool, str]:
        return name != BASE, bool(entries[name]["settings"]["train"]["finetune_epochs"]), name

    return {name: entries[name] for name in sorted(entries, key=place)}


def _models(entries: dict[str, Record]) -> dict[str, str]:
    """What is shown, and under which name: a network that stands in for another goes by its own."""
    # The base last: a network that was cut goes by another name.
    there = {name: row["display_name"] for entry in reversed(entries.values()) for name, row in entry["rows"].items()}
    return {name: TITLES.get(name, there[name]) for name in (*FIVE_ARCHITECTURES, ENSEMBLE) if name in there}


def _tables(data: str, entries: dict[str, Record]) -> list[str]:
    names = _models(entries)
    first = entries[BASE]
    shortcuts = ", ".join(f"{TITLES[name]} {_figure(first['rows'][name], 'auroc')}" for name in (AREA, AREA_COLOUR))
    has_four = any("auroc_macro_ovr" in row for row in first["rows"].values())
    tables = [
        f"![One row per recipe, one mark per network, hollow where views were averaged](images/results-{data}.png)",
        f"{first['images']:,} images, {first['protocol']}. Without a network, AUROC: {shortcuts}.",
        _table(names, "AUROC, the mean over seeds [95 % interval]", entries, lambda row: _figure(row, "auroc")),
        _table(names, "Difference to base in AUROC, on the same images and folds", entries, _against("against_base")),
        _table(names, "Difference to area + colour in AUROC", entries, _against("against_area_colour")),
        _table(names, "Balanced accuracy ± standard deviation over seeds", entries, _balanced_accuracy),
    ]
    if has_four:
        tables.append(_table(names, "Accuracy, all classes", entries, lambda row: _percent(row, "accuracy")))
    return [*tables, _costs(entries)]


def _table(names: dict[str, str], title: str, entries: dict[str, Record], cell: Callable[[Record], str]) -> str:
    head = [f"| {title} | {' | '.join(names.values())} |", "|---" * (len(names) + 1) + "|"]
    rows = []
    for recipe, entry in entries.items():
        for suffix in ("", TTA_SUFFIX):
            cells = [cell(entry["rows"][name + suffix]) if name + suffix in entry["rows"] else NOTHING for name in names]
            if set(cells) != {NOTHING}:
                name = f"[{recipe}](../experiments/{_folder(entry)}/{recipe}.yaml){' + views when scoring' if suffix else ''}"
                rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*head, *rows])


def _costs(entries: dict[str, Record]) -> str:
    said = "; ".join(
        f"{recipe} {entry['seconds']:.0f} s, {_count(len(_networks(entry)), 'network')}, "
        f"{_count(entry['settings']['repeats'], 'seed')}"
        for recipe, entry in entries.items()
    )
    return f"What it took, with what was cached before: {said}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _networks(entry: Record) -> list[str]:
    return [name for name in entry["rows"] if name not in TITLES and not name.endswith(TTA_SUFFIX)]


def _folder(entry: Record) -> str:
    return "c-nmc-sample" if entry["settings"]["strategy"] == "subject" else "b-all-smears"


def _figure(row: Record, name: str) -> str:
    figure = row.get(name)
    return NOTHING if figure is None else f"{figure['value']:.3f}{_bracketed(figure['interval'])}{_members(row)}"


def _members(row: Record) -> str:
    """Of how many networks an ensemble is, where not of all five."""
    found = re.fullmatch(r"Ensemble of (\d+) networks", row["display_name"])
    return f" (of {found[1]})" if found and int(found[1]) != len(FIVE_ARCHITECTURES) else ""


def _against(what: str) -> Callable[[Record], str]:
    def cell(row: Record) -> str:
        found = row.get(what)
        return NOTHING if found is None else f"{found['value']:+.3f}{_bracketed(found['interval'])}"

    return cell


def _balanced_accuracy(row: Record) -> str:
    figure = row.get("balanced_accuracy")
    if figure is None:
        return NOTHING
    return f"{figure['value']:.3f}" + ("" if figure["spread_over_seeds"] is None else f" ± {figure['spread_over_seeds']:.3f}")


def _percent(row: Record, name: str) -> str:
    figure = row.get(name)
    if figure is None:
        return NOTHING
    ends = figure["interval"]
    return f"{100 * figure['value']:.1f} %" + ("" if ends is None else f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]")


def _bracketed(interval: list[float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"


def _size(entries: dict[str, Record]) -> tuple[float, float]:
    return WIDTH_INCHES, FRAME_INCHES + ROW_INCHES * len(entries)


def _paint(figure: Figure, entries: dict[str, Record]) -> None:
    """Every network under every recipe, hollow where its views were averaged: AUROC, or accuracy where classes are many."""
    is_many = any("auroc_macro_ovr" in row for row in entries[BASE]["rows"].values())
    what, label = ("accuracy", "Accuracy, all classes") if is_many else ("auroc", "AUROC")
    axes = figure.subplots()
    for place, (name, title) in enumerate(_models(entries).items()):
        look = {"color": NETWORK_COLOURS[place], "alpha": 0.85}
        for suffix, fill in (("", {"label": title}), (TTA_SUFFIX, {"markerfacecolor": "none"})):
            rows = [entry["rows"].get(name + suffix) for entry in entries.values()]
            found = [(row[what]["value"], at) for at, row in enumerate(rows) if row]
            if found:
                axes.plot(*zip(*found, strict=True), CLASS_MARKERS[place], **look, **fill)
    shortcut = entries[BASE]["rows"][AREA_COLOUR][what]["value"]
    if is_many:
        # So far to the left that all networks would lie in one heap.
        axes.set_xlabel(f"{label} (area + colour without a network: {shortcut:.2f})")
    else:
        axes.axvline(shortcut, color=GREY, linestyle="--", label="Area + colour, no network")
        axes.set_xlabel(label)
    axes.set_yticks(range(len(entries)), list(entries))
    axes.invert_yaxis()
    axes.grid(axis="y", color=GREY, alpha=0.25)
    figure.legend(loc="outside upper center", ncols=4)


if __name__ == "__main__":
    main()
