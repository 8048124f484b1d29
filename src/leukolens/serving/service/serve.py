"""What `leukolens serve` does: check the settings, load the models, listen, answer until told to stop.

In: run folders or bundles and settings. Out: nothing; it returns when the server has stopped. Writes: lines of a log on
standard error.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from leukolens.artifacts import REPORT_FILE
from leukolens.errors import LeukolensError, SettingsError
from leukolens.serving.service.app import build
from leukolens.serving.service.connections import bound_socket, server
from leukolens.serving.service.gate import Token
from leukolens.serving.service.logs import log, logging_to_standard_error
from leukolens.serving.service.routes import NOTICE
from leukolens.serving.service.served import named_paths
from leukolens.serving.service.state import Service
from leukolens.settings import ServeSettings

TOKEN_VARIABLE = "LEUKOLENS_TOKEN"  # noqa: S105 - the name of the variable

_LEAST_TOKEN_LETTERS = 16
_MAKE_TOKEN = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"  # noqa: S105 - how to make one
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def serve(models: Sequence[str], settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Serve models until SIGTERM or Ctrl-C; requests under way are answered before it returns.

    Args:
        models: PATH or NAME=PATH of run folders or bundles; the first is asked where a request names none.
        settings: address, token, limits.
        say: is told the address once the models are loaded.

    Raises:
        SettingsError: another address than a loopback one without a token, a port that is taken, a name twice, an engine or
            device that is not to be had.
        RunError, ArtifactError: a model cannot be used.
    """
    token = Token(read_token(settings))
    check_exposure(settings.host, token)
    paths = named_paths(models)
    check_results(settings.results)
    with logging_to_standard_error(settings.json_logs), closing(bound_socket(settings.host, settings.port)) as taken:
        asyncio.run(_serve(Service(settings, paths, token), taken, say))


async def _serve(service: Service, taken: socket.socket, say: Callable[[str], None]) -> None:
    service.shelf.load()
    settings = service.settings
    host, port = taken.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    running = server(build(service, known_hosts(settings)), settings, service.load, lambda: reload(service))

    def tell() -> None:
        say(f"serving {', '.join(service.shelf.models)} at {address}; {NOTICE}")
        log("started", models=list(service.shelf.models), port=port, token=service.token.secret is not None)

    running.when_listening = tell
    await running.serve([taken])


async def reload(service: Service) -> None:
    """Read the token and the models again; whatever cannot be read stays as it was."""
    try:
        secret = read_token(service.settings)
        check_exposure(service.settings.host, Token(secret))
    except LeukolensError as error:
        log("token not read again, the one before holds", logging.ERROR, error=error.what)
    else:
        service.token.secret = secret
    await service.shelf.reload()


def read_token(settings: ServeSettings) -> str | None:
    """Give the token of the file, else of the environment; None where there is neither.

    Raises SettingsError where the file cannot be read, or the token is short or no plain text.
    """
    file = settings.token_file
    secret = _token_of(file) if file else os.environ.get(TOKEN_VARIABLE, "").strip()
    if not secret and not file:
        return None
    if len(secret) < _LEAST_TOKEN_LETTERS or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise SettingsError(
            f"The token of {file or TOKEN_VARIABLE} cannot be used.",
            expected=f"at least {_LEAST_TOKEN_LETTERS} letters, digits or signs on one line",
            received=f"{len(secret)} characters" if secret.isascii() else "other characters",
            remedy=f"make one: {_MAKE_TOKEN}",
        )
    return secret


def check_exposure(host: str, token: Token) -> None:
    """Raise SettingsError where others than this machine can reach the server and no token is asked of them."""
    if not is_loopback(host) and token.secret is None:
        raise SettingsError(
            f"A server at {host} can be reached from other machines, and it has no token.",
            expected=f"--token-file FILE or {TOKEN_VARIABLE}, or a loopback address",
            received=f"--host {host} without a token",
            remedy=f"give --token-file token, made by {_MAKE_TOKEN} > token",
        )


def check_results(results: Path | None) -> None:
    """Raise SettingsError where a folder was named and holds no report."""
    if results is not None and not (results / REPORT_FILE).is_file():
        raise SettingsError(
            f"{results} holds no report to show.",
            expected=f"a results folder with {REPORT_FILE}",
            received="a folder without it" if results.is_dir() else "no folder at that path",
            remedy=f"run `leukolens report {results}` first, or leave --results out",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; of names only `localhost` is known to be such."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def known_hosts(settings: ServeSettings) -> frozenset[str]:
    """Names that requests may call this server by; empty, which is any, where it is reached under names of the network.

    There a token is needed, and a page that had its own name lead here does not have it.
    """
    own = _LOCAL_NAMES | {settings.host} if is_loopback(settings.host) else frozenset()
    return own | frozenset(name.lower() for name in settings.allow_host) if own else frozenset()


def _token_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The token file {file} cannot be read.",
            expected="a text file with the token on its only line",
            received=getattr(error, "strerror", None) or "bytes that are no text",
            remedy="correct --token-file, or let this user read it",
        ) from error
