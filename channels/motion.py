"""Users who speed up, brake and turn: smooth trajectories over open ground, with velocities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from channels.trajectories import NUM_HEADINGS, OpenGround
from channels.ways import Piece, Profile, make_profile, places
from semcom.contracts import SemcomError
from semcom.rng import Streams

_MIN_LEG_M = 1.0
_MIN_RADIUS_M = 0.5
# Along a street one looks to both sides every so often.
_LOOK_M = 2.0
_MAX_TURN = np.deg2rad(120)
_MAX_BEGIN_S = 10.0
_LEGS_AT_ONCE = 8
_MAX_ATTEMPTS = 256


class MotionConfig(BaseModel):
    """How users move: to random places in sight, or along streets with smooth turns."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["random-waypoint", "street"] = Field(
        "random-waypoint", description="to random places in sight with a stop at each, or along streets"
    )
    min_speed_m_per_s: float = Field(2.0, gt=0, le=50, description="slowest cruising speed drawn for a leg")
    max_speed_m_per_s: float = Field(10.0, gt=0, le=50, description="fastest cruising speed drawn for a leg")
    acceleration_m_per_s2: float = Field(
        2.5, ge=0.1, le=10, description="acceleration, braking, and the most across the way in a curve"
    )
    max_pause_s: float = Field(0.0, ge=0, le=60, description="longest stop at a waypoint, drawn evenly")
    max_leg_m: float = Field(30.0, ge=2, le=1000, description="longest way to the next waypoint")
    max_radius_m: float = Field(8.0, ge=1, le=100, description="largest radius of a curve in a street")
    height_m: float = Field(1.5, ge=0.5, le=3, description="height of the users' antennas above the ground")

    @model_validator(mode="after")
    def _speeds_in_order(self) -> Self:
        if self.min_speed_m_per_s > self.max_speed_m_per_s:
            raise ValueError(
                f"min_speed_m_per_s = {self.min_speed_m_per_s:g} is above "
                f"max_speed_m_per_s = {self.max_speed_m_per_s:g}"
            )
        return self


@dataclass(frozen=True)
class Motion:
    """Where users are: position_m and velocity_m_s float64 [U, T, 3], at the times time_s float64 [T]."""

    position_m: np.ndarray
    velocity_m_s: np.ndarray
    time_s: np.ndarray


@dataclass(frozen=True)
class _Way:
    """Corners, and for each leg between two of them its cruising speed and the pause before it."""

    corners_m: list[np.ndarray]
    speeds_m_per_s: list[float]
    pauses_s: list[float]


def make_motion(
    config: MotionConfig, ground: OpenGround, trajectories: list[int], time_s: np.ndarray, streams: Streams
) -> Motion:
    """Moves a user along each of the trajectories with these numbers; time_s grows from 0 on.

    A trajectory is a pure function of (seed, its number): a chain of legs over walkable ground.
    random-waypoint: to a place in sight, in an evenly drawn direction and so far that places are even over
    the sector seen, where the user stops. street: on within 120 degrees of the last direction, drawn in
    proportion to the square of how far it is free, to a place drawn in proportion to the square of how far
    one can go from it to a side, such as a crossing; legs are joined by arcs, the largest up to
    max_radius_m for which there is room. On every leg the user accelerates to a cruising speed drawn
    evenly, in time to brake for what comes: as fast as

        |v(s)| <= cruising speed,  |v(s)|^2 <= a r on an arc,  d|v|^2/ds in [-2 a, 2 a]

    allow, so that the acceleration along the way is a, -a or 0, and across it at most a.
    """
    moved = [_trajectory(config, ground, number, time_s, streams) for number in trajectories]
    position_m, velocity_m_s = (np.stack(part) for part in zip(*moved, strict=True))
    return Motion(position_m, velocity_m_s, np.asarray(time_s, dtype=np.float64))


