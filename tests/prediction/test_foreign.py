from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cohort import draw_cell, write_image
from leukolens.data.preprocessing import fit_canvas, read_pixels, resize
from leukolens.errors import RunError, SettingsError
from leukolens.prediction.foreign import foreign_scores, noise_images, photographs
from leukolens.training.features import to_levels
from leukolens.training.runs import Run


@pytest.fixture(scope="module")
def table(head_run: Run, cohort: Any, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Noise, photographs and the run's own training cells as a "foreign" folder."""
    folder = tmp_path_factory.mktemp("foreign")
    own = folder / "own"
    for image in head_run.training_images().query("side == 'train'")["image"]:
        write_image(own / Path(image).name, read_pixels(cohort.manifest.root / image, 10_000).pixels)
    return foreign_scores(head_run, folder, {"own cells": own})


def test_noise_is_seeded_and_of_three_kinds() -> None:
    images, again = list(noise_images((20, 30))), list(noise_images((20, 30)))
    assert len(images) == len({image.image for image in images}) == 30
    assert all(image.pixels.shape == (20, 30, 3) and image.pixels.dtype == np.uint8 for image in images)
    assert all(np.array_equal(first.pixels, second.pixels) for first, second in zip(images, again, strict=True))
    by_name = {image.image: image.pixels for image in images}
    assert by_name["uniform 1"].mean() == pytest.approx(127.5, abs=5)
    assert by_name["Gaussian 1"].std() == pytest.approx(50, abs=4)
    assert not by_name["disc 1"][0].any()
    assert by_name["disc 1"][10, 15].any()
    assert not np.array_equal(by_name["disc 1"], by_name["disc 2"])


def test_photographs_are_in_colour_and_come_from_files_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("something was downloaded")

    monkeypatch.setattr("socket.socket.connect", no_network)
    images = list(photographs())
    assert len(images) == 14
    assert {image.image for image in images} >= {"astronaut", "camera", "china", "flower"}
    assert all(image.pixels.ndim == 3 and image.pixels.shape[2] == 3 and image.pixels.dtype == np.uint8 for image in images)


def test_scores_are_those_of_the_preprocessed_pixels(table: pd.DataFrame, head_run: Run) -> None:
    image = next(image for image in photographs() if image.image == "china")
    pixels = resize(fit_canvas(image.pixels, (48, 48)), 32).copy()
    with torch.inference_mode():
        features = head_run.classifier().features(to_levels(pixels[None], "cpu")).numpy()
    wanted = head_run.outliers().scores(features)[0]
    found = table.loc[table["image"] == "china", "outlier_score"].item()
    assert found == pytest.approx(wanted, rel=1e-3)


def test_table_has_every_kind_and_refuses_above_one(table: pd.DataFrame) -> None:
    assert list(table.columns) == ["kind", "image", "outlier_score", "refused"]
    assert table.groupby("kind", sort=False).size().to_dict()["noise"] == 30
    assert table["kind"].drop_duplicates().tolist() == ["noise", "photographs", "own cells"]
    assert table["refused"].tolist() == (table["outlier_score"] > 1).tolist()
    shares = table.groupby("kind")["refused"].mean()
    # Cells that the network was trained on are nearest to themselves.
    assert shares["own cells"] < 0.1
    assert shares["photographs"] > shares["own cells"]


def test_table_is_written_beside_the_run_unless_told_otherwise(head_run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(head_run.folder, tmp_path / "run"))
    table = foreign_scores(str(copy), None, {})
    written = pd.read_csv(copy / "foreign.csv")
    pd.testing.assert_frame_equal(written, table, check_dtype=False)


def test_large_folder_is_sampled_evenly(head_run: Run, tmp_path: Path) -> None:
    for number in range(201):
        write_image(tmp_path / "many" / f"{number:03d}.png", draw_cell(number, side_px=24, radius_px=5))
    table = foreign_scores(head_run, tmp_path, {"many": tmp_path / "many"})
    names = table.loc[table["kind"] == "many", "image"].tolist()
    assert len(names) == 100
    assert (names[0], names[1], names[-1]) == ("000.png", "002.png", "200.png")


def test_what_cannot_be_decoded_is_named_and_counted(
    head_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(tmp_path / "mixed" / "a.png", draw_cell(1))
    (tmp_path / "mixed" / "b.png").write_bytes(b"no image")
    table = foreign_scores(head_run, tmp_path, {"mixed": tmp_path / "mixed"})
    assert table.loc[table["kind"] == "mixed", "image"].tolist() == ["a.png"]
    assert caplog.messages == [
        f"mixed: {tmp_path / 'mixed' / 'b.png'} left out (not_an_image)", "mixed: 1 of 2 images could not be read",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "received"),
    [(None, "no folder at that path"), ({}, "none"), ({"a.png": b"x"}, "1 files that cannot be decoded")],
)
def test_folder_without_an_image_is_an_error(
    head_run: Run, tmp_path: Path, content: dict[str, bytes] | None, received: str
) -> None:
    folder = tmp_path / "smears"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    with pytest.raises(SettingsError) as caught:
        foreign_scores(head_run, tmp_path, {"smears": folder})
    assert str(caught.value) == (
        f"{folder} holds no image to try as 'smears'.\n"
        "  expected: at least one readable file of BMP, PNG, JPEG, TIFF, WEBP\n"
        f"  received: {received}\n"
        "  remedy:   correct the path, or leave that folder out"
    )
    assert not (tmp_path / "foreign.csv").exists()


def test_built_in_names_are_taken(head_run: Run, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be called 'noise'"):
        foreign_scores(head_run, tmp_path, {"noise": tmp_path})


def test_run_without_a_decision_is_refused(head_run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(head_run.folder, tmp_path / "run"))
    (copy / "outliers.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no outliers\.safetensors"):
        foreign_scores(copy, tmp_path, {})
