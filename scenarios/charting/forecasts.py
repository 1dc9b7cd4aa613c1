"""Forecasts of test users by every method, as positions through the same chart and the same map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from analysis.charting import AffineMap, fit_affine, split_halves
from scenarios.charting.data import ChartingData, Sequences
from scenarios.charting.forecasting import (
    constant_velocity,
    dead_reckoning,
    displacement,
    last_value,
    tune_window,
    values_ahead,
)
from scenarios.charting.lstm import LstmConfig, LstmForecaster
from scenarios.charting.lstm import Sequences as LstmSequences
from scenarios.charting.models import ArrayModel
from scenarios.charting.wiener import tune_wiener
from semcom.contracts import SemcomError

WINDOWS = (1, 2, 3, 4, 6, 8, 12, 16)
_RIDGES = (1e-6, 1e-4, 1e-2)


@dataclass(frozen=True)
class Frame:
    """What all forecasts of one seed share: the model, its data, the maps from chart to space, the origins.

    origins: steps at which forecasts start, the same for every method and look-ahead. look_ahead: in steps.
    Test trajectories are halved, and each half is mapped by the fit on the other; what methods tune they
    tune on validation trajectories, which have a map of their own.
    """

    model: ArrayModel
    data: ChartingData
    in_first: np.ndarray
    by_first: AffineMap
    by_second: AffineMap
    by_validation: AffineMap
    origins: np.ndarray
    look_ahead: tuple[int, ...]

    def positions(self, z: torch.Tensor) -> np.ndarray:
        """Maps embeddings of the test trajectories, [U, ..., R, D], to metres, float64 [U, ..., 2]."""
        chart = chart_points(self.model, z)
        in_first = self.in_first.reshape(-1, *[1] * (chart.ndim - 1))
        return np.where(in_first, self.by_second.apply(chart), self.by_first.apply(chart))

    def other_positions(self, z: torch.Tensor) -> np.ndarray:
        """Maps embeddings of validation or training trajectories likewise."""
        return self.by_validation.apply(chart_points(self.model, z))

    def truth(self, part: Sequences) -> np.ndarray:
        """Returns where the users were: [U, O, H, 2]."""
        return values_ahead(part.position_m.double().numpy(), self.origins, self.look_ahead)


def look_ahead_steps(look_aheads_s: Sequence[float], interval_s: float) -> tuple[int, ...]:
    """Returns look-aheads in sampling intervals, at least one; those that are the same then, once."""
    return tuple(dict.fromkeys(max(1, round(s / interval_s)) for s in look_aheads_s))


def make_frame(
    model: ArrayModel,
    data: ChartingData,
    look_aheads_s: Sequence[float],
    num_history: int,
    generator: np.random.Generator,
) -> Frame:
    """Fits the maps and lists the origins: from num_history on, as far as the farthest look-ahead allows.

    Raises SemcomError for trajectories that are too short.
    """
    look_ahead = look_ahead_steps(look_aheads_s, data.interval_s)
    origins = np.arange(num_history, data.test.num_steps - max(look_ahead))
    if not len(origins):
        raise SemcomError(
            f"trajectories of {data.test.num_steps} positions are too short for evaluation.num_history = "
            f"{num_history} and a look-ahead of {max(look_ahead)} positions: shorten one of them"
        )
    chart = chart_points(model, embed(model, data.test))
    in_first = split_halves(np.arange(len(chart)), generator)
    position_m = data.test.position_m.double().numpy()
    by_first, by_second = (
        fit_affine(chart[half].reshape(-1, 2), position_m[half].reshape(-1, 2))
        for half in (in_first, ~in_first)
    )
    known = chart_points(model, embed(model, data.validation)).reshape(-1, 2)
    by_validation = fit_affine(known, data.validation.position_m.reshape(-1, 2).numpy())
    return Frame(model, data, in_first, by_first, by_second, by_validation, origins, look_ahead)


@torch.no_grad()
def embed(model: ArrayModel, part: Sequences) -> torch.Tensor:
    """Embeddings of a part's observations, [U, T, R, D]."""
    return model.embed(part.csi)


