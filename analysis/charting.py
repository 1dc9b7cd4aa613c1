"""Metrics of channel charts: what a chart keeps of the true positions, and how far off it is in metres."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

FloatArray = npt.NDArray[np.float64]

NEIGHBOR_SHARE = 0.05
"""Neighbours of trustworthiness and continuity as a share of the points: K = int(0.05 n)."""

NUM_RAJSKI_BINS = 20

_BLOCK_PAIRS = 2_000_000
"""Pairs of points whose distances are held at a time: 16 MB for each array of them."""


def trustworthiness(position: npt.ArrayLike, chart: npt.ArrayLike, num_neighbors: int | None = None) -> float:
    """How far neighbours in the chart are neighbours in space: 1 for all of them, about 0.5 by chance.

    TW = 1 - 2 / (n K (2 n - 3 K - 1)) sum_i sum_(j in U_i) max(0, r(i, j) - K), U_i the K points nearest to i
    in the chart and r(i, j) the rank of j by its distance to i in space. position [n, P], chart [n, D];
    num_neighbors is K, int(0.05 n) where it isn't given.
    Where distances tie, ranks and neighbours are the mean over all orders of the tied points, so that a
    chart that collapsed gains nothing by the order of its rows; without ties it is
    sklearn.manifold.trustworthiness. Raises ValueError for wrong shapes or too few points.
    Source: Venna and Kaski, Neighborhood preservation in nonlinear projection methods, ICANN 2001;
    K as in the code published with Taner, Palhares and Studer, arXiv 2406.13722.
    """
    position, chart = _paired(position, chart)
    num = len(position)
    k = int(NEIGHBOR_SHARE * num) if num_neighbors is None else num_neighbors
    if not 1 <= k < num / 2:
        raise ValueError(
            f"{num} points are too few for trustworthiness and continuity with K = {k} neighbours: "
            "K has to be at least 1 and below half their number (K = int(0.05 n) needs 20 points)"
        )
    penalty = 0.0
    for rows in _blocks(num):
        in_space, in_chart = cdist(position[rows], position), cdist(chart[rows], chart)
        own = np.arange(rows.start, rows.stop)
        in_space[own - rows.start, own] = in_chart[own - rows.start, own] = np.inf
        edge = np.partition(in_chart, k - 1, axis=1)[:, k - 1 : k]
        nearer, tied = in_chart < edge, in_chart == edge
        tied_weight = (k - nearer.sum(1)) / tied.sum(1)
        ordered = np.sort(in_space, axis=1)
        for row, distances in enumerate(in_space):
            near = np.flatnonzero(nearer[row] | tied[row])
            weight = np.where(tied[row, near], tied_weight[row], 1.0)
            below = np.searchsorted(ordered[row], distances[near], "left")
            upto = np.searchsorted(ordered[row], distances[near], "right")
            penalty += float(weight @ _mean_excess(below, upto, k))
    return 1.0 - penalty * 2.0 / (num * k * (2.0 * num - 3.0 * k - 1.0))


def continuity(position: npt.ArrayLike, chart: npt.ArrayLike, num_neighbors: int | None = None) -> float:
    """How far neighbours in space are neighbours in the chart: trustworthiness, its arguments swapped.

    Shapes, errors and source as for `trustworthiness`.
    """
    return trustworthiness(chart, position, num_neighbors)


def kruskal_stress(position: npt.ArrayLike, chart: npt.ArrayLike) -> float:
    """Kruskal's stress of the chart's distances: 0 when they are proportional to those in space, at most 1.

    KS = sqrt(sum (D - b D_hat)^2 / sum D^2), b = sum D D_hat / sum D_hat^2, over all pairs; D the distances
    in space (position [n, P]) and D_hat those in the chart (chart [n, D]); b = 0 where D_hat is 0 throughout.
    Raises ValueError for wrong shapes, or positions that are all the same.
    Source: Kruskal, Multidimensional scaling by optimizing goodness of fit, Psychometrika 29, 1964.
    """
    position, chart = _paired(position, chart)
    space_chart, chart_chart, space_space = 0.0, 0.0, 0.0
    for in_space, in_chart in _distances(position, chart):
        space_chart += float(np.vdot(in_space, in_chart))
        chart_chart += float(np.vdot(in_chart, in_chart))
        space_space += float(np.vdot(in_space, in_space))
    if not space_space:
        raise ValueError("the positions are all the same: the stress of a chart needs distances in space")
    scale = space_chart / chart_chart if chart_chart else 0.0
    # A second pass: the closed form of the sum loses half the digits where the stress is small.
    residual = sum(
        float(np.sum((in_space - scale * in_chart) ** 2))
        for in_space, in_chart in _distances(position, chart)
    )
    return float(np.sqrt(residual / space_space))


def rajski_distance(position: npt.ArrayLike, chart: npt.ArrayLike, num_bins: int = NUM_RAJSKI_BINS) -> float:
    """Rajski's distance between distances in space and in the chart: 0 when one tells the other, 1 nothing.

    RD = 1 - I(D; D_hat) / H(D, D_hat), mutual information and joint entropy of the histogram of D and D_hat
    on num_bins x num_bins equal bins from 0 to the largest of each, over all n^2 pairs, a point with itself
    included, as published. position [n, P], chart [n, D].
    Raises ValueError for wrong shapes, or positions that are all the same.
    Source: Rajski, A metric space of discrete probability distributions, Information and Control 4, 1961;
    on 20 bins in the code published with Taner, Palhares and Studer, Channel charting in real-world
    coordinates with distributed MIMO, arXiv 2406.13722.
    """
    position, chart = _paired(position, chart)
    most_in_space = most_in_chart = 0.0
    for in_space, in_chart in _distances(position, chart):
        most_in_space = max(most_in_space, float(in_space.max()))
        most_in_chart = max(most_in_chart, float(in_chart.max()))
    if not most_in_space:
        raise ValueError("the positions are all the same: Rajski's distance needs distances in space")
    count = np.zeros(num_bins * num_bins)
    for in_space, in_chart in _distances(position, chart):
        bins = num_bins * _bin(in_space, most_in_space, num_bins) + _bin(in_chart, most_in_chart, num_bins)
        count += np.bincount(bins.reshape(-1), minlength=count.size)
    joint = (count / count.sum()).reshape(num_bins, num_bins)
    joint_entropy = _entropy(joint)
    information = _entropy(joint.sum(0)) + _entropy(joint.sum(1)) - joint_entropy
    return float(1 - information / joint_entropy)


@dataclass(frozen=True)
class AffineMap:
    """An affine map from a chart to space: position_hat = chart @ matrix + offset.

    matrix: float64 [D, P]; offset: float64 [P].
    """

    matrix: FloatArray
    offset: FloatArray

    def apply(self, chart: npt.ArrayLike) -> FloatArray:
        """Maps chart points [..., D] to positions [..., P]."""
        return np.asarray(chart, dtype=np.float64) @ self.matrix + self.offset


def fit_affine(chart: npt.ArrayLike, position: npt.ArrayLike) -> AffineMap:
    """Fits the affine map from a chart to space by least squares: min sum |x_n - A^T z_n - b|^2.

    chart [n, D], position [n, P]; of several solutions the one of least norm. Raises ValueError for wrong
    shapes, or no more points than the chart has dimensions.
    """
    position, chart = _paired(position, chart)
    if len(chart) <= chart.shape[1]:
        raise ValueError(
            f"{len(chart)} points are too few to fit an affine map from {chart.shape[1]} dimensions: "
            f"give at least {chart.shape[1] + 1}"
        )
    # Centred first, so that least norm does not depend on where the chart's origin lies.
    chart_mean, position_mean = chart.mean(0), position.mean(0)
    matrix = np.linalg.lstsq(chart - chart_mean, position - position_mean, rcond=None)[0]
    return AffineMap(matrix, position_mean - chart_mean @ matrix)


@dataclass(frozen=True)
class PositionErrors:
    """Error of estimated positions in metres: its mean, root mean square, median and 95th percentile."""

    mae_m: float
    drms_m: float
    cep_m: float
    r95_m: float


def position_errors(position_hat: npt.ArrayLike, position: npt.ArrayLike) -> PositionErrors:
    """MAE, DRMS, CEP and R95: mean, RMS, median and 95th percentile of |x_hat - x| in the plane.

    position_hat, position [..., 2], in metres. Percentiles are interpolated linearly.
    Raises ValueError for other shapes, no points, or values that are not finite.
    """
    estimate, truth = np.asarray(position_hat, np.float64), np.asarray(position, np.float64)
    if estimate.shape != truth.shape or truth.ndim < 2 or truth.shape[-1] != 2 or not truth.size:
        raise ValueError(
            f"positions have shapes {estimate.shape} and {truth.shape}: both have to be [..., 2], not empty"
        )
    error = np.linalg.norm(estimate - truth, axis=-1).reshape(-1)
    if not np.isfinite(error).all():
        raise ValueError(f"{int((~np.isfinite(error)).sum())} of {error.size} positions are not finite")
    return PositionErrors(
        mae_m=float(error.mean()),
        drms_m=float(np.sqrt(np.mean(error**2))),
        cep_m=float(np.median(error)),
        r95_m=float(np.percentile(error, 95)),
    )


def split_halves(groups: npt.ArrayLike, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draws a half of the points, bool [n], that keeps each group whole.

    Groups are taken in random order, up to where the points taken are nearest to n / 2. groups [n]: the
    trajectory or spatial block of each point. Neighbours on a trajectory are nearly the same point: on both
    sides, they would let the fit see what it is evaluated on. Raises ValueError for less than two groups.
    """
    names, member = np.unique(np.asarray(groups).reshape(-1), return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"{len(names)} group can't be halved: give two trajectories or more, or cut one into blocks"
        )
    order = generator.permutation(len(names))
    filled = np.cumsum(np.bincount(member)[order])
    num_first = 1 + int(np.argmin(np.abs(filled[:-1] - len(member) / 2)))
    return np.asarray(np.isin(member, order[:num_first]))


