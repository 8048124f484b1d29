"""The sections of a model card that rest on figures: taken over as they stand, in words that claim no more."""

from __future__ import annotations

from leukolens.artifacts import read_json, write_json
from reporting.example_run import ANALYSIS, card, cells, rewrite, section


def test_figures_are_taken_over_with_their_intervals(run):
    figures = section(card(run), "Figures")
    assert cells(figures, "figure") == ["figure", "test", "95 % interval", "validation (tuned on)"]
    assert cells(figures, "AUROC") == ["AUROC", "0.912", "0.701 to 0.953", "–"]
    assert cells(figures, "balanced accuracy") == ["balanced accuracy", "81.0 %", "60.0 % to 95.0 %", "99.0 %"]
    assert cells(figures, "sensitivity")[:3] == ["sensitivity", "82.0 %", "none"]
    assert cells(figures, "MCC")[1] == "−0.250"
    assert "here ALL 5 of 10 images" in figures
    assert "One sentence of the evaluation." in figures


def test_intervals_say_how_they_were_made_and_what_is_frail(run):
    text = section(card(run), "Intervals")
    assert "resampled by subject group, stratified by class (2,000 resamples, seed 0)" in text
    assert "Groups per class: HEM 9, ALL 11; groups of equal size that would say as much (Kish): HEM 6.2, ALL 8.5." in text
    assert "**Beware:** HEM has 9 groups: the interval is fragile." in text


def test_reason_stands_where_no_interval_is_given(run):
    values = read_json(run / "metrics.json")
    values["sides"]["test"]["intervals"].update(intervals={"auroc": None}, note="HEM has 2 groups, 8 are needed.")
    write_json(run / "metrics.json", values)
    text = card(run)
    assert "No interval is given." in section(text, "Intervals")
    assert "HEM has 2 groups, 8 are needed." in section(text, "Intervals")
    assert "- AUROC: 0.912, no interval\n" in text


def test_the_other_sections_say_what_their_files_say(run):
    text = card(run).replace("\u202f", " ")
    assert cells(section(text, "Errors"), "ALL") == ["ALL", "2", "3"]
    assert cells(section(text, "Errors"), "1") == ["1", "ALL", "3", "5"]
    assert "AUROC over subjects 0.931, interval 0.812 to 0.987" in section(text, "Subjects")
    rule = cells(section(text, "Subjects"), "mean logit of the cells")
    assert rule[1:] == ["87.5 % (52.9 % to 97.8 %)", "75.0 % (none)"]
    assert cells(section(text, "Subgroups"), "cell area")[2:] == ["5", "2", "77.0 %", "50.0 % to 90.0 %", "–"]
    assert cells(section(text, "Baselines"), "Cell area alone") == ["Cell area alone", "+0.062", "−0.021 to +0.143", "no"]
    calibration = section(text, "Calibration and threshold")
    assert "Temperature: 1.400, fitted on 36 validation images of 7 groups." in calibration
    assert ("positive from a score of 0.410, chosen on validation for the highest specificity with a sensitivity of at least "
            "95.0 %; sensitivity reached there: 96.7 %.") in calibration  # fmt: skip
    assert cells(calibration, "Brier: reliability (less is better)")[1] == "<0.001"
    abstention = section(text, "Abstention and foreign images")
    assert cells(abstention, "10 %") == ["10 %", "90.0 %", "12 (9)", "87.4 %", "91.3 %", "62.1 %", "88.9 %", "1.38"]
    assert cells(abstention, "5 %") == ["5 %", "–", "12 (19)", "–", "–", "–", "–", "–"]
    assert cells(abstention, "noise") == ["noise", "2", "2"]
    assert cells(abstention, "photographs") == ["photographs", "0", "1"]
    assert "2.1 % of 10 images" in abstention


def test_three_classes_have_no_threshold(run):
    rewrite(run / "decision.json", threshold=None)
    assert "Threshold: none; the highest probability decides." in section(card(run), "Calibration and threshold")


def test_two_models_of_one_name_are_told_apart_by_their_folders(run):
    both = [ANALYSIS["models"][0], {**ANALYSIS["models"][0], "model": "resnet50_wider"}]
    rewrite(run.parent / "analysis.json", models=both, against_baselines=[])
    text = section(card(run), "Baselines")
    assert "| ResNet-50 (resnet50) " in text
    assert "| ResNet-50 (resnet50_wider) " in text


def test_coverage_is_told_by_group_as_it_was_promised(run):
    abstention = section(card(run), "Abstention and foreign images")
    assert cells(abstention, "accepted error")[1:5] == ["promised, by group", "groups (needed)", "kept, by group",
                                                        "kept, by image"]  # fmt: skip
    assert '"Kept, by group" is that mean here' in abstention


def test_auroc_within_folds_is_shown_and_explained_where_it_was_measured(run):
    assert "within folds" not in card(run)
    values = read_json(run / "metrics.json")
    test = values["sides"]["test"]
    test["auroc_within_folds"] = 0.9432
    test["intervals"]["intervals"]["auroc_within_folds"] = [0.8123, 0.9871]
    test["folds"] = [{**test["folds"][0], "fold": fold} for fold in range(2)]
    write_json(run / "metrics.json", values)
    text = card(run)
    assert cells(section(text, "Figures"), "AUROC within folds")[1:3] == ["0.943", "0.812 to 0.987"]
    assert '"AUROC within folds" takes pairs of one fold only.' in section(text, "Variation")


def test_gains_of_this_model_and_over_it_are_told_by_name(run):
    augmented = {**ANALYSIS["models"][0], "model": "resnet50+tta"}
    ensemble = {**augmented, "model": "ensemble", "display_name": "Ensemble of 5 networks", "kind": "ensemble"}
    gains = [{"model": "resnet50+tta", "against": "resnet50", "difference": 0.0112, "interval": [-0.01, 0.03],
              "extra_seconds": 90.0},
             {"model": "ensemble", "against": "vgg16", "difference": 0.5, "interval": None, "extra_seconds": None}]  # fmt: skip
    rewrite(run.parent / "analysis.json", models=[*ANALYSIS["models"], augmented, ensemble], gains=gains)
    text = section(card(run), "Baselines").replace("\u202f", " ")
    gain = cells(text, "ResNet-50 + flips and turns")
    assert gain == ["ResNet-50 + flips and turns", "ResNet-50", "+0.011", "−0.010 to +0.030", "1.5 min"]
    assert "+0.500" not in text
