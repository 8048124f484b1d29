"""A bundle with every format, of a tiny network, made once; a server with another, and Chromium to look at its page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import Sent, chromium, hostile_and_other_cells, served
from leukolens.artifacts import read_json, write_json
from leukolens.prediction.stream import predict_inputs
from leukolens.serving.bundle import Bundle, seal
from leukolens.serving.export import export
from leukolens.settings import ExportSettings, PredictSettings
from leukolens.training.runs import Run

# Validation has so few subjects that with less no cell is answered.
PAGE_ABSTAIN = 0.45
REPORT = "<!DOCTYPE html><title>R</title><style>p{color:red}</style><p style='margin:0'>A report</p>"

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def page_address(head_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with a tiny network under two names, and a report."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(REPORT)
    models = [f"{name}={head_run.folder}" for name in ("tiny", "again")]
    with served(folder, *models, "--abstain", PAGE_ABSTAIN, "--results", folder) as found:
        yield found


@pytest.fixture(scope="session")
def sent(head_run: Run, cohort: Any, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """Files for the page, and the table that `predict` makes of them with the same network."""
    folder, out = tmp_path_factory.mktemp("sent"), tmp_path_factory.mktemp("table") / "scores.csv"
    names = hostile_and_other_cells(folder, sorted(cohort.cells.rglob("*.bmp"))[:10])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        predict_inputs(head_run, names, out, PredictSettings(abstain=PAGE_ABSTAIN))
    return Sent(folder, names, out.read_bytes())
