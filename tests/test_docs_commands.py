"""Every command and every piece of Python in the documentation runs, word for word, or stands in a list that says why not."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import socket
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from _pytest.mark import ParameterSet

from cohort import build_cohort, draw_cell, write_image
from docs_pages import DOCUMENTS, ROOT, complaints, fences, name_of
from docs_sandbox import Sandbox, page_script, sandbox

NOT_RUN = ROOT / "tests" / "docs_not_run.yaml"
SHELLS, SECONDS_OF_A_PAGE = ("sh", "bash"), 120
# Where the commands of a page begin: in an empty folder, beside data, or, as all others, where models lie too, by their names.
EMPTY = {("docs/start.md", "sh"), ("README.md", "python"), ("docs/api.md", "python")}
DATA_ONLY = {("README.md", "sh"), ("docs/c-nmc-2019.md", "sh"), ("docs/how-to/compare.md", "sh")}
# What of the laboratory is not there yet where a page begins to make it.
WITHOUT = {("docs/export.md", "sh"): "bundle", ("docs/how-to/train.md", "sh"): "resnet50"}
PYTHON_NOT_RUN = {"docs/scaling.md": "reads what a Ray cluster wrote; tests/prediction/test_ray_scoring.py does so"}
# All that is ever run here. Whatever else a page says, or says of a place outside the folder, has to stand in the list.
HARMLESS = {"leukolens", "curl", "cp", "mkdir", "cat", "head", "ls", "python3"}
ELSEWHERE = re.compile(r"(?<![\w.:/])(?:/(?!dev/null)\w|~|\.\./)|0\.0\.0\.0|\$\(")
# Programs of the list whose arguments only their own machine could check.
FOREIGN_PROGRAMS = {"docker", "systemctl", "journalctl", "curl", "useradd", "umask", "mkdir", "cp", "ln", "mv",
                    "chgrp", "chmod", "jq", ".", "cd"}  # fmt: skip

COMMENT = re.compile(r"(?:^|\s+)#.*$")
SETTING = re.compile(r"\w+=\S*")


# What the pages say


def in_words(command: str) -> str:
    """One line without comments: how a command is named in the list of those that do not run."""
    lines = [COMMENT.sub("", line) for line in command.replace("\\\n", " ").splitlines()]
    return " ".join(" ".join(lines).split())


def commands_of(block: str) -> Iterator[str]:
    """The commands of a block: lines joined until bash calls them whole."""
    waiting = ""
    for line in block.splitlines():
        waiting += line + "\n"
        if not in_words(waiting):
            waiting = ""
        elif not line.endswith("\\") and _is_whole(waiting):
            yield waiting.strip()
            waiting = ""
    assert not waiting, f"bash cannot read {waiting!r}"


def _is_whole(text: str) -> bool:
    read = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    return read.returncode == 0 and not read.stderr  # an open here-document is only a warning


def commands_of_page(page: Path) -> list[str]:
    return [command for block in fences(page.read_text(encoding="utf-8"), *SHELLS) for command in commands_of(block)]


def not_run() -> dict[str, str]:
    """Command to reason."""
    listed = yaml.safe_load(NOT_RUN.read_text(encoding="utf-8"))
    return {" ".join(command.split()): reason for reason, commands in listed.items() for command in commands}


def pages_with(*languages: str) -> list[Path]:
    return [page for page in DOCUMENTS if fences(page.read_text(encoding="utf-8"), *languages)]


def simple_commands(command: str) -> Iterator[list[str]]:
    """Words of each simple command of a line, without what is set before it; quoted words stay quoted."""
    lexer = shlex.shlex(in_words(command), posix=False, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("();&|"):
            words += [word] if words or not SETTING.fullmatch(word) else []
        elif words:
            yield words
            words = []


def is_harmless(command: str) -> bool:
    """Whether a command may run: its programs are known, and it names no place outside the folder that it runs in."""
    return {words[0] for words in simple_commands(command)} <= HARMLESS and not ELSEWHERE.search(in_words(command))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("leukolens predict run 'more/**/*.bmp' > scores.txt", True),
        ("X=1 leukolens serve run", True),
        ("curl --form file=@cell.png --output map.png http://127.0.0.1:8341/v1/explain", True),
        ("leukolens predict /var/lib/run cell.png", False),
        ("rm -r results", False),
        ("cat a | systemctl restart leukolens", False),
        ("cp a ~/b", False),
        ("cp a ../b", False),
        ("leukolens serve run --host 0.0.0.0", False),
        ("cat $(rm -r results)", False),
    ],
)
def test_only_harmless_commands_run(command: str, expected: bool) -> None:
    assert is_harmless(command) is expected


# Where they run


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(tmp_path_factory.mktemp("programs")) as made:
        yield made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cells, loose images and tables by the names that the pages use. Read only."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(ROOT / "configs", folder / "configs")
    build_cohort(folder / "C-NMC_Leukemia", cells_per_subject=3)
    _add_preliminary_cells(folder / "C-NMC_Leukemia" / "validation_data")
    build_cohort(folder / "other", subjects_per_class=1, cells_per_subject=3, first_seed=5_000)
    for number, name in enumerate(("Benign", "Early", "Pre", "Pro")):
        for cell in range(9):
            write_image(folder / "smears" / name / f"{cell}.png", draw_cell(1_000 + 9 * number + cell, 8 + number))
    for cell, path in enumerate(LOOSE):
        write_image(folder / path, draw_cell(2_000 + cell))
    for name in ("cells.zip", "more.zip"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.write(folder / "cell.png", "a.png")
    (folder / "other_tool.csv").write_text(SCORES, encoding="utf-8")
    (folder / "sides.csv").write_text(_sides(folder / "C-NMC_Leukemia"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def laboratory(data: Path, small: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with results, runs and a bundle. Read only."""
    folder = tmp_path_factory.mktemp("laboratory")
    shutil.copytree(data, folder, dirs_exist_ok=True)
    made = small.bash(folder, page_script(MAKING_A_LABORATORY, _free_port()), SECONDS_OF_A_PAGE)
    assert made.returncode == 0, made.stdout
    return folder


