"""Channels of moving users some snapshots ahead, predicted by classical methods and by a trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch

from scenarios.elaa.bench import polar_atoms
from scenarios.elaa.config import ElaaConfig, moving
from scenarios.elaa.data import PER_STEP, Part, draw_part, draw_visible
from scenarios.elaa.jobs import Trained, default_nomp
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.nomp import Paths
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.prediction import (
    last_value,
    predict_with_atoms,
    tune_atoms,
    tune_linear_predictor,
    turn_back,
    user_turns,
)
from scenarios.elaa.pursuit import Pursuit
from scenarios.elaa.shrinking import ShrunkNomp, tune_shrink
from scenarios.elaa.track_search import TrackNomp, tune_tracks
from scenarios.elaa.tracks import Heard, Tracks, times
from scenarios.elaa.vocabulary import FORECASTERS
from semcom.contracts import SemcomError
from semcom.rng import Streams

Weights = Mapping[str, Mapping[str, torch.Tensor]]


@lru_cache(maxsize=4)
def draw_heard(config: ElaaConfig, part: Part, share: float, seed: int) -> Heard:
    """What the array hears of the users of one part of a seed's data: the same ones for every share."""
    told = config.evaluation
    h = _channels(config, part, seed)
    visible = draw_visible(moving(config), config.visibility, part, len(h), share, seed)
    streams, step = Streams(seed), round(PER_STEP * share)
    heard = [
        observe(
            h[:, t], visible, told.ahead_snr_db, streams.torch_generator(f"elaa-snapshots-{part}", step, t)
        )
        for t in range(told.num_history)
    ]
    return Heard(torch.stack([each.y for each in heard], dim=1), visible, heard[0].noise_var)


def draw_goal(config: ElaaConfig, part: Part, look_ahead: int, seed: int) -> torch.Tensor:
    """The channels of these users look_ahead snapshots after the last one heard, complex64 [N, M]."""
    return _channels(config, part, seed)[:, config.evaluation.num_history - 1 + look_ahead]


def _channels(config: ElaaConfig, part: Part, seed: int) -> torch.Tensor:
    num = config.data.num_test if part == "test" else config.data.num_validation
    return draw_part(moving(config), part, num, seed)


def forecast(
    config: ElaaConfig, methods: Sequence[str], share: float, look_ahead: int, seed: int, weights: Weights
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The test channels to come and each method's prediction of them, complex64 [N, M] each.

    weights: the trained tensors that methods need, by their models' names. Raises SemcomError for a method
    that there isn't.
    """
    goal = draw_goal(config, "test", look_ahead, seed)
    return {method: (goal, _predict(config, method, share, look_ahead, seed, weights)) for method in methods}


def _predict(
    config: ElaaConfig, method: str, share: float, look_ahead: int, seed: int, weights: Weights
) -> torch.Tensor:
    heard = draw_heard(config, "test", share, seed)
    if method in FORECASTERS and FORECASTERS[method].is_learned:
        model = FORECASTERS[method].model
        where = f"the checkpoint of {model}, seed {seed}"
        return Trained(config.model, config.array, weights[model], where).forecast(heard, look_ahead)
    if method == "last-value":
        return last_value(_each(config, "test", share, seed))
    if method == "wiener":
        return _wiener(config, share, look_ahead, seed)
    goal = draw_goal(config, "validation", look_ahead, seed)
    if method == "s-omp":
        pursuit = _pursuits(config, share, seed)[look_ahead]
        chosen = _atoms(config, share, seed)
        return predict_with_atoms(pursuit, heard.y, heard.visible, heard.noise_var, look_ahead, chosen)
    if method == "nomp-track":
        known = draw_heard(config, "validation", share, seed)
        shrunk = tune_tracks(_tracks(config, "validation", share, seed), known.visible, goal, look_ahead)
        return shrunk.field(_tracks(config, "test", share, seed), heard.visible)
    raise SemcomError(f"no predictor is called {method}")


def _wiener(config: ElaaConfig, share: float, look_ahead: int, seed: int) -> torch.Tensor:
    """The estimates, each user's turn taken out of them, filtered; then the turn goes on."""
    later = torch.tensor([float(look_ahead)])
    turn, known = _still(config, "validation", share, seed)
    turn_asked, asked = _still(config, "test", share, seed)
    goal = turn_back(draw_goal(config, "validation", look_ahead, seed)[:, None], turn, later)[:, 0]
    half = len(goal) // 2
    predictor = tune_linear_predictor((known[:half], goal[:half]), (known[half:], goal[half:]))
    return turn_back(predictor.predict(asked)[:, None], -turn_asked, later)[:, 0]


@lru_cache(maxsize=4)
def _still(config: ElaaConfig, part: Part, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each user's turn [N], and the estimates of every snapshot without it, complex64 [N, T, M]."""
    each = _each(config, part, share, seed)
    turn = user_turns(each)
    return turn, turn_back(each, turn, times(each.shape[1]))


@lru_cache(maxsize=4)
def _pursuits(config: ElaaConfig, share: float, seed: int) -> dict[int, Pursuit]:
    """Simultaneous pursuits tuned on what they predict of validation users, by look-ahead."""
    known = draw_heard(config, "validation", share, seed)
    goals = {ahead: draw_goal(config, "validation", ahead, seed) for ahead in config.evaluation.look_aheads}
    dictionary = polar_atoms(LineArray.of(config.array))
    return tune_atoms(dictionary, known.y, known.visible, known.noise_var, goals)


@lru_cache(maxsize=2)
def _atoms(config: ElaaConfig, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The most atoms that any look-ahead's pursuit takes of the test users."""
    pursuits, heard = _pursuits(config, share, seed), draw_heard(config, "test", share, seed)
    longest = max(pursuits.values(), key=lambda pursuit: pursuit.num_atoms)
    return longest.choose(heard.y, heard.visible)


@lru_cache(maxsize=4)
def _tracks(config: ElaaConfig, part: Part, share: float, seed: int) -> Tracks:
    """The moving paths of all users of a part."""
    return TrackNomp.of(config.array).tracks(draw_heard(config, part, share, seed))


@lru_cache(maxsize=4)
def _paths(config: ElaaConfig, part: Part, share: float, seed: int) -> list[Paths]:
    """What NOMP finds of every snapshot by itself."""
    nomp = default_nomp(config.array)
    return [nomp.paths(each) for each in _snapshots(draw_heard(config, part, share, seed))]


@lru_cache(maxsize=2)
def _shrunk(config: ElaaConfig, share: float, seed: int) -> ShrunkNomp:
    """NOMP shrunk by the bound, tuned on the last snapshot of validation users."""
    last = _snapshots(draw_heard(config, "validation", share, seed))[-1]
    paths = _paths(config, "validation", share, seed)[-1]
    goal = draw_goal(config, "validation", 0, seed)
    return tune_shrink(default_nomp(config.array), last, goal, paths=paths)


@lru_cache(maxsize=4)
def _each(config: ElaaConfig, part: Part, share: float, seed: int) -> torch.Tensor:
    """Estimates of every snapshot by itself, complex64 [N, T, M]."""
    shrunk, snapshots = _shrunk(config, share, seed), _snapshots(draw_heard(config, part, share, seed))
    found = zip(_paths(config, part, share, seed), snapshots, strict=True)
    return torch.stack([shrunk.field(paths, snapshot) for paths, snapshot in found], dim=1)


def _snapshots(heard: Heard) -> list[Observed]:
    return [Observed(y, heard.visible, heard.noise_var) for y in heard.y.unbind(dim=1)]
