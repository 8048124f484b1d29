"""What a run.json must hold before anything in it is used: a run may come from a stranger.

In: what a JSON file held. Out: the same, checked. Writes: nothing.

Only what is computed with is checked: names of classes, the network, its settings. What is merely shown (hardware, versions,
licences) may be anything; whoever shows it escapes it. Unknown fields are left alone, so that a later version may add some.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt, StrictStr, ValidationError, model_validator

from leukolens.artifacts import Record
from leukolens.errors import RunError
from leukolens.settings import TrainSettings

_LONGEST_NAME = 200
_MOST_CLASSES = 1000

_Name = Annotated[StrictStr, Field(min_length=1, max_length=_LONGEST_NAME)]


class _Weights(BaseModel):
    architecture: _Name
    trained_on: StrictStr


class _Split(BaseModel):
    strategy: StrictStr
    label: StrictStr
    optimistic: StrictBool


class _RunRecord(BaseModel):
    architecture: _Name
    display_name: _Name
    classes: Annotated[list[_Name], Field(min_length=2, max_length=_MOST_CLASSES)]
    positive: list[_Name]
    weights: _Weights
    split: _Split
    settings: TrainSettings
    preprocessing: dict[str, object]
    best_phase: Literal["head", "finetune"]
    synthetic: StrictBool
    parameters: StrictInt
    manifest_hash: StrictStr
    run_hash: StrictStr

    @model_validator(mode="after")
    def _consistent(self) -> _RunRecord:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class stands twice in classes")
        if set(self.positive) - set(self.classes):
            raise ValueError("positive names a class that is not in classes")
        return self


def check_run_record(path: Path, record: object) -> Record:
    """Give the record back as it is, once it holds all that a run is used by; raises RunError naming what is wrong."""
    if not isinstance(record, dict):
        raise _unusable(path, f"a {type(record).__name__}")
    try:
        _RunRecord.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _unusable(path, f"{where}: {first['msg']}" if where else first["msg"]) from error
    return record


def _unusable(path: Path, received: str) -> RunError:
    return RunError(
        f"{path} is not the record of a run.",
        expected="what `leukolens train` wrote: classes, network, settings, preprocessing",
        received=received,
        remedy="copy the run or bundle again from where it was made, or train anew into another folder",
    )
