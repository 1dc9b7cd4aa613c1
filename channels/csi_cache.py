"""Where generated data sets are kept: parts until all are there, then one HDF5 file and its manifest.

A data set is named by a hash of all that its numbers depend on. The folder, $SEMCOM_CACHE or else semcom in
the user's cache ($XDG_CACHE_HOME or ~/.cache), holds NAME.h5 (see csi_dataset.py), NAME.json with the
configuration, the versions of the packages and the SHA-256 of NAME.h5, and NAME.parts while it is being
made. Names of parts end with the beginning of their SHA-256. What is not as its checksum says is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import xml.etree.ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from channels.csi_generator import GENERATOR_VERSION, Part
from channels.csi_scene import CsiSceneConfig
from channels.scenes import SCENES
from semcom.contracts import SemcomError
from semcom.files import sha256, write_atomically
from semcom.provenance import device, source_commit, versions

_DIGITS = 16
# So that a slice of positions can be read without the whole file, and little is read beside it.
_POSITIONS_A_BLOCK = 16


def cache_folder() -> Path:
    """Returns the folder of generated data sets: $SEMCOM_CACHE, or semcom in the user's cache."""
    if given := os.environ.get("SEMCOM_CACHE"):
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semcom"


@dataclass(frozen=True)
class CsiCache:
    """The place of one data set."""

    config: CsiSceneConfig
    seed: int
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

    def write_part(self, number: int, part: Part) -> None:
        """Writes what a chunk became, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{k: v for k, v in vars(part).items() if v is not None})
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

    def read_part(self, number: int) -> Part:
        """Reads a part. Raises SemcomError if it isn't there."""
        for path in self.parts.glob(f"{number}-*.npz"):
            with np.load(path, allow_pickle=False) as held:
                part = {name: held[name] for name in held.files}
            return Part(**{**part, "num_redrawn": int(part["num_redrawn"])})
        raise SemcomError(
            f"part {number} of {self.path} is not in {self.parts}: set SEMCOM_CACHE to a folder that all "
            "workers share"
        )


def open_cache(config: CsiSceneConfig, seed: int) -> CsiCache:
    """Finds the place of the data set of this configuration and seed."""
    told = {
        "config": config.model_dump(mode="json", exclude={"positions_path"}),
        "seed": seed,
        "generator": GENERATOR_VERSION,
        "sionna-rt": _sionna_version(),
        "files": [sha256(path) for path in _files(config)],
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:_DIGITS]
    scene = config.scene if config.scene in SCENES else Path(config.scene).stem
    return CsiCache(config, seed, cache_folder(), f"{scene}-{digest}")


def assemble(cache: CsiCache, num_parts: int, wall_time_s: float) -> None:
    """Puts the parts together as the data set's file, one part at a time, and removes them.

    Raises SemcomError if one is missing.
    """
    config = cache.config
    num_redrawn, dark = 0, []

    def write(temporary: Path) -> None:
        import h5py

        nonlocal num_redrawn
        with h5py.File(temporary, "w") as file:
            file.attrs["carrier_hz"] = config.carrier_hz
            file.attrs["bandwidth_hz"] = config.bandwidth_hz
            file.attrs["description"] = f"ray-traced: {config.scene}, seed {cache.seed}"
            for number in range(num_parts):
                part = cache.read_part(number)
                _append(file, vars(part))
                num_redrawn += part.num_redrawn
                dark.append(~part.csi.any(axis=(2, 3, 4)))

    write_atomically(cache.path, write)
    without_path = np.concatenate(dark)
    manifest = {
        "config": config.model_dump(mode="json"),
        "seed": cache.seed,
        "generator_version": GENERATOR_VERSION,
        "num_positions": len(without_path),
        "num_redrawn_trajectories": num_redrawn,
        "share_without_path_by_array": without_path.mean(axis=0).round(6).tolist(),
        "sha256": sha256(cache.path),
        "commit": source_commit(),
        "versions": {**versions(), "sionna-rt": _sionna_version()},
        "device": device(),
        "wall_time_s": round(wall_time_s, 1),
    }
    content = json.dumps(manifest, indent=2).encode()
    write_atomically(cache.manifest_path, lambda temporary: _write(temporary, content))
    shutil.rmtree(cache.parts, ignore_errors=True)


def _append(file: Any, arrays: Mapping[str, np.ndarray | int | None]) -> None:
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            continue
        if name not in file:
            block = (_POSITIONS_A_BLOCK if name == "csi" else 1024, *array.shape[1:])
            file.create_dataset(
                name, data=array, maxshape=(None, *array.shape[1:]), chunks=block, track_times=False
            )
        else:
            data = file[name]
            data.resize(len(data) + len(array), axis=0)
            data[-len(array) :] = array


def _files(config: CsiSceneConfig) -> Sequence[Path]:
    """The files that the numbers depend on: positions, a scene and the meshes that it names."""
    found = [config.positions_path] if config.positions_path is not None else []
    if config.scene not in SCENES:
        scene = Path(config.scene)
        found.append(scene)
        with suppress(xml.etree.ElementTree.ParseError):
            named = xml.etree.ElementTree.parse(scene).iterfind(".//string[@name='filename']")
            meshes = {scene.parent / str(node.get("value")) for node in named}
            found += sorted(mesh for mesh in meshes if mesh.is_file())
    return found


def _sionna_version() -> str:
    return importlib.metadata.version("sionna-rt")


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
