"""The cells of TR 38.901 as Sionna draws them: urban micro, urban macro, rural macro and indoor factory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from channels.budget import dbm_to_w, noise_power_w
from channels.hexagons import is_in_hexagon, station_sites_m
from channels.interference import InterferedChannel
from channels.multipath import SPEED_OF_LIGHT_M_PER_S, MultipathChannel, sampling_at
from channels.sionna_scope import sionna_scope
from semcom.contracts import Channel
from semcom.rng import Streams

# Where the user gives no height: UMi and UMa as TR 38.901 fixes them (table 7.2-1), RMa as table 7.2-3.
_STATION_HEIGHT_M = {"umi": 10.0, "uma": 25.0, "rma": 35.0}
# As Sionna takes them from the same tables.
_INTER_SITE_DISTANCE_M = {"umi": 200.0, "uma": 500.0, "rma": 5000.0}
# Length, width, station height of the calibrated halls (TR 38.901, table 7.8-7).
_HALL_M = {
    "inf-sl": (120.0, 60.0, 1.5),
    "inf-dl": (300.0, 150.0, 1.5),
    "inf-sh": (300.0, 150.0, 8.0),
    "inf-dh": (120.0, 60.0, 8.0),
}


class CellConfig(BaseModel):
    """An outdoor cell of TR 38.901: one station and its devices around it, with or without other cells.

    With num_cells above 1 a hexagonal network surrounds it, whose devices interfere: see InterferedChannel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Literal["umi", "uma", "rma"] = "umi"
    carrier_hz: float = Field(3.5e9, ge=0.5e9, le=100e9, description="carrier frequency")
    tx_power_dbm: float = Field(23.0, ge=-50, le=40, description="a device's power over the whole carrier")
    noise_figure_db: float = Field(5.0, ge=0, le=30, description="the base station's noise figure")
    min_distance_m: float = Field(
        10.0, ge=10, le=10_000, description="nearest ground distance to the station"
    )
    max_distance_m: float = Field(100.0, gt=10, le=10_000, description="farthest ground distance")
    base_station_height_m: float | None = Field(
        None,
        ge=5,
        le=150,
        description="height of the base station; by default 10 m (umi), 25 (uma), 35 (rma)",
    )
    device_height_m: float = Field(1.5, ge=1, le=22.5, description="height of the devices")
    speed_m_per_s: float = Field(0.8, ge=0, le=100, description="speed of the devices, each in its direction")
    indoor_probability: float = Field(
        0.0, ge=0, le=1, description="probability that a device is in a building"
    )
    num_base_station_antennas: int = Field(
        1, ge=1, le=64, description="horizontal half-wavelength array, combined by maximum ratio"
    )
    num_cells: Literal[1, 7, 19] = Field(
        1, description="cells of the network, ours in the middle: 1 alone, 7 and 19 with one and two rings"
    )
    inter_site_distance_m: float | None = Field(
        None,
        ge=20,
        le=20_000,
        description="from station to station, if there are several; by default 200 m (umi), 500 (uma), "
        "5000 (rma)",
    )
    load: float = Field(
        1.0,
        ge=0,
        le=1,
        description="probability that another cell sends on a resource block in a step, if there are several",
    )
    devices_per_cell: int = Field(
        10, ge=1, le=200, description="devices of each other cell that take turns, if there are several"
    )

    @model_validator(mode="after")
    def _fits_the_model(self) -> CellConfig:
        if not self.min_distance_m < self.max_distance_m:
            raise ValueError(
                f"min_distance_m {self.min_distance_m:g} must be below max_distance_m {self.max_distance_m:g}"
            )
        if self.model == "rma" and self.carrier_hz > 30e9:
            raise ValueError(
                f"carrier_hz {self.carrier_hz:g} is above 30 GHz, where rma ends: take umi or uma"
            )
        apart_m = self.site_distance_m()
        if self.num_cells > 1 and self.max_distance_m > apart_m / math.sqrt(3):
            raise ValueError(
                f"max_distance_m {self.max_distance_m:g} is beyond the corners of a hexagon of "
                f"inter_site_distance_m {apart_m:g}: take at most {math.floor(apart_m / math.sqrt(3))}"
            )
        if self.num_cells > 1 and self.min_distance_m >= apart_m / 2:
            raise ValueError(
                f"min_distance_m {self.min_distance_m:g} must be below half of "
                f"inter_site_distance_m {apart_m:g} where there are several cells"
            )
        return self

    def station_height_m(self) -> float:
        """Height of the base station, the model's own if none is given."""
        return self.base_station_height_m or _STATION_HEIGHT_M[self.model]

    def site_distance_m(self) -> float:
        """Distance from station to station, the model's own if none is given."""
        return self.inter_site_distance_m or _INTER_SITE_DISTANCE_M[self.model]


