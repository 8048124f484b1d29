"""What a process may use: control groups are folders made up here."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import pytest
import torch

from leukolens.diagnosis import machine
from leukolens.diagnosis.findings import Finding
from leukolens.diagnosis.machine import Limits, cgroup_limits, check_compute, check_hardware, memory_bytes, usable_cores


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def finding(found: list[Finding], name: str) -> Finding:
    return next(each for each in found if each.name == name)


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def test_tightest_limit_of_nested_groups_counts(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "proc/self/cgroup": "0::/lab/serve",
        "sys/fs/cgroup/lab/serve/cpu.max": "max 100000",
        "sys/fs/cgroup/lab/serve/memory.max": "4294967296",
        "sys/fs/cgroup/lab/cpu.max": "250000 100000",
        "sys/fs/cgroup/lab/memory.max": "8589934592",
        "sys/fs/cgroup/other/cpu.max": "10000 100000",
    })  # fmt: skip
    assert cgroup_limits(root) == Limits(cores=2.5, memory_bytes=4 * 2**30)


def test_group_that_is_the_root_of_a_container_is_read(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"})
    assert cgroup_limits(root) == Limits(cores=0.5)


def test_version_1_is_read_and_its_largest_number_means_no_limit(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "proc/self/cgroup": "9:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc",
        # In a container its own group is mounted at the top, and the path below leads nowhere.
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    })  # fmt: skip
    assert cgroup_limits(root) == Limits(cores=3.0)
    write(root, {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824"})
    assert cgroup_limits(root) == Limits(memory_bytes=2**30)


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path) == Limits()


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.5, 2), (0.5, 1), (64.0, 8)])
def test_usable_cores_are_whole_and_at_least_one(quota: float | None, expected: int) -> None:
    assert usable_cores(Limits(cores=quota)) == expected


def test_memory_is_no_more_than_the_group_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20}.__getitem__)
    assert memory_bytes(Limits()) == 4 * 2**30
    assert memory_bytes(Limits(memory_bytes=2**30)) == 2**30
    assert memory_bytes(Limits(memory_bytes=2**40)) == 4 * 2**30


@pytest.mark.parametrize(("gib", "state"), [(1, "problem"), (3, "note"), (4, "ok")])
def test_little_memory_is_said(monkeypatch: pytest.MonkeyPatch, gib: int, state: str) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**24}.__getitem__)
    found = finding(check_hardware(Limits(memory_bytes=gib * 2**30)), "memory")
    assert (found.state, found.found) == (state, f"{gib}.0 GiB, the limit of the control group")
    assert found.figures == {"usable_bytes": gib * 2**30, "cgroup_bytes": gib * 2**30}
    assert bool(found.remedy) == (state != "ok")


@pytest.mark.usefixtures("eight_cores")
def test_cores_are_given_with_the_limit() -> None:
    found = finding(check_hardware(Limits(cores=2.5)), "processor")
    assert f"; 2 of {os.cpu_count()} cores usable (control group: 2.5); " in found.found
    assert found.figures["usable_cores"] == 2


def test_clock_that_was_never_set_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert finding(check_hardware(Limits()), "clock").state == "ok"
    monkeypatch.setattr(time, "time", lambda: 0.0)
    found = finding(check_hardware(Limits()), "clock")
    assert (found.state, found.found) == ("note", "1970-01-01T00:00:00+00:00, before leukolens was installed")


@pytest.mark.usefixtures("eight_cores")
def test_more_threads_than_cores_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    found = finding(check_compute(Limits(cores=2)), "threads")
    assert (found.state, found.found) == ("note", "8 of PyTorch and OpenVINO, on 2 usable cores")
    assert found.remedy == "OMP_NUM_THREADS=2: more threads than cores wait for each other"
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    found = finding(check_compute(Limits()), "threads")
    assert (found.state, found.found) == ("ok", "8 of PyTorch and OpenVINO (OMP_NUM_THREADS=8)")


def test_graphics_are_named_or_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert finding(check_compute(Limits()), "graphics").found == "none; everything runs on the processor"
    monkeypatch.setattr(machine, "_NVIDIA_DRIVER", write(tmp_path, {"version": "NVRM"}) / "version")
    found = finding(check_compute(Limits()), "graphics")
    assert (found.state, found.found) == ("note", f"an NVIDIA driver, but PyTorch {torch.__version__} cannot use it")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    found = finding(check_compute(Limits()), "graphics")
    assert (found.state, found.found) == ("ok", "GPU 0, GPU 1")


def test_instructions_and_allocator_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = {"avx2": True, "avx512_f": True, "amx_bf16": True, "architecture": "x86_64"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    found = check_compute(Limits())
    assert finding(found, "instructions").found == "avx2, avx512_f, amx_bf16; bfloat16 is computed by the processor"
    assert finding(found, "allocator").found == "glibc 2.36, which leukolens tells to keep freed memory"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so.2")
    found = check_compute(Limits())
    assert finding(found, "instructions").found == "avx2; no bfloat16: the processor computes in float32"
    assert finding(found, "allocator").found == "preloaded: libjemalloc.so.2"
