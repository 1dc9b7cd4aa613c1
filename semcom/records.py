"""Run folders: the records, checkpoints and manifest of a run, written so that a kill loses little."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors import SafetensorError

from semcom.contracts import Record, SemcomError
from semcom.files import TEMPORARY, sha256, unwritable, write_atomically
from semcom.provenance import device, source_commit, versions
from semcom.tensor_files import read_tensors, write_tensors

FORMAT = 1
COLUMNS = ("scenario", "method", "seed", "metric", "value", "unit", "num_samples", "result")

_FINISHED = b"semcom.finished"
_CENTRAL = "central"


def point_id(result: str, method: str, seed: int, axes: Mapping[str, Any]) -> str:
    """Returns the name of an operating point: a hash of its coordinates, in which 20 and 20.0 are equal."""
    plain = {key: value if isinstance(value, str) else float(value) for key, value in axes.items()}
    text = json.dumps([result, method, int(seed), plain], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class FinishedPoint:
    """The records of one operating point, with the coordinates under which it will be looked up."""

    result: str
    method: str
    seed: int
    axes: Mapping[str, float | int | str]
    records: Sequence[Record]


def load_into(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Loads tensors into a module, once their names and shapes are known to fit.

    where: what the tensors come from, for the error text. Raises SemcomError naming `where`, the first
    tensor that doesn't fit, and the shapes expected and found; the module is then untouched.
    """
    expected = module.state_dict()
    remedy = "use the settings it was trained with, or another --out"
    for name, tensor in expected.items():
        if name not in tensors:
            raise SemcomError(f"{where}: tensor {name} {list(tensor.shape)} is missing: {remedy}")
        if tensors[name].shape != tensor.shape:
            raise SemcomError(
                f"{where}: tensor {name} has shape {list(tensors[name].shape)}, "
                f"the model expects {list(tensor.shape)}: {remedy}"
            )
    for name, tensor in tensors.items():
        if name not in expected:
            raise SemcomError(f"{where}: tensor {name} {list(tensor.shape)} is not in the model: {remedy}")
        if not bool(torch.isfinite(tensor).all()):
            raise SemcomError(f"{where}: tensor {name} holds NaN or infinity: delete it, and train again")
    module.load_state_dict(dict(tensors))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    old, new = _flatten(there), _flatten(here)
    for key in [*old, *new]:
        if key not in old:
            return f"no {key}, which is now {new[key]}"
        if key not in new:
            return f"{key} = {old[key]}, which is not set now"
        if old[key] != new[key]:
            return f"{key} = {old[key]}, not {new[key]}"
    return ""


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Returns the manifest of a folder, or None if it has none of ours."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        raise SemcomError(
            f"{path / 'manifest.json'} can't be read: restore it or give another folder"
        ) from None
    if not isinstance(manifest, dict) or "semcom_format" not in manifest:
        return None
    if manifest["semcom_format"] != FORMAT:
        raise SemcomError(
            f"{path} has run-folder format {manifest['semcom_format']}, this version reads {FORMAT}: "
            "use the version that wrote it, or another folder"
        )
    for key, kind in _MANIFEST_TYPES.items():
        if not isinstance(manifest.get(key), kind):
            raise SemcomError(f"{path / 'manifest.json'} has no proper {key}: restore it")
    return manifest


_MADE_AT_ONCE = {"config.yaml", "manifest.json"}
_MANIFEST_TYPES = {"scenario": str, "axes": list, "config": dict, "seeds": list, "sessions": list}


def _hold(path: Path) -> int:
    """Locks a folder against other processes; the lock ends with the process, however it ends."""
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise SemcomError(f"{path} is in use by another run: wait for it, or give another --out") from None
    return lock