class HallConfig(BaseModel):
    """An indoor factory of TR 38.901: clutter sparse or dense (s, d), the station low or high (l, h).

    Hall, clutter and station are those of its calibration (table 7.8-7); the station hangs in the middle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Literal["inf-sl", "inf-dl", "inf-sh", "inf-dh"] = "inf-dh"
    carrier_hz: float = Field(3.5e9, ge=0.5e9, le=100e9, description="carrier frequency")
    tx_power_dbm: float = Field(10.0, ge=-50, le=40, description="a device's power over the whole carrier")
    noise_figure_db: float = Field(5.0, ge=0, le=30, description="the base station's noise figure")
    device_height_m: float = Field(1.5, ge=0.5, le=7, description="height of the devices")
    speed_m_per_s: float = Field(0.8, ge=0, le=100, description="speed of the devices, each in its direction")
    num_base_station_antennas: int = Field(
        1, ge=1, le=64, description="horizontal half-wavelength array, combined by maximum ratio"
    )


class SystemLevelSource:
    """The paths of one topology of TR 38.901, made once: see MultipathChannel.

    A device moves by its Doppler shifts only (TR 38.901 (7.5-22)), its large-scale state staying put.
    Memory grows with the number of devices (about 0.1 MB each per antenna), not with the steps.
    neighbours: the devices are those of the other cells, config.devices_per_cell of each, cell by cell.
    """

    def __init__(
        self,
        config: CellConfig | HallConfig,
        num_devices: int,
        streams: Streams,
        *,
        neighbours: bool = False,
    ) -> None:
        self.max_doppler_hz = config.speed_m_per_s * config.carrier_hz / SPEED_OF_LIGHT_M_PER_S
        # The words of the streams' names stay, so that a seed keeps its channel from one version to the next.
        self._ray_seed = streams.seed("umi-rays")
        with sionna_scope(streams.seed("umi-topology")):
            self._model = (
                _outdoor_model(config, num_devices, streams, neighbours)
                if isinstance(config, CellConfig)
                else _hall_model(config, num_devices, streams)
            )

    def paths(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """See PathSource."""
        with sionna_scope(self._ray_seed):
            gains, delays_s = self._model(*sampling_at(time_s))
        # [1, 1, M, K, 1, paths, T] and [1, 1, K, paths]
        return gains[0, 0, :, :, 0, :, -1].transpose(0, 1).numpy(), delays_s[0, 0].numpy()


def make_system_level_channel(
    config: CellConfig | HallConfig,
    num_devices: int,
    step_s: float,
    num_resource_blocks: int,
    bandwidth_hz: float,
    streams: Streams,
) -> Channel:
    """Makes the uplink of a cell: path loss, shadowing, line of sight and clustered multipath by Sionna.

    g of MultipathChannel is P / (k T B F); devices are uniform over the ring's area or over the hall. Of
    several cells, a device is its nearest station's: those of each are uniform over ring and hexagon. The
    other cells' devices have a topology of their own, with our station as its receiver, and the same power.
    """
    snr_per_gain = dbm_to_w(config.tx_power_dbm) / noise_power_w(bandwidth_hz, config.noise_figure_db)
    carrier = (step_s, num_resource_blocks, bandwidth_hz)
    source = SystemLevelSource(config, num_devices, streams)
    serving = MultipathChannel(source, snr_per_gain, num_devices, *carrier)
    if isinstance(config, HallConfig) or config.num_cells == 1 or config.load == 0:
        return serving
    num_others = (config.num_cells - 1) * config.devices_per_cell
    # Streams of their own: that there are neighbours changes nothing in our own cell.
    apart = replace(streams, base_seed=streams.seed("neighbours"))
    others = SystemLevelSource(config, num_others, apart, neighbours=True)
    interferers = MultipathChannel(others, snr_per_gain, num_others, *carrier)
    return InterferedChannel(
        serving, interferers, config.devices_per_cell, config.load, num_resource_blocks, bandwidth_hz, streams
    )


def omni_array(num_antennas: int, carrier_hz: float) -> Any:
    """Returns Sionna's horizontal half-wavelength array of vertical dipoles without a pattern."""
    from sionna.phy.channel.tr38901 import PanelArray

    return PanelArray(
        num_rows_per_panel=1,
        num_cols_per_panel=num_antennas,
        polarization="single",
        polarization_type="V",
        antenna_pattern="omni",
        carrier_frequency=carrier_hz,
    )


