"""Near-field channels of an extremely large array: spherical waves from a user and from scatterers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field

from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.spherical_waves import Waves, differences_m, sum_waves
from semcom.contracts import SemcomError

# Drawn for each path: distance, angle, elevation, whether it is far, how weak, phase; and for each user:
# number of paths, speed, heading.
_DRAWS_A_PATH, _DRAWS_A_USER = 6, 3
_MAX_BYTES = 1 << 33


class NearFieldConfig(BaseModel):
    """An array, users and scatterers in front of it, and where and when their channels are sampled.

    The array lies in the plane x = 0, centred at the origin: columns along y, rows along z, all of it along
    y where there is one row. Element n is in row n // columns. A direction has an angle from broadside (the
    x axis), towards y, and an elevation, towards z.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    carrier_hz: float = Field(30e9, ge=1e9, le=1e12, description="carrier frequency")
    num_elements: int = Field(256, ge=1, le=16384, description="elements of the array: rows times columns")
    num_rows: int = Field(1, ge=1, le=128, description="rows; 1 is a uniform linear array")
    spacing_wavelengths: float = Field(0.5, ge=0.1, le=10, description="from element to element")
    min_paths: int = Field(3, ge=1, le=64, description="least paths of a user, the direct one included")
    max_paths: int = Field(6, ge=1, le=64, description="most paths of a user")
    min_distance_m: float = Field(5, gt=0, le=1e5, description="nearest user or scatterer, from the centre")
    max_distance_m: float = Field(60, gt=0, le=1e5, description="farthest user or scatterer")
    far_share: float = Field(
        0, ge=0, le=1, description="share of scatterers at 1 to 2 Rayleigh distances instead"
    )
    max_angle_deg: float = Field(60, ge=0, lt=90, description="largest angle from broadside")
    max_elevation_deg: float = Field(20, ge=0, lt=90, description="largest elevation, of more than one row")
    min_gap_db: float = Field(7, ge=0, le=100, description="scattered paths are so far below the direct one")
    max_gap_db: float = Field(20, ge=0, le=100, description="or as far as this")
    spreading: bool = Field(False, description="amplitudes fall with an element's distance: r/r_n")
    num_subcarriers: int = Field(
        1, ge=1, le=4096, description="subcarriers, centres of the band's equal parts"
    )
    bandwidth_hz: float = Field(400e6, gt=0, le=1e11, description="bandwidth that the subcarriers divide")
    synchronised: bool = Field(
        True, description="delays count from the direct path's at the centre at first, not from 0"
    )
    num_snapshots: int = Field(1, ge=1, le=10_000, description="snapshots of a moving user")
    interval_s: float = Field(0.25e-3, gt=0, le=10, description="time from snapshot to snapshot")
    min_speed_m_s: float = Field(1, ge=0, le=100, description="slowest user")
    max_speed_m_s: float = Field(10, ge=0, le=100, description="fastest user")

    def wavelength_m(self) -> float:
        """Wavelength of the carrier."""
        return SPEED_OF_LIGHT_M_PER_S / self.carrier_hz

    def aperture_m(self) -> float:
        """Largest extent D of the array: from the first element to the last one."""
        across = math.hypot(self.num_rows - 1, self.num_elements // self.num_rows - 1)
        return across * self.spacing_wavelengths * self.wavelength_m()

    def rayleigh_distance_m(self) -> float:
        """Distance beyond which a plane wave is accurate: 2 D^2/lambda (Balanis, eq. 2-97)."""
        return 2 * self.aperture_m() ** 2 / self.wavelength_m()

    def reactive_distance_m(self) -> float:
        """Distance to an element within which it couples: 0.62 sqrt(d^3/lambda) (Balanis, eq. 2-95).

        d is an element's extent, here the spacing; at least lambda/(2 pi), that of a short dipole. Of the
        array as a whole it would be metres, and means nothing: its elements don't form one antenna.
        """
        return self.wavelength_m() * max(0.62 * self.spacing_wavelengths**1.5, 1 / (2 * math.pi))

    def offsets_hz(self) -> torch.Tensor:
        """Frequencies of the subcarriers from the carrier, float64 [F]: centres of equal parts."""
        number = torch.arange(self.num_subcarriers, dtype=torch.float64)
        return ((number + 0.5) / self.num_subcarriers - 0.5) * self.bandwidth_hz


@dataclass(frozen=True)
class NearFieldChannels:
    """N users' channels over T snapshots and F subcarriers to M elements, and the P paths that make them.

    h: complex64 [N, T, F, M]. gain: complex64 [N, P], at the array's centre, the carrier and the first
    snapshot, 0 where there is no path; path 0 is the direct one. sum_p |gain|^2 = 1, so that the mean of
    |h|^2 over the elements is 1 for each user in expectation over the phases of its paths (without
    `spreading`). distance_m, angle_rad, elevation_rad: float64 [N, T, P], where a path's wave comes from as
    seen from the array's centre: the user, or a scatterer, that stays. length_m: float64 [N, T, P], from the
    centre over the scatterer to the user. velocity_m_s: float64 [N, 3]. Where there is no path, distances,
    angles and lengths are those of a point without a wave.
    """

    h: torch.Tensor
    gain: torch.Tensor
    distance_m: torch.Tensor
    angle_rad: torch.Tensor
    elevation_rad: torch.Tensor
    length_m: torch.Tensor
    velocity_m_s: torch.Tensor

    def user_m(self) -> torch.Tensor:
        """Places of the users, float64 [N, T, 3]."""
        direct = (part[..., :1] for part in (self.distance_m, self.angle_rad, self.elevation_rad))
        distance_m, angle_rad, elevation_rad = direct
        return (distance_m[..., None] * unit_vectors(angle_rad, elevation_rad))[..., 0, :]


def unit_vectors(angle_rad: torch.Tensor, elevation_rad: torch.Tensor) -> torch.Tensor:
    """Directions (cos e cos a, cos e sin a, sin e) of angles and elevations [...], float64 [..., 3]."""
    flat = elevation_rad.cos()
    return torch.stack([flat * angle_rad.cos(), flat * angle_rad.sin(), elevation_rad.sin()], dim=-1)


def element_positions_m(config: NearFieldConfig) -> torch.Tensor:
    """Places of the elements, float64 [M, 3]: see NearFieldConfig. Raises SemcomError as check_near_field."""
    check_near_field(config)
    spacing_m = config.spacing_wavelengths * config.wavelength_m()
    num_columns = config.num_elements // config.num_rows
    number = torch.arange(config.num_elements, dtype=torch.float64)
    row, column = number // num_columns, number % num_columns
    y_m, z_m = column - (num_columns - 1) / 2, row - (config.num_rows - 1) / 2
    return torch.stack([torch.zeros_like(number), y_m, z_m], dim=-1) * spacing_m


def response(
    config: NearFieldConfig,
    distance_m: torch.Tensor,
    angle_rad: torch.Tensor,
    elevation_rad: torch.Tensor | float = 0.0,
    offset_hz: float = 0.0,
) -> torch.Tensor:
    """The array's response to a wave from a point, complex64 [..., M].

        a_n = exp(-j 2 pi (f_c + f)(r_n - r)/c)

    distance_m, angle_rad, elevation_rad: float64 [...] and broadcast, from the array's centre; an infinite
    distance is a plane wave. offset_hz: f. |a_n| = 1: `spreading` is for draw_channels. Raises SemcomError
    for a point behind the array or in the reactive near field of an element.
    """
    element_m = element_positions_m(config)
    place = (torch.as_tensor(part, dtype=torch.float64) for part in (distance_m, angle_rad, elevation_rad))
    away_m, angle, elevation = torch.broadcast_tensors(*place)
    direction = unit_vectors(angle, elevation)
    is_far = away_m.isinf()
    nearer_m, from_element_m = differences_m(element_m, torch.where(is_far, 1.0, away_m), direction)
    check_places(config, direction[..., 0], torch.where(is_far, torch.inf, from_element_m.amin(dim=-1)))
    nearer_m = torch.where(is_far[..., None], -direction @ element_m.T, nearer_m)
    turns = (config.carrier_hz + offset_hz) / SPEED_OF_LIGHT_M_PER_S * nearer_m
    phase = (-2 * math.pi * (turns - turns.round())).to(torch.float32)
    return torch.complex(phase.cos(), phase.sin())


def check_places(config: NearFieldConfig, ahead: torch.Tensor, nearest_m: torch.Tensor) -> None:
    """Raises SemcomError for a place behind the array (ahead <= 0) or too near to its nearest element."""
    if not bool((ahead > 1e-9).all()):
        raise SemcomError(
            "a user or scatterer stands behind the array or in its plane: keep angles within 90 deg"
        )
    limit_m, least_m = config.reactive_distance_m(), float(nearest_m.min())
    if not least_m > limit_m:
        raise SemcomError(
            f"a user or scatterer is {least_m:.3g} m from an element, within its reactive near field "
            f"({limit_m:.3g} m): move it away"
        )


def check_near_field(config: NearFieldConfig) -> None:
    """Raises SemcomError for settings that don't go together.

    That is elements that don't fill the rows, bounds that cross, users who could come into the reactive near
    field of an element or behind the array on their way, and a band wider than twice the carrier.
    """
    if config.num_elements % config.num_rows:
        raise SemcomError(
            f"num_elements = {config.num_elements} is not num_rows = {config.num_rows} times a number of "
            "columns: change one of them"
        )
    for what in ("paths", "distance_m", "gap_db", "speed_m_s"):
        low, high = getattr(config, f"min_{what}"), getattr(config, f"max_{what}")
        if low > high:
            raise SemcomError(f"min_{what} = {low:g} is above max_{what} = {high:g}: lower it")
    if config.bandwidth_hz >= 2 * config.carrier_hz:
        raise SemcomError(
            f"bandwidth_hz = {config.bandwidth_hz:g} reaches below 0 Hz: take less than twice carrier_hz"
        )
    tilt_deg = config.max_elevation_deg if config.num_rows > 1 else 0.0
    ahead_m = config.min_distance_m * math.cos(math.radians(config.max_angle_deg))
    ahead_m *= math.cos(math.radians(tilt_deg))
    way_m = config.max_speed_m_s * config.interval_s * (config.num_snapshots - 1)
    if ahead_m - way_m <= config.reactive_distance_m():
        raise SemcomError(
            f"min_distance_m = {config.min_distance_m:g} at max_angle_deg = {config.max_angle_deg:g} is "
            f"{ahead_m:.3g} m ahead of the array, and users who move {way_m:.3g} m could come within the "
            f"reactive near field of an element ({config.reactive_distance_m():.3g} m) or behind it: raise "
            "min_distance_m"
        )


def draw_channels(config: NearFieldConfig, num: int, generator: torch.Generator) -> NearFieldChannels:
    """Draws the channels of `num` users, each with min_paths to max_paths paths: see NearFieldChannels.

        h[t, f, n] = sum_p g_p exp(-j 2 pi [(f_c + f)(r_pn - r_p) + f_c (l_p - l_p(0)) + f (l_p - l_0)]/c)

    All lengths but those marked are at time t. r_pn is the distance of element n from the last point of path
    p, r_p that of the centre, l_p the path's length and l_0 what delays count from: see `synchronised`. Users
    and scatterers are uniform in distance, angle and elevation; users keep a velocity, uniform in speed and
    in heading within the x-y plane; levels of scattered paths are uniform in dB and phases uniform. From the
    same generator state, the first users are the same whatever `num` is. The model: Cui and Dai 2022 (IEEE
    Trans. Commun. 70(4), section II), here exact and for several scatterers, subcarriers and snapshots.
    Raises SemcomError as check_near_field, and for more than 8 GiB of channels.
    """
    element_m = element_positions_m(config)
    num_snapshots, num_paths = config.num_snapshots, config.max_paths
    if (size := 8 * num * num_snapshots * config.num_subcarriers * config.num_elements) > _MAX_BYTES:
        raise SemcomError(
            f"{num} channels take {size / 2**30:.1f} GiB, more than {_MAX_BYTES >> 30}: draw them in parts"
        )
    drawn = torch.rand(
        (num, _DRAWS_A_USER + _DRAWS_A_PATH * num_paths), dtype=torch.float64, generator=generator
    )
    count, speed, heading = drawn[:, :_DRAWS_A_USER].T
    of_path = drawn[:, _DRAWS_A_USER:].reshape(num, num_paths, _DRAWS_A_PATH).movedim(-1, 0)
    gain = _draw_gains(config, count, *of_path[4:])
    is_far = of_path[3] < config.far_share
    is_far[:, 0] = False
    place_m = _places_m(config, of_path[0], of_path[1], of_path[2], is_far)  # [N, P, 3]
    velocity_m_s = _between(config.min_speed_m_s, config.max_speed_m_s, speed)[:, None] * unit_vectors(
        2 * math.pi * heading, torch.zeros_like(heading)
    )
    time_s = torch.arange(num_snapshots, dtype=torch.float64) * config.interval_s
    source_m = place_m[:, None].repeat(1, num_snapshots, 1, 1)  # [N, T, P, 3]
    source_m[:, :, 0] += time_s[:, None] * velocity_m_s[:, None]
    distance_m = source_m.norm(dim=-1)
    # Path 0 ends at the user itself: nothing is added to it.
    length_m = distance_m + (source_m - source_m[:, :, :1]).norm(dim=-1)
    direction = source_m / distance_m[..., None]
    lag_m = length_m - (length_m[:, :1, :1] if config.synchronised else 0.0)
    moved_turns = config.carrier_hz / SPEED_OF_LIGHT_M_PER_S * (length_m - length_m[:, :1])
    moved = torch.polar(torch.ones_like(moved_turns), -2 * math.pi * (moved_turns - moved_turns.round()))
    waves = Waves(
        (gain[:, None] * moved).flatten(0, 1),
        distance_m.flatten(0, 1), direction.flatten(0, 1), lag_m.flatten(0, 1),
    )  # fmt: skip
    h = sum_waves(element_m, waves, config.carrier_hz, config.offsets_hz(), config.spreading)
    h = h.reshape(num, num_snapshots, config.num_subcarriers, config.num_elements)
    angle_rad = torch.atan2(source_m[..., 1], source_m[..., 0])
    elevation_rad = torch.asin(direction[..., 2])
    return NearFieldChannels(
        h, gain.to(torch.complex64), distance_m, angle_rad, elevation_rad, length_m, velocity_m_s
    )


def _between(low: float, high: float, uniform: torch.Tensor) -> torch.Tensor:
    return low + (high - low) * uniform


def _draw_gains(
    config: NearFieldConfig, count: torch.Tensor, level: torch.Tensor, phase: torch.Tensor
) -> torch.Tensor:
    num_more = (count * (config.max_paths - config.min_paths + 1)).floor()
    below_db = _between(config.min_gap_db, config.max_gap_db, level)
    below_db[:, 0] = 0
    amplitude = 10 ** (-below_db / 20)
    amplitude *= torch.arange(config.max_paths) < config.min_paths + num_more[:, None]
    return torch.polar(amplitude / amplitude.norm(dim=-1, keepdim=True), 2 * math.pi * phase)


def draw_users_m(config: NearFieldConfig, num: int, generator: torch.Generator) -> torch.Tensor:
    """Draws places of users, uniform in distance, angle and elevation, float64 [N, 3]: see draw_channels."""
    drawn = torch.rand((num, 3), dtype=torch.float64, generator=generator)
    return _places_m(config, drawn[:, 0], drawn[:, 1], drawn[:, 2], torch.zeros(num, dtype=torch.bool))


def _places_m(
    config: NearFieldConfig,
    distance: torch.Tensor,
    angle: torch.Tensor,
    elevation: torch.Tensor,
    is_far: torch.Tensor,
) -> torch.Tensor:
    near_m = _between(config.min_distance_m, config.max_distance_m, distance)
    distance_m = torch.where(is_far, config.rayleigh_distance_m() * (1 + distance), near_m)
    angle_rad = math.radians(config.max_angle_deg) * (2 * angle - 1)
    most_deg = config.max_elevation_deg if config.num_rows > 1 else 0.0
    elevation_rad = math.radians(most_deg) * (2 * elevation - 1)
    return distance_m[..., None] * unit_vectors(angle_rad, elevation_rad)
