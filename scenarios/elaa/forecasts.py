"""Channels of moving users some snapshots ahead, by classical methods, from what a part of the array receives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from channels.visibility import VISIBLE_ABOVE, draw_visibility
from scenarios.elaa.bench import tune_polar
from scenarios.elaa.config import ElaaConfig, moving
from scenarios.elaa.data import Part, draw_part, visibility_of
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.prediction import last_value, predict_with_atoms, tune_linear_predictor
from scenarios.elaa.pursuit import Pursuit
from semcom.contracts import SemcomError
from semcom.rng import Streams

_PER_STEP = 100


@dataclass(frozen=True)
class Snapshots:
    """What the array receives of N users in turn, and the channels to come.

    y: complex64 [N, T, M], 0 where hidden; visible: bool [N, M]; noise_var: float32 [N]; goal: complex64
    [N, M], look_ahead snapshots after the last one.
    """

    y: torch.Tensor
    visible: torch.Tensor
    noise_var: torch.Tensor
    goal: torch.Tensor


def draw_snapshots(config: ElaaConfig, part: Part, share: float, look_ahead: int, seed: int) -> Snapshots:
    """Draws the users of one part of a seed's data: the same ones for every share and look-ahead."""
    told, array = config.evaluation, moving(config)
    num = config.data.num_test if part == "test" else config.data.num_validation
    h = draw_part(array, part, num, seed)
    streams, step = Streams(seed), round(_PER_STEP * share)
    chosen = visibility_of(config.visibility, share, getattr(config.visibility, "subarray_size", 16))
    generator = streams.torch_generator(f"elaa-visibility-{part}", step=step)
    visible = draw_visibility(chosen, array, num, generator) > VISIBLE_ABOVE
    heard = [
        observe(
            h[:, t], visible, told.ahead_snr_db, streams.torch_generator(f"elaa-snapshots-{part}", step, t)
        )
        for t in range(told.num_history)
    ]
    y = torch.stack([each.y for each in heard], dim=1)
    return Snapshots(y, visible, heard[0].noise_var, h[:, told.num_history - 1 + look_ahead])


def forecast(
    config: ElaaConfig, methods: Sequence[str], share: float, look_ahead: int, seed: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The test channels to come and each method's prediction of them, complex64 [N, M] each."""
    known = draw_snapshots(config, "validation", share, look_ahead, seed)
    asked = draw_snapshots(config, "test", share, look_ahead, seed)
    last = Observed(known.y[:, -1], known.visible, known.noise_var)
    now = draw_snapshots(config, "validation", share, 0, seed).goal
    pursuit = tune_polar(LineArray.of(config.array), last, now)
    return {method: (asked.goal, _predict(method, pursuit, known, asked, look_ahead)) for method in methods}


def _predict(
    method: str, pursuit: Pursuit, known: Snapshots, asked: Snapshots, look_ahead: int
) -> torch.Tensor:
    if method == "last-value":
        return last_value(_each(pursuit, asked))
    if method == "s-omp":
        return predict_with_atoms(pursuit, asked.y, asked.visible, asked.noise_var, float(look_ahead))
    if method == "wiener":
        tuned = _each(pursuit, known), known.goal
        half = len(known.goal) // 2
        parts = tuple(tuple(each[rows] for each in tuned) for rows in (slice(half), slice(half, None)))
        return tune_linear_predictor(*parts).predict(_each(pursuit, asked))
    raise SemcomError(f"no predictor is called {method}")


def _each(pursuit: Pursuit, heard: Snapshots) -> torch.Tensor:
    """Estimates of every snapshot by itself, complex64 [N, T, M]."""
    estimates = [
        pursuit.estimate(Observed(heard.y[:, t], heard.visible, heard.noise_var))
        for t in range(heard.y.shape[1])
    ]
    return torch.stack(estimates, dim=1)
