"""A bundle with every format, of a tiny network, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leukolens.artifacts import read_json, write_json
from leukolens.serving.bundle import Bundle, seal
from leukolens.serving.export import export
from leukolens.settings import ExportSettings
from leukolens.training.runs import Run

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="the extra `export` is not installed: pip install 'leukolens[export]'")


@pytest.fixture(scope="session")
def bundle(finetuned_run: Run, cohort: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Read only."""
    settings = ExportSettings(formats=("onnx", "openvino", "int8"), accept_loss=True)
    return export(finetuned_run, cohort.results, cohort.splits, tmp_path_factory.mktemp("export") / "bundle", settings)


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle that may be spoilt."""
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


@pytest.fixture
def resealed(copy: Path) -> Callable[[str, bytes], Path]:
    """Give the copy with another content of one file, its list made to fit as whoever wants to deceive would."""

    def replace(name: str, content: bytes) -> Path:
        (copy / name).write_bytes(content)
        run = Run(copy, read_json(copy / "run.json"))
        decision = read_json(copy / "decision.json")
        (copy / "bundle.json").unlink()
        write_json(copy / "decision.json", decision)
        seal(copy, run)
        return copy

    return replace
