"""Files written whole or not at all, and files told apart by what is in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from semcom.contracts import SemcomError

TEMPORARY = ".part-"
"""How the names of files begin that a kill may leave behind."""


def unwritable(path: Path, error: Exception) -> SemcomError:
    """Makes the error for a place that can't be written."""
    reason = getattr(error, "strerror", None) or str(error)
    return SemcomError(f"{path} can't be written ({reason}): make room, or give --out a folder that can be")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file whole or not at all: write(temporary file beside it), then one rename.

    Raises SemcomError if the place can't be written; what stood at `path` is then still there.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, as sha256sum prints it. Raises SemcomError if it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SemcomError(
            f"{path} can't be read ({error.strerror or error}): give a file that can be"
        ) from error
