"""The state of a radio that has just the SINR which a test wants."""

import numpy as np

from channels.grid import SUBCARRIERS_PER_RESOURCE_BLOCK, ResourceGrid
from semcom.contracts import RadioState


def still_radio(sinr: np.ndarray, grid: ResourceGrid) -> RadioState:
    """One antenna, constant in time and over a resource block, without phase: h = sqrt(sinr), [N, R]."""

    def response(rows: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray) -> np.ndarray:
        width_hz = SUBCARRIERS_PER_RESOURCE_BLOCK * grid.subcarrier_spacing_hz
        block = np.floor(frequency_hz / width_hz + grid.num_resource_blocks / 2).astype(np.int64)
        h = np.sqrt(np.take_along_axis(sinr[rows], block, axis=1)).astype(np.complex64)
        return np.repeat(h[:, None, None, :], len(time_s), axis=2)

    return RadioState(sinr, response)
