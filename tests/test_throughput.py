"""The throughput benchmark: its clock, its order, what it keeps, what it computes from that; and that it runs at all."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from leukolens.errors import SettingsError

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
# A home, a temporary folder, a drive, a registry.
MACHINE_PATH = re.compile(r"/(?:home|Users|root|tmp|work|mnt|opt)/|\b[A-Z]:\\|https?:")


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture
def throughput(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module("throughput", monkeypatch)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module("throughput_tables", monkeypatch)


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module("contenders.measuring", monkeypatch)


class Hands:
    """A clock's hands, moved by the test."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def ticked(measuring: ModuleType, step_seconds: list[float], seconds: float) -> Any:
    """A clock of 32 images a step that has seen steps of these lengths."""
    hands = Hands()
    clock = measuring.Clock(32, seconds, now=hands)
    for length in step_seconds:
        hands.time += length
        clock.tick()
    return clock


def test_clock_leaves_two_steps_of_warmup_out(measuring: ModuleType) -> None:
    clock = ticked(measuring, [5.0, 1.0, 2.0, 2.0], seconds=6.0)
    clock.now.time += 2.0
    with pytest.raises(measuring.Enough):
        clock.tick()
    assert clock.warmup_seconds == 6.0
    assert clock.images_per_second() == 16.0  # 3 steps of 32 images in 6 seconds


def test_clock_warms_up_with_one_step_where_that_takes_ten_seconds_and_times_two(measuring: ModuleType) -> None:
    clock = ticked(measuring, [17.0, 16.0], seconds=4.0)
    assert clock.warmup_seconds == 17.0
    clock.now.time += 16.0
    with pytest.raises(measuring.Enough):
        clock.tick()
    assert clock.images_per_second() == 2.0


def test_clock_says_when_nothing_was_measured(measuring: ModuleType) -> None:
    clock = ticked(measuring, [1.0, 1.0, 1.0], seconds=4.0)
    with pytest.raises(ValueError, match=r"^the contender ended by itself after 1 steps: nothing was measured$"):
        clock.images_per_second()


def test_clock_waits_for_the_device_at_both_ends(measuring: ModuleType) -> None:
    hands, waits = Hands(), []

    def synchronise() -> None:
        waits.append(hands.time)
        hands.time += 1.0

    clock = measuring.Clock(32, 2.0, synchronise, hands)
    with pytest.raises(measuring.Enough):
        for _ in range(4):
            hands.time += 1.0
            clock.tick()
    assert len(waits) == 2
    assert clock.images_per_second() == 2 * 32 / 3.0


def test_rounds_are_interleaved_and_each_network_has_its_limit(throughput: ModuleType) -> None:
    steps = throughput.plan(("train", "compare"), ("alexnet", "resnet50"), ("leukolens", "timm", "keras"), rounds=2)
    assert [(step.round, *step.cell()) for step in steps] == [
        (0, "limit", "alexnet", "limit"), (0, "train", "alexnet", "leukolens"), (0, "train", "alexnet", "keras"),
        (0, "limit", "resnet50", "limit"), (0, "train", "resnet50", "leukolens"), (0, "train", "resnet50", "keras"),
        (0, "train", "resnet50", "timm"), (0, "compare", "all", "leukolens"),
        (1, "limit", "alexnet", "limit"), (1, "train", "alexnet", "leukolens"), (1, "train", "alexnet", "keras"),
        (1, "limit", "resnet50", "limit"), (1, "train", "resnet50", "leukolens"), (1, "train", "resnet50", "keras"),
        (1, "train", "resnet50", "timm"),
    ]  # fmt: skip


def test_competitors_run_in_their_own_environment(throughput: ModuleType, tmp_path: Path) -> None:
    bench = throughput.Bench(Path("own"), Path("theirs"), tmp_path, batch=8, seconds=1.0)
    steps = list(throughput.plan(("infer",), ("vgg16",), ("torchvision", "keras"), rounds=1))
    commands = [bench.command(step) for step in steps[1:]]
    assert [command[:4] for command in commands] == [
        ["theirs", "-m", "contenders.keras_tutorial", "infer"],
        ["own", "-m", "contenders.torchvision_loop", "infer"],
    ]
    assert commands[0][4:12] == ["--contender", "keras", "--architecture", "vgg16", "--work", str(tmp_path), "--batch", "8"]


