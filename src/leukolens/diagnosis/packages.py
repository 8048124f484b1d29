"""Which packages are there, in which versions, which are missing and by which command they come.

In: what leukolens's own metadata asks for. Out: Findings. Writes: nothing. The list is read from the installed package, so
that there is no second one to keep.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from leukolens.diagnosis.findings import NOTE, OK, PROBLEM, Finding, State

TOPIC = "packages"
PACKAGE = "leukolens"
CORE = ""

# What each extra is for; the others are for those who work on leukolens.
_USES = {
    "serve": "leukolens serve",
    "export": "leukolens export, predict --engine onnx",
    "explain": "leukolens explain",
    "ray": "leukolens predict --ray",
    "fetch": "leukolens fetch c-nmc",
    "litert": "leukolens export --format litert, in a virtual environment of its own: it wants another PyTorch",
}
# Those with a library of their own, which can be there and yet not load: of another processor, or PyTorch and torchvision
# of different builds.
_NATIVE = ("pyarrow", "PIL", "torch", "torchvision", "openvino")


@dataclass(frozen=True)
class Package:
    """A package that is asked for: its `name`, the versions that do (`wanted`), and the one that is there, if any."""

    name: str
    wanted: str
    installed: str | None
    fits: bool


def check_packages() -> list[Finding]:
    """Core first, then one finding per extra; missing core packages are a problem, missing extras a note."""
    try:
        asked = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        remedy = "pip install . in that folder, so that the packages that it needs come too"
        return [Finding(TOPIC, "core", NOTE, f"{PACKAGE} runs from its source folder and is not installed", remedy)]
    extras = {name: packages_of(asked, name) for name in _USES}
    return [_core(packages_of(asked, CORE)), *(_extra(name, packages) for name, packages in extras.items() if packages)]


def version() -> str | None:
    """Version of the installed leukolens; None where it runs from its source folder."""
    return _installed(PACKAGE)


def packages_of(asked: Iterable[str], extra: str) -> list[Package]:
    """The packages that requirements ask for: those of one extra, or (for CORE) those that every installation needs.

    Args:
        asked: requirements as in the metadata, `name>=1; extra == "x"`.
        extra: name of the extra, or CORE.
    """
    requirements = [Requirement(text) for text in asked]
    return [
        _package(each)
        for each in requirements
        # An extra that takes in others names leukolens itself.
        if each.name != PACKAGE and _belongs(each, extra)
    ]


def check_imports(modules: Sequence[str] = _NATIVE) -> list[Finding]:
    """Load the packages that have libraries of their own; a problem for each that does not."""
    findings = []
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            findings.append(Finding(TOPIC, module, PROBLEM, f"does not load: {said}", _remedy_of(module)))
    return findings


def _remedy_of(module: str) -> str:
    if module in ("torch", "torchvision"):
        return "install both from one place: pip install --force-reinstall torch torchvision"
    return f"pip install --force-reinstall {'pillow' if module == 'PIL' else module}"


def _belongs(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    if marker is None:
        return extra == CORE
    if extra == CORE:
        return marker.evaluate({"extra": CORE})
    # What is there without the extra does not come with it.
    return marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": CORE})


def _package(requirement: Requirement) -> Package:
    installed = _installed(requirement.name)
    fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
    return Package(requirement.name, str(requirement.specifier), installed, fits)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _core(packages: Sequence[Package]) -> Finding:
    versions = {"python": platform.python_version(), PACKAGE: version() or "not installed", **_versions(packages)}
    wrong = _wrong(packages)
    found = "; ".join([*wrong, ", ".join(f"{name} {version}" for name, version in versions.items())])
    remedy = "pip install --upgrade leukolens, which brings what it needs" if wrong else ""
    return Finding(TOPIC, "core", PROBLEM if wrong else OK, found, remedy, versions)


def _extra(extra: str, packages: Sequence[Package]) -> Finding:
    wrong = _wrong(packages)
    state: State = NOTE if wrong else OK
    there = ", ".join(f"{each.name} {each.installed}" for each in packages if each.fits)
    remedy = f"pip install 'leukolens[{extra}]', for {_USES[extra]}" if wrong else ""
    return Finding(TOPIC, extra, state, "; ".join([*wrong, *([there] if there else [])]), remedy, _versions(packages))


def _versions(packages: Sequence[Package]) -> dict[str, str]:
    return {each.name: each.installed for each in packages if each.installed is not None}


def _wrong(packages: Sequence[Package]) -> list[str]:
    missing = [each.name for each in packages if each.installed is None]
    unfit = [
        f"{each.name} {each.installed} where {each.wanted} is needed"
        for each in packages
        if each.installed is not None and not each.fits
    ]
    return ([f"not installed: {', '.join(missing)}"] if missing else []) + unfit