def held_out_positions(
    chart: npt.ArrayLike,
    position: npt.ArrayLike,
    generator: np.random.Generator,
    groups: npt.ArrayLike | None = None,
) -> FloatArray:
    """Maps chart points to space, each by an affine map fitted on the half of the points without it: [n, P].

    The points are halved once by `split_halves` and each half is mapped by the other's fit, so that all of
    them are evaluated. chart [n, D], position [n, P]; groups [n]: trajectory or block of each point, without
    it every point is a group of its own, which is honest for independent points alone.
    Raises ValueError as `fit_affine` and `split_halves` do.
    """
    position, chart = _paired(position, chart)
    first = split_halves(np.arange(len(chart)) if groups is None else groups, generator)
    if len(first) != len(chart):
        raise ValueError(f"{len(first)} groups are given for {len(chart)} points: give one for each")
    position_hat = np.empty_like(position)
    for fitted in (first, ~first):
        position_hat[~fitted] = fit_affine(chart[fitted], position[fitted]).apply(chart[~fitted])
    return position_hat


@dataclass(frozen=True)
class ChartScore:
    """All that the literature tells of a chart.

    held_out: position errors with the affine map fitted on points that are not evaluated; fitted: with the
    map fitted on those evaluated, as the literature does, which flatters.
    """

    trustworthiness: float
    continuity: float
    kruskal_stress: float
    rajski_distance: float
    held_out: PositionErrors
    fitted: PositionErrors


