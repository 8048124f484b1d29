"""The mean of calibrated logits: over networks within each fold, over the repeats of a cross-validation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from leukolens.artifacts import Predictions
from leukolens.errors import ArtifactError
from leukolens.evaluation.ensembles import ensemble, ensemble_over_repeats
from leukolens.evaluation.evaluate import evaluate
from leukolens.settings import DecisionSettings

CLASSES = ["HEM", "ALL"]


def log_odds(score: np.ndarray) -> np.ndarray:
    return np.log(score / (1 - score))


def make_member(seed: int, repeats: int = 1, images: int = 40) -> Predictions:
    random = np.random.default_rng(seed)
    parts = []
    for repeat in range(repeats):
        for side in ("validation", "test"):
            true = np.arange(images) % 2
            score = 1 / (1 + np.exp(-(2 * true - 1 + random.normal(0, 1, images))))
            names = [f"{number:02}.bmp" for number in range(images)]
            subjects = [f"S{number}" for number in range(images)]
            parts.append(pd.DataFrame({
                "image": names, "subject": subjects, "group": subjects, "repeat": repeat, "fold": 0, "side": side,
                "y_true": np.array(CLASSES)[true], "y_pred": np.array(CLASSES)[(score >= 0.4).astype(int)], "y_score": score,
                "score_HEM": 1 - score, "score_ALL": score, "outlier_score": 0.5,
            }))  # fmt: skip
    record = {"classes": CLASSES, "positive": ["ALL"], "kind": "network", "architecture": f"net{seed}",
              "display_name": f"Net {seed}", "trained_on": "ImageNet-1k", "split_label": "split by subject",
              "optimistic": False, "synthetic": False, "run_hash": str(seed), "seconds": 2.0, "tta": False,
              "decisions": [{"repeat": repeat, "fold": 0, "temperature": 1.0, "threshold": 0.4, "aim": "balanced_accuracy",
                             "sensitivity": None} for repeat in range(repeats)]}  # fmt: skip
    return Predictions(pd.concat(parts, ignore_index=True), record)


def test_scores_are_the_mean_log_odds_up_to_the_new_temperature():
    members = {f"net{seed}": make_member(seed) for seed in (1, 2, 3)}
    shuffled = members["net2"].table.sample(frac=1, random_state=0)
    members["net2"] = Predictions(shuffled, members["net2"].record)
    joint = ensemble(members, DecisionSettings())
    test = joint.table[joint.table["side"] == "test"].sort_values("image")
    each = [log_odds(m.table[m.table["side"] == "test"].sort_values("image")["y_score"].to_numpy()) for m in members.values()]
    decision = joint.record["decisions"][0]
    assert log_odds(test["y_score"].to_numpy()) * decision["temperature"] == pytest.approx(np.mean(each, axis=0), abs=1e-6)
    assert test["y_pred"].tolist() == np.where(test["y_score"] >= decision["threshold"], "ALL", "HEM").tolist()
    assert joint.record["kind"] == "ensemble"
    assert joint.record["members"] == ["Net 1", "Net 2", "Net 3"]
    assert joint.record["seconds"] == 6.0
    assert evaluate(joint)["sides"]["test"]["images"] == 40


def test_the_mean_of_independent_members_beats_each_of_them():
    members = {f"net{seed}": make_member(seed, images=400) for seed in range(5)}
    areas = [evaluate(each)["sides"]["test"]["auroc"] for each in members.values()]
    assert evaluate(ensemble(members, DecisionSettings()))["sides"]["test"]["auroc"] > max(areas)


def test_over_repeats_scores_and_margins_are_means():
    member = make_member(1, repeats=3)
    joint = ensemble_over_repeats(member)
    test = member.table[member.table["side"] == "test"].assign(logit=log_odds(member.table["y_score"]))
    mean = test.groupby("image")["logit"].mean()
    rows = joint.table.sort_values("image")
    assert log_odds(rows["y_score"].to_numpy()) == pytest.approx(mean.to_numpy())
    calls = np.where(mean - log_odds(np.array(0.4)) >= 0, "ALL", "HEM")
    assert rows["y_pred"].tolist() == calls.tolist()
    assert rows["side"].eq("test").all()
    assert (joint.record["decisions"], joint.record["display_name"]) == ([], "Net 1 × 3 seeds")


def test_over_repeats_a_mean_at_the_threshold_is_positive():
    member = make_member(1, repeats=2, images=4)
    at = {"y_score": 0.4, "score_ALL": 0.4, "score_HEM": 1 - 0.4}
    joint = ensemble_over_repeats(Predictions(member.table.assign(**at), member.record))
    assert joint.table["y_pred"].tolist() == ["ALL"] * 4
    untuned = [{**each, "threshold": None} for each in member.record["decisions"]]
    joint = ensemble_over_repeats(Predictions(member.table.assign(**at), {**member.record, "decisions": untuned}))
    assert joint.table["y_pred"].tolist() == ["HEM"] * 4


def test_over_repeats_needs_several():
    with pytest.raises(ArtifactError, match="An ensemble over seeds needs several repeats"):
        ensemble_over_repeats(make_member(1))


def test_members_must_have_scored_the_same_rows():
    short = make_member(2)
    short = Predictions(short.table[short.table["image"] != "07.bmp"], short.record)
    with pytest.raises(ArtifactError) as raised:
        ensemble({"one": make_member(1), "two": short}, DecisionSettings())
    assert str(raised.value).startswith("two scores other images than one.")
    assert "78 rows; only one of them has 07.bmp (test)" in str(raised.value)


def test_members_must_have_the_same_classes():
    other = make_member(2)
    other = Predictions(other.table, {**other.record, "positive": ["HEM"]})
    with pytest.raises(ArtifactError, match="two has other classes than one"):
        ensemble({"one": make_member(1), "two": other}, DecisionSettings())
    with pytest.raises(ArtifactError, match="too few members"):
        ensemble({"one": make_member(1)}, DecisionSettings())
