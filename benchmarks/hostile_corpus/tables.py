"""Tables and caches that other verbs read: Parquet of another schema, CSV, numpy files with pickles in them.

In: the results folder of a run's data, which is copied and spoilt. Out: cases of the kinds "manifest or splits" and "cache".
Writes: nothing.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hostile_corpus.case import REFUSED, SCORED, Case, Good, Sandbox
from hostile_corpus.code import Payload

_TABLE, _CACHE = "manifest or splits", "cache"
_RECORD_KEY = b"leukolens"
# A prediction follows the record of its run; with its pixels in the cache it asks for no size.
_NOT_USED = {"sizes of 2^31 - 1": SCORED, "canvas of 2^20 in the record": SCORED}

Spoil = Callable[[Path, Sandbox], object]
Change = Callable[[pa.Table], pa.Table]


def table_cases() -> Iterator[Case]:
    """Each is a copy of good results with one file spoilt; `predict` of the run's own data reads them all."""
    for name in ("manifest.parquet", "splits.parquet"):
        for what, spoil in _tables(name).items():
            yield _case(_TABLE, f"{name}: {what}", spoil, _NOT_USED.get(what, REFUSED))
    for what, spoil in _caches().items():
        yield _case(_CACHE, what, spoil)


def _case(kind: str, name: str, spoil: Spoil, *more: int) -> Case:
    def prepare(sandbox: Sandbox, good: Good) -> list[str]:
        # The cache lies beside the manifest and may be written to: it is in `out`.
        folder = Path(shutil.copytree(good.results, sandbox.out / "results"))
        spoil(folder, sandbox)
        return ["predict", str(good.run), str(folder), "--out", str(sandbox.out / "predictions"), "--device", "cpu"]

    return Case(kind, name, prepare, frozenset({REFUSED, *more}))


def _tables(name: str) -> dict[str, Spoil]:
    contents = {"empty": b"", "no Parquet": b"words", "signature alone": b"PAR1PAR1", "pickle": pickle.dumps({"a": 1}),
                "footer of 2 GiB": b"PAR1" + bytes(50) + b"\xff\xff\xff\x7fPAR1"}  # fmt: skip
    changes: dict[str, Change] = {
        "other columns": lambda table: pa.table({"a": [1]}),
        "no rows": lambda table: table.slice(0, 0),
        "no record": lambda table: table.replace_schema_metadata(None),
        "record that is no JSON": lambda table: _with_record(table, b"{"),
        "record that is a list": lambda table: _with_record(table, b"[]"),
        "record that is empty": lambda table: _with_record(table, b"{}"),
        "record 100,000 lists deep": lambda table: _with_record(table, b"[" * 100_000 + b"]" * 100_000),
        "numbers in place of texts": lambda table: _column(table, "image", pa.array(range(len(table)))),
        "lists in place of texts": lambda table: _column(table, "image", pa.array([["a"]] * len(table))),
        "texts that are no UTF-8": lambda table: _column(table, "image", pa.array([b"\xff\xfe"] * len(table))),
        "all null": lambda table: _column(table, "image", pa.nulls(len(table), pa.string())),
        "one image everywhere": lambda table: _column(table, "image", pa.array(["a.bmp"] * len(table))),
        "paths that lead elsewhere": lambda table: _column(table, "image", pa.array(["../../../etc/passwd"] * len(table))),
    }
    if name.startswith("manifest"):
        changes |= {
            "texts in place of numbers": lambda table: _column(table, "width_px", pa.array(["wide"] * len(table))),
            "sizes of 2^31 - 1": lambda table: _column(table, "width_px", pa.array([(1 << 31) - 1] * len(table), pa.int32())),
            "other classes in the record": lambda table: _with_field(table, "classes", 7),
            "canvas of 2^20 in the record": lambda table: _with_field(table, "canvas_px", [1 << 20, 1 << 20]),
        }
    else:
        changes["folds of text"] = lambda table: _column(table, "fold", pa.array(["first"] * len(table)))
        changes["sides that are none"] = lambda table: _column(table, "side", pa.array(["left"] * len(table)))
    return {
        **{what: lambda folder, sandbox, data=data: (folder / name).write_bytes(data) for what, data in contents.items()},  # type: ignore[misc]
        **{what: lambda folder, sandbox, change=change: _changed(folder / name, change) for what, change in changes.items()},  # type: ignore[misc]
        "type that is a pickle with code": lambda folder, sandbox: _changed(
            folder / name, lambda table: _with_pickled_type(table, pickle.dumps(Payload(sandbox.canary)))
        ),
    }


