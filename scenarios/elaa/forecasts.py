"""Channels of moving users some snapshots ahead, predicted by classical methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    chosen = visibility_of(config.visibility, share)
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
    goal = draw_snapshots(config, "test", share, look_ahead, seed).goal
    return {method: (goal, _predict(config, method, share, look_ahead, seed)) for method in methods}


def _predict(config: ElaaConfig, method: str, share: float, look_ahead: int, seed: int) -> torch.Tensor:
    if method == "last-value":
        return last_value(_each(config, "test", share, seed))
    if method == "s-omp":
        asked = draw_snapshots(config, "test", share, look_ahead, seed)
        pursuit = _pursuit(config, share, seed)
        return predict_with_atoms(pursuit, asked.y, asked.visible, asked.noise_var, float(look_ahead))
    if method == "wiener":
        known = _each(config, "validation", share, seed)
        goal = draw_snapshots(config, "validation", share, look_ahead, seed).goal
        half = len(goal) // 2
        predictor = tune_linear_predictor((known[:half], goal[:half]), (known[half:], goal[half:]))
        return predictor.predict(_each(config, "test", share, seed))
    raise SemcomError(f"no predictor is called {method}")


@lru_cache(maxsize=4)
def _pursuit(config: ElaaConfig, share: float, seed: int) -> Pursuit:
    """Matching pursuit tuned on the last snapshot of validation users."""
    known = draw_snapshots(config, "validation", share, 0, seed)
    last = Observed(known.y[:, -1], known.visible, known.noise_var)
    return tune_polar(LineArray.of(config.array), last, known.goal)


@lru_cache(maxsize=4)
def _each(config: ElaaConfig, part: Part, share: float, seed: int) -> torch.Tensor:
    """Estimates of every snapshot by itself, complex64 [N, T, M]."""
    heard, pursuit = draw_snapshots(config, part, share, 0, seed), _pursuit(config, share, seed)
    estimates = [
        pursuit.estimate(Observed(heard.y[:, t], heard.visible, heard.noise_var))
        for t in range(heard.y.shape[1])
    ]
    return torch.stack(estimates, dim=1)
