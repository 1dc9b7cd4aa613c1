"""Ray-traced scenes: Munich, Etoile, Florence, San Francisco and a street canyon, with users who walk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from channels.budget import dbm_to_w, noise_power_w
from channels.multipath import SPEED_OF_LIGHT_M_PER_S, MultipathChannel
from channels.trajectories import OpenGround, Trajectories
from semcom.contracts import SemcomError
from semcom.rng import Streams

if TYPE_CHECKING:
    from channels.ray_tracer import RayTracer, TracedPaths

# Places that are tried before a run, to see whether the station reaches anybody.
_NUM_TRIED = 16


@dataclass(frozen=True)
class _BuiltIn:
    """Sionna RT's name for a scene, the object one stands on, and where a station sees much of it.

    The stations of the cities stand 2 to 5 m above a roof's edge at a square, that of the canyon on a
    crossing.
    """

    name: str
    ground: str
    station_m: tuple[float, float, float]


SCENES = {
    "munich": _BuiltIn("munich", "ground", (-25.0, 102.0, 25.0)),
    "etoile": _BuiltIn("etoile", "Plane", (6.0, 75.0, 23.0)),
    "florence": _BuiltIn("florence", "ground", (138.0, -88.0, 20.0)),
    "san-francisco": _BuiltIn("san_francisco", "Terrain", (21.0, 16.0, 30.0)),
    "street-canyon": _BuiltIn("simple_street_canyon", "floor", (-25.0, 0.0, 10.0)),
}


Coordinate = Annotated[float, Field(ge=-2000, le=2000)]


class RayTracedConfig(BaseModel):
    """A built-in scene of Sionna RT: one station, and devices that walk about its streets."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Literal["munich", "etoile", "florence", "san-francisco", "street-canyon"] = "munich"
    carrier_hz: float = Field(
        3.5e9, ge=1e9, le=40e9, description="carrier frequency (materials are those of ITU-R P.2040)"
    )
    tx_power_dbm: float = Field(23.0, ge=-50, le=40, description="a device's power over the whole carrier")
    noise_figure_db: float = Field(5.0, ge=0, le=30, description="the base station's noise figure")
    base_station_m: tuple[Coordinate, Coordinate, Coordinate] | None = Field(
        None, description="x, y, z of the base station in the scene; by default a place that sees much of it"
    )
    num_base_station_antennas: int = Field(
        1, ge=1, le=64, description="half-wavelength array along y, combined by maximum ratio"
    )
    max_distance_m: float = Field(
        200.0, ge=10, le=1000, description="farthest ground distance of a device to the station"
    )
    device_height_m: float = Field(1.5, ge=0.5, le=3, description="height of the devices above the ground")
    speed_m_per_s: float = Field(0.8, ge=0, le=50, description="speed of the devices along their walks")
    leg_length_m: float = Field(50.0, ge=1, le=1000, description="longest way before a device turns")
    retrace_distance_m: float = Field(
        0.5, ge=0.02, le=5, description="way between two places on a walk where paths are traced anew"
    )
    max_depth: int = Field(3, ge=0, le=8, description="most interactions of a path; 0 is line of sight alone")
    reflection: bool = Field(True, description="specular reflections")
    diffraction: bool = Field(True, description="one diffraction at an edge")
    refraction: bool = Field(False, description="transmission through walls")
    num_rays: int = Field(
        100_000, ge=1000, le=1_000_000, description="rays launched from the station to find paths"
    )

    def station_m(self) -> np.ndarray:
        """Place of the base station, float64 [3]."""
        return np.array(self.base_station_m or SCENES[self.model].station_m)


