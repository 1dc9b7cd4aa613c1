"""Where generated data sets are kept: parts until all are there, then one HDF5 file and its manifest.

A data set is named by a hash of all that its numbers depend on. The folder, $SEMCOM_CACHE or else semcom in
the user's cache ($XDG_CACHE_HOME or ~/.cache), holds NAME.h5, NAME.json with what the data set was made of,
the versions of the packages and the SHA-256 of NAME.h5, and NAME.parts while it is being made. Names of
parts end with the beginning of their SHA-256. What is not as its checksum says is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semcom.contracts import SemcomError
from semcom.files import sha256, write_atomically
from semcom.provenance import device, source_commit, versions

_DIGITS = 16


class Storage(NamedTuple):
    """How an array lies in the HDF5 file: rows that are read together, gzip's level or None for none."""

    rows_a_block: int = 1024
    gzip_level: int | None = None


def cache_folder() -> Path:
    """Returns the folder of generated data sets: $SEMCOM_CACHE, or semcom in the user's cache."""
    if given := os.environ.get("SEMCOM_CACHE"):
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semcom"


@dataclass(frozen=True)
class DataCache:
    """The place of one data set."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """The data set's HDF5 file."""
        return self.folder / f"{self.name}.h5"

    @property
    def manifest_path(self) -> Path:
        """Its manifest."""
        return self.folder / f"{self.name}.json"

    @property
    def parts(self) -> Path:
        """The folder of its parts."""
        return self.folder / f"{self.name}.parts"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lets one process at a time make the data set; others wait, and find it made.

        Raises SemcomError if the folder can't be written. The lock ends with its process.
        """
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / f"{self.name}.lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise SemcomError(
                f"{self.folder} can't be written ({error.strerror}): set SEMCOM_CACHE to a folder that can be"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def is_whole(self) -> bool:
        """Whether the HDF5 file is there and is what the manifest says."""
        try:
            told = json.loads(self.manifest_path.read_text())["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return self.path.is_file() and sha256(self.path) == told

    def write_part(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the named arrays that a chunk became, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
        self.parts.mkdir(parents=True, exist_ok=True)
        write_atomically(self.parts / f"{number}-{digest}.npz", lambda temporary: _write(temporary, content))

    def finished(self) -> set[int]:
        """Numbers of the parts that are there and whole; those that are not whole are removed."""
        found = set()
        for path in self.parts.glob("*-*.npz"):
            number, _, digest = path.stem.partition("-")
            if sha256(path).startswith(digest) and len(digest) == _DIGITS:
                found.add(int(number))
            else:
                path.unlink(missing_ok=True)
        return found

    def read_part(self, number: int) -> dict[str, np.ndarray]:
        """Reads a part's arrays, in the order of their writing. Raises SemcomError if it isn't there."""
        for path in self.parts.glob(f"{number}-*.npz"):
            with np.load(path, allow_pickle=False) as held:
                return {name: held[name] for name in held.files}
        raise SemcomError(
            f"part {number} of {self.path} is not in {self.parts}: set SEMCOM_CACHE to a folder that all "
            "workers share"
        )

    def assemble(
        self,
        parts: Iterable[Mapping[str, np.ndarray]],
        attributes: Mapping[str, float | str],
        storage: Mapping[str, Storage] | None = None,
    ) -> None:
        """Writes the HDF5 file: the parts' arrays one after another, and attributes of the file.

        parts: rows are appended in their order, as they come, so that one part at a time is held.
        storage: of the arrays that are not stored as Storage() says.
        """

        def write(temporary: Path) -> None:
            import h5py

            with h5py.File(temporary, "w") as file:
                file.attrs.update(attributes)
                for arrays in parts:
                    for name, array in arrays.items():
                        _append(file, name, array, (storage or {}).get(name, Storage()))

        write_atomically(self.path, write)

    def conclude(self, facts: Mapping[str, Any], packages: Sequence[str], wall_time_s: float) -> None:
        """Writes the manifest of the file, which is whole from then on, and removes the parts.

        facts: what the data set was made of and what is to be known of it; packages: those whose versions
        count beside semcom.provenance's.
        """
        manifest = {
            **facts,
            "sha256": sha256(self.path),
            "commit": source_commit(),
            "versions": {**versions(), **package_versions(packages)},
            "device": device(),
            "wall_time_s": round(wall_time_s, 1),
        }
        content = json.dumps(manifest, indent=2).encode()
        write_atomically(self.manifest_path, lambda temporary: _write(temporary, content))
        shutil.rmtree(self.parts, ignore_errors=True)


def find_place(label: str, told: Mapping[str, Any]) -> DataCache:
    """Finds the place of the data set LABEL-HASH; told: all that its numbers depend on, fit for JSON."""
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:_DIGITS]
    return DataCache(cache_folder(), f"{label}-{digest}")


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """Returns the installed packages' versions by name."""
    return {package: importlib.metadata.version(package) for package in packages}


def _append(file: Any, name: str, array: np.ndarray, storage: Storage) -> None:
    if name not in file:
        file.create_dataset(
            name,
            data=array,
            maxshape=(None, *array.shape[1:]),
            chunks=(storage.rows_a_block, *array.shape[1:]),
            compression=storage.gzip_level,
            track_times=False,
        )
    else:
        data = file[name]
        data.resize(len(data) + len(array), axis=0)
        data[-len(array) :] = array


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
