"""Generated data sets of CSI: made once on the cluster, and kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from channels.csi_cache import assemble, open_cache
from channels.csi_generator import Chunk, make_chunk, plan_chunks
from channels.csi_scene import CsiSceneConfig
from nodes.cluster import Cluster
from scenarios.generation import obtain

# Sionna's loops keep some memory with every call.
_POSITIONS_A_WORKER = 10_000


def obtain_dataset(
    config: CsiSceneConfig,
    seed: int,
    cluster: Cluster | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Returns the file of a data set (see channels/csi_dataset.py), which is made if it isn't there yet.

    The same positions and channels, bit by bit, whatever the cluster (see scenarios.generation.obtain).
    Raises SemcomError as plan_chunks and make_chunk do, and if the cache can't be written.
    """
    chunks = plan_chunks(config, seed)
    return obtain(
        open_cache(config, seed),
        chunks,
        _make,
        partial(assemble, config, seed),
        cluster,
        on_progress,
        most_a_worker=max(1, _POSITIONS_A_WORKER // config.num_steps),
    )


def _make(chunk: Chunk, num_threads: int) -> dict[str, np.ndarray]:
    from channels.ray_tracer import use_threads

    use_threads(num_threads)
    return make_chunk(chunk).arrays()
