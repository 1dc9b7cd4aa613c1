"""From models and beliefs to records: charts, forecasts, and what went over the air."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from analysis.charting import ChartScore, score_chart
from channels.catalogue import uses_a_channel
from nodes.contracts import CellOutcome
from scenarios.charting.beams import beam_rates
from scenarios.charting.cells import Setting
from scenarios.charting.charts import PcaChart, SammonChart, ScalingChart
from scenarios.charting.config import ChartingConfig
from scenarios.charting.data import ChartingData, Sequences
from scenarios.charting.dissimilarity import adp_dissimilarity, geodesic_to_training
from scenarios.charting.features import delay_taps
from scenarios.charting.forecasting import values_ahead
from scenarios.charting.forecasts import (
    FORECASTERS,
    Frame,
    chart_points,
    embed,
    forecast_jepa,
    forecast_lstm,
    make_frame,
    roll_ahead,
)
from scenarios.charting.geodesics import fused_geodesics, training_rows
from scenarios.charting.models import ArrayModel
from scenarios.charting.sources import load_sequences
from scenarios.contracts import Point
from semcom.contracts import Record
from semcom.records import load_into
from semcom.rng import Streams


@dataclass(frozen=True)
class Question:
    """A point that needs no cell, with the weights it needs: of the model under "chart", of an LSTM."""

    config: ChartingConfig
    point: Point
    weights: Mapping[str, Mapping[str, torch.Tensor]]


def load_model(
    config: ChartingConfig, seed: int, weights: Mapping[str, torch.Tensor], name: str
) -> ArrayModel:
    """Builds a model and fills in its weights. Raises SemcomError for weights that don't fit."""
    model = empty_model(config, load_sequences(config, seed), with_predictor=name == "w-jepa")
    load_into(model, weights, f"the checkpoint of {name}, seed {seed}")
    return model.eval().requires_grad_(False)


def empty_model(config: ChartingConfig, data: ChartingData, *, with_predictor: bool) -> ArrayModel:
    """Builds a model without trained weights."""
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws starting weights from the process-wide generator, which stays where it was.
        return ArrayModel(
            config.model, config.features, data.csi_shape, data.num_rows, with_predictor=with_predictor
        )


def answer(question: Question) -> list[Record]:
    """Computes the records of one point."""
    config, point = question.config, question.point
    data = load_sequences(config, point.seed)
    if point.result == "chart":
        return _chart_records(question, data)
    model = load_model(config, point.seed, question.weights["chart"], "w-jepa")
    frame = _frame(config, model, data, point.seed)
    if point.result == "velocity":
        z = embed(model, data.test)
        rows = score_records(point, _score(point, model, z, data.test))
        return rows + _error_records(point, frame, forecast_jepa(frame, z))
    if "lstm" in question.weights:
        told = point.method == "lstm-velocity"
        supervised = load_model(config, point.seed, question.weights["supervised"], "supervised")
        weights = dict(question.weights["lstm"])
        positions = forecast_lstm(frame, supervised, config.lstm, weights, told_velocity=told)
    else:
        positions = FORECASTERS[point.method](frame)
    return _error_records(point, frame, positions) + _latent_records(config, point, frame)


def _frame(config: ChartingConfig, model: ArrayModel, data: ChartingData, seed: int) -> Frame:
    told = config.evaluation
    generator = Streams(seed).numpy_generator("charting-halves")
    return make_frame(model, data, told.look_aheads_s, told.num_history, generator)


def _record(point: Point, metric: str, value: float, unit: str, num: int, **axes: float) -> Record:
    return Record("charting", point.method, point.seed, metric, float(value), unit, num, dict(axes))


def _chart_records(question: Question, data: ChartingData) -> list[Record]:
    config, point = question.config, question.point
    if "chart" in question.weights:
        model = load_model(config, point.seed, question.weights["chart"], point.method)
        chart = chart_points(model, embed(model, data.test))
    else:
        chart = classical_chart(point.method, config, data)
    position_m = data.test.position_m.double().numpy()
    return score_records(point, _score_of(point, chart, data.test)) + drawn_points(point, chart, position_m)


