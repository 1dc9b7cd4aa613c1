"""Linear prediction of CSI: a Wiener filter for each look-ahead, fitted to training trajectories.

Taps are complex64 [U, T, R, M, L]: U trajectories, T steps, R arrays, M antennas, L delays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import linalg

from analysis.sum_rate import principal_channel
from scenarios.charting.forecasting import values_ahead
from semcom.contracts import SemcomError

ComplexArray = npt.NDArray[np.complexfloating]

Structure = Literal["taps", "aligned-taps", "components", "covariance"]
"""What is predicted from its own past:

- taps: each array's and delay's tap, with the same filter at all antennas.
- aligned-taps: the same, on phases that `align_phase` has calibrated.
- components: leading principal components of all aligned taps, each from the past of all of them.
- covariance: h h^H of each array and delay, each entry by its own filter; the CSI is its principal
  eigenvector. No phase of a user counts, which is how Stephan, Euchner and ten Brink predict (WCNC 2025).
"""

Score = Callable[[ComplexArray, ComplexArray], float]


def align_phase(taps: ComplexArray) -> ComplexArray:
    """Turns each array's snapshot to be in phase with the one before: sum h_t^H h_(t-1) real and positive.

    It takes out what the oscillators and the strongest path's Doppler turn, from the past alone; the phase of
    a trajectory's first snapshot stays.
    """
    overlap = np.einsum("utrml,utrml->utr", taps[:, 1:].conj(), taps[:, :-1])
    size = np.abs(overlap)
    turn = np.ones(taps.shape[:3], dtype=np.complex128)
    turn[:, 1:] = np.cumprod(np.where(size > 0, overlap / np.maximum(size, 1e-300), 1), axis=1)
    return (taps * turn[..., None, None]).astype(np.complex64)


def lost_gain(prediction: ComplexArray, truth: ComplexArray) -> float:
    """Share of the channel's power that beams along the predicted taps miss: the default score of a forecast.

    1 - mean of sum_l |h_hat_l^H h_l|^2 / |h_hat_l|^2 over sum_l |h_l|^2, for each array; 0 is perfect.
    prediction, truth: [..., R, M, L].
    """
    overlap = np.abs(np.einsum("...ml,...ml->...l", prediction.conj(), truth)) ** 2
    length = np.sum(np.abs(prediction) ** 2, axis=-2)
    gain = np.divide(overlap, length, out=np.zeros_like(overlap), where=length > 0).sum(axis=-1)
    power = np.sum(np.abs(truth) ** 2, axis=(-2, -1))
    return float(1 - np.mean(gain[power > 0] / power[power > 0]))


@dataclass(frozen=True)
class WienerPredictor:
    """x_hat(t + h) = mean + sum_(k < p) A_(h,k) (x(t - k) - mean), in the structure's own numbers x.

    look_ahead: H steps; order: p. coefficients: complex64 [blocks][H, B, p d, d]; mean: [blocks][B, d]
    (0 but for the covariance); basis: complex64 [R M L, D] of the components, else None.
    """

    structure: Structure
    order: int
    ridge: float
    look_ahead: tuple[int, ...]
    coefficients: tuple[ComplexArray, ...]
    mean: tuple[ComplexArray, ...]
    basis: ComplexArray | None

    def predict(self, taps: ComplexArray, origins: npt.ArrayLike) -> ComplexArray:
        """Predicts taps [U, T, R, M, L] at origin + look-ahead: complex64 [U, O, H, R, M, L].

        Only steps up to an origin are used. The phase of `aligned-taps` and `components` is that of
        `align_phase` at the origin; of `covariance` each tap's is that of its value at the origin.
        Raises SemcomError for an origin with fewer than `order` steps up to it.
        """
        steps = np.asarray(origins, dtype=np.intp)
        if steps.min() + 1 < self.order:
            raise SemcomError(
                f"a prediction at step {int(steps.min())} needs {self.order} steps to go by: begin at step "
                f"{self.order - 1}"
            )
        blocks = [
            _apply(series[:, steps[:, None] - np.arange(self.order)], coefficients, mean)
            for series, coefficients, mean in zip(
                _series(taps, self.structure, self.basis), self.coefficients, self.mean, strict=True
            )
        ]
        shape = (len(taps), len(steps), len(self.look_ahead), *taps.shape[2:])
        if self.structure == "components":
            assert self.basis is not None
            return (blocks[0][..., 0, 0, :] @ self.basis.T).reshape(shape).astype(np.complex64)
        num_antennas, num_delays = shape[-2:]
        result = np.empty(shape, dtype=np.complex64)
        for index, block in enumerate(blocks):
            array, delay = divmod(index, num_delays)
            if self.structure != "covariance":
                result[..., array, :, delay] = block[..., 0, :, 0]
                continue
            square = block.reshape(*shape[:3], num_antennas, num_antennas)
            vector = principal_channel(square)
            last = taps[:, :, array, :, delay][:, steps][:, :, None]
            overlap = np.sum(vector.conj() * last, axis=-1, keepdims=True)
            size = np.abs(overlap)
            result[..., array, :, delay] = vector * np.where(size > 0, overlap / np.maximum(size, 1e-30), 1)
        return result


def fit_wiener(
    taps: ComplexArray,
    look_ahead: Sequence[int],
    structure: Structure,
    orders: Sequence[int],
    ridges: Sequence[float],
    num_components: int = 32,
) -> Iterator[WienerPredictor]:
    """Fits the linear MMSE predictors of all orders and ridges to training trajectories, one by one.

    A = (E[x x^H] + ridge tr(E[x x^H]) / n I)^-1 E[x y^H], x the last p values and y the one h ahead; every
    origin of the trajectories that has p values and its target counts. taps: [U, T, R, M, L].
    Raises SemcomError for trajectories too short for the largest order and look-ahead.
    Source: Kay, Fundamentals of statistical signal processing: estimation theory, 1993, 12.6; ridge as Hoerl
    and Kennard 1970.
    """
    order, furthest = max(orders), max(look_ahead)
    if structure not in get_args(Structure):
        raise SemcomError(f"structure {structure!r} is unknown: take one of {', '.join(get_args(Structure))}")
    if taps.ndim != 5 or taps.shape[1] < order + furthest:
        raise SemcomError(
            f"taps {taps.shape} are too short for order {order} and look-ahead {furthest}: trajectories need "
            f"{order + furthest} steps"
        )
    basis = _principal_basis(taps, num_components) if structure == "components" else None
    moments = [
        _moments(series, order, look_ahead, centred=structure == "covariance")
        for series in _series(taps, structure, basis)
    ]
    for p in orders:
        for ridge in ridges:
            yield WienerPredictor(
                structure=structure,
                order=p,
                ridge=ridge,
                look_ahead=tuple(look_ahead),
                coefficients=tuple(_solve(gram, cross, p, ridge) for gram, cross, _ in moments),
                mean=tuple(mean for _, _, mean in moments),
                basis=basis,
            )


def tune_wiener(
    train: ComplexArray,
    validation: ComplexArray,
    look_ahead: Sequence[int],
    origins: npt.ArrayLike,
    structures: Sequence[Structure] = get_args(Structure),
    orders: Sequence[int] = (2, 4, 8, 16),
    ridges: Sequence[float] = (1e-5, 1e-3, 1e-1),
    num_components: Sequence[int] = (32, 128),
    score: Score = lost_gain,
) -> list[tuple[WienerPredictor, float]]:
    """Chooses for each look-ahead the predictor that is best on validation trajectories, and tells its score.

    All structures, orders, ridges and, for `components`, their numbers are fitted on `train` and judged on
    `validation`, both [U, T, R, M, L], at `origins`, the first of which is at least max(orders) - 1.
    score(prediction, truth), both [U, O, R, M, L], is better when smaller: `lost_gain`, or what the forecast
    is used for, as the position error after an encoder and a chart.
    Each predictor that is returned is for one look-ahead alone.
    """
    truth = values_ahead(validation, origins, look_ahead)
    best: list[tuple[WienerPredictor, float] | None] = [None] * len(look_ahead)
    kinds = [(each, num) for each in structures for num in (num_components if each == "components" else (0,))]
    for structure, num in kinds:
        for predictor in fit_wiener(train, look_ahead, structure, orders, ridges, num):
            prediction = predictor.predict(validation, origins)
            for index in range(len(look_ahead)):
                value = score(prediction[:, :, index], truth[:, :, index])
                known = best[index]
                if known is None or value < known[1]:
                    best[index] = (_for_one(predictor, index), value)
    return [each for each in best if each is not None]


def _for_one(predictor: WienerPredictor, index: int) -> WienerPredictor:
    """The predictor of one of its look-aheads."""
    return WienerPredictor(
        structure=predictor.structure,
        order=predictor.order,
        ridge=predictor.ridge,
        look_ahead=(predictor.look_ahead[index],),
        coefficients=tuple(block[index : index + 1] for block in predictor.coefficients),
        mean=predictor.mean,
        basis=predictor.basis,
    )


def _series(taps: ComplexArray, structure: Structure, basis: ComplexArray | None) -> Iterator[ComplexArray]:
    """What is predicted, in blocks of [U, T, S, B, d]: S share a filter, each of B has one, of d by d."""
    num, num_steps, num_arrays, num_antennas, num_delays = taps.shape
    values = taps if structure in ("taps", "covariance") else align_phase(taps)
    if structure == "components":
        assert basis is not None
        yield (values.reshape(num, num_steps, -1) @ basis.conj())[:, :, None, None]
        return
    for array, delay in np.ndindex(num_arrays, num_delays):
        h = values[:, :, array, :, delay]
        if structure == "covariance":
            square = h[..., :, None] * h[..., None, :].conj()
            yield square.reshape(num, num_steps, 1, num_antennas**2, 1)
        else:
            yield h[..., None, None]


def _principal_basis(taps: ComplexArray, num_components: int) -> ComplexArray:
    """Leading eigenvectors of the aligned taps' second moments: [R M L, D]."""
    values = align_phase(taps).reshape(taps.shape[0] * taps.shape[1], -1)
    num_components = min(num_components, *values.shape)
    width = values.shape[1]
    _, vectors = linalg.eigh(values.T @ values.conj(), subset_by_index=(width - num_components, width - 1))
    return vectors.astype(np.complex64)


