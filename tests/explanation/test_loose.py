"""Maps of pictures in memory: those of the verb, from a network that stays loaded and may be asked from several threads."""

from __future__ import annotations

import io
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leukolens import extras
from leukolens.artifacts import Predictions
from leukolens.data.preprocessing import foreground, read_pixels
from leukolens.errors import ImageError, RunError, SettingsError
from leukolens.explanation.explain import explain
from leukolens.explanation.localisation import localise
from leukolens.explanation.loose import Explainer, PictureMap, explain_picture
from leukolens.explanation.overlays import WARNING, overlaid
from leukolens.settings import ExplainSettings
from leukolens.training.runs import Run

SMALL = ExplainSettings(layer="layer2", device="cpu")


@pytest.fixture(scope="module")
def explainer(head_run: Run) -> Explainer:
    return Explainer(head_run, SMALL)


@pytest.fixture(scope="module")
def pictures(head_run: Run, cohort: Any) -> np.ndarray:
    paths = sorted(cohort.cells.rglob("*.bmp"))[:12]
    return np.stack([head_run.preprocessing.apply(read_pixels(path, 10**6).trimmed) for path in paths])


def same(first: PictureMap, second: PictureMap) -> bool:
    told = [(each.method, each.explained_class, each.probability, each.cell_share, each.inside_share, each.peak_inside)
            for each in (first, second)]  # fmt: skip
    return told[0] == told[1] and np.array_equal(first.overlay, second.overlay)


@pytest.mark.parametrize("method", ["gradcam", "eigencam"])
def test_a_picture_gets_the_map_that_the_verb_draws(
    method: Any, explainer: Explainer, head_run: Run, cohort: Any, tmp_path: Path
) -> None:
    asked = SMALL.model_copy(update={"count": 4, "methods": (method,)})
    table = explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, asked).table
    for row in table.to_dict("records"):
        pixels = head_run.preprocessing.apply(read_pixels(cohort.cells / row["image"], 10**6).trimmed)
        found = explainer.picture(pixels, method)
        assert (found.method, found.explained_class) == (method, "ALL")
        assert found.probability == pytest.approx(row["probability"], abs=1e-3)
        assert found.cell_share == row["cell_share"]
        assert found.inside_share == pytest.approx(row["inside_share"], abs=1e-4)
        assert found.peak_inside == row["peak_inside"]
        with Image.open(tmp_path / row["overlay"]) as image:
            drawn = np.asarray(image)[:224, 232:456][::7, ::7]  # 32 px, seven times as large, on the right
        # The verb asked for several at once, which rounds otherwise.
        np.testing.assert_allclose(found.overlay.astype(int), drawn.astype(int), atol=2)


def test_overlay_and_shares_are_those_of_its_own_map(explainer: Explainer, pictures: np.ndarray) -> None:
    values = explainer.maps(pictures[:1], ("eigencam",)).maps["eigencam"][0]
    found, mask = explainer.picture(pictures[0], "eigencam"), foreground(pictures[0])
    assert found.overlay.dtype == np.uint8
    assert found.overlay.shape == (32, 32, 3)
    np.testing.assert_array_equal(found.overlay, overlaid(pictures[0], values, mask))
    place = localise(values, mask)
    assert (found.cell_share, found.inside_share, found.peak_inside) == (
        place.cell_share, place.inside_share, place.peak_inside)  # fmt: skip


def test_pictures_differ_and_order_does_not_matter(explainer: Explainer, pictures: np.ndarray) -> None:
    forward = [explainer.picture(picture) for picture in pictures]
    backward = [explainer.picture(picture) for picture in pictures[::-1]][::-1]
    assert all(same(*pair) for pair in zip(forward, backward, strict=True))
    assert len({each.probability for each in forward}) > 6


def test_threads_take_turns(explainer: Explainer, pictures: np.ndarray) -> None:
    methods = ["gradcam", "eigencam"] * len(pictures)
    asked = [(picture, method) for picture, method in zip(np.repeat(pictures, 2, axis=0), methods, strict=True)]
    wanted = [explainer.picture(*each) for each in asked]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: explainer.picture(*each), asked))
    assert all(same(*pair) for pair in zip(found, wanted, strict=True))