class RayTracedSource:
    """The paths between a station and K devices that walk through a scene: see MultipathChannel.

    Paths are traced at the walk's places s_i = i d, d = retrace_distance_m. In between, at s = v t, each
    path p of trace i goes on as a wave from where it seemed to come from, its mirror image q_p of the
    station: with r = |x(s) - q_p|,

        a_p(t) = a_p exp(-j 2 pi f_c r / c),    tau_p(t) = r / c,

    whose phase and delay are exact for line of sight, reflections and refractions at plane walls, and right
    to first order in s - s_i (the Doppler shift) for diffractions. The traces before and after are blended
    linearly, (1 - w) and w with w = s / d - i: amplitudes are interpolated, paths that end fade out over
    d, and nothing jumps. Within the slot in which a device turns, its Doppler shift changes at once.

    A device without a path has gain 0: its SINR is 0 and what it sends is lost. The traces around the
    latest place are kept, five at most, since cells that share a channel ask for two steps in turn.
    """

    def __init__(self, config: RayTracedConfig, num_devices: int, streams: Streams) -> None:
        self.max_doppler_hz = config.speed_m_per_s * config.carrier_hz / SPEED_OF_LIGHT_M_PER_S
        self._config = config
        ground = _ground(config.model, tuple(config.station_m().tolist()), config.max_distance_m)
        self._trajectories = Trajectories(
            ground, num_devices, config.device_height_m, config.leg_length_m, streams
        )
        self._tracer = _tracer(config)
        self._traces: dict[int, TracedPaths] = {}

    def positions_m(self, time_s: float) -> np.ndarray:
        """Where the devices are at one time, float64 [K, 3]."""
        return self._trajectories.positions_m(self._config.speed_m_per_s * time_s)

    def paths(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """See PathSource."""
        share, index = math.modf(self._config.speed_m_per_s * time_s / self._config.retrace_distance_m)
        weights = {int(index): 1 - share, int(index) + 1: share}
        weights = {i: weight for i, weight in weights.items() if weight > 0}
        self._traces |= {i: self._trace(i) for i in weights if i not in self._traces}
        self._traces = {i: trace for i, trace in self._traces.items() if abs(i - int(index)) <= 2}
        position_m = self.positions_m(time_s)
        parts = [
            _moved(self._traces[i], position_m, self._config.carrier_hz, weight)
            for i, weight in weights.items()
        ]
        gains, delays_s = zip(*parts, strict=True)
        return np.concatenate(gains, axis=2), np.concatenate(delays_s, axis=1)

    def _trace(self, index: int) -> TracedPaths:
        place_m = self._trajectories.positions_m(index * self._config.retrace_distance_m)
        return self._tracer.trace(place_m)


def _moved(
    trace: TracedPaths, position_m: np.ndarray, carrier_hz: float, weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gains [K, M, P] and delays [K, P] of traced paths at places [K, 3] nearby."""
    length_m = np.linalg.norm(position_m[:, None] - trace.source_m, axis=-1)
    cycles = carrier_hz / SPEED_OF_LIGHT_M_PER_S * length_m
    return trace.gain * (weight * np.exp(-2j * np.pi * cycles))[:, None], length_m / SPEED_OF_LIGHT_M_PER_S


def make_ray_traced_channel(
    config: RayTracedConfig,
    num_devices: int,
    step_s: float,
    num_resource_blocks: int,
    bandwidth_hz: float,
    streams: Streams,
) -> MultipathChannel:
    """Makes the uplink of a scene: g of MultipathChannel is P / (k T B F), paths are reciprocal.

    Raises SemcomError as check_scene does, but for a station that reaches nobody.
    """
    snr_per_gain = dbm_to_w(config.tx_power_dbm) / noise_power_w(bandwidth_hz, config.noise_figure_db)
    source = RayTracedSource(config, num_devices, streams)
    return MultipathChannel(source, snr_per_gain, num_devices, step_s, num_resource_blocks, bandwidth_hz)


@lru_cache(maxsize=16)
def check_scene(config: RayTracedConfig) -> None:
    """Raises SemcomError for a scene in which a run would make no sense, or could not begin.

    That is a station inside a building, below ground or without open ground around it, one without a
    path to any of 16 places that devices may start from, and a machine without LLVM (see load_scene).
    """
    source = RayTracedSource(config, _NUM_TRIED, Streams(0))
    gains, _ = source.paths(0.0)
    if not gains.any():
        x, y, z = config.station_m()
        raise SemcomError(
            f"channel.base_station_m = ({x:g}, {y:g}, {z:g}) has no path to any of {_NUM_TRIED} places in "
            f"the streets of {config.model}: move it, raise channel.max_depth or set channel.diffraction"
        )


@lru_cache(maxsize=8)
def _ground(model: str, station_m: tuple[float, float, float], max_distance_m: float) -> OpenGround:
    from channels.ray_tracer import load_scene

    scene = load_scene(SCENES[model].name, SCENES[model].ground)
    x, y, z = station_m
    at = f"channel.base_station_m = ({x:g}, {y:g}, {z:g})"
    if not scene.sky_above(np.array([station_m]))[0]:
        raise SemcomError(f"{at} lies inside a building or below the ground of {model}: move or raise it")
    ground = scene.open_ground(np.array(station_m), max_distance_m)
    if not ground.walkable.any():
        raise SemcomError(
            f"{at} has no open ground of {model} within channel.max_distance_m = {max_distance_m:g}: "
            "move it or enlarge the distance"
        )
    return ground


def _tracer(config: RayTracedConfig) -> RayTracer:
    from channels.ray_tracer import RayTracer, load_scene

    return RayTracer(
        load_scene(SCENES[config.model].name, SCENES[config.model].ground),
        config.station_m(),
        config.carrier_hz,
        config.num_base_station_antennas,
        max_depth=config.max_depth,
        reflection=config.reflection,
        diffraction=config.diffraction,
        refraction=config.refraction,
        num_rays=config.num_rays,
    )
