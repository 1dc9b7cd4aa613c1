"""Where results come from: the commit, the versions of the packages, and what computed them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

import torch

PACKAGES = ("semcom", "torch", "sionna", "ray", "numpy", "scipy", "pandas", "pydantic")


def _git(*arguments: str) -> str:
    root = Path(__file__).resolve().parent.parent
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def source_commit() -> str:
    """Returns the commit that the simulator runs from, `+` after it if files differ, or "unknown"."""
    try:
        # An installed copy may lie inside some other repository, whose commit says nothing.
        if Path(_git("rev-parse", "--show-toplevel")) != Path(__file__).resolve().parent.parent:
            return "unknown"
        changed = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def device() -> str:
    """Returns what computes here: the GPU's name, or the processor's kind and number of cores."""
    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name(0)})"
    return f"cpu ({platform.machine()}, {os.cpu_count()} cores)"
