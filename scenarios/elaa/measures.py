"""From estimates to records: errors, likeness, beams and rates, all methods of a point at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from analysis.estimation import (
    beamforming_gain_db,
    median_nmse_db,
    nmse_db,
    spectral_efficiency,
    squared_cosines,
)
from channels.catalogue import uses_a_channel
from nodes.contracts import CellOutcome
from scenarios.contracts import Point
from scenarios.elaa.band_bench import BandBench
from scenarios.elaa.bench import Bench
from scenarios.elaa.cells import air_bench
from scenarios.elaa.config import ElaaConfig, banded, measured_on, sized, trained_for
from scenarios.elaa.data import Cell
from scenarios.elaa.feedback_bench import FeedbackBench
from scenarios.elaa.forecasts import forecast
from scenarios.elaa.hybrid import HybridEstimator
from scenarios.elaa.jobs import Trained
from scenarios.elaa.methods import channels_of
from scenarios.elaa.vocabulary import ESTIMATORS
from semcom.contracts import Record


@dataclass(frozen=True)
class Question:
    """The methods of one operating point and seed: points that differ in methods, look-aheads or bits alone.

    weights: the trained tensors that their models need, by the model's name.
    """

    config: ElaaConfig
    points: tuple[Point, ...]
    weights: Mapping[str, Mapping[str, torch.Tensor]]


def answer(question: Question) -> list[list[Record]]:
    """Computes the records of each point."""
    first = question.points[0]
    config = measured_on(question.config, first.result)
    told, at, seed = config.evaluation, first.axes, first.seed
    methods = list(dict.fromkeys(point.method for point in question.points))
    if first.result == "ahead":
        visible = float(at["visible_share"])
        asked = [(point, int(point.axes["look_ahead"])) for point in question.points]
        # All look-aheads of a user are told from what is found of it once.
        found = {
            ahead: forecast(config, methods, visible, ahead, seed, question.weights) for _, ahead in asked
        }
        return [_records(point, *found[ahead][point.method], told.ahead_snr_db) for point, ahead in asked]
    if first.result == "band":
        wide = BandBench(
            banded(config), config.visibility, config.data, float(at["visible_share"]), told.band_snr_db, seed
        )
        return [
            _band_records(
                point, wide.asked[0], wide.estimate(point.method, config.model, question.weights), wide.snr_db
            )
            for point in question.points
        ]
    if first.result == "feedback":
        bench = Bench(config.array, config.visibility, config.data, _feedback_cell(config, first), first.seed)
        coder = FeedbackBench(bench, config, question.weights)
        return [_coded(coder, point) for point in question.points]
    array = sized(config.array, int(at["num_elements"])) if first.result == "size" else config.array
    share, snr_db = at.get("visible_share", config.visible_share), at.get("snr_db", config.snr_db)
    cell = Cell(float(share), float(snr_db), mask_known=first.result != "unknown")
    bench = Bench(array, config.visibility, config.data, cell, seed)
    # What learned from noisy channels has no others to be tuned on.
    target_snr_db = trained_for(config, first.result, at).examples.target_snr_db
    learned = bench if target_snr_db is None else replace(bench, target_snr_db=target_snr_db)
    return [
        _records(
            point,
            bench.test.h,
            _estimate(question, learned if ESTIMATORS[point.method].is_learned else bench, point),
            cell.snr_db,
        )
        for point in question.points
    ]


def _estimate(question: Question, bench: Bench, point: Point) -> torch.Tensor:
    method = ESTIMATORS[point.method]
    if not method.is_learned:
        return bench.estimate(point.method)
    where = f"the checkpoint of {method.model}, seed {point.seed}"
    trained = Trained(question.config.model, bench.array, question.weights[method.model], where)
    estimator = trained.estimator(method.prefix)
    return (
        bench.stacked(estimator)
        if isinstance(estimator, HybridEstimator)
        else estimator.estimate(bench.asked)
    )


def _coded(coder: FeedbackBench, point: Point) -> list[Record]:
    h_hat, payloads = coder.code(point.method, int(point.axes["bits"]))
    spent = float(np.mean([8 * len(payload) for payload in payloads]))
    rows = _records(point, coder.bench.test.h, h_hat, coder.bench.cell.snr_db)
    return [*rows, _record(point, "payload_bits", spent, "bit", len(payloads))]


def _feedback_cell(config: ElaaConfig, point: Point) -> Cell:
    told, at = config.evaluation, point.axes
    return Cell(float(at["visible_share"]), float(at.get("snr_db", told.feedback_snr_db)))


def air_records(config: ElaaConfig, point: Point, outcome: CellOutcome) -> list[Record]:
    """Compares what the central unit believed with the channels, and counts what reports cost a user."""
    bench = air_bench(config, point.seed)
    num_sub_arrays = config.array.num_elements // config.subarray_size
    # A copy: what a worker is handed can't be written.
    h_hat = channels_of(torch.tensor(outcome.world["belief"]), num_sub_arrays)[:, -1]
    num, count = len(h_hat), outcome.counters
    rows = _records(point, bench.test.h, h_hat, config.evaluation.air_snr_db)
    for name in ("payload", "header", "padding"):
        rows.append(_record(point, f"{name}_bits", count[f"{name}_bits"].sum() / num, "bit", num))
    if uses_a_channel(config.link) and point.result == "air":
        rows += [
            _record(point, name, count[name].sum() / num, unit, num)
            for name, unit in (("channel_uses", "1"), ("airtime_s", "s"), ("energy_j", "J"))
        ]
    return rows


def _records(point: Point, h: torch.Tensor, h_hat: torch.Tensor, snr_db: float) -> list[Record]:
    """Metrics of estimates h_hat of channels h, complex64 [N, M] each."""
    # As the metrics compute: else each of them would make its own copies.
    truth, guess = (each.numpy().astype(np.complex128) for each in (h, h_hat))
    rate, best = (spectral_efficiency(truth, each, snr_db).mean() for each in (guess, truth))
    values = (
        ("nmse_db", nmse_db(truth, guess), "dB"),
        ("median_nmse_db", median_nmse_db(truth, guess), "dB"),
        ("sgcs", float(squared_cosines(truth, guess).mean()), "1"),
        ("beamforming_gain_db", beamforming_gain_db(truth, guess), "dB"),
        ("spectral_efficiency", float(rate), "bit/s/Hz"),
        ("spectral_efficiency_share", float(rate / best), "1"),
    )
    return [_record(point, name, value, unit, len(truth)) for name, value, unit in values]


def _band_records(point: Point, h: torch.Tensor, h_hat: torch.Tensor, snr_db: float) -> list[Record]:
    """Metrics of estimates h_hat of channels h, complex64 [N, F, M] each.

    A channel's error is one over all of its subcarriers; beams and rates are means over them.
    """
    whole = _records(point, h.flatten(1), h_hat.flatten(1), snr_db)
    each = _records(point, h.flatten(0, 1), h_hat.flatten(0, 1), snr_db)
    over_the_band = [row for row in whole if row.metric in ("nmse_db", "median_nmse_db")]
    beams = [replace(row, num_samples=len(h)) for row in each[len(over_the_band) :]]
    return [*over_the_band, *beams]


def _record(point: Point, metric: str, value: float, unit: str, num: int) -> Record:
    return Record("elaa", point.method, point.seed, metric, value, unit, num, {})


def group(points: Sequence[Point]) -> list[list[int]]:
    """Puts points together that share what they are found of: lists of their numbers.

    They differ in their methods, look-aheads or bits alone; feedback's methods share next to nothing.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, point in enumerate(points):
        at = sorted(item for item in point.axes.items() if item[0] not in ("look_ahead", "bits"))
        alone = point.method if point.result == "feedback" else ""
        groups.setdefault((point.result, point.seed, alone, *at), []).append(number)
    return list(groups.values())
