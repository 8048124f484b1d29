"""`leukolens doctor`: packages, machine, weights and disk, and whether the main job can run here.

In: the folder for results, perhaps a folder of weights. Out: a `Diagnosis`. Writes: nothing that stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukolens.diagnosis import machine, packages, storage, weights
from leukolens.diagnosis.findings import PROBLEM, Finding, lines_of

_FIT = "Fit: index, split, train, predict, evaluate and report can run."
_NO_NETWORKS = ("torch", "torchvision")


@dataclass(frozen=True)
class Diagnosis:
    """What was found, in the order in which it was looked at."""

    findings: tuple[Finding, ...]

    @property
    def is_fit(self) -> bool:
        """Whether index, split, train, predict, evaluate and report can run here."""
        return not any(finding.state == PROBLEM for finding in self.findings)

    def to_record(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        findings = [finding.to_record() for finding in self.findings]
        return {"version": packages.version(), "fit": self.is_fit, "findings": findings}

    def summary_lines(self) -> list[str]:
        """All of it as text for a terminal, with the verdict last."""
        problems = [finding.name for finding in self.findings if finding.state == PROBLEM]
        verdict = f"Not fit: {', '.join(problems)}." if problems else _FIT
        return [*lines_of(self.findings), "", verdict]


def doctor(out: Path | str, weights_dir: Path | str | None = None) -> Diagnosis:
    """Look at everything that an installation needs; nothing is downloaded and nothing is left behind.

    Args:
        out: the folder that results are to go to; it need not exist.
        weights_dir: a folder of pretrained weights, as `--weights-dir` of other verbs.
    """
    limits = machine.cgroup_limits()
    found = [*packages.check_packages(), *packages.check_imports()]
    can_compute = not any(finding.name in _NO_NETWORKS for finding in found)
    found += machine.check_hardware(limits)
    if can_compute:
        found += [*machine.check_compute(limits), *weights.check_weights(Path(weights_dir) if weights_dir else None)]
    return Diagnosis((*found, *storage.check_storage(Path(out))))
