"""Debian's Chromium and a server for tests of the page: `leukolens serve` in a process of its own, seen through Playwright."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohort import draw_cell, write_image

SCRIPT_NAME = "<img src=x onerror=window.hacked=1>.bmp"
NAMES = (SCRIPT_NAME, "=1+1.bmp", 'a "quoted" name.bmp', "two\nlines.bmp", "\u202eright.bmp", "back\\slash.bmp", "'own.bmp")
SECONDS_TO_START, SECONDS_TO_WAIT = 120, 60
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
_REPORTS_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""


def chromium_path() -> str:
    """Where Chromium lies; skips the test without one, but fails in CI, where nobody would notice."""
    if found := shutil.which("chromium"):
        return found
    reason = "there is no Chromium: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running Chromium; to be left before other tests run, for its event loop stands in theirs."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    path = chromium_path()
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(folder: Path, *arguments: object) -> Iterator[str]:
    """Start `leukolens serve` with arguments on a free port and give its address; its output goes to `folder`."""
    output = folder / "serve.log"
    command = [sys.executable, "-m", "leukolens", "serve", *map(str, arguments), "--port", "0"]
    with output.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            yield _address(process, output)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: subprocess.Popen[bytes], output: Path) -> str:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        if found := _ADDRESS.search(output.read_text("utf-8")):
            return found[0]
        time.sleep(0.1)
    pytest.fail(f"the server did not start:\n{output.read_text('utf-8')}")


def hostile_and_other_cells(folder: Path, cells: list[Path]) -> tuple[str, ...]:
    """Fill a folder with files to send: cells that were learned from and others, noise, an archive, hostile names and contents.

    Returns their names, sorted. Three have no score: `empty.png`, `page.bmp` and the member `../out.png` of `pack.zip`.
    """
    for number, path in enumerate(cells):
        (folder / f"seen {number}.bmp").write_bytes(path.read_bytes())
    for number in range(12):
        write_image(folder / f"cell {number}.png", draw_cell(900 + number, 10 + number % 5))
    write_image(folder / "noise.png", np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8))
    write_image(folder / "cell.tiff", draw_cell(950, 12))
    for name in NAMES:
        write_image(folder / "x.bmp", draw_cell(len(name), 13)).rename(folder / name)
    (folder / "page.bmp").write_text("<script>window.hacked = 1</script>")
    (folder / "empty.png").write_bytes(b"")
    with zipfile.ZipFile(folder / "pack.zip", "w") as archive:
        for number in range(3):
            archive.write(folder / f"cell {number}.png", f"packed/{number}.png")
        archive.writestr("../out.png", b"no image")
    return tuple(sorted(path.name for path in folder.iterdir()))


@dataclass(frozen=True)
class Sent:
    """Files in a folder, their names in the order in which they are sent, and the table that `predict` makes of them."""

    folder: Path
    names: tuple[str, ...]
    table: bytes

    @property
    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.names]

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.table.decode())))

    def of(self, standing: str) -> list[dict[str, str]]:
        """Rows that are answered, refused or failed."""
        kinds = {"answered": ("scored", False), "refused": ("scored", True), "failed": ("failed", False)}
        return [row for row in self.rows if (row["status"], bool(row["refusal"])) == kinds[standing]]


@dataclass
class Visit:
    """One tab on the page, and all that must not happen in it."""

    page: Any
    address: str
    problems: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def send(self, *files: Any, results: int | None = None) -> None:
        """Choose files and wait until all are scored; `results` where there are more of them than files."""
        self.page.set_input_files("#choose-files", list(files))
        self.wait_for(results or len(files))

    def wait_for(self, results: int) -> None:
        """Wait until so many results stand on the page and nothing is on its way."""
        self.until(
            "n => document.querySelector('#cancel').hidden && document.querySelectorAll('.card, #failed tr').length === n",
            results,
        )

    def until(self, expression: str, argument: Any = None) -> None:
        """Wait until an expression is true. Playwright's own waiting evaluates text, which the page's policy forbids."""
        until = time.monotonic() + SECONDS_TO_WAIT
        while not self.page.evaluate(expression, argument):
            assert time.monotonic() < until, f"{expression} stays false: {self.texts('#uploads')} {self.problems}"
            self.page.wait_for_timeout(50)

    def texts(self, selector: str) -> list[str]:
        """Text of all elements that a selector finds."""
        found: list[str] = self.page.locator(selector).all_text_contents()
        return found

    def text(self, selector: str) -> str:
        """Text of the one element that it finds."""
        return " ".join(self.page.locator(selector).inner_text().split())

    def download(self) -> tuple[str, bytes]:
        """Name and content of the CSV that the page gives."""
        with self.page.expect_download() as waiting:
            self.page.click("#csv")
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


@contextmanager
def visit(browser: Any, address: str, prepare: Callable[[Any], None] | None = None, **context: Any) -> Iterator[Visit]:
    """Open the page in a tab of its own; fails where the console had an error or a foreign address was asked.

    Args:
        browser: from `chromium`.
        address: from `served`, or of another page of it.
        prepare: given the tab before anything is loaded.
        context: options of the browser's context, the size of the screen say.
    """
    tab = browser.new_context(**context)
    try:
        page = tab.new_page()
        page.set_default_timeout(30_000)
        seen = Visit(page, address)
        page.on("console", lambda message: message.type == "error" and seen.problems.append(message.text))
        page.on("pageerror", lambda error: seen.problems.append(str(error)))
        origin = "/".join(address.split("/")[:3])
        page.on("request", lambda request: seen.foreign.append(request.url) if _is_foreign(request.url, origin) else None)
        page.add_init_script(_REPORTS_VIOLATIONS)
        if prepare:
            prepare(page)
        page.goto(address)
        yield seen
        assert seen.problems == []
        assert seen.foreign == []
    finally:
        tab.close()


def _is_foreign(url: str, origin: str) -> bool:
    return not url.startswith((origin + "/", "data:", f"blob:{origin}/"))
