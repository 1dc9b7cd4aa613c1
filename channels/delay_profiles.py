"""The link-level channels of TR 38.901 at a given mean SNR: tapped and clustered delay lines (TDL, CDL)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from channels.multipath import SPEED_OF_LIGHT_M_PER_S, MultipathChannel, sampling_at
from channels.sionna_scope import sionna_scope
from channels.system_level import omni_array
from semcom.rng import Streams


class DelayProfileConfig(BaseModel):
    """A delay profile of TR 38.901, section 7.7; A to C have no line of sight, D and E do.

    Of a tdl the station's antennas are uncorrelated; those of a cdl form a horizontal array.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Literal[
        "tdl-a", "tdl-b", "tdl-c", "tdl-d", "tdl-e", "cdl-a", "cdl-b", "cdl-c", "cdl-d", "cdl-e"
    ] = "tdl-a"
    snr_db: float = Field(
        10.0, ge=-50, le=80, description="mean Es/N0 per resource element and station antenna"
    )
    delay_spread_s: float = Field(
        100e-9, ge=0, le=10e-6, description="root-mean-square delay spread (TR 38.901, table 7.7.3-1)"
    )
    carrier_hz: float = Field(3.5e9, ge=0.5e9, le=100e9, description="carrier frequency")
    speed_m_per_s: float = Field(
        0.8, ge=0, le=300, description="speed of the devices; at 0 the channel stays as drawn"
    )
    num_base_station_antennas: int = Field(
        1, ge=1, le=64, description="antennas of the station, combined by maximum ratio"
    )
    tx_power_dbm: float = Field(
        10.0, ge=-50, le=40, description="a device's power over the whole carrier, for the energy alone"
    )


class DelayProfileSource:
    """Sionna's TDL or CDL for K devices, each drawn once and then ageing: see MultipathChannel."""

    def __init__(self, config: DelayProfileConfig, num_devices: int, streams: Streams) -> None:
        self.max_doppler_hz = config.speed_m_per_s * config.carrier_hz / SPEED_OF_LIGHT_M_PER_S
        self._num_devices = num_devices
        self._seed = streams.seed("delay-profile")
        with sionna_scope(self._seed):
            self._model = _delay_profile(config)

    def paths(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """See PathSource."""
        with sionna_scope(self._seed):
            gains, delays_s = self._model(self._num_devices, *sampling_at(time_s))
        # [K, 1, M, 1, 1, paths, T] and [K, 1, 1, paths]
        return gains[:, 0, :, 0, 0, :, -1].numpy(), delays_s[:, 0, 0].numpy()


def make_delay_profile_channel(
    config: DelayProfileConfig,
    num_devices: int,
    step_s: float,
    num_resource_blocks: int,
    bandwidth_hz: float,
    streams: Streams,
) -> MultipathChannel:
    """Makes the channel: g of MultipathChannel is the mean SNR, the profile's powers adding up to one."""
    source = DelayProfileSource(config, num_devices, streams)
    snr = 10 ** (config.snr_db / 10)
    return MultipathChannel(source, snr, num_devices, step_s, num_resource_blocks, bandwidth_hz)


def _delay_profile(config: DelayProfileConfig) -> Any:
    """Returns Sionna's model; to be called inside a sionna_scope."""
    from sionna.phy.channel.tr38901 import CDL, TDL

    family, letter = config.model.upper().split("-")
    speed = {"min_speed": config.speed_m_per_s, "max_speed": config.speed_m_per_s}
    if family == "TDL":
        return TDL(
            letter,
            delay_spread=config.delay_spread_s,
            carrier_frequency=config.carrier_hz,
            num_rx_ant=config.num_base_station_antennas,
            **speed,
        )
    return CDL(
        letter,
        delay_spread=config.delay_spread_s,
        carrier_frequency=config.carrier_hz,
        ut_array=omni_array(1, config.carrier_hz),
        bs_array=omni_array(config.num_base_station_antennas, config.carrier_hz),
        direction="uplink",
        **speed,
    )
