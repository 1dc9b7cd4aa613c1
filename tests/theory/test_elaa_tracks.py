"""Moving paths: constant turns are predicted exactly, errors are those of the bound, frames stand still."""

import math
from dataclasses import replace

import pytest
import torch

from channels.near_field import NearFieldConfig, draw_channels
from scenarios.elaa.features import Dechirper
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.nomp import Nomp, nomp_prior
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.path_refinement import PathSet
from scenarios.elaa.prediction import turn_back, user_turns
from scenarios.elaa.track_search import TrackNomp, tune_tracks
from scenarios.elaa.tracks import Heard, Motion, motion_bound, times
from scenarios.elaa.windows import find_frame

CONFIG = NearFieldConfig(num_elements=128, min_distance_m=3)
ARRAY = LineArray.of(CONFIG)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_path(num: int, turn: float, num_snapshots: int) -> torch.Tensor:
    """A wave whose phase turns at a constant rate, complex64 [num, T, M]."""
    wave = ARRAY.response(torch.linspace(-0.6, 0.6, num), torch.full((num,), 0.11))
    time = torch.arange(num_snapshots)
    return wave[:, None] * torch.polar(torch.ones(()), turn * time.float())[:, None]


def hear(h: torch.Tensor, snr_db: float, visible: torch.Tensor, num_history: int = 3) -> Heard:
    each = [observe(h[:, t], visible, snr_db, generator(t)) for t in range(num_history)]
    return Heard(torch.stack([one.y for one in each], dim=1), visible, each[0].noise_var)


def everywhere(num: int) -> torch.Tensor:
    return torch.ones((num, 128), dtype=torch.bool)


def nmse(h_hat: torch.Tensor, h: torch.Tensor) -> float:
    return float(((h_hat - h).abs().square().sum(dim=1) / h.abs().square().sum(dim=1)).mean())


@pytest.mark.parametrize("turn", [0.0, -0.3, 1.4])
def test_a_path_of_constant_turn_is_predicted_exactly(turn):
    h = one_path(4, turn, 11)
    heard = hear(h, 60.0, everywhere(4) & (torch.arange(128) < 90))
    # Its slope stays: a drift is what a user who stands still has not.
    nomp = replace(TrackNomp.of(CONFIG), max_paths=1, last_steps=12)
    nomp = replace(nomp, prior=replace(nomp.prior, step_var_m2=1e-14))
    tracks = nomp.tracks(heard)
    for ahead in (0, 1, 8):
        assert nmse(tracks.field(ahead), h[:, 2 + ahead]) < 3e-3
    # One snapshot further is another channel, unless nothing turns.
    if turn:
        assert nmse(tracks.field(7), h[:, 10]) > 0.05


@pytest.mark.parametrize("turn", [-0.3, 1.4])
def test_in_the_frame_such_a_path_stands_still(turn):
    h = one_path(4, turn, 11)
    found = find_frame(hear(h, 60.0, everywhere(4)), Dechirper(CONFIG))
    assert torch.allclose(found.turn, torch.full((4,), turn), atol=1e-3)
    time = torch.arange(11.0) - 2
    turned = found.enter(h, time)
    assert (turned - 1).abs().square().mean() < 3e-3
    assert torch.allclose(found.leave(turned[:, 10], 8.0), h[:, 10], atol=1e-5)
    # The power check: without the turn it does not.
    still = replace(found, turn=torch.zeros(4)).enter(h, time)
    assert (still - 1).abs().square().mean() > 0.05


def test_a_user_s_turn_is_that_of_its_whole_channel():
    h = one_path(4, 0.7, 3)
    assert torch.allclose(user_turns(h), torch.full((4,), 0.7), atol=1e-5)
    assert torch.allclose(turn_back(h, user_turns(h), times(3)), h[:, 2:].expand(-1, 3, -1), atol=1e-4)


