"""The documentation tells the truth: links, commands, columns, settings and modules exist, and the notebook runs."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from docs_pages import DOCUMENTS, FENCE, ROOT, commands, complaints, fences, name_of
from leukolens.artifacts import MANIFEST_COLUMNS, PREDICTIONS_COLUMNS, PREDICTIONS_OPTIONAL_COLUMNS, SPLITS_COLUMNS
from leukolens.data.layouts import KNOWN_LAYOUTS
from leukolens.evaluation.evaluate import evaluate
from leukolens.settings import CompareSettings, TrainSettings

PACKAGE = ROOT / "src" / "leukolens"
FORMATS = ROOT / "docs" / "data-formats.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
# A home, a temporary folder or a drive: somebody's machine.
MACHINE_PATH = re.compile(r"/(?:home|Users|root|tmp|work|mnt)/|\b[A-Z]:\\|\.\./shared")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def slugs(path: Path) -> set[str]:
    """Anchors that GitHub gives to the headings of a file."""
    headings = HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table_below(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading of data-formats.md, without its head."""
    section = FORMATS.read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\|\n)+", section, re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines.group().splitlines()[2:]]


def names_in_first_column(heading: str) -> list[str]:
    return [name for cells in table_below(heading) for name in re.findall(r"`([^`]+)`", cells[0])]


@each_document
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = [target for target in LINK.findall(FENCE.sub("", document.read_text(encoding="utf-8"))) if "://" not in target]
    for target in targets:
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in slugs(path), f"{target} names no heading"


@each_document
def test_commands_use_verbs_and_options_that_exist(document: Path) -> None:
    found = [complaint for words in commands(document.read_text(encoding="utf-8")) for complaint in complaints(words)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```sh\nleukolens compare X --protocol both \\\n  --outt Y\n```", ["compare has no --outt"]),
        ("Say `leukolens measure x`.", ["no verb measure"]),
        ("`leukolens VERB --help`, `leukolens split results --folds=5`, `leukolens --version`, `src/leukolens x`", []),
    ],
)
def test_wrong_commands_are_found(text: str, expected: list[str]) -> None:
    assert [complaint for words in commands(text) for complaint in complaints(words)] == expected


def test_commands_are_found_at_all() -> None:
    verbs = {words[0] for document in DOCUMENTS for words in commands(document.read_text(encoding="utf-8"))}
    assert verbs >= {"index", "split", "train", "predict", "evaluate", "compare", "phantom"}


@each_document
def test_no_machine_is_named(document: Path) -> None:
    assert MACHINE_PATH.findall(document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("### `manifest.parquet`", list(MANIFEST_COLUMNS)),
        ("### `splits.parquet`", list(SPLITS_COLUMNS)),
        ("## `predictions.parquet`", [*PREDICTIONS_COLUMNS, "score_<class>"]),
        ("These may stand beside them, and are absent where nobody filled them:", list(PREDICTIONS_OPTIONAL_COLUMNS)),
    ],
)
def test_column_tables_list_every_column_in_order(heading: str, columns: list[str]) -> None:
    assert names_in_first_column(heading) == columns


def test_layout_table_is_the_list_of_known_layouts() -> None:
    rows = {cells[0]: cells[1].replace("`", "") for cells in table_below("## Folders of images")}
    assert rows == KNOWN_LAYOUTS


def test_every_reason_for_setting_a_file_aside_is_explained() -> None:
    reasons = set()
    for module in ("layouts", "manifest", "preprocessing"):
        for call in ast.walk(ast.parse((PACKAGE / "data" / f"{module}.py").read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("SetAside", "Listed", "_unusable"):
                words = [each.value for each in call.args[1:] if isinstance(each, ast.Constant) and isinstance(each.value, str)]
                reasons |= set(words[:1])
    assert sorted(names_in_first_column("### Files set aside")) == sorted(reasons)


def test_examples_of_settings_files_are_accepted() -> None:
    compare, train = (yaml.safe_load(body) for body in fences(FORMATS.read_text(encoding="utf-8"), "yaml"))
    assert CompareSettings.model_validate(compare).train.backbone_learning_rate == 1e-4
    assert TrainSettings.model_validate(train).patience == 2


def test_example_of_an_index_of_weights_has_the_fields_that_are_needed() -> None:
    example = json.loads(fences(FORMATS.read_text(encoding="utf-8"), "json")[0])
    source = (PACKAGE / "models" / "weights.py").read_text(encoding="utf-8")  # importing it would load PyTorch
    needed = re.search(r"^_INDEX_FIELDS = (\(.*\))$", source, re.MULTILINE)
    assert needed is not None
    assert sorted(example["resnet50"]) == sorted(ast.literal_eval(needed.group(1)))


def test_example_of_another_tools_scores_is_measured(tmp_path: Path) -> None:
    examples = fences(FORMATS.read_text(encoding="utf-8"), "csv")
    text = next(body for body in examples if body.startswith("image,subject,y_true,y_score"))
    (tmp_path / "scores.csv").write_text(text, encoding="utf-8")
    assert evaluate(tmp_path / "scores.csv")["sides"]["test"]["accuracy"] == 1.0


def test_every_module_is_in_the_list_of_rooms() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    modules = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert [module for module in modules if f"`{module}`" not in text] == []
    listed = re.findall(r"^\| .*?\|", text.split("## Rooms")[1].split("\n### ")[0], re.MULTILINE)
    named = re.findall(r"`(\w+(?:/\w+)*\.py)`", "".join(listed))
    assert sorted(named) == sorted(modules)


def test_import_direction_is_that_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = [layer.replace("leukolens.", "") for layer in contracts[0]["layers"]]
    text = ARCHITECTURE.read_text(encoding="utf-8").split("### Which way imports point")[1]
    assert [line.split("  ")[0] for line in fences(text, "text")[0].splitlines()] == layers


def test_decisions_are_numbered_and_have_one_form() -> None:
    paths = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in paths] == list(range(1, len(paths) + 1))
    for path in paths:
        first, *others = HEADING.findall(path.read_text(encoding="utf-8"))
        assert first.startswith(f"{path.name[:4]}. ")
        assert others == ["Context", "Decision", "Consequence"], path.name


def test_notebook_is_stored_without_outputs_and_paths() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert MACHINE_PATH.findall(text) == []


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    printed = {cell.id: "".join(output.get("text", "") for output in cell.outputs)
               for cell in notebook.cells if cell.cell_type == "code"}  # fmt: skip
    assert "stands on two sides of fold 0" in printed["leak-code"]
    assert "trained on: ImageNet-1k" in printed["train-code"]
    assert len(list(tmp_path.glob("*/results/report.html"))) == 1
