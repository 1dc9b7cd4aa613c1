"""Generated data sets of CSI: made once on the cluster, and kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from channels.csi_cache import CsiCache, assemble, open_cache
from channels.csi_generator import Chunk, make_chunk, plan_chunks
from channels.csi_scene import CsiSceneConfig
from nodes.cluster import Cluster

# Sionna's loops keep some memory with every call.
_POSITIONS_A_WORKER = 10_000


def obtain_dataset(
    config: CsiSceneConfig,
    seed: int,
    cluster: Cluster | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Returns the file of a data set (see channels/csi_dataset.py), which is made if it isn't there yet.

    The same positions and channels, bit by bit, whatever the cluster; without one this process makes them.
    What was made before an interruption, or by another process, is not made again. on_progress(done,
    total) counts chunks. Workers on other machines need the cache in a folder that all share. Raises
    SemcomError as plan_chunks and make_chunk do, and if the cache can't be written.
    """
    chunks = plan_chunks(config, seed)
    cache = open_cache(config, seed)
    if cache.is_whole():
        return cache.path
    with cache.locked():
        if cache.is_whole():
            return cache.path
        begin_s = time.monotonic()
        finished = cache.finished()
        left = [chunk for chunk in chunks if chunk.number not in finished]
        num_done = len(chunks) - len(left)

        def done(_index: int, _result: None) -> None:
            nonlocal num_done
            num_done += 1
            if on_progress:
                on_progress(num_done, len(chunks))

        workers = cluster if cluster is not None else Cluster()
        threads = max(1, (os.cpu_count() or 1) // max(1, workers.num_workers))
        # No worker lives longer than this: what Sionna holds would stay with it through the training.
        share = -(-len(left) // max(1, workers.num_workers))
        per_worker = max(1, min(share, _POSITIONS_A_WORKER // config.num_steps))
        workers.map(partial(_make, cache, threads), left, done, jobs_per_worker=per_worker)
        assemble(cache, len(chunks), time.monotonic() - begin_s)
    return cache.path


def _make(cache: CsiCache, num_threads: int, chunk: Chunk) -> None:
    from channels.ray_tracer import use_threads

    use_threads(num_threads)
    cache.write_part(chunk.number, make_chunk(chunk))
