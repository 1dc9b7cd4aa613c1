"""Data sets of a sensed room: camera frames, CSI, and where everybody was.

An HDF5 file that holds one, its rows the time steps at which all sensors were read:

- `frame`: uint8, 0 to 255, [steps, cameras, height, width, 3] red, green, blue, or [steps, cameras, height,
  width] grey, which becomes three equal colours.
- `csi`: the channel from the transmitter to each receiver, complex64 or complex128, [steps, receivers,
  subcarriers], or float32 or float64 with a last axis of two: real and imaginary part. The lowest frequency
  comes first. Or instead of it `csi_amplitude`: real, not negative, [steps, receivers, subcarriers], from
  receivers that tell no phase; it is read as CSI of phase zero. A receiver that heard nothing in a step has
  zeros there.
- `position_m`: [steps, pedestrians, 2], x and y of each in the room, up to MAX_PEDESTRIANS; NaN in the steps
  in which one isn't there. Without it nobody can be localised, nor a localiser be judged: it is required.
- `sequence`: [steps], whole numbers: the steps of one sequence stand together, in the order of time.
- `time_s`: [steps]. Within sequences, steps are MAX_JITTER of the median interval off it at most: a model of
  the last few steps takes them for equal. A sequence ends where a step was missed.
- optional: `visible_share`: [steps, cameras, pedestrians], see RoomWorld.frames; who is not there is NaN.
- optional attributes of the file: `carrier_hz`, `bandwidth_hz`, `description`.

Whatever else is in the file is left alone. Arrays become such a file by

    write_sensing(Path("office.h5"), frame=frame, csi_amplitude=amplitude, position_m=position_m,
                  sequence=sequence, time_s=time_s)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.sensing import SSIM_WINDOW_PX
from channels.hdf5_arrays import (
    Rows,
    check_finite,
    first_place,
    positive_number,
    read_arrays,
    single_precision,
    write_arrays,
)
from channels.room import MAX_PEDESTRIANS
from semcom.contracts import SemcomError

MAX_JITTER = 0.2
"""So much of the median interval may another one be longer or shorter."""

_REQUIRED = ("frame", "position_m", "sequence", "time_s")
_OPTIONAL = ("csi", "csi_amplitude", "visible_share")
_ATTRIBUTES = ("carrier_hz", "bandwidth_hz")


@dataclass(frozen=True)
class SensingDataset:
    """N time steps of C cameras, R receivers with F subcarriers and up to P pedestrians.

    frame: uint8 [N, C, height, width, 3]; csi: complex64 [N, R, F]; position_m: float32 [N, P, 2], NaN for
    who is not there; visible_share: float32 [N, C, P], see RoomWorld.frames, or None where nobody knows;
    sequence: int64 [N]: steps of one sequence stand together, in the order of time; time_s: float64 [N].
    """

    frame: np.ndarray
    csi: np.ndarray
    position_m: np.ndarray
    sequence: np.ndarray
    time_s: np.ndarray
    visible_share: np.ndarray | None = None
    carrier_hz: float | None = None
    bandwidth_hz: float | None = None

    def __len__(self) -> int:
        return len(self.frame)


def read_sensing(path: Path, where: str = "data.path") -> SensingDataset:
    """Reads a file of the form described at the top of this module; all of it is held in memory.

    where: the key under which the path was given, for the errors. Raises SemcomError, naming the file, the
    key, the first place and the remedy, for a file that is not there or no HDF5, a missing key, a wrong type
    or shape, frames smaller than SSIM's window, lengths that differ, NaN and infinities but for those who
    are not there, negative amplitudes, more than MAX_PEDESTRIANS or nobody at all, and sequences that are not
    in one piece, not in the order of time, tell a time twice or have uneven steps.
    """
    told = f"{where} = {path}"
    arrays, attributes = read_arrays(path, told, _REQUIRED, _OPTIONAL, _ATTRIBUTES)
    return _checked(arrays, attributes, told)


def write_sensing(
    path: Path,
    *,
    frame: np.ndarray,
    position_m: np.ndarray,
    sequence: np.ndarray,
    time_s: np.ndarray,
    csi: np.ndarray | None = None,
    csi_amplitude: np.ndarray | None = None,
    visible_share: np.ndarray | None = None,
    carrier_hz: float | None = None,
    bandwidth_hz: float | None = None,
    description: str | None = None,
) -> None:
    """Writes arrays as a file that `read_sensing` reads: whole, or not at all.

    The arrays are as described at the top of this module, csi or csi_amplitude one of them. Raises
    SemcomError for arrays that `read_sensing` would refuse, and where the file can't be written.
    """
    given = (frame, position_m, sequence, time_s, csi, csi_amplitude, visible_share)
    names = (*_REQUIRED, *_OPTIONAL)
    arrays = {name: np.asarray(data) for name, data in zip(names, given, strict=True) if data is not None}
    attributes = {"carrier_hz": carrier_hz, "bandwidth_hz": bandwidth_hz}
    _checked(arrays, attributes, str(path))
    write_arrays(path, arrays, {**attributes, "description": description})


def _checked(arrays: dict[str, np.ndarray], attributes: dict[str, Any], told: str) -> SensingDataset:
    """The data set that these arrays are, or one line about the first thing that is wrong with them."""
    frame = _frame(arrays["frame"], told)
    rows = Rows(told, "step", "frame", len(frame))
    position_m = _position(arrays["position_m"], rows)
    sequence = rows.pieces(arrays["sequence"], "sequence")
    share = arrays.get("visible_share")
    return SensingDataset(
        frame=frame,
        csi=_csi(arrays, rows),
        position_m=position_m,
        sequence=sequence,
        time_s=_time(arrays["time_s"], sequence, rows),
        visible_share=None if share is None else _visible_share(share, frame.shape[1], position_m, rows),
        carrier_hz=positive_number(attributes["carrier_hz"], told, "carrier_hz"),
        bandwidth_hz=positive_number(attributes["bandwidth_hz"], told, "bandwidth_hz"),
    )


def _frame(data: np.ndarray, told: str) -> np.ndarray:
    """Checks `frame` and brings it to three colours: uint8 [N, C, height, width, 3]."""
    found = f"{told}: frame has type {data.dtype} and shape {data.shape}"
    if data.dtype != np.uint8:
        raise SemcomError(f"{found}: store uint8 from 0 to 255")
    is_colour = data.ndim == 5 and data.shape[-1] == 3
    if data.size == 0 or not (is_colour or data.ndim == 4) or min(data.shape[2:4]) < SSIM_WINDOW_PX:
        raise SemcomError(
            f"{found}: store [steps, cameras, height, width, 3] colours or [steps, cameras, height, width] "
            f"grey, of {SSIM_WINDOW_PX} x {SSIM_WINDOW_PX} pixels at least: SSIM looks through such a window"
        )
    return data if is_colour else np.repeat(data[..., None], 3, axis=-1)


def _csi(arrays: dict[str, np.ndarray], rows: Rows) -> np.ndarray:
    """Checks `csi` or `csi_amplitude` and brings it to complex64 [N, R, F]."""
    told = rows.told
    given = [name for name in ("csi", "csi_amplitude") if name in arrays]
    if len(given) != 1:
        raise SemcomError(
            f"{told} has {'both' if given else 'no dataset'} csi {'and' if given else 'or'} csi_amplitude: "
            "store complex channels as csi, or amplitudes without phase as csi_amplitude"
        )
    [name] = given
    data = arrays[name]
    found = f"{told}: {name} has type {data.dtype} and shape {data.shape}"
    if name == "csi_amplitude":
        if data.dtype.kind not in "fiu":
            raise SemcomError(f"{found}: store real amplitudes, or complex channels as csi")
    elif data.dtype.kind == "f" and data.ndim == 4 and data.shape[-1] == 2:
        data = data[..., 0] + 1j * data[..., 1]
    elif data.dtype.kind != "c":
        raise SemcomError(
            f"{found}: store complex numbers, or real and imaginary parts in a last axis of 2, "
            "or amplitudes as csi_amplitude"
        )
    if data.ndim != 3 or data.size == 0:
        raise SemcomError(f"{found}: store [steps, receivers, subcarriers]")
    rows.check_length(data, name)
    check_finite(data, told, name)
    if name == "csi_amplitude" and (data < 0).any():
        raise SemcomError(
            f"{told}: csi_amplitude is negative, first at {first_place(data < 0)}: store amplitudes, not dB"
        )
    return single_precision(data, told, name).astype(np.complex64, copy=False)


def _position(data: np.ndarray, rows: Rows) -> np.ndarray:
    """Checks `position_m`: float32 [N, P, 2], NaN in both for who is not there."""
    told = rows.told
    if data.dtype.kind not in "fiu" or data.ndim != 3 or data.shape[1] == 0 or data.shape[2] != 2:
        raise SemcomError(
            f"{told}: position_m has type {data.dtype} and shape {data.shape}: "
            "store real numbers [steps, pedestrians, 2]"
        )
    rows.check_length(data, "position_m")
    if data.shape[1] > MAX_PEDESTRIANS:
        raise SemcomError(
            f"{told}: position_m has {data.shape[1]} pedestrians, and {MAX_PEDESTRIANS} are the most: "
            "leave out steps with more"
        )
    is_absent = np.isnan(data)
    wrong = np.isinf(data) | (is_absent != is_absent[..., ::-1])
    if wrong.any():
        raise SemcomError(
            f"{told}: position_m is infinite or half NaN, first at {first_place(wrong)}: "
            "give both x and y, or NaN for both where one isn't there"
        )
    if is_absent.all():
        raise SemcomError(f"{told}: position_m is NaN throughout, so nobody is ever there: store positions")
    return single_precision(data, told, "position_m")


def _time(data: np.ndarray, sequence: np.ndarray, rows: Rows) -> np.ndarray:
    """Checks `time_s`, [N], in the order of time and in even steps within each sequence."""
    told = rows.told
    if data.dtype.kind not in "fiu" or data.ndim != 1:
        raise SemcomError(
            f"{told}: time_s has type {data.dtype} and shape {data.shape}: store real numbers [steps]"
        )
    rows.check_length(data, "time_s")
    check_finite(data, told, "time_s")
    time_s = data.astype(np.float64)
    interval_s = np.diff(time_s)
    is_within = np.diff(sequence) == 0
    twice = np.flatnonzero(is_within & (interval_s == 0))
    if twice.size:
        at = twice[0]
        raise SemcomError(
            f"{told}: sequence {sequence[at]} has time_s = {time_s[at]:g} twice, at steps {at} and {at + 1}: "
            "remove one of them"
        )
    rows.check_order(time_s, sequence, "sequence")
    if not is_within.any():
        return time_s
    median_s = float(np.median(interval_s[is_within]))
    uneven = np.flatnonzero(is_within & (np.abs(interval_s - median_s) > MAX_JITTER * median_s))
    if uneven.size:
        at = uneven[0]
        raise SemcomError(
            f"{told}: time_s has steps {at} and {at + 1} of sequence {sequence[at]} {interval_s[at]:g} s "
            f"apart, and {median_s:g} s is the median: even them out, or begin another sequence there"
        )
    return time_s


def _visible_share(data: np.ndarray, num_cameras: int, position_m: np.ndarray, rows: Rows) -> np.ndarray:
    """Checks `visible_share`: float32 [N, C, P], from 0 to 1, NaN for who is not there."""
    told = rows.told
    shape = (num_cameras, position_m.shape[1])
    if data.dtype.kind not in "fiu" or data.ndim != 3 or data.shape[1:] != shape:
        raise SemcomError(
            f"{told}: visible_share has type {data.dtype} and shape {data.shape}: store real numbers "
            f"[steps, {shape[0]} cameras, {shape[1]} pedestrians]"
        )
    rows.check_length(data, "visible_share")
    is_there = np.broadcast_to(~np.isnan(position_m[:, None, :, 0]), data.shape)
    wrong = is_there & ~((data >= 0) & (data <= 1))
    if wrong.any():
        raise SemcomError(
            f"{told}: visible_share is not from 0 to 1, first at {first_place(wrong)}, where somebody is: "
            "mend it, or leave the dataset out"
        )
    return np.where(is_there, data, np.nan).astype(np.float32)