def _trajectory(
    config: MotionConfig, ground: OpenGround, number: int, time_s: np.ndarray, streams: Streams
) -> tuple[np.ndarray, np.ndarray]:
    cells = np.argwhere(ground.walkable)[:, ::-1]
    draws = streams.uniform("motion-start", [number], 0, (4,))[0].numpy()
    place_m = ground.centre_m + ground.cell_m * (cells[int(draws[0] * len(cells))] + draws[1:3] - 0.5)
    # Users are on their way already when they are first seen.
    begin_s = _MAX_BEGIN_S * float(draws[3])
    way = _Way([place_m], [], [])
    settled_s = -1.0
    while settled_s <= begin_s + float(time_s[-1]):
        for _ in range(_LEGS_AT_ONCE):
            _add_leg(config, ground, way, number, streams)
        pieces = _pieces(config, ground, way)
        profile = make_profile(pieces, config.acceleration_m_per_s2)
        # A leg added later changes the curve at the end of this one and the braking before it, no more.
        braking_m = config.max_speed_m_per_s**2 / (2 * config.acceleration_m_per_s2)
        last_m = float(np.linalg.norm(way.corners_m[-1] - way.corners_m[-2]))
        settled_s = profile.time_at(float(profile.way_m[-1]) - last_m - braking_m)
    return _along(pieces, profile, ground, begin_s + np.asarray(time_s), config.height_m)


def _add_leg(config: MotionConfig, ground: OpenGround, way: _Way, number: int, streams: Streams) -> None:
    """Draws until there is a leg that is long enough."""
    choose = _waypoint if config.kind == "random-waypoint" else _crossing
    for attempt in range(_MAX_ATTEMPTS):
        step = len(way.speeds_m_per_s) * _MAX_ATTEMPTS + attempt
        draws = streams.uniform("motion-leg", [number], step, (5,))[0].numpy()
        corner_m = choose(config, ground, way.corners_m, draws[:3])
        if np.linalg.norm(corner_m - way.corners_m[-1]) >= _MIN_LEG_M:
            slow, fast = config.min_speed_m_per_s, config.max_speed_m_per_s
            way.corners_m.append(corner_m)
            way.speeds_m_per_s.append(slow + float(draws[3]) * (fast - slow))
            way.pauses_s.append(float(draws[4]) * config.max_pause_s)
            return
    x, y = way.corners_m[-1]
    raise SemcomError(
        f"users have nowhere to go from ({x:.1f}, {y:.1f}), {_MIN_LEG_M:g} m being free in none of "
        f"{_MAX_ATTEMPTS} directions: enlarge or move the area"
    )


def _waypoint(
    config: MotionConfig, ground: OpenGround, corners_m: list[np.ndarray], draws: np.ndarray
) -> np.ndarray:
    heading = 2 * np.pi * draws[0]
    # The root makes places even over the sector.
    length_m = np.sqrt(draws[1]) * ground.free_length_m(corners_m[-1], np.array([heading]), config.max_leg_m)
    return np.asarray(corners_m[-1] + length_m * _unit(heading))


def _crossing(
    config: MotionConfig, ground: OpenGround, corners_m: list[np.ndarray], draws: np.ndarray
) -> np.ndarray:
    here_m = corners_m[-1]
    heading = 2 * np.pi * (draws[0] + np.arange(NUM_HEADINGS)) / NUM_HEADINGS
    free_m = ground.free_length_m(here_m, heading, config.max_leg_m)
    if len(corners_m) > 1:
        before = np.arctan2(*(here_m - corners_m[-2])[::-1])
        turn = np.abs((heading - before + np.pi) % (2 * np.pi) - np.pi)
        # Who comes to a dead end turns back.
        if (ahead := free_m * (turn <= _MAX_TURN)).max() >= _MIN_LEG_M:
            free_m = ahead
    chosen = _drawn(free_m**2, draws[1])
    stop_m = np.arange(_MIN_LEG_M, max(free_m[chosen], _MIN_LEG_M) + 1e-9, _LOOK_M)
    sides = heading[chosen] + np.array([-np.pi / 2, np.pi / 2])
    side_m = [
        ground.free_length_m(here_m + at_m * _unit(heading[chosen]), sides, config.max_leg_m).max()
        for at_m in stop_m
    ]
    end_m = stop_m[_drawn(np.array(side_m) ** 2 + 1e-9, draws[2])] if free_m[chosen] >= _MIN_LEG_M else 0.0
    return np.asarray(here_m + end_m * _unit(heading[chosen]))


