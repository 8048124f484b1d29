"""Lightning's checkpoints as safetensors and JSON: an interrupted training can go on, and nothing is ever unpickled.

In: Lightning's checkpoint (a nested dict). Out: the same. Writes: one .safetensors file, renamed into place when whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from leukolens.artifacts import atomic_path
from leukolens.errors import RunError

_TREE = "tree"


class SafetensorsCheckpoints(CheckpointIO):
    """Store a checkpoint as tensors plus a JSON tree that says where each belongs.

    Raises TypeError on a value that is neither a tensor nor JSON, so that nothing is lost in silence.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write a checkpoint."""
        tensors: dict[str, torch.Tensor] = {}
        tree = json.dumps(_take_apart(checkpoint, tensors))
        with atomic_path(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={_TREE: tree})

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ANN401
        """Read what `save_checkpoint` wrote, onto the CPU; the arguments besides `path` are Lightning's and unused."""
        try:
            with safe_open(path, framework="pt") as file:
                tree, tensors = file.metadata()[_TREE], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError) as error:
            raise RunError(
                f"{path} cannot be read.",
                expected="a checkpoint written by leukolens",
                received=str(error),
                remedy="delete the run directory and train again",
            ) from error
        checkpoint: dict[str, Any] = _put_together(json.loads(tree), tensors)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:  # noqa: ANN401
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def _take_apart(value: Any, tensors: dict[str, torch.Tensor]) -> Any:  # noqa: ANN401
    """Replace tensors by their names and dicts by lists of pairs (JSON would turn the optimiser's integer keys to text)."""
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_take_apart(key, tensors), _take_apart(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_take_apart(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_take_apart(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A checkpoint holds tensors and JSON values only, received {type(value)}: {value!r}")


def _put_together(value: Any, tensors: dict[str, torch.Tensor]) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_put_together(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_put_together(item, tensors) for item in value["tuple"])
    return {_put_together(key, tensors): _put_together(item, tensors) for key, item in value["dict"]}
