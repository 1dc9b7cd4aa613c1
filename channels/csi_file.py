"""HDF5 files of recorded channels: what they must hold, how they are checked, and how one is written.

- A dataset `csi` (or another, whose name is given): the complex response of each user at each antenna and
  subcarrier, [users, antennas, subcarriers], or along each user's way, [users, times, antennas,
  subcarriers]; if so told, a three-dimensional one is a single way, [times, antennas, subcarriers].
  complex64 or complex128, or float32 or float64 with a last axis of two: real and imaginary part.
- Its attribute `bandwidth_hz`, or the file's, unless given otherwise or there is one subcarrier: the F
  subcarriers are the centres of F equal parts of it, the lowest first, the carrier in its middle.
- Its attribute `snapshot_interval_s`, or the file's, unless given otherwise or there is one time.

Whatever else is in the file (positions, descriptions) is left alone. An array `csi` becomes such a file by

    write_csi(Path("hall.h5"), csi, bandwidth_hz=50e6, snapshot_interval_s=0.048)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from semcom.contracts import SemcomError

# A file is looked through in blocks of this size, however large it is.
_BYTES_AT_ONCE = 1 << 25


@dataclass(frozen=True)
class CsiFile:
    """A file that has been looked through: [num_users, num_times, num_antennas, num_subcarriers].

    has_users, has_times: whether the dataset has an axis for them. mean_power: of |h|^2 over all there is.
    bandwidth_hz and snapshot_interval_s are infinite where there is one subcarrier or one time.
    """

    path: Path
    dataset: str
    num_users: int
    num_times: int
    num_antennas: int
    num_subcarriers: int
    has_users: bool
    has_times: bool
    bandwidth_hz: float
    snapshot_interval_s: float
    mean_power: float

    def read(self, places: list[tuple[int, int]], subcarriers: slice) -> np.ndarray:
        """Reads the snapshots of (user, time), alone: complex [n, num_antennas, subcarriers]."""
        import h5py

        with h5py.File(self.path, "r") as file:
            data = file[self.dataset]
            found = [
                data[(user,) * self.has_users + (time,) * self.has_times + (slice(None), subcarriers)]
                for user, time in places
            ]
        return _to_complex(np.stack(found))


def write_csi(
    path: Path,
    csi: np.ndarray,
    *,
    bandwidth_hz: float | None = None,
    snapshot_interval_s: float | None = None,
    dataset: str = "csi",
) -> None:
    """Writes an array as a file that this module reads; what it must be stands at its top."""
    import h5py

    attributes = {"bandwidth_hz": bandwidth_hz, "snapshot_interval_s": snapshot_interval_s}
    num_leading = csi.ndim - 2 - (not np.iscomplexobj(csi))
    with h5py.File(path, "w") as file:
        # One chunk a snapshot, so that each can be read alone.
        chunks = (1,) * num_leading + csi.shape[num_leading:]
        stored = file.create_dataset(dataset, data=csi, chunks=chunks)
        stored.attrs.update({name: value for name, value in attributes.items() if value is not None})


def open_csi(
    path: Path,
    dataset: str = "csi",
    *,
    first_axis: str = "users",
    bandwidth_hz: float | None = None,
    snapshot_interval_s: float | None = None,
) -> CsiFile:
    """Looks a file through, in blocks and once as long as it doesn't change, and returns what it holds.

    first_axis: users or time, of a three-dimensional dataset. Raises SemcomError, naming the channel's
    keys, for a file that is not there or no HDF5, a dataset that is missing or not as this module says, NaN
    and infinities, and snapshots that are zero throughout.
    """
    import h5py

    where = f"channel.path = {path}"
    try:
        stat = path.stat()
        with h5py.File(path, "r") as file:
            data = _dataset(file, dataset, where)
            shape = _complex_shape(data, where)
            has_users, has_times = len(shape) == 4 or first_axis == "users", len(shape) == 4
            if len(shape) == 3:
                has_times = not has_users
                shape = (shape[0], 1, *shape[1:]) if has_users else (1, *shape)
            told = {
                name: _attribute((data, file), name, value, where) if count > 1 else math.inf
                for name, value, count in (
                    ("bandwidth_hz", bandwidth_hz, shape[3]),
                    ("snapshot_interval_s", snapshot_interval_s, shape[1]),
                )
            }
        num_users, num_times, num_antennas, num_subcarriers = shape
        mean_power = _mean_power(path, dataset, stat.st_mtime_ns, stat.st_size)
    except FileNotFoundError:
        raise SemcomError(f"{where}: there is no such file: give the path of an HDF5 file") from None
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise SemcomError(f"{where} can't be read as HDF5 ({reason}): give another file") from None
    return CsiFile(
        path=path,
        dataset=dataset,
        num_users=num_users,
        num_times=num_times,
        num_antennas=num_antennas,
        num_subcarriers=num_subcarriers,
        has_users=has_users,
        has_times=has_times,
        mean_power=mean_power,
        **told,
    )


def _dataset(file: Any, dataset: str, where: str) -> Any:
    import h5py

    data = file.get(dataset)
    if isinstance(data, h5py.Dataset):
        return data
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    found = ", ".join(names[:8]) or "no dataset"
    raise SemcomError(f"{where} has no dataset {dataset} (it has {found}): name one by channel.dataset")


def _complex_shape(data: Any, where: str) -> tuple[int, ...]:
    """The dataset's shape, without the axis of real and imaginary parts."""
    found = f"{where}: {data.name.lstrip('/')} has type {data.dtype} and shape {data.shape}"
    if data.dtype.kind not in "cf" or (data.dtype.kind == "f" and data.shape[-1:] != (2,)):
        raise SemcomError(f"{found}: store complex numbers, or real and imaginary parts in a last axis of 2")
    shape: tuple[int, ...] = data.shape[: data.ndim - (data.dtype.kind == "f")]
    if len(shape) not in (3, 4) or 0 in shape:
        raise SemcomError(
            f"{found}: store [users, antennas, subcarriers] or [users, times, antennas, subcarriers]"
        )
    return shape


