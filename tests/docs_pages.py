"""The pages of the documentation, and what they say that can be checked: pieces of code, commands of leukolens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import typer

from leukolens.cli import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Where a command begins: at the start of a line or of a part of it, after variables, as a module, in another environment.
COMMAND = re.compile(r"(?:^(?:\S+/bin/)?|[;&|(] *|^\w+=\S+ +|-m +)leukolens +([^`|;#\n]+)", re.MULTILINE)


def name_of(page: Path) -> str:
    """A page's path below the repository."""
    return page.relative_to(ROOT).as_posix()


def fences(text: str, *languages: str) -> list[str]:
    """Pieces of code in these languages."""
    return [body for language, body in FENCE.findall(text) if language in languages]


def commands(text: str) -> Iterator[list[str]]:
    """Words after `leukolens` in shell blocks and in code within a line."""
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for code in [*fences(text, "sh", "bash", "text"), *inline]:
        for words in COMMAND.findall(code.replace("\\\n", " ")):
            yield words.split()


def complaints(words: list[str]) -> list[str]:
    """What is wrong with one command; `VERB` stands for any verb."""
    group = typer.main.get_command(app)
    verbs = group.commands  # type: ignore[attr-defined]
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is not None and verb != "VERB" and verb not in verbs:
        return [f"no verb {verb}"]
    known = {"--help"} | {option for each in (group, verbs.get(verb)) if each for parameter in each.params
                          for option in parameter.opts}  # fmt: skip
    return [f"{verb} has no {word}" for word in words if word.startswith("-") and word.partition("=")[0] not in known]
