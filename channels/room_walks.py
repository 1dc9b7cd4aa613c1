"""Walks through a sensed room: pedestrians head for random goals, around furniture and each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import atan2, ceil, cos, exp, hypot, pi, sin, sqrt

import numpy as np
from scipy import ndimage

from channels.room import SHAPES, RoomConfig, Walk
from semcom.contracts import SemcomError
from semcom.rng import Streams

WALL_M = 0.3
"""Nobody's axis comes nearer to a wall."""

DEVICE_M = 0.1
"""Bodies stay that far from devices and cameras that are not above their heads."""

BETWEEN_M = 0.05
"""Bodies stay that far apart, taken as round: as thick as they are wide."""

_CELL_M = 0.05
# The rest is told by the way that one goes at the mean pace, not by time: whatever the speed, the ways over
# the floor are alike.
_STRIDE_M, _LOOK_M, _SHORTEST_LEG_M, _ARRIVED_M, _BLOCKED_M = 0.12, 0.8, 0.3, 0.2, 0.5
_TURN_RAD_PER_M = 3.0
_ACCELERATION_PER_M, _BRAKING_PER_M = 1.8, 7.0
# Of the pace, where the way turns; slower turns, which are near the walls, would gather walkers there.
_SLOWEST = 0.7
_PAUSES_PER_M, _MEAN_PAUSE_M = 0.025, 1.2
# Pauses, turns and others on the way cost time: who walks is this much faster than the mean.
_HASTE = 1.3
_DETOURS = (0.0, 0.35, -0.35, 0.7, -0.7, 1.1, -1.1, 1.6, -1.6)
_MAX_DRAWS = 200


@dataclass(frozen=True)
class Floor:
    """Where the axis of one body can be: walls, furniture and devices leave it so much room.

    radius_m: half the body's width; start_m: float64 [N, 2], centres of the raster's cells in the largest
    connected part of the free floor.
    """

    radius_m: float
    extent_m: tuple[float, float]
    boxes_m: tuple[tuple[float, float, float, float], ...]
    devices_m: tuple[tuple[float, float], ...]
    start_m: np.ndarray

    def clearance_m(self, x: float, y: float) -> float:
        """How far (x, y) is from where the axis can't be; below 0 where it can't be."""
        free = min(x, y, self.extent_m[0] - x, self.extent_m[1] - y) - WALL_M
        for centre_x, centre_y, half_x, half_y in self.boxes_m:
            out_x, out_y = abs(x - centre_x) - half_x, abs(y - centre_y) - half_y
            outside = hypot(max(out_x, 0.0), max(out_y, 0.0)) + min(max(out_x, out_y), 0.0)
            free = min(free, outside - self.radius_m)
        for device_x, device_y in self.devices_m:
            free = min(free, hypot(x - device_x, y - device_y) - self.radius_m - DEVICE_M)
        return free

    def way_m(self, x: float, y: float, heading: float) -> float:
        """How far the axis can go straight on from a free place."""
        gone, free = 0.0, self.clearance_m(x, y)
        while free > 1e-3:
            gone += free
            free = self.clearance_m(x + gone * cos(heading), y + gone * sin(heading))
        return gone


@lru_cache(maxsize=32)
def make_floor(config: RoomConfig, slot: int) -> Floor:
    """The floor of the pedestrian in a slot. Raises SemcomError if nothing of it is free."""
    shape = SHAPES[config.shapes[slot]]
    low = [*config.receivers_m(), config.transmitter_m(), *config.cameras_m()]
    floor = Floor(
        shape.width_m / 2,
        (config.length_m, config.width_m),
        tuple((*box.centre_m, box.size_m[0] / 2, box.size_m[1] / 2) for box in config.furniture),
        tuple((float(x), float(y)) for x, y, z in low if z < shape.height_m + DEVICE_M),
        np.empty((0, 2)),
    )
    x = np.arange(_CELL_M / 2, config.length_m, _CELL_M)
    y = np.arange(_CELL_M / 2, config.width_m, _CELL_M)
    is_free = np.array([[floor.clearance_m(a, b) > 0 for a in x] for b in y])
    part, num_parts = ndimage.label(is_free)
    if num_parts == 0:
        raise SemcomError(
            f"no free floor for a pedestrian {shape.width_m:g} m wide in a room of {config.length_m:g} x "
            f"{config.width_m:g} m with {len(config.furniture)} boxes: enlarge it or take furniture out"
        )
    rows, columns = np.nonzero(part == 1 + np.bincount(part.ravel())[1:].argmax())
    start_m = np.stack([x[columns], y[rows]], axis=1)
    return Floor(floor.radius_m, floor.extent_m, floor.boxes_m, floor.devices_m, start_m)


