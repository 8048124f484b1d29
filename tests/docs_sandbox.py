"""Where the commands of the documentation are run word for word: bash, with a `leukolens` that costs little.

Importing PyTorch takes seconds and a page has a dozen commands, so one process imports everything and forks for each command:
run as a script, this module is that process. In it the networks have other, tiny builders, nothing is downloaded, and what is
not said on a command line is small. A `leukolens` on the path of bash hands its arguments, folder and streams to it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TINY, TINY_CAM_LAYER = "test_resnet", "layer4"
SECONDS_TO_START = 120
PORT_OF_THE_DOCS = "8341"
# Variables may be set before it on the same line.
SERVICE = re.compile(r"(?:\w+=\S+ +)*leukolens serve\b")

# Linux allows 107 bytes for the name of a socket; it is named relative to the folder that holds it.
SOCKET = "forks"

SHIM = """#!{python} -SE
import os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
here = os.getcwd()
os.chdir({folder!r})
connection.connect({socket!r})
os.chdir(here)
kind = {kind!r}
message = "\\0".join([kind, here, "\\1".join(f"{{n}}={{v}}" for n, v in os.environ.items()), *sys.argv[1:]])
socket.send_fds(connection, [message.encode("utf-8", "surrogateescape")], [0, 1, 2])
worker = int(connection.recv(32))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(worker, number))
connection.sendall(b"go")
status = connection.recv(32)
sys.exit(int(status) if status else 137)
"""


# In the process that forks


def make_small() -> None:
    """Give networks tiny builders and random weights, reports no figures, and every setting that is not said a small value."""
    from markupsafe import Markup

    from leukolens import settings
    from leukolens.models import architectures, weights
    from leukolens.reporting import drawing

    for name, row in architectures.ARCHITECTURES.items():
        architectures.ARCHITECTURES[name] = dataclasses.replace(
            row, library="timm", builder=TINY, trunk=(), stages=(), final_relu=False, cam_layer=TINY_CAM_LAYER,
            cpu_engine="torch", cpu_bf16_pays=False, cpu_bf16_inference_pays=False, stand_in=None,
        )  # fmt: skip
    weights._pretrained = lambda architecture, _: weights._random(architecture, "a stand-in of the tests")
    drawing.draw = lambda key, caption, height_inches, paint: drawing.Picture(Markup("<svg></svg>"), caption)
    small_training = {"input_px": 32, "head_epochs": 10, "finetune_epochs": 1, "batch_size": 8, "device": "cpu"}
    _set_defaults(settings.TrainSettings, **small_training)
    _set_defaults(settings.EvaluateSettings, resamples=200, minimum_groups=50)  # so that no interval is computed
    trained = {"train": settings.TrainSettings(), "evaluate": settings.EvaluateSettings()}
    frozen = {**trained, "train": settings.TrainSettings(finetune_epochs=0)}
    _set_defaults(settings.CrossvalSettings, folds=3, repeats=1, architectures=("resnet50",), **frozen)
    _set_defaults(settings.CompareSettings, folds=0, repeats=1, architectures=("resnet50",), **trained)
    _set_defaults(settings.PhantomSettings, cells=40, subjects=12)
    _set_defaults(settings.ExportSettings, cells=16, calibration_images=16, accept_loss=True)


def _set_defaults(model: Any, **values: Any) -> None:
    for name, value in values.items():
        model.model_fields[name].default = value
    model.model_rebuild(force=True)


def fork_for_each(folder: Path) -> None:
    """Serve the socket in a folder until this process is ended, or the tests are."""
    make_small()
    import leukolens

    for name in leukolens.__all__:  # each is imported when it is first asked for
        getattr(leukolens, name)
    os.chdir(folder)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    listener.listen()
    listener.settimeout(1.0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    tests = os.getppid()
    while os.getppid() == tests:  # tests that were killed cannot end this process
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if os.fork() == 0:
            listener.close()
            _work(connection, message.decode("utf-8", "surrogateescape"), streams)
        connection.close()
        for stream in streams:
            os.close(stream)


def _work(connection: socket.socket, message: str, streams: list[int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    kind, folder, environment, *arguments = message.split("\0")
    connection.sendall(str(os.getpid()).encode())
    connection.recv(2)  # the shim hands signals on from here
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(pair.split("=", 1) for pair in environment.split("\1"))
    status = 1
    try:
        status = _run(kind, arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(str(status).encode())
        os._exit(status)


def _run(kind: str, arguments: list[str]) -> int:
    import traceback

    from leukolens import cli

    sys.argv = ["leukolens", *arguments]
    try:
        if kind == "leukolens":
            cli.main()
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:  # noqa: BLE001 - said and handed on as a status
        traceback.print_exc()
        return 1
    return 0


# In the tests


class Sandbox:
    """Runs bash scripts and Python scripts in folders, with the small `leukolens` in place of the installed one."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.programs.mkdir()
        for kind in ("leukolens", "small-python"):
            program = self.programs / kind
            text = SHIM.format(python=sys.executable, folder=str(folder), socket=SOCKET, kind=kind)
            program.write_text(text, encoding="utf-8")
            program.chmod(0o755)

    def bash(self, folder: Path, script: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a script in a folder; its streams are one, and after `seconds` it fails."""
        path = folder / ".script.sh"
        path.write_text(script, encoding="utf-8")
        variables = {"PATH": f"{self.programs}:{os.environ['PATH']}", "HOME": str(folder), "LC_ALL": "C.UTF-8",
                     "COLUMNS": "200", "OMP_NUM_THREADS": "1"}  # fmt: skip
        with subprocess.Popen(
            ["bash", str(path)], cwd=folder, env=variables, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output = process.communicate()[0] + f"\nstopped after {seconds} seconds"
        return subprocess.CompletedProcess([str(path)], process.returncode, output)


@contextmanager
def sandbox(folder: Path) -> Iterator[Sandbox]:
    """Start the process that forks, and end it with all that it has started."""
    made = Sandbox(folder)
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, __file__, str(folder)], env=variables, start_new_session=True) as process:
        try:
            _wait_for_socket(folder / SOCKET, process)
            yield made
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_for_socket(path: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError("the process that runs the documentation's commands did not start")
        time.sleep(0.05)


# Commands of a page as a script


def page_script(commands: list[str], port: int) -> str:
    """Chain commands: the first that fails ends the script and is named; a service runs until the page ends, on a free port."""
    lines = ["set -uo pipefail", _FUNCTIONS.format(port=port)]
    for command in commands:
        lines += [f"command={shlex.quote(command)}", _as_run(command, port), "check $?"]
    return "\n".join([*lines, "command='the end of the service'", "end_service", "check $?", ""])


_FUNCTIONS = """
check() {{ if [ "$1" -ne 0 ]; then printf 'FAILED with status %s: %s\\n' "$1" "$command"; end_service; exit 1; fi; }}
service=
end_service() {{
  [ -z "$service" ] && return 0
  kill -TERM "$service"
  wait "$service"
  local status=$?
  service=
  return $status
}}
wait_for_service() {{
  for _ in $(seq 400); do
    curl --silent --fail --output /dev/null http://127.0.0.1:{port}/health/ready && return 0
    kill -0 "$service" || return 1
    sleep 0.05
  done
  return 1
}}"""


def _as_run(command: str, port: int) -> str:
    here = command.replace(PORT_OF_THE_DOCS, str(port))
    if not SERVICE.match(command):
        return here
    asked = here.removesuffix("&").rstrip()
    asked += "" if "--port" in asked else f" --port {port}"
    return f"end_service; {asked} & service=$!; wait_for_service"


if __name__ == "__main__":
    fork_for_each(Path(sys.argv[1]))
