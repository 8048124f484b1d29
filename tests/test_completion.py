"""Completion by Tab: the entry that the shells' scripts call, which is what `leukolens --install-completion` installs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from leukolens.cli import app


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    """The command line gives the package's logger a handler of its own."""
    logger = logging.getLogger("leukolens")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def called_by(shell: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed when the script of a shell asks it to complete the last of `words`."""
    monkeypatch.setenv("_LEUKOLENS_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
    monkeypatch.setenv("COMP_WORDS", words.replace(" ", "\n"))
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    with pytest.raises(SystemExit) as stopped:
        app(prog_name="leukolens")
    assert not stopped.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_verbs_options_and_choices_are_completed(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs = called_by(shell, "leukolens pha", monkeypatch, capsys)
    assert "phantom" in verbs
    assert "predict" not in verbs
    assert "--folds" in called_by(shell, "leukolens split results --fo", monkeypatch, capsys)
    strategies = called_by(shell, "leukolens split results --strategy su", monkeypatch, capsys)
    assert "subject" in strategies
    assert "image" not in strategies


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_of_each_shell_calls_that_entry(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_LEUKOLENS_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit):
        app(prog_name="leukolens")
    assert f"_LEUKOLENS_COMPLETE=complete_{shell}" in capsys.readouterr().out
