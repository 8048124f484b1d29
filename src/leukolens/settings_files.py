"""Files of settings: YAML, read as plain values only.

In: the path of `--config`. Out: a mapping of setting names to values. Writes: nothing.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

from leukolens.errors import SettingsError

_MOST_BYTES = 1 << 20
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 300, 300
# What PyYAML's constructors raise on values that are none of their type ("!!int ''"), beyond YAMLError.
_VALUE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def read_settings_file(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises SettingsError where it is no regular file, larger than 1 MiB, no YAML, or anything but a mapping.
    """
    import yaml

    # A pipe would be waited for without end, and a device may never end.
    if not path.is_file():
        raise _no_settings(path, "a folder, device or pipe" if path.exists() else "nothing at that path")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise _no_settings(path, f"a file of {size:,} bytes")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise _no_settings(path, shortened(str(error))) from error
    except _VALUE_ERRORS as error:
        raise _no_settings(path, shortened(f"{type(error).__name__}: {error}")) from error
    if not isinstance(read, dict):
        raise _no_settings(path, shortened(read))
    return {str(name): value for name, value in read.items()}


def shortened(value: object) -> str:
    """Show a value of a file in a line, however large it is: a few lines of YAML may stand for gigabytes of text."""
    return _SHORT.repr(value)


def _no_settings(path: Path, received: str) -> SettingsError:
    return SettingsError(
        f"{path} holds no settings.",
        expected="a YAML mapping of setting names to values, at most 1 MiB",
        received=received,
        remedy="correct the file, or leave --config out",
    )