class RunFolder:
    """A run's folder: config.yaml, manifest.json, records.parquet, training.parquet, checkpoints, figures.

    `RunFolder.create` makes one or resumes it, and holds it against other processes until it is closed
    (use it in a `with`); `RunFolder.open` reads one. Every file is written whole or not at all. The
    points that are finished are listed in the metadata of records.parquet, so that the list and the
    records can't disagree.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._lock: int | None = None
        self._stamped = False
        self._started = time.monotonic()
        self.records, self.finished = self._read_records()

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        scenario: str,
        preset: str,
        config: Mapping[str, Any],
        seeds: Sequence[int],
        axes: Sequence[str] = (),
        inputs: Sequence[Path] = (),
    ) -> RunFolder:
        """Makes a run folder, or resumes the one that is there; where nothing was made yet, anew.

        config: the configuration as plain values; axes: the keys that a sweep varies (empty for a run).
        inputs: the files that the run reads; the manifest keeps the SHA-256 of each.
        Raises SemcomError for a place that can't be written, a folder that holds something else, another
        scenario, other settings, other axes or an input of another content, and for one that another
        process is writing to.
        """
        digests = {str(path): sha256(path) for path in inputs}
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = [entry.name for entry in path.iterdir() if not entry.name.startswith(TEMPORARY)]
        except OSError as error:
            raise unwritable(path, error) from error
        wanted = json.loads(json.dumps({"scenario": scenario, "axes": sorted(axes), "config": config}))
        lock = _hold(path)
        try:
            manifest = _read_manifest(path)
            if manifest is not None and set(names) <= _MADE_AT_ONCE:
                # A run that was refused for its data, or stopped so soon, binds nobody to its settings.
                manifest, names = None, []
            if manifest is None:
                if names:
                    raise SemcomError(
                        f"{path} is not empty and no run folder: give --out an empty or a new folder"
                    )
                manifest = {"semcom_format": FORMAT, **wanted, "preset": preset, "started": _now()}
                manifest |= {"seeds": [], "wall_time_s": 0.0, "sessions": []}
            for key, here in wanted.items():
                there = manifest.get(key)
                if there != here:
                    found = f"{key} {there}, not {here}"
                    if key == "config":
                        found = _first_difference(there or {}, here)
                    raise SemcomError(
                        f"{path} holds a run with {found}: give another --out, or the same settings"
                    )
            known = manifest.get("inputs", {})
            for name, digest in digests.items():
                if known.get(name, digest) != digest:
                    raise SemcomError(
                        f"{path} holds a run on another {name} (SHA-256 {known[name]}, now {digest}): "
                        "give another --out, or restore that file"
                    )
            if digests:
                manifest["inputs"] = {**known, **digests}
            folder = cls(path, manifest)
            folder._begin(seeds)
        except BaseException:
            os.close(lock)
            raise
        folder._lock = lock
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Opens a folder to read; manifest.json and records.parquet or training.parquet are enough.

        Raises SemcomError if it is no run folder or holds no records.
        """
        manifest = _read_manifest(path)
        if manifest is None:
            raise SemcomError(
                f"{path} is no run folder (it has no manifest.json of ours): give one of `semcom run`"
            )
        if not any((path / name).exists() for name in ("records.parquet", "training.parquet")):
            raise SemcomError(f"{path} holds no records yet: let `semcom run` finish some points first")
        return cls(path, manifest)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Notes the wall time and lets other processes write; does nothing to a folder opened to read."""
        if self._lock is not None:
            try:
                self._write_manifest()
            finally:
                os.close(self._lock)
                self._lock = None

    def _begin(self, seeds: Sequence[int]) -> None:
        for leftover in [*self.path.glob(f"{TEMPORARY}*"), *self.path.glob(f"*/{TEMPORARY}*")]:
            with suppress(OSError):
                leftover.unlink()
        self.manifest["seeds"] = sorted({*self.manifest["seeds"], *(int(seed) for seed in seeds)})
        if "commit" not in self.manifest:
            self._stamp()
        self._write_manifest()
        settings = {key: self.manifest[key] for key in ("scenario", "preset", "axes", "config")}
        text = "# What this folder holds, for the reader: changing it changes nothing.\n"
        text += yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "config.yaml", lambda file: _write_text(file, text))

    def _stamp(self) -> None:
        """Notes where results come from, once a session has some: one that adds none leaves no trace."""
        if not self._stamped:
            self._stamped = True
            self.manifest |= {"commit": source_commit(), "device": device(), "versions": versions()}
            session = {"started": _now(), "commit": self.manifest["commit"], "wall_time_s": 0.0}
            self.manifest["sessions"] = [*self.manifest["sessions"], session]

    def _write_manifest(self) -> None:
        sessions = self.manifest["sessions"]
        if self._stamped:
            sessions[-1]["wall_time_s"] = round(time.monotonic() - self._started, 1)
        self.manifest["wall_time_s"] = round(sum(session["wall_time_s"] for session in sessions), 1)
        text = json.dumps(self.manifest, indent=2) + "\n"
        write_atomically(self.path / "manifest.json", lambda file: _write_text(file, text))

    def _read_records(self) -> tuple[pd.DataFrame, frozenset[str]]:
        path = self.path / "records.parquet"
        if not path.exists():
            return pd.DataFrame(columns=list(COLUMNS)), frozenset()
        table = _read_table(path)
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise SemcomError(f"{path} has no column {missing[0]}: it is no file of records")
        finished = (table.schema.metadata or {}).get(_FINISHED)
        if finished is None:
            raise SemcomError(
                f"{path} has lost its list of finished points (another program wrote it): restore it"
            )
        return table.to_pandas(), frozenset(json.loads(finished))

    def is_finished(self, result: str, method: str, seed: int, axes: Mapping[str, Any]) -> bool:
        """Tells whether the records of this operating point are in the folder."""
        return point_id(result, method, seed, axes) in self.finished

    def add(self, points: Sequence[FinishedPoint]) -> None:
        """Adds the records of some points to records.parquet, sorted, in one atomic step.

        Raises SemcomError for a point that is there already and for an axis named like a record's column.
        """
        rows, names = [], []
        for point in points:
            if self.is_finished(point.result, point.method, point.seed, point.axes):
                raise SemcomError(f"{self.path}: point {point.method}, seed {point.seed} is already recorded")
            names.append(point_id(point.result, point.method, point.seed, point.axes))
            for record in point.records:
                columns = {**record.point, **point.axes}
                if clash := columns.keys() & set(COLUMNS):
                    raise SemcomError(f"axis {min(clash)} is named like a column of the records: rename it")
                fixed = {
                    "scenario": record.scenario,
                    "method": record.method,
                    "seed": int(record.seed),
                    "metric": record.metric,
                    "value": float(record.value),
                    "unit": record.unit,
                    "num_samples": int(record.num_samples),
                    "result": point.result,
                }
                rows.append({**fixed, **columns})
        records = self.records
        if rows:
            new = pd.DataFrame(rows)
            records = _sorted(pd.concat([records, new], ignore_index=True) if len(records) else new)
        finished = self.finished | set(names)
        table = pa.Table.from_pandas(records, preserve_index=False)
        metadata = {**(table.schema.metadata or {}), _FINISHED: json.dumps(sorted(finished)).encode()}
        table = table.replace_schema_metadata(metadata)
        write_atomically(self.path / "records.parquet", lambda file: pq.write_table(table, file))
        self.records, self.finished = records, finished
        self._stamp()
        self._write_manifest()

    def checkpoint_path(self, model: str, key: str) -> Path:
        """Returns where the checkpoint of a model with this key lies, or would lie."""
        return self.path / "checkpoints" / f"{model}-{key}.safetensors"

    def scratch_path(self, model: str, key: str) -> Path:
        """Makes the folder in which a training of this key leaves what it needs to go on; returns it."""
        path = self.checkpoint_path(model, key).with_suffix(".partial")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        return path

    def has_checkpoint(self, model: str, key: str) -> bool:
        """Tells whether a model with this key has been trained."""
        return self.checkpoint_path(model, key).exists()

    def save_training(
        self,
        model: str,
        key: str,
        seed: int,
        tensors: Mapping[str, torch.Tensor],
        log: Sequence[Mapping[str, float | int | str]],
        mode: str = _CENTRAL,
        setting: str = "",
    ) -> Path:
        """Writes what a training gave: its log into training.parquet, then its checkpoint; returns that.

        mode, setting: how it was trained, and what else tells it from others in the folder.
        The checkpoint comes last, since it says that the model need not be trained again.
        """
        if log:
            told = {"model": model, "seed": seed, "key": key, "mode": mode, "setting": setting}
            self._add_log(pd.DataFrame([{**told, **row} for row in log]), key)
        path = self.checkpoint_path(model, key)
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(path.parent, error) from error
        metadata = {"semcom_format": str(FORMAT), "model": model, "key": key, "seed": str(seed)}
        write_tensors(path, tensors, metadata)
        shutil.rmtree(path.with_suffix(".partial"), ignore_errors=True)
        self._stamp()
        return path

    def _add_log(self, log: pd.DataFrame, key: str) -> None:
        path = self.path / "training.parquet"
        if path.exists():
            earlier = self.trainings
            # A kill between log and checkpoint leaves the rows of a model that is now trained anew.
            earlier = earlier[earlier["key"] != key]
            log = pd.concat([earlier, log], ignore_index=True) if len(earlier) else log
        log = log.sort_values(["model", "seed", "key"], kind="stable", ignore_index=True)
        table = pa.Table.from_pandas(log, preserve_index=False)
        write_atomically(path, lambda file: pq.write_table(table, file))

    @property
    def trainings(self) -> pd.DataFrame:
        """The rows of training.parquet, if there is one; without a mode they are of central trainings."""
        path = self.path / "training.parquet"
        rows = _read_table(path).to_pandas() if path.exists() else pd.DataFrame()
        for name, before in (("mode", _CENTRAL), ("setting", "")):
            if name not in rows:
                rows[name] = before
        return rows

    def load_checkpoint(self, model: str, key: str) -> dict[str, torch.Tensor]:
        """Reads the tensors of a trained model.

        Raises SemcomError, naming the file, if it is missing, truncated, or of another model or version.
        """
        path = self.checkpoint_path(model, key)
        try:
            tensors, metadata = read_tensors(path)
        except FileNotFoundError:
            raise SemcomError(f"checkpoint {path} is missing: train it with the same command") from None
        except (SafetensorError, OSError) as error:
            raise SemcomError(
                f"checkpoint {path} is truncated or corrupt ({error}): delete it, and it is trained again"
            ) from None
        expected = {"semcom_format": str(FORMAT), "model": model, "key": key}
        for name, value in expected.items():
            if metadata.get(name) != value:
                raise SemcomError(
                    f"checkpoint {path} has {name} = {metadata.get(name)}, expected {value}: "
                    "delete it, and it is trained again"
                )
        return tensors


def _write_text(file: Path, text: str) -> None:
    file.write_text(text)


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SemcomError(f"{path} is truncated or corrupt ({reason}): restore it from a copy") from None


def _sorted(records: pd.DataFrame) -> pd.DataFrame:
    """Puts rows and columns in the order that does not tell in how many goes they were computed."""
    axes = sorted(name for name in records.columns if name not in COLUMNS)
    records = records[[*COLUMNS, *axes]].copy()
    for name in axes:
        if any(isinstance(value, str) for value in records[name]):
            # A parquet column has one type: numbers beside words are kept as words.
            records[name] = records[name].map(str, na_action="ignore")
    return records.sort_values(["result", "method", *axes, "seed"], kind="stable", ignore_index=True)