@torch.no_grad()
def chart_points(model: ArrayModel, z: torch.Tensor) -> np.ndarray:
    """Chart points, float64 [..., 2], of embeddings [..., R, D]."""
    return model.chart(z).double().numpy()


@torch.no_grad()
def roll_ahead(frame: Frame, z: torch.Tensor, part: Sequences) -> torch.Tensor:
    """Predicts embeddings [U, O, H, R, D] from those believed, z [U, T, R, D], under the known velocities."""
    found: dict[int, torch.Tensor] = {}
    state = z[:, frame.origins]
    for step in range(1, max(frame.look_ahead) + 1):
        state = frame.model.predict(state, part.velocity_m_s[:, frame.origins + step - 1])
        found[step] = state
    return torch.stack([found[steps] for steps in frame.look_ahead], dim=2)


def forecast_jepa(frame: Frame) -> np.ndarray:
    """Rolls the embedding on and charts it: positions [U, O, H, 2]."""
    test = frame.data.test
    return frame.positions(roll_ahead(frame, embed(frame.model, test), test))


def forecast_last_value(frame: Frame) -> np.ndarray:
    """The mapped chart's last point: [U, O, H, 2]."""
    points = frame.positions(embed(frame.model, frame.data.test))
    return last_value(points, frame.origins, frame.look_ahead)


def forecast_constant_velocity(frame: Frame) -> np.ndarray:
    """Lines through the mapped chart's last points, as many as are best on validation: [U, O, H, 2]."""
    return _with_best_window(
        frame,
        lambda points, part, window: constant_velocity(points, frame.origins, frame.look_ahead, window),
    )


def forecast_dead_reckoning(frame: Frame) -> np.ndarray:
    """The mapped chart's last points, moved by the known velocities since and to come: [U, O, H, 2]."""

    def forecast(points: np.ndarray, part: Sequences, window: int | Sequence[int]) -> np.ndarray:
        velocity = part.velocity_m_s.double().numpy()
        step_s = frame.data.interval_s
        return dead_reckoning(points, velocity, step_s, frame.origins, frame.look_ahead, window, "left")

    return _with_best_window(frame, forecast)


def _with_best_window(
    frame: Frame, forecast: Callable[[np.ndarray, Sequences, int | Sequence[int]], np.ndarray]
) -> np.ndarray:
    held_out, test = frame.data.validation, frame.data.test
    known = frame.other_positions(embed(frame.model, held_out))
    points = frame.positions(embed(frame.model, test))
    windows = [window for window in WINDOWS if window <= frame.origins[0] + 1]
    best = tune_window(lambda window: forecast(known, held_out, window), frame.truth(held_out), windows)
    return forecast(points, test, best)


