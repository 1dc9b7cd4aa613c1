"""Recorded channels: measured or ray-traced ones, played back from an HDF5 file at a given mean SNR."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from channels.csi_file import CsiFile, open_csi
from channels.grid import ResourceGrid
from channels.response import resource_block_centres_hz
from semcom.contracts import SemcomError
from semcom.rng import Streams


class RecordedConfig(BaseModel):
    """Channels recorded in an HDF5 file, at a given mean SNR; channels/csi_file.py says what it must hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Literal["recorded"] = "recorded"
    path: Path = Field(description="the HDF5 file; workers elsewhere need it under the same path")
    dataset: str = Field("csi", min_length=1, description="name of the dataset in it")
    first_axis: Literal["users", "time"] = Field(
        "users", description="what the first axis of a dataset [., antennas, subcarriers] counts"
    )
    bandwidth_hz: float | None = Field(
        None, gt=0, description="bandwidth of the recorded subcarriers, in place of the file's attribute"
    )
    snapshot_interval_s: float | None = Field(
        None, gt=0, description="time from snapshot to snapshot, in place of the file's attribute"
    )
    snr_db: float = Field(
        10.0, ge=-50, le=80, description="mean Es/N0 per resource element and antenna over the whole file"
    )
    tx_power_dbm: float = Field(
        10.0, ge=-50, le=40, description="a device's power over the whole carrier, for the energy alone"
    )


def check_recorded(config: RecordedConfig, grid: ResourceGrid, num_steps: int, step_s: float) -> CsiFile:
    """Opens the file for so many steps on this grid.

    Raises SemcomError as open_csi does, for a bandwidth narrower than the grid's, and for fewer snapshots
    than the steps need.
    """
    file = open_csi(
        config.path,
        config.dataset,
        first_axis=config.first_axis,
        bandwidth_hz=config.bandwidth_hz,
        snapshot_interval_s=config.snapshot_interval_s,
    )
    where = f"channel.path = {config.path}"
    if file.bandwidth_hz < grid.occupied_bandwidth_hz * (1 - 1e-9):
        raise SemcomError(
            f"{where} was recorded over {file.bandwidth_hz / 1e6:g} MHz, the carrier occupies "
            f"{grid.occupied_bandwidth_hz / 1e6:g} MHz: take a smaller grid.bandwidth_hz"
        )
    needed = num_snapshots(num_steps, step_s, file.snapshot_interval_s)
    if file.num_times < needed:
        raise SemcomError(
            f"{where} has {file.num_times} snapshots {file.snapshot_interval_s:g} s apart, {num_steps} steps "
            f"of {step_s:g} s need {needed}: simulate fewer steps, or record longer"
        )
    return file


def num_snapshots(num_steps: int, step_s: float, snapshot_interval_s: float) -> int:
    """Number of snapshots that so many steps last: ceil(num_steps x step_s / snapshot_interval_s)."""
    return max(1, math.ceil(num_steps * step_s / snapshot_interval_s - 1e-9))


class RecordedChannel:
    """Plays a file back: h = sqrt(snr / P) h_file, with P the mean of |h_file|^2 over the whole file.

    So `snr_db` is the mean over all that was recorded, and users differ from it as they did there. Each
    device is given a user and, where there are several times, a snapshot to start at: uniformly, from
    streams of its own, among the starts that last to the end; devices may share either. A snapshot holds
    until the next one, so no value in between is made up; a file without times stands still. Over frequency
    h is linear between two subcarriers, which errs by at most (2 pi spacing delay)^2 / 8 of a path with that
    delay, and held beyond the outermost. A single subcarrier is flat over the carrier.

    Memory: one snapshot of each device over the carrier's width. Raises SemcomError as check_recorded does.
    """

    def __init__(
        self,
        config: RecordedConfig,
        num_devices: int,
        num_steps: int,
        step_s: float,
        grid: ResourceGrid,
        streams: Streams,
    ) -> None:
        self.file = check_recorded(config, grid, num_steps, step_s)
        self.num_devices = num_devices
        self.step_s = step_s
        self._amplitude = math.sqrt(10 ** (config.snr_db / 10) / self.file.mean_power)
        draws = streams.uniform("recorded-place", range(num_devices), 0, (2,)).numpy()
        num_starts = 1 + self.file.num_times - num_snapshots(num_steps, step_s, self.file.snapshot_interval_s)
        self.user = np.floor(draws[:, 0] * self.file.num_users).astype(np.int64)
        self.start = np.floor(draws[:, 1] * num_starts).astype(np.int64)
        self._centres_hz = resource_block_centres_hz(grid.num_resource_blocks, grid.occupied_bandwidth_hz)
        low, high = self._position(grid.occupied_bandwidth_hz * np.array([-0.5, 0.5]))
        self._subcarriers = slice(math.floor(low), math.ceil(high) + 1)
        self._latest: tuple[int, np.ndarray] | None = None

    def sinr(self, step: int) -> np.ndarray:
        """Linear SNR of each device on each resource block in this step, float32 [K, num_resource_blocks]."""
        centres_hz = np.broadcast_to(self._centres_hz, (self.num_devices, len(self._centres_hz)))
        h = self.response(step, np.arange(self.num_devices), centres_hz, np.zeros(1))[:, :, 0]
        return (np.abs(h) ** 2).sum(axis=1)

    def response(
        self, step: int, devices: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray
    ) -> np.ndarray:
        """See Channel, at frequencies within the carrier: complex64 [N, M, S, F]."""
        first = self._number(step * self.step_s)
        if self._latest is None or self._latest[0] != first:
            self._latest = (first, self._read(np.arange(self.num_devices), first))
        numbers = [self._number(step * self.step_s + float(offset_s)) for offset_s in time_s]
        h = {
            number: self._interpolate(
                self._latest[1][devices] if number == first else self._read(devices, number), frequency_hz
            )
            for number in dict.fromkeys(numbers)
        }
        return np.stack([h[number] for number in numbers], axis=2)

    def _number(self, time_s: float) -> int:
        """How many snapshots after its first one a device is at a time."""
        return math.floor(time_s / self.file.snapshot_interval_s + 1e-9)

    def _read(self, devices: np.ndarray, number: int) -> np.ndarray:
        """Scaled responses, complex64 [n, M, subcarriers of the carrier]."""
        places, which = np.unique(
            np.stack([self.user[devices], self.start[devices] + number], axis=1), axis=0, return_inverse=True
        )
        found = self.file.read([(user, time) for user, time in places.tolist()], self._subcarriers)
        return (self._amplitude * found).astype(np.complex64)[which.reshape(-1)]

    def _position(self, frequency_hz: np.ndarray) -> np.ndarray:
        """Where frequencies lie among the subcarriers, 0 .. num_subcarriers - 1, the ends held."""
        num = self.file.num_subcarriers
        return np.clip((num - 1) / 2 + frequency_hz * num / self.file.bandwidth_hz, 0, num - 1)

    def _interpolate(self, h: np.ndarray, frequency_hz: np.ndarray) -> np.ndarray:
        """Takes h [n, M, subcarriers of the carrier] to frequencies [n, F]: complex64 [n, M, F]."""
        position = self._position(frequency_hz) - self._subcarriers.start
        below = np.floor(position).astype(np.int64)
        below, above = (np.clip(index, 0, h.shape[2] - 1) for index in (below, below + 1))
        share = (position - below).astype(np.float32)[:, None]
        low, high = (np.take_along_axis(h, index[:, None], axis=2) for index in (below, above))
        return (1 - share) * low + share * high