@pytest.fixture
def pretended(throughput: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bench whose Python program is a script that answers at once; timm fails in it."""
    answer = {"images_per_second": 4.0, "warmup_seconds": 1.0, "peak_rss_mib": 7.0, "versions": {}, "flops": {}}
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *timm*) echo "no room in {tmp_path}/work" >&2; exit 3;; esac\n'
        f"""echo noise; echo '{json.dumps(answer)[:-1]}, "detail": "threads '"$OMP_NUM_THREADS"'"}}'\n""",
        encoding="utf-8",
    )
    script.chmod(0o755)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return throughput.Bench(script, script, tmp_path / "work")


def test_a_failure_is_written_down_and_the_rest_goes_on(throughput: ModuleType, pretended: Any, tmp_path: Path) -> None:
    steps = list(throughput.plan(("infer",), ("vgg16",), ("timm", "fastai"), rounds=1))
    path = tmp_path / "results.json"
    throughput.collect(steps, pretended, throughput.opened(path, pretended), path)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert [(each["contender"], each["images_per_second"]) for each in written["samples"]] == [("limit", 4.0), ("fastai", 4.0)]
    assert [(each["contender"], each["reason"]) for each in written["failures"]] == [("timm", "no room in …")]


def test_settings_of_the_shell_do_not_reach_the_contenders(throughput: ModuleType, pretended: Any) -> None:
    _, step = throughput.plan(("infer",), ("vgg16",), ("leukolens",), rounds=1)
    assert throughput.measure(step, pretended)["detail"] == "threads "


def test_other_work_on_the_machine_is_noticed(
    throughput: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    processors, stat = throughput._Processors, tmp_path / "stat"
    monkeypatch.setattr(throughput, "_STAT", stat)
    ticks = throughput.os.sysconf("SC_CLK_TCK")
    stat.write_text(f"cpu {900 * ticks} 0 0 {500 * ticks} 0 0 0 0 0 0\ncpu0 1 2\n", encoding="utf-8")
    now = processors.now()
    assert now.at_work == 900.0
    # 10 seconds ago; 12 seconds of work since, of which our children did 4: 8 of 10 seconds of each of the processors.
    before = processors(now.clock - 10.0, 888.0, now.of_children - 4.0)
    assert before.busy_elsewhere() == pytest.approx(0.8 / (throughput.os.cpu_count() or 1), rel=0.01)
    monkeypatch.setattr(throughput, "_STAT", tmp_path / "none")
    assert processors.now().busy_elsewhere() is None


def test_results_of_another_machine_are_not_added_to(throughput: ModuleType, tmp_path: Path) -> None:
    bench = throughput.Bench(Path("own"), Path("theirs"), tmp_path)
    path = tmp_path / "results.json"
    results = throughput.opened(path, bench)
    path.write_text(json.dumps(results), encoding="utf-8")
    assert throughput.opened(path, bench) == results
    with pytest.raises(SettingsError, match="was measured elsewhere or otherwise") as error:
        throughput.opened(path, replace(bench, batch=16))
    assert error.value.expected == "settings: {'batch': 32, 'input_px': 224, 'device': 'cpu'}"


def test_only_what_is_measured_anew_is_dropped(throughput: ModuleType) -> None:
    rows = [{"task": "infer", "architecture": "vgg16", "contender": name} for name in ("limit", "keras", "timm")]
    steps = list(throughput.plan(("infer",), ("vgg16",), ("keras",), rounds=1))
    kept = throughput.dropped({"samples": rows, "failures": rows[1:]}, steps)
    assert [row["contender"] for row in kept["samples"]] == ["limit", "timm"]
    assert [row["contender"] for row in kept["failures"]] == ["timm"]


def test_a_missing_environment_is_named(throughput: ModuleType, tmp_path: Path) -> None:
    bench = throughput.Bench(Path(sys.executable), tmp_path / "python", tmp_path)
    own, theirs = (list(throughput.plan(("infer",), ("vgg16",), (name,), rounds=1)) for name in ("timm", "keras"))
    throughput.check_pythons(own, bench)
    with pytest.raises(SettingsError, match="An environment of the benchmark is missing"):
        throughput.check_pythons(theirs, bench)


def results(**rates: list[float]) -> dict[str, Any]:
    """Results of AlexNet's training step: the rates of each contender in rounds 0, 1, …"""
    rows = [{"run": "2026-11-23T10:00:00+00:00", "round": number, "task": "train", "architecture": "alexnet",
             "contender": name.replace("_", "-"), "images_per_second": value, "peak_rss_mib": 1000.0, "warmup_seconds": 2.0,
             "detail": "", "busy_elsewhere": 0.05, "versions": {"python": "3.11.7"}}
            for name, values in rates.items() for number, value in enumerate(values)]  # fmt: skip
    limits = [{**row, "task": "limit", "contender": "limit", "images_per_second": None, "bf16_flops": 4e11, "fp32_flops": 2e11}
              for row in rows if row["contender"] == "leukolens"]  # fmt: skip
    return {
        "machine": {"processor": "P", "cores": 2, "memory_gib": 24}, "settings": {"batch": 32, "input_px": 224},
        "flops": {"alexnet": {"forward": 1e9, "train": 4e9}}, "samples": rows + limits, "failures": [],
    }  # fmt: skip


def test_ratios_are_taken_within_rounds(tables: ModuleType) -> None:
    summary = tables.Summary.of(results(leukolens=[10.0, 30.0], keras=[5.0, 10.0]))
    assert summary.middle("train", "alexnet", "leukolens") == 20.0
    assert summary.ratio("train", "alexnet", "keras") == 2.5  # of 2 and 3; the medians' ratio would be 2.67
    assert summary.ratio("train", "alexnet", "timm") is None


def test_share_of_the_limit_counts_the_operations_of_the_step(tables: ModuleType) -> None:
    summary = tables.Summary.of(results(leukolens=[50.0]))
    assert summary.share("train", "alexnet") == 0.5  # 50 images/s x 4 GFLOP of 400 GFLOP/s
    assert summary.widest_spread() is None
    assert tables.Summary.of(results(leukolens=[9.0, 10.0, 12.0])).widest_spread() == pytest.approx(0.3)


def test_tables_show_medians_ratios_and_gaps(tables: ModuleType) -> None:
    found = results(leukolens=[40.0], keras=[20.0], keras_bf16=[50.0])
    found["failures"] = [{"contender": "timm", "task": "train", "architecture": "alexnet", "reason": "no such network"}]
    text = tables.tables(found)
    assert "| AlexNet | **40.0** | 40 % | 20.0 (2.0x) | 50.0 (0.8x) |" in text
    assert "Other work took 5 % of the processors' time in the median, 5 % at most." in text
    assert "400 GFLOP/s in bfloat16 and 200 GFLOP/s in float32" in text
    assert "| AlexNet | 1,000 / – | 1,000 / – | 1,000 / – | – / – | – / – | – / – |" in text
    assert "- timm, train, alexnet: no such network" in text


def test_text_between_the_markers_is_replaced(tables: ModuleType) -> None:
    page = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    assert tables.replaced(page, "new\n") == f"before\n{tables.BEGIN}\n\nnew\n\n{tables.END}\nafter\n"
    with pytest.raises(ValueError, match=r"received 5 characters without both$"):
        tables.replaced("plain", "new")


def test_figure_is_drawn(tables: ModuleType, tmp_path: Path) -> None:
    tables.draw(tables.Summary.of(results(leukolens=[40.0], keras=[20.0])), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_page_shows_the_results_that_are_stored_and_no_machine(tables: ModuleType) -> None:
    stored = tables.RESULTS_FILE.read_text(encoding="utf-8")
    assert MACHINE_PATH.findall(stored) == []
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.replaced(page, tables.tables(json.loads(stored))) == page


@pytest.mark.slow
def test_gpu_script_runs_at_small_size_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                                tmp_path: Path) -> None:  # fmt: skip
    gpu = module("gpu", monkeypatch)
    out = tmp_path / "gpu.json"
    chosen = ["--arch", "alexnet", "--contender", "leukolens", "--contender", "torchvision"]
    assert gpu.main(["--device", "cpu", "--quick", *chosen, "--out", str(out)]) == 0
    row = r"^\| AlexNet \| train \| [\d.,]+ \| [\d.,]+ \| – \| – \| \d+ % \| 0\.\d \|$"
    assert re.search(row, capsys.readouterr().out, re.MULTILINE)
    samples = json.loads(out.read_text(encoding="utf-8"))["samples"]
    assert [(each["task"], each["contender"]) for each in samples] == [
        ("limit", "limit"), ("train", "leukolens"), ("train", "torchvision"), ("infer", "leukolens"),
        ("infer", "torchvision"), ("whole", "leukolens"),
    ]  # fmt: skip
