"""Where straight lines cross the boxes of a room."""

from __future__ import annotations

import numpy as np


def crossings(
    start_m: np.ndarray, way_m: np.ndarray, low_m: np.ndarray, high_m: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where lines start + t way [..., 3] enter and leave a box's three pairs of planes: t, two of [..., 3].

    A line is within the box from the largest t of the first to the smallest of the second (the slab
    method of Kay and Kajiya 1986); it misses it if there is nothing between.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (low_m - start_m) / way_m, (high_m - start_m) / way_m
    # A line in a plane of the box, 0 / 0, is outside of it.
    one, two = np.nan_to_num(one, nan=np.inf), np.nan_to_num(two, nan=np.inf)
    return np.minimum(one, two), np.maximum(one, two)
