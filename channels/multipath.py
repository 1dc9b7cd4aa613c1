"""A channel made of paths: any source of gains and delays becomes SINRs and frequency responses."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from channels.response import frequency_response, resource_block_centres_hz


class PathSource(Protocol):
    """The paths of K devices at any time: a pure function, so that a restarted cell sees the same radio.

    is_static: the time does not matter.
    """

    is_static: bool

    def paths(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the gains, complex [K, M, P], and the delays in seconds, [K, P], at one time."""
        ...


class MultipathChannel:
    """SNR[k, r] = g sum_m |H_m[k, r]|^2 with H_m[k, r] = sum_p a_p(t) exp(-j 2 pi f_r tau_p).

    f_r is the centre of resource block r and t the step's beginning; summing over the antennas is
    maximum-ratio combining. snr_per_gain is g, the SNR at a path gain of one, linear: a number or [K].
    """

    def __init__(
        self,
        source: PathSource,
        snr_per_gain: float | np.ndarray,
        num_devices: int,
        step_s: float,
        num_resource_blocks: int,
        bandwidth_hz: float,
    ) -> None:
        self.num_devices = num_devices
        self.step_s = step_s
        self._source = source
        self._snr_per_gain = np.broadcast_to(np.asarray(snr_per_gain, dtype=np.float64), num_devices)
        self._centres_hz = resource_block_centres_hz(num_resource_blocks, bandwidth_hz)
        self._latest: tuple[float, tuple[np.ndarray, np.ndarray]] | None = None

    def sinr(self, step: int) -> np.ndarray:
        """Linear SNR of each device on each resource block in this step, float32 [K, num_resource_blocks]."""
        response = frequency_response(*self._paths(step * self.step_s), self._centres_hz)
        return (self._snr_per_gain[:, None] * (np.abs(response) ** 2).sum(axis=1)).astype(np.float32)

    def response(
        self, step: int, devices: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray
    ) -> np.ndarray:
        """See Channel: complex64 [N, M, S, F]."""
        times = [step * self.step_s + float(offset) for offset in time_s]
        if self._source.is_static:
            times = times[:1]
        amplitude = np.sqrt(self._snr_per_gain[devices])[:, None, None]
        instants = []
        for time in times:
            gains, delays_s = self._paths(time)
            h = frequency_response(gains[devices], delays_s[devices], frequency_hz)
            instants.append((amplitude * h).astype(np.complex64))
        return np.stack(instants * (len(time_s) // len(times)), axis=2)

    def _paths(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        time_s = 0.0 if self._source.is_static else time_s
        if self._latest is None or self._latest[0] != time_s:
            self._latest = (time_s, self._source.paths(time_s))
        return self._latest[1]
