"""The wheel and the source archive: what is in them, and that they run from another folder than the sources."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import leukolens

ROOT = Path(__file__).parents[1]
SOURCES = ("src", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "constraints.txt")
PACKAGE = ROOT / "src" / "leukolens"
DOCKERFILE = ROOT / "Dockerfile"
USERS_EXTRAS = {"serve", "export", "explain", "ray", "fetch", "litert", "all"}


@dataclass(frozen=True)
class Built:
    """Where the archives are, the folder of a virtual environment with the wheel in it, and an empty folder to work in."""

    wheel: Path
    sdist: Path
    environment: Path
    work: Path

    def run(self, *arguments: str, **environment: str) -> str:
        """Standard output of a program of the environment, started in the empty folder."""
        program = self.environment / "bin" / arguments[0]
        # Neither the sources nor the tests are to be found by another way than through the wheel.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        found = subprocess.run([program, *arguments[1:]], cwd=self.work, env={**clean, **environment}, check=True,
                               capture_output=True, text=True, timeout=120)  # fmt: skip
        return found.stdout


def build(folder: Path, out: Path) -> None:
    """Wheel and source archive as `make dist` builds them: the wheel out of the archive, with the tools that are installed."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir", str(out), str(folder)]
    subprocess.run(command, cwd=out.parent, check=True, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built from a copy: a folder build/ among the sources would bring back files that are long deleted."""
    folder = tmp_path_factory.mktemp("packaging")
    no_leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "sources" / name, ignore=no_leftovers)
        else:
            shutil.copy(ROOT / name, folder / "sources" / name)
    (folder / "sources" / "tests").mkdir()
    (folder / "sources" / "tests" / "test_nothing.py").write_text("")
    build(folder / "sources", folder / "dist")
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    # What leukolens needs comes from the environment of the tests; the wheel's own folder is looked at first.
    site = next((environment / "lib").glob("python*")) / "site-packages"
    (site / "needed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (folder / "work").mkdir()
    return Built(wheel, sdist, environment, folder / "work")


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def files_of_package() -> set[str]:
    """Every file of the package that a user needs: all that lies in its folder."""
    files = (path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts and path.name != ".DS_Store"}


def test_wheel_holds_the_whole_package_and_nothing_else(built: Built) -> None:
    of_package = {name for name in names_in(built.wheel) if name.startswith("leukolens/")}
    assert of_package == files_of_package()
    for needed in ("py.typed", "reporting/templates/report.html.j2", "serving/page/index.html"):
        assert f"leukolens/{needed}" in of_package
    information = names_in(built.wheel) - of_package
    assert {name.split("/")[0] for name in information} == {f"leukolens-{leukolens.__version__}.dist-info"}
    assert f"leukolens-{leukolens.__version__}.dist-info/licenses/LICENSE" in information


def test_source_archive_builds_that_wheel_and_has_no_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name and archive.getmember(name).isfile()}
    assert {name for name in names if name.startswith("src/leukolens/")} == {f"src/{name}" for name in files_of_package()}
    others = {name for name in names if not name.startswith("src/")}
    assert others == {*SOURCES[1:], "PKG-INFO", "setup.cfg"}


def test_metadata_says_what_is_true(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        text = archive.read(f"leukolens-{leukolens.__version__}.dist-info/METADATA").decode()
    found = Parser().parsestr(text)
    assert (found["Name"], found["Version"], found["License-Expression"]) == ("leukolens", leukolens.__version__, "Apache-2.0")
    assert found["Description-Content-Type"] == "text/markdown"
    assert "Research software, not a medical device" in found["Summary"]
    # Nothing has a public address yet.
    assert found.get_all("Project-URL") is None
    assert found["Home-page"] is None
    assert set(found.get_all("Provides-Extra") or []) >= USERS_EXTRAS


def test_installed_wheel_runs_from_another_folder(built: Built) -> None:
    assert built.run("leukolens", "--version") == f"{leukolens.__version__}\n"
    built.run("leukolens", "phantom", "cells", "--cells", "40", "--subjects", "12")
    built.run("leukolens", "index", "cells", "--out", "results")
    assert "written: results/splits.parquet" in built.run("leukolens", "split", "results")


def test_files_beside_the_code_are_found_in_the_installed_package(built: Built) -> None:
    code = """
import importlib.resources, leukolens
folder = importlib.resources.files("leukolens")
print(folder)
for name in ("reporting/templates", "serving/page"):
    print(sorted(each.name for each in folder.joinpath(name).iterdir()))
"""
    place, templates, page = built.run("python", "-c", code).splitlines()
    assert place.startswith(str(built.environment))
    assert "'report.html.j2'" in templates
    assert "'index.html'" in page


def test_installed_command_completes_words_in_bash(built: Built) -> None:
    words = {"_LEUKOLENS_COMPLETE": "complete_bash", "COMP_WORDS": "leukolens pha", "COMP_CWORD": "1"}
    assert built.run("leukolens", **words).split() == ["phantom"]


# What pyproject.toml and constraints.txt promise


def project() -> dict[str, object]:
    read: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return read


def test_one_version_is_told_everywhere() -> None:
    assert project()["version"] == leukolens.__version__


def test_every_requirement_has_a_tested_version() -> None:
    extras: dict[str, list[str]] = project()["optional-dependencies"]  # type: ignore[assignment]
    asked = [*project()["dependencies"], *(each for name, some in extras.items() if name != "litert" for each in some)]  # type: ignore[misc]
    requirements = [each for each in map(Requirement, asked) if each.name != "leukolens"]
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    tested = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    for each in requirements:
        name = re.sub(r"[-_.]+", "-", each.name).lower()
        assert name in tested, f"{each.name} is not in constraints.txt"
        assert each.specifier.contains(tested[name], prereleases=True), f"{each} is not {tested[name]}"


def test_all_takes_in_what_users_can_have_together() -> None:
    extras: dict[str, list[str]] = project()["optional-dependencies"]  # type: ignore[assignment]
    (only,) = map(Requirement, extras["all"])
    assert only.extras == USERS_EXTRAS - {"all", "litert"}


# The Dockerfile, which is not built here


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments) of the Dockerfile, lines that go on joined."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def ignored_by_docker(path: str) -> bool:
    """Whether .dockerignore keeps a file at the root of the repository, or a folder there, out of the image."""
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert lines[0] == "*", "everything is kept out but what is named"
    return f"!{path}" not in lines


def test_dockerfile_copies_files_that_exist_and_are_not_ignored() -> None:
    copied = [shlex.split(rest)[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    names = {name.removeprefix("./") for names in copied for name in names}
    assert names >= {"src", "pyproject.toml", "constraints.txt", "LICENSE", "README.md"}
    assert [name for name in names if not (ROOT / name).exists() or ignored_by_docker(name)] == []
    assert all(ignored_by_docker(name) for name in ("tests", ".git", "experiments", "docs"))


def test_dockerfile_copies_all_that_the_wheel_is_built_of() -> None:
    copied = " ".join(rest for word, rest in instructions() if word == "COPY")
    assert [name for name in SOURCES if name not in copied] == []


def test_image_runs_as_nobody_serves_and_is_asked_whether_it_is_ready() -> None:
    last = dict(instructions())
    assert int(last["USER"].partition(":")[0]) > 0
    assert "/health/ready" in last["HEALTHCHECK"]
    entry = [*re.findall(r'"([^"]+)"', last["ENTRYPOINT"])]
    assert entry[:2] == ["leukolens", "serve"]
    assert last["EXPOSE"] == entry[entry.index("--port") + 1]
    assert f":{last['EXPOSE']}/" in last["HEALTHCHECK"]


def test_dockerfile_holds_no_secret_and_pins_what_it_installs() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert not re.search(r"(?i)(token|password|secret|key)\s*=", text)
    installs = re.findall(r"pip install [^;&]*", re.sub(r"\\\n", " ", text))
    assert installs
    assert all("--constraint constraints.txt" in each for each in installs)
