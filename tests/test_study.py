"""What a study finds again: a baseline on features only where they were made of the same pictures."""

from __future__ import annotations

from typing import Any

import pytest

from leukolens import study
from leukolens.evaluation.baselines import Protocol
from leukolens.settings import DecisionSettings, InputSettings, TrainSettings


def test_baseline_on_features_belongs_to_one_treatment(
    cohort: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    monkeypatch.setattr(study, "_once", lambda folder, made_of, make: keys.append(made_of))
    protocol = Protocol(cohort.manifest, (cohort.splits,), "split by subject", DecisionSettings())
    where = study.Study("subject", tmp_path, protocol, cohort.cache)
    record = {"architecture": "resnet50", "display_name": "ResNet-50"}
    for settings in (
        TrainSettings(),
        TrainSettings(input_px=256),
        TrainSettings(input=InputSettings(crop="cell")),
        TrainSettings(input=InputSettings(colour="grey")),
        TrainSettings(),
    ):
        study._feature_baseline(where, record, settings, "key")
    assert keys[0] == keys[-1]
    assert len(set(keys)) == 4
