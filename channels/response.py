"""Frequency responses from paths: what a carrier sees of gains and delays."""

from __future__ import annotations

import numpy as np


def resource_block_centres_hz(num_resource_blocks: int, bandwidth_hz: float) -> np.ndarray:
    """Centre of each of R resource blocks, relative to the carrier's, float64 [R]."""
    centres = np.arange(num_resource_blocks) - (num_resource_blocks - 1) / 2
    return centres * bandwidth_hz / num_resource_blocks


def frequency_response(gains: np.ndarray, delays_s: np.ndarray, frequency_hz: np.ndarray) -> np.ndarray:
    """H[n, m, f] = sum_p a[n, m, p] exp(-j 2 pi f tau[n, p]).

    gains: complex [N, M, P]; delays_s: [N, P]; frequency_hz: [N, F] or [F], relative to the carrier.
    Returns complex128 [N, M, F].
    """
    frequency_hz = np.broadcast_to(frequency_hz, (len(gains), np.shape(frequency_hz)[-1]))
    phase = -2j * np.pi * delays_s.astype(np.float64)[:, :, None] * frequency_hz[:, None, :]
    return np.matmul(gains.astype(np.complex128), np.exp(phase))
