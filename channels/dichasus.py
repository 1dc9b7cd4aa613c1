"""DICHASUS: reads its TFRecords with their JSON sidecars and writes the HDF5 of channels/csi_dataset.py.

    python -m channels.dichasus --out train.h5 --every 4 dichasus-cf02.tfrecords dichasus-cf03.tfrecords

DICHASUS is a channel sounder; what it measured is at dichasus.inue.uni-stuttgart.de, a page for each data
set. Read of each record: `csi`, a serialised float32 tensor [antennas, subcarriers, 2], `pos-tachy`, a
serialised float64 tensor [3], and `time`, a float. Beside the records lie `spec.json`, whose `antennas` hold
the `assignments` of channels to the rows and columns of each array, and for each file of records
`reftx-offsets-<name>.json`, with `cpo` and `sto` of each channel: the phase and the delay that the path from
the reference transmitter, to which the receivers are synchronised, has added. Needs the extra `tensorflow`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from channels.csi_dataset import split_at_jumps, write_dataset
from channels.tfrecords import float_of, parse_fields, read_records, tensor_of
from semcom.contracts import SemcomError

# Of dichasus-cf0x and its neighbours, by their pages; not read from spec.json.
CARRIER_HZ = 1.272e9
# Taps 507 to 519 of 1,024 with the one without delay in the middle, as the published charts keep them.
TAPS = (-5, 7)


def calibrate(recorded: np.ndarray, cpo: np.ndarray, sto: np.ndarray) -> np.ndarray:
    """Undoes what the reference transmitter's channel added: [..., antennas, subcarriers], lowest first.

    H[k] = G[k] exp(j (cpo + 2 pi sto k / F)), k = 0 .. F - 1, with G the response as recorded but its two
    halves swapped (records begin at the carrier). cpo [antennas]: radians; sto [antennas]: samples of
    1 / bandwidth. Sources: the tutorial "Compensating for the Reference Transmitter Channel" of DICHASUS on
    what they are; the loaders published with charts of dichasus-cf0x (among them that of Taner, Palhares
    and Studer, IEEE TWC 2025), which agree, on signs and order.
    """
    num_subcarriers = recorded.shape[-1]
    cycles = sto[:, None] * np.arange(num_subcarriers) / num_subcarriers
    return np.fft.fftshift(recorded, axes=-1) * np.exp(1j * (cpo[:, None] + 2 * np.pi * cycles))


def keep_taps(response: np.ndarray, first: int, last: int) -> np.ndarray:
    """The response of the taps first .. last alone, at as many subcarriers: [..., F] to [..., L].

    With g the inverse DFT of the response, tap 0 without delay and a tap 1 / bandwidth long,

        H[k] = sum over n = first .. last of g[n] exp(-j 2 pi n (k - (L - 1) / 2) / L),  L = last - first + 1

    which is the response of these taps in the centres of L equal parts of the bandwidth: no more numbers
    than taps and no fewer, and the mean of |H|^2 is the sum of |g|^2.
    """
    num_kept = last - first + 1
    taps = np.fft.ifft(np.fft.ifftshift(response, axes=-1), axis=-1)
    delay = np.arange(first, last + 1)
    frequency = (np.arange(num_kept) - (num_kept - 1) / 2) / num_kept
    return taps[..., delay] @ np.exp(-2j * np.pi * delay[:, None] * frequency)


def read_spec(path: Path) -> tuple[np.ndarray, float]:
    """Reads spec.json: the channel of each antenna, int64 [arrays, rows, columns], and the bandwidth in Hz.

    Raises SemcomError for a file that is not there or not of this form, and for arrays of several shapes.
    """
    spec = _read_json(path)
    try:
        rows = [antenna["assignments"] for antenna in spec["antennas"]]
        bandwidth_hz = float(spec["bandwidth"])
    except (KeyError, TypeError, ValueError):
        raise SemcomError(
            f"{path} has no bandwidth, or no antennas with their assignments: give DICHASUS's spec.json"
        ) from None
    try:
        channels = np.array(rows)
    except ValueError:
        channels = np.array([])
    if channels.ndim != 3 or channels.dtype.kind != "i":
        raise SemcomError(f"{path} has arrays of several shapes: give a data set with all of its antennas")
    if sorted(channels.ravel()) != list(range(channels.size)) or not 0 < bandwidth_hz < math.inf:
        raise SemcomError(
            f"{path}: assignments don't name each channel once, or the bandwidth is not above 0: "
            "give DICHASUS's spec.json"
        )
    return channels, bandwidth_hz


def read_offsets(path: Path, num_antennas: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads cpo and sto of each channel, float64 [antennas]; raises SemcomError where either isn't that."""
    offsets = _read_json(path)
    found = []
    for name in ("cpo", "sto"):
        try:
            values = np.array(offsets[name], dtype=np.float64)
        except (KeyError, TypeError, ValueError):
            values = np.array(math.nan)
        if values.shape != (num_antennas,) or not np.isfinite(values).all():
            raise SemcomError(
                f"{path}: {name} is missing or no list of {num_antennas} numbers: give the offsets of "
                "these records, reftx-offsets-<name>.json"
            )
        found.append(values)
    return found[0], found[1]