def classical_chart(method: str, config: ChartingConfig, data: ChartingData) -> np.ndarray:
    """Charts the test positions by PCA, Isomap or Sammon's mapping fitted on training positions: [U, T, 2].

    Test positions are placed one by one, by what they have in common with training positions.
    """
    test = data.test.csi.flatten(0, 1)
    if method == "pca":
        model = empty_model(config, data, with_predictor=False)
        model.features.calibrate(data.train.csi.flatten(0, 1))

        def features(csi: torch.Tensor) -> np.ndarray:
            taps = model.features.scaled_taps(csi)
            return model.features.raw_of_taps(taps).flatten(1).numpy()

        placed = PcaChart.fit(features(data.train.csi.flatten(0, 1))).place(features(test))
        return placed.reshape(*data.test.csi.shape[:2], 2)
    num_taps = config.features.num_taps
    rows = training_rows(data.train, config.training.num_dissimilarity_points)
    taps, others = (delay_taps(csi, num_taps).numpy() for csi in (data.train.csi.flatten(0, 1)[rows], test))
    geodesic = fused_geodesics(taps, rows, data.train.num_steps, data.interval_s)
    to_training = geodesic_to_training(adp_dissimilarity(others, taps), geodesic)
    fitted = ScalingChart.fit(geodesic) if method == "isomap" else SammonChart.fit(geodesic)
    return np.asarray(fitted.place(to_training)).reshape(*data.test.csi.shape[:2], 2)


def _score(point: Point, model: ArrayModel, z: torch.Tensor, part: Sequences) -> ChartScore:
    return _score_of(point, chart_points(model, z), part)


def _score_of(point: Point, chart: np.ndarray, part: Sequences) -> ChartScore:
    groups = np.repeat(np.arange(part.num_trajectories), part.num_steps)
    generator = Streams(point.seed).numpy_generator("charting-halves")
    position_m = part.position_m.double().numpy().reshape(-1, 2)
    return score_chart(chart.reshape(-1, 2), position_m, generator, groups)


def score_records(point: Point, score: ChartScore) -> list[Record]:
    """Makes the records of a chart's score."""
    num = 1
    rows = [
        _record(point, name, getattr(score, name), "1", num)
        for name in ("trustworthiness", "continuity", "kruskal_stress", "rajski_distance")
    ]
    for prefix, errors in (("", score.held_out), ("fitted_", score.fitted)):
        rows += [
            _record(point, prefix + name.removesuffix("_m"), value, "m", num)
            for name, value in asdict(errors).items()
        ]
    return rows


