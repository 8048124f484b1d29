"""Markdown from templates: whatever comes from the user's files is escaped, and of a path only the last part is written.

In: a template's name and its values. Out: text. Writes: nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from leukolens.reporting import checklists, wording

OPEN = "- [ ] to be filled by people:"

_WIDEST_PADDED = 66  # a SHA-256 and its two backticks
# Markdown's signs, and $, which GitHub reads as mathematics. An underscore within a word is none.
_SIGNS = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_LINE_START = re.compile(r"^(?=[#+\-=>])|^\d+(?=[.)](?:\s|$))")
# What can begin a tag, a comment or an entity; "<0.001" cannot, and stays as it reads.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
# How an absolute path begins, POSIX or Windows; and one within a sentence, up to its last part: no URL and no fraction.
_ABSOLUTE = re.compile(r"[A-Za-z]:[\\/]|\\\\|/|~/")
_FOLDERS = re.compile(rf"(?<![\w.:/\\])(?:{_ABSOLUTE.pattern})(?:[^\\/\s]+[\\/])+(?=[^\\/\s])")
_CODE = re.compile(r"[\w.+:/@=,-]+( [\w.+:/@=,-]+)*")


class Written(str):
    """Markdown of our own making, which is not escaped again."""

    __slots__ = ()


def folder_name(path: str) -> str:
    """Last part of a path, POSIX or Windows: no more of somebody's machine is anybody's business."""
    return next((part for part in reversed(re.split(r"[\\/]+", path)) if part), path)


def plain(value: object) -> str:
    """Text of a value on one line, without control signs and without the folders of absolute paths."""
    text = " ".join(str(value).split())
    shown = "".join("\ufffd" if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co") else sign for sign in text)
    return folder_name(shown) if _ABSOLUTE.match(shown) else _FOLDERS.sub("", shown)


def escape(value: object) -> Written:
    """Make a value of somebody else's inert wherever it stands: it opens no HTML and begins no heading or list."""
    return value if isinstance(value, Written) else Written(_LINE_START.sub(r"\g<0>\\", inline(value)))


def inline(value: object) -> Written:
    """Make a value of somebody else's inert within a line or a table cell, which it cannot end."""
    if isinstance(value, Written):
        return value
    text = _TAG.sub("&lt;", _ENTITY.sub("&amp;", plain(value)))
    return Written(_SIGNS.sub(r"\\\g<0>", text))


def code(value: object) -> Written:
    """Write a hash or a name as code; what has signs that could end the code is escaped instead."""
    text = plain(value)
    return Written(f"`{text}`") if _CODE.fullmatch(text) else escape(text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Written:
    """Write a table whose columns are aligned for a terminal too; "" where there are no rows."""
    if not rows:
        return Written("")
    cells = [[inline(cell) for cell in row] for row in (header, *rows)]
    widths = [min(max(len(row[place]) for row in cells), _WIDEST_PADDED) for place in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return Written("\n".join(lines))


def fence(lines: Sequence[str]) -> Written:
    """Write lines as they are, in a fence longer than any run of backticks in them; "" where there are none."""
    if not lines:
        return Written("")
    shown = [plain(line) for line in lines]
    ticks = "`" * max(3, 1 + max(len(run) for line in shown for run in (*re.findall("`+", line), "")))
    return Written("\n".join([f"{ticks}text", *shown, ticks]))


def known(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let a template ask for what is not on record: None, written as a dash."""
    return defaultdict(lambda: None, record)


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template of this package: every value is escaped but `Written`, blank lines are made one, one line end closes.

    Args:
        template: its file name.
        values: all that it names; a name that is lacking raises jinja2.UndefinedError.

    Returns:
        Markdown.
    """
    # autoescape is for HTML; `finalize` gives every value of an expression to `escape`, so nothing can be forgotten.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("leukolens.reporting"),
        undefined=StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    written = (wording.percent, wording.decimal, wording.count, wording.millions, wording.duration, wording.phase)
    environment.filters.update({write.__name__: write for write in written}, code=code, listed=_listed)
    environment.globals.update(open=Written(OPEN), numbering=checklists.NUMBERING)
    text = environment.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _listed(values: Sequence[object], between: str = ", ") -> Written:
    """Join escaped values."""
    return Written(between.join(inline(value) for value in values))
