"""Scoring in shards: the list, the parts, what cannot be read, and what goes on after an interruption; without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cohort import build_cohort, draw_cell, write_image
from leukolens.artifacts import Manifest, Predictions
from leukolens.data.manifest import index
from leukolens.errors import ArtifactError, RunError
from leukolens.prediction import ray_scoring
from leukolens.prediction.predict import predict
from leukolens.prediction.shard_scoring import ShardScorer
from leukolens.prediction.shards import FAILURE_COLUMNS, SHARD_COLUMNS, Shards, list_shards, read_failures, read_parts
from leukolens.settings import PredictSettings, ShardSettings
from leukolens.training.runs import Run


@pytest.fixture
def fresh(tmp_path: Path) -> Manifest:
    """40 cells that no run has seen, in a folder that a test may damage."""
    return index(build_cohort(tmp_path / "fresh", cells_per_subject=4, subjects_per_class=5, first_seed=900), tmp_path)


def shards_of(run: Run, manifest: Manifest, out: Path, per_shard: int = 7, **settings: Any) -> Shards:
    wished = PredictSettings(shards=ShardSettings(images_per_shard=per_shard), **settings)
    return ray_scoring._shards(run, manifest, None, out, wished)


def score_all(run: Run, shards: Shards, **settings: Any) -> list[dict[str, Any]]:
    scorer = ShardScorer(run, shards, PredictSettings(**settings), workers=2)
    return [scorer.score(number) for number in shards.unfinished()]


# The list


def test_shards_hold_every_row_once_in_order(head_run: Run, fresh: Manifest, tmp_path: Path) -> None:
    shards = shards_of(head_run, fresh, tmp_path / "out")
    assert (shards.record["images"], shards.record["shards"], list(shards.numbers)) == (40, 6, [0, 1, 2, 3, 4, 5])
    tables = [shards.rows(number) for number in shards.numbers]
    assert [len(table) for table in tables] == [7, 7, 7, 7, 7, 5]
    assert list(tables[0]) == list(SHARD_COLUMNS)
    assert pd.concat(tables)["image"].tolist() == sorted(fresh.images["image"])
    assert shards.unfinished() == [0, 1, 2, 3, 4, 5]


def test_cells_that_the_run_has_seen_keep_their_sides(head_run: Run, cohort: Any, tmp_path: Path) -> None:
    shards = shards_of(head_run, cohort.manifest, tmp_path / "out", per_shard=60)
    rows = shards.rows(0)
    assert dict(zip(rows["image"], rows["side"], strict=True)) == cohort.splits.of_fold(0).to_dict()


def test_list_that_was_cut_short_does_not_count(head_run: Run, fresh: Manifest, tmp_path: Path) -> None:
    rows = shards_of(head_run, fresh, tmp_path / "whole").rows(0)
    with pytest.raises(KeyError):
        list_shards(rows.drop(columns="side"), {"made_of": {}}, 3, tmp_path / "out")
    assert not (tmp_path / "out/shards.json").exists()


def test_folder_of_another_run_or_other_settings_is_refused(
    head_run: Run, finetuned_run: Run, fresh: Manifest, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shards_of(head_run, fresh, out)
    with pytest.raises(RunError) as caught:
        shards_of(head_run, fresh, out, per_shard=8)
    assert str(caught.value) == (
        f"{out} holds shards that were made with other images_per_shard.\n"
        "  expected: the images_per_shard that it was begun with: 7\n"
        "  received: 8\n"
        "  remedy:   choose another --out, or delete that folder to score anew"
    )
    with pytest.raises(RunError, match="with other run_hash and decision_hash"):
        shards_of(finetuned_run, fresh, out)


# Scores


@pytest.mark.parametrize("settings", [{}, {"tta": True, "abstain": 0.1}])
@pytest.mark.parametrize("kind", ["head_run", "finetuned_run"])
def test_parts_are_what_predict_gives(
    request: pytest.FixtureRequest, fresh: Manifest, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    run = request.getfixturevalue(kind)
    shards = shards_of(run, fresh, tmp_path / "out", **settings)
    done = score_all(run, shards, **settings)
    assert [(each["shard"], each["scored"], each["failures"]) for each in done] == [(0, 7, 0), (1, 7, 0), (2, 7, 0),
                                                                                  (3, 7, 0), (4, 7, 0), (5, 5, 0)]  # fmt: skip
    predict(run, fresh, None, tmp_path / "plain", tmp_path / "cache", PredictSettings(**settings))
    whole = Predictions.load(tmp_path / "plain")
    parts = read_parts(tmp_path / "out")
    # Batches of other sizes: the same but for the order of additions.
    pd.testing.assert_frame_equal(parts.table, whole.table, rtol=1e-5, atol=1e-6)
    untimed = {name: value for name, value in whole.record.items() if name not in ("seconds", "images_per_second")}
    assert parts.record == untimed
    part = Predictions.load(shards.part_path(5))
    assert part.record["run_hash"] == run.record["run_hash"]
    assert (part.record["shard"], part.record["failures"]) == (5, 0)


def test_parts_of_two_engines_do_not_become_one_table(head_run: Run, fresh: Manifest, tmp_path: Path) -> None:
    shards = shards_of(head_run, fresh, tmp_path / "out")
    score_all(head_run, shards)
    part = Predictions.load(shards.part_path(2))
    Predictions(part.table, {**part.record, "engine": "openvino"}).save(shards.part_path(2))
    with pytest.raises(ArtifactError) as caught:
        read_parts(tmp_path / "out")
    assert caught.value.received == "engine openvino, inference_precision fp32; engine torch, inference_precision fp32"


def test_images_that_cannot_be_scored_have_a_row_with_the_reason(head_run: Run, fresh: Manifest, tmp_path: Path) -> None:
    shards = shards_of(head_run, fresh, tmp_path / "out")
    names = sorted(fresh.images["image"])
    (fresh.root / names[1]).unlink()
    (fresh.root / names[9]).write_bytes(b"BM no picture")
    write_image(fresh.root / names[10], draw_cell(12345))
    write_image(fresh.root / names[11], draw_cell(1, side_px=40))
    score_all(head_run, shards)
    failures = read_failures(tmp_path / "out")
    assert list(failures) == list(FAILURE_COLUMNS)
    assert dict(zip(failures["image"], failures["reason"], strict=True)) == {
        names[1]: "missing", names[9]: "not_an_image", names[10]: "changed", names[11]: "changed"
    }  # fmt: skip
    other = failures.iloc[2]
    assert other["expected"] == f"pixels of content hash {fresh.images.set_index('image')['content_hash'][names[10]]}"
    smaller = failures.iloc[3]
    assert (smaller["expected"], smaller["received"]) == ("48 x 48 pixels", "40 x 40 pixels")
    scored = read_parts(tmp_path / "out").table["image"].tolist()
    assert sorted([*scored, *failures["image"]]) == names
    assert shards.count_rows() == (36, 4)


@pytest.mark.parametrize("abstain", [None, 0.1])
def test_shard_without_a_readable_image_is_an_empty_part(
    head_run: Run, fresh: Manifest, tmp_path: Path, abstain: float | None
) -> None:
    shards = shards_of(head_run, fresh, tmp_path / "out", abstain=abstain)
    for image in shards.rows(5)["image"]:
        (fresh.root / image).unlink()
    assert score_all(head_run, shards, abstain=abstain)[5] == {"shard": 5, "scored": 0, "failures": 5}
    empty, full = (Predictions.load(shards.part_path(number)).table for number in (5, 4))
    assert len(empty) == 0
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)
    assert len(read_parts(tmp_path / "out").table) == 35


# Going on


def test_finished_shards_are_left_alone(head_run: Run, fresh: Manifest, tmp_path: Path) -> None:
    shards = shards_of(head_run, fresh, tmp_path / "out")
    scorer = ShardScorer(head_run, shards, PredictSettings(), workers=1)
    scorer.score(2)
    written = shards.part_path(2).stat().st_mtime_ns
    again = shards_of(head_run, fresh, tmp_path / "out")
    assert again.unfinished() == [0, 1, 3, 4, 5]
    assert scorer.score(2) == {"shard": 2, "scored": 0, "failures": 0}
    assert shards.part_path(2).stat().st_mtime_ns == written


def test_missing_parts_are_named(head_run: Run, fresh: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shards = shards_of(head_run, fresh, out)
    score_all(head_run, shards)
    shards.part_path(1).unlink()
    shards.part_path(4).unlink()
    with pytest.raises(ArtifactError) as caught:
        read_parts(out)
    assert str(caught.value) == (
        f"{out} is not scored as a whole.\n"
        "  expected: 6 parts\n"
        "  received: none for the shards 1, 4\n"
        "  remedy:   give the same `leukolens predict --ray` command again: it goes on with what is missing"
    )


def test_lost_rows_are_noticed(head_run: Run, fresh: Manifest, tmp_path: Path) -> None:
    shards = shards_of(head_run, fresh, tmp_path / "out")
    score_all(head_run, shards)
    part = Predictions.load(shards.part_path(3))
    Predictions(part.table.iloc[1:], part.record).save(shards.part_path(3))
    with pytest.raises(ArtifactError, match="39 rows and 0 failures"):
        shards.count_rows()


def test_shard_that_kills_its_workers_ends_the_run(head_run: Run, fresh: Manifest, tmp_path: Path) -> None:
    shards = shards_of(head_run, fresh, tmp_path / "out")
    (tmp_path / "out/tries").mkdir()
    (tmp_path / "out/tries/00002").write_bytes(b"xxxxx")
    worker = ray_scoring.ShardWorker(str(head_run.folder), str(tmp_path / "out"), PredictSettings().model_dump(mode="json"))
    assert worker({"shard": np.array([0, 1])})["scored"].tolist() == [7, 7]
    with pytest.raises(RunError, match=r"Shard 2 of .* has killed 5 workers"):
        worker({"shard": np.array([2])})
    assert [path.name for path in (tmp_path / "out/tries").iterdir()] == ["00002"]
    assert shards.unfinished() == [2, 3, 4, 5]
