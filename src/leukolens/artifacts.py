"""Names, columns and dtypes of every file that the rooms exchange, and the one way to read and write them.

In: tables and records. Out: the same, validated. Writes: whatever it is asked to, always to a temporary name first and
then renamed, so that an interrupted verb leaves either the old file or the new one.

A Parquet file carries its record (a JSON object: classes, seed, hashes, …) in the Arrow schema metadata, so that a
table and what must be known about it cannot be parted.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from leukolens.errors import ArtifactError
from leukolens.partials import partial_path

MANIFEST_FILE = "manifest.parquet"
SET_ASIDE_FILE = "set_aside.csv"
FLOW_FILE = "flow.json"
SPLITS_FILE = "splits.parquet"
RUN_FILE = "run.json"
CROSSVAL_FILE = "crossval.json"
TTA_SUFFIX = "+tta"
"""Ends the folder of a network that is scored with test-time augmentation."""
WEIGHTS_FILE = "weights.safetensors"
EPOCHS_FILE = "epochs.csv"
PREDICTIONS_FILE = "predictions.parquet"
DECISION_FILE = "decision.json"
OUTLIERS_FILE = "outliers.safetensors"
FOREIGN_FILE = "foreign.csv"
METRICS_FILE = "metrics.json"
ANALYSIS_FILE = "analysis.json"
LEAK_FILE = "leak.json"
MAPS_FILE = "maps.csv"
MAPS_RECORD_FILE = "maps.json"
CONTACT_SHEET_FILE = "contact_sheet.png"
MODEL_CARD_FILE = "model_card.md"
DATA_SHEET_FILE = "data_sheet.md"
COMPARISON_FILE = "comparison.csv"
COMPARISON_RECORD_FILE = "comparison.json"
REPORT_FILE = "report.html"
BUNDLE_FILE = "bundle.json"
EXPORT_FILE = "export.json"
ONNX_FILE = "network.onnx"
INT8_FILE = "network.int8.onnx"
OPENVINO_FILE = "network.xml"
LITERT_FILE = "network.tflite"

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SIDES = (TRAIN, VALIDATION, TEST)

# Parts of a published data set: the training pool, the labelled preliminary test, the unlabelled final test.
POOL, PRELIMINARY, FINAL = "train", "preliminary", "final"

# What of the records of manifests and splits is computed with, and of what type it is.
_MANIFEST_FIELDS = {"root": str, "classes": list, "positive": list, "canvas_px": list, "synthetic": bool, "flow": dict}
_SPLITS_FIELDS = {"strategy": str, "label": str, "optimistic": bool, "folds": int, "manifest_hash": str}

_RECORD_KEY = b"leukolens"
_HASH_BLOCK_BYTES = 1 << 20
# The largest JSON file of ours is a decision with a score for each validation image: 1.5 million of them fit.
_MOST_JSON_BYTES = 64 << 20

_WHO_WRITES = {
    MANIFEST_FILE: "run `leukolens index FOLDER` on a folder of images first, or correct the path",
    SPLITS_FILE: "run `leukolens split` first, or correct the path",
}

Record = dict[str, Any]

MANIFEST_COLUMNS: Mapping[str, str] = {
    "image": "string",  # path below `root`, with forward slashes; unique
    "label": "string",  # class name, null where unlabelled
    "subject": "string",  # upper-cased id, null where unknown
    "group": "string",  # subjects joined by shared duplicates, "20+21"; null where the subject is
    "fold": "string",  # official fold, "fold_0"; null where none
    "part": "string",  # POOL, PRELIMINARY or FINAL
    "pixel_hash": "string",  # SHA-256 of shape and RGB pixels after the black canvas is trimmed: the same cell
    "content_hash": "string",  # SHA-256 of shape and RGB pixels as decoded: the same picture
    "duplicate_of": "string",  # first image (in path order) with the same pixel_hash, null for that first one
    "format": "string",  # as decoded, "BMP"
    "width_px": "int32",
    "height_px": "int32",
    "area_px": "int64",  # foreground pixels
    "mean_red": "float32",  # over the foreground, 0–255
    "mean_green": "float32",
    "mean_blue": "float32",
    "bytes": "int64",
}
SPLITS_COLUMNS: Mapping[str, str] = {"fold": "int16", "image": "string", "side": "string"}
# Besides these, one column `score_<class>` (float64, probability) per class, in the order of the record's classes.
PREDICTIONS_COLUMNS: Mapping[str, str] = {
    "image": "string",
    "subject": "string",
    "group": "string",
    "repeat": "int16",  # which repetition of a cross-validation, with other folds and another seed; 0 elsewhere
    "fold": "int16",
    "side": "string",
    "y_true": "string",
    "y_pred": "string",
    "y_score": "float64",  # probability of the positive class or classes; null where none is named
}
# What may stand beside them: what abstention and subgroups need. A column that nobody filled is absent.
PREDICTIONS_OPTIONAL_COLUMNS: Mapping[str, str] = {
    "outlier_score": "float64",  # distance to the training cells / the largest accepted; above 1: unlike them, refused
    "refusal": "string",  # why the model does not answer (`decision.rule`); null where it does
    "area_px": "float64",  # foreground pixels of the cell, from the manifest
    "optical_density": "float64",  # mean over the channels of -log10((mean + 1) / 256), from the manifest
    "format": "string",  # of the image file, "BMP"
}
# `predict` of loose images, which no manifest lists. Besides these, one column `probability_<class>` (float64, calibrated)
# per class, after `score`.
INPUT_SCORES_COLUMNS: Mapping[str, str] = {
    "input": "string",  # the image as it was given: its path, or that of its archive and its name therein
    "status": "string",  # SCORED or FAILED
    "score": "float64",  # of the positive class or classes, before calibration; null where none is named
    "decision": "string",  # the class by the model's threshold
    "prediction_set": "string",  # the classes that cannot be ruled out, joined by CLASS_SEPARATOR; may be empty
    "outlier_score": "float64",  # as in PREDICTIONS_OPTIONAL_COLUMNS
    "refusal": "string",  # why the model does not answer; null where it does
    "seen_in": "string",  # side on which the model has seen this cell: TRAIN or VALIDATION; null where it has not
    "error": "string",  # why there is no score, as in the flow of the manifest ("truncated", …); null where there is one
    "detail": "string",  # what was found in place of a usable image
}
SCORED, FAILED = "scored", "failed"
CLASS_SEPARATOR = "|"


@dataclass(frozen=True)
class Manifest:
    """The images of one data set and what is known of them.

    `images` has MANIFEST_COLUMNS. `record` holds: `root` (absolute folder), `layout`, `classes` (names, negative ones
    first), `positive` (names, may be empty with three classes or more), `canvas_px` ([height, width]), `synthetic`
    (bool), `flow` (counts, as written to FLOW_FILE) and `listing_hash` (of the paths, sizes and times on disk).
    """

    images: pd.DataFrame
    record: Record

    @property
    def root(self) -> Path:
        """The folder that `image` paths start from."""
        return Path(self.record["root"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; their positions are the indices of logits and scores."""
        return tuple(self.record["classes"])

    @property
    def positive(self) -> tuple[str, ...]:
        """The class or classes that count as positive; empty where none was named."""
        return tuple(self.record["positive"])

    @property
    def canvas_px(self) -> tuple[int, int]:
        """(height, width) of the common canvas."""
        height_px, width_px = self.record["canvas_px"]
        return height_px, width_px

    @property
    def content_hash(self) -> str:
        """SHA-256 over the sorted image paths, labels, subjects, folds and pixels: the version of the data."""
        columns = ["image", "label", "subject", "group", "fold", "part", "pixel_hash", "content_hash"]
        rows = self.images[columns].astype(object).where(self.images[columns].notna(), None)
        return hash_json(sorted(map(list, rows.itertuples(index=False, name=None)), key=str))

    def save(self, path: Path) -> None:
        """Write MANIFEST_FILE."""
        write_table(self.images, path, MANIFEST_COLUMNS, self.record)

    @classmethod
    def of(cls, manifest: Manifest | Path | str) -> Manifest:
        """Take a manifest as it is, or read it."""
        return manifest if isinstance(manifest, Manifest) else cls.load(Path(manifest))

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read MANIFEST_FILE; `path` is the file or the folder that holds it."""
        file = _in_folder(path, MANIFEST_FILE)
        return cls(*_with_fields(file, read_table(file, MANIFEST_COLUMNS), _MANIFEST_FIELDS))


@dataclass(frozen=True)
class Splits:
    """Which side each image is on.

    `sides` has SPLITS_COLUMNS, one row per fold and used image (a single split has fold 0 only). `record` holds:
    `strategy` ("subject", "image", "official", "file"), `label` ("split by image: optimistic"), `optimistic` (bool),
    `seed`, `fractions` ([train, validation, test]), `folds` (count, 1 for a single split), `manifest_hash` and `audit`
    (list of lines, as printed).
    """

    sides: pd.DataFrame
    record: Record = field(default_factory=dict)

    def of_fold(self, fold: int) -> pd.Series[str]:
        """Side of each used image of one fold, indexed by image."""
        rows = self.sides[self.sides["fold"] == fold]
        return pd.Series(rows["side"].to_numpy(), index=pd.Index(rows["image"]), name="side")

    @property
    def content_hash(self) -> str:
        """SHA-256 over the sorted rows."""
        return hash_json(sorted(self.sides.itertuples(index=False, name=None)))

    def save(self, path: Path) -> None:
        """Write SPLITS_FILE."""
        write_table(self.sides, path, SPLITS_COLUMNS, self.record)

    @classmethod
    def of(cls, splits: Splits | Path | str) -> Splits:
        """Take splits as they are, or read them."""
        return splits if isinstance(splits, Splits) else cls.load(Path(splits))

    @classmethod
    def load(cls, path: Path) -> Splits:
        """Read SPLITS_FILE; `path` is the file or the folder that holds it."""
        file = _in_folder(path, SPLITS_FILE)
        return cls(*_with_fields(file, read_table(file, SPLITS_COLUMNS), _SPLITS_FIELDS))


@dataclass(frozen=True)
class Predictions:
    """Scores of one model for images with known labels: the only thing that `evaluation` reads.

    `table` has PREDICTIONS_COLUMNS, one `score_<class>` column per class, and perhaps PREDICTIONS_OPTIONAL_COLUMNS.
    `record` holds: `classes`, `positive`, `architecture`, `display_name`, `kind` ("network", "baseline", "ensemble";
    None for another tool's), `trained_on`, `split_label`, `optimistic`, `synthetic`, `run_hash`, and `decisions`: for each
    `repeat` and `fold` the `temperature` that the scores were divided by and the `threshold` that made y_pred, both
    fitted on validation (empty where neither was). Of networks also `parameters` (count).
    """

    table: pd.DataFrame
    record: Record

    def save(self, path: Path) -> None:
        """Write PREDICTIONS_FILE."""
        optional = {name: kind for name, kind in PREDICTIONS_OPTIONAL_COLUMNS.items() if name in self.table}
        scores = {f"score_{name}": "float64" for name in self.record["classes"]}
        write_table(self.table, path, {**PREDICTIONS_COLUMNS, **optional, **scores}, self.record)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read PREDICTIONS_FILE; `path` is the file or the folder that holds it."""
        table, record = read_table(_in_folder(path, PREDICTIONS_FILE), PREDICTIONS_COLUMNS)
        optional = {name: kind for name, kind in PREDICTIONS_OPTIONAL_COLUMNS.items() if name in table}
        return cls(table.astype(optional), record)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; rename it to `path` when the block ends well, delete it when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(frame: pd.DataFrame, path: Path, columns: Mapping[str, str], record: Mapping[str, Any]) -> None:
    """Write `frame` as Parquet with exactly `columns` (in that order and dtype) and `record` in its metadata."""
    table = pa.Table.from_pandas(frame[list(columns)].astype(dict(columns)), preserve_index=False)
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(with_record(table.schema, record).metadata), temporary)


