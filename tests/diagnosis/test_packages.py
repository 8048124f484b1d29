"""What is asked for beside what is installed; the metadata is that of a package made up here."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from leukolens import __version__
from leukolens.diagnosis.findings import Finding
from leukolens.diagnosis.packages import CORE, Package, check_imports, check_packages, packages_of

ASKED = [
    "numpy>=2",
    "pandas<0.1",
    "no-such-package",
    'never-on-this-system>=1; sys_platform == "plan9"',
    'leukolens[serve]; extra == "all"',
    'pillow>=1; extra == "serve"',
    'no-such-server>=3,<4; extra == "serve"',
    'numpy>=1; extra == "fetch"',
]


def test_requirements_are_told_apart_by_extra() -> None:
    assert packages_of(ASKED, CORE) == [
        Package("numpy", ">=2", np.__version__, fits=True),
        Package("pandas", "<0.1", metadata.version("pandas"), fits=False),
        Package("no-such-package", "", None, fits=False),
    ]
    assert [each.name for each in packages_of(ASKED, "serve")] == ["pillow", "no-such-server"]
    assert packages_of(ASKED, "all") == []


def test_missing_and_old_core_packages_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ASKED)
    core, *extras = check_packages()
    assert (core.topic, core.name, core.state) == ("packages", "core", "problem")
    assert core.found.startswith(
        f"not installed: no-such-package; pandas {metadata.version('pandas')} where <0.1 is needed; python 3"
    )
    assert core.figures["leukolens"] == __version__
    assert core.figures["numpy"] == np.__version__
    serve = next(each for each in extras if each.name == "serve")
    assert (serve.state, serve.remedy) == ("note", "pip install 'leukolens[serve]', for leukolens serve")
    assert serve.found == f"not installed: no-such-server; pillow {metadata.version('pillow')}"
    fetch = next(each for each in extras if each.name == "fetch")
    assert (fetch.state, fetch.remedy, fetch.found) == ("ok", "", f"numpy {np.__version__}")


def test_source_folder_that_is_not_installed_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", nothing)
    (only,) = check_packages()
    assert (only.state, only.found) == ("note", "leukolens runs from its source folder and is not installed")


def test_package_that_does_not_load_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a_broken_one.py").write_text("raise RuntimeError('operator does not exist\\nmore')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert check_imports(["json", "a_broken_one", "no_such_module_at_all"]) == [
        Finding("packages", "a_broken_one", "problem", "does not load: operator does not exist",
                "pip install --force-reinstall a_broken_one"),
        Finding("packages", "no_such_module_at_all", "problem", "does not load: No module named 'no_such_module_at_all'",
                "pip install --force-reinstall no_such_module_at_all"),
    ]  # fmt: skip


def test_what_is_installed_here_loads() -> None:
    assert check_imports() == []
