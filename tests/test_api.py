from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import leukolens
from leukolens.cli import app

VERBS = sorted(command.callback.__name__ for command in app.registered_commands if command.callback)


@pytest.mark.parametrize("name", leukolens.__all__)
def test_every_public_name_is_found_and_documented(name: str) -> None:
    found = getattr(leukolens, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)


def test_public_names_are_sorted_and_each_has_a_home() -> None:
    assert leukolens.__all__ == sorted(leukolens.__all__)
    assert set(leukolens.__all__) == set(leukolens._MODULE_OF)


def test_every_verb_of_the_command_line_is_a_function_of_the_same_name() -> None:
    verbs = "compare crossval doctor evaluate explain export fetch index phantom predict report serve split train"
    assert verbs.split() == VERBS
    assert set(VERBS) <= set(leukolens.__all__)
    assert all(inspect.isfunction(getattr(leukolens, verb)) for verb in VERBS)


def test_unknown_name_raises_as_any_module_would() -> None:
    with pytest.raises(AttributeError, match=r"^module 'leukolens' has no attribute 'trian'$"):
        leukolens.trian  # noqa: B018


def test_public_functions_are_annotated() -> None:
    for verb in VERBS:
        signature = inspect.signature(getattr(leukolens, verb))
        assert signature.return_annotation is not inspect.Signature.empty, verb
        assert all(each.annotation is not inspect.Parameter.empty for each in signature.parameters.values()), verb


def test_measuring_and_reporting_load_no_deep_learning_framework() -> None:
    code = "import sys, leukolens; leukolens.evaluate, leukolens.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_types_are_published() -> None:
    assert (Path(leukolens.__file__).parent / "py.typed").is_file()
