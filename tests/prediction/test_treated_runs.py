"""A run that was trained on cropped and recoloured cells scores cells so treated, by every way there is to a score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leukolens.data.augmentation import augment
from leukolens.data.preprocessing import Preprocessing, read_pixels
from leukolens.errors import RunError
from leukolens.prediction import foreign, ray_scoring
from leukolens.prediction.predict import predict
from leukolens.prediction.shard_scoring import ShardScorer
from leukolens.prediction.shards import read_parts
from leukolens.settings import InputSettings, PredictSettings, ShardSettings, TrainSettings
from leukolens.training import finetuning
from leukolens.training.features import to_levels
from leukolens.training.runs import Run
from leukolens.training.train import train

CELL = InputSettings(crop="cell", colour="constancy")


@pytest.fixture(scope="module")
def treated(cohort: Any, tiny: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = tiny.model_copy(update={"finetune_epochs": 0, "input": CELL})
    return train(cohort.manifest, cohort.splits, tmp_path_factory.mktemp("treated") / "run", settings, cohort.cache)


def scores_by_hand(run: Run, manifest: Any, images: list[str], preprocessing: Preprocessing) -> Any:
    """Calibrated scores of the whole network for pixels that were prepared here."""
    decoded = (read_pixels(manifest.root / image, 10**6).pixels for image in images)
    levels = to_levels(np.stack([preprocessing.apply(pixels) for pixels in decoded]), "cpu")
    with torch.inference_mode():
        logits = run.classifier()(levels).double()
    return (logits / run.decision_record["temperature"]).softmax(dim=1).numpy()


def test_run_says_how_its_cells_were_treated(treated: Run, head_run: Run) -> None:
    assert treated.record["preprocessing"]["crop"] == "cell"
    assert treated.record["preprocessing"]["colour"] == "constancy"
    assert treated.record["settings"]["input"] == {"crop": "cell", "crop_px": None, "colour": "constancy"}
    assert Run.load(treated.folder).preprocessing.treatment == CELL
    assert head_run.preprocessing.treatment == InputSettings()


def test_cells_are_treated_as_in_training(treated: Run, cohort: Any, tmp_path: Path) -> None:
    table = predict(treated, cohort.manifest, cohort.splits, tmp_path, cohort.cache).table
    images = table["image"].tolist()
    treatment = Preprocessing((48, 48), 32, treated.preprocessing.mean, treated.preprocessing.std, treatment=CELL)
    found = table[["score_HEM", "score_ALL"]].to_numpy()
    np.testing.assert_allclose(found, scores_by_hand(treated, cohort.manifest, images, treatment), rtol=2e-2, atol=5e-3)
    plain = Preprocessing((48, 48), 32)
    assert np.abs(found - scores_by_hand(treated, cohort.manifest, images, plain)).max() > 0.05


def test_shards_are_treated_too(treated: Run, cohort: Any, tmp_path: Path) -> None:
    wished = PredictSettings(shards=ShardSettings(images_per_shard=30))
    shards = ray_scoring._shards(treated, cohort.manifest, None, tmp_path / "out", wished)
    scorer = ShardScorer(treated, shards, PredictSettings(), workers=1)
    for number in shards.unfinished():
        scorer.score(number)
    found = read_parts(tmp_path / "out").table.set_index("image")["score_ALL"]
    wanted = predict(treated, cohort.manifest, None, tmp_path / "table", cohort.cache).table.set_index("image")["score_ALL"]
    np.testing.assert_allclose(found[wanted.index], wanted, rtol=1e-3, atol=1e-4)


def test_foreign_images_are_treated_too(treated: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[InputSettings] = []
    real = Preprocessing.apply

    def apply(self: Preprocessing, pixels: Any) -> Any:
        applied.append(self.treatment)
        return real(self, pixels)

    monkeypatch.setattr(Preprocessing, "apply", apply)
    foreign.foreign_scores(treated, tmp_path, {})
    assert set(applied) == {CELL}


def test_folder_of_a_run_is_not_gone_on_with_under_another_treatment(
    treated: Run, cohort: Any, tiny: TrainSettings
) -> None:
    with pytest.raises(RunError, match="was made with other"):
        train(cohort.manifest, cohort.splits, treated.folder, tiny.model_copy(update={"finetune_epochs": 0}), cohort.cache)


def test_grey_cells_are_fine_tuned_grey(
    cohort: Any, tiny: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def keep(*arguments: Any) -> torch.Tensor:
        seen.append(augment(*arguments))
        return seen[-1]

    monkeypatch.setattr(finetuning, "augment", keep)
    settings = tiny.model_copy(update={"finetune_epochs": 1, "input": InputSettings(colour="grey")})
    train(cohort.manifest, cohort.splits, tmp_path / "run", settings, cohort.cache)
    assert seen
    assert all(torch.equal(levels[:, 0], levels[:, 2]) for levels in seen)
