"""Packages that only some commands need: whether they are there, and the error that says how to get them.

In: names. Out: nothing, or SettingsError. Writes: nothing, and imports none of them.
"""

from __future__ import annotations

import importlib.util

from leukolens.errors import SettingsError

GET_EXPORT = "pip install 'leukolens[export]', or choose another one"
"""Remedy where a package of the extra `export` is missing."""

GET_SERVE = "pip install 'leukolens[serve]'"
"""Remedy where a package of the extra `serve` is missing."""


def is_installed(module: str) -> bool:
    """Whether a module is there."""
    return importlib.util.find_spec(module) is not None


def require_package(module: str, what: str, *, remedy: str, package: str | None = None) -> None:
    """Raise SettingsError where a module is not there.

    Args:
        module: the name that it is imported by.
        what: the sentence that says what needs it.
        remedy: the command that installs it, and perhaps a way to do without.
        package: the name that it is installed by, where that is another.
    """
    if not is_installed(module):
        raise SettingsError(
            what,
            expected=f"the package {package or module}",
            received="a Python without it",
            remedy=remedy,
        )