def _moments(
    series: ComplexArray, order: int, look_ahead: Sequence[int], centred: bool
) -> tuple[ComplexArray, ComplexArray, ComplexArray]:
    """Second moments of the last `order` values [B, p d, p d], with those ahead [B, H, p d, d]; mean [B, d].

    The latest value comes first, so that the moments of a smaller order are a corner of these.
    """
    num_steps, num_batch, dim = series.shape[1], series.shape[3], series.shape[4]
    mean = series.mean(axis=(0, 1, 2)) if centred else np.zeros((num_batch, dim), dtype=series.dtype)
    values = (series - mean).transpose(3, 0, 2, 1, 4)
    origins = slice(order - 1, num_steps - max(look_ahead))
    num_origins = origins.stop - origins.start

    def shifted(by: int) -> ComplexArray:
        part = values[..., origins.start + by : origins.stop + by, :]
        return part.reshape(num_batch, -1, dim)

    count = series.shape[0] * series.shape[2] * num_origins
    past = np.concatenate([shifted(-k) for k in range(order)], axis=-1)
    adjoint = past.conj().swapaxes(-1, -2)
    gram = adjoint @ past / count
    cross = np.stack([adjoint @ shifted(h) / count for h in look_ahead], axis=1)
    return gram, cross, mean


