"""Dissimilarities of CSI that need no positions: by angle-delay profile, by time, fused, along the manifold.

Source throughout: Stephan, Euchner and ten Brink, Angle-delay profile-based and timestamp-aided dissimilarity
metrics for channel charting, 2023, and the code published with its successor on DICHASUS data (Euchner,
Stephan and ten Brink, Augmenting channel charting with classical wireless source localization techniques,
Asilomar 2023).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from semcom.contracts import SemcomError

NUM_NEIGHBORS = 20
"""Neighbours of each point in the graph whose shortest paths are the geodesics."""

EMPTY_TAP = 1e-12
"""A tap with less than this share of its snapshot's power is rounding, and counts as empty."""

FloatArray = npt.NDArray[np.floating]

_BLOCK_PAIRS = 1 << 18
"""Pairs compared at a time: three float32 arrays of them fit a processor's cache."""


def adp_dissimilarity(taps: npt.ArrayLike, others: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
    """Compares angle-delay profiles, in which a user's phase and power don't count: float32 [N, K].

    D(i, j) = sum over arrays r and taps l of 1 - |h_irl^H h_jrl|^2 / (|h_irl|^2 |h_jrl|^2), h_irl the M
    antennas' values; every tap has the same weight, as published. A tap that is empty in both adds nothing
    and one that is empty in one of them adds 1, so that D(i, i) = 0 and nothing is divided by 0.
    taps: complex [N, R, M, L]; others: complex [K, R, M, L], `taps` itself where they aren't given. In
    float32 the error is about 1e-6 a tap; memory beside the result is that of the taps, twice.
    Raises SemcomError for other shapes or values that are not finite.
    """
    rows, rows_empty = _directions(taps)
    columns, columns_empty = (rows, rows_empty) if others is None else _directions(others)
    if rows.shape[::2] != columns.shape[::2] or rows_empty.shape[1] != columns_empty.shape[1]:
        raise SemcomError("the taps compared differ in arrays, antennas or delays: cut both alike")
    num, num_antennas = rows.shape[1], rows.shape[2] // 2
    # a + ib is in `rows`, c + id in `columns`: their product is (ac + bd) + i (ad - bc).
    turned = np.concatenate([columns[..., num_antennas:], -columns[..., :num_antennas]], axis=-1)
    result = np.empty((num, columns.shape[1]), dtype=np.float32)
    size = max(1, _BLOCK_PAIRS // columns.shape[1])
    for start in range(0, num, size):
        block = slice(start, start + size)
        alike = rows_empty[block] @ columns_empty.T
        real, imaginary = np.empty_like(alike), np.empty_like(alike)
        for tap in range(len(rows)):
            np.matmul(rows[tap, block], columns[tap].T, out=real)
            np.matmul(rows[tap, block], turned[tap].T, out=imaginary)
            alike += np.square(real, out=real)
            alike += np.square(imaginary, out=imaginary)
        result[block] = np.maximum(len(rows) - alike, 0)
    if others is None:
        result = np.maximum(result, result.T)
        np.fill_diagonal(result, 0)
    return result


def time_dissimilarity(time_s: npt.ArrayLike, trajectory: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Seconds between two points of one trajectory, |t_i - t_j|, and infinity between trajectories: [N, N].

    time_s, trajectory: [N]. Raises SemcomError where they differ in length.
    """
    time, trajectory = np.asarray(time_s, dtype=np.float64), np.asarray(trajectory)
    if time.shape != trajectory.shape or time.ndim != 1:
        raise SemcomError(
            f"times {time.shape} and trajectories {trajectory.shape} have to be given per point"
        )
    gap = np.abs(time[:, None] - time[None]).astype(np.float32)
    gap[trajectory[:, None] != trajectory[None]] = np.inf
    return gap


def time_scale(adp: FloatArray, gap_s: FloatArray, max_gap_s: float = 2.0, num_bins: int = 200) -> float:
    """Dissimilarity per second, gamma, with which gamma |t_i - t_j| agrees with D_ADP between near points.

    Of the pairs less than max_gap_s apart the ratios D_ADP / |t_i - t_j| are counted in bins from 0 to twice
    their median. From the most frequent ratio downwards, gamma is the first that occurs less often than the
    median of those below: the edge of what moving users show, so that time shortens paths only where it is
    sure to. Users who stand pile up at a ratio of 0; if that is the most frequent, the median ratio is taken.
    adp, gap_s: [N, N]; published with max_gap_s = 2 and bins of fixed width for one data set.
    Raises SemcomError where no two points of a trajectory are as near in time, or their CSI is the same.
    """
    near = (gap_s > 0) & (gap_s < max_gap_s)
    ratio = adp[near].astype(np.float64) / gap_s[near]
    if not ratio.size:
        raise SemcomError(
            f"no two points of a trajectory are less than {max_gap_s:g} s apart: time can't be fused, "
            "use the angle-delay dissimilarity alone or a larger max_gap_s"
        )
    median = float(np.median(ratio))
    if not median:
        raise SemcomError(
            f"the CSI of most points less than {max_gap_s:g} s apart is the same: nobody moves, "
            "use the angle-delay dissimilarity alone"
        )
    count, edges = np.histogram(ratio, bins=num_bins, range=(0, 2 * median))
    mode = int(np.argmax(count))
    if mode == 0:
        return median
    rare = np.flatnonzero(count[:mode] < np.median(count[:mode]))
    chosen = int(rare[-1]) if rare.size else 0
    return float(edges[chosen] + edges[chosen + 1]) / 2


def fuse(adp: FloatArray, gap_s: FloatArray, scale: float) -> npt.NDArray[np.float32]:
    """Takes the smaller of two upper bounds on how far apart points are: min(D_ADP, gamma |t_i - t_j|)."""
    return np.minimum(adp, np.float32(scale) * gap_s.astype(np.float32, copy=False))


def geodesic_dissimilarity(
    dissimilarity: FloatArray, num_neighbors: int = NUM_NEIGHBORS
) -> npt.NDArray[np.float32]:
    """Lengths of the shortest paths in the graph of nearest neighbours: float32 [N, N].

    Two points are joined when one is among the other's num_neighbors nearest (all others, where there are
    fewer); paths are Dijkstra's. If the graph falls apart, its parts are joined by the shortest pairs of
    points between them, as few as will do (a minimum spanning tree of the parts): unjoined they would be
    infinitely far apart, and a chart of one part alone would leave points out.
    dissimilarity: [N, N], symmetric, infinite where nothing is known. Raises SemcomError where parts can't
    be joined because nothing is known between them. Source: Tenenbaum, de Silva and Langford, Science 2000.
    """
    num = len(dissimilarity)
    k = min(num_neighbors, num - 1)
    own = np.array(dissimilarity, dtype=np.float32)
    np.fill_diagonal(own, np.inf)
    column = np.argpartition(own, k - 1, axis=1)[:, :k].reshape(-1)
    row = np.repeat(np.arange(num), k)
    known = np.isfinite(own[row, column])
    row, column = row[known], column[known]
    graph = _undirected(own, row, column)
    num_parts, part = csgraph.connected_components(graph, directed=False)
    if num_parts > 1:
        joints = _joints(own, part, num_parts)
        graph = _undirected(own, np.append(row, joints[0]), np.append(column, joints[1]))
    return csgraph.dijkstra(graph, directed=True).astype(np.float32)


def geodesic_to_training(
    dissimilarity: FloatArray, geodesic: FloatArray, num_neighbors: int = NUM_NEIGHBORS
) -> npt.NDArray[np.float32]:
    """Lengths of the shortest paths from new points to training points, through those alone: float32 [n, N].

    G(x, j) = min over the num_neighbors training points i nearest to x of D(x, i) + G(i, j). dissimilarity:
    [n, N], new to training; geodesic: [N, N], from `geodesic_dissimilarity`.
    """
    k = min(num_neighbors, geodesic.shape[0])
    nearest = np.argpartition(dissimilarity, k - 1, axis=1)[:, :k]
    result = np.full(dissimilarity.shape, np.inf, dtype=np.float32)
    for column in nearest.T:
        first = np.take_along_axis(dissimilarity, column[:, None], axis=1).astype(np.float32)
        np.minimum(result, first + geodesic[column], out=result)
    return result


def _directions(taps: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Unit vectors over the antennas, real parts then imaginary ones, [R L, N, 2 M]; empty taps [N, R L]."""
    values = np.asarray(taps, dtype=np.complex64)
    if values.ndim != 4 or not values.size:
        raise SemcomError(f"taps have shape {values.shape}: they have to be [N, arrays, antennas, delays]")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(axis=(1, 2, 3))).sum())
        raise SemcomError(f"{bad} of {len(values)} snapshots of taps are not finite: leave them out")
    # Scaled by the largest value first: powers of weak channels would underflow in float32.
    largest = np.maximum(np.abs(values).max(axis=(1, 2, 3), keepdims=True), np.finfo(np.float32).tiny)
    values = (values / largest).transpose(1, 3, 0, 2)
    power = np.sum(np.square(values.real) + np.square(values.imag), axis=-1)
    empty = power <= EMPTY_TAP * power.sum(axis=(0, 1))
    norm = np.where(empty, np.float32(1), np.sqrt(power))[..., None]
    directions = np.concatenate([values.real / norm, values.imag / norm], axis=-1)
    directions[empty] = 0
    num_taps = directions.shape[0] * directions.shape[1]
    flat = directions.reshape(num_taps, *directions.shape[2:])
    return np.ascontiguousarray(flat), empty.reshape(num_taps, -1).T.astype(np.float32)