def _changed(path: Path, change: Change) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def _with_record(table: pa.Table, record: bytes) -> pa.Table:
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _RECORD_KEY: record})


def _with_field(table: pa.Table, name: str, value: object) -> pa.Table:
    return _with_record(table, json.dumps({**json.loads(table.schema.metadata[_RECORD_KEY]), name: value}).encode())


def _column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _with_pickled_type(table: pa.Table, data: bytes) -> pa.Table:
    """A column of a type that old versions of pyarrow unpickled when they read the schema."""
    place = table.column_names.index("image")
    said = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": data}
    field = pa.field("image", pa.int64(), metadata=said)
    return table.set_column(place, field, pa.array(range(len(table))))


def _caches() -> dict[str, Spoil]:
    """Pixels and features in place of those that a prediction has left."""
    objects = np.array([{"a": 1}], dtype=object)
    headers = {
        "pixels of 2^50 images": {"descr": "|u1", "fortran_order": False, "shape": (1 << 50, 32, 32, 3)},
        "pixels with a header that is code": None,
        "pixels of 64-bit numbers": {"descr": "<f8", "fortran_order": False, "shape": (4, 32, 32, 3)},
        "pixels of another shape": {"descr": "|u1", "fortran_order": False, "shape": (7,)},
    }
    spoils: dict[str, Spoil] = {
        "pixels: pickle with code": lambda folder, sandbox: _over(
            folder, "pixels-*.npy", pickle.dumps(Payload(sandbox.canary))
        ),
        "pixels: array of objects": lambda folder, sandbox: [np.save(path, objects) for path in _found(folder, "pixels-*.npy")],
        "pixels: empty": lambda folder, sandbox: _over(folder, "pixels-*.npy", b""),
        "features: pickle with code": lambda folder, sandbox: _over(
            folder, "features-*/*.npz", pickle.dumps(Payload(sandbox.canary))
        ),
        "features: arrays with code": lambda folder, sandbox: [
            np.savez(path, hashes=np.array([Payload(sandbox.canary)], dtype=object), values=objects, seconds=objects)
            for path in _found(folder, "features-*/*.npz")
        ],
        "features: empty": lambda folder, sandbox: _over(folder, "features-*/*.npz", b""),
        "features: half": lambda folder, sandbox: [
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) for path in _found(folder, "features-*/*.npz")
        ],
        "features: hashes that are none": lambda folder, sandbox: [
            np.savez(path, hashes=np.array([1.5]), values=np.zeros((1, 1), np.float32), seconds=np.zeros(()))
            for path in _found(folder, "features-*/*.npz")
        ],
        "features: of another width": lambda folder, sandbox: [_narrow(path) for path in _found(folder, "features-*/*.npz")],
    }
    for what, header in headers.items():
        spoils[what] = lambda folder, sandbox, header=header: _over(folder, "pixels-*.npy", _array(header, sandbox))  # type: ignore[misc]
    return spoils


def _found(folder: Path, pattern: str) -> list[Path]:
    found = sorted((folder / "cache").glob(pattern))
    if not found:
        raise FileNotFoundError(f"the good results have no cache/{pattern}")
    return found


def _over(folder: Path, pattern: str, data: bytes) -> None:
    for path in _found(folder, pattern):
        path.write_bytes(data)


def _array(header: dict[str, object] | None, sandbox: Sandbox) -> bytes:
    text = repr(header) if header else f"__import__('os').system('touch {sandbox.canary}')"
    padded = text.ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + len(padded).to_bytes(2, "little") + padded.encode() + bytes(100)


def _narrow(path: Path) -> None:
    """Features of half the width: whoever reads them must not score with them."""
    with np.load(path) as part:
        hashes, values = part["hashes"], part["values"]
    np.savez(path, hashes=hashes, values=values[:, : values.shape[1] // 2], seconds=np.zeros(()))
