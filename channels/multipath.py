"""A channel made of paths: any source of gains and delays becomes SINRs and frequency responses."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from channels.response import frequency_response, resource_block_centres_hz

SPEED_OF_LIGHT_M_PER_S = 299_792_458.0


class PathSource(Protocol):
    """The paths of K devices at any time: a pure function, so that a restarted cell sees the same radio.

    max_doppler_hz: the fastest that a gain turns; at 0 the time does not matter.
    """

    max_doppler_hz: float

    def paths(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the gains, complex [K, M, P], and the delays in seconds, [K, P], at one time."""
        ...


def sampling_at(time_s: float) -> tuple[int, float]:
    """Number of samples and sampling frequency at which Sionna's last sample lies at `time_s`.

    Sionna draws anew on every call and samples at 0, 1/f, 2/f, ...: the same seed draws the same again,
    and f = 1/t puts the second sample on the time t that is wanted.
    """
    return (2, 1 / time_s) if time_s else (1, 1.0)


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
        self._latest_step = -1
        self._latest: dict[float, tuple[np.ndarray, np.ndarray]] = {}

    def sinr(self, step: int) -> np.ndarray:
        """Linear SNR of each device on each resource block in this step, float32 [K, num_resource_blocks]."""
        response = frequency_response(*self._paths(step, 0.0), self._centres_hz)
        return (self._snr_per_gain[:, None] * (np.abs(response) ** 2).sum(axis=1)).astype(np.float32)

    def response(
        self, step: int, devices: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray
    ) -> np.ndarray:
        """See Channel: complex64 [N, M, S, F].

        Within an interval in which no gain turns by more than a radian, gains are sampled at four
        instants and cubic in between, which errs by less than 1e-3 of them (a source takes milliseconds).
        """
        instants, weights = self._sampling(np.asarray(time_s, dtype=np.float64))
        amplitude = np.sqrt(self._snr_per_gain[devices])[:, None, None]
        samples = []
        for instant in instants:
            gains, delays_s = self._paths(step, float(instant))
            samples.append(amplitude * frequency_response(gains[devices], delays_s[devices], frequency_hz))
        return np.einsum("si,inmf->nmsf", weights, np.stack(samples)).astype(np.complex64)

    def _sampling(self, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The instants to sample at, [I], and what each is worth at each time, [S, I]."""
        doppler_hz, span_s = self._source.max_doppler_hz, float(np.ptp(time_s))
        if doppler_hz == 0:
            return np.zeros(1), np.ones((len(time_s), 1))
        if len(time_s) <= 4 or 2 * np.pi * doppler_hz * span_s > 1:
            return time_s, np.eye(len(time_s))
        instants = np.linspace(time_s.min(), time_s.max(), 4)
        others = [np.delete(instants, index) for index in range(4)]
        weights = [
            ((time_s[:, None] - rest) / (instant - rest)).prod(axis=1)
            for instant, rest in zip(instants, others, strict=True)
        ]
        return instants, np.stack(weights, axis=1)

    def _paths(self, step: int, offset_s: float) -> tuple[np.ndarray, np.ndarray]:
        if self._source.max_doppler_hz == 0:
            step, offset_s = 0, 0.0
        if self._latest_step != step:
            self._latest_step, self._latest = step, {}
        if offset_s not in self._latest:
            self._latest[offset_s] = self._source.paths(step * self.step_s + offset_s)
        return self._latest[offset_s]
