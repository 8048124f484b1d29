"""Foreign things in place of a MODEL: pickles and checkpoints with code, weights that lie, records that were altered.

In: a finished run and a bundle of it, which are copied and spoilt. Out: cases of the kinds "MODEL: …". Writes: nothing.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile_corpus.case import REFUSED, SCORED, WITHOUT_SCORE, Case, Good, Sandbox, predict
from hostile_corpus.code import Payload, statement
from hostile_corpus.pictures import encoded
from leukolens.artifacts import BUNDLE_FILE, hash_file, hash_json, read_json, write_json

_CODE, _RECORD, _WEIGHTS, _BUNDLE = (
    "MODEL: code in a foreign file",
    "MODEL: altered record",
    "MODEL: altered weights or tables",
    "MODEL: altered bundle",
)
_REFUSED = (REFUSED,)
# An altered name is a name; altered numbers of a network are numbers. Whoever may change a run may change its scores.
_MAYBE = (SCORED, WITHOUT_SCORE, REFUSED)
_DEEP = 200_000
_MIB = 1 << 20
_XML = b'<?xml version="1.0"?>'

Spoil = Callable[[Path, Sandbox], object]


def model_cases() -> Iterator[Case]:
    """All kinds."""
    for suffix in ("pth", "pt", "ckpt", "pkl", "bin", "safetensors", "onnx", "joblib"):
        for kind, make in (("pickle", _pickled), ("archive", _torch_archive)):
            yield _case(
                _CODE, f"{kind} named .{suffix}", lambda sandbox, good, suffix=suffix, make=make: _file(sandbox, suffix, make)
            )
    yield _case(
        _CODE,
        "Keras layer in HDF5",
        lambda sandbox, good: _file(sandbox, "h5", lambda payload: b"\x89HDF\r\n\x1a\n" + bytes(99)),
    )
    for name, spoil in _code_in_runs().items():
        yield _spoilt(_CODE, name, spoil, _MAYBE)
    for name, spoil in {**_whole_records("run.json"), **_whole_records("decision.json")}.items():
        yield _spoilt(_RECORD, name, spoil)
    for name, (spoil, statuses) in _fields().items():
        yield _spoilt(_RECORD, name, spoil, statuses)
    for name, (spoil, statuses) in _weights().items():
        yield _spoilt(_WEIGHTS, name, spoil, statuses)
    for name, spoil in {**_whole_records(BUNDLE_FILE), **_lists()}.items():
        yield _spoilt(_BUNDLE, name, spoil, of_bundle=True)
    for engine, name in (("onnx", "network.onnx"), ("openvino", "network.xml")):
        for what, content in _networks().items():
            yield _spoilt(_BUNDLE, f"{name}: {what}", _resealed(name, content), of_bundle=True, engine=engine)


def _case(
    kind: str, name: str, make: Callable[[Sandbox, Good], Path], statuses: tuple[int, ...] = _REFUSED, engine: str = ""
) -> Case:
    def prepare(sandbox: Sandbox, good: Good) -> list[str]:
        cell = sandbox.inputs / "cell.png"
        cell.write_bytes(encoded("PNG"))
        return [*predict(make(sandbox, good), [str(cell)], sandbox), *(["--engine", engine] if engine else [])]

    return Case(kind, name, prepare, frozenset(statuses))


def _spoilt(
    kind: str, name: str, spoil: Spoil, statuses: tuple[int, ...] = _REFUSED, *, of_bundle: bool = False, engine: str = ""
) -> Case:
    """A copy of the run or the bundle, spoilt."""

    def make(sandbox: Sandbox, good: Good) -> Path:
        folder = Path(shutil.copytree(good.bundle if of_bundle else good.run, sandbox.inputs / "model"))
        spoil(folder, sandbox)
        return folder

    return _case(kind, name, make, statuses, engine)


def _file(sandbox: Sandbox, suffix: str, make: Callable[[Payload], bytes]) -> Path:
    path = sandbox.inputs / f"model.{suffix}"
    path.write_bytes(make(Payload(sandbox.canary)))
    return path


def _pickled(payload: Payload) -> bytes:
    return pickle.dumps(payload, protocol=2)


def _torch_archive(payload: Payload) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", _pickled(payload))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def _code_in_runs() -> dict[str, Spoil]:
    """Code where a run keeps its own files, or beside them."""
    return {
        "pickle as weights.safetensors": lambda folder, sandbox: _put(
            folder, "weights.safetensors", _pickled(Payload(sandbox.canary))
        ),
        "PyTorch archive as weights.safetensors": lambda folder, sandbox: _put(
            folder, "weights.safetensors", _torch_archive(Payload(sandbox.canary))
        ),
        "pickle as outliers.safetensors": lambda folder, sandbox: _put(
            folder, "outliers.safetensors", _pickled(Payload(sandbox.canary))
        ),
        "pickle as training_images.csv": lambda folder, sandbox: _put(
            folder, "training_images.csv", _pickled(Payload(sandbox.canary))
        ),
        "pickle as run.json": lambda folder, sandbox: _put(folder, "run.json", _pickled(Payload(sandbox.canary))),
        "modules and hooks beside it": _modules,
        "architecture that names a module": _set("run.json", ["weights", "architecture"], "timm:os.system"),
        "architecture from the web": _set("run.json", ["weights", "architecture"], "timm:hf-hub:someone/network"),
        "architecture from a folder": _set("run.json", ["weights", "architecture"], "timm:local-dir:/models"),
        "architecture that climbs out": _set("run.json", ["weights", "architecture"], "timm:../../network"),
    }


def _modules(folder: Path, sandbox: Sandbox) -> None:
    """Python runs such files where it finds them; in the present folder too."""
    for place in (folder, sandbox.cwd):
        for name in (
            "sitecustomize.py",
            "usercustomize.py",
            "conftest.py",
            "hubconf.py",
            "__init__.py",
            "typing.py",
            "json.py",
            "timm.py",
            "torch.py",
            "PIL.py",
        ):
            (place / name).write_text(statement(sandbox.canary), encoding="utf-8")


def _put(folder: Path, name: str, data: bytes) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(data)


def _whole_records(name: str) -> dict[str, Spoil]:
    """A JSON file with another content, or no file of its own."""
    contents = {
        "empty": b"",
        "no JSON": b"{",
        "list": b"[]",
        "empty object": b"{}",
        "null": b"null",
        "number": b"1",
        "text": b'"run"',
        "zero bytes": bytes(100),
        "no UTF-8": b'{"a": "\xff"}',
        "200,000 lists deep": b"[" * _DEEP + b"]" * _DEEP,
        "200,000 objects deep": b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
        "number of 100,000 digits": b'{"classes": ' + b"9" * 100_000 + b"}",
        "100 MiB of spaces": b"{" + b" " * (100 * _MIB) + b"}",
        "100 MiB of lists": b"[" + b"[]," * (33 * _MIB) + b"[]]",
        "UTF-16": "{}".encode("utf-16"),
        "every key null": b"null",
    }
    spoils: dict[str, Spoil] = {
        f"{name}: {what}": lambda folder, sandbox, content=content: _put(folder, name, content)  # type: ignore[misc]
        for what, content in contents.items()
    }
    spoils[f"{name}: every key null"] = lambda folder, sandbox: write_json(
        folder / name, dict.fromkeys(read_json(folder / name))
    )
    spoils[f"{name}: pipe"] = lambda folder, sandbox: ((folder / name).unlink(), os.mkfifo(folder / name))
    spoils[f"{name}: link to an endless device"] = lambda folder, sandbox: _linked(folder / name, "/dev/zero")
    spoils[f"{name}: link to itself"] = lambda folder, sandbox: _linked(folder / name, name)
    spoils[f"{name}: folder"] = lambda folder, sandbox: ((folder / name).unlink(), (folder / name).mkdir())
    return spoils


def _linked(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _set(name: str, keys: list[str], value: Any) -> Spoil:  # noqa: ANN401
    """Set one field of a JSON file."""

    def spoil(folder: Path, sandbox: Sandbox) -> None:
        record = read_json(folder / name)
        inner = record
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        # NaN and infinity too, which the program itself never writes.
        (folder / name).write_text(json.dumps(record), encoding="utf-8")

    return spoil


def _fields() -> dict[str, tuple[Spoil, tuple[int, ...]]]:
    """Records in which one field is of another type, too large, or does not belong to the others."""
    wrong: list[tuple[str, list[str], list[Any]]] = [
        (
            "run.json",
            ["classes"],
            [None, "AB", 7, [], ["ALL"], [1, 2], ["ALL", "ALL"], ["a"] * 100_000, ["ALL", "HEM", "more"]],
        ),
        ("run.json", ["positive"], [None, ["other"], 7, [["ALL"]]]),
        ("run.json", ["settings"], [None, [], {"unknown": 1}, {"pooling": "__import__('os')"}, {"dropout": "much"}]),
        ("run.json", ["settings", "fold"], ["first"]),
        ("run.json", ["preprocessing"], [None, [], {}, "as always"]),
        ("run.json", ["preprocessing", "input_px"], [0, -1, "wide", 1 << 40, 100_000, 1e308, None]),
        (
            "run.json",
            ["preprocessing", "canvas_px"],
            [[0, 0], [1 << 20, 1 << 20], [48], "48x48", [-48, 48], [[48], [48]], None],
        ),
        ("run.json", ["preprocessing", "mean"], [[float("nan")] * 3, ["a", "b", "c"], [1], None]),
        ("run.json", ["preprocessing", "std"], [[0, 0, 0], [float("inf")] * 3, "0.5"]),
        ("run.json", ["weights"], [None, {}, []]),
        ("run.json", ["weights", "architecture"], [None, 7, "no_such_network", "timm:", "x" * 1_000_000]),
        ("decision.json", ["temperature"], [0, -1, float("nan"), "hot", None, [1]]),
        (
            "decision.json",
            ["threshold"],
            [
                {},
                {"value": "high", "aim": "", "sensitivity": None, "reached": None},
                0.5,
                {"value": float("nan"), "aim": "", "sensitivity": None, "reached": None},
            ],
        ),
        ("decision.json", ["classes"], [["other", "names"], [], "AB", None]),
        ("decision.json", ["positive"], [["other"], "A", None]),
        (
            "decision.json",
            ["conformal"],
            [
                None,
                {},
                {"scores": [[1]], "weights": [[1]], "groups": 1},
                {"scores": ["a"], "weights": [1], "groups": 1},
                {"scores": [0.1], "weights": [1, 2, 3], "groups": 1},
            ],
        ),
        ("decision.json", ["outliers"], [None, {}, {"sha256": 7}]),
    ]
    found: dict[str, tuple[Spoil, tuple[int, ...]]] = {
        f"{name}: {'.'.join(keys)} {str(value)[:40]}": (_set(name, keys, value), _REFUSED)
        for name, keys, values in wrong
        for value in values
    }
    # Nothing but a name, or more decimals: what it says is shown, not obeyed.
    for keys, value in (
        (["display_name"], "<script>alert(1)</script>"),
        (["display_name"], "a" * 1_000_000),
        (["hardware"], {"cpu": "\x1b[2J"}),
        (["display_name"], 7),
        (["run_hash"], None),
        (["synthetic"], "perhaps"),
        (["split"], None),
        (["best_phase"], "third"),
    ):
        found[f"run.json: {keys[0]} {str(value)[:40]}"] = (_set("run.json", keys, value), _MAYBE)
    return found


def _weights() -> dict[str, tuple[Spoil, tuple[int, ...]]]:
    """Tensors whose header lies, tables that are none, special files."""
    header = {"__metadata__": {}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    contents = {
        "empty": b"",
        "8 bytes": bytes(8),
        "header of 2^63 bytes": struct.pack("<Q", 1 << 63),
        "header of 100 MB": struct.pack("<Q", 10**8),
        "header that is no JSON": struct.pack("<Q", 8) + b"{{{{{{{{",
        "no tensor": _safetensors({}),
        "foreign tensor": _safetensors(header) + bytes(4),
        "tensor of 2^60 numbers": _safetensors({"a": {"dtype": "F32", "shape": [1 << 30, 1 << 30], "data_offsets": [0, 4]}})
        + bytes(4),
        "offsets before the start": _safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}) + bytes(4),
        "offsets behind the end": _safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 40]}}) + bytes(4),
        "overlapping tensors": _safetensors({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"})
        + bytes(4),
        "unknown type": _safetensors({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
        "100,000 lists deep": struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000,
    }
    found: dict[str, tuple[Spoil, tuple[int, ...]]] = {}
    for name in ("weights.safetensors", "outliers.safetensors"):
        for what, content in contents.items():
            found[f"{name}: {what}"] = (_replaced(name, content), _REFUSED)
        found[f"{name}: pipe"] = (
            lambda folder, sandbox, name=name: ((folder / name).unlink(), os.mkfifo(folder / name)),
            _REFUSED,
        )
        found[f"{name}: endless device"] = (lambda folder, sandbox, name=name: _linked(folder / name, "/dev/zero"), _REFUSED)
    tables = {
        "empty": b"",
        "one column": b"image\na\n",
        "no table": b'"' * 1000,
        "zero bytes": bytes(1000),
        "no UTF-8": b"image,side\n\xff,\xfe\n",
        "more cells in a row": b"image,side,group,pixel_hash\na,train,1,x\na,b,c,d,e,f,g,h\n",
    }
    for what, content in tables.items():
        found[f"training_images.csv: {what}"] = (_replaced("training_images.csv", content), _REFUSED)
    table = "training_images.csv"
    found[f"{table}: pipe"] = (lambda folder, sandbox: ((folder / table).unlink(), os.mkfifo(folder / table)), _REFUSED)
    found[f"{table}: gone"] = (lambda folder, sandbox: (folder / table).unlink(), _REFUSED)
    found["numbers of the network, one bit changed"] = (_one_bit, _MAYBE)
    return found


def _safetensors(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def _replaced(name: str, content: bytes) -> Spoil:
    """Put another content in a file, and make the record of the decision agree with it."""

    def spoil(folder: Path, sandbox: Sandbox) -> None:
        _put(folder, name, content)
        if name.startswith("outliers"):
            _set("decision.json", ["outliers", "sha256"], hash_file(folder / name))(folder, sandbox)

    return spoil


def _one_bit(folder: Path, sandbox: Sandbox) -> None:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def _lists() -> dict[str, Spoil]:
    """Lists of a bundle's files that do not fit, or that name files elsewhere."""

    def files(change: Callable[[dict[str, Any]], object]) -> Spoil:
        def spoil(folder: Path, sandbox: Sandbox) -> None:
            record = read_json(folder / BUNDLE_FILE)
            change(record["files"])
            _write_sealed(folder, record)

        return spoil

    plain = {"sha256": "0" * 64, "bytes": 1}
    return {
        "list: file elsewhere": files(lambda found: found.update({"../../../etc/passwd": plain})),
        "list: absolute name": files(lambda found: found.update({"/etc/passwd": plain})),
        "list: the folder above": files(lambda found: found.update({"..": plain})),
        "list: empty name": files(lambda found: found.update({"": plain})),
        "list: name with a NUL": files(lambda found: found.update({"a\0b": plain})),
        "list: name of 100,000 letters": files(lambda found: found.update({"n" * 100_000: plain})),
        "list: no hash": files(lambda found: found.update({"run.json": {}})),
        "list: hash that is a number": files(lambda found: found.update({"run.json": {"sha256": 7}})),
        "list: entry that is a text": files(lambda found: found.update({"run.json": "good"})),
        "list: one file changed": lambda folder, sandbox: _put(folder, "training_images.csv", b"image,side,group,pixel_hash\n"),
        "list: one file gone": lambda folder, sandbox: (folder / "decision.json").unlink(),
        "list: of another format": lambda folder, sandbox: _write_sealed(
            folder, {**read_json(folder / BUNDLE_FILE), "format": 99}
        ),
        "list: hash of the list wrong": _set(BUNDLE_FILE, ["hash"], "0" * 64),
        "file that is a link elsewhere": lambda folder, sandbox: _linked(folder / "model_card.md", "/etc/passwd"),
        "file that is a pipe": lambda folder, sandbox: (
            (folder / "model_card.md").unlink(),
            os.mkfifo(folder / "model_card.md"),
        ),
    }