def test_errors_of_the_turn_are_those_of_the_bound():
    num = 400
    truth = Motion(
        PathSet(torch.ones(num, 1).to(torch.complex64), torch.full((num, 1), 0.3), torch.full((num, 1), 0.1)),
        torch.full((num, 1), 0.5),
        torch.zeros(num),
    )
    wave = truth.paths.waves(ARRAY).field
    h = wave * torch.polar(torch.ones(3), 0.5 * torch.arange(3.0))[:, None]
    heard = hear(h, 0.0, everywhere(num))
    nomp = replace(TrackNomp.of(CONFIG), max_paths=1, last_steps=10)
    tracks = nomp.tracks(heard)
    squares = (tracks.motion.turn[:, 0] - 0.5).square()
    bound = motion_bound(ARRAY, nomp.prior, truth, heard)[:, 0, 3, 3].mean()
    # Phases at three times: var(turn) = 1 / (2 SNR M (1 + 1)), the prior and the drift aside.
    assert float(bound) == pytest.approx(1 / (2 * 128 * 2), rel=0.05)
    ratio = float(squares.mean() / bound)
    assert ratio == pytest.approx(1, abs=4.5 * math.sqrt(2 / num))
    assert abs(ratio - 10**0.5) > 4.5 * math.sqrt(2 / num)


def test_a_near_user_s_drift_is_followed():
    """Users 3 to 4 m away who walk fast: their waves' slopes change by radians in eight snapshots."""
    near = CONFIG.model_copy(
        update={
            "num_snapshots": 11, "min_speed_m_s": 9.0, "max_distance_m": 4.0, "min_paths": 1, "max_paths": 1,
            "num_elements": 128, "spacing_wavelengths": 0.5,
        }
    )  # fmt: skip
    h = draw_channels(near, 40, generator()).h[:, :, 0]
    heard = hear(h, 20.0, everywhere(40))
    nomp = replace(TrackNomp.of(near), max_paths=1, last_steps=10)
    tracks = nomp.tracks(heard)
    still = replace(nomp, prior=replace(nomp.prior, step_var_m2=1e-14)).tracks(heard)
    assert nmse(tracks.field(8), h[:, 10]) < 0.5 * nmse(still.field(8), h[:, 10])
    # What is said of the errors' sizes is what they are, within a factor.
    assert nmse(tracks.field(8, 1.0), h[:, 10]) < 1.1 * nmse(tracks.field(8), h[:, 10])


def test_snapshots_together_tell_more_than_one_alone():
    config = CONFIG.model_copy(update={"num_snapshots": 5})
    h = draw_channels(config, 60, generator(3)).h[:, :, 0]
    visible = everywhere(60) & (torch.arange(128) >= 32)
    heard = hear(h, 10.0, visible)
    tracks = TrackNomp.of(config).tracks(heard)
    alone = Nomp(ARRAY, nomp_prior(ARRAY)).estimate(Observed(heard.y[:, -1], visible, heard.noise_var))
    assert nmse(tracks.field(0), h[:, 2]) < 0.6 * nmse(alone, h[:, 2])
    # Two snapshots on it is still better than a last value that is known without noise.
    assert nmse(tracks.field(2), h[:, 4]) < 0.3 * nmse(h[:, 2], h[:, 4])
    # Shrunk as the first half tells, the others are better too.
    first, second = (TrackNomp.of(config).tracks(heard[rows]) for rows in (slice(30), slice(30, None)))
    shrunk = tune_tracks(first, visible[:30], h[:30, 4], 2)
    assert nmse(shrunk.field(second, visible[30:]), h[30:, 4]) <= nmse(second.field(2), h[30:, 4])


def test_moving_paths_of_a_row_do_not_depend_on_other_rows():
    config = CONFIG.model_copy(update={"num_snapshots": 3})
    heard = hear(draw_channels(config, 70, generator(4)).h[:, :, 0], 10.0, everywhere(70))
    nomp, some = replace(TrackNomp.of(config), max_paths=4), torch.tensor([3, 66])
    assert nmse(nomp.tracks(heard[some]).field(1), nomp.tracks(heard).field(1)[some]) < 1e-4


def test_turns_that_are_looked_for_lie_close_enough():
    turns = TrackNomp.of(NearFieldConfig()).turns(3)
    assert torch.allclose(turns, -turns.flip(0))
    assert turns.diff().max() <= 2 * math.pi / 4 + 1e-6
    assert turns.max() < math.pi / 2 < turns.max() + turns.diff().max()
    assert torch.equal(
        TrackNomp.of(NearFieldConfig(max_speed_m_s=0, min_speed_m_s=0)).turns(3), torch.zeros(1)
    )
