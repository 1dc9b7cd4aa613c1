"""Generated data sets of a sensed room: made once on the cluster, and kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from channels.room import RoomConfig
from channels.room_generator import (
    ARRAYS,
    SequenceChunk,
    assemble_room,
    make_sequence,
    open_room_cache,
    plan_sequences,
)
from nodes.cluster import Cluster
from scenarios.generation import obtain


def obtain_room(
    config: RoomConfig,
    seed: int,
    cluster: Cluster | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Returns the file of a data set (see channels/sensing_dataset.py), which is made if it isn't there yet.

    The same frames and channels, bit by bit, whatever the cluster (see scenarios.generation.obtain).
    Raises SemcomError as plan_sequences and make_sequence do, and if the cache can't be written.
    """
    chunks = plan_sequences(config, seed)
    assemble = partial(assemble_room, config, seed)
    return obtain(open_room_cache(config, seed), chunks, _make, assemble, cluster, on_progress)


def _make(chunk: SequenceChunk, num_threads: int) -> dict[str, np.ndarray]:
    if chunk.config.world == "ray-traced":
        from channels.ray_tracer import use_threads

        use_threads(num_threads)
    part = vars(make_sequence(chunk))
    return {name: part[name] for name in ARRAYS}
