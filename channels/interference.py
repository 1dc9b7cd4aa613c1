"""Interference: the devices of the other cells send on the same resource blocks."""

from __future__ import annotations

import numpy as np

from channels.response import resource_block_centres_hz
from semcom.contracts import Channel
from semcom.rng import Streams


class InterferedChannel:
    """A cell's channel with the interference of C other cells: SINR[k, r] = sum_m |h_mk|^2 / (1 + I_m[r]).

    In each step and on each resource block r, a cell c is active with probability `load`, independently,
    and one of its devices, each as likely, then sends there: I_m[r] = sum_c active_c[r] |g_m,d(c,r)(f_r)|^2,
    with g the response of `interferers` at the step's beginning and the block's centre, at unit noise as h
    is. Interference is taken as Gaussian and white over the antennas, and as constant over a resource block
    and a step. `response` is h / sqrt(1 + I_m).

    serving and interferers: channels to the same station with the same antennas. The devices of
    `interferers` are those of one cell after the other, num_devices_per_cell of each.
    """

    def __init__(
        self,
        serving: Channel,
        interferers: Channel,
        num_devices_per_cell: int,
        load: float,
        num_resource_blocks: int,
        bandwidth_hz: float,
        streams: Streams,
    ) -> None:
        self.num_devices = serving.num_devices
        self.load = load
        self._serving = serving
        self._interferers = interferers
        self._num_devices_per_cell = num_devices_per_cell
        self._num_cells = interferers.num_devices // num_devices_per_cell
        self._bandwidth_hz = bandwidth_hz
        self._centres_hz = resource_block_centres_hz(num_resource_blocks, bandwidth_hz)
        self._streams = streams
        self._latest: tuple[int, np.ndarray] | None = None

    def sinr(self, step: int) -> np.ndarray:
        """Linear SINR of each device on each resource block in a step, float32 [K, num_resource_blocks]."""
        h = _at_the_beginning(self._serving, step, self._centres_hz)
        power = np.abs(h).astype(np.float64) ** 2 / (1 + self.interference(step))
        return power.sum(axis=1).astype(np.float32)

    def response(
        self, step: int, devices: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray
    ) -> np.ndarray:
        """See Channel: complex64 [N, M, S, F]."""
        h = self._serving.response(step, devices, frequency_hz, time_s)
        num_blocks = len(self._centres_hz)
        block = np.floor((frequency_hz / self._bandwidth_hz + 0.5) * num_blocks).astype(np.int64)
        amplitude = 1 / np.sqrt(1 + self.interference(step))
        scale = np.moveaxis(amplitude[:, np.clip(block, 0, num_blocks - 1)], 0, 1)
        return (h * scale[:, :, None, :]).astype(np.complex64)

    def interference(self, step: int) -> np.ndarray:
        """Interference over noise at each antenna on each resource block, float64 [M, R]."""
        if self._latest is None or self._latest[0] != step:
            g = _at_the_beginning(self._interferers, step, self._centres_hz)
            power = np.abs(g).astype(np.float64) ** 2  # [devices, M, R]
            cells, blocks = np.arange(self._num_cells), np.arange(power.shape[2])
            draws = self._streams.uniform("interference", cells.tolist(), step, (2, len(blocks))).numpy()
            chosen = np.floor(draws[:, 1] * self._num_devices_per_cell).astype(np.int64)
            sender = cells[:, None] * self._num_devices_per_cell + chosen
            active = draws[:, 0] < self.load
            received = np.where(active[..., None], power[sender, :, blocks], 0.0)  # [C, R, M]
            self._latest = (step, received.sum(axis=0).T)
        return self._latest[1]


def _at_the_beginning(channel: Channel, step: int, frequency_hz: np.ndarray) -> np.ndarray:
    """The response of all devices as the step begins, complex64 [K, M, F]."""
    wanted = np.broadcast_to(frequency_hz, (channel.num_devices, len(frequency_hz)))
    return channel.response(step, np.arange(channel.num_devices), wanted, np.zeros(1))[:, :, 0]
