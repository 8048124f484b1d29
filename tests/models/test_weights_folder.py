"""A folder of weights made here is what `--weights-dir` reads elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from leukolens.artifacts import hash_file, read_json
from leukolens.errors import SettingsError, WeightsError
from leukolens.models import weights_folder
from leukolens.models.architectures import Architecture, find_architecture
from leukolens.models.weights import INDEX_FILE, PretrainedWeights, find_weights
from leukolens.models.weights_folder import WeightsFolder, fetch_weights
from leukolens.settings import TrainSettings

TINY, OTHER = "timm:test_resnet", "timm:test_efficientnet"
LITE = "tf_efficientnet_lite0"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the networks whose weights were downloaded, which here means made at random."""
    names: list[str] = []

    def download(row: Architecture, settings: TrainSettings) -> PretrainedWeights:
        assert settings.weights == "pretrained"
        if row.name == OTHER and names:
            raise WeightsError("broken", expected="an answer", received="none", remedy="again")
        names.append(row.name)
        torch.manual_seed(0)
        state = timm.create_model(row.builder, num_classes=10).state_dict()
        return PretrainedWeights(row, "download", "shapes", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "https://example.org/w",
                                 "none", None, state=state)  # fmt: skip

    monkeypatch.setattr(weights_folder, "find_weights", download)
    return names


def test_folder_is_read_as_weights_dir(asked: list[str], tmp_path: Path) -> None:
    made = fetch_weights(tmp_path / "new" / "weights", [TINY])
    assert made == WeightsFolder(tmp_path / "new" / "weights", ("test_resnet",))
    assert asked == [TINY]
    path = made.folder / "test_resnet.safetensors"
    assert read_json(made.folder / INDEX_FILE) == {
        "test_resnet": {
            "bytes": path.stat().st_size, "sha256": hash_file(path), "library": "timm", "trained_on": "shapes",
            "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "source": "https://example.org/w", "licence": "none",
        }
    }  # fmt: skip
    found = find_weights(find_architecture(TINY), TrainSettings(weights_dir=made.folder))
    torch.manual_seed(0)
    expected = timm.create_model("test_resnet", num_classes=10).state_dict()
    assert found.state is not None
    assert set(found.state) == {name for name in expected if not name.startswith("fc.")}
    assert all(torch.equal(tensor, expected[name].float()) for name, tensor in found.state.items())
    assert (found.mean, found.trained_on) == ((0.1, 0.2, 0.3), "shapes")


def test_same_call_goes_on_where_it_stopped(asked: list[str], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="broken") as caught:
        fetch_weights(tmp_path, [TINY, OTHER])
    assert caught.value.remedy.startswith("run this on a machine with a network")
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX_FILE, "test_resnet.safetensors"]
    assert list(read_json(tmp_path / INDEX_FILE)) == ["test_resnet"]
    asked.clear()
    fetch_weights(tmp_path, [TINY])
    assert asked == []
    made = fetch_weights(tmp_path, [TINY, OTHER])
    assert (made.names, asked) == (("test_resnet", "test_efficientnet"), [OTHER])
    assert list(read_json(tmp_path / INDEX_FILE)) == ["test_resnet", "test_efficientnet"]


@pytest.mark.usefixtures("asked")
def test_damaged_file_is_named_and_not_passed_on(tmp_path: Path) -> None:
    path = fetch_weights(tmp_path, [TINY]).folder / "test_resnet.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError) as caught:
        fetch_weights(tmp_path, [TINY])
    assert caught.value.what == f"{path} is not the file that it should be."


def test_weights_that_do_not_fit_are_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = find_architecture(TINY)
    wrong = PretrainedWeights(row, "", "", (0, 0, 0), (1, 1, 1), "", "", None, state={"a": torch.zeros(1)})
    monkeypatch.setattr(weights_folder, "find_weights", lambda *_: wrong)
    with pytest.raises(WeightsError, match="do not fit the network"):
        fetch_weights(tmp_path / "weights", [TINY])
    assert not (tmp_path / "weights").exists()


def test_unknown_name_is_found_before_anything_is_downloaded(asked: list[str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'vgg17' is no architecture"):
        fetch_weights(tmp_path / "weights", [TINY, "vgg17"])
    assert asked == []


def test_packaged_weights_need_no_network(tmp_path: Path) -> None:
    made = fetch_weights(tmp_path, [LITE])
    assert made.summary_lines() == [
        "weights of EfficientNet-Lite0",
        f"next, here or elsewhere: leukolens compare CELLS --weights-dir {tmp_path}",
    ]
    found = find_weights(find_architecture("efficientnet_b0"), TrainSettings(weights_dir=tmp_path))
    assert found.note == "stands in for EfficientNet-B0"
    packaged = find_weights(find_architecture(LITE), TrainSettings())
    assert found.state is not None
    assert packaged.state is not None
    assert torch.equal(found.state["conv_stem.weight"], packaged.state["conv_stem.weight"])
