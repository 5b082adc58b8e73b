"""Find out what an installation has, what it lacks, and how to get it.

Every check only reads: versions from the installed metadata, devices from torch, models from the registry. A failing
probe is itself a finding and never stops the others.
"""

import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from packaging.requirements import Requirement

from colorlab.errors import ColorlabError

__all__ = ["Check", "diagnose", "format_checks"]

Status = Literal["ok", "optional", "missing"]

_PURPOSES = {
    "widgets": "the Studio",
    "eval": "colorlab evaluate with LPIPS",
    "lab": "JupyterLab",
    "train": "colorlab train",
    "tune": "tuning on a picture: colorlab tune, notebook 06, the Studio's Tuning",
    "video": "colorlab video",
    "test": "make test",
}
"""What each extra is there for."""

_MARKS: dict[Status, str] = {"ok": "ok", "optional": "--", "missing": "!!"}


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        topic: what kind of thing was looked at: "system", "packages", "devices", "extras", "data" or "models".
        name: the thing.
        status: "ok"; "optional" if it is absent and not needed for colorizing; "missing" if it is needed.
        detail: what was found.
        remedy: how to get it; empty if nothing is to be done.
    """

    topic: str
    name: str
    status: Status
    detail: str
    remedy: str = ""


def diagnose() -> tuple[Check, ...]:
    """Run all checks.

    Returns:
        The findings in the order of a report: system, packages, devices, extras, data, models.
    """
    probes: dict[str, Callable[[], list[Check]]] = {
        "system": _system,
        "packages": _packages,
        "devices": _devices,
        "torchvision": _torchvision,
        "extras": _extras,
        "data": _data,
        "models": _models,
    }
    checks: list[Check] = []
    for topic, probe in probes.items():
        try:
            checks += probe()
        except Exception as error:
            detail = f"could not be checked: {type(error).__name__}: {error}"
            checks.append(
                Check(topic, topic, "missing", detail, "Install colorlab again: make lab, or pip install colorlab.")
            )
    return tuple(checks)


def format_checks(checks: tuple[Check, ...]) -> str:
    """Lay findings out as text, one line each, remedies underneath, and a summary last."""
    width = max((len(check.name) for check in checks), default=0)
    lines: list[str] = []
    topic = ""
    for check in checks:
        if check.topic != topic:
            topic = check.topic
            lines += ["", topic] if lines else [topic]
        lines.append(f"  {_MARKS[check.status]}  {check.name.ljust(width)}  {check.detail}")
        if check.remedy:
            lines.append(f"      {' ' * width}  -> {check.remedy}")
    return "\n".join([*lines, "", _summary(checks)])


def _summary(checks: tuple[Check, ...]) -> str:
    """Say what is missing, or what cannot be done without the extras that are not here."""
    missing = [check.name for check in checks if check.status == "missing"]
    if missing:
        return f"Missing: {', '.join(missing)}."
    absent = [check.name for check in checks if check.topic == "extras" and check.status != "ok"]
    if absent:
        return f"Everything that coloring a picture needs is there; see above for what needs {', '.join(absent)}."
    return "Everything needed is there."


def _system() -> list[Check]:
    """Look at the interpreter and the machine."""
    python = platform.python_version()
    machine = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads"
    )
    return [
        Check("system", "colorlab", "ok", importlib.metadata.version("colorlab")),
        Check("system", "python", "ok", python),
        Check("system", "machine", "ok", machine),
    ]


def _packages() -> list[Check]:
    """Look at what colorlab needs in any case."""
    return [_requirement(requirement, "packages") for requirement, extra in _requirements() if extra is None]


def _extras() -> list[Check]:
    """Look at the optional parts, one finding for each extra."""
    by_extra: dict[str, list[Check]] = {}
    for requirement, extra in _requirements():
        if extra is not None and requirement.name != "colorlab":
            by_extra.setdefault(extra, []).append(_requirement(requirement, "extras"))
    checks = []
    for extra, found in by_extra.items():
        absent = [check.name for check in found if check.status != "ok"]
        detail = ", ".join(f"{check.name} {check.detail}" for check in found)
        if absent:
            detail = f"lacks {', '.join(absent)}, for {_PURPOSES[extra]}"
        remedy = (
            f"pip install -c constraints/cpu.txt -e '.[{extra}]', or pip install 'colorlab[{extra}]'" if absent else ""
        )
        checks.append(Check("extras", f"[{extra}]", "optional" if absent else "ok", detail, remedy))
    return checks


def _requirements() -> list[tuple[Requirement, str | None]]:
    """Read what colorlab asks for from its own metadata, each with the extra it belongs to."""
    found: list[tuple[Requirement, str | None]] = []
    extras = importlib.metadata.metadata("colorlab").get_all("Provides-Extra") or []
    for line in importlib.metadata.requires("colorlab") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append((requirement, None))
        else:
            found += [(requirement, extra) for extra in extras if requirement.marker.evaluate({"extra": extra})]
    return found


def _requirement(requirement: Requirement, topic: str) -> Check:
    """Compare one requirement with what is installed."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        remedy = f"pip install -c constraints/cpu.txt '{requirement.name}{requirement.specifier}'"
        return Check(topic, requirement.name, "missing", "not installed", remedy)
    if not requirement.specifier.contains(version, prereleases=True):
        remedy = f"pip install -c constraints/cpu.txt '{requirement.name}{requirement.specifier}'"
        return Check(topic, requirement.name, "missing", f"{version}, but {requirement.specifier} is needed", remedy)
    return Check(topic, requirement.name, "ok", version)


