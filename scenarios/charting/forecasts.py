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
def roll_ahead(frame: Frame, z: torch.Tensor, part: Sequences, lag: int = 0) -> torch.Tensor:
    """Predicts embeddings [U, O, H, R, D] from those believed, z [U, T, R, D], under the known velocities.

    lag: rolls from so many steps before each origin, and so many steps farther.
    """
    found: dict[int, torch.Tensor] = {}
    start = frame.origins - lag
    state = z[:, start]
    for step in range(1, max(frame.look_ahead) + lag + 1):
        state = frame.model.predict(state, part.velocity_m_s[:, start + step - 1])
        found[step] = state
    return torch.stack([found[steps + lag] for steps in frame.look_ahead], dim=2)


def forecast_jepa(frame: Frame, z: torch.Tensor) -> np.ndarray:
    """Rolls embeddings of the test trajectories, z [U, T, R, D], on and charts them: positions [U, O, H, 2].

    The mean of what the last W of them lead to, each rolled as far as it takes. W is what is best on
    validation trajectories, for each look-ahead, as it is for the methods that draw lines through points.
    """
    held_out = frame.data.validation
    known = embed(frame.model, held_out)
    windows = [window for window in WINDOWS if window <= frame.origins[0] + 1]
    lags = range(max(windows))
    guesses = np.stack([frame.other_positions(roll_ahead(frame, known, held_out, lag)) for lag in lags])
    best = tune_window(lambda window: guesses[:window].mean(axis=0), frame.truth(held_out), windows)
    rolled = np.stack(
        [frame.positions(roll_ahead(frame, z, frame.data.test, lag)) for lag in range(max(best))]
    )
    means = [rolled[:window, :, :, index].mean(axis=0) for index, window in enumerate(best)]
    return np.stack(means, axis=2)


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
        return dead_reckoning(points, velocity, step_s, frame.origins, frame.look_ahead, window)

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
    # Every fourth origin tells candidates apart as well, in a quarter of the time.
    origins = frame.origins[::4]
    truth, best = frame.truth(data.validation)[:, ::4], []
    for index, steps in enumerate(frame.look_ahead):

        def error(prediction: np.ndarray, _: np.ndarray, index: int = index) -> float:
            return float(
                np.linalg.norm(frame.other_positions(encode(prediction)) - truth[:, :, index], axis=-1).mean()
            )

        orders = [order for order in (2, 4, 8, 16) if order <= frame.origins[0] + 1]
        (found,) = tune_wiener(
            train, held_out, [steps], origins, orders=orders, ridges=(1e-3, 1e-1), score=error
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


@torch.no_grad()
def lstm_sequences(
    supervised: ArrayModel,
    part: Sequences,
    interval_s: float,
    *,
    told_velocity: bool,
    noise: tuple[float, int, torch.Generator] | None = None,
) -> LstmSequences:
    """What the LSTM sees: embeddings and estimates by the supervised encoders, and the way travelled if told.

    noise: deviation of the noise on features, as in the encoders' own training, and how many copies of the
    trajectories are made with it: without, the encoders know training positions better than any others.
    """
    std, num_copies, generator = noise or (0.0, 1, torch.Generator())
    features = supervised.features(part.csi.flatten(0, 1))
    inputs = []
    for _ in range(num_copies):
        noisy = features + std * torch.randn(features.shape, generator=generator) if std else features
        z = supervised.encoder(noisy)
        both = torch.cat((z.flatten(1), supervised.chart(z)), dim=1)
        inputs.append(both.unflatten(0, part.csi.shape[:2]))
    travelled = displacement(part.velocity_m_s.double().numpy(), interval_s)
    way = torch.from_numpy(travelled).float().repeat(num_copies, 1, 1) if told_velocity else None
    return LstmSequences(torch.cat(inputs), part.position_m.repeat(num_copies, 1, 1), way)


def forecast_lstm(
    frame: Frame,
    supervised: ArrayModel,
    config: LstmConfig,
    weights: dict[str, torch.Tensor],
    *,
    told_velocity: bool,
) -> np.ndarray:
    """Positions [U, O, H, 2] by a trained LSTM on the embeddings of trained supervised encoders."""
    parts = (frame.data.train, frame.data.test)
    train, test = (
        lstm_sequences(supervised, part, frame.data.interval_s, told_velocity=told_velocity) for part in parts
    )
    lstm = LstmForecaster(train, frame.look_ahead, config)
    lstm.load_state_dict(weights)
    return lstm.predict(test.inputs, frame.origins.tolist(), test.displacement).double().numpy()


FORECASTERS: dict[str, Callable[[Frame], np.ndarray]] = {
    "w-jepa": lambda frame: forecast_jepa(frame, embed(frame.model, frame.data.test)),
    "last-value": forecast_last_value,
    "constant-velocity": forecast_constant_velocity,
    "wiener": forecast_wiener,
    "wiener-chart": forecast_wiener_chart,
    "dead-reckoning": forecast_dead_reckoning,
}
