"""Forecasts by hand, of users on straight lines with a model that is right; and what beams are worth."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scenarios.charting.beams import _scaled, beam_rates, covariances
from scenarios.charting.data import ChartingData, Sequences
from scenarios.charting.forecasts import FORECASTERS, look_ahead_steps, make_frame, roll_ahead
from semcom.contracts import SemcomError

INTERVAL_S, NUM_STEPS = 0.5, 20
LOOK_AHEADS_S = (0.5, 1.0, 3.0)
# The chart is the plane, turned, stretched, mirrored and moved: a map takes it back.
TURN, SHIFT = torch.tensor([[0.0, 2.0], [3.0, 0.0]]), torch.tensor([5.0, -7.0])


class Oracle:
    """A model whose embedding is the position, which the one tap of the one antenna holds as x + jy."""

    def __init__(self) -> None:
        self.features = SimpleNamespace(scaled_taps=lambda csi: csi, of_taps=lambda taps: taps)

    def encoder(self, taps):
        return torch.view_as_real(taps)[:, :, 0, 0]

    def embed(self, csi):
        return torch.view_as_real(csi)[..., 0, 0, :]

    def chart(self, z):
        return z.flatten(-2) @ TURN + SHIFT

    def predict(self, z, velocity_m_s):
        return z + INTERVAL_S * velocity_m_s[..., None, :]


def walks(num: int, seed: int) -> Sequences:
    generator = torch.Generator().manual_seed(seed)
    start_m, velocity_m_s = torch.randn(2, num, 1, 2, generator=generator)
    position_m = 30 * start_m + 2 * velocity_m_s * INTERVAL_S * torch.arange(NUM_STEPS)[:, None]
    csi = torch.view_as_complex(position_m.contiguous())[..., None, None, None]
    return Sequences(csi, position_m, (2 * velocity_m_s).expand(-1, NUM_STEPS, -1).contiguous())


DATA = ChartingData(walks(30, 1), walks(6, 2), walks(9, 3), INTERVAL_S, 1, knows_velocity=True)


def frame(data: ChartingData = DATA, model=None, num_history: int = 4):
    halves = np.random.default_rng(0)
    return make_frame(model or Oracle(), data, LOOK_AHEADS_S, num_history, halves)


def errors_m(method: str, data: ChartingData = DATA) -> np.ndarray:
    """Distances between forecast and truth, [U, O, H]."""
    told = frame(data)
    return np.linalg.norm(FORECASTERS[method](told) - told.truth(data.test), axis=-1)


def test_forecasts_start_where_there_is_enough_behind_and_ahead():
    told = frame()
    assert told.look_ahead == (1, 2, 6)
    assert told.origins.tolist() == list(range(4, 14))
    truth = told.truth(DATA.test)
    np.testing.assert_allclose(truth[2, 3, 1], DATA.test.position_m[2, 4 + 3 + 2])
    with pytest.raises(SemcomError, match=r"20 positions are too short for evaluation.num_history = 14"):
        frame(num_history=14)


def test_look_aheads_that_are_one_interval_apart_or_less_are_one():
    assert look_ahead_steps((0.1, 0.2, 0.31, 0.5), 0.2) == (1, 2)


def test_the_last_value_errs_by_the_way_that_is_gone():
    way_m = DATA.test.velocity_m_s[:, :1].norm(dim=-1).numpy()[..., None] * np.array(LOOK_AHEADS_S)
    np.testing.assert_allclose(errors_m("last-value"), np.broadcast_to(way_m, (9, 10, 3)), rtol=1e-4)


@pytest.mark.parametrize("method", ["w-jepa", "constant-velocity", "dead-reckoning"])
def test_whoever_knows_straight_lines_is_right(method):
    assert errors_m(method).max() < 1e-3


@pytest.mark.parametrize(("method", "share"), [("wiener", 0.3), ("wiener-chart", 0.03)])
def test_linear_prediction_learns_straight_lines(method, share):
    """What is left is the ridge's, which counts in the power of all that is predicted, 30 m of it here."""
    assert errors_m(method).mean() < share * errors_m("last-value").mean()


def test_w_jepa_rolls_on_under_the_velocities_to_come_and_no_others():
    """A user who turns round at step 10: what was known at the origin would have gone on."""
    test, turning = DATA.test, DATA.test.velocity_m_s.clone()
    turning[:, 10:] *= -1
    way_m = torch.zeros_like(turning)
    way_m[:, 1:] = INTERVAL_S * turning[:, :-1].cumsum(dim=1)
    position_m = test.position_m[:, :1] + way_m
    csi = torch.view_as_complex(position_m.contiguous())[..., None, None, None]
    turned = ChartingData(
        DATA.train, DATA.validation, Sequences(csi, position_m, turning), INTERVAL_S, 1, knows_velocity=True
    )
    assert errors_m("w-jepa", turned).max() < 1e-3
    assert errors_m("dead-reckoning", turned).max() < 1e-3
    # One step from step 9 is straight on, from step 10 back: the line through the last two is off by two.
    missed = errors_m("constant-velocity", turned)[:, 6, 0]
    speed = test.velocity_m_s[:, 0].norm(dim=-1).numpy()
    np.testing.assert_allclose(missed, 2 * speed * INTERVAL_S, rtol=1e-3)


