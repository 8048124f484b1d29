"""Drawings: numbers on them, unique ids, and names that would break a careless drawing."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from leukolens.reporting import figures


def texts(picture: figures.Picture) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", str(picture.svg))


def test_confusion_matrix_shows_every_count_in_place():
    picture = figures.confusion("c", [[3, 1], [2, 1400]], ("HEM", "ALL"), "test")
    shown = re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>([\d,]+)<', str(picture.svg))
    places = {text: (float(x), float(y)) for x, y, text in shown}
    assert set(places) == {"3", "1", "2", "1,400"}
    # True class in rows, from the top; predicted class in columns, from the left.
    assert places["3"][0] < places["1"][0]
    assert places["3"][1] < places["2"][1]
    assert places["1"][1] == pytest.approx(places["3"][1])


def test_ids_carry_the_key_and_nothing_points_outside():
    picture = figures.confusion("left", [[1, 0], [0, 1]], ("a", "b"), "test")
    assert all(name.startswith("left-") for name in re.findall(r'\sid="([^"]+)"', str(picture.svg)))
    assert "http" not in str(picture.svg)
    assert str(picture.svg).startswith('<svg role="img" aria-label="Confusion matrix')


@pytest.mark.parametrize("name", ["<b>", "$x$", "$", "細胞", "a" * 80, 'x" onload="y'])
def test_odd_names_are_drawn_as_they_are(name):
    entries = [{"subject": name, "label": "ALL", "images": 4, "correct": 1, "accuracy": 0.25},
               {"subject": "2", "label": "ALL+HEM", "images": 4, "correct": 4, "accuracy": 1.0}]  # fmt: skip
    picture = figures.subject_accuracy("s", entries, ("HEM", "ALL"), "test")
    drawn = name.replace("<", "&lt;").replace(">", "&gt;")
    assert (drawn if len(name) <= 20 else "a" * 19 + "…") in texts(picture)
    assert "several classes" in texts(picture)
    assert not re.search(r"<[^>]*onload", str(picture.svg))


def test_many_subjects_are_not_named_on_the_axis():
    entries = [{"subject": f"S{n}", "label": "ALL", "images": 4, "correct": 4, "accuracy": 1.0} for n in range(80)]
    picture = figures.subject_accuracy("s", entries, ("HEM", "ALL"), "test")
    assert not [text for text in texts(picture) if re.fullmatch(r"S\d+", text)]
    assert "80 subjects" in picture.caption


def test_learning_curves_mark_the_kept_epoch_only_in_its_phase():
    epochs = pd.DataFrame({"phase": "finetune", "epoch": [1, 2, 3], "train_loss": [0.5, 0.4, 0.3],
                           "validation_loss": [0.5, 0.4, 0.6], "validation_balanced_accuracy": [0.7, 0.8, 0.7]})  # fmt: skip
    marked = figures.learning_curves("l", epochs, "#0072B2", 2)
    plain = figures.learning_curves("l", epochs, "#0072B2", None)
    assert "Dotted: the epoch that was kept." in marked.caption
    assert "Dotted" not in plain.caption
    assert len(marked.svg) > len(plain.svg)


def test_curves_name_the_area_and_undefined_areas_are_left_out():
    curve = {"fpr": [0.0, 0.0, 1.0], "tpr": [0.0, 1.0, 1.0]}
    lines = [figures.Line("ResNet-50", curve, 0.98765, "#0072B2", "-"), figures.Line("VGG16", curve, None, "#D55E00", "--")]
    assert {"ResNet-50 (0.988)", "VGG16"} <= set(texts(figures.roc("r", lines, "ALL against the rest")))
