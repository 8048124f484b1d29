"""Drawings: numbers on them, unique ids, and names that would break a careless drawing."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from leukolens.reporting import figures, figures_statistics
from leukolens.reporting.drawing import Picture
from reporting.example_results import leak_record


def texts(picture: Picture) -> list[str]:
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


def test_leak_shows_each_difference_with_its_interval():
    picture = figures_statistics.leak("k", leak_record(("resnet50", "vgg16")), {"resnet50": "#0072B2"})
    shown = texts(picture)
    assert {"ResNet-50", "VGG16", "mean of all", "+0.050", "[+0.030, +0.070]", "+0.054", "+0.052"} <= set(shown)
    assert "by image: optimistic" in shown
    assert picture.caption.endswith("AUROC on test. At the right the difference [with its interval].")


def test_leak_without_interval_shows_the_difference_alone():
    picture = figures_statistics.leak("k", leak_record(("resnet50",), intervals=False), {})
    assert "+0.050" in texts(picture)
    assert not [text for text in texts(picture) if text.startswith("[")]
    assert "mean of all" not in texts(picture)
    assert picture.caption.endswith("At the right the difference.")


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_leak_is_written_alone(tmp_path, suffix):
    path = figures_statistics.write_leak(leak_record(("resnet50", "vgg16")), {}, tmp_path / f"leak{suffix}")
    written = path.read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    if suffix == ".svg":
        assert b"What a split by image adds" in written
        assert b"192 images of 24 subject groups" in written


def test_forest_draws_a_model_without_interval_as_a_dot_alone():
    models = [{"model": "a", "display_name": "A", "kind": "network", "value": 0.9, "interval": [0.8, 0.95]},
              {"model": "b", "display_name": "B", "kind": "baseline", "value": 0.7, "interval": None}]  # fmt: skip
    picture = figures_statistics.forest("f", models, "auroc", {"a": "#0072B2"})
    assert texts(picture)[-2:] == ["A", "B"]
    none = [{**each, "interval": None} for each in models]
    assert figures_statistics.forest("f", none, "auroc", {}).caption == "AUROC on test; no interval."


def test_forest_breaks_long_names_once_and_keeps_what_tells_them_apart():
    names = ("EfficientNet-Lite0 + flips and turns", "EfficientNet-Lite0: frozen features + logistic regression")
    models = [{"model": name, "display_name": name, "kind": "network", "value": 0.9, "interval": None} for name in names]
    shown = texts(figures_statistics.forest("f", models, "auroc", {}))
    assert {"EfficientNet-Lite0", "+ flips and turns"} <= set(shown)
    assert {"EfficientNet-Lite0: frozen", "features + logistic regression"} <= set(shown)


def test_subgroups_are_named_by_family_and_first_words():
    entries = [{"by": "cell area", "name": "quartile 1: up to 24,000 px", "accuracy": 0.8, "interval": [0.7, 0.9]},
               {"by": "image format", "name": "BMP", "accuracy": 0.7, "interval": None}]  # fmt: skip
    shown = texts(figures_statistics.subgroups("s", entries, 0.75, "#0072B2"))
    assert {"cell area, quartile 1", "image format, BMP"} <= set(shown)


def test_reliability_and_risk_name_what_they_show():
    bins = [{"low": 0.1, "high": 0.4, "mean_score": 0.2, "share_positive": 0.25, "images": 20},
            {"low": 0.5, "high": 0.9, "mean_score": 0.7, "share_positive": 0.6, "images": 40}]  # fmt: skip
    picture = figures_statistics.reliability("r", {"bins": bins}, "VGG16", "#0072B2", "share of ALL")
    assert "share of ALL" in texts(picture)
    line = figures.Line("VGG16", {"coverage": [0.5, 1.0], "risk": [0.1, 0.2]}, 0.12345, "#0072B2", "-")
    assert "VGG16 (0.123)" in texts(figures_statistics.risk_coverage("k", [line]))
