"""How numbers are written."""

from __future__ import annotations

import math

import pytest

from leukolens.reporting import wording


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (wording.percent, 0.9234, "92.3\u202f%"),
        (wording.percent, 1.0, "100.0\u202f%"),
        (wording.percent, None, "–"),
        (wording.percent, math.nan, "–"),
        (wording.decimal, -0.25, "\u22120.250"),
        (wording.difference, 0.054, "+0.054"),
        (wording.difference, -0.0124, "\u22120.012"),
        (wording.small, 0.0412, "0.041"),
        (wording.small, 0.0001, "<0.001"),
        (wording.small, 0.0, "0.000"),
        (wording.p_value, 0.0004, "<0.001"),
        (wording.p_value, 0.21, "0.210"),
        (wording.p_value, None, "–"),
        (wording.percent_interval, [0.77, 0.8512], "[77.0, 85.1]"),
        (wording.decimal_interval, (0.79, 0.88), "[0.790, 0.880]"),
        (wording.difference_interval, [-0.012, 0.034], "[\u22120.012, +0.034]"),
        (wording.difference_interval, None, "–"),
        (wording.one_digit, 2.25, "2.2"),
        (wording.two_digits, 1.375, "1.38"),
        (wording.listing, ["A", "B", "C"], "A, B and C"),
        (wording.listing, ["A"], "A"),
        (wording.sentence, "split by Subject", "Split by Subject"),
        (wording.count, 10661.0, "10,661"),
        (wording.millions, 23_510_081, "23.5\u202fM"),
        (wording.rate, 3.26, "3.3"),
        (wording.rate, 1234.5, "1,234"),
        (wording.duration, 12.3, "12\u202fs"),
        (wording.duration, 90, "1.5\u202fmin"),
        (wording.duration, 9000, "2.5\u202fh"),
        (wording.phase, "head", "new head, frozen backbone"),
        (wording.phase, None, "–"),
    ],
)
def test_written(write, value, text):
    assert write(value) == text


@pytest.mark.parametrize("name", ["VGG16", "VGG16 + flips and turns"])
def test_augmentation_is_named_once(name):
    assert wording.augmented(name) == "VGG16 + flips and turns"


@pytest.mark.parametrize(
    ("title", "lines"),
    [("VGG16", ("VGG16", "")), ("VGG16 + flips and turns", ("VGG16", "+ flips and turns")),
     ("VGG16: frozen features + logistic regression", ("VGG16:", "frozen features + logistic regression")),
     ("Ensemble of 5 networks × 3 seeds", ("Ensemble of 5 networks", "× 3 seeds")),
     ("Cell area + mean colour", ("Cell area + mean colour", ""))],
)  # fmt: skip
def test_two_lines(title, lines):
    assert wording.two_lines(title) == lines


def test_flatten_gives_every_leaf():
    nested = {"seed": 0, "train": {"batch_size": 32, "augmentation": {"flip": True}}, "architectures": ["a", "b"], "x": None}
    assert list(wording.flatten(nested)) == [
        ("seed", "0"), ("train.batch_size", "32"), ("train.augmentation.flip", "True"), ("architectures", "a, b"), ("x", "–"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("trained_on", "known"),
    [("ImageNet-1k", True), ("ImageNet-1k (IMAGENET1K_V2); BatchNorm re-estimated", True), ("NOT ImageNet: fonts", False),
     ("nothing: random weights (no imagenet file)", False), ("12 font groups", False)],
)  # fmt: skip
def test_knows_imagenet(trained_on, known):
    assert wording.knows_imagenet(trained_on) is known
