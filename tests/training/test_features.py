from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leukolens.data.pixel_cache import PixelCache
from leukolens.data.preprocessing import Preprocessing
from leukolens.models.classifier import Classifier
from leukolens.models.compute import Compute
from leukolens.training import features
from leukolens.training.features import FeatureExtractor, frozen_features, to_levels

PREPROCESSING = Preprocessing((48, 48), 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class CountingExtractor(FeatureExtractor):
    """Notes how many images it was given, and stops where `stop_after` batches are done."""

    seen: list[int]
    stop_after: int | None

    def __call__(self, pixels: Any) -> Any:
        if self.stop_after is not None and len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        self.seen.append(len(pixels))
        return super().__call__(pixels)


@pytest.fixture
def extractor(tiny_classifier: Classifier) -> CountingExtractor:
    made = CountingExtractor(tiny_classifier, PREPROCESSING, Compute("cpu", "fp32"), 4, "tiny")
    object.__setattr__(made, "seen", [])
    object.__setattr__(made, "stop_after", None)
    return made


def test_features_are_the_backbones_in_the_order_asked_for(
    extractor: CountingExtractor, pixels: PixelCache, tmp_path: Path
) -> None:
    rows = [30, 2, 17, 2, 59]
    found = frozen_features(extractor, pixels, rows, tmp_path)
    with torch.inference_mode():
        wanted = extractor.classifier.features(to_levels(pixels.pixels[rows], "cpu")).numpy()
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, wanted, rtol=1e-4, atol=1e-5)
    assert found.seconds > 0


def test_levels_are_the_pixels_with_channels_first() -> None:
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    levels = to_levels(pixels, "cpu")
    assert levels.shape == (2, 3, 4, 4)
    assert levels[1, 2, 3, 0] == pixels[1, 3, 0, 2]


def test_second_call_computes_nothing_and_tells_the_same_seconds(
    extractor: CountingExtractor, pixels: PixelCache, tmp_path: Path
) -> None:
    first = frozen_features(extractor, pixels, range(20), tmp_path)
    extractor.seen.clear()
    again = frozen_features(extractor, pixels, range(20), tmp_path)
    assert extractor.seen == []
    np.testing.assert_array_equal(again.values, first.values)
    assert again.seconds == first.seconds


def test_only_what_is_missing_is_computed(extractor: CountingExtractor, pixels: PixelCache, tmp_path: Path) -> None:
    first = frozen_features(extractor, pixels, range(20), tmp_path)
    extractor.seen.clear()
    both = frozen_features(extractor, pixels, [*range(25), 3], tmp_path)
    assert sum(extractor.seen) == 5
    np.testing.assert_array_equal(both.values[:20], first.values)
    np.testing.assert_array_equal(both.values[25], first.values[3])


def test_seconds_are_those_of_the_images_asked_for(
    extractor: CountingExtractor, pixels: PixelCache, tmp_path: Path
) -> None:
    whole = frozen_features(extractor, pixels, range(20), tmp_path)
    assert frozen_features(extractor, pixels, range(5), tmp_path).seconds == pytest.approx(whole.seconds / 4)


def test_copies_of_a_cell_are_computed_once(extractor: CountingExtractor, pixels: PixelCache, tmp_path: Path) -> None:
    hashes = list(pixels.content_hashes)
    hashes[1] = hashes[0]
    found = frozen_features(extractor, replace(pixels, content_hashes=tuple(hashes)), [0, 1, 2], tmp_path)
    assert sum(extractor.seen) == 2
    np.testing.assert_array_equal(found.values[0], found.values[1])


def test_interrupted_extraction_goes_on(
    extractor: CountingExtractor, pixels: PixelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_IMAGES_PER_PART", 8)
    object.__setattr__(extractor, "stop_after", 5)
    with pytest.raises(KeyboardInterrupt):
        frozen_features(extractor, pixels, range(24), tmp_path / "broken")
    # Five batches of four: two whole parts of eight are kept, the half one is not.
    assert len(list((tmp_path / "broken").rglob("*"))) == 1 + 2
    object.__setattr__(extractor, "stop_after", None)
    extractor.seen.clear()
    gone_on = frozen_features(extractor, pixels, range(24), tmp_path / "broken")
    assert sum(extractor.seen) == 8
    np.testing.assert_array_equal(gone_on.values, frozen_features(extractor, pixels, range(24), tmp_path / "whole").values)


def test_key_follows_weights_preprocessing_and_precision(extractor: CountingExtractor) -> None:
    others = [
        replace_in(extractor, preprocessing=replace(PREPROCESSING, mean=(0.4, 0.5, 0.5))),
        replace_in(extractor, preprocessing=replace(PREPROCESSING, canvas_px=(40, 48))),
        replace_in(extractor, compute=Compute("cpu", "bf16")),
        replace_in(extractor, compute=Compute("cpu", "fp32", "openvino")),
    ]
    keys = {extractor.key(), *(other.key() for other in others)}
    next(extractor.classifier.backbone.parameters()).data[0] += 1
    assert len({*keys, extractor.key()}) == 6
    # Where and in what portions it is computed changes nothing that matters.
    assert replace_in(extractor, compute=Compute("cuda", "fp32"), batch_size=9).key() == extractor.key()


def test_key_follows_the_precision_that_features_are_computed_in_and_not_that_of_training(
    extractor: CountingExtractor,
) -> None:
    asked_in_bf16 = replace_in(extractor, compute=Compute("cpu", "fp32", asked_in="bf16"))
    assert asked_in_bf16.key() == replace_in(extractor, compute=Compute("cpu", "bf16")).key() != extractor.key()


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_views_share_one_network_and_see_what_was_turned(
    extractor: CountingExtractor, pixels: PixelCache, engine: str
) -> None:
    plain = replace_in(extractor, compute=Compute("cpu", "fp32", engine))
    view = plain.of_view(5)
    assert view.ready() is plain.ready()
    batch = pixels.pixels[[0, 1, 2, 3]]
    # View 5: a quarter turn, then the mirror image.
    np.testing.assert_allclose(view(batch), plain(np.rot90(batch, axes=(1, 2))[:, :, ::-1].copy()), rtol=1e-3, atol=1e-4)


def test_network_is_made_ready_by_the_first_batch_where_nobody_has(extractor: CountingExtractor, pixels: PixelCache) -> None:
    fresh = replace_in(extractor)
    batch = pixels.pixels[[0, 1, 2]]
    assert fresh.network.engine is None
    np.testing.assert_array_equal(fresh(batch), fresh.ready()(to_levels(batch, "cpu")))


def replace_in(extractor: FeatureExtractor, **changes: Any) -> FeatureExtractor:
    names = ("classifier", "preprocessing", "compute", "batch_size", "display_name")
    return FeatureExtractor(**{**{name: getattr(extractor, name) for name in names}, **changes})
