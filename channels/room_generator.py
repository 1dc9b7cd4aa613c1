"""Data sets of a sensed room, made one walk at a time: pedestrians walk, and its sensors' readings follow.

Chunks, a sequence each, know nothing of each other: the same come out whoever makes them, in whatever order
(data_cache.py keeps them until all are there). The file that they become is read by sensing_dataset.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from channels.data_cache import DataCache, Storage, find_place, package_versions
from channels.room import RoomConfig, RoomWorld, check_room
from channels.sensing_dataset import SensingDataset
from semcom.contracts import SemcomError
from semcom.rng import Streams

GENERATOR_VERSION = 1
"""Part of the data's name: to be raised with every change after which other numbers come out."""

ARRAYS = ("frame", "csi", "position_m", "visible_share", "sequence", "time_s")
"""What a data set holds of each step, as SensingDataset has it."""

# A worker holds the frames of a sequence, and twice while it writes them.
_MAX_CHUNK_BYTES = 1 << 29

# A sixth of the space, for a hundredth of the time that the frames took to render.
_STORAGE = {"frame": Storage(rows_a_block=8, gzip_level=1), "csi": Storage(rows_a_block=64)}


@dataclass(frozen=True)
class SequenceChunk:
    """A part of the work: one sequence."""

    config: RoomConfig
    seed: int
    number: int


def plan_sequences(config: RoomConfig, seed: int) -> list[SequenceChunk]:
    """Cuts the work into sequences, whoever is to make them.

    Raises SemcomError as check_room does, and for sequences that take too much memory.
    """
    check_room(config)
    num_px = config.num_cameras * config.frame_height_px * config.frame_width_px
    size = config.num_steps * (3 * num_px + 8 * config.num_receivers * config.num_subcarriers)
    if size > _MAX_CHUNK_BYTES:
        raise SemcomError(
            f"num_steps = {config.num_steps} steps of {config.num_cameras} frames and {config.num_receivers} "
            f"receivers take {size / 2**20:.0f} MiB, more than a worker should hold at once "
            f"({_MAX_CHUNK_BYTES / 2**20:.0f} MiB): lower it, and raise num_sequences"
        )
    return [SequenceChunk(config, seed, number) for number in range(config.num_sequences)]


def make_sequence(chunk: SequenceChunk) -> SensingDataset:
    """Makes one sequence, the same whatever was made before.

    The walk is drawn from streams of the seed under the sequence's number. time_s runs from 0 in each.
    Raises SemcomError where there is no room to walk, and as the world does.
    """
    from channels.room_walks import make_walk

    config = chunk.config
    walk = make_walk(config, chunk.number, Streams(chunk.seed))
    world = load_world(config)
    frame, visible_share = world.frames(walk)
    return SensingDataset(
        frame=frame,
        csi=world.csi(walk),
        position_m=walk.position_m.astype(np.float32),
        sequence=np.full(config.num_steps, chunk.number, dtype=np.int64),
        time_s=config.interval_s * np.arange(config.num_steps),
        visible_share=visible_share,
        carrier_hz=config.carrier_hz,
        bandwidth_hz=config.bandwidth_hz,
    )


@lru_cache(maxsize=1)
def load_world(config: RoomConfig) -> RoomWorld:
    """Makes a room's world ready, one for each process: to load a traced one takes as long as many steps."""
    if config.world == "ray-traced":
        from channels.room_tracer import TracedRoom

        return TracedRoom(config)
    from channels.room_analytic import AnalyticRoom

    return AnalyticRoom(config)


def open_room_cache(config: RoomConfig, seed: int) -> DataCache:
    """Finds the place of the data set of this configuration and seed."""
    told = {
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "generator": GENERATOR_VERSION,
        **package_versions(_packages(config)),
    }
    return find_place(f"{config.world}-room", told)


def assemble_room(
    config: RoomConfig, seed: int, cache: DataCache, num_parts: int, wall_time_s: float
) -> None:
    """Puts the sequences together as the data set's file, one at a time, and removes the parts.

    Raises SemcomError if one is missing.
    """
    deaf, num_there = [], []

    def parts() -> Iterator[dict[str, np.ndarray]]:
        for number in range(num_parts):
            part = cache.read_part(number)
            deaf.append(~part["csi"].any(axis=2))
            num_there.append((~np.isnan(part["position_m"][..., 0])).sum(axis=1))
            yield part

    attributes: dict[str, float | str] = {
        "carrier_hz": config.carrier_hz,
        "bandwidth_hz": config.bandwidth_hz,
        "description": f"{config.world} room of {config.length_m:g} x {config.width_m:g} m, seed {seed}",
    }
    cache.assemble(parts(), attributes, _STORAGE)
    steps_by_number = np.bincount(np.concatenate(num_there), minlength=config.max_pedestrians + 1)
    facts = {
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "generator_version": GENERATOR_VERSION,
        "num_steps": int(steps_by_number.sum()),
        "steps_by_number_of_pedestrians": steps_by_number.tolist(),
        "share_without_path_by_receiver": np.concatenate(deaf).mean(axis=0).round(6).tolist(),
    }
    cache.conclude(facts, _packages(config), wall_time_s)


def _packages(config: RoomConfig) -> tuple[str, ...]:
    """Packages beside numpy, of whose versions the numbers depend."""
    return ("sionna-rt", "mitsuba") if config.world == "ray-traced" else ()
