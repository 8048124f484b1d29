"""What one hostile input is, the folders it is tried in, and the well-formed things that inputs are made of.

In: nothing. Out: `Case`, `Sandbox`, `Good`. Writes: nothing; a case writes below its sandbox's `inputs` when it is prepared.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SCORED, WITHOUT_SCORE, REFUSED, USAGE = 0, 3, 1, 2
"""Exit statuses of the command (docs/predict.md)."""


@dataclass(frozen=True)
class Sandbox:
    """Folders of one try: everything in `root` but `out` must look as before when the try is over.

    `canary` is the file that any code in an input writes; it must never exist.
    """

    root: Path

    @property
    def inputs(self) -> Path:
        """Where the case writes what is hostile."""
        return self.root / "inputs"

    @property
    def out(self) -> Path:
        """The one folder that the command may write into."""
        return self.root / "out"

    @property
    def cwd(self) -> Path:
        """The present folder of the command."""
        return self.root / "cwd"

    @property
    def home(self) -> Path:
        """HOME, and the place of temporary files."""
        return self.root / "home"

    @property
    def canary(self) -> Path:
        """What code in an input would write."""
        return self.root / "canary"

    def clear(self) -> None:
        """Make the folders anew."""
        shutil.rmtree(self.root, ignore_errors=True)
        for folder in (self.inputs, self.out, self.cwd, self.home):
            folder.mkdir(parents=True)


@dataclass(frozen=True)
class Good:
    """What is well formed and gets spoilt: folders of a finished run, of a bundle of it, and of its data's results.

    `results` holds manifest.parquet, splits.parquet and a cache that a prediction of the run has filled.
    """

    run: Path
    bundle: Path
    results: Path


Prepare = Callable[[Sandbox, Good], list[str]]


@dataclass(frozen=True)
class Upload:
    """The same input for the server: the name that is claimed, and the bytes."""

    name: str
    data: Callable[[], bytes]


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Args:
        kind: the row of the table that it counts in.
        name: what it is; unique within its kind.
        prepare: writes the input and gives the arguments of `leukolens`.
        statuses: exit statuses that are right.
        upload: the same for the server; None where it cannot come that way.
    """

    kind: str
    name: str
    prepare: Prepare
    statuses: frozenset[int]
    upload: Upload | None = None


def file_case(
    kind: str, name: str, file_name: str, data: Callable[[], bytes], statuses: tuple[int, ...] = (SCORED, WITHOUT_SCORE)
) -> Case:
    """Give the case of one file that is to be scored, on the command line and as an upload."""

    def prepare(sandbox: Sandbox, good: Good) -> list[str]:
        path = os.path.join(os.fsencode(sandbox.inputs), os.fsencode(file_name))  # noqa: PTH118
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(data())
        return predict(good.run, [os.fsdecode(path)], sandbox)

    return Case(kind, name, prepare, frozenset(statuses), Upload(file_name, data))


def predict(model: Path, inputs: list[str], sandbox: Sandbox) -> list[str]:
    """Give the arguments that score inputs with a model into the sandbox."""
    return ["predict", str(model), *inputs, "--out", str(sandbox.out / "scores.csv"), "--device", "cpu"]