def _undirected(
    dissimilarity: FloatArray, row: npt.NDArray[np.intp], column: npt.NDArray[np.intp]
) -> sparse.csr_array:
    """The graph of the listed edges, in both directions; csgraph takes a stored 0 as an edge of length 0."""
    num = len(dissimilarity)
    ends = np.unique(np.concatenate([row * num + column, column * num + row]))
    row, column = ends // num, ends % num
    length = dissimilarity[row, column].astype(np.float64)
    return sparse.csr_array((length, (row, column)), shape=(num, num))


def _joints(
    dissimilarity: FloatArray, part: npt.NDArray[np.int32], num_parts: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The pairs of points that join all parts of a graph by a tree of least length."""
    shortest = np.full((num_parts, num_parts), np.inf)
    ends = np.zeros((2, num_parts, num_parts), dtype=np.intp)
    members = [np.flatnonzero(part == index) for index in range(num_parts)]
    for index, own in enumerate(members):
        nearest = own[np.argmin(dissimilarity[own], axis=0)]
        length = dissimilarity[nearest, np.arange(len(part))]
        for other, theirs in enumerate(members):
            if other != index:
                best = theirs[np.argmin(length[theirs])]
                shortest[index, other], ends[:, index, other] = length[best], (nearest[best], best)
    # A length of 0 would be no edge to the spanning tree.
    shortest = np.maximum(shortest, np.finfo(np.float32).tiny)
    tree = csgraph.minimum_spanning_tree(np.where(np.isfinite(shortest), shortest, 0)).tocoo()
    if tree.nnz < num_parts - 1:
        raise SemcomError(
            f"the points fall into {num_parts} parts of which no dissimilarity is known between some: "
            "fuse the time with the angle-delay dissimilarity, which is known for all"
        )
    return ends[0, tree.row, tree.col], ends[1, tree.row, tree.col]
