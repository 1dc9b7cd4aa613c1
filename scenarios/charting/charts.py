"""Charts without learning: principal components, classical scaling (of geodesics: Isomap), Sammon's mapping.

Each is fitted on training points and places others on the same chart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize
from scipy.spatial.distance import cdist

from semcom.contracts import SemcomError

FloatArray = npt.NDArray[np.float64]

CHART_DIM = 2

SAMMON_FLOOR = 1e-3
"""Dissimilarities below this share of their mean are weighted as if they were it (see SammonChart)."""

_BLOCK_PAIRS = 4_000_000


@dataclass(frozen=True)
class PcaChart:
    """Principal components of features; points [N, dim] are the training points' places.

    center: [F], components: [F, dim], orthonormal, the largest variance first.
    """

    points: FloatArray
    center: FloatArray
    components: FloatArray

    @classmethod
    def fit(cls, features: npt.ArrayLike, dim: int = CHART_DIM) -> PcaChart:
        """Fits z = C^T (x - mean) to features [N, F], real; raises SemcomError for less than `dim` of either.

        Source: Pearson 1901; for channel charting, Studer et al., IEEE Access 6, 2018.
        """
        values = np.asarray(features, dtype=np.float64)
        if values.ndim != 2 or min(values.shape) < dim:
            raise SemcomError(f"features {values.shape} are too few for a PCA with {dim} dimensions")
        center = values.mean(0)
        values = values - center
        num, width = values.shape
        if width <= num:
            _, components = linalg.eigh(values.T @ values, subset_by_index=(width - dim, width - 1))
        else:
            _, scores = linalg.eigh(values @ values.T, subset_by_index=(num - dim, num - 1))
            components = linalg.qr(values.T @ scores[:, ::-1], mode="economic")[0][:, ::-1]
        components = _with_fixed_signs(components[:, ::-1])
        return cls(values @ components, center, components)

    def place(self, features: npt.ArrayLike) -> FloatArray:
        """Places features [n, F] on the chart: [n, dim]."""
        return (np.asarray(features, dtype=np.float64) - self.center) @ self.components


@dataclass(frozen=True)
class ScalingChart:
    """Classical multidimensional scaling; of Euclidean distances PCA, of geodesic dissimilarities Isomap.

    points [N, dim]: the training points' places. axes [N, dim]: what places others (v_k / sqrt(l_k)).
    mean_square [N]: mean of the squared dissimilarities to each training point.
    """

    points: FloatArray
    axes: FloatArray
    mean_square: FloatArray

    @classmethod
    def fit(cls, dissimilarity: npt.ArrayLike, dim: int = CHART_DIM) -> ScalingChart:
        """Fits a chart to dissimilarities [N, N]: z_k = sqrt(l_k) v_k, largest eigenpairs of -1/2 J D^2 J.

        J = I - 1 1^T / N. An axis whose eigenvalue isn't positive stays 0. Raises SemcomError for a matrix
        that is not square, not finite or no larger than `dim`.
        Source: Torgerson, Psychometrika 17, 1952; Tenenbaum, de Silva and Langford, Science 290, 2000.
        """
        square = _checked(dissimilarity, dim) ** 2
        mean_square = square.mean(0)
        gram = -0.5 * (square - mean_square - mean_square[:, None] + mean_square.mean())
        num = len(square)
        values, vectors = linalg.eigh(gram, subset_by_index=(num - dim, num - 1))
        values, vectors = np.maximum(values[::-1], 0), _with_fixed_signs(vectors[:, ::-1])
        root = np.sqrt(values)
        inverse = np.divide(1, root, out=np.zeros_like(root), where=root > 1e-9 * max(root[0], 1e-300))
        return cls(vectors * root, vectors * inverse, mean_square)

    def place(self, dissimilarity_to_training: npt.ArrayLike) -> FloatArray:
        """Places points by their dissimilarities to the training points [n, N]: [n, dim].

        z = -1/2 axes^T (d^2 - mean_square), which gives training points their own place.
        Source: de Silva and Tenenbaum, Sparse multidimensional scaling using landmark points, 2004; the same
        as Nystroem's formula for Isomap (Bengio et al., NIPS 2003).
        """
        square = np.asarray(dissimilarity_to_training, dtype=np.float64) ** 2
        return -0.5 * (square - self.mean_square) @ self.axes


@dataclass(frozen=True)
class SammonChart:
    """Sammon's mapping: a chart whose small distances count as much, relatively, as its large ones.

    E = 1 / sum_(i<j) d_ij  sum_(i<j) (d_ij - |z_i - z_j|)^2 / w_ij, w_ij = max(d_ij, floor) (Sammon: d_ij; a
    floor of 1e-3 of the mean lets points be alike). points [N, dim]; stress is the E reached and start_stress
    that of the classical scaling which was the start.
    """

    points: FloatArray
    weight_floor: float
    stress: float
    start_stress: float

    @classmethod
    def fit(
        cls, dissimilarity: npt.ArrayLike, dim: int = CHART_DIM, max_iterations: int = 300
    ) -> SammonChart:
        """Fits a chart to dissimilarities [N, N], symmetric, by L-BFGS from classical scaling.

        Raises SemcomError as ScalingChart.fit does.
        Source: Sammon, A nonlinear mapping for data structure analysis, IEEE Trans. Computers 18, 1969, with
        a quasi-Newton method (Liu and Nocedal 1989) in place of his diagonal one.
        """
        target = _checked(dissimilarity, dim)
        num, mean = len(target), float(target.mean()) or 1.0
        floor = SAMMON_FLOOR * mean
        weight = 1 / np.maximum(target, floor)
        # The scale is taken out, so that the tolerances below mean the same for all dissimilarities.
        start = ScalingChart.fit(target, dim).points
        spread = max(float(np.sqrt(np.mean(start**2))), 1e-12 * mean)

        def stress(flat: FloatArray) -> tuple[float, FloatArray]:
            points = spread * flat.reshape(num, dim)
            value, gradient = _sammon_stress(points, target, weight)
            return value, spread * gradient.reshape(-1)

        solution = optimize.minimize(
            stress,
            (start / spread).reshape(-1),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iterations, "ftol": 1e-9, "gtol": 1e-9, "maxcor": 20},
        )
        return cls(
            points=spread * solution.x.reshape(num, dim),
            weight_floor=floor,
            stress=float(solution.fun),
            start_stress=_sammon_stress(start, target, weight)[0],
        )

    def place(
        self, dissimilarity_to_training: npt.ArrayLike, max_iterations: int = 200, tolerance: float = 1e-4
    ) -> FloatArray:
        """Places points by their dissimilarities to the training points [n, N], which stay put: [n, dim].

        Each minimises its own stress sum_j (d_j - |z - z_j|)^2 / w_j from the place of the training point
        nearest to it, by majorisation: z <- sum_j (z_j + d_j (z - z_j) / |z - z_j|) / w_j over sum_j 1 / w_j,
        which lowers the stress in each step. It stops once no point moves by more than `tolerance` of the
        chart's spread. Source: de Leeuw, Applications of convex analysis to multidimensional scaling, 1977.
        """
        target = np.asarray(dissimilarity_to_training, dtype=np.float64)
        result = np.empty((len(target), self.points.shape[1]))
        size = max(1, _BLOCK_PAIRS // len(self.points))
        for begin in range(0, len(target), size):
            block = slice(begin, begin + size)
            result[block] = self._place_block(target[block], max_iterations, tolerance)
        return result

    def _place_block(self, target: FloatArray, max_iterations: int, tolerance: float) -> FloatArray:
        weight = 1 / np.maximum(target, self.weight_floor)
        weight /= weight.sum(axis=1, keepdims=True)
        pulled, center = weight * target, weight @ self.points
        spread = float(np.sqrt(np.mean((self.points - self.points.mean(0)) ** 2)))
        place, moving = self.points[np.argmin(target, axis=1)], np.arange(len(target))
        for _ in range(max_iterations):
            here = place[moving]
            pull = pulled[moving] / np.maximum(cdist(here, self.points), 1e-9 * spread)
            there = center[moving] + here * pull.sum(axis=1, keepdims=True) - pull @ self.points
            place[moving] = there
            moving = moving[np.abs(there - here).max(axis=1) > tolerance * spread]
            if not moving.size:
                break
        return place


def _sammon_stress(points: FloatArray, target: FloatArray, weight: FloatArray) -> tuple[float, FloatArray]:
    """Sammon's stress of a chart and its gradient; sums run over all ordered pairs, each counted twice."""
    total = target.sum()
    distance = cdist(points, points)
    error = distance - target
    pull = weight * error
    value = float(np.vdot(pull, error) / total)
    np.divide(pull, distance, out=pull, where=distance > 0)
    np.fill_diagonal(pull, 0)
    gradient = 4 / total * (points * pull.sum(axis=1, keepdims=True) - pull @ points)
    return value, gradient


def _checked(dissimilarity: npt.ArrayLike, dim: int) -> FloatArray:
    """The matrix in float64, if it is one of dissimilarities."""
    matrix = np.asarray(dissimilarity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) <= dim:
        raise SemcomError(
            f"dissimilarities have shape {matrix.shape}: they have to be square, and of more points than "
            f"the chart's {dim} dimensions"
        )
    if not np.isfinite(matrix).all():
        raise SemcomError(
            "some dissimilarities are not finite: take the geodesic ones, which join all points"
        )
    return matrix


def _with_fixed_signs(axes: FloatArray) -> FloatArray:
    """Turns each column so that its largest entry is positive: the solver's signs are arbitrary."""
    largest = axes[np.argmax(np.abs(axes), axis=0), np.arange(axes.shape[1])]
    return axes * np.where(largest < 0, -1.0, 1.0)
