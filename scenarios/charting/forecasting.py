"""Forecasts along trajectories that learn nothing: last value, constant velocity, dead reckoning.

Shape letters: U trajectories, T steps, O origins, H look-aheads. `origins` are the steps at which forecasts
are made, `look_ahead` the numbers of steps after them; a forecast uses the values up to its origin alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from semcom.contracts import SemcomError

FloatArray = npt.NDArray[np.float64]


def values_ahead(values: npt.NDArray, origins: npt.ArrayLike, look_ahead: Sequence[int]) -> npt.NDArray:
    """What forecasts are held against: the values [U, T, ...] at origin + look-ahead, [U, O, H, ...].

    Raises SemcomError where that is beyond the last step.
    """
    steps = _steps(values, origins)[:, None] + np.asarray(look_ahead, dtype=np.intp)
    if steps.max() >= values.shape[1]:
        raise SemcomError(
            f"a forecast of step {int(steps.max())} can't be judged: trajectories end at step "
            f"{values.shape[1] - 1}, leave out the last {max(look_ahead)} origins"
        )
    return values[:, steps]


def last_value(values: npt.NDArray, origins: npt.ArrayLike, look_ahead: Sequence[int]) -> npt.NDArray:
    """Forecasts that nothing changes: x_hat(t + h) = x(t); [U, T, ...] to [U, O, H, ...]."""
    steps = _steps(values, origins)
    return values[:, np.repeat(steps[:, None], len(look_ahead), axis=1)]


def constant_velocity(
    values: npt.ArrayLike,
    origins: npt.ArrayLike,
    look_ahead: Sequence[int],
    window: int | Sequence[int],
) -> FloatArray:
    """Goes on along the least-squares line through the last W points: [U, T, D] to [U, O, H, D].

    x_hat(t + h) = sum_(k < W) c_k x(t - k), c = A (A^T A)^-1 (1, h)^T with the rows (1, -k) of A. W = 1 is
    the last value, W = 2 the last step repeated. window: one for all look-aheads, or one for each. As the
    c_k sum to 1, an affine map may be applied before or after.
    Raises SemcomError for an origin with fewer than W points up to it.
    """
    points = np.asarray(values, dtype=np.float64)
    steps = _steps(points, origins)
    windows = [window] * len(look_ahead) if isinstance(window, int) else list(window)
    _check_history(steps, max(windows))
    result = np.empty((len(points), len(steps), len(look_ahead), points.shape[2]))
    for index, (ahead, width) in enumerate(zip(look_ahead, windows, strict=True)):
        past = -np.arange(width)
        line = np.stack([np.ones(width), past], axis=1)[:, : min(2, width)]
        weight = np.linalg.pinv(line).T @ np.array([1.0, ahead])[: min(2, width)]
        result[:, :, index] = np.einsum("uowd,w->uod", points[:, steps[:, None] + past], weight)
    return result


def dead_reckoning(
    position_hat: npt.ArrayLike,
    velocity: npt.ArrayLike,
    step_s: float,
    origins: npt.ArrayLike,
    look_ahead: Sequence[int],
    window: int | Sequence[int] = 1,
) -> FloatArray:
    """Integrates a known velocity from the last positions: the reference for whoever is told velocities.

    x_hat(t + h) = 1 / W sum_(k < W) [x(t - k) + integral of v from t - k to t + h]; W = 1 starts from the
    last position, more average out what errs from one to the next. position_hat: [U, T, 2], the chart
    through its affine map, in metres; velocity: [U, T, 2], in m/s, means from each step to the next, as
    `Sequences` holds them. window: one for all look-aheads, or one for each.
    Raises SemcomError for an origin with fewer than W points up to it, or a forecast beyond the velocities.
    """
    points, speed = np.asarray(position_hat, np.float64), np.asarray(velocity, np.float64)
    if points.shape != speed.shape:
        raise SemcomError(
            f"positions {points.shape} and velocities {speed.shape} have to be alike: [U, T, 2]"
        )
    travelled = displacement(speed, step_s)
    # Less the way travelled, all points of a trajectory are estimates of one: where it began.
    windows = [window] * len(look_ahead) if isinstance(window, int) else list(window)
    steps = _steps(points, origins)
    _check_history(steps, max(windows))
    start = points - travelled
    result = values_ahead(travelled, steps, look_ahead).copy()
    for index, width in enumerate(windows):
        result[:, :, index] += start[:, steps[:, None] - np.arange(width)].mean(axis=2)
    return result


def displacement(velocity: FloatArray, step_s: float) -> FloatArray:
    """The way travelled since the first step, [U, T, 2], by mean velocities from each step to the next."""
    travelled = np.zeros_like(velocity)
    np.cumsum(velocity[:, :-1] * step_s, axis=1, out=travelled[:, 1:])
    return travelled


def tune_window(
    forecast: Callable[[int], npt.NDArray], truth: npt.NDArray, windows: Sequence[int]
) -> list[int]:
    """Chooses for each look-ahead the window with the least mean error on validation trajectories.

    The error is |x_hat - x|. forecast(W) gives [U, O, H, D] for one window; truth [U, O, H, D], of
    `values_ahead`: the chart's own points or, if it is mapped to space, true positions.
    """
    errors = [np.linalg.norm(forecast(window) - truth, axis=-1).mean(axis=(0, 1)) for window in windows]
    return [windows[best] for best in np.argmin(errors, axis=0)]


def _steps(values: npt.NDArray, origins: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """The origins as steps of the trajectories, if they are."""
    steps = np.asarray(origins, dtype=np.intp)
    if steps.ndim != 1 or not steps.size or steps.min() < 0 or steps.max() >= values.shape[1]:
        raise SemcomError(f"origins have to be steps of the trajectories, 0 to {values.shape[1] - 1}")
    return steps


def _check_history(steps: npt.NDArray[np.intp], num_needed: int) -> None:
    """Refuses origins that come before there is enough to go by."""
    if steps.min() + 1 < num_needed:
        raise SemcomError(
            f"a forecast at step {int(steps.min())} has {int(steps.min()) + 1} points to go by and needs "
            f"{num_needed}: begin at step {num_needed - 1}"
        )