def test_the_network_is_loaded_once_and_left_clean(
    head_run: Run, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loads = []
    real = Run.classifier
    monkeypatch.setattr(Run, "classifier", lambda run: loads.append(run) or real(run))
    explainer = Explainer(head_run, SMALL)
    with caplog.at_level(logging.INFO, "leukolens"):
        for picture in pictures:
            explain_picture(explainer, picture)
    assert len(loads) == 1
    assert not caplog.text
    assert not any(module._forward_hooks for module in explainer.explained.classifier.modules())


def test_a_failed_picture_leaves_no_hook_and_no_lock(
    explainer: Explainer, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = explainer.picture(pictures[0])

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(explainer.explained.classifier.backbone, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            explainer.picture(pictures[0])
    assert not any(module._forward_hooks for module in explainer.explained.classifier.modules())
    assert same(explainer.picture(pictures[0]), wanted)


def test_a_run_a_folder_and_an_explainer_give_the_same(explainer: Explainer, head_run: Run, pictures: np.ndarray) -> None:
    wanted = explainer.picture(pictures[0])
    for model in (head_run, head_run.folder, str(head_run.folder), explainer):
        assert same(explain_picture(model, pictures[0], settings=SMALL), wanted)
    assert same(explain_picture(explainer, pictures[0]), wanted)


def test_probability_is_that_of_predict(explainer: Explainer, head_run: Run, cohort: Any, tmp_path: Path) -> None:
    explain(head_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, SMALL)
    predicted = Predictions.load(tmp_path).table.iloc[0]
    pixels = head_run.preprocessing.apply(read_pixels(cohort.cells / predicted["image"], 10**6).trimmed)
    assert explainer.picture(pixels).probability == pytest.approx(predicted["score_ALL"], abs=1e-3)
    other = Explainer(head_run, SMALL.model_copy(update={"target_class": "HEM"}))
    assert other.picture(pixels).explained_class == "HEM"
    assert other.picture(pixels).probability == pytest.approx(predicted["score_HEM"], abs=1e-3)


def test_a_black_picture_has_an_empty_map(explainer: Explainer) -> None:
    found = explainer.picture(np.zeros((32, 32, 3), np.uint8))
    assert (found.cell_share, found.inside_share, found.peak_inside) == (0.0, None, None)
    assert not found.overlay.any()


def test_png_holds_the_overlay_and_the_warning(explainer: Explainer, pictures: np.ndarray) -> None:
    found = explainer.picture(pictures[0], "eigencam")
    with Image.open(io.BytesIO(found.png())) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), found.overlay)
        assert image.info["Warning"] == WARNING


# Errors


@pytest.mark.parametrize(
    ("pixels", "received"),
    [
        (np.zeros((224, 224, 3), np.uint8), "uint8 [224, 224, 3]"),
        (np.zeros((32, 32), np.uint8), "uint8 [32, 32]"),
        (np.zeros((32, 32, 3), np.float32), "float32 [32, 32, 3]"),
        (np.zeros((1, 32, 32, 3), np.uint8), "uint8 [1, 32, 32, 3]"),
    ],
)
def test_a_picture_must_be_as_the_network_reads_it(explainer: Explainer, pixels: np.ndarray, received: str) -> None:
    with pytest.raises(ImageError) as caught:
        explain_picture(explainer, pixels)
    assert str(caught.value) == (
        "A picture to be mapped is not as its network reads it.\n"
        "  expected: uint8 [32, 32, 3], as the run's `preprocessing.apply` gives it\n"
        f"  received: {received}\n"
        "  remedy:   bring the decoded image through `Run.preprocessing.apply` first"
    )


def test_unknown_methods_and_other_settings_are_errors(explainer: Explainer, pictures: np.ndarray) -> None:
    with pytest.raises(
        SettingsError, match=r"no such method of making maps\.\n  expected: gradcam or eigencam\n  received: cam"
    ):
        explain_picture(explainer, pictures[0], "cam")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="made with other settings"):
        explain_picture(explainer, pictures[0], settings=ExplainSettings(layer="layer3"))


def test_a_model_that_cannot_be_explained_is_refused_when_it_is_loaded(
    head_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="The layer of test_resnet to be explained is not known"):
        Explainer(head_run, ExplainSettings(device="cpu"))
    with pytest.raises(SettingsError, match="It is not known which class"):
        Explainer(head_run, SMALL.model_copy(update={"target_class": "blast"}))
    with pytest.raises(RunError, match="holds no finished run"):
        Explainer(tmp_path, SMALL)
    monkeypatch.setattr(extras, "is_installed", lambda _: False)
    with pytest.raises(SettingsError, match="Maps need pytorch-grad-cam"):
        Explainer(head_run, SMALL)
