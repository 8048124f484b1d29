from __future__ import annotations

import hashlib
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file

from leukolens.artifacts import ArtifactError, hash_file, write_json
from leukolens.data.preprocessing import Preprocessing
from leukolens.errors import WeightsError
from leukolens.models.architectures import ARCHITECTURES, FIVE_ARCHITECTURES, find_architecture
from leukolens.models.classifier import build_classifier
from leukolens.models.weights import INDEX_FILE, PretrainedWeights, fetch, find_weights
from leukolens.settings import TrainSettings

TINY = find_architecture("timm:test_resnet")
SHARED = Path(__file__).parents[2] / ".." / "shared" / "weights"
# Far below what retries of a library would take; an unreachable port of this machine answers at once.
SECONDS_TO_NOTICE = 20


def from_folder(folder: Path) -> TrainSettings:
    return TrainSettings(weights_dir=folder)


def write_weights(folder: Path, name: str, state: dict[str, torch.Tensor], **changes: Any) -> Path:
    """Write NAME.safetensors and an index.json with its entry."""
    path = folder / f"{name}.safetensors"
    save_file(state, path)
    entry = {
        "library": "timm",
        "trained_on": "nothing that matters",
        "mean": "0.1,0.2,0.3",
        "std": "0.4,0.5,0.6",
        "source": "a test",
        "licence": "none",
        "sha256": hash_file(path),
        **changes,
    }
    write_json(folder / INDEX_FILE, {name: {key: value for key, value in entry.items() if value is not None}})
    return path


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    network = timm.create_model("test_resnet")
    return {
        name: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }


# A folder of weights


