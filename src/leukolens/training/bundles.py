"""A bundle: a run directory that may leave the laboratory, and the list of its files that makes it one.

In: a folder. Out: what its `bundle.json` says, once every file it names is there and is the one that was exported. Writes:
nothing; `leukolens export` (`serving/bundle.py`) makes bundles. Whatever opens a run opens a bundle in the same way, and
passes through `check_bundle`.

The hashes find damage and mix-ups. They do not say who made a bundle: whoever can change a file can change the list. To know
that, compare the hash that `export` printed, which is the `hash` in bundle.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from leukolens.artifacts import BUNDLE_FILE, INT8_FILE, ONNX_FILE, OPENVINO_FILE, Record, hash_file, hash_json, read_json
from leukolens.data.layouts import shown
from leukolens.errors import ArtifactError

BUNDLE_FORMAT = 1
"""Raised when a bundle of the version before can no longer be read as it is."""

ENGINE_FILES: Mapping[str, str] = {"onnx": ONNX_FILE, "openvino": OPENVINO_FILE, "int8": INT8_FILE}
"""What each engine that runs an exported network reads."""

# What file systems take.
_LONGEST_NAME_BYTES = 255
_COPY_AGAIN = "copy the bundle again from where it was made, or export the run again"


def check_bundle(folder: Path) -> Record:
    """Read the list of a bundle's files and check every one of them.

    Returns:
        The record in bundle.json: `format`, `leukolens` (version), `run_hash`, `decision_hash`, `display_name`, `classes`,
        `positive`, `synthetic`, `engines`, `files` (for each name its `sha256` and `bytes`) and `hash` of all this.

    Raises:
        ArtifactError: the list is damaged or of another version, or a file is missing or not the one that was exported.
    """
    path = folder / BUNDLE_FILE
    record: Record = read_json(path)
    _check_format(path, record)
    said = {name: value for name, value in record.items() if name != "hash"}
    if record.get("hash") != (found := hash_json(said)):
        raise _altered(path, f"content of the hash {record.get('hash')}", found)
    for name, wanted in record["files"].items():
        # A name that led out of the folder would have other files of this machine read.
        if Path(name).name != name or len(name.encode()) > _LONGEST_NAME_BYTES:
            raise _altered(path, "names of files beside it", shown(name))
        if not isinstance(wanted, dict) or not isinstance(wanted.get("sha256"), str):
            raise _altered(path, f"the SHA-256 of {name}", "an entry without one")
        _check_file(folder / name, wanted["sha256"])
    return record


def exported_engines(folder: Path) -> dict[str, Path]:
    """The networks that a bundle holds beside its weights, by the engine that runs them; none of a run.

    Raises what `read_json` raises; the files were checked when the bundle was opened.
    """
    if not (folder / BUNDLE_FILE).is_file():
        return {}
    files = read_json(folder / BUNDLE_FILE)["files"]
    return {engine: folder / name for engine, name in ENGINE_FILES.items() if name in files}


def _check_format(path: Path, record: object) -> None:
    received = record.get("format") if isinstance(record, dict) else None
    if received != BUNDLE_FORMAT or not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        made_by = record.get("leukolens") if isinstance(record, dict) else None
        raise ArtifactError(
            f"{path} is not a list that this version of leukolens can read.",
            expected=f"a bundle of format {BUNDLE_FORMAT}",
            received=f"format {received}" + (f", written by leukolens {made_by}" if made_by else ""),
            remedy="use the version of leukolens that wrote it, or export the run again with this one",
        )


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise ArtifactError(
            f"{path} is missing.",
            expected=f"every file that {BUNDLE_FILE} names",
            received="no file at that path",
            remedy=_COPY_AGAIN,
        )
    if (found := hash_file(path)) != sha256:
        raise _altered(path, f"SHA-256 {sha256}", f"SHA-256 {found}")


def _altered(path: Path, expected: str, received: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is not as it was exported.", expected=expected, received=received, remedy=_COPY_AGAIN
    )
