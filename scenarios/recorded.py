"""Recorded data sets: the setting that names the file, and what tells its contents from others."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from semcom.files import sha256


class RecordedData(BaseModel):
    """A recorded data set, the same for every seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["recorded"] = "recorded"
    path: Path = Field(description="HDF5 file; docs/data.md says what it holds")


def changed_ns(path: Path) -> int:
    """When a file was changed last, 0 if it isn't there: what is kept of it is read again after a change."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def content_hash(path: Path) -> str:
    """The SHA-256 of a file, which is computed again only after a change."""
    return _hash(path, changed_ns(path))


@lru_cache(maxsize=4)
def _hash(path: Path, changed_ns: int) -> str:
    return sha256(path)
