"""Tables and the figure of the throughput benchmark, from its samples.

In: `benchmarks/results/throughput.json`. Out: nothing. Writes: `docs/benchmarks.md` between its two markers, and
`docs/images/benchmarks.png`. All rates are medians over rounds; a ratio is the median over rounds of the ratio within a
round; a share of the limit compares with the matrix product that was measured beside the network in the same round.

    python benchmarks/throughput_tables.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from leukolens.artifacts import read_json, write_text
from leukolens.models.architectures import ARCHITECTURES, FIVE_ARCHITECTURES

ROOT = Path(__file__).parents[1]
RESULTS_FILE = ROOT / "benchmarks" / "results" / "throughput.json"
PAGE = ROOT / "docs" / "benchmarks.md"
FIGURE = ROOT / "docs" / "images" / "benchmarks.png"
BEGIN, END = "<!-- throughput: begin -->", "<!-- throughput: end -->"

OURS = "leukolens"
TITLES = {
    "leukolens": "leukolens", "keras": "Keras", "keras-bf16": "Keras bf16", "torchvision": "torchvision", "timm": "timm",
    "fastai": "fastai",
}  # fmt: skip
DATA_TITLES = {
    "leukolens": "leukolens", "pillow": "Pillow, two threads", "opencv": "OpenCV by area, two threads",
    "torchvision": "torchvision and DataLoader, two workers", "keras": "tf.data",
}  # fmt: skip
TASK_TITLES = {"train": "Training step", "features": "Frozen features", "infer": "Inference"}
NOTHING = "–"
_GIGA = 1e9
_FIRST_OF_PRECISE = 100  # rates from here on are shown without decimals
_PROCESSOR, _CORES, _MEMORY = "processor", "cores", "memory_gib"

Sample = dict[str, Any]
Turn = tuple[str, int]


@dataclass(frozen=True)
class Summary:
    """Samples that can be asked for rates, ratios and shares."""

    samples: list[Sample]
    flops: dict[str, dict[str, float]]

    @classmethod
    def of(cls, results: Sample) -> Summary:
        """From the results file's content."""
        return cls(results["samples"], results["flops"])

    def cell(self, task: str, architecture: str, contender: str) -> dict[Turn, Sample]:
        """Samples of one cell by (run, round)."""
        wanted = (task, architecture, contender)
        return {(each["run"], each["round"]): each for each in self.samples
                if (each["task"], each["architecture"], each["contender"]) == wanted}  # fmt: skip

    def middle(self, task: str, architecture: str, contender: str, what: str = "images_per_second") -> float | None:
        """Median over rounds; None where nothing was measured."""
        values = [each[what] for each in self.cell(task, architecture, contender).values()]
        return median(values) if values else None

    def ratio(self, task: str, architecture: str, contender: str) -> float | None:
        """How many times the contender's rate is leukolens' own; rounds in which both ran are compared in pairs."""
        ours, theirs = (self.cell(task, architecture, name) for name in (OURS, contender))
        both = [ours[turn]["images_per_second"] / theirs[turn]["images_per_second"] for turn in ours if turn in theirs]
        if both:
            return median(both)
        mine, other = self.middle(task, architecture, OURS), self.middle(task, architecture, contender)
        return None if mine is None or other is None else mine / other

    def share(self, task: str, architecture: str, contender: str = OURS) -> float | None:
        """Share of the machine's bfloat16 limit, 0 to 1 (and above, where a measurement was luckier than the limit's)."""
        per_image = self.flops.get(architecture, {}).get("train" if task == "train" else "forward")
        limits = self.cell("limit", architecture, "limit")
        measured = self.cell(task, architecture, contender)
        shares = [sample["images_per_second"] * per_image / limits[turn]["bf16_flops"]
                  for turn, sample in measured.items() if turn in limits and per_image]  # fmt: skip
        return median(shares) if shares else None

    def limit(self, kind: str) -> float | None:
        """Median of all limits of one type ("bf16", "fp32"), in operations per second."""
        limits = [each[f"{kind}_flops"] for each in self.samples if each["task"] == "limit"]
        return median(limits) if limits else None

    def widest_spread(self, contender: str = OURS) -> float | None:
        """Largest (highest - lowest) / median over the cells of one contender."""
        cells = {(each["task"], each["architecture"]) for each in self.samples if each["contender"] == contender}
        spreads = []
        for task, architecture in cells:
            found = [each["images_per_second"] for each in self.cell(task, architecture, contender).values()]
            if len(found) > 1 and None not in found:
                spreads.append((max(found) - min(found)) / median(found))
        return max(spreads, default=None)