LOOSE = ("cell.png", "cell.bmp", "cells/1.png", "cells/2.png", "slides/1.bmp", "more/1.bmp", "more/deep/1.bmp")
SCORES = "image,subject,y_true,y_score\n" + "".join(
    f"{number}.png,{'' if number % 2 else 'H'}{number // 4},{'ALL' if number % 2 else 'HEM'},{0.1 + 0.8 * (number % 7) / 7}\n"
    for number in range(48)
)
MAKING_A_LABORATORY = [
    "leukolens index C-NMC_Leukemia --out results",
    "leukolens split results",
    "leukolens split results --out results/subject",
    "leukolens train results --head-only --out results/run",
    "cp -r results/run results/subject/resnet50",
    "cp -r results/run results/resnet50",
    "leukolens predict results/subject/resnet50 results --splits results/subject",
    "leukolens evaluate results/subject/resnet50",
    "leukolens report results",
    "leukolens index other --out new",
    "leukolens export results/run --manifest results --format onnx --format openvino --out bundle",
]


def _add_preliminary_cells(folder: Path) -> None:
    rows = ["Patient_ID,new_names,labels"]
    for number in range(1, 7):
        subject, label = (f"{50 + number}", "all") if number % 2 else (f"H{50 + number}", "hem")
        write_image(folder / "C-NMC_test_prelim_phase_data" / f"{number}.bmp", draw_cell(3_000 + number, 10 + 4 * (number % 2)))
        rows.append(f"UID_{subject}_1_1_{label}.bmp,{number}.bmp,{int(label == 'all')}")
    (folder / "C-NMC_test_prelim_phase_data_labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _sides(cells: Path) -> str:
    """A split file of two subjects of each class on every side."""
    rows = ["image,side"]
    for path in sorted((cells / "training_data").rglob("*.bmp")):
        subject = int(path.name.split("_")[1].removeprefix("H"))
        rows.append(f"{path.relative_to(cells).as_posix()},{('train', 'validation', 'test')[subject % 3]}")
    return "\n".join(rows) + "\n"


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where the commands of a page in a language begin."""
    chosen = request.node.callspec.params
    key = (name_of(chosen["page"]), chosen["language"])
    if key not in EMPTY:
        source = request.getfixturevalue("data" if key in DATA_ONLY else "laboratory")
        absent = shutil.ignore_patterns(WITHOUT[key]) if key in WITHOUT else None
        shutil.copytree(source, tmp_path, dirs_exist_ok=True, ignore=absent)
    return tmp_path


def as_slow(page: Path) -> ParameterSet:
    """Pages that train and compare from the beginning take longest."""
    is_long = (name_of(page), "sh") in EMPTY | DATA_ONLY
    return pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] if is_long else [])


@pytest.mark.parametrize("language", ["sh"])
@pytest.mark.parametrize("page", [as_slow(page) for page in pages_with(*SHELLS)])
def test_commands_of_a_page_run(page: Path, language: str, folder: Path, small: Sandbox) -> None:
    listed = not_run()
    wanted = [command for command in commands_of_page(page) if in_words(command) not in listed]
    assert [command for command in wanted if not is_harmless(command)] == []
    done = small.bash(folder, page_script(wanted, _free_port()), SECONDS_OF_A_PAGE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("language", ["python"])
@pytest.mark.parametrize("page", [page for page in pages_with("python") if name_of(page) not in PYTHON_NOT_RUN], ids=name_of)
def test_python_of_a_page_runs(page: Path, language: str, folder: Path, small: Sandbox) -> None:
    (folder / "page.py").write_text("\n".join(fences(page.read_text(encoding="utf-8"), language)), encoding="utf-8")
    done = small.bash(folder, "small-python page.py", SECONDS_OF_A_PAGE)
    assert done.returncode == 0, done.stdout


# Nothing hides in the list


def test_every_entry_of_the_list_stands_on_a_page() -> None:
    said = {in_words(command) for page in pages_with(*SHELLS) for command in commands_of_page(page)}
    assert [command for command in not_run() if command not in said] == []


@pytest.mark.parametrize("command", not_run())
def test_entries_of_the_list_could_run(command: str) -> None:
    assert [complaint for words in simple_commands(command) for complaint in complaints_of_any(words)] == []


@pytest.mark.parametrize("name", PYTHON_NOT_RUN)
def test_python_that_is_not_run_names_what_exists(name: str) -> None:
    blocks = fences((ROOT / name).read_text(encoding="utf-8"), "python")
    for node in ast.walk(ast.parse("\n".join(blocks))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("leukolens compare X --outt Y", ["compare has no --outt"]),
        ("torchrun --standalone -m leukolens traim X", ["no verb traim"]),
        ("make coffee", ["no target coffee"]),
        ("pip install 'leukolens[coffee]'", ["no extra coffee"]),
        ("python benchmarks/coffee.py", ["no file benchmarks/coffee.py"]),
        ("python benchmarks/scale.py --coffee", ["benchmarks/scale.py has no --coffee"]),
        ("coffee --black", ["nobody can check coffee"]),
    ],
)
def test_wrong_entries_are_found(command: str, expected: list[str]) -> None:
    assert complaints_of_any(command.split()) == expected


def complaints_of_any(words: list[str]) -> list[str]:
    """What is wrong with a command that is not run, as far as that can be seen."""
    program = words[0].rsplit("/", 1)[-1]
    if program == "leukolens" or "-m leukolens" in " ".join(words):
        return complaints(words[words.index("leukolens") + 1 if "leukolens" in words else 1 :])
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return [f"no target {word}" for word in words[1:] if word not in targets]
    if program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        named = re.findall(r"leukolens\[([\w,]+)\]", " ".join(words))
        return [f"no extra {extra}" for names in named for extra in names.split(",") if extra not in extras]
    if program in ("python", "python3", "bash"):
        return _complaints_of_script(words[1:])
    return [] if program in FOREIGN_PROGRAMS else [f"nobody can check {program}"]


def _complaints_of_script(words: list[str]) -> list[str]:
    if words[0] in ("-m", "-c"):
        return []  # Python's own, not ours
    script = ROOT / words[0]
    if not script.is_file():
        return [f"no file {words[0]}"]
    text = script.read_text(encoding="utf-8")
    return [f"{words[0]} has no {word}" for word in words[1:] if word.startswith("--") and f'"{word}"' not in text]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("a  # why\n\nb \\\n  --c\n", ["a", "b --c"]),
        ("# only words\nfor x in 1 2; do\n  echo $x\ndone\n", ["for x in 1 2; do echo $x done"]),
        ("cat <<END\none\nEND\nls\n", ["cat <<END one END", "ls"]),
    ],
)
def test_blocks_fall_into_commands(block: str, expected: list[str]) -> None:
    assert [in_words(command) for command in commands_of(block)] == expected


def test_a_failing_command_is_named(small: Sandbox, tmp_path: Path) -> None:
    done = small.bash(tmp_path, page_script(["echo before", "leukolens index nowhere", "echo after"], _free_port()), 60)
    assert done.returncode == 1
    assert "FAILED with status 1: leukolens index nowhere" in done.stdout
    assert "before" in done.stdout
    assert "after" not in done.stdout
