"""A finding: one thing that was looked at, how it is, and what to do where it is not well.

In: what the checks saw. Out: Findings, as text or as JSON. Writes: nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

State = Literal["ok", "note", "problem"]
OK: State = "ok"
NOTE: State = "note"
PROBLEM: State = "problem"

_WIDTH = 110
_INDENT = " " * 28


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `state` is "ok"; "note", where something less than the main job cannot be done, or not as fast; or "problem", where the
    main job cannot be done. `found` says what is there, `remedy` what to do about it; `figures` holds the same as numbers and
    names, for programs.
    """

    topic: str
    name: str
    state: State
    found: str
    remedy: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return {**vars(self), "figures": dict(self.figures)}


def lines_of(findings: Sequence[Finding]) -> list[str]:
    """Findings as text for a terminal, topic by topic; what needs attention bears its remedy."""
    lines = []
    for topic, members in groupby(findings, key=lambda finding: finding.topic):
        lines += [topic, *(line for finding in members for line in _lines(finding))]
    return lines


def _lines(finding: Finding) -> list[str]:
    lines = textwrap.wrap(
        finding.found,
        _WIDTH,
        initial_indent=f"  {finding.state:<8}{finding.name:<18}",
        subsequent_indent=_INDENT,
        # Paths and commands are to be copied.
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines + ([f"{_INDENT}-> {finding.remedy}"] if finding.remedy else [])
