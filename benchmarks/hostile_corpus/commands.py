"""What stands on the command line: pipes, devices, links in circles, odd names, and files of settings.

In: nothing. Out: cases of the kinds "input on the command line" and "settings file". Writes: nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_corpus.case import REFUSED, SCORED, USAGE, WITHOUT_SCORE, Case, Good, Sandbox, predict
from hostile_corpus.code import statement
from hostile_corpus.pictures import encoded

_INPUT, _SETTINGS = "input on the command line", "settings file"
_TEN_GIB = 10 << 30
# Most systems take 255 bytes in a name.
_LONG = 255 - len(".png")


def command_cases() -> Iterator[Case]:
    """Named inputs, then settings files."""
    for name, (make, statuses) in _inputs().items():
        yield _input_case(name, make, statuses)
    for name, text in _settings().items():
        yield _settings_case(name, lambda path, sandbox, text=text: path.write_bytes(text(sandbox)))
    yield _settings_case("pipe", lambda path, sandbox: os.mkfifo(path))
    yield _settings_case("endless device", lambda path, sandbox: path.symlink_to("/dev/zero"))
    yield _settings_case("folder", lambda path, sandbox: path.mkdir())
    yield _settings_case("10 GiB", lambda path, sandbox: _sparse(path))


_Make = Callable[[Path], str | list[str] | None]


def _inputs() -> dict[str, tuple[_Make, tuple[int, ...]]]:
    """Each makes its files in a folder and gives what stands on the command line (None: the folder)."""
    row = (WITHOUT_SCORE,)
    any_row = (SCORED, WITHOUT_SCORE)
    return {
        "pipe": (lambda folder: _made(os.mkfifo, folder / "a.png"), row),
        "pipe named as zip": (lambda folder: _made(os.mkfifo, folder / "a.zip"), row),
        "pipe in a folder": (lambda folder: _made(os.mkfifo, folder / "a.png") and None, row),
        "endless device": (lambda folder: "/dev/zero", row),
        "terminal": (lambda folder: "/dev/tty", row),
        "link to an endless device": (lambda folder: _link(folder / "a.png", "/dev/zero"), row),
        "link to itself": (lambda folder: _link(folder / "a.png", "a.png"), row),
        "link to nothing": (lambda folder: _link(folder / "a.png", "nothing.png"), row),
        "link to the folder above, in a folder": (lambda folder: _link(folder / "a", "..") and None, row),
        "40 links in a row": (_chain, any_row),
        "socket": (_socket, row),
        "folder that is named as image": (lambda folder: _made(os.mkdir, folder / "a.png"), (REFUSED,)),
        "folder that is named as zip": (lambda folder: _made(os.mkdir, folder / "a.zip"), (REFUSED,)),
        "10 GiB of nothing": (lambda folder: _sparse(folder / "a.png"), row),
        "10 GiB of nothing, named as zip": (lambda folder: _sparse(folder / "a.zip"), row),
        "10 GiB behind a picture's header": (lambda folder: _sparse(folder / "a.bmp", encoded("BMP")), any_row),
        "name of 5,000 letters": (lambda folder: str(folder / ("n" * 5000 + ".png")), row),
        "path of 100,000 letters": (lambda folder: str(folder) + "/d" * 50_000 + ".png", row),
        "name of 255 letters": (lambda folder: _image(folder / ("n" * _LONG + ".png")), any_row),
        "name with a new line": (lambda folder: _image(folder / "a\n1,scored.png"), any_row),
        "name with terminal codes": (lambda folder: _image(folder / "\x1b[2J\x1b]0;x\x07.png"), any_row),
        "name that is no UTF-8": (lambda folder: _image(Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png"))), any_row),
        "name that is a formula": (lambda folder: _image(folder / "=HYPERLINK(1).png"), any_row),
        "name that is a pattern": (lambda folder: _image(folder / "[a-z]*?.png"), any_row),
        "flag that nobody knows": (lambda folder: "--no-such-flag", (USAGE,)),
        "pattern of many stars": (lambda folder: str(folder / ("*a" * 40 + "*.png")), row),
        "pattern that is not closed": (lambda folder: str(folder / "[a-.png"), row),
        "empty name": (lambda folder: "", (WITHOUT_SCORE, REFUSED)),
        "present folder's parent": (lambda folder: str(folder / "nothing" / ".." / "a.png"), row),
        "the same 2,000 times": (lambda folder: [_image(folder / "a.png")] * 2000, any_row),
        "web address": (lambda folder: "http://127.0.0.1:9/cell.png", row),
        "file address": (lambda folder: "file:///etc/passwd", row),
        "password file": (lambda folder: "/etc/passwd", row),
        "memory of the process": (lambda folder: "/proc/self/mem", row),
        "empty file": (lambda folder: _image(folder / "a.png", b""), row),
        "folder 300 levels deep": (_deep, any_row),
    }


def _settings() -> dict[str, Callable[[Sandbox], bytes]]:
    laughs = "\n".join(["a0: &a0 [ha]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))])
    return {
        "code by !!python/object/apply": lambda sandbox: (
            f"seed: !!python/object/apply:eval [{statement(sandbox.canary)!r}]".encode()
        ),
        "code by !!python/object/new": lambda sandbox: b"!!python/object/new:os.system [touch canary]",
        "module by !!python/module": lambda sandbox: b"seed: !!python/module:this",
        "billion laughs": lambda sandbox: laughs.encode(),
        "billion laughs as a value": lambda sandbox: f"{laughs}\nfractions: *a11".encode(),
        "100,000 brackets": lambda sandbox: b"seed: " + b"[" * 100_000,
        "100,000 levels of lists": lambda sandbox: b"seed: " + b"[" * 100_000 + b"]" * 100_000,
        "number of 100,000 digits": lambda sandbox: b"seed: " + b"9" * 100_000,
        "number without digits": lambda sandbox: b"seed: !!int ''",
        "fraction without digits": lambda sandbox: b"seed: !!float ''",
        "truth that is none": lambda sandbox: b"seed: !!bool perhaps",
        "day that is none": lambda sandbox: b"seed: 2001-99-99",
        "time that is none": lambda sandbox: b"seed: !!timestamp soon",
        "base 64 that is none": lambda sandbox: b"seed: !!binary '***'",
        "list as a key": lambda sandbox: b"? [a, b]\n: 1",
        "alias of itself": lambda sandbox: b"seed: &a [*a]",
        "mapping merged with itself": lambda sandbox: b"seed: &a {<<: *a}",
        "unknown key": lambda sandbox: b"sede: 1",
        "key that is a number": lambda sandbox: b"1: 1",
        "wrong type": lambda sandbox: b"seed: {a: 1}",
        "not a number": lambda sandbox: b"fractions: [.nan, .nan, .nan]",
        "infinite": lambda sandbox: b"fractions: [.inf, 0.1, 0.1]",
        "list in place of a mapping": lambda sandbox: b"- seed",
        "empty": lambda sandbox: b"",
        "zero bytes": lambda sandbox: bytes(1000),
        "no UTF-8": lambda sandbox: b"seed: \xff\xfe",
        "UTF-16": lambda sandbox: "seed: 1\nsede: 1".encode("utf-16"),
        "8 MiB of text": lambda sandbox: b"- a\n" * (2 << 20),
    }


def _input_case(name: str, make: _Make, statuses: tuple[int, ...]) -> Case:
    def prepare(sandbox: Sandbox, good: Good) -> list[str]:
        made = make(sandbox.inputs)
        inputs = [str(sandbox.inputs)] if made is None else [made] if isinstance(made, str) else made
        return predict(good.run, inputs, sandbox)

    return Case(_INPUT, name, prepare, frozenset(statuses))


def _settings_case(name: str, write: Callable[[Path, Sandbox], object]) -> Case:
    def prepare(sandbox: Sandbox, good: Good) -> list[str]:
        write(sandbox.inputs / "settings.yaml", sandbox)
        given = ["--config", str(sandbox.inputs / "settings.yaml"), "--out", str(sandbox.out)]
        return ["split", str(good.results / "manifest.parquet"), *given]

    # Click itself may refuse what is no file.
    return Case(_SETTINGS, name, prepare, frozenset({REFUSED, USAGE}))


def _made(make: Callable[[Path], object], path: Path) -> str:
    make(path)
    return str(path)


def _image(path: Path, data: bytes | None = None) -> str:
    path.write_bytes(encoded("PNG") if data is None else data)
    return str(path)


def _link(path: Path, target: str) -> str:
    path.symlink_to(target)
    return str(path)


def _chain(folder: Path) -> str:
    _image(folder / "0.png")
    for number in range(1, 41):
        _link(folder / f"{number}.png", f"{number - 1}.png")
    return str(folder / "40.png")


def _socket(folder: Path) -> str:
    # A socket's path may hold a hundred letters only; a relative one is short.
    before = Path.cwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("a.png")
    finally:
        os.chdir(before)
    return str(folder / "a.png")


def _sparse(path: Path, start: bytes = b"") -> str:
    """A file of 10 GiB that takes no room."""
    path.write_bytes(start)
    os.truncate(path, _TEN_GIB)
    return str(path)


def _deep(folder: Path) -> None:
    below = folder
    for _ in range(300):
        below = below / "d"
    below.mkdir(parents=True)
    _image(below / "a.png")