def with_record(schema: pa.Schema, record: Mapping[str, Any]) -> pa.Schema:
    """Add the record to a schema, for what is written piece by piece."""
    return schema.with_metadata({**(schema.metadata or {}), _RECORD_KEY: json.dumps(record).encode()})


def read_table(path: Path, columns: Mapping[str, str]) -> tuple[pd.DataFrame, Record]:
    """Read a Parquet file that `write_table` wrote; raises ArtifactError naming missing columns."""
    if not path.is_file():
        raise ArtifactError(
            f"{path} does not exist.",
            expected=f"a file named {path.name}",
            received="nothing at that path",
            remedy=_WHO_WRITES.get(path.name, "run the verb that writes it, or correct the path"),
        )
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(
            f"{path} cannot be read.",
            expected="a Parquet file written by leukolens",
            received=str(error).splitlines()[0],
            remedy="run the verb that writes it again, or name the right file (another tool's table must end in .csv)",
        ) from error
    missing = [name for name in columns if name not in table.column_names]
    metadata = table.schema.metadata or {}
    if missing or _RECORD_KEY not in metadata:
        raise ArtifactError(
            f"{path} is not the table that it should be.",
            expected=f"columns {', '.join(columns)} and a leukolens record",
            received=f"columns {', '.join(table.column_names)}" + ("" if _RECORD_KEY in metadata else ", no record"),
            remedy="pass a file written by this version of leukolens, or run the verb that writes it again",
        )
    try:
        record = json.loads(metadata[_RECORD_KEY])
        frame = table.to_pandas().astype(dict(columns))
    except (pa.ArrowException, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise _other_table(path, f"content of another kind ({type(error).__name__})") from error
    if not isinstance(record, dict):
        raise _other_table(path, f"a record that is a {type(record).__name__}")
    return frame, record


def _with_fields(path: Path, read: tuple[pd.DataFrame, Record], fields: Mapping[str, type]) -> tuple[pd.DataFrame, Record]:
    """Give back what was read; raises ArtifactError where the record lacks a field, or has one of another type."""
    for name, kind in fields.items():
        if not isinstance(read[1].get(name), kind):
            raise _other_table(path, f"a record with {name} {read[1].get(name)!r:.100}")
    return read


def _other_table(path: Path, received: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is not the table that it should be.",
        expected="columns of the types, and a record, that leukolens writes",
        received=received,
        remedy="pass a file written by this version of leukolens, or run the verb that writes it again",
    )


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """Read a JSON file; raises ArtifactError where it is missing, damaged, or made to be endless."""
    try:
        found = path.stat()
        # A pipe would be waited for without end, and a device may never end.
        if not stat.S_ISREG(found.st_mode):
            raise _no_json(path, "a folder, device or pipe")
        if found.st_size > _MOST_JSON_BYTES:
            raise _no_json(path, f"a file of {found.st_size:,} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _no_json(path, str(error)) from error
    except RecursionError as error:
        raise _no_json(path, "lists or objects in each other, thousands deep") from error


def _no_json(path: Path, received: str) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be read.",
        expected="a JSON file written by leukolens",
        received=received,
        remedy="run the verb that writes it again",
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: object) -> str:
    """SHA-256 of a value's JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _in_folder(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path