def make_walk(config: RoomConfig, sequence: int, streams: Streams) -> Walk:
    """Lets 1 to max_pedestrians walk for num_steps: a pure function of (config, sequence, seed).

    Their number is drawn evenly, and then which of the slots they take. Each starts anywhere on the free
    floor, heads for a goal that is even over what lies in sight in an evenly drawn direction, turning
    smoothly, and for the next one when it is there; some pause. The pace is 3/4 to 5/4 of a mean that makes
    up for pauses and turns, so that a pedestrian covers about speed_m_s. Bodies keep 0.3 m off walls and
    don't touch furniture, devices at their height, and each other. Raises SemcomError if the free floor
    doesn't hold them.
    """
    generator = streams.numpy_generator("room-walk", step=sequence)
    number = int(generator.integers(1, config.max_pedestrians + 1))
    slots = sorted(generator.permutation(config.max_pedestrians)[:number].tolist())
    walkers = _placed(config, slots, generator)
    way_m = config.interval_s * config.speed_m_s * _HASTE
    strides = ceil(way_m / _STRIDE_M)
    position_m = np.full((config.num_steps, config.max_pedestrians, 2), np.nan)
    heading_rad = np.full((config.num_steps, config.max_pedestrians), np.nan)
    for step in range(config.num_steps):
        for slot, walker in zip(slots, walkers, strict=True):
            position_m[step, slot] = walker.x, walker.y
            heading_rad[step, slot] = walker.heading
        for _ in range(strides):
            for walker in walkers:
                walker.move(way_m / strides, walkers)
    return Walk(position_m, heading_rad)


def _placed(config: RoomConfig, slots: list[int], generator: np.random.Generator) -> list[_Walker]:
    floors = [make_floor(config, slot) for slot in slots]
    for _ in range(_MAX_DRAWS):
        places = [
            floor.start_m[generator.integers(len(floor.start_m))] + _CELL_M * (generator.random(2) - 0.5)
            for floor in floors
        ]
        walkers = [
            _Walker(floor, float(x), float(y), generator)
            for floor, (x, y) in zip(floors, places, strict=True)
        ]
        if all(walker.fits(walker.x, walker.y, walkers) for walker in walkers):
            return walkers
    raise SemcomError(
        f"{_MAX_DRAWS} draws found no room for {len(slots)} pedestrians on the free floor of "
        f"{config.length_m:g} x {config.width_m:g} m: lower max_pedestrians or enlarge the room"
    )


class _Walker:
    """One pedestrian on the way from goal to goal."""

    def __init__(self, floor: Floor, x: float, y: float, generator: np.random.Generator) -> None:
        self.floor, self.x, self.y, self._generator = floor, x, y, generator
        self._set_out()
        self.heading = atan2(self._goal[1] - y, self._goal[0] - x)
        self._pace, self._pause_m, self._blocked_m = self._cruise, 0.0, 0.0

    def fits(self, x: float, y: float, walkers: list[_Walker]) -> bool:
        """Whether there is room for the body at (x, y)."""
        return self.floor.clearance_m(x, y) > 0 and all(
            hypot(x - other.x, y - other.y) > self.floor.radius_m + other.floor.radius_m + BETWEEN_M
            for other in walkers
            if other is not self
        )

    def move(self, way_m: float, walkers: list[_Walker]) -> None:
        """Goes on while one at the mean pace goes way_m: around the others, never where there's no room."""
        if self._pause_m > 0:
            self._pause_m -= way_m
            return
        if self._generator.random() < 1 - exp(-_PAUSES_PER_M * way_m):
            self._pause_m, self._pace = self._generator.exponential(_MEAN_PAUSE_M), 0.0
            return
        away_m = hypot(self._goal[0] - self.x, self._goal[1] - self.y)
        if away_m < _ARRIVED_M or self._blocked_m > _BLOCKED_M:
            self._set_out()
        turn = _wrapped(self._wanted(walkers) - self.heading)
        most = _TURN_RAD_PER_M * way_m
        self.heading = _wrapped(self.heading + max(-most, min(most, turn)))
        change = self._cruise * max(_SLOWEST, cos(min(abs(turn), pi / 2))) - self._pace
        self._pace += max(-_BRAKING_PER_M * way_m, min(_ACCELERATION_PER_M * way_m, change))
        x = self.x + self._pace * way_m * cos(self.heading)
        y = self.y + self._pace * way_m * sin(self.heading)
        if self.fits(x, y, walkers):
            self.x, self.y, self._blocked_m = x, y, 0.0
        else:
            self._pace, self._blocked_m = 0.0, self._blocked_m + way_m

    def _wanted(self, walkers: list[_Walker]) -> float:
        """The heading next to the goal's in which nothing is in the way for a moment."""
        straight = atan2(self._goal[1] - self.y, self._goal[0] - self.x)
        ahead = min(_LOOK_M * self._cruise, hypot(self._goal[0] - self.x, self._goal[1] - self.y))
        for detour in _DETOURS:
            heading = straight + detour
            x, y = self.x + ahead * cos(heading), self.y + ahead * sin(heading)
            if self.fits(x, y, walkers):
                return heading
        return straight

    def _set_out(self) -> None:
        for _ in range(_MAX_DRAWS):
            heading = 2 * pi * self._generator.random()
            free = self.floor.way_m(self.x, self.y, heading)
            if free > _SHORTEST_LEG_M:
                break
        # The root makes goals even over the sector in sight.
        leg = max(free * sqrt(self._generator.random()), min(free, _SHORTEST_LEG_M))
        self._goal = (self.x + leg * cos(heading), self.y + leg * sin(heading))
        self._cruise = 0.75 + 0.5 * self._generator.random()
        self._blocked_m = 0.0


def _wrapped(angle: float) -> float:
    return (angle + pi) % (2 * pi) - pi
