"""The LLVM that ray tracing on the CPU loads: which one it would be, and whether it is new enough."""

from __future__ import annotations

import ctypes
import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path

from semcom.contracts import SemcomError

MIN_LLVM = 16
LLVM_REMEDY = "apt-get install libllvm19 (Debian, Ubuntu) or brew install llvm, or set DRJIT_LIBLLVM_PATH"

# Where Dr.Jit looks for LLVM when the loader doesn't know a libLLVM.so.
_PATTERNS = (
    "/usr/lib/x86_64-linux-gnu/libLLVM*.so*",
    "/usr/lib/aarch64-linux-gnu/libLLVM*.so*",
    "/usr/lib/wsl/lib/libLLVM*.so*",
    "/usr/lib64/libLLVM*.so*",
    "/usr/lib/libLLVM*.so*",
    "/opt/homebrew/opt/llvm/lib/libLLVM*.dylib",
    "/usr/local/opt/llvm/lib/libLLVM*.dylib",
)


def _llvm_major(path: str) -> int | None:
    """Reads the major version out of a library's name, such as libLLVM-15.so.1 or libLLVM.so.19.1."""
    for name in (os.path.basename(path), os.path.basename(os.path.realpath(path))):
        match = re.search(r"LLVM-(\d+)", name) or re.search(r"LLVM\.so\.(\d+)", name)
        if match:
            return int(match[1])
    # Homebrew's and self-built libraries have no number, but their folders often do: llvm/19.1.7/lib.
    match = re.search(r"llvm[-/@]?(\d+)", os.path.realpath(path))
    return int(match[1]) if match else None


def find_llvm(
    patterns: tuple[str, ...] = _PATTERNS, environment: Mapping[str, str] = os.environ
) -> tuple[str, int | None] | None:
    """Finds the LLVM that ray tracing on the CPU would load, as Dr.Jit does: (path, major version).

    DRJIT_LIBLLVM_PATH comes first, then the newest in the usual places. The version is None where no
    name tells it; None instead of the pair means that there is no LLVM.
    """
    given = environment.get("DRJIT_LIBLLVM_PATH")
    if given:
        return (given, _llvm_major(given)) if Path(given).exists() else None
    found = [(path, _llvm_major(path)) for pattern in patterns for path in sorted(glob.glob(pattern))]
    return max(found, key=lambda pair: pair[1] or 0, default=None)


def use_llvm(patterns: tuple[str, ...] = _PATTERNS) -> None:
    """Makes this process's Dr.Jit load the LLVM that find_llvm finds, by DRJIT_LIBLLVM_PATH.

    With an older one Dr.Jit aborts the process at its first kernel. Raises SemcomError if there is none,
    if it can't be loaded, or if it is older than LLVM 16.
    """
    needed = f"ray tracing on the CPU needs LLVM {MIN_LLVM} or newer"
    found = find_llvm(patterns)
    if found is None:
        given = os.environ.get("DRJIT_LIBLLVM_PATH")
        missing = f"DRJIT_LIBLLVM_PATH = {given} is not there" if given else "there is none"
        raise SemcomError(f"{needed} and {missing}: {LLVM_REMEDY}")
    path, major = found
    if major is not None and major < MIN_LLVM:
        raise SemcomError(f"{needed}, the newest found is {major} ({path}): {LLVM_REMEDY}")
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise SemcomError(f"{needed} and {path} can't be loaded ({error}): {LLVM_REMEDY}") from None
    # LLVM's C interface has had this function since version 16: names may not tell the version.
    if not hasattr(library, "LLVMGetVersion"):
        raise SemcomError(f"{needed} and {path} is older: {LLVM_REMEDY}")
    os.environ["DRJIT_LIBLLVM_PATH"] = path
