"""The doctor: what is installed, what the machine has, and what to install where something is missing.

Nothing heavy is imported: versions come from the packages' metadata.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from channels.llvm import LLVM_REMEDY, MIN_LLVM, find_llvm


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; a remedy comes with everything that is not ok."""

    what: str
    found: str
    state: Literal["ok", "warning", "missing"]
    remedy: str = ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _fits(version: str, wanted: str) -> bool:
    """Checks `>=2.2,<3` on the leading numbers of a version; other comparisons are not used here."""
    for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", wanted):
        if (_numbers(version) >= _numbers(bound)) != (sign == ">="):
            return False
    return True


def requirements(package: str = "semcom") -> dict[str, str]:
    """Returns {package: version range} of what an installed package needs, its extras left out."""
    wanted = {}
    for line in importlib.metadata.requires(package) or []:
        match = re.match(r"([\w.-]+)\s*(?:\[[^]]*\])?\s*([^;]*)(;.*)?$", line)
        if match and "extra" not in (match[3] or ""):
            wanted[match[1].lower()] = match[2].replace(" ", "")
    return wanted


def check_packages() -> Iterator[Finding]:
    """Compares every required package with the range that the project declares."""
    try:
        wanted = requirements()
    except importlib.metadata.PackageNotFoundError:
        yield Finding("semcom", "not installed", "missing", "pip install . in the source folder")
        return
    yield Finding("semcom", importlib.metadata.version("semcom"), "ok")
    for name, versions in sorted(wanted.items()):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "not installed", "missing", f'pip install "{name}{versions}"')
            continue
        if _fits(version, versions):
            yield Finding(name, version, "ok")
        else:
            yield Finding(name, f"{version}, needs {versions}", "missing", f'pip install "{name}{versions}"')


def check_ray_tracing(required: bool) -> Iterator[Finding]:
    """Looks for the packages under Sionna's ray tracer, which come with it."""
    state: Literal["warning", "missing"] = "missing" if required else "warning"
    for name in ("sionna-rt", "mitsuba", "drjit"):
        try:
            yield Finding(name, importlib.metadata.version(name), "ok")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "not installed (ray tracing needs it)", state, "pip install sionna-rt")


def check_python() -> Finding:
    """Compares the interpreter with the least version that the project declares."""
    version = platform.python_version()
    if _numbers(version) >= (3, 11):
        return Finding("python", version, "ok")
    return Finding("python", f"{version}, needs 3.11 or newer", "missing", "install Python 3.11 or newer")


def check_llvm(required: bool, llvm: tuple[str, int | None] | None) -> Finding:
    """Judges the LLVM that was found; it is needed only to trace rays on the CPU."""
    state: Literal["warning", "missing"] = "missing" if required else "warning"
    what = "LLVM"
    if llvm is None:
        return Finding(what, f"none (ray tracing on the CPU needs {MIN_LLVM} or newer)", state, LLVM_REMEDY)
    path, major = llvm
    if major is None:
        return Finding(what, f"{path}, of unknown version (ray tracing needs {MIN_LLVM})", "ok")
    if major < MIN_LLVM:
        found = f"{major} (ray tracing on the CPU needs {MIN_LLVM} or newer)"
        return Finding(what, found, state, LLVM_REMEDY)
    return Finding(what, str(major), "ok")


def num_cores() -> int:
    """Counts the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_memory() -> Finding:
    """Reads the physical memory, or the container's limit where that is lower."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, ValueError):  # no container, or one without a limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    size_gib = min(limits) / 2**30
    if size_gib < 3.5:
        return Finding("memory", f"{size_gib:.1f} GiB", "warning", "4 GiB or more, or --workers 0")
    return Finding("memory", f"{size_gib:.1f} GiB", "ok")


def check_gpu() -> Finding:
    """Asks the NVIDIA driver for GPUs, and whether the installed torch could use one."""
    if not shutil.which("nvidia-smi"):
        return Finding("GPU", "none (not needed: nothing trains on one yet)", "ok")
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return Finding("GPU", "the driver does not answer", "warning", "reinstall the NVIDIA driver")
    try:
        torch_version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch_version = ""
    found = ", ".join(names.split("\n")).strip(", ") or "none"
    if torch_version.endswith("+cpu") and found != "none":
        return Finding("GPU", f"{found}, but torch is a CPU build", "warning", "install torch's CUDA build")
    return Finding("GPU", found, "ok")


def examine(ray_tracing: bool = False) -> list[Finding]:
    """Examines the installation; ray_tracing makes LLVM a requirement instead of a recommendation."""
    return [
        check_python(),
        *check_packages(),
        *check_ray_tracing(ray_tracing),
        check_llvm(ray_tracing, find_llvm()),
        Finding("cores", str(num_cores()), "ok"),
        check_memory(),
        check_gpu(),
    ]
