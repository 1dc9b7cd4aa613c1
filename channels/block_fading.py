"""Channels at a given mean SNR, flat over the carrier: AWGN, Rayleigh and Rician block fading."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from channels.sionna_scope import sionna_scope
from semcom.rng import Streams


class BlockFadingConfig(BaseModel):
    """A flat channel: without fading (awgn), without line of sight (rayleigh), or with one (rician)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Literal["awgn", "rayleigh", "rician"] = "rayleigh"
    snr_db: float = Field(
        10.0, ge=-50, le=80, description="mean Es/N0 per resource element and station antenna"
    )
    rician_k_db: float = Field(
        6.0, ge=-50, le=50, description="power of the line of sight over that of the rest (rician)"
    )
    coherence_steps: int = Field(1, ge=1, description="steps over which the fading stays the same")
    num_base_station_antennas: int = Field(
        1, ge=1, le=64, description="uncorrelated antennas, combined by maximum ratio"
    )
    tx_power_dbm: float = Field(
        10.0, ge=-50, le=40, description="a device's power over the whole carrier, for the energy alone"
    )


class BlockFadingChannel:
    """SNR[k] = snr sum_m |h_mk|^2, the same on every resource block and throughout a step.

    awgn: h = 1. rayleigh: h ~ CN(0, 1) from Sionna's RayleighBlockFading. rician: h = sqrt(K / (K + 1))
    exp(j phi) + sqrt(1 / (K + 1)) g with g ~ CN(0, 1) and a phase phi of each device and antenna that
    stays. h is redrawn every `coherence_steps` steps; E |h|^2 = 1.
    """

    def __init__(
        self, config: BlockFadingConfig, num_devices: int, num_resource_blocks: int, streams: Streams
    ) -> None:
        self.config = config
        self.num_devices = num_devices
        self.num_resource_blocks = num_resource_blocks
        self._streams = streams
        shape = (num_devices, config.num_base_station_antennas)
        k = 10 ** (config.rician_k_db / 10)
        share = {"awgn": 1.0, "rayleigh": 0.0, "rician": k / (k + 1)}[config.model]
        turn = streams.uniform("line-of-sight-phase", range(num_devices), 0, shape[1:]).numpy()
        phase = 2 * np.pi * turn.reshape(shape) if config.model == "rician" else np.zeros(shape)
        self._specular = np.sqrt(share) * np.exp(1j * phase)
        self._diffuse = np.sqrt(1 - share)
        self._block: tuple[int, np.ndarray] | None = None

    def sinr(self, step: int) -> np.ndarray:
        """Linear SNR of each device on each resource block in this step, float32 [K, num_resource_blocks]."""
        snr = (np.abs(self._coefficient(step)) ** 2).sum(axis=1).astype(np.float32)
        return np.repeat(snr[:, None], self.num_resource_blocks, axis=1)

    def response(
        self, step: int, devices: np.ndarray, frequency_hz: np.ndarray, time_s: np.ndarray
    ) -> np.ndarray:
        """See Channel: complex64 [N, M, S, F]."""
        h = self._coefficient(step)[devices].astype(np.complex64)
        shape = (*h.shape, len(time_s), frequency_hz.shape[1])
        return np.broadcast_to(h[:, :, None, None], shape).copy()

    def _coefficient(self, step: int) -> np.ndarray:
        """sqrt(snr) h, complex128 [K, M]."""
        block = step // self.config.coherence_steps
        if self._block is None or self._block[0] != block:
            h = self._specular + self._diffuse * self._draw(block) if self._diffuse else self._specular
            self._block = (block, 10 ** (self.config.snr_db / 20) * h)
        return self._block[1]

    def _draw(self, block: int) -> np.ndarray:
        from sionna.phy.channel import RayleighBlockFading

        with sionna_scope(self._streams.seed("block-fading", step=block)):
            fading = RayleighBlockFading(num_rx=1, num_rx_ant=self._specular.shape[1], num_tx=1, num_tx_ant=1)
            gains, _ = fading(batch_size=self.num_devices, num_time_steps=1)
        return gains.reshape(self._specular.shape).numpy().astype(np.complex128)
