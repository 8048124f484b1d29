"""Code that would tell that it was run: it writes the canary.

In: the canary's path. Out: objects that run code when they are unpickled, and the text of a script. Writes: nothing, unless
something runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Payload:
    """Unpickled, it writes `canary`."""

    canary: Path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Say by what call it comes back."""
        return exec, (statement(self.canary),)


def statement(canary: Path) -> str:
    """Python that writes the canary."""
    return f"open({str(canary)!r}, 'w').write('code was run')"


def script(payload: Payload) -> bytes:
    """A Python file that writes the canary."""
    return f"#!/usr/bin/env python3\n{statement(payload.canary)}\n".encode()
