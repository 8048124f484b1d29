from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import leukolens
from leukolens.errors import RunError
from leukolens.training.checkpoints import SafetensorsCheckpoints

CHECKPOINTS = SafetensorsCheckpoints()


def there_and_back(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    CHECKPOINTS.save_checkpoint(checkpoint, path)
    return CHECKPOINTS.load_checkpoint(path)


def test_json_values_come_back_as_they_were(tmp_path: Path) -> None:
    checkpoint = {
        "none": None,
        "flags": [True, False],
        "numbers": (1, -2.5, 1e-300, 0.1 + 0.2),
        "text": "stained µ",
        "deep": {"list": [{"tuple": ((), (1, (2,)))}], "empty": {}},
        # Words that the file itself uses.
        "tensor": "dict",
        "dict": {"tuple": [1], "tensor": "x"},
    }
    assert there_and_back(checkpoint, tmp_path / "c.safetensors") == checkpoint


def test_keys_keep_their_kind(tmp_path: Path) -> None:
    checkpoint = {"state": {0: {"step": 3}, 1: {"step": 4}}, "0": "text", ("a", 1): "pair"}
    back = there_and_back({"all": checkpoint}, tmp_path / "c.safetensors")["all"]
    assert back == checkpoint
    assert [type(key) for key in back["state"]] == [int, int]


def test_order_of_keys_is_kept(tmp_path: Path) -> None:
    back = there_and_back({"z": 1, "a": 2, "m": 3}, tmp_path / "c.safetensors")
    assert list(back) == ["z", "a", "m"]


def test_infinity_and_nan_come_back(tmp_path: Path) -> None:
    back = there_and_back({"inf": [math.inf, -math.inf], "nan": math.nan}, tmp_path / "c.safetensors")
    assert back["inf"] == [math.inf, -math.inf]
    assert math.isnan(back["nan"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_keep_their_kind_and_values(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    back = there_and_back({"state": {0: [tensor, None]}}, tmp_path / "c.safetensors")["state"][0][0]
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_tensors_that_share_memory_or_are_turned_come_back_apart(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(1, 2, 3, 4)
    checkpoint = {"whole": whole, "view": whole[0, 1], "turned": whole.permute(0, 3, 1, 2), "scalar": torch.tensor(3.0)}
    back = there_and_back(checkpoint, tmp_path / "c.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in checkpoint.items())


def test_checkpoint_without_tensors(tmp_path: Path) -> None:
    assert there_and_back({"epoch": 1}, tmp_path / "c.safetensors") == {"epoch": 1}


def test_state_of_an_optimiser_comes_back(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    optimiser.step()
    back = there_and_back(optimiser.state_dict(), tmp_path / "c.safetensors")
    fresh = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=0.5)
    fresh.load_state_dict(back)
    assert fresh.param_groups[0]["lr"] == 0.1
    assert torch.equal(fresh.state_dict()["state"][0]["exp_avg"], optimiser.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize("value", [Path("here"), {1, 2}, object(), b"bytes"])
def test_value_that_would_be_lost_raises_and_writes_nothing(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"^A checkpoint holds tensors and JSON values only, received <class "):
        CHECKPOINTS.save_checkpoint({"deep": [{"value": value}]}, tmp_path / "c.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "other", "empty"])
def test_damaged_file_raises_and_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.safetensors"
    CHECKPOINTS.save_checkpoint({"tensor": torch.ones(100)}, path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-50], "other": b"\x00" * 300, "empty": b""}[damage])
    with pytest.raises(RunError) as caught:
        CHECKPOINTS.load_checkpoint(path)
    assert caught.value.what == f"{path} cannot be read."
    assert caught.value.expected == "a checkpoint written by leukolens"
    assert caught.value.remedy == "delete the run directory and train again"


def test_safetensors_of_another_kind_raise(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "c.safetensors")
    with pytest.raises(RunError, match="cannot be read"):
        CHECKPOINTS.load_checkpoint(tmp_path / "c.safetensors")


def test_checkpoint_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    CHECKPOINTS.save_checkpoint({}, path)
    CHECKPOINTS.remove_checkpoint(path)
    CHECKPOINTS.remove_checkpoint(path)
    assert not path.exists()


def test_package_unpickles_nothing() -> None:
    """Files that are read can come from anywhere: nothing that could run code may open them."""
    allowed = re.compile(r"allow_pickle=False|weights_only=True|nothing is ever unpickled")
    suspect = re.compile(r"pickle|torch\.load|torch\.save|joblib|\bshelve\b|\bdill\b|np\.load")
    harmless = re.compile(r"np\.load\(path, mmap_mode=\"r\"\)")  # allow_pickle is false by default
    lines = [
        f"{path.name}: {line.strip()}"
        for path in Path(leukolens.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if suspect.search(line) and not allowed.search(line) and not harmless.search(line)
    ]
    assert lines == []
