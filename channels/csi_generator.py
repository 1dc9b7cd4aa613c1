"""Ray-traced data sets of CSI, made in chunks: users move through a scene, their channels are traced.

Chunks, a trajectory each, know nothing of each other: the same come out whoever makes them, in whatever
order (data_cache.py keeps them until all are there).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from channels.csi_scene import POSITIONS_A_CHUNK, CsiSceneConfig, check_csi_scene, read_positions
from channels.motion import make_motion
from channels.scenes import SCENES
from channels.trajectories import OpenGround
from semcom.contracts import SemcomError
from semcom.rng import Streams

if TYPE_CHECKING:
    from channels.array_tracer import ArrayTracer
    from channels.ray_tracer import Scene

GENERATOR_VERSION = 1
"""Part of the data's name: to be raised with every change after which other numbers come out."""

_MAX_REDRAWS = 20


@dataclass(frozen=True)
class Chunk:
    """A part of the work: one trajectory, or a block of the positions in a file."""

    config: CsiSceneConfig
    seed: int
    number: int


@dataclass(frozen=True)
class Part:
    """What a chunk becomes: see csi_dataset.py; velocity_m_s and time_s are None for positions of a file.

    num_redrawn: trajectories that were drawn before this one and led through a place without any path.
    """

    csi: np.ndarray
    position_m: np.ndarray
    trajectory: np.ndarray
    velocity_m_s: np.ndarray | None = None
    time_s: np.ndarray | None = None
    num_redrawn: int = 0

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what there is of it by name."""
        return {name: np.asarray(held) for name, held in vars(self).items() if held is not None}


def plan_chunks(config: CsiSceneConfig, seed: int) -> list[Chunk]:
    """Cuts the work into chunks, whoever is to do it. Raises SemcomError as check_csi_scene does."""
    check_csi_scene(config)
    number = config.num_trajectories
    if config.positions_path is not None:
        number = -(-len(read_positions(config.positions_path)) // POSITIONS_A_CHUNK)
    return [Chunk(config, seed, index) for index in range(number)]


def make_chunk(chunk: Chunk) -> Part:
    """Traces one chunk, the same whatever was traced before.

    A trajectory that leads through a place without a path to any array is drawn anew, so that no channel
    is zero at all arrays; at some arrays it may be. Raises SemcomError for arrays and positions where
    there can be none, an area without open ground, a position of a file without a path, and an area where
    20 trajectories in turn lead through such places.
    """
    config = chunk.config
    site = _site(config)
    if config.positions_path is not None:
        return _trace_positions(site, chunk, config.positions_path)
    time_s = config.interval_s * np.arange(config.num_steps)
    for attempt in range(_MAX_REDRAWS):
        streams = Streams(chunk.seed, replicate=attempt)
        motion = make_motion(config.motion, site.ground, [chunk.number], time_s, streams)
        csi = site.tracer.csi(motion.position_m[0], config.num_subcarriers, config.bandwidth_hz)
        if _is_reached(csi).all():
            trajectory = np.full(config.num_steps, chunk.number)
            return Part(csi, motion.position_m[0], trajectory, motion.velocity_m_s[0], time_s, attempt)
    raise SemcomError(
        f"{_MAX_REDRAWS} drawings of trajectory {chunk.number} led through places without a path to any "
        "array: make radius_m smaller, move the arrays, raise max_depth or num_rays, or set diffraction"
    )


@dataclass(frozen=True)
class _Site:
    """A scene made ready for a configuration: its arrays face the ground in the middle of the area."""

    scene: Scene
    ground: OpenGround
    tracer: ArrayTracer


@lru_cache(maxsize=1)
def _site(config: CsiSceneConfig) -> _Site:
    from channels.array_tracer import ArrayTracer
    from channels.ray_tracer import load_scene, load_scene_file

    built_in = SCENES.get(config.scene)
    scene = (
        load_scene(built_in.name, built_in.ground)
        if built_in
        else load_scene_file(config.scene, config.ground or "ground")
    )
    array_m = config.arrays_m()
    for number, (place_m, is_free) in enumerate(zip(array_m, scene.sky_above(array_m), strict=True)):
        if not is_free:
            raise SemcomError(
                f"array_m[{number}] = {_told(place_m)} lies inside a building or below the ground of "
                f"{config.scene}: move or raise it"
            )
    x, y = config.area_centre_m()
    ground = scene.open_ground(np.array([x, y, 0.0]), config.radius_m)
    if not ground.walkable.any() and config.positions_path is None:
        raise SemcomError(
            f"centre_m = ({x:g}, {y:g}) has no open ground of {config.scene} within radius_m = "
            f"{config.radius_m:g}: move it or enlarge the radius"
        )
    level_m = np.median(ground.height_m[ground.walkable]) if ground.walkable.any() else 0.0
    facing_m = np.array([x, y, level_m])
    told = {
        name: getattr(config, name)
        for name in (
            "num_rows", "num_columns", "polarisation", "pattern",
            "max_depth", "reflection", "diffraction", "refraction", "num_rays",
        )
    }  # fmt: skip
    return _Site(scene, ground, ArrayTracer(scene, array_m, facing_m, config.carrier_hz, **told))


def _trace_positions(site: _Site, chunk: Chunk, path: Path) -> Part:
    config = chunk.config
    first = POSITIONS_A_CHUNK * chunk.number
    place_m = read_positions(path)[first : first + POSITIONS_A_CHUNK]
    scene, name = site.scene, config.scene
    low_m, high_m = scene.bounds_m()
    is_within = np.all((place_m >= low_m) & (place_m <= high_m), axis=1)
    _refuse(~is_within, f"lies outside {name}", place_m, chunk)
    _refuse(
        ~scene.sky_above(place_m), f"lies inside a building or below the ground of {name}", place_m, chunk
    )
    csi = site.tracer.csi(place_m, config.num_subcarriers, config.bandwidth_hz)
    _refuse(~_is_reached(csi), "has no path to any array", place_m, chunk)
    return Part(csi, place_m, np.zeros(len(place_m), dtype=np.int64))


def _is_reached(csi: np.ndarray) -> np.ndarray:
    return np.asarray(csi.any(axis=(1, 2, 3, 4)))


def _refuse(wrong: np.ndarray, told: str, place_m: np.ndarray, chunk: Chunk) -> None:
    """Names the first of the positions that is wrong."""
    if wrong.any():
        index = int(wrong.argmax())
        raise SemcomError(
            f"position {POSITIONS_A_CHUNK * chunk.number + index} of positions_path = "
            f"{chunk.config.positions_path}, {_told(place_m[index])}, {told}: leave it out or move it"
        )


def _told(place_m: np.ndarray) -> str:
    x, y, z = place_m
    return f"({x:g}, {y:g}, {z:g})"