def convert(
    files: Sequence[Path],
    out: Path,
    *,
    spec: Path,
    offsets: Sequence[Path],
    taps: tuple[int, int] | None = TAPS,
    every: int = 1,
    start: int = 0,
) -> int:
    """Writes each record whose number leaves `start` when divided by `every` as a data set; returns how many.

    Records are numbered on from file to file. offsets: a file for each of them. taps: the first and the last
    one to keep, None for all subcarriers. Positions of a file are put in the order of time, and a trajectory
    ends with its file or where time jumps. What is written is held in memory: with 13 taps of 32
    antennas 3.3 kB a position. Raises SemcomError for whatever can't be read, and where `out` exists.
    """
    if out.exists():
        raise SemcomError(f"{out} is there already: remove it, or write another file")
    if len(offsets) != len(files):
        raise SemcomError(f"{len(offsets)} files of offsets for {len(files)} of records: give one for each")
    channels, bandwidth_hz = read_spec(spec)
    snapshots: list[_Snapshot] = []
    trajectory: list[int] = []
    num_records = 0
    for path, beside in zip(files, offsets, strict=True):
        cpo, sto = read_offsets(beside, channels.size)
        found = []
        for number, record in enumerate(read_records(path)):
            if num_records % every == start:
                found.append(_snapshot(record, channels, cpo, sto, taps, f"{path}, record {number}"))
            num_records += 1
        found.sort(key=lambda snapshot: snapshot.time_s)
        first = trajectory[-1] + 1 if trajectory else 0
        trajectory += (first + split_at_jumps(np.array([snapshot.time_s for snapshot in found]))).tolist()
        snapshots += found
    if not snapshots:
        raise SemcomError(f"of {num_records} records none is number {start} of {every}: take more of them")
    if len({snapshot.csi.shape for snapshot in snapshots}) > 1:
        raise SemcomError("the files differ in their number of subcarriers: convert them one by one")
    kept = "all subcarriers" if taps is None else f"taps {taps[0]} to {taps[1]}"
    write_dataset(
        out,
        np.stack([snapshot.csi for snapshot in snapshots]),
        np.stack([snapshot.position_m for snapshot in snapshots]),
        time_s=np.array([snapshot.time_s for snapshot in snapshots]),
        trajectory=np.array(trajectory),
        carrier_hz=CARRIER_HZ,
        bandwidth_hz=bandwidth_hz,
        description=f"DICHASUS {', '.join(file.stem for file in files)}: every {every} from {start}, {kept}",
    )
    return len(snapshots)


class _Snapshot(NamedTuple):
    """csi complex64 [arrays, rows, columns, subcarriers], position_m float64 [3], and when it was."""

    csi: np.ndarray
    position_m: np.ndarray
    time_s: float


def _snapshot(
    record: bytes,
    channels: np.ndarray,
    cpo: np.ndarray,
    sto: np.ndarray,
    taps: tuple[int, int] | None,
    told: str,
) -> _Snapshot:
    """Takes a record apart and calibrates it."""
    fields = parse_fields(record, ("csi", "pos-tachy", "time"), told)
    parts = tensor_of(fields["csi"], np.float32, (channels.size, None, 2), f"{told}: csi")
    response = calibrate(parts[..., 0] + 1j * parts[..., 1], cpo, sto)
    if taps is not None:
        num_subcarriers = response.shape[-1]
        earliest, latest = -(num_subcarriers // 2), (num_subcarriers - 1) // 2
        if not earliest <= taps[0] <= taps[1] <= latest:
            raise SemcomError(
                f"{told} has taps {earliest} to {latest}, not {taps[0]} to {taps[1]}: keep some of these"
            )
        response = keep_taps(response, *taps)
    return _Snapshot(
        csi=response[channels].astype(np.complex64),
        position_m=tensor_of(fields["pos-tachy"], np.float64, (3,), f"{told}: pos-tachy"),
        time_s=float_of(fields["time"], f"{told}: time"),
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise SemcomError(f"{path} is not there: it comes with the records, give its place") from None
    except (OSError, ValueError) as error:
        raise SemcomError(f"{path} can't be read as JSON ({error}): fetch it again") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts what the command line names; returns the exit code, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m channels.dichasus", description="Converts TFRecords of DICHASUS to HDF5."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="TFRecords")
    parser.add_argument("--out", type=Path, required=True, help="the HDF5 file to write")
    parser.add_argument("--spec", type=Path, help="spec.json; the one beside the first file unless given")
    parser.add_argument(
        "--offsets",
        type=Path,
        action="append",
        help="offsets, once for each file in their order; reftx-offsets-<name>.json beside each unless given",
    )
    parser.add_argument("--every", type=int, default=1, help="take each n-th record (default: 1)")
    parser.add_argument("--from", type=int, default=0, dest="start", help="the first one taken (default: 0)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--taps", nargs=2, type=int, default=TAPS, metavar=("FIRST", "LAST"), help="taps kept (default: -5 7)"
    )
    which.add_argument("--all-subcarriers", action="store_true", help="keep the whole response instead")
    given = parser.parse_args(arguments)
    if not 0 <= given.start < given.every:
        parser.error(f"--from {given.start} --every {given.every}: --from is 0 or more, and below --every")
    files: list[Path] = given.files
    try:
        num_positions = convert(
            files,
            given.out,
            spec=given.spec or files[0].with_name("spec.json"),
            offsets=given.offsets or [file.with_name(f"reftx-offsets-{file.stem}.json") for file in files],
            taps=None if given.all_subcarriers else tuple(given.taps),
            every=given.every,
            start=given.start,
        )
    except SemcomError as error:
        print(f"channels.dichasus: {error}", file=sys.stderr)
        return 2
    print(f"{given.out}: {num_positions} positions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