def _solve(gram: ComplexArray, cross: ComplexArray, order: int, ridge: float) -> ComplexArray:
    """Coefficients [H, B, p d, d] of a predictor with the last `order` values."""
    num, dim = order * cross.shape[-1], cross.shape[-1]
    corner = gram[:, :num, :num].astype(np.complex128)
    load = np.einsum("bii->b", corner).real / num
    # A tap that is always empty has no moments: its prediction is 0.
    load = np.where(load > 0, ridge * load, 1)
    corner += load[:, None, None] * np.eye(num)
    right = cross[:, :, :num].transpose(0, 2, 1, 3).reshape(len(corner), num, -1).astype(np.complex128)
    solution = np.linalg.solve(corner, right).reshape(len(corner), num, -1, dim)
    return solution.transpose(2, 0, 1, 3).astype(np.complex64)


def _apply(windows: ComplexArray, coefficients: ComplexArray, mean: ComplexArray) -> ComplexArray:
    """Predictions [U, O, H, B, S, d] from windows [U, O, p, S, B, d], the latest first."""
    num, num_origins, order, num_shared, num_batch, dim = windows.shape
    past = (windows - mean).transpose(4, 0, 1, 3, 2, 5).reshape(num_batch, -1, order * dim)
    result = past @ coefficients + mean[:, None]
    shape = (-1, num_batch, num, num_origins, num_shared, dim)
    return result.reshape(shape).transpose(2, 3, 0, 1, 4, 5)
