"""The alarm's energy is one where nothing is wrong, its threshold keeps its rate, and faults are as named."""

from dataclasses import dataclass

import pytest
import torch

from analysis.alarms import detection_at
from scenarios.isac.alarm import Alarm, AlarmConfig, calm_energy, past_windows, residuals, spoil
from semcom.contracts import SemcomError


@dataclass
class Sizes:
    num_lags: int


class PlainModel:
    """Sensors of which each is predicted as the sum of the others' newest first numbers, which it lacks."""

    def __init__(self, dims: tuple[int, ...], num_lags: int = 1) -> None:
        self.dims, self.config, self.num_sensors = dims, Sizes(num_lags), len(dims)

    def dim_of(self, sensor: int) -> int:
        return self.dims[sensor]

    def predictor(self, context: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
        known = torch.where(arrived[..., None], context, 0)[:, 0, :, :1]
        return known.sum(dim=1, keepdim=True).expand(-1, self.num_sensors, max(self.dims))


class SilentModel(PlainModel):
    """Predicts zero: residuals are what was sent."""

    def predictor(self, context: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(context), self.num_sensors, max(self.dims))


def gaussian(num_sequences: int, num_steps: int, dim: int, seed: int) -> torch.Tensor:
    """Correlated numbers of uneven deviations about a mean that is not zero, [U, T, 1, D]."""
    mix = torch.eye(dim) + 0.3 * torch.randn(dim, dim, generator=torch.Generator().manual_seed(99))
    z = torch.randn(num_sequences, num_steps, 1, dim, generator=torch.Generator().manual_seed(seed))
    return 3.0 + z @ mix.T


def test_the_energy_of_gaussian_residuals_has_mean_one():
    dim, num = 4, 20_000
    config = AlarmConfig(num_steps=1, shrinkage=1e-3)
    alarm = Alarm.fit(SilentModel((dim,)), config, gaussian(num, 5, dim, 1))
    fresh = gaussian(num, 1, dim, 2)
    sigma = (2 / (dim * num)) ** 0.5  # of the mean of chi-square variables of `dim` degrees over dim
    assert abs(float(alarm.energy(fresh).mean()) - 1) < 4.5 * sigma
    # The power check: residuals 2.5 % larger have 5 % more energy.
    larger = 3.0 + 1.025 * (fresh - 3.0)
    assert abs(float(alarm.energy(larger).mean()) - 1) > 4.5 * sigma


def test_energies_are_those_of_each_sensor_s_own_dimensions_and_averaged_over_the_last_steps():
    model = SilentModel((2, 1))
    # Deviations 2 and 1 of the first sensor, 3 of the second, uncorrelated; what is beyond counts nowhere.
    mean = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    precision = torch.zeros(2, 2, 2)
    precision[0], precision[1, 0, 0] = torch.diag(torch.tensor([0.25, 1.0])), 1 / 9
    alarm = Alarm(model, AlarmConfig(num_steps=2), mean, precision)
    first = torch.tensor([[1.0, 1.0], [3.0, 1.0], [5.0, 2.0], [1.0, 4.0]])
    second = torch.tensor([[3.0, 0.0], [0.0, 0.0], [6.0, 0.0], [0.0, 0.0]])
    z = torch.stack((first, second), dim=1)[None]
    # Each alone: (0, 0.5, 2.5, 4.5) and (1, 0, 4, 0).
    expected = torch.tensor([[0.0, 1.0], [0.25, 0.5], [1.5, 2.0], [3.5, 2.0]])
    torch.testing.assert_close(alarm.energy(z)[0], expected)
    for sensor in (0, 1):
        torch.testing.assert_close(alarm.energy_of(z, sensor)[0], expected[:, sensor])


def test_a_residual_is_what_others_don_t_predict_and_never_knows_the_sensor_itself():
    model = PlainModel((1, 1, 1), num_lags=2)
    z = torch.randn(2, 3, 3, 1, generator=torch.Generator().manual_seed(4))
    found = residuals(model, z)
    torch.testing.assert_close(found[:, :, 0, 0], z[:, :, 0, 0] - z[:, :, 1, 0] - z[:, :, 2, 0])
    torch.testing.assert_close(residuals(model, z, (2,))[:, :, 0], found[:, :, 2])


def test_windows_look_back_and_know_where_a_sequence_begins():
    window, known = past_windows(torch.arange(4.0)[None, :, None], 3)
    assert window[0, :, :, 0].tolist() == [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 1]]
    assert known[0].tolist() == [[True, False, False], [True, True, False], [True] * 3, [True] * 3]


