"""How a process computes: on one thread, and without handing freed memory back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread for the duration of a `with` block, in torch and in numpy's BLAS.

    The last bits of a sum depend on how many threads share it.
    """
    _keep_freed_memory()
    num_threads = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)


def compute_on_one_thread() -> None:
    """Does the same for good: for a worker's process."""
    _keep_freed_memory()
    threadpool_limits(1)
    torch.set_num_threads(1)


def release_freed_memory() -> None:
    """Hands freed memory back to the system after all, between jobs; without glibc nothing was kept."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@cache
def _keep_freed_memory() -> None:
    """Tells glibc to reuse freed memory; does nothing on another C library.

    By default every activation of a few megabytes is mapped anew and faulted in page by page, which took
    longer than the convolution that fills it, and keeps two cores from being faster than one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
