"""Data sets of channels at known places: CSI, position and, along trajectories, time and velocity.

An HDF5 file that holds one:

- `csi`: complex64 or complex128, [positions, antennas, subcarriers] for one array, or [positions, arrays,
  rows, columns, subcarriers], in which an antenna of two polarisations takes two columns; or float32 or
  float64 with a last axis of two: real and imaginary part. The lowest frequency comes first.
- `position_m`: [positions, 2 or 3]. Used for evaluation, and by the methods that are called supervised.
- optional: `time_s` [positions]; `velocity_m_s` [positions, 2 or 3]; `trajectory` [positions], whole numbers:
  positions of one trajectory stand together, in the order of time.
- optional attributes of the file, or of `csi`: `carrier_hz`, `bandwidth_hz`; of the file: `description`.

Where there is `time_s` but no `trajectory`, a new one begins wherever time jumps (see `split_at_jumps`).
Whatever else is in the file is left alone. Arrays become such a file by

    write_dataset(Path("hall.h5"), csi, position_m, time_s=time_s, bandwidth_hz=50e6)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from channels.hdf5_arrays import (
    Rows,
    check_finite,
    positive_number,
    read_arrays,
    single_precision,
    write_arrays,
)
from semcom.contracts import SemcomError

# A trajectory ends where the next position comes later than this many median intervals.
MAX_GAP_INTERVALS = 3.0

_ARRAYS = ("csi", "position_m", "time_s", "velocity_m_s", "trajectory")
_ATTRIBUTES = ("carrier_hz", "bandwidth_hz")


@dataclass(frozen=True)
class CsiDataset:
    """N positions, R arrays of M antennas each, F subcarriers.

    csi: complex64 [N, R, M, F]; position_m: float64 [N, 3], the third 0 where a file has two.
    time_s: float64 [N] or None; velocity_m_s: float64 [N, 3] or None; trajectory: int64 [N], 0 throughout
    where nothing tells trajectories apart. carrier_hz and bandwidth_hz: None where they aren't known.
    num_rows: an array's antennas are num_rows rows of M / num_rows columns each, row by row.
    """

    csi: np.ndarray
    position_m: np.ndarray
    trajectory: np.ndarray
    time_s: np.ndarray | None = None
    velocity_m_s: np.ndarray | None = None
    carrier_hz: float | None = None
    bandwidth_hz: float | None = None
    num_rows: int = 1

    def __len__(self) -> int:
        return len(self.csi)


def read_dataset(path: Path, *, where: str = "data.path") -> CsiDataset:
    """Reads a file of the form described at the top of this module; all of it is held in memory.

    where: the key under which the path was given, for the errors. Raises SemcomError, naming the file, the
    key and the remedy, for a file that is not there or no HDF5, a missing key, a wrong type or shape,
    lengths that differ, NaN and infinities (with the first one's place), CSI that is zero throughout at a
    position, and a trajectory that is not in one piece or not in the order of time.
    """
    told = f"{where} = {path}"
    arrays, attributes = read_arrays(path, told, _ARRAYS[:2], _ARRAYS[2:], _ATTRIBUTES, beside="csi")
    return _checked(arrays, attributes, told)


def write_dataset(
    path: Path,
    csi: np.ndarray,
    position_m: np.ndarray,
    *,
    time_s: np.ndarray | None = None,
    velocity_m_s: np.ndarray | None = None,
    trajectory: np.ndarray | None = None,
    carrier_hz: float | None = None,
    bandwidth_hz: float | None = None,
    description: str | None = None,
) -> None:
    """Writes arrays as a file that `read_dataset` reads: whole, or not at all.

    The arrays are as described at the top of this module; csi may also be [N, R, M, F], as in CsiDataset,
    and is then stored with one row for each array. Raises SemcomError for arrays that `read_dataset` would
    refuse, and where the file can't be written.
    """
    if csi.ndim == 4 and np.iscomplexobj(csi):
        csi = csi[:, :, None]
    given = (csi, position_m, time_s, velocity_m_s, trajectory)
    arrays = {name: np.asarray(data) for name, data in zip(_ARRAYS, given, strict=True) if data is not None}
    attributes = {"carrier_hz": carrier_hz, "bandwidth_hz": bandwidth_hz}
    _checked(arrays, attributes, str(path))
    write_arrays(path, arrays, {**attributes, "description": description})


def split_at_jumps(time_s: np.ndarray) -> np.ndarray:
    """Numbers the trajectories of positions at times [N]: int64 [N], from 0.

    A new one begins where time runs back or stands still, and after a gap of more than MAX_GAP_INTERVALS
    times the median interval, which is taken over all intervals in which time runs on.
    """
    interval_s = np.diff(time_s)
    onward = interval_s > 0
    if not onward.any():
        return np.arange(len(time_s), dtype=np.int64)
    jumps = ~onward | (interval_s > MAX_GAP_INTERVALS * np.median(interval_s[onward]))
    return np.concatenate([[0], np.cumsum(jumps)]).astype(np.int64)


def _checked(arrays: dict[str, np.ndarray], attributes: dict[str, Any], told: str) -> CsiDataset:
    """The data set that these arrays are, or one line about the first thing that is wrong with them."""
    csi, num_rows = _csi(arrays["csi"], told)
    rows = Rows(told, "position", "csi", len(csi))
    real = {
        name: _real(arrays[name], rows, name, axes)
        for name, axes in (("position_m", 2), ("time_s", 1), ("velocity_m_s", 2))
        if name in arrays
    }
    time_s = real.get("time_s")
    if "trajectory" in arrays:
        trajectory = rows.pieces(arrays["trajectory"], "trajectory")
        if time_s is not None:
            rows.check_order(time_s, trajectory, "trajectory")
    else:
        trajectory = np.zeros(len(csi), dtype=np.int64) if time_s is None else split_at_jumps(time_s)
    return CsiDataset(
        csi=csi,
        position_m=real["position_m"],
        trajectory=trajectory,
        time_s=time_s,
        velocity_m_s=real.get("velocity_m_s"),
        carrier_hz=positive_number(attributes["carrier_hz"], told, "carrier_hz"),
        bandwidth_hz=positive_number(attributes["bandwidth_hz"], told, "bandwidth_hz"),
        num_rows=num_rows,
    )


def _csi(data: np.ndarray, told: str) -> tuple[np.ndarray, int]:
    """Checks `csi` and brings it to complex64 [N, R, M, F]; tells the rows of an array as well."""
    form = "[positions, antennas, subcarriers] or [positions, arrays, rows, columns, subcarriers]"
    found = f"{told}: csi has type {data.dtype} and shape {data.shape}"
    if data.dtype.kind not in "cf" or (data.dtype.kind == "f" and data.shape[-1:] != (2,)):
        raise SemcomError(f"{found}: store complex numbers, or real and imaginary parts in a last axis of 2")
    check_finite(data, told, "csi")
    if data.dtype.kind == "f":
        data = data[..., 0] + 1j * data[..., 1]
    if data.ndim not in (3, 5) or data.size == 0:
        raise SemcomError(f"{found}: store {form}")
    csi = single_precision(data, told, "csi")
    num_arrays, num_rows = (1, 1) if csi.ndim == 3 else csi.shape[1:3]
    csi = csi.reshape(len(csi), num_arrays, -1, csi.shape[-1])
    silent = np.flatnonzero(~csi.any(axis=(1, 2, 3)))
    if silent.size:
        raise SemcomError(
            f"{told}: csi is zero throughout at position {silent[0]}, which no path reaches: remove it"
        )
    return csi, num_rows


def _real(data: np.ndarray, rows: Rows, name: str, axes: int) -> np.ndarray:
    """Checks real numbers [N] or vectors [N, 2 or 3]: float64 [N] or [N, 3], a missing third number 0."""
    if data.dtype.kind not in "fiu" or data.ndim != axes or (axes == 2 and data.shape[1] not in (2, 3)):
        form = "[positions]" if axes == 1 else "[positions, 2 or 3]"
        raise SemcomError(
            f"{rows.told}: {name} has type {data.dtype} and shape {data.shape}: store real numbers {form}"
        )
    rows.check_length(data, name)
    check_finite(data, rows.told, name)
    values = data.astype(np.float64)
    return np.pad(values, ((0, 0), (0, 3 - values.shape[1]))) if axes == 2 else values
