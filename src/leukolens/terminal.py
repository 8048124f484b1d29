"""What the verbs print of their results: tables of 80 to 100 characters.

In: metrics and the comparison table. Out: text on standard output. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from leukolens.reporting.published import OFFICIAL
from leukolens.reporting.wording import ABSENT

# Heading and column of the comparison; a figure with its interval where there is one.
_SHOWN = (
    ("acc.", "test_accuracy"),
    ("prec.", "test_precision_weighted"),
    ("rec.", "test_recall_weighted"),
    ("F1", "test_f1_weighted"),
    ("bal.", "test_balanced_accuracy"),
    ("ECE", "test_ece"),
)
_LEGEND = (
    "In %, on the test images; in brackets 95 % intervals over subject groups (over images where subjects are unknown; – where "
    "there are too few). * best balanced accuracy on validation. Precision, recall and F1 weighted by class; bal.: balanced "
    "accuracy; ECE: expected calibration error."
)


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print every scalar figure of every side, with its interval where there is one, and why there is none."""
    sides = metrics["sides"]
    table = Table(title=metrics["record"].get("split_label") or None)
    table.add_column("metric")
    for side in sides:
        table.add_column(side, justify="right")
    names = [name for name, value in next(iter(sides.values())).items() if isinstance(value, int | float)]
    for name in names:
        table.add_row(name, *(_with_interval(side, name) for side in sides.values()))
    console = Console()
    console.print(table)
    for side, figures in sides.items():
        for note in (figures.get("intervals", {}).get("note"), *figures["notes"]):
            if note:
                console.print(f"{side}: {note}", style="dim", markup=False)
        if refusals := figures.get("abstention", {}).get("refusals"):
            right = refusals["accuracy_answered"]
            of_these = "" if right is None else f", {100 * right:.1f} % of them right"
            console.print(f"{side}: {100 * refusals['answered']:.1f} % of the images are answered{of_these}; the figures "
                          "above count all.", markup=False)  # fmt: skip


def print_comparison(table: pd.DataFrame) -> None:
    """Print the comparison, one block per study."""
    console = Console()
    for _, rows in table.groupby("study", sort=False):
        subjects = int(rows["test_subjects"].iloc[0])
        of_subjects = f" of {subjects} subjects" if subjects else ", subjects unknown"
        console.print(f"\n[bold]{rows['protocol'].iloc[0]}[/] · {int(rows['test_images'].iloc[0])} test images{of_subjects}")
        console.print(_study_table(rows))
    console.print(_LEGEND, style="dim")
    networks = table[table["kind"] == "network"]
    for name, weights in dict(zip(networks["display_name"], networks["weights"], strict=True)).items():
        console.print(f"weights of {name}: {weights}", style="dim", markup=False)


def print_published(tables: Sequence[Mapping[str, Any]]) -> None:
    """Print published values beside ours (`reporting.published.beside_published`); the page has what to mind with each."""
    console = Console()
    for each in tables:
        official = each["kind"] == OFFICIAL
        shown = Table(box=None, padding=(0, 1, 0, 0))
        for heading in ("model or work", "preliminary", "final") if official else ("model", "here", "source document"):
            shown.add_column(heading, justify="left" if heading.startswith("model") else "right")
        for row in each["rows"]:
            value = row["value"] + (f" {row['interval']}" if row["interval"] != ABSENT else "")
            style = "dim" if row["is_baseline"] else None
            shown.add_row(row["title"], value, ABSENT if official else row["printed"], style=style)
        for row in each["published"]:
            shown.add_row(row["work"], row["preliminary"], row["final"])
        console.print(f"\n[bold]Beside published values[/] · {each['caption']}")
        console.print(shown)
        console.print(f"{each['caveats'][0]} The report says more.", style="dim")


def _study_table(rows: pd.DataFrame) -> Table:
    # With three classes or more and no positive one named, the area is the mean over the classes.
    area = "test_auroc_macro_ovr" if rows["test_auroc"].isna().all() else "test_auroc"
    shown = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("model", "AUROC", *(heading for heading, _ in _SHOWN), "train", "img/s"):
        shown.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=heading != "model")
    for row in rows.to_dict("records"):
        figures = [_percent(row[column]) for _, column in _SHOWN]
        cost = ["–" if pd.isna(row["train_seconds"]) else f"{row['train_seconds']:.0f}s",
                "–" if pd.isna(row["images_per_second"]) else f"{row['images_per_second']:.0f}"]  # fmt: skip
        ends = [row.get(f"{area}_{end}", float("nan")) for end in ("low", "high")]
        interval = "" if pd.isna(ends).any() else f" [{100 * ends[0]:.0f}–{100 * ends[1]:.0f}]"
        name = f"{row['display_name']}{' *' if row['is_best'] else ''}"
        shown.add_row(name, _percent(row[area]) + interval, *figures, *cost, style="dim" if row["kind"] == "baseline" else None)
    return shown


def _with_interval(side: dict[str, Any], name: str) -> str:
    interval = side.get("intervals", {}).get("intervals", {}).get(name)
    return _figure(side.get(name)) + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _figure(value: float | None) -> str:
    if value is None or value != value:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.1f}"