def drawn_points(point: Point, chart: np.ndarray, position_m: np.ndarray) -> list[Record]:
    """Records some points of seed 0 for the figure: chart [..., 2] beside position [..., 2]."""
    if point.seed != 0:
        return []
    flat, position_m = chart.reshape(-1, 2), position_m.reshape(-1, 2)
    every = max(1, len(position_m) // _NUM_DRAWN)
    return [
        _record(point, name, value, unit, 1, index=index)
        for index in range(0, len(position_m), every)
        for name, value, unit in (
            ("chart_x", flat[index, 0], "1"),
            ("chart_y", flat[index, 1], "1"),
            ("position_x", position_m[index, 0], "m"),
            ("position_y", position_m[index, 1], "m"),
        )
    ]


_NUM_DRAWN = 400


def _error_records(point: Point, frame: Frame, positions: np.ndarray) -> list[Record]:
    """Mean distance between forecast and true positions [U, O, H, 2], by look-ahead."""
    error = np.linalg.norm(positions - frame.truth(frame.data.test), axis=-1)
    num = len(error)
    return [
        _record(
            point,
            "position_error",
            error[:, :, index].mean(),
            "m",
            num,
            look_ahead_s=round(steps * frame.data.interval_s, 6),
        )
        for index, steps in enumerate(frame.look_ahead)
    ]


def _latent_records(config: ChartingConfig, point: Point, frame: Frame) -> list[Record]:
    """Errors of predicted embeddings and the sum rate, for the methods that have them."""
    model, test = frame.model, frame.data.test
    num = test.num_trajectories
    rows: list[Record] = []
    if point.method in ("w-jepa", "last-value"):
        z = embed(model, test)
        later = values_ahead(z.flatten(2).numpy(), frame.origins, frame.look_ahead)
        guess = (
            roll_ahead(frame, z, test).flatten(3).numpy()
            if point.method == "w-jepa"
            else z.flatten(2).numpy()[:, frame.origins][:, :, None]
        )
        spread = np.mean((later - later.mean(axis=(0, 1, 2))) ** 2)
        error = np.mean((guess - later) ** 2, axis=(0, 1, 3)) / spread
        rows += [
            _record(point, "latent_nmse", value, "1", num, look_ahead_s=_seconds(frame, steps))
            for value, steps in zip(error, frame.look_ahead, strict=True)
        ]
    if point.method == "w-jepa":
        rates = beam_rates(frame, config.evaluation.sum_rate_snr_db)
        rows += [
            _record(point, f"sum_rate_{name}", value, "bit/s/Hz", num, look_ahead_s=_seconds(frame, steps))
            for name, values in rates.items()
            for value, steps in zip(values, frame.look_ahead, strict=True)
        ]
    return rows


def _seconds(frame: Frame, steps: int) -> float:
    return round(steps * frame.data.interval_s, 6)


@dataclass(frozen=True)
class Heard:
    """What came of one cell over the air, and the model that its beliefs are read with."""

    config: ChartingConfig
    point: Point
    setting: Setting
    outcome: CellOutcome
    weights: Mapping[str, torch.Tensor]


def air_records(heard: Heard) -> list[Record]:
    """Scores what the central node believed, and counts what it cost."""
    config, point, seed = heard.config, heard.point, heard.point.seed
    data = load_sequences(config, seed)
    model = load_model(config, seed, heard.weights, "w-jepa")
    num_users, num_steps, num_arrays = data.test.csi.shape[:3]
    # A copy: what a worker is handed can't be written.
    belief = torch.tensor(heard.outcome.world["belief"])
    # Devices stand user by user, and each has the embeddings of its arrays side by side.
    by_slot = belief.unflatten(0, (num_users, -1)).transpose(1, 2)
    z = by_slot.reshape(num_users, num_steps, num_arrays, model.embedding_dim)
    frame = _frame(config, model, data, seed)
    rows = score_records(point, _score(point, model, z, data.test))
    if point.result != "sweep":
        # A sweep's table and figures know no look-ahead, and would average over it.
        rows += _error_records(point, frame, forecast_jepa(frame, z))
    return rows + _cost_records(heard, num_users * num_steps)


def _cost_records(heard: Heard, num_reports: int) -> list[Record]:
    """Bits and losses; a report is what all arrays send on one user in one step."""
    point, count = heard.point, heard.outcome.counters
    sent = int(count["packets_sent"].sum())
    rows = [
        _record(
            point, f"{name}_bits_per_report", count[f"{name}_bits"].sum() / num_reports, "bit", num_reports
        )
        for name in ("payload", "header", "padding")
    ]
    rows.append(_record(point, "reports", num_reports, "1", 1))
    if sent:
        loss = 1 - count["packets_delivered"].sum() / sent
        rows.append(_record(point, "packet_loss", loss, "1", sent))
    if uses_a_channel(heard.setting.link):
        rows += [
            _per_report(point, name, count[name].sum(), unit, num_reports)
            for name, unit in (("channel_uses", "1"), ("airtime_s", "s"), ("energy_j", "J"))
        ]
    return rows


def _per_report(point: Point, name: str, total: float, unit: str, num_reports: int) -> Record:
    return _record(point, f"{name}_per_report", total / num_reports, unit, num_reports)