def test_a_threshold_keeps_its_rate_only_on_sequences_the_alarm_was_not_fitted_to():
    """Of few sequences of many dimensions, those fitted to look much calmer than new ones."""
    dim, rate = 24, 0.05
    model, config = SilentModel((dim,)), AlarmConfig(num_steps=1, shrinkage=0.01)
    held, fresh = gaussian(20, 5, dim, 3), gaussian(400, 5, dim, 4)
    alarm = Alarm.fit(model, config, held)
    usual = alarm.energy(fresh).flatten().numpy()
    found = {}
    for name, calm in (("others", calm_energy(model, config, held)), ("fitted", alarm.energy(held))):
        found[name] = detection_at(calm.flatten().numpy(), usual, usual, rate).false_alarm_rate
    # A threshold from n scores has a rate of deviation sqrt(a (1 - a) / n).
    highest = rate + 4.5 * (rate * (1 - rate) / 100) ** 0.5
    assert found["others"] <= highest
    assert found["fitted"] > highest  # the power check
    with pytest.raises(SemcomError, match="2 sequences without faults"):
        calm_energy(model, config, held[:1])


FIRST, SHAPE = 3, (4, 9, 3, 6, 5)


def spoiled(observed: torch.Tensor, fault: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    others = observed.flip(0)
    before = observed.clone()
    found = spoil(observed, others, fault, FIRST, torch.Generator().manual_seed(seed))
    # Up to the fault all is well, and what was given is left alone.
    assert torch.equal(observed, before)
    assert torch.equal(found[:, :FIRST], observed[:, :FIRST])
    assert (found.dtype, found.shape) == (observed.dtype, observed.shape)
    return found[:, FIRST:], others[:, FIRST:]


def frames(seed: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (120 + 20 * torch.randn(SHAPE, generator=generator)).round().clamp(0, 255).to(torch.uint8)


def csi(seed: int = 7) -> torch.Tensor:
    numbers = torch.randn((4, 9, 16, 2), generator=torch.Generator().manual_seed(seed))
    return 3 * torch.view_as_complex(numbers)


@pytest.mark.parametrize("observe", [frames, csi])
def test_what_is_frozen_repeats_and_what_is_swapped_is_the_other_s(observe):
    observed = observe()
    found, _ = spoiled(observed, "frozen")
    assert torch.equal(found, observed[:, FIRST - 1 : FIRST].expand_as(found))
    found, others = spoiled(observed, "swapped")
    assert torch.equal(found, others)


def test_noise_has_the_mean_and_the_deviation_of_what_it_replaces():
    found = spoiled(frames(), "noise")[0].double()
    num = found.numel()
    assert abs(float(found.mean()) - 120) < 4.5 * 20 * (2 / num) ** 0.5
    assert abs(float(found.mean()) - 124) > 4.5 * 20 * (2 / num) ** 0.5  # the power check
    assert abs(float(found.std()) - 20) < 4.5 * 20 / num**0.5
    assert abs(float(found.std()) - 24) > 4.5 * 20 / num**0.5
    found = spoiled(csi(), "noise")[0]
    power = found.abs().double().square()
    # 9 of each part: 18, of exponential distribution; what it is taken from is such a sample itself.
    sigma = 18 * (1 / power.numel() + 1 / csi().numel()) ** 0.5
    assert abs(float(power.mean()) - 18) < 4.5 * sigma
    assert abs(float(power.mean()) - 1.4 * 18) > 4.5 * sigma
    assert not torch.equal(found, spoiled(csi(), "noise", seed=1)[0])