def render(results: Sample) -> None:
    """Write the tables into the page and draw the figure."""
    text = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, replaced(text, tables(results)))
    draw(Summary.of(results), FIGURE)


def replaced(page: str, between: str) -> str:
    """The page with other text between the markers; raises ValueError where they are missing."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN} and {END} in the page, received {len(page)} characters without both")
    return f"{head}{BEGIN}\n\n{between.strip()}\n\n{END}{tail}"


def tables(results: Sample) -> str:
    """All tables as Markdown."""
    summary = Summary.of(results)
    parts = [_where(results, summary)]
    parts += [part for task in TASK_TITLES for part in _compute(summary, task)]
    parts += [*_resources(summary), *_data(summary), *_whole(summary), *_failures(results)]
    return "\n\n".join(parts)


def _where(results: Sample, summary: Summary) -> str:
    machine = results["machine"]
    days = sorted({each["run"][:10] for each in results["samples"]})
    dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    limits = [f"{limit / _GIGA:.0f} GFLOP/s in {name}" for kind, name in (("bf16", "bfloat16"), ("fp32", "float32"))
              if (limit := summary.limit(kind)) is not None]  # fmt: skip
    rounds = max(len(summary.cell(*key)) for key in {(s["task"], s["architecture"], s["contender"]) for s in results["samples"]
                                                     if s["task"] != "limit"})  # fmt: skip
    spread = summary.widest_spread()
    lines = [
        f"Measured {dates}: {machine[_PROCESSOR]}, {machine[_CORES]} cores, {machine[_MEMORY]} GiB; batch "
        f"{results['settings']['batch']}, {results['settings']['input_px']} x {results['settings']['input_px']} px; up to "
        f"{rounds} rounds.",
        f"The matrix product reaches {' and '.join(limits)}." if limits else "",
        "" if spread is None else f"No leukolens figure's rounds lie further apart than {percent(spread)} of their median.",
        _quiet(results["samples"]),
        f"Versions: {_versions(results['samples'])}.",
    ]
    return "\n".join(line for line in lines if line)


def _quiet(samples: Iterable[Sample]) -> str:
    """Whether the machine had other work to do, which makes all rates lower and ratios uneven."""
    shares = [busy for each in samples if (busy := each.get("busy_elsewhere")) is not None]
    if not shares:
        return ""
    return f"Other work took {percent(median(shares))} of the processors' time in the median, {percent(max(shares))} at most."


def _versions(samples: Iterable[Sample]) -> str:
    found: dict[str, set[str]] = {}
    for sample in samples:
        for library, version in sample["versions"].items():
            found.setdefault(library, set()).add(version)
    return ", ".join(f"{library} {' and '.join(sorted(each))}" for library, each in sorted(found.items()))


def _compute(summary: Summary, task: str) -> list[str]:
    """Images per second of one task, and in brackets how many times faster leukolens is."""
    others = [name for name in TITLES if name != OURS and any(summary.cell(task, each, name) for each in FIVE_ARCHITECTURES)]
    rows = []
    for architecture in FIVE_ARCHITECTURES:
        ours, share = summary.middle(task, architecture, OURS), summary.share(task, architecture)
        if ours is None:
            continue
        beside = [_beside(summary, task, architecture, name) for name in others]
        rows.append([ARCHITECTURES[architecture].display_name, f"**{rate(ours)}**", percent(share), *beside])
    if not rows:
        return []
    head = ["images/s", OURS, "of the bf16 limit", *(f"{TITLES[name]} (ratio)" for name in others)]
    return [f"### {TASK_TITLES[task]}", markdown(head, rows)]


def _beside(summary: Summary, task: str, architecture: str, contender: str) -> str:
    theirs, ratio = summary.middle(task, architecture, contender), summary.ratio(task, architecture, contender)
    if theirs is None:
        return NOTHING
    return rate(theirs) + (f" ({ratio:.1f}x)" if ratio is not None else "")


def _resources(summary: Summary) -> list[str]:
    """Peak memory and warm-up, training / inference."""
    parts = []
    titles = {"peak_rss_mib": ("Peak memory", "MiB, training / inference"),
              "warmup_seconds": ("Warm-up", "seconds until the second step has ended, training / inference")}  # fmt: skip
    for what, (title, unit) in titles.items():
        rows = []
        for architecture in FIVE_ARCHITECTURES:
            pairs = [[summary.middle(task, architecture, name, what) for task in ("train", "infer")] for name in TITLES]
            if any(value is not None for pair in pairs for value in pair):
                cells = [" / ".join(NOTHING if value is None else f"{value:,.0f}" for value in pair) for pair in pairs]
                rows.append([ARCHITECTURES[architecture].display_name, *cells])
        if rows:
            parts += [f"### {title}", markdown([unit, *TITLES.values()], rows)]
    return parts


def _data(summary: Summary) -> list[str]:
    """Images per second from files and from the cache."""
    parts = []
    titles = {"data_cold": "From image files to pixels", "data_cached": "Random batches of cached pixels"}
    for task, title in titles.items():
        rows = []
        for name, words in DATA_TITLES.items():
            found = summary.middle(task, "all", name)
            if found is None:
                continue
            ratio, memory = summary.ratio(task, "all", name), summary.middle(task, "all", name, "peak_rss_mib")
            said = "TFRecord through tf.data" if (task, name) == ("data_cached", "keras") else words
            rows.append([said, rate(found), NOTHING if name == OURS or ratio is None else f"{ratio:.1f}x", f"{memory:,.0f}"])
        if rows:
            parts += [f"### {title}", markdown(["", "images/s", "leukolens is faster", "peak MiB"], rows)]
    return parts


def _whole(summary: Summary) -> list[str]:
    samples = list(summary.cell("compare", "all", OURS).values())
    if not samples:
        return []
    last = samples[-1]
    minutes, memory = median(each["seconds"] for each in samples) / 60, last["peak_rss_mib"]
    return ["### Whole `compare`", f"{minutes:.1f} minutes and {memory:,.0f} MiB for all five networks: {last['detail']}."]


def _failures(results: Sample) -> list[str]:
    if not results["failures"]:
        return []
    lines = [f"- {each['contender']}, {each['task']}, {each['architecture']}: {each['reason']}" for each in results["failures"]]
    return ["### Not measured", "\n".join(dict.fromkeys(lines))]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rate(images_per_second: float) -> str:
    """A rate with two to three figures that mean something."""
    return f"{images_per_second:,.0f}" if images_per_second >= _FIRST_OF_PRECISE else f"{images_per_second:.1f}"


def percent(share: float | None) -> str:
    """A share as percent."""
    return NOTHING if share is None else f"{share:.0%}".replace("%", " %")


def draw(summary: Summary, path: Path) -> None:
    """Images per second of training and inference: a row per network, a dot per contender, a tick where the limit lies."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    colours = dict(zip(TITLES, ("#b5123e", "#e08214", "#fdb863", "#2166ac", "#67a9cf", "#7f7f7f"), strict=True))
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axes, task in zip(panels, ("train", "infer"), strict=True):
        for row, architecture in enumerate(FIVE_ARCHITECTURES):
            _draw_row(axes, summary, (task, architecture), row, colours)
        axes.set_xscale("log")
        axes.set_title(TASK_TITLES[task], loc="left", fontsize=11)
        axes.set_xlabel("images per second")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(axis="y", length=0)
        axes.margins(y=0.12)
        axes.grid(axis="x", which="major", color="0.9")
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(range(len(FIVE_ARCHITECTURES)), [ARCHITECTURES[name].display_name for name in FIVE_ARCHITECTURES])
    panels[0].invert_yaxis()
    dots = {"marker": "o", "linestyle": ""}
    handles = [plt.Line2D([], [], color=colour, label=TITLES[name], **dots) for name, colour in colours.items()]
    handles.append(plt.Line2D([], [], color="0.3", marker="|", markersize=12, linestyle="", label="bfloat16 limit"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_row(axes: Any, summary: Summary, cell: tuple[str, str], row: int, colours: dict[str, str]) -> None:  # noqa: ANN401
    found = {name: value for name in TITLES if (value := summary.middle(*cell, name)) is not None}
    if not found:
        return
    axes.plot([min(found.values()), max(found.values())], [row, row], color="0.85", zorder=1)
    for name, value in sorted(found.items(), key=lambda item: item[0] == OURS):
        axes.scatter(value, row, color=colours[name], s=90 if name == OURS else 40, zorder=3 if name == OURS else 2)
    share = summary.share(*cell)
    if share and OURS in found:
        axes.scatter(found[OURS] / share, row, marker="|", color="0.3", s=220, zorder=2)


def main() -> None:
    """Render the results that are there."""
    render(read_json(RESULTS_FILE))
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n{FIGURE.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
