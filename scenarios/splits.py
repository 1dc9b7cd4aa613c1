"""Training, validation and test positions: whole trajectories or whole blocks of the ground.

Neighbouring samples of one trajectory are nearly the same sample. A random split puts one of them into
training and the next one into the test, which then asks for memory alone; here neither split does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from semcom.contracts import SemcomError
from semcom.rng import Streams

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Which positions serve for what: int64 indices, increasing, no position in two parts."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_by_trajectory(
    trajectory: np.ndarray, streams: Streams, *, validation_share: float = 0.15, test_share: float = 0.15
) -> Split:
    """Holds out whole trajectories, numbers int64 [N], drawn at random.

    Each part has as close to its share of all positions as whole trajectories allow, in the order in which
    they are drawn, and one trajectory at least; a share of 0 leaves a part out. Raises SemcomError where
    there are fewer trajectories than parts.
    """
    group = np.unique(trajectory, return_inverse=True)[1]
    what = f"{group.max(initial=-1) + 1} trajectories, and training and what is held out need one each: "
    part = _deal(group, streams, validation_share, test_share, what + "record more, or split by block")
    return Split(*(np.flatnonzero(part == number) for number in range(len(_PARTS))))


def split_by_block(
    position_m: np.ndarray,
    streams: Streams,
    *,
    block_m: float,
    guard_m: float = 0.0,
    validation_share: float = 0.15,
    test_share: float = 0.15,
) -> Split:
    """Holds out whole square blocks of the ground, sides of block_m along x and y, drawn at random.

    position_m [N, 2 or 3]; the first block's corner is at the least x and y. Shares are counted as by
    `split_by_trajectory`. Then training positions within guard_m (horizontally) of one that is held out are
    left out, and so are validation positions within it of a test position: they are in no part. Raises
    SemcomError where positions lie in fewer blocks than there are parts, or the guard leaves a part empty.
    """
    ground_m = np.asarray(position_m, dtype=np.float64)[:, :2]
    column_row = np.floor((ground_m - ground_m.min(axis=0)) / block_m).astype(np.int64)
    group = np.unique(column_row, axis=0, return_inverse=True)[1].reshape(-1)
    what = f"{group.max(initial=-1) + 1} blocks of {block_m:g} m, and training and what is held out need one "
    part = _deal(group, streams, validation_share, test_share, what + "each: take smaller blocks")
    is_kept = np.ones(len(part), dtype=bool)
    for number in range(len(_PARTS) - 1) if guard_m > 0 else ():
        mine, later = np.flatnonzero(part == number), part > number
        if mine.size and later.any():
            distance_m = cKDTree(ground_m[later]).query(ground_m[mine])[0]
            is_kept[mine[distance_m <= guard_m]] = False
            if not is_kept[mine].any():
                raise SemcomError(
                    f"split: the guard of {guard_m:g} m around blocks of {block_m:g} m leaves no "
                    f"{_PARTS[number]} position: take a smaller guard, or larger blocks"
                )
    return Split(*(np.flatnonzero((part == number) & is_kept) for number in range(len(_PARTS))))


def cut_trajectories(trajectory: np.ndarray, segment_steps: int | None) -> np.ndarray:
    """Lists the positions of trajectories of one length, int64 [U, T]: what is left at their ends is dropped.

    Without segment_steps all trajectories have to have the same length already. Raises SemcomError where
    they don't, and where none is as long as a segment.
    """
    first = np.flatnonzero(np.diff(trajectory, prepend=trajectory[0] - 1))
    length = np.diff(first, append=len(trajectory))
    if segment_steps is None:
        if len(set(length.tolist())) > 1:
            raise SemcomError(
                f"the trajectories have {length.min()} to {length.max()} positions: give "
                "split.segment_steps, to cut them into pieces of one length"
            )
        segment_steps = int(length[0])
    starts = [
        start + piece * segment_steps
        for start, steps in zip(first.tolist(), length.tolist(), strict=True)
        for piece in range(steps // segment_steps)
    ]
    if not starts:
        raise SemcomError(
            f"split.segment_steps = {segment_steps}, the longest trajectory has {length.max()} positions: "
            "shorten the segments"
        )
    return np.array(starts, dtype=np.int64)[:, None] + np.arange(segment_steps)


def _deal(
    group: np.ndarray, streams: Streams, validation_share: float, test_share: float, what: str
) -> np.ndarray:
    """Deals whole groups, numbers 0 .. G-1 of positions [N], out to the parts: part numbers [N]."""
    shares = (validation_share, test_share)
    if min(shares) < 0 or sum(shares) >= 1:
        raise SemcomError(
            f"split: shares of {validation_share:g} for validation and {test_share:g} for the test leave "
            "nothing to train on: take shares from 0 with a sum below 1"
        )
    num_groups = int(group.max(initial=-1)) + 1
    num_held = sum(share > 0 for share in shares)
    if num_groups < num_held + 1:
        raise SemcomError(f"split: the positions are in {what}")
    order = streams.numpy_generator("charting-split").permutation(num_groups)
    reached = np.concatenate([[0], np.cumsum(np.bincount(group)[order])]) / len(group)
    part_of_group = np.zeros(num_groups, dtype=np.int64)
    start = 0
    for number, share in ((2, test_share), (1, validation_share)):
        if share > 0:
            num_held -= 1
            ends = np.arange(start + 1, num_groups - num_held)
            end = int(ends[np.abs(reached[ends] - reached[start] - share).argmin()])
            part_of_group[order[start:end]] = number
            start = end
    return part_of_group[group]