def test_weights_of_a_folder_carry_what_their_index_says(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = write_weights(tmp_path, "test_resnet", state)
    found = find_weights(TINY, from_folder(tmp_path))
    assert found.to_record() == {
        "origin": "folder: test_resnet.safetensors",
        "trained_on": "nothing that matters",
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "source": "a test",
        "licence": "none",
        "sha256": hash_file(path),
        "note": "",
        "builder": "timm.test_resnet",
    }
    built = build_classifier(found, Preprocessing((48, 48), 32, found.mean, found.std), 2, 0.2, 0)
    assert torch.equal(built.backbone.network.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    torch.testing.assert_close(built.normalise.offset.flatten(), -torch.tensor([0.1 / 0.4, 0.2 / 0.5, 0.3 / 0.6]))


def test_half_precision_weights_become_single(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    write_weights(tmp_path, "test_resnet", half)
    found = find_weights(TINY, from_folder(tmp_path)).state
    assert found is not None
    assert found["conv1.0.weight"].dtype == torch.float32
    assert torch.equal(found["conv1.0.weight"], half["conv1.0.weight"].float())


def test_stand_in_of_a_folder_is_used_and_noted(tmp_path: Path) -> None:
    write_weights(tmp_path, "tf_efficientnet_lite0", timm.create_model("tf_efficientnet_lite0").state_dict())
    found = find_weights(find_architecture("efficientnet_b0"), from_folder(tmp_path))
    assert found.architecture == ARCHITECTURES["tf_efficientnet_lite0"]
    assert found.note == "stands in for EfficientNet-B0"
    assert build_classifier(found, Preprocessing((48, 48), 32, found.mean, found.std), 2, 0.2, 0).backbone.width == 1280


def test_wrong_hash_raises_and_names_the_file(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = write_weights(tmp_path, "test_resnet", state, sha256="0" * 64)
    with pytest.raises(WeightsError) as caught:
        find_weights(TINY, from_folder(tmp_path))
    assert str(caught.value) == (
        f"{path} is not the file that it should be.\n"
        f"  expected: SHA-256 {'0' * 64}…\n"
        f"  received: {hash_file(path)}\n"
        "  remedy:   delete it and download it again"
    )


def test_missing_file_raises_and_names_it(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = write_weights(tmp_path, "test_resnet", state)
    path.unlink()
    with pytest.raises(WeightsError) as caught:
        find_weights(TINY, from_folder(tmp_path))
    assert caught.value.what == f"{path} does not exist."


def test_missing_entry_raises_and_says_what_to_add(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    write_weights(tmp_path, "test_vit", state)
    with pytest.raises(WeightsError) as caught:
        find_weights(TINY, from_folder(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} holds no weights for test_resnet.\n"
        "  expected: test_resnet.safetensors and its entry, of timm, in index.json\n"
        "  received: entries test_vit\n"
        "  remedy:   add the file and its entry (trained_on, mean, std, sha256), or leave --weights-dir out to download"
    )


def test_entry_that_does_not_say_enough_raises_and_names_the_fields(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    write_weights(tmp_path, "test_resnet", state, sha256=None, mean=None)
    with pytest.raises(WeightsError) as caught:
        find_weights(TINY, from_folder(tmp_path))
    assert caught.value.what == f"The entry 'test_resnet' of {tmp_path / INDEX_FILE} does not say enough."
    assert caught.value.received == "an entry without mean, sha256"


def test_weights_of_the_same_name_in_another_library_are_not_taken(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    write_weights(tmp_path, "test_resnet", state, library="torchvision")
    with pytest.raises(WeightsError, match="holds no weights for test_resnet"):
        find_weights(TINY, from_folder(tmp_path))


@pytest.mark.parametrize("exists", [True, False])
def test_folder_without_index_raises(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(WeightsError) as caught:
        find_weights(TINY, from_folder(folder))
    assert caught.value.what == f"{folder} is no folder of weights."
    assert caught.value.received == ("a folder without index.json" if exists else "no folder at that path")


def test_index_that_is_no_json_raises(tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        find_weights(TINY, from_folder(tmp_path))


def test_file_that_is_no_safetensors_raises(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = write_weights(tmp_path, "test_resnet", state)
    path.write_bytes(b"not a tensor in sight")
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    index["test_resnet"]["sha256"] = hash_file(path)
    write_json(tmp_path / INDEX_FILE, index)
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        find_weights(TINY, from_folder(tmp_path))
    assert str(path) in caught.value.what


# The packaged file


def test_packaged_lite0_loads_and_is_not_random() -> None:
    found = find_weights(find_architecture("tf_efficientnet_lite0"), TrainSettings())
    assert found.sha256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert found.trained_on == "ImageNet-1k"
    assert found.state is not None
    assert len(found.state) == 296
    preprocessing = Preprocessing((48, 48), 64, found.mean, found.std)
    packaged, random = (
        build_classifier(PretrainedWeights(**{**vars(found), "state": state}), preprocessing, 2, 0.2, 0)
        for state in (found.state, None)
    )
    levels = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert not torch.allclose(packaged.features(levels), random.features(levels), atol=1e-2)
    # A trained network's running variances are no longer the ones that it began with.
    variance = packaged.backbone.network.state_dict()["bn1.running_var"]
    assert not torch.equal(variance, torch.ones_like(variance))


# Downloads, from a stand-in for the libraries' servers


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Address and folder of a web server on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "published"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}", folder
        listening.shutdown()
        thread.join()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where nobody listens."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub puts what it downloads."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def publish(folder: Path, state: dict[str, torch.Tensor], prefix: str | None = None) -> str:
    """Write name-<first eight digits of the hash>.pth; give its name."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    name = f"alexnet-{prefix or hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(buffer.getvalue())
    return name


@pytest.fixture
def torchvision_publishes_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let torchvision name this address for every network."""

    class _Published(SimpleNamespace):
        def __str__(self) -> str:
            return "Weights.PUBLISHED"

    def publishes_at(url: str) -> None:
        transforms = SimpleNamespace(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        default = _Published(url=url, transforms=lambda: transforms)
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: SimpleNamespace(DEFAULT=default))

    return publishes_at


def test_download_is_checked_kept_and_described(
    server: tuple[str, Path], checkpoints: Path, torchvision_publishes_at: Callable[[str], None]
) -> None:
    address, folder = server
    name = publish(folder, {"features.0.weight": torch.ones(2)})
    torchvision_publishes_at(f"{address}/{name}")
    found = find_weights(find_architecture("alexnet"), TrainSettings())
    assert found.state is not None
    assert torch.equal(found.state["features.0.weight"], torch.ones(2))
    assert (found.origin, found.source) == ("download: torchvision Weights.PUBLISHED", f"{address}/{name}")
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert found.sha256 == hash_file(checkpoints / name)


def test_file_already_in_place_is_not_downloaded_again(nobody: str, tmp_path: Path) -> None:
    name = publish(tmp_path, {"a": torch.ones(2)})
    assert fetch(f"{nobody}/{name}", tmp_path, "AlexNet") == tmp_path / name


def test_file_in_place_with_a_wrong_hash_raises_and_names_it(nobody: str, tmp_path: Path) -> None:
    name = publish(tmp_path, {"a": torch.ones(2)}, prefix="0123abcd")
    with pytest.raises(WeightsError) as caught:
        fetch(f"{nobody}/{name}", tmp_path, "AlexNet")
    assert caught.value.what == f"{tmp_path / name} is not the file that it should be."
    assert caught.value.expected == "SHA-256 0123abcd…"


def test_download_with_a_wrong_hash_raises_and_leaves_nothing(server: tuple[str, Path], checkpoints: Path) -> None:
    address, folder = server
    name = publish(folder, {"a": torch.ones(2)}, prefix="0123abcd")
    with pytest.raises(WeightsError) as caught:
        fetch(f"{address}/{name}", checkpoints, "AlexNet")
    assert 'invalid hash value (expected "0123abcd"' in caught.value.received
    assert f"{address}/{name}" in caught.value.expected
    assert f"put that file, from elsewhere, at {checkpoints / name}" in caught.value.remedy
    assert list(checkpoints.iterdir()) == []


def test_address_without_the_file_raises_and_says_the_status(server: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        fetch(f"{server[0]}/alexnet-0123abcd.pth", tmp_path, "AlexNet")
    assert caught.value.received == "HTTP status 404"


def test_unreachable_address_raises_within_seconds_naming_address_file_and_place(
    nobody: str, checkpoints: Path, torchvision_publishes_at: Callable[[str], None]
) -> None:
    torchvision_publishes_at(f"{nobody}/vgg16-0123abcd.pth")
    began = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        find_weights(find_architecture("vgg16"), TrainSettings())
    assert time.monotonic() - began < SECONDS_TO_NOTICE
    assert caught.value.what == "The pretrained weights of VGG16 cannot be downloaded."
    assert caught.value.expected == f"an answer from {nobody}/vgg16-0123abcd.pth"
    assert "Connection refused" in caught.value.received
    assert caught.value.remedy == (
        f"put that file, from elsewhere, at {checkpoints / 'vgg16-0123abcd.pth'};"
        " or pass --weights-dir, or --weights available to go on without"
    )


@pytest.mark.usefixtures("checkpoints")
def test_packaged_stand_in_is_used_where_the_download_fails(
    nobody: str, torchvision_publishes_at: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    torchvision_publishes_at(f"{nobody}/efficientnet-0123abcd.pth")
    with caplog.at_level(logging.WARNING, "leukolens"):
        found = find_weights(find_architecture("efficientnet_b0"), TrainSettings())
    assert found.architecture.name == "tf_efficientnet_lite0"
    assert found.note.startswith("stands in for EfficientNet-B0: ")
    assert "Connection refused" in found.note
    assert caplog.messages == [
        "EfficientNet-B0: The pretrained weights of EfficientNet-B0 cannot be downloaded."
        " Using the packaged EfficientNet-Lite0."
    ]


@pytest.fixture
def hugging_face_is_nobody(nobody: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nobody)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    return nobody


def test_unreachable_weights_of_timm_raise_and_name_address_and_cache(hugging_face_is_nobody: str) -> None:
    with pytest.raises(WeightsError) as caught:
        find_weights(TINY, TrainSettings())
    assert caught.value.expected.startswith(f"an answer from {hugging_face_is_nobody}/timm/test_resnet")
    assert "at the Hugging Face cache " in caught.value.remedy


def test_network_without_published_weights_raises() -> None:
    with pytest.raises(WeightsError, match="timm publishes no weights for efficientnet_b0_g8_gn"):
        find_weights(find_architecture("timm:efficientnet_b0_g8_gn"), TrainSettings())


# Policies


@pytest.mark.usefixtures("hugging_face_is_nobody")
def test_policy_available_goes_on_from_random_weights_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "leukolens"):
        found = find_weights(TINY, TrainSettings(weights="available"))
    assert found.state is None
    assert found.trained_on == "nothing: random weights"
    assert found.note.startswith("no pretrained weights to be had: ")
    assert caplog.messages == [
        "test_resnet: The pretrained weights of test_resnet cannot be downloaded. Going on from random weights."
    ]


def test_policy_available_takes_weights_that_are_there(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    write_weights(tmp_path, "test_resnet", state)
    assert find_weights(TINY, TrainSettings(weights="available", weights_dir=tmp_path)).state is not None


def test_policy_none_looks_nowhere(tmp_path: Path) -> None:
    found = find_weights(TINY, TrainSettings(weights="none", weights_dir=tmp_path / "nowhere"))
    assert (found.state, found.sha256, found.origin) == (None, None, "none")
    assert found.note == "asked for: --weights none"
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


# The real files


@pytest.mark.real
@pytest.mark.parametrize("name", FIVE_ARCHITECTURES)
def test_weights_of_the_five_networks_load(name: str) -> None:
    if not (SHARED / INDEX_FILE).is_file():
        pytest.skip("../shared/weights is absent")
    found = find_weights(find_architecture(name), TrainSettings(weights_dir=SHARED))
    preprocessing = Preprocessing((450, 450), 64, found.mean, found.std)
    classifier = build_classifier(found, preprocessing, 2, 0.2, 0)
    with torch.inference_mode():
        features = classifier.features(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert bool(torch.isfinite(features).all())
    assert classifier.norm_layers_frozen
    assert (found.note != "") == (name == "efficientnet_b0")