def test_each_half_of_the_test_is_mapped_by_the_other():
    """A half whose chart is stretched is mapped as the other half says, and the other half as it says."""
    told = frame()
    stretched = DATA.test.csi.clone()
    stretched[torch.from_numpy(told.in_first)] *= 2
    other = ChartingData(
        DATA.train,
        DATA.validation,
        Sequences(stretched, DATA.test.position_m, DATA.test.velocity_m_s),
        INTERVAL_S,
        1,
        knows_velocity=True,
    )
    mapped = frame(other).positions(Oracle().embed(stretched))
    position_m = DATA.test.position_m.numpy()
    factor = np.where(told.in_first, 2.0, 0.5)[:, None, None]
    np.testing.assert_allclose(mapped, factor * position_m, atol=1e-3)


class CovarianceOracle(Oracle):
    """A model whose embedding of an array holds its covariance, which a linear probe finds; nobody moves."""

    def embed(self, csi):
        square = torch.from_numpy(covariances(csi.flatten(0, 1))).unflatten(0, csi.shape[:2])
        return torch.view_as_real(square).flatten(-3)

    def chart(self, z):
        return z.flatten(-2)[..., :2]

    def predict(self, z, velocity_m_s):
        return z


def channels(num: int, seed: int, *, standing: bool) -> Sequences:
    """Line-of-sight channels of two arrays of four antennas, five subcarriers, from anywhere."""
    generator = np.random.default_rng(seed)
    angle = generator.uniform(-1, 1, (num, 1, 2)) + (0 if standing else 0.06) * np.arange(NUM_STEPS)[:, None]
    delay = generator.uniform(0, 1, (num, 1, 2, 1, 1))
    path = np.exp(1j * np.pi * np.sin(angle)[..., None] * np.arange(4))[..., None]
    csi = path * np.exp(-2j * np.pi * delay * np.arange(5) / 5) * generator.uniform(0.1, 9, (num, 1, 2, 1, 1))
    place_m = torch.from_numpy(generator.normal(size=(num, NUM_STEPS, 2))).float()
    return Sequences(torch.from_numpy(csi.astype(np.complex64)), place_m, torch.zeros(num, NUM_STEPS, 2))


def rates(*, standing: bool) -> dict[str, np.ndarray]:
    parts = [channels(num, seed, standing=standing) for num, seed in ((60, 1), (6, 2), (2, 3))]
    data = ChartingData(*parts, INTERVAL_S, 1, knows_velocity=True)
    return beam_rates(frame(data, CovarianceOracle()), snr_db=10.0)


def test_with_a_perfect_probe_and_with_users_who_stand_every_beam_is_at_the_bound():
    found = rates(standing=True)
    bound = found["true"]
    assert bound.shape == (3,)
    np.testing.assert_allclose(found["last-value"], bound, rtol=1e-9)
    for name in ("w-jepa", "zero-look-ahead"):
        np.testing.assert_allclose(found[name], bound, rtol=1e-3)


def test_of_users_who_move_on_only_who_sees_them_then_is_near_the_bound():
    found = rates(standing=False)
    bound = found["true"]
    np.testing.assert_allclose(found["zero-look-ahead"], bound, rtol=1e-3)
    for name in ("last-value", "w-jepa"):
        assert bound[0] > found[name][0] > found[name][1] > found[name][2]
        assert found[name][2] < 0.6 * bound[2]


def test_a_beam_s_covariance_by_hand():
    csi = torch.tensor([[[[1.0 + 1j, 2.0], [1j, 0.0]]]])
    h = csi[0, 0].numpy()
    expected = sum(np.outer(h[:, f], h[:, f].conj()) for f in range(2)) / (2 + 4 + 1)
    np.testing.assert_allclose(covariances(csi)[0, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(covariances(torch.zeros(1, 1, 2, 2, dtype=torch.complex64)), 0)


def test_each_user_and_array_counts_with_a_mean_power_of_one():
    part = channels(5, 4, standing=False)
    scaled = _scaled(part)
    assert scaled.shape == (5, NUM_STEPS, 2, 5, 4)
    np.testing.assert_allclose(np.mean(np.abs(scaled) ** 2, axis=(-2, -1)), 1, rtol=1e-4)


def test_rolling_on_costs_nothing_where_the_model_is_right():
    told = frame()
    ahead = roll_ahead(told, Oracle().embed(DATA.test.csi), DATA.test)
    assert ahead.shape == (9, 10, 3, 1, 2)
    np.testing.assert_allclose(ahead[..., 0, :], told.truth(DATA.test), atol=1e-3)


def test_w_jepa_averages_over_as_many_reports_as_there_are():
    """Independent errors of reports average out: over the four that the first origin has, to half."""

    def noisy(part: Sequences, seed: int) -> Sequences:
        noise = torch.randn(
            part.csi.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed)
        )
        return Sequences(part.csi + 2 * noise, part.position_m, part.velocity_m_s)

    parts = (noisy(part, seed) for seed, part in enumerate((walks(9, 1), walks(40, 2), walks(60, 3))))
    data = ChartingData(*parts, INTERVAL_S, 1, knows_velocity=True)
    told = frame(data)
    alone = told.positions(roll_ahead(told, told.model.embed(data.test.csi), data.test))
    alone_m = np.linalg.norm(alone - told.truth(data.test), axis=-1).mean()
    # 600 origins of 60 users, four to a mean: the ratio is known to some 5 %.
    assert errors_m("w-jepa", data).mean() / alone_m == pytest.approx(0.5, abs=0.07)