def score_chart(
    chart: npt.ArrayLike,
    position: npt.ArrayLike,
    generator: np.random.Generator,
    groups: npt.ArrayLike | None = None,
    num_neighbors: int | None = None,
) -> ChartScore:
    """Computes all metrics of a chart [n, D] of points at position [n, 2] in metres; errors as for each."""
    return ChartScore(
        trustworthiness=trustworthiness(position, chart, num_neighbors),
        continuity=continuity(position, chart, num_neighbors),
        kruskal_stress=kruskal_stress(position, chart),
        rajski_distance=rajski_distance(position, chart),
        held_out=position_errors(held_out_positions(chart, position, generator, groups), position),
        fitted=position_errors(fit_affine(chart, position).apply(chart), position),
    )


def _paired(position: npt.ArrayLike, chart: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both as float64 matrices of as many rows, all finite."""
    arrays = np.asarray(position, dtype=np.float64), np.asarray(chart, dtype=np.float64)
    shapes = f"{arrays[0].shape} and {arrays[1].shape}"
    if any(array.ndim != 2 or not array.size for array in arrays) or len(arrays[0]) != len(arrays[1]):
        raise ValueError(f"positions and chart have shapes {shapes}: give [n, P] and [n, D], row by row")
    for name, array in zip(("positions", "chart"), arrays, strict=True):
        if not np.isfinite(array).all():
            bad = int((~np.isfinite(array).all(axis=1)).sum())
            raise ValueError(
                f"{bad} of {len(array)} rows are not finite (shapes {shapes}): leave out bad {name}"
            )
    return arrays


def _blocks(num: int) -> Iterator[slice]:
    """Rows whose distances to all n points are held at a time."""
    size = max(1, _BLOCK_PAIRS // num)
    for start in range(0, num, size):
        yield slice(start, min(num, start + size))


def _distances(position: FloatArray, chart: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Distances of all pairs in space and in the chart, a block of rows after the other."""
    for rows in _blocks(len(position)):
        yield cdist(position[rows], position), cdist(chart[rows], chart)


def _mean_excess(below: npt.NDArray[np.intp], upto: npt.NDArray[np.intp], k: int) -> FloatArray:
    """Mean of max(0, r - k) over the ranks r = below + 1 .. upto that a point may take among those tied."""
    first = np.maximum(below + 1, k + 1)
    count = np.maximum(upto - first + 1, 0)
    return count * ((first + upto) / 2 - k) / (upto - below)


def _bin(distance: FloatArray, most: float, num_bins: int) -> npt.NDArray[np.intp]:
    """Index of the equal bin from 0 to `most` that each distance is in; the last holds its upper edge."""
    if not most:
        return np.zeros(distance.shape, dtype=np.intp)
    return np.minimum((distance * (num_bins / most)).astype(np.intp), num_bins - 1)


def _entropy(probability: FloatArray) -> float:
    """Entropy in bits."""
    positive = probability[probability > 0]
    return float(-np.sum(positive * np.log2(positive)))