def _write_sealed(folder: Path, record: dict[str, Any]) -> None:
    record = {name: value for name, value in record.items() if name != "hash"}
    write_json(folder / BUNDLE_FILE, {**record, "hash": hash_json(record)})


def _networks() -> dict[str, bytes]:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    return {
        "empty": b"",
        "zero bytes": bytes(5000),
        "pickle": pickle.dumps({"a": 1}),
        "no XML": b"<net",
        "external entity": _XML + b'<!DOCTYPE n [<!ENTITY e SYSTEM "file:///etc/passwd">]><net name="&e;" version="11"/>',
        "billion laughs": _XML + f'<!DOCTYPE n [<!ENTITY l0 "ha">{laughs}]><net name="&l11;" version="11"/>'.encode(),
        "net without layers": _XML + b'<net name="a" version="11"><layers/><edges/></net>',
        "100,000 levels deep": b"<net>" * 100_000,
        "1 MiB of one byte": b"\x0a" * _MIB,
        "field of 2^35 bytes": b"\x3a\xff\xff\xff\xff\x7f",
    }


def _resealed(name: str, content: bytes) -> Spoil:
    """Another network in a bundle whose list agrees with it, as whoever wants to deceive would make it."""

    def spoil(folder: Path, sandbox: Sandbox) -> None:
        record = read_json(folder / BUNDLE_FILE)
        _put(folder, name, content)
        record["files"][name] = {"sha256": hash_file(folder / name), "bytes": len(content)}
        _write_sealed(folder, record)

    return spoil