def _arrays(config: CellConfig | HallConfig) -> dict[str, Any]:
    return {
        "carrier_frequency": config.carrier_hz,
        "ut_array": omni_array(1, config.carrier_hz),
        "bs_array": omni_array(config.num_base_station_antennas, config.carrier_hz),
        "direction": "uplink",
    }


def _in_the_ring(config: CellConfig, draws: torch.Tensor) -> torch.Tensor:
    """Places devices uniformly over the ring's area by two uniform draws each [N, 2], relative to it."""
    inner, outer = config.min_distance_m**2, config.max_distance_m**2
    radius_m = (inner + draws[:, 0] * (outer - inner)).sqrt()
    bearing = 2 * math.pi * draws[:, 1]
    return torch.stack([radius_m * bearing.cos(), radius_m * bearing.sin()], dim=-1)


def _outdoor_model(config: CellConfig, num_devices: int, streams: Streams, neighbours: bool) -> Any:
    """Returns Sionna's model with its topology set; to be called inside a sionna_scope."""
    from sionna.phy.channel.tr38901 import RMa, UMa, UMi

    draws = streams.uniform("umi-placement", range(num_devices), 0, (4,)).to(torch.float32)
    ground_m = _in_the_ring(config, draws[:, :2])
    apart_m, attempt = config.site_distance_m(), 0
    while config.num_cells > 1 and not (inside := is_in_hexagon(ground_m, apart_m)).all():
        attempt += 1
        stray = torch.nonzero(~inside).flatten()
        again = streams.uniform("umi-placement", stray.tolist(), attempt, (2,)).to(torch.float32)
        ground_m[stray] = _in_the_ring(config, again)
    if neighbours:
        sites_m = station_sites_m(config.num_cells, apart_m)
        ground_m += sites_m[1:].repeat_interleave(config.devices_per_cell, dim=0)
    if config.model == "rma":
        model = RMa(**_arrays(config))
    else:
        model = {"umi": UMi, "uma": UMa}[config.model](o2i_model="low", **_arrays(config))
    in_state = draws[:, 3] < config.indoor_probability
    _set_topology(model, config, ground_m, config.station_height_m(), draws[:, 2], in_state)
    return model


def _hall_model(config: HallConfig, num_devices: int, streams: Streams) -> Any:
    """Returns Sionna's model with its topology set; to be called inside a sionna_scope."""
    from sionna.phy.channel.tr38901 import InF

    length_m, width_m, station_height_m = _HALL_M[config.model]
    draws = streams.uniform("hall-placement", range(num_devices), 0, (3,)).to(torch.float32)
    ground_m = (draws[:, :2] - 0.5) * torch.tensor([length_m, width_m])
    model = InF(factory_scenario=config.model.removeprefix("inf-").upper(), **_arrays(config))
    _set_topology(model, config, ground_m, station_height_m, draws[:, 2], None)
    return model


def _set_topology(
    model: Any,
    config: CellConfig | HallConfig,
    ground_m: torch.Tensor,
    station_height_m: float,
    turn: torch.Tensor,
    in_state: torch.Tensor | None,
) -> None:
    num_devices = len(ground_m)
    heading = 2 * math.pi * turn
    velocity = torch.stack([heading.cos(), heading.sin(), torch.zeros(num_devices)], dim=-1)
    height_m = torch.full((num_devices, 1), config.device_height_m)
    model.set_topology(
        ut_loc=torch.cat([ground_m, height_m], dim=-1)[None],
        bs_loc=torch.tensor([[[0.0, 0.0, station_height_m]]]),
        ut_orientations=torch.zeros(1, num_devices, 3),
        bs_orientations=torch.zeros(1, 1, 3),
        ut_velocities=config.speed_m_per_s * velocity[None],
        in_state=None if in_state is None else in_state[None],
    )
