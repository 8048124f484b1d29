"""`leukolens serve`, as far as it can be asked without the packages that it needs.

In: run folders or bundles and ServeSettings. Out: nothing; it returns when the server has stopped. Writes: lines of a log on
standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from leukolens import extras
from leukolens.settings import ServeSettings

_PACKAGES = {"fastapi": None, "uvicorn": None, "python_multipart": "python-multipart", "prometheus_client": "prometheus-client"}


def serve(
    models: Sequence[Path | str], settings: ServeSettings | None = None, say: Callable[[str], None] | None = None
) -> None:
    """Answer over HTTP what `predict` would write, until SIGTERM or Ctrl-C; requests under way are answered before it returns.

    Args:
        models: run folders or bundles, as PATH or NAME=PATH; the first is asked where a request names none.
        settings: address, token, limits.
        say: is told the address once connections are taken; the log has it in any case.

    Raises:
        SettingsError: the extra `serve` is not installed, a model has no name of its own, another address than a loopback one
            has no token, the port is taken, or an engine or device is not to be had.
        RunError, ArtifactError: a model cannot be used.
    """
    for module, package in _PACKAGES.items():
        extras.require_package(module, "The server needs further packages.", remedy=extras.GET_SERVE, package=package)
    from leukolens.serving.service import serve as service

    service.serve([str(model) for model in models], settings or ServeSettings(), say or (lambda text: None))
