"""Generated data sets, whatever they hold: made once, in chunks on the cluster, and kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from channels.data_cache import DataCache
from nodes.cluster import Cluster


class NumberedChunk(Protocol):
    """A part of the work, which a worker is sent; numbers run from 0."""

    @property
    def number(self) -> int:
        """Its place in the data set."""
        ...


Chunk = TypeVar("Chunk", bound=NumberedChunk)


def obtain(
    cache: DataCache,
    chunks: Sequence[Chunk],
    make: Callable[[Chunk, int], Mapping[str, np.ndarray]],
    assemble: Callable[[DataCache, int, float], None],
    cluster: Cluster | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    most_a_worker: int | None = None,
) -> Path:
    """Returns the file of a data set, which is made if it isn't there yet.

    make(chunk, num_threads) gives a chunk's named arrays, the same ones whatever the threads;
    assemble(cache, num_chunks, wall_time_s) then makes file and manifest of all. Both must be picklable
    where there are workers; without a cluster this process does it all. What was made before an
    interruption, or by another process, is not made again. on_progress(done, total) counts chunks.
    most_a_worker: chunks after which a worker's process ends and another takes its place. Workers on
    other machines need the cache in a folder that all share. Raises SemcomError as make does, and if the
    cache can't be written.
    """
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
        # No worker lives longer than this: what the generator holds would stay through the training.
        share = -(-len(left) // max(1, workers.num_workers))
        per_worker = max(1, share if most_a_worker is None else min(share, most_a_worker))
        workers.map(partial(_make, cache, make, threads), left, done, jobs_per_worker=per_worker)
        assemble(cache, len(chunks), time.monotonic() - begin_s)
    return cache.path


def _make(
    cache: DataCache,
    make: Callable[[Chunk, int], Mapping[str, np.ndarray]],
    num_threads: int,
    chunk: Chunk,
) -> None:
    cache.write_part(chunk.number, make(chunk, num_threads))