def _drawn(weight: np.ndarray, draw: float) -> int:
    total = np.cumsum(weight)
    return min(int(np.searchsorted(total, draw * total[-1], side="right")), len(weight) - 1)


def _unit(heading: float) -> np.ndarray:
    return np.array([np.cos(heading), np.sin(heading)])


def _pieces(config: MotionConfig, ground: OpenGround, way: _Way) -> list[Piece]:
    """Makes of a way's corners the curves that there is room for; a corner without one is a stop."""
    legs_m = np.diff(way.corners_m, axis=0)
    length_m = np.linalg.norm(legs_m, axis=1)
    heading = np.arctan2(legs_m[:, 1], legs_m[:, 0])
    pieces: list[Piece] = []
    start_m, cut_m, stops, num_legs = way.corners_m[0], 0.0, True, len(legs_m)
    for leg in range(num_legs):
        arc = None
        if config.kind == "street" and leg + 1 < num_legs:
            arc = _arc(config, ground, way, leg, heading, length_m)
        next_cut_m = (
            0.0
            if arc is None
            else np.tan(abs(arc.curvature_per_m) * arc.length_m / 2) / abs(arc.curvature_per_m)
        )
        pieces.append(
            Piece(
                start_m, heading[leg], length_m[leg] - cut_m - next_cut_m, 0.0,
                way.speeds_m_per_s[leg], stops, way.pauses_s[leg],
            )
        )  # fmt: skip
        stops = arc is None
        start_m, cut_m = way.corners_m[leg + 1], next_cut_m
        if arc is not None:
            pieces.append(arc)
            start_m = start_m + next_cut_m * _unit(heading[leg + 1])
    return pieces


def _arc(
    config: MotionConfig, ground: OpenGround, way: _Way, leg: int, heading: np.ndarray, length_m: np.ndarray
) -> Piece | None:
    turn = (heading[leg + 1] - heading[leg] + np.pi) % (2 * np.pi) - np.pi
    if abs(turn) < 1e-6 or abs(turn) > _MAX_TURN + 0.01:
        return None
    tangent = np.tan(abs(turn) / 2)
    # At most 0.45 of a leg, so that something of it is left between two curves.
    radius_m = min(config.max_radius_m, 0.45 * min(length_m[leg], length_m[leg + 1]) / tangent)
    while radius_m >= _MIN_RADIUS_M:
        start_m = way.corners_m[leg + 1] - radius_m * tangent * _unit(heading[leg])
        speed = min(*way.speeds_m_per_s[leg : leg + 2], np.sqrt(config.acceleration_m_per_s2 * radius_m))
        arc = Piece(start_m, heading[leg], radius_m * abs(turn), np.sign(turn) / radius_m, speed, False, 0.0)
        way_m = np.linspace(0, arc.length_m, 2 + int(arc.length_m / (ground.cell_m / 4)))
        if ground.is_walkable(places([arc], np.zeros(len(way_m), dtype=np.int64), way_m)[0]).all():
            return arc
        radius_m /= 2
    return None


def _along(
    pieces: list[Piece], profile: Profile, ground: OpenGround, time_s: np.ndarray, height_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities [T, 3] at the times."""
    cell = (np.searchsorted(profile.start_s, time_s, side="right") - 1).clip(0)
    within_s = np.clip(time_s, profile.start_s[cell], profile.end_s[cell]) - profile.start_s[cell]
    before, after = profile.squares[cell], profile.squares[cell + 1]
    acceleration = (after - before) / (2 * (profile.way_m[cell + 1] - profile.way_m[cell]))
    gone_m = profile.way_m[cell] + np.sqrt(before) * within_s + acceleration * within_s**2 / 2
    speed = np.sqrt(before) + acceleration * within_s
    piece = profile.piece[cell]
    start_m = np.concatenate([[0.0], np.cumsum([piece.length_m for piece in pieces])])
    place_m, heading = places(pieces, piece, gone_m - start_m[piece])
    flat = speed[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    ahead_s = 1e-4
    rise_m = ground.ground_m(place_m + ahead_s * flat) - ground.ground_m(place_m - ahead_s * flat)
    position_m = np.column_stack([place_m, ground.ground_m(place_m) + height_m])
    return position_m, np.column_stack([flat, rise_m / (2 * ahead_s)])
