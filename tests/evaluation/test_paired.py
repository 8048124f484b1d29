"""Models against each other: certain winners, twins, gates, gains, the leak, and every way in which tables can disagree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from leukolens.artifacts import Predictions, write_json
from leukolens.errors import ArtifactError
from leukolens.evaluation.intervals import interval_of
from leukolens.evaluation.paired import LEAST_P, compare_models, leak_difference
from leukolens.evaluation.resampling import Clusters, resample
from leukolens.evaluation.significance import delong
from leukolens.settings import EvaluateSettings

SETTINGS = EvaluateSettings(resamples=400, seed=3)
PER_GROUP = 5


def truth_of(groups: int) -> np.ndarray:
    """0 for the images of the first half of the groups, 1 for the others."""
    return (np.repeat(np.arange(groups), PER_GROUP) >= groups // 2).astype(int)


def noisy(seed: int, strength: float, groups: int = 24, alike: float = 0.6) -> np.ndarray:
    """Scores 0–1 that tell the classes apart the better the higher `strength`, `alike` within a group."""
    random = np.random.default_rng(seed)
    shift = np.repeat(random.normal(0, alike, groups), PER_GROUP)
    logits = strength * (truth_of(groups) - 0.5) + shift + random.normal(size=groups * PER_GROUP)
    return 1 / (1 + np.exp(-logits))


def rows_of(score: np.ndarray, repeat: int = 0, side: str = "test") -> pd.DataFrame:
    groups = len(score) // PER_GROUP
    names = np.array(["HEM", "ALL"])
    group = [f"S{number:02d}" for number in np.repeat(np.arange(groups), PER_GROUP)]
    return pd.DataFrame({
        "image": [f"{side}-{number:03d}.bmp" for number in range(len(score))],
        "subject": group, "group": group, "repeat": repeat, "fold": 0, "side": side,
        "y_true": names[truth_of(groups)], "y_pred": names[(score >= 0.5).astype(int)],
        "y_score": score, "score_HEM": 1 - score, "score_ALL": score,
    })  # fmt: skip


def model(score: np.ndarray, architecture: str | None = "net", kind: str = "network", **record) -> Predictions:
    given = {"kind": kind, "architecture": architecture, "display_name": f"The {architecture}", **record}
    return Predictions(rows_of(score), {"classes": ["HEM", "ALL"], "positive": ["ALL"], **given})


def with_validation(predictions: Predictions, score: np.ndarray) -> Predictions:
    return Predictions(pd.concat([predictions.table, rows_of(score, side="validation")]), predictions.record)


def by_model(rows: list) -> dict:
    return {row["model"]: row for row in rows}


def test_a_certain_winner_is_claimed(tmp_path):
    random = np.random.default_rng(0)
    perfect, chance = 0.1 + 0.8 * truth_of(24), random.uniform(size=120)
    analysis = compare_models({"b": model(chance), "a": model(perfect)}, "auroc", SETTINGS)
    (row,) = analysis["differences"]
    assert (row["a"], row["b"], row["claim"]) == ("a", "b", True)
    assert row["difference"] == pytest.approx(1 - roc_auc_score(truth_of(24), chance))
    assert 0 < row["interval"][0] < row["difference"] < row["interval"][1]
    assert row["p"] == row["p_holm"] == LEAST_P
    assert row["delong_p"] == row["delong_p_holm"] == pytest.approx(delong(truth_of(24) == 1, perfect, chance)[3])
    best, other = analysis["models"]
    assert (best["model"], best["value"], best["probability_best"], best["rank"]) == ("a", 1.0, 1.0, 1.0)
    assert (other["model"], other["probability_best"], other["rank"]) == ("b", 0.0, 2.0)
    assert analysis["unit"] == "subject group"
    assert analysis["note"] is None
    write_json(tmp_path / "analysis.json", analysis)


def test_twins_are_not_told_apart():
    score = noisy(1, 1.5)
    analysis = compare_models({"a": model(score), "b": model(score)}, "auroc", SETTINGS)
    (row,) = analysis["differences"]
    assert row == {"a": "a", "b": "b", "difference": 0.0, "interval": [0.0, 0.0], "p": 1.0, "p_holm": 1.0,
                   "delong_p": 1.0, "delong_p_holm": 1.0, "claim": False}  # fmt: skip
    assert [(each["probability_best"], each["rank"]) for each in analysis["models"]] == [(0.5, 1.5), (0.5, 1.5)]
    assert "No network is shown to be better than another; the order of their values is no ranking." in analysis["notes"]


def test_differences_are_those_of_scikit_learn_on_the_same_resamples():
    a, b = noisy(1, 1.5), noisy(2, 1.0)
    analysis = compare_models({"a": model(a), "b": model(b)}, "auroc", SETTINGS)
    clusters = Clusters.of(rows_of(a))
    truth = truth_of(24)
    samples = []
    for weights in resample(clusters, SETTINGS):
        of_row = weights[clusters.of_row]
        area_a, area_b = (roc_auc_score(truth, score, sample_weight=of_row) for score in (a, b))
        samples.append(area_a - area_b)
    (row,) = analysis["differences"]
    value = roc_auc_score(truth, a) - roc_auc_score(truth, b)
    assert row["difference"] == pytest.approx(value)
    assert row["interval"] == pytest.approx(interval_of(np.array(samples), value, clusters, SETTINGS))
    assert analysis["models"][0]["probability_best"] == pytest.approx(np.mean(np.array(samples) > 0))


@pytest.mark.parametrize("strength", [1.0, 1.3, 1.6])
def test_p_turns_where_the_interval_leaves_zero(strength):
    models = {"a": model(noisy(1, strength)), "b": model(noisy(2, 0.8))}
    p = compare_models(models, "auroc", SETTINGS)["differences"][0]["p"]
    assert LEAST_P < p < 0.5
    for level, excludes in ((p * 1.01, True), (p * 0.99, False)):
        settings = EvaluateSettings(resamples=400, seed=3, confidence=1 - level)
        low, high = compare_models(models, "auroc", settings)["differences"][0]["interval"]
        assert (low > 0 or high < 0) == excludes


def test_holm_over_all_pairs_and_claims():
    models = {name: model(noisy(seed, strength), name) for seed, (name, strength) in
              enumerate({"a": 3.0, "b": 1.2, "c": 1.0, "d": 0.2}.items())}  # fmt: skip
    analysis = compare_models(models, "auroc", SETTINGS)
    rows = analysis["differences"]
    assert len(rows) == 6
    order = np.argsort([row["p"] for row in rows], kind="stable")
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, rows[index]["p"] * (6 - rank)))
        assert rows[index]["p_holm"] == pytest.approx(running)
        assert rows[index]["claim"] == (running < 0.05 and rows[index]["interval"][0] > 0)
    assert {row["claim"] for row in rows} == {True, False}
    assert all(row["difference"] >= 0 for row in rows)
    assert sum(each["probability_best"] for each in analysis["models"]) == pytest.approx(1)
    assert sum(each["rank"] for each in analysis["models"]) == pytest.approx(1 + 2 + 3 + 4)


def test_equal_networks_are_seldom_told_apart_where_delong_is_often_fooled():
    # Both networks are drawn alike, their mistakes shared within subjects: every claim is false. 60 trials: up to 7
    # (12 %) false claims are within the luck of a true rate of 5 %, P(more) = 1 %.
    settings = EvaluateSettings(resamples=200)
    rows = [
        compare_models(
            {"a": model(noisy(2 * trial, 1.5, alike=2.0)), "b": model(noisy(2 * trial + 1, 1.5, alike=2.0))}, "auroc", settings
        )["differences"][0]
        for trial in range(60)
    ]
    assert sum(row["claim"] for row in rows) <= 7
    assert sum(row["delong_p"] < 0.05 for row in rows) >= 15


def test_only_networks_compete():
    models = {
        "a": model(noisy(1, 1.0), "a"),
        "b": model(noisy(2, 1.2), "b"),
        "b+tta": model(noisy(3, 2.0), "b", tta=True),
        "ensemble": model(noisy(4, 2.5), None, "ensemble"),
        "baseline_area": model(noisy(5, 0.5), None, "baseline"),
        "other_tool": model(noisy(6, 3.0), None, None),
    }
    analysis = compare_models(models, "auroc", SETTINGS)
    ranked = {row["model"] for row in analysis["models"] if row["rank"] is not None}
    assert ranked == {"a", "b"}
    assert sum(row["probability_best"] or 0 for row in analysis["models"]) == pytest.approx(1)
    assert all(row["interval"][0] < row["value"] < row["interval"][1] for row in analysis["models"])
    values = [row["value"] for row in analysis["models"]]
    assert values == sorted(values, reverse=True)
    assert [(row["a"], row["b"]) for row in analysis["differences"]] in ([("a", "b")], [("b", "a")])
    assert set(analysis["beats_baselines"]) == {"a", "b", "ensemble"}


def test_rows_in_any_order_give_the_same():
    models = {name: model(noisy(seed, 1.0), name) for seed, name in enumerate("abc")}
    shuffled = {name: Predictions(each.table.sample(frac=1, random_state=seed), each.record)
                for seed, (name, each) in enumerate(models.items())}  # fmt: skip
    assert compare_models(models, "auroc", SETTINGS) == compare_models(shuffled, "auroc", SETTINGS)


def test_too_few_groups_no_interval_no_p_no_claim():
    perfect = 0.1 + 0.8 * truth_of(6)
    models = {"a": model(perfect), "b": model(1 - perfect), "baseline_majority": model(0 * perfect, None, "baseline")}
    analysis = compare_models(models, "auroc", SETTINGS)
    (row,) = analysis["differences"]
    assert row["difference"] == 1.0
    assert (row["interval"], row["p"], row["p_holm"], row["claim"]) == (None, None, None, False)
    assert {(each["interval"], each["probability_best"], each["rank"]) for each in analysis["models"]} == {(None,) * 3}
    assert [each["beats"] for each in analysis["against_baselines"]] == [None, None]
    assert analysis["beats_baselines"] == {"a": None, "b": None}
    assert "3" in analysis["note"]


def test_without_a_mistake_the_interval_is_that_of_the_two_ends():
    # No resample varies. Of 12 groups of either class none is wrong: the low end of the area is 0.025^(1/12) = 0.735.
    low = 0.025 ** (1 / 12)
    perfect, also = 0.1 + 0.8 * truth_of(24), 0.2 + 0.6 * truth_of(24)
    models = {"a": model(perfect, "a"), "b": model(also, "b"), "majority": model(np.ones(120), None, "baseline")}
    analysis = compare_models(models, "auroc", SETTINGS)
    (row,) = analysis["differences"]
    assert (row["difference"], row["p"], row["claim"]) == (0.0, 1.0, False)
    assert row["interval"] == pytest.approx([low - 1, 1 - low])
    first = analysis["against_baselines"][0]
    assert (first["difference"], first["beats"]) == (0.5, True)
    assert first["interval"] == pytest.approx([low - 0.5, 0.5])


def test_baselines_gate_the_models_that_they_belong_to():
    strong, weak = noisy(1, 3.0), noisy(2, 0.3)
    models = {
        "tuned": model(strong, "tuned", phase="finetune"),
        "frozen": model(weak, "frozen", phase="head"),
        "ensemble": model(strong, None, "ensemble"),
        "baseline_majority": model(np.ones(120), None, "baseline"),
        "baseline_area": model(noisy(3, 1.0), None, "baseline"),
        "baseline_features_tuned": model(strong, "tuned", "baseline"),
        "baseline_features_frozen": model(noisy(4, 1.0), "frozen", "baseline"),
    }
    analysis = compare_models(models, "auroc", SETTINGS)
    assert by_model(analysis["models"])["baseline_majority"]["value"] == 0.5
    faced = {name: {row["baseline"]: row["beats"] for row in analysis["against_baselines"] if row["model"] == name}
             for name in ("tuned", "frozen", "ensemble")}  # fmt: skip
    assert faced["tuned"] == {"baseline_majority": True, "baseline_area": True, "baseline_features_tuned": False}
    assert set(faced["frozen"]) == {"baseline_majority", "baseline_area"}
    assert faced["ensemble"] == {"baseline_majority": True, "baseline_area": True}
    assert analysis["beats_baselines"] == {"tuned": False, "frozen": False, "ensemble": True}


def test_without_baselines_nothing_is_said_to_be_beaten():
    analysis = compare_models({"a": model(noisy(1, 2.0))}, "auroc", SETTINGS)
    assert analysis["beats_baselines"] == {"a": None}
    assert analysis["notes"][0] == (
        "No baseline was measured on these images: whether a network has learned more is not known."
    )
    assert analysis["models"][0]["rank"] is None  # one alone is not ranked


def test_gains_are_against_the_choice_of_validation_and_against_itself():
    low, high = noisy(1, 0.8), noisy(2, 2.0)
    models = {
        "a": with_validation(model(low, "a", seconds=2.0), noisy(7, 4.0)),
        "b": with_validation(model(high, "b", seconds=3.0), noisy(8, 0.1)),
        "a+tta": model(noisy(3, 1.0), "a", tta=True, seconds=16.5),
        "ensemble": model(noisy(4, 2.5), None, "ensemble"),
    }
    gains = by_model(compare_models(models, "auroc", SETTINGS)["gains"])
    assert {name: row["against"] for name, row in gains.items()} == {"a+tta": "a", "ensemble": "a"}
    assert gains["a+tta"]["extra_seconds"] == 14.5
    assert gains["ensemble"]["extra_seconds"] is None
    truth = truth_of(24)
    assert gains["ensemble"]["difference"] == pytest.approx(roc_auc_score(truth, noisy(4, 2.5)) - roc_auc_score(truth, low))
    assert gains["ensemble"]["interval"][0] > 0


@pytest.mark.parametrize(("sizes", "picked"), [((9, 3), "b"), ((3, 9), "a"), ((None, None), "a"), ((None, 9), "b")])
def test_a_tie_on_validation_is_broken_as_in_the_table_and_never_by_test(sizes, picked):
    shared = noisy(7, 4.0)
    models = {
        # "b" is the better one on test, and stands first in the analysis.
        "a": with_validation(model(noisy(1, 0.5), "a", parameters=sizes[0]), shared),
        "b": with_validation(model(noisy(2, 3.0), "b", parameters=sizes[1]), shared),
        "ensemble": model(noisy(3, 2.0), None, "ensemble"),
    }
    analysis = compare_models(models, "auroc", SETTINGS)
    assert [row["model"] for row in analysis["models"] if row["kind"] == "network"] == ["b", "a"]
    assert [row["against"] for row in analysis["gains"]] == [picked]


def test_validation_rows_change_no_difference():
    plain = {"a": model(noisy(1, 1.0)), "b": model(noisy(2, 1.5))}
    more = {name: with_validation(each, noisy(9, 1.0)) for name, each in plain.items()}
    assert compare_models(plain, "auroc", SETTINGS) == compare_models(more, "auroc", SETTINGS)


def test_repeats_are_averaged_and_share_the_resamples():
    scores = [noisy(seed, 1.5) for seed in (1, 2, 3)]
    table = pd.concat([rows_of(score, repeat) for repeat, score in enumerate(scores)])
    once = model(noisy(4, 1.0))
    three = Predictions(table, once.record)
    analysis = compare_models({"three": three, "once": once}, "auroc", SETTINGS)
    (row,) = analysis["differences"]
    truth = truth_of(24)
    mean = np.mean([roc_auc_score(truth, score) for score in scores])
    assert row["difference"] == pytest.approx(mean - roc_auc_score(truth, noisy(4, 1.0)))
    assert row["delong_p"] == pytest.approx(delong(truth == 1, scores[0], noisy(4, 1.0))[3])
    same = Predictions(pd.concat([rows_of(noisy(4, 1.0), repeat) for repeat in range(3)]), once.record)
    assert compare_models({"a": once, "b": same}, "auroc", SETTINGS)["differences"][0]["interval"] == [0.0, 0.0]


def test_three_classes_without_a_positive_one():
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(30), 4) % 3
    classes = ["A", "B", "C"]

    def three(strength: float) -> Predictions:
        logits = random.normal(size=(120, 3)) + strength * np.eye(3)[truth]
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        table = pd.DataFrame({
            "image": [f"{number}.bmp" for number in range(120)], "subject": np.repeat(np.arange(30), 4).astype(str),
            "group": np.repeat(np.arange(30), 4).astype(str), "repeat": 0, "fold": 0, "side": "test",
            "y_true": np.array(classes)[truth], "y_pred": np.array(classes)[scores.argmax(axis=1)], "y_score": None,
            **{f"score_{name}": scores[:, index] for index, name in enumerate(classes)},
        })  # fmt: skip
        return Predictions(table, {"classes": classes, "positive": [], "kind": "network", "architecture": str(strength)})

    models = {"good": three(4.0), "poor": three(0.5)}
    (row,) = compare_models(models, "balanced_accuracy", SETTINGS)["differences"]
    assert (row["a"], row["claim"], row["delong_p"], row["delong_p_holm"]) == ("good", True, None, None)
    undefined = compare_models(models, "auroc", SETTINGS)
    assert undefined["notes"][0] == "auroc is undefined for good, poor: they are not compared."
    assert (undefined["differences"], undefined["gains"], undefined["models"][0]["value"]) == ([], [], None)
    with pytest.raises(ArtifactError) as caught:
        leak_difference(models, models, "auroc", SETTINGS)
    assert caught.value.what.startswith("auroc of '")


def test_an_image_that_one_model_lacks_is_named():
    a, b = model(noisy(1, 1.0)), model(noisy(2, 1.0))
    shorter = Predictions(b.table[b.table["image"] != "test-007.bmp"], b.record)
    with pytest.raises(ArtifactError) as caught:
        compare_models({"a": a, "b": shorter}, "auroc", SETTINGS)
    assert str(caught.value) == (
        "Models 'a' and 'b' were not scored on the same images.\n"
        "  expected: the same test images of every model, in every repeat\n"
        "  received: image 'test-007.bmp' scored by 'a' and not in repeat 0 of 'b'\n"
        "  remedy:   predict all models with the same splits, or cross-validate them on the same pool"
    )
    with pytest.raises(ArtifactError) as caught:
        compare_models({"b": shorter, "a": a}, "auroc", SETTINGS)
    assert caught.value.received == "image 'test-007.bmp' in repeat 0 of 'a' and not in 'b'"


def test_an_image_missing_from_one_repeat_is_named():
    a = model(noisy(1, 1.0))
    table = pd.concat([rows_of(noisy(2, 1.0), 0), rows_of(noisy(3, 1.0), 1).iloc[:-1]])
    with pytest.raises(ArtifactError) as caught:
        compare_models({"a": a, "b": Predictions(table, a.record)}, "auroc", SETTINGS)
    assert caught.value.received == "image 'test-119.bmp' scored by 'a' and not in repeat 1 of 'b'"
    with pytest.raises(ArtifactError, match="not scored on the same images"):
        compare_models({"b": Predictions(table, a.record)}, "auroc", SETTINGS)


@pytest.mark.parametrize(
    ("column", "value", "received"), [("y_true", "ALL", "y_true ALL"), ("group", None, "group None"), ("group", "X", "group X")]
)
def test_tables_that_disagree_about_an_image_are_refused(column, value, received):
    a, b = model(noisy(1, 1.0)), model(noisy(2, 1.0))
    b.table.loc[4, column] = value
    with pytest.raises(ArtifactError) as caught:
        compare_models({"a": a, "b": b}, "auroc", SETTINGS)
    assert caught.value.what == "Models 'a' and 'b' do not agree about image 'test-004.bmp'."
    assert caught.value.expected == {"y_true": "y_true HEM, as 'a'", "group": "group S00, as 'a'"}[column]
    assert caught.value.received == received


def test_tables_that_cannot_be_compared_are_refused():
    a = model(noisy(1, 1.0))
    twice = Predictions(pd.concat([a.table, a.table.iloc[[3]]]), a.record)
    other = Predictions(a.table, {**a.record, "positive": ["HEM"]})
    only_validation = Predictions(rows_of(noisy(1, 1.0), side="validation"), a.record)
    for models, message in (
        ({"a": twice}, "Model 'a' has scored image 'test-003.bmp' more than once."),
        ({"a": a, "b": other}, "Models 'a' and 'b' do not judge the same classes."),
        ({"a": only_validation}, "Model 'a' has no scores to compare."),
        ({}, "There is nothing to compare."),
    ):
        with pytest.raises(ArtifactError) as caught:
            compare_models(models, "auroc", SETTINGS)
        assert caught.value.what == message
    with pytest.raises(ArtifactError) as caught:
        compare_models({"a": a}, "roc", SETTINGS)
    assert caught.value.received == "roc"
    assert "balanced_accuracy" in caught.value.expected


def test_images_without_a_label_are_left_out():
    a, b = model(noisy(1, 1.0)), model(noisy(2, 1.0))
    unlabelled = a.table.iloc[[0]].assign(image="final.bmp", y_true=None, y_pred="ALL")
    more = Predictions(pd.concat([a.table, unlabelled]), a.record)
    assert compare_models({"a": more, "b": b}, "auroc", SETTINGS) == compare_models({"a": a, "b": b}, "auroc", SETTINGS)


def test_the_leak_by_architecture_and_in_the_mean(tmp_path):
    truth = truth_of(24)
    by_subject = {
        "x": model(noisy(1, 0.8), "x"), "y": model(noisy(2, 1.0), "y"), "z": model(noisy(3, 1.0), "z"),
        "x+tta": model(noisy(9, 0.1), "x", tta=True), "ensemble": model(noisy(8, 1.0), None, "ensemble"),
    }  # fmt: skip
    by_image = {"y": model(noisy(5, 3.0), "y"), "x": model(noisy(4, 2.5), "x")}
    leak = leak_difference(by_subject, by_image, "auroc", SETTINGS)
    assert [row["architecture"] for row in leak["rows"]] == ["x", "y"]
    expected = {"x": (noisy(1, 0.8), noisy(4, 2.5)), "y": (noisy(2, 1.0), noisy(5, 3.0))}
    for row in leak["rows"]:
        subject, image = (roc_auc_score(truth, score) for score in expected[row["architecture"]])
        assert (row["by_subject"], row["by_image"]) == pytest.approx((subject, image))
        assert row["difference"] == pytest.approx(image - subject)
        assert row["interval"][0] < row["difference"] < row["interval"][1]
        assert row["display_name"] == f"The {row['architecture']}"
    for name in ("by_subject", "by_image", "difference"):
        assert leak["mean"][name] == pytest.approx(np.mean([row[name] for row in leak["rows"]]))
    widths = [row["interval"][1] - row["interval"][0] for row in [leak["mean"], *leak["rows"]]]
    assert leak["mean"]["interval"][0] > 0
    assert widths[0] < max(widths[1:])
    assert (leak["figure"], leak["unit"], leak["images"], leak["groups"]) == ("auroc", "subject group", 120, 24)
    assert leak["note"] is None
    write_json(tmp_path / "leak.json", leak)


def test_no_leak_between_twins_and_none_without_a_common_network():
    a = {"x": model(noisy(1, 1.0), "x")}
    leak = leak_difference(a, a, "auroc", SETTINGS)
    assert (leak["mean"]["difference"], leak["mean"]["interval"]) == (0.0, [0.0, 0.0])
    with pytest.raises(ArtifactError) as caught:
        leak_difference(a, {"y": model(noisy(1, 1.0), "y")}, "auroc", SETTINGS)
    assert caught.value.received == "by subject: x; by image: y"


def test_the_leak_of_other_images_is_refused():
    a, b = model(noisy(1, 1.0), "x"), model(noisy(2, 1.0), "x")
    other = Predictions(b.table.assign(image="other-" + b.table["image"]), b.record)
    with pytest.raises(ArtifactError) as caught:
        leak_difference({"x": a}, {"x": other}, "auroc", SETTINGS)
    assert caught.value.what == "Models 'x by subject' and 'x by image' were not scored on the same images."
    assert caught.value.received == "image 'other-test-000.bmp' in repeat 0 of 'x by image' and not in 'x by subject'"
