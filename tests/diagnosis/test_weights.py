from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision.models

from leukolens.artifacts import hash_file, write_json
from leukolens.diagnosis.findings import Finding
from leukolens.diagnosis.weights import check_weights
from leukolens.models.weights import INDEX_FILE

SHARED = Path(__file__).parents[3] / "shared" / "weights"
CONTENT = b"weights, as far as a hash can tell"


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where torch.hub puts what it downloads; torchvision publishes NAME-<hash of CONTENT>.pth for every network."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    digits = hashlib.sha256(CONTENT).hexdigest()[:8]

    def published(name: str) -> SimpleNamespace:
        return SimpleNamespace(DEFAULT=SimpleNamespace(url=f"https://example.org/{name}-{digits}.pth"))

    monkeypatch.setattr(torchvision.models, "get_model_weights", published)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def named(found: list[Finding]) -> dict[str, Finding]:
    return {each.name: each for each in found}


def downloaded(checkpoints: Path, name: str, content: bytes = CONTENT) -> Path:
    path = checkpoints / f"{name}-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    return path


@pytest.mark.usefixtures("checkpoints")
def test_without_downloads_only_the_packaged_stand_in_is_there() -> None:
    found = named(check_weights(None))
    assert list(found) == ["VGG16", "EfficientNet-B0", "ResNet-50", "DenseNet-121", "AlexNet"]
    assert (found["VGG16"].state, found["VGG16"].found) == ("note", "not on this machine")
    assert found["VGG16"].remedy.startswith("downloaded when first needed; `leukolens fetch weights` makes a folder of them")
    stand_in = found["EfficientNet-B0"]
    assert stand_in.state == "note"
    assert stand_in.found == "packaged: EfficientNet-Lite0, which stands in where its own have not been downloaded"
    assert stand_in.figures["architecture"] == "tf_efficientnet_lite0"


def test_what_was_downloaded_is_found_and_checked(checkpoints: Path) -> None:
    vgg16 = downloaded(checkpoints, "vgg16")
    alexnet = downloaded(checkpoints, "alexnet", b"half of it")
    downloaded(checkpoints, "efficientnet_b0")
    found = named(check_weights(None))
    assert (found["VGG16"].state, found["VGG16"].found) == ("ok", f"downloaded before: {vgg16}, trained on ImageNet-1k")
    assert found["VGG16"].figures["bytes"] == len(CONTENT)
    assert found["EfficientNet-B0"].state == "ok"
    assert found["AlexNet"].state == "problem"
    assert found["AlexNet"].found.startswith(f"{alexnet} is not the file that it should be.")
    assert found["AlexNet"].remedy == "delete it and download it again"


def test_folder_that_is_named_is_all_that_counts(checkpoints: Path, tmp_path: Path) -> None:
    downloaded(checkpoints, "vgg16")
    folder = tmp_path / "weights"
    folder.mkdir()
    path = folder / "alexnet.safetensors"
    path.write_bytes(CONTENT)
    entry = {"library": "torchvision", "trained_on": "cells", "mean": [0, 0, 0], "std": [1, 1, 1], "source": "here",
             "licence": "none", "sha256": hash_file(path)}  # fmt: skip
    write_json(folder / INDEX_FILE, {"alexnet": entry})
    found = named(check_weights(folder))
    assert found["AlexNet"].found == f"folder: {path}, trained on cells"
    assert (found["VGG16"].state, found["VGG16"].found) == ("problem", f"{folder} holds no weights for VGG16. entries alexnet")


@pytest.mark.real
@pytest.mark.skipif(not (SHARED / INDEX_FILE).is_file(), reason="there are no weights at ../shared")
def test_real_folder_serves_all_five() -> None:
    found = check_weights(SHARED)
    assert [each.state for each in found] == ["ok", "note", "ok", "ok", "ok"]
    assert found[1].found == "folder: EfficientNet-Lite0, which stands in where its own are not in the folder"