def forecast_wiener(frame: Frame) -> np.ndarray:
    """Predicts the taps linearly, encodes and charts them; tuned on validation: [U, O, H, 2]."""
    model, data = frame.model, frame.data

    def encode(taps: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            z = model.encoder(model.features.of_taps(torch.from_numpy(taps).flatten(0, -4)))
        return z.unflatten(0, taps.shape[:-3])

    train, held_out, test = (
        model.features.scaled_taps(part.csi).numpy() for part in (data.train, data.validation, data.test)
    )
    truth, best = frame.truth(data.validation), []
    for index, steps in enumerate(frame.look_ahead):

        def error(prediction: np.ndarray, _: np.ndarray, index: int = index) -> float:
            return float(
                np.linalg.norm(frame.other_positions(encode(prediction)) - truth[:, :, index], axis=-1).mean()
            )

        orders = [order for order in (2, 4, 8, 16) if order <= frame.origins[0] + 1]
        (found,) = tune_wiener(
            train, held_out, [steps], frame.origins, orders=orders, ridges=(1e-3, 1e-1), score=error
        )
        best.append(frame.positions(encode(found[0].predict(test, frame.origins)))[:, :, 0])
    return np.stack(best, axis=2)


def forecast_wiener_chart(frame: Frame) -> np.ndarray:
    """Predicts the mapped chart's points linearly from the last ones; order and ridge by validation.

    x_hat(t + h) = b + sum_(k < p) A_(h,k) x(t - k), least squares with a ridge on training trajectories.
    """
    train, held_out = (
        frame.other_positions(embed(frame.model, part)) for part in (frame.data.train, frame.data.validation)
    )
    test = frame.positions(embed(frame.model, frame.data.test))
    centre, scale = train.mean(axis=(0, 1)), train.std()
    train, held_out, test = ((points - centre) / scale for points in (train, held_out, test))
    truth = (frame.truth(frame.data.validation) - centre) / scale
    result = np.empty((*frame.truth(frame.data.test).shape,))
    for index, steps in enumerate(frame.look_ahead):
        least = np.inf
        for order in (window for window in WINDOWS if window <= frame.origins[0] + 1):
            origins = np.arange(order - 1, train.shape[1] - steps)
            rows, goal = _past(train, origins, order), train[:, origins + steps].reshape(-1, 2)
            for ridge in _RIDGES:
                gram = rows.T @ rows + ridge * len(rows) * np.eye(rows.shape[1])
                weight = np.linalg.solve(gram, rows.T @ goal)
                guess = (_past(held_out, frame.origins, order) @ weight).reshape(truth[:, :, index].shape)
                error = float(np.linalg.norm(guess - truth[:, :, index], axis=-1).mean())
                if error < least:
                    least = error
                    ahead = _past(test, frame.origins, order) @ weight
                    result[:, :, index] = ahead.reshape(result[:, :, index].shape)
    return result * scale + centre


def _past(points: np.ndarray, origins: np.ndarray, order: int) -> np.ndarray:
    """Rows of the last points before each origin, the latest first, and a one: [U O, 2 order + 1]."""
    past = points[:, origins[:, None] - np.arange(order)].reshape(-1, 2 * order)
    return np.concatenate([past, np.ones((len(past), 1))], axis=1)


def lstm_sequences(
    model: ArrayModel, part: Sequences, interval_s: float, *, told_velocity: bool
) -> LstmSequences:
    """What the LSTM learns from: features of all arrays, positions, and the way travelled if it is told."""
    with torch.no_grad():
        features = model.features(part.csi.flatten(0, 1)).flatten(1).unflatten(0, part.csi.shape[:2])
    travelled = displacement(part.velocity_m_s.double().numpy(), interval_s, "left")
    way = torch.from_numpy(travelled).float() if told_velocity else None
    return LstmSequences(features, part.position_m, way)


def forecast_lstm(
    frame: Frame, config: LstmConfig, weights: dict[str, torch.Tensor], *, told_velocity: bool
) -> np.ndarray:
    """Positions [U, O, H, 2] by a trained LSTM."""
    parts = (frame.data.train, frame.data.test)
    train, test = (
        lstm_sequences(frame.model, part, frame.data.interval_s, told_velocity=told_velocity)
        for part in parts
    )
    lstm = LstmForecaster(train, frame.look_ahead, config)
    lstm.load_state_dict(weights)
    return lstm.predict(test.inputs, frame.origins.tolist(), test.displacement).double().numpy()


FORECASTERS: dict[str, Callable[[Frame], np.ndarray]] = {
    "w-jepa": forecast_jepa,
    "last-value": forecast_last_value,
    "constant-velocity": forecast_constant_velocity,
    "wiener": forecast_wiener,
    "wiener-chart": forecast_wiener_chart,
    "dead-reckoning": forecast_dead_reckoning,
}
