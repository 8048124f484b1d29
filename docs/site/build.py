"""Build the documentation as a site that loads nothing from elsewhere and reads from a folder as well as from a server.

In: docs/, zensical.toml, and every file of the repository that a page links to. Out: FOLDER/site/index.html. Writes: the pages
with their links turned to where the files lie in the site (FOLDER/pages), FOLDER/zensical.toml, FOLDER/site. A warning is an
error.

    python docs/site/build.py build
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "zensical.toml"
DOCS, DECISIONS = Path("docs"), Path("docs/decisions")
# Files of the repository that are no pages of docs/ and yet stand in the navigation, and what they are called there.
PLACES = {Path("CHANGELOG.md"): Path("changes.md"), DECISIONS: Path("decisions/list.md")}
NOT_COPIED = shutil.ignore_patterns("*.md", "*.py", "__pycache__", ".*")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".sh": "sh", ".service": "ini"}

# The theme asks another server for a stand-in for workers, which browsers do not start from files; ours lies in the site.
FOREIGN_SCRIPT, OWN_SCRIPT = "https://unpkg.com/iframe-worker/shim", Path("site/frame-worker.js")

# How the theme links to the first page: by its folder, which only a server turns into a file.
HOME = re.compile(r'href="(?:\./)?\.\.?(?:/\.\.)*/?"')

LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^# +(.+)$", re.MULTILINE)


def place(path: Path) -> Path:
    """Where a file of the repository lies among the pages; both relative, and what is no page becomes one."""
    if path in PLACES:
        return PLACES[path]
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS)
    return Path("repository", path if path.suffix == ".md" else f"{path}.md")


def target_of(page: Path, link: str) -> Path | None:
    """The file of the repository that a link of a page leads to; None where it leads out of the repository."""
    if "://" in link or link.startswith("mailto:"):
        return None
    path = Path(os.path.normpath(page.parent / link))
    if not (ROOT / path).exists():
        raise SystemExit(f"{page}: {link} leads nowhere")
    return path / "README.md" if (ROOT / path).is_dir() and path not in PLACES else path


def with_links_turned(page: Path, text: str, found: Callable[[Path], None]) -> str:
    """Let the links of a page lead to where files lie among the pages, and tell of each file."""

    def turned(match: re.Match[str]) -> str:
        path = target_of(page, match[2])
        if path is None:
            return match[0]
        found(path)
        return match[1] + os.path.relpath(place(path), place(page).parent) + match[3]

    pieces = FENCE.split(text)  # what stands in a fence has odd places
    return "".join(piece if number % 2 else LINK.sub(turned, piece) for number, piece in enumerate(pieces))


def list_of_decisions() -> str:
    """The page of the folder of decisions."""
    lines = ["# Decisions", "", "Choices that a successor would question: what spoke for them, and what follows.", ""]
    for path in sorted((ROOT / DECISIONS).glob("[0-9]*.md")):
        title = HEADING.findall(path.read_text(encoding="utf-8"))[0]
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"


def text_of(path: Path, found: Callable[[Path], None]) -> str:
    """The page that is made of a file of the repository: Markdown as it is, code in a fence."""
    if path == DECISIONS:
        return list_of_decisions()
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix == ".md":
        return with_links_turned(path, text, found)
    head = f"---\nsearch:\n  exclude: true\n---\n\n# `{path.as_posix()}`\n\n"
    return f"{head}````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n````\n"


def stage(pages: Path) -> None:
    """Write the pages of docs/, and of all that they link to."""
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(ROOT / DOCS, pages, ignore=NOT_COPIED)
    waiting = [*PLACES, *(path.relative_to(ROOT) for path in sorted((ROOT / DOCS).rglob("*.md")))]
    done: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        if path.is_relative_to(DOCS) and path.suffix != ".md" and path not in PLACES:
            continue  # copied already: pictures, the notebook
        written = pages / place(path)
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(text_of(path, waiting.append), encoding="utf-8")


def make_independent(site: Path) -> None:
    """Let every page load our stand-in for workers in place of the one on another server, and name its first page as a file."""
    for path in site.rglob("*.html"):
        own, first = (Path(os.path.relpath(site / name, path.parent)).as_posix() for name in (OWN_SCRIPT, "index.html"))
        text = path.read_text(encoding="utf-8").replace(FOREIGN_SCRIPT, own)
        path.write_text(HOME.sub(f'href="{first}"', text), encoding="utf-8")


def build(folder: Path) -> Path:
    """Stage the pages and build the site; returns its first page."""
    folder.mkdir(parents=True, exist_ok=True)
    stage(folder / "pages")
    shutil.copyfile(ROOT / CONFIG, folder / CONFIG)
    shutil.rmtree(folder / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(folder / CONFIG)]
    environment = {**os.environ, "NO_COLOR": "1"}
    finished = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)  # noqa: S603 - this Python
    if finished.returncode != 0:
        shutil.rmtree(folder / "site", ignore_errors=True)
        raise SystemExit(f"{finished.stdout}{finished.stderr}\nThe documentation has warnings; nothing is published of it.")
    make_independent(folder / "site")
    return folder / "site" / "index.html"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python docs/site/build.py FOLDER")
    print(f"written: {build(Path(sys.argv[1]))}")
