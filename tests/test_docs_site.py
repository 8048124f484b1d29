"""The site that is built of the documentation: no warning, no dead link, nothing from elsewhere, every page to be found."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer

import leukolens
from browser import chromium
from docs_pages import ROOT, fences
from leukolens.cli import app

DOCS = ROOT / "docs"
# Loaded by the theme's script only on pages that have such a thing; no page has.
LOADED_ON_DEMAND = {"mermaid": "mermaid", "glightbox": "glightbox", "ace-builds": "code-editor", "pyodide": "pyodide"}
# Attributes that make a browser fetch something by itself; links that a reader may follow are not among them.
FETCHED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}
# Settings that are part of others, or of a verb that has no function.
FURTHER_SETTINGS = {"InputSettings", "AugmentationSettings", "ServeSettings", "ServeLimits"}


def load_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site_build", DOCS / "site" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    return load_builder()


@pytest.fixture(scope="module")
def site(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builder.build(tmp_path_factory.mktemp("docs")).parent  # fails on any warning


@dataclass
class Page(HTMLParser):
    """What a page fetches, where its links lead, which anchors it has."""

    path: Path
    fetched: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if (tag, name) in FETCHED and value:
                self.fetched.append(value)
            elif (tag, name) == ("a", "href") and value:
                self.links.append(value)
            elif name == "id" and value:
                self.anchors.add(value)
            elif name == "class" and value:
                self.classes.update(value.split())


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def test_every_page_of_the_docs_is_in_the_site(pages: dict[Path, Page], site: Path) -> None:
    written = {path.relative_to(site).with_suffix("").as_posix() for path in pages}
    expected = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert (expected | {"changes", "decisions/list"}) - written == set()


def test_links_and_anchors_lead_somewhere(pages: dict[Path, Page]) -> None:
    dead = []
    for path, page in pages.items():
        for link in {*page.links, *page.fetched}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages.get(target)
            if not target.is_file() or (parts.fragment and known and unquote(parts.fragment) not in known.anchors):
                dead.append(f"{path.name}: {link}")
    assert dead == []


def test_nothing_is_fetched_from_elsewhere(pages: dict[Path, Page], site: Path) -> None:
    foreign = {url for page in pages.values() for url in page.fetched if urlsplit(url).netloc}
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    foreign |= set(re.findall(r"(?:url\(|@import\s*)[\"']?((?:https?:)?//[^\"')]+)", styles))
    assert foreign == set()


def test_what_the_scripts_could_fetch_no_page_asks_for(pages: dict[Path, Page], site: Path) -> None:
    scripts = "".join(path.read_text(encoding="utf-8") for path in (site / "assets").rglob("*.js"))
    classes = {name for page in pages.values() for name in page.classes}
    for host_path in re.findall(r"https://(?:unpkg\.com|cdn\.jsdelivr\.net)/([\w-]+)", scripts):
        if host_path != "resize-observer-polyfill":  # for browsers of before 2020 only
            assert LOADED_ON_DEMAND[host_path] not in classes


@pytest.mark.parametrize(
    ("added", "complaints"),
    [
        ("[dead](nowhere.md) and [dead](start.md#nowhere)", ["page does not exist", "anchor does not exist"]),
        ("::: leukolens.nothing", ["leukolens.nothing"]),
    ],
)
def test_a_warning_is_an_error(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, added: str, complaints: list[str]
) -> None:
    stage = builder.stage

    def with_a_mistake(pages: Path) -> None:
        stage(pages)
        with (pages / "faq.md").open("a", encoding="utf-8") as page:
            page.write(f"\n{added}\n")

    monkeypatch.setattr(builder, "stage", with_a_mistake)
    with pytest.raises(SystemExit, match="The documentation has warnings; nothing is published of it") as stopped:
        builder.build(tmp_path)
    assert [complaint for complaint in complaints if complaint not in str(stopped.value)] == []
    assert not (tmp_path / "site" / "index.html").exists()


def test_a_link_to_no_file_is_an_error(builder: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"docs/a\.md: \.\./nowhere\.py leads nowhere"):
        builder.with_links_turned(Path("docs/a.md"), "See [it](../nowhere.py).", lambda _: None)


def test_links_are_turned_to_where_files_lie_in_the_site(builder: ModuleType) -> None:
    text = "[a](faq.md#x) [b](../Makefile) [c](decisions/) [d](https://example.org)\n\n```sh\n[e](../Makefile)\n```\n"
    found: list[Path] = []
    turned = builder.with_links_turned(Path("docs/index.md"), text, found.append)
    assert turned == (
        "[a](faq.md#x) [b](repository/Makefile.md) [c](decisions/list.md) [d](https://example.org)\n\n"
        "```sh\n[e](../Makefile)\n```\n"
    )
    assert found == [Path("docs/faq.md"), Path("Makefile"), Path("docs/decisions")]


def navigated(entries: list[object]) -> Iterator[str]:
    for entry in entries:
        values = entry.values() if isinstance(entry, dict) else [entry]
        for value in values:
            if isinstance(value, list):
                yield from navigated(value)
            else:
                yield str(value)


def test_every_page_is_in_the_navigation_once() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    listed = sorted(navigated(config["nav"]))
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if path.parent.name != "decisions"}
    assert listed == sorted(written | {"changes.md", "decisions/list.md"})


VERBS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_page_with_a_command_what_it_writes_and_errors(verb: str) -> None:
    page = DOCS / "how-to" / ("index-verb.md" if verb == "index" else f"{verb}.md")
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {verb}: ")
    assert re.search(rf"^leukolens {verb}\b", "\n".join(fences(text, "sh")), re.MULTILINE)
    assert "**It writes**" in text
    assert re.search(r"^\| (?:error|message) \| do this \|$", text, re.MULTILINE)


def test_how_to_lists_every_verb() -> None:
    text = (DOCS / "how-to" / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\| \[(\w+)\]\([\w-]+\.md\) \|$", text, re.MULTILINE)) == VERBS


def test_python_page_lists_what_is_exported() -> None:
    listed = re.findall(r"^::: [\w.]+\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(set(listed) - FURTHER_SETTINGS) == sorted(set(leukolens.__all__) - FURTHER_SETTINGS)
    assert len(listed) == len(set(listed))


def answers(page: Any, address: str) -> bool:
    """Whether the search of a page, opened by its key, says how many results it has within 15 seconds."""
    page.goto(address)
    page.keyboard.press("Control+k")
    page.keyboard.type("abstain")
    found = page.get_by_text(re.compile(r"^\s*\d+ results\s*$"))
    for _ in range(150):
        if found.is_visible():
            return True
        page.wait_for_timeout(100)
    return False


def test_site_reads_from_a_folder_without_a_network(site: Path) -> None:
    """At a telephone's width, in the dark: nothing is asked of a network or wider than the screen, and the search answers."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 375, "height": 800}, color_scheme="dark")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "how-to/split.html", "results.html", "api.html"):
            # On a busy machine the key may be pressed before the page's script hears it.
            assert any(answers(page, f"file://{site / name}") for _ in range(4)), name
            assert page.evaluate("document.documentElement.scrollWidth") <= 375, name
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