def _attribute(owners: tuple[Any, Any], name: str, value: float | None, where: str) -> float:
    """What was given, else what dataset or file say."""
    for owner in owners:
        value = owner.attrs.get(name) if value is None else value
    if value is None:
        raise SemcomError(f"{where} has no attribute {name}, and needs it: give channel.{name}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise SemcomError(
            f"{where}: attribute {name} is {value!r}, no number above 0: give channel.{name} instead"
        )
    return number


@lru_cache(maxsize=32)
def _mean_power(path: Path, dataset: str, mtime_ns: int, num_bytes: int) -> float:
    """Mean of |h|^2 over a dataset, of which every value must be finite and no snapshot zero.

    mtime_ns, num_bytes: of the file; one that has changed is read again.
    """
    import h5py

    where, total, count = f"channel.path = {path}", 0.0, 0
    with h5py.File(path, "r") as file:
        for place, block in _blocks(file[dataset]):
            finite = np.isfinite(block)
            if not finite.all():
                first = np.argwhere(~finite)[0].tolist()
                raise SemcomError(
                    f"{where}: {dataset} holds NaN or infinity, first at {_place(place, first)}: "
                    "mend or remove it"
                )
            h = _to_complex(block).astype(np.complex128)
            with np.errstate(over="ignore"):
                power = (h.real**2 + h.imag**2).sum(axis=(1, 2))
            if not power.all():
                silent = np.flatnonzero(power == 0)[:1].tolist()
                raise SemcomError(
                    f"{where}: {dataset} is zero throughout at {_place(place, silent)}, which no path "
                    "reaches: remove this snapshot"
                )
            total += float(power.sum())
            count += h.size
    if not total < math.inf:
        raise SemcomError(f"{where}: {dataset} has values too large to be squared: scale it down")
    return total / count


def _place(block: list[int], within: list[int]) -> list[int]:
    return [*block[:-1], block[-1] + within[0], *within[1:]]


def _blocks(data: Any) -> Iterator[tuple[list[int], np.ndarray]]:
    """Cuts a dataset along its leading axes: the place of each block's first snapshot, and the block."""
    num_leading = data.ndim - 2 - (data.dtype.kind == "f")
    snapshot_bytes = data.dtype.itemsize * math.prod(data.shape[num_leading:])
    size = max(1, _BYTES_AT_ONCE // snapshot_bytes)
    for outer in np.ndindex(*data.shape[: num_leading - 1]):
        for start in range(0, data.shape[num_leading - 1], size):
            yield [*outer, start], data[(*outer, slice(start, start + size))]


def _to_complex(values: np.ndarray) -> np.ndarray:
    return values if np.iscomplexobj(values) else values[..., 0] + 1j * values[..., 1]
