"""Inputs made to harm, on the command line and on a server; the whole corpus is tried by benchmarks/hostile.py.

A sample of every kind runs in sandboxes here, and so do inputs that are not hostile but made to be found at fault: what never
finds anything would find nothing hostile either.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from leukolens.prediction.predict import predict
from leukolens.serving.bundle import Bundle
from leukolens.settings import PredictSettings
from leukolens.training.runs import Run
from service_client import Running, running

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Tries = dict[str, list[dict[str, Any]]]

SAMPLE = 20
UPLOADS = 60
SEED = 7

# A process of its own: it forks one for each try, which a process with threads cannot.
TRY = """
import sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import hostile
from hostile_corpus.case import Case, Sandbox, predict
from hostile_corpus.corpus import corpus
from hostile_corpus.pictures import encoded
from hostile_corpus.trying import Limits, try_command
from hostile_corpus.wellformed import good_in

work, sample, seed = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
kinds = {}
for case in corpus(seed, 3):
    # Not those that take seconds each: decoding 25 megapixels, 100,000 members.
    if case.kind not in ("decompression bomb", "zip: bomb"):
        kinds.setdefault(case.kind, []).append(case)
share = max(1, sample // len(kinds))
chosen = [cases[number * len(cases) // share] for cases in kinds.values() for number in range(share)]

def elsewhere(sandbox, good):
    return [*inside(sandbox, good)[:3], "--out", str(sandbox.home / "scores.csv"), "--device", "cpu"]

def inside(sandbox, good):
    (sandbox.inputs / "a.png").write_bytes(encoded("PNG"))
    return predict(good.run, [str(sandbox.inputs / "a.png")], sandbox)

hostile.import_what_commands_need()
sandbox, good = Sandbox(work / "sandbox"), good_in(work / "good")
found = [try_command(case, sandbox, good, Limits()) for case in chosen]
found.append(try_command(Case("made up", "writes elsewhere", elsewhere, frozenset({0})), sandbox, good, Limits()))
found.append(try_command(Case("made up", "wrong status", inside, frozenset({1})), sandbox, good, Limits()))
found.append(try_command(Case("made up", "memory", inside, frozenset({0})), sandbox, good, Limits(memory_bytes=1)))
print(json.dumps([vars(each) for each in found]))
"""


@pytest.fixture
def case_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield lambda name: importlib.import_module(f"hostile_corpus.{name}")


@pytest.fixture(scope="module")
def tried(head_run: Run, cohort: Any, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Tries:
    """How every try went, by kind."""
    work = tmp_path_factory.mktemp("hostile")
    for source, name in ((head_run.folder, "run"), (bundle.folder, "bundle"), (cohort.results, "results")):
        shutil.copytree(source, work / "good" / name)
    results = work / "good" / "results"
    predict(work / "good" / "run", results, cohort.splits, work / "scored", results / "cache", PredictSettings(device="cpu"))
    command = [sys.executable, "-c", TRY, str(BENCHMARKS), str(work), str(SAMPLE), str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for each in json.loads(done.stdout.splitlines()[-1]):
        kinds.setdefault(each["kind"], []).append(each)
    return kinds


def test_of_every_kind_some_were_tried(tried: Tries) -> None:
    assert len(tried) == 19  # with those that are made up
    assert sum(len(each) for each in tried.values()) >= 21


def test_none_crashes_hangs_writes_elsewhere_or_runs_code(tried: Tries) -> None:
    hostile = [each for kind, found in tried.items() if kind != "made up" for each in found]
    faults = [(each["kind"], each["name"], each["faults"]) for each in hostile]
    assert [fault for fault in faults if fault[2]] == []


def test_what_is_at_fault_is_found(tried: Tries) -> None:
    found = {each["name"]: each["faults"] for each in tried["made up"]}
    assert set(found["writes elsewhere"]) == {"write outside"}
    assert found["writes elsewhere"]["write outside"].endswith("scores.csv")
    assert found["wrong status"]["wrong status"].startswith("0 in place of [1]: ")
    assert set(found["memory"]) == {"memory over the limit"}


# Pillow tells of damage that it reads over; here that would be an exception in its midst.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_uploads_are_answered_with_rows_or_errors_and_the_server_lives_on(head_run: Run, case_module: Any) -> None:
    cases = [case for case in case_module("corpus").corpus(SEED, 6) if case.upload is not None and case.kind != "zip: bomb"]
    uploading: ModuleType = case_module("uploading")
    statuses: Counter[int] = Counter()
    with running([f"m={head_run.folder}"]) as server:
        for case in cases[:: max(1, len(cases) // UPLOADS)]:
            statuses[posted(server, uploading, case)] += 1
        assert server.ask("GET", "/health/ready").status == 200
    assert statuses[200] >= UPLOADS // 2
    assert set(statuses) <= {200, 400, 413, 415, 422}


def posted(server: Running, uploading: ModuleType, case: Any) -> int:
    body, content_type = uploading.multipart([(case.upload.name, case.upload.data())])
    answer = server.ask("POST", "/v1/predict", body, {"Content-Type": content_type})
    assert uploading._of_answer(answer.status, answer.body) == {}, case.name
    return answer.status


def test_there_are_more_than_five_hundred_inputs_and_no_name_twice(case_module: Any) -> None:
    names = [(case.kind, case.name) for case in case_module("corpus").corpus(SEED, 60)]
    assert len(names) > 700
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_spoilt_headers_are_the_same_for_the_same_seed_and_differ_from_what_they_spoil(case_module: Any) -> None:
    first, again, other = (
        [case.upload.data() for case in case_module("headers").header_cases(seed, 8)] for seed in (SEED, SEED, SEED + 1)
    )
    assert first == again != other
    whole = {data for variants in case_module("pictures").seeds().values() for data in variants.values()}
    assert sum(data in whole for data in first) <= 4


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (b"input,status\na.png,scored\n", None),
        (b"input,status\n-0.5,scored\n", None),
        (b"input,status\n", "no row"),
        (b"input,status\na,b,c\n", "3 cells under 2 columns"),
        (b'input,status\n"a\nb",scored\n', "unprintable: 'a\\nb'"),
        (b"input,status\n=1+1,scored\n", "formula: '=1+1'"),
        (b"input,status\n-a,scored\n", "formula: '-a'"),
        (b"input,status\n\xff,scored\n", "no UTF-8"),
    ],
)
def test_tables_that_are_not_safe_are_told(case_module: Any, table: bytes, problem: str | None) -> None:
    assert case_module("trying").table_problem(table) == problem