def _devices() -> list[Check]:
    """Look at what torch can compute on."""
    checks = [Check("devices", "cpu", "ok", "runs every mini model")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
            checks.append(Check("devices", f"cuda:{index}", "ok", detail))
    else:
        built = torch.version.cuda
        detail = f"torch is built for CUDA {built}, but no GPU answers" if built else "this torch is a CPU build"
        remedy = "" if built else "for a GPU, install torch as described on pytorch.org (not needed for mini models)"
        checks.append(Check("devices", "cuda", "optional", detail, remedy))
    if torch.backends.mps.is_available():
        checks.append(Check("devices", "mps", "ok", "Apple GPU"))
    return checks


def _torchvision() -> list[Check]:
    """Look at whether torchvision fits the installed torch; a misfit breaks transformers and diffusers."""
    from colorlab.networks.libraries import repair_torchvision

    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return [Check("devices", "torchvision", "ok", "not installed, and not needed for colorizing")]
    was_repaired = repair_torchvision()
    import torchvision

    if was_repaired or not getattr(torchvision.extension, "_has_ops", lambda: False)():
        detail = f"{version}, its compiled operators cannot be loaded; colorlab works around it"
        return [Check("devices", "torchvision", "ok", detail)]
    return [Check("devices", "torchvision", "ok", f"{version}, healthy")]


def _data() -> list[Check]:
    """Look at the folder that holds the shipped models."""
    from colorlab.data import data_folder

    try:
        folder = data_folder()
    except ColorlabError as error:
        return [Check("data", "data folder", "missing", str(error), "set COLORLAB_DATA to the folder that holds mini/")]
    source = "COLORLAB_DATA" if os.environ.get("COLORLAB_DATA") else "shipped"
    checks = [Check("data", "data folder", "ok", f"{folder} ({source})")]
    reference = os.environ.get("COLORLAB_REFERENCE")
    if reference:
        is_there = os.path.isdir(reference)
        remedy = "" if is_there else "set COLORLAB_REFERENCE to the folder of recorded tensors, or unset it"
        checks.append(Check("data", "reference", "ok" if is_there else "optional", reference, remedy))
    return checks


def _models() -> list[Check]:
    """Look at which models are ready; published ones are fetched, and some trained, by those who want them."""
    from colorlab.registry import FAMILY, PUBLISHED, models

    checks = []
    for entry in models():
        size = "" if entry.size_bytes is None else f", {entry.size_bytes / 2**20:.1f} MiB"
        detail = f"{entry.method}{size}, {entry.licence}, {'ready' if entry.is_ready else 'not here'}"
        status: Status = "ok" if entry.is_ready else "optional" if entry in (*FAMILY, *PUBLISHED) else "missing"
        checks.append(Check("models", entry.name, status, detail, entry.how))
    if not any(check.status == "ok" for check in checks):
        checks.append(Check("models", "any model", "missing", "no model is ready", "install colorlab again: make lab"))
    return checks
