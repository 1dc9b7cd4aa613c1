"""Linear estimates of a partly visible array against closed forms; what is observed; what is predicted."""

import math

import pytest
import torch

from scenarios.elaa.dictionaries import polar_dictionary
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.linear import Lmmse, fit_lmmse, least_squares, tune_lmmse
from scenarios.elaa.observations import Observed, observe
from scenarios.elaa.prediction import (
    extrapolate_atoms,
    fit_linear_predictor,
    last_value,
    predict_with_atoms,
    tune_linear_predictor,
)
from scenarios.elaa.pursuit import Pursuit, Sparse
from scenarios.elaa.region_detection import unmask
from semcom.contracts import SemcomError
from semcom.rng import Streams

WIDTH = 32
HALF_DB = 10**0.05


def noise(*shape: int, step: int = 0) -> torch.Tensor:
    generator = Streams(0).torch_generator("test", step=step)
    return torch.randn(shape, dtype=torch.complex64, generator=generator)


def generator(step: int = 1) -> torch.Generator:
    return Streams(1).torch_generator("test", step=step)


def exponential(width: int = WIDTH, rho: float = 0.9) -> torch.Tensor:
    """A covariance that falls with distance, of power 1."""
    number = torch.arange(width, dtype=torch.float64)
    turn = torch.polar(torch.ones_like(number), 0.7 * number)
    return (turn[:, None] * turn.conj()) * rho ** (number[:, None] - number).abs()


def gaussian(num: int, covariance: torch.Tensor) -> torch.Tensor:
    root = torch.linalg.cholesky(covariance).to(torch.complex64)
    return noise(num, len(covariance)) @ root.T


def some_visible(num: int, width: int = WIDTH) -> torch.Tensor:
    """Another block hidden in each channel, of other length."""
    begin = torch.arange(num)[:, None] % 5 * 4
    length = 3 + torch.arange(num)[:, None] % 7
    number = torch.arange(width)
    return (number < begin) | (number >= begin + length)


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_error_of_least_squares_is_the_noise(snr_db):
    num = 400
    h = torch.polar(torch.ones(num, WIDTH), 6 * torch.rand((num, WIDTH), generator=generator()))
    observed = observe(h, torch.ones_like(h, dtype=torch.bool), snr_db, generator(2))
    power = (least_squares(observed) - h).abs().square()
    nmse = float(power.mean())
    expected = 10 ** (-snr_db / 10)
    # |n|^2 is exponential: its deviation is its mean.
    sigma = expected / math.sqrt(power.numel())
    assert abs(nmse - expected) < 4.5 * sigma
    assert abs(nmse - expected * HALF_DB) > 4.5 * sigma


def test_least_squares_loses_what_is_hidden():
    h = torch.ones((50, WIDTH), dtype=torch.complex64)
    visible = some_visible(50)
    h_hat = least_squares(observe(h, visible, 60.0, generator()))
    lost = (h_hat - h).abs().square().mean(dim=1)
    assert torch.allclose(lost, (~visible).float().mean(dim=1), atol=1e-4)


def test_lmmse_on_a_gaussian_channel_has_the_error_of_its_closed_form():
    num, snr_db = 6000, 5.0
    covariance = exponential()
    h = gaussian(num, covariance)
    visible = some_visible(1).expand(num, -1)
    observed = observe(h, visible, snr_db, generator())
    h_hat = Lmmse(covariance.to(torch.complex64), torch.zeros(WIDTH, dtype=torch.complex64)).estimate(
        observed
    )
    error = (h_hat - h).abs().square().mean(dim=1)
    seen = visible[0]

    def mse(level_db: float) -> float:
        block = covariance[seen][:, seen] + 10 ** (-level_db / 10) * torch.eye(int(seen.sum()))
        left = covariance[:, seen]
        return float(torch.trace(covariance - left @ torch.linalg.solve(block, left.mH)).real) / WIDTH

    sigma = float(error.std()) / math.sqrt(num)
    assert abs(float(error.mean()) - mse(snr_db)) < 4.5 * sigma
    assert abs(float(error.mean()) - mse(snr_db + 0.5)) > 4.5 * sigma


# Masks come again every 35 channels: through other noise each, one of two kinds of noise, or the same noise.
@pytest.mark.parametrize("snr_db", [[-5 + 25 * row / 69 for row in range(70)], [5.0, 20.0] * 35, [10.0] * 70])
def test_lmmse_with_another_mask_in_each_row_is_that_of_each_row_by_itself(snr_db):
    covariance = exponential().to(torch.complex64)
    mean = torch.linspace(0, 1, WIDTH).to(torch.complex64)
    visible = some_visible(70)
    h = gaussian(70, exponential()) + mean
    observed = observe(h, visible, torch.tensor(snr_db), generator())
    together = Lmmse(covariance, mean).estimate(observed)
    for row in range(70):
        seen = visible[row]
        block = covariance[seen][:, seen] + observed.noise_var[row] * torch.eye(int(seen.sum()))
        weights = torch.linalg.solve(block, (observed.y[row] - mean)[seen])
        assert torch.allclose(together[row], mean + covariance[:, seen] @ weights, atol=2e-4)


def test_sample_covariance_comes_near_the_true_one_and_shrinks_less_the_more_there_are():
    h = gaussian(20_000, exponential())
    far = [float((fit_lmmse(h[:num]).covariance - exponential()).abs().norm()) for num in (20, 20_000)]
    assert far[1] < 0.1 * far[0]
    one = fit_lmmse(h[:1]).covariance
    assert torch.linalg.eigvalsh(one).min() > 0
    raw = [float((fit_lmmse(h[:20], 0.0).covariance - exponential()).abs().norm()), far[0]]
    assert raw[1] < raw[0]


def test_tuned_shrinkage_is_no_worse_than_any_fixed_one():
    h, validation = gaussian(40, exponential()), gaussian(300, exponential().conj())
    observed = observe(validation, some_visible(300), 20.0, generator())

    def error(each: Lmmse) -> float:
        return float((each.estimate(observed) - validation).abs().square().mean())

    tuned = error(tune_lmmse(h, observed, validation))
    assert tuned <= min(error(fit_lmmse(h, rho)) for rho in (1e-4, 1e-2, 0.1))


def test_noise_is_the_same_whatever_is_visible_and_hidden_elements_give_none():
    h = noise(5, WIDTH)
    everything = observe(h, torch.ones_like(h, dtype=torch.bool), 3.0, generator())
    some = observe(h, some_visible(5), 3.0, generator())
    assert torch.equal(some.y, torch.where(some.visible, everything.y, 0))
    blind = unmask(h, some_visible(5), 3.0, generator())
    assert blind.visible.all()
    assert torch.allclose(torch.where(some.visible, blind.y, 0), some.y)
    assert torch.allclose(blind.y[~some.visible], (everything.y - h)[~some.visible], atol=1e-6)


def autoregressive(num: int, num_steps: int) -> torch.Tensor:
    """h(t) = 0.9 e^(j 0.3) h(t - 1) - 0.5 h(t - 2) + n at all elements: [num, steps, 8]."""
    innovation = noise(num, num_steps + 50, 8)
    values = [innovation[:, 0], innovation[:, 1]]
    turn = 0.9 * torch.polar(torch.ones(()), torch.tensor(0.3))
    for step in range(2, num_steps + 50):
        values.append(turn * values[-1] - 0.5 * values[-2] + innovation[:, step])
    return torch.stack(values[50:], dim=1)


def test_linear_prediction_finds_the_coefficients_of_an_autoregression():
    series = autoregressive(8000, 4)
    predictor = fit_linear_predictor(series[:, :3], series[:, 3], order=3)
    turn = 0.9 * complex(math.cos(0.3), math.sin(0.3))
    expected = torch.tensor([turn, -0.5, 0], dtype=torch.complex64)
    # R^-1 of such a series has at most 1 + 0.9^2 + 0.5^2 = 2.06 on its diagonal; it has 8 elements.
    assert (predictor.coefficient - expected).abs().max() < 4.5 * math.sqrt(2.06 / (8000 * 8))
    left = (predictor.predict(series[:, :3]) - series[:, 3]).abs().square()
    assert float(left.mean()) == pytest.approx(1, abs=4.5 / math.sqrt(left.numel()))
    assert (last_value(series[:, :3]) - series[:, 3]).abs().square().mean() > 1.2


def test_linear_prediction_is_tuned_to_the_order_that_predicts_best():
    series = autoregressive(3000, 5)
    half = (series[:1500, :4], series[:1500, 4]), (series[1500:, :4], series[1500:, 4])
    assert len(tune_linear_predictor(*half).coefficient) >= 2


@pytest.mark.parametrize("look_ahead", [0, 1, 3.5])
def test_atoms_of_constant_doppler_are_extrapolated_exactly(look_ahead):
    turn = torch.tensor([0.4, -1.3, 2.0])
    first = noise(6, 1, 3)

    def at(time: torch.Tensor) -> torch.Tensor:
        return first * torch.polar(torch.ones(()), turn * time)

    gain = at(torch.arange(4.0)[:, None])
    ahead = extrapolate_atoms(
        Sparse(torch.zeros((6, 3), dtype=torch.int64), gain, torch.full((6,), 3)), look_ahead
    )
    assert torch.allclose(ahead, at(torch.tensor(3.0 + look_ahead))[:, 0], atol=1e-5)


def test_pursuit_predicts_one_path_of_constant_doppler():
    array = LineArray(64, 0.01, min_distance_m=2)
    dictionary = polar_dictionary(array, oversampling=1.0, coherence_scale=1.6)
    turns = torch.polar(torch.ones(5), 0.8 * torch.arange(5.0))
    h = turns[:, None] * dictionary.atoms[40]
    visible = torch.arange(array.num_elements)[None] < 40
    y = torch.where(visible, h[None, :4], 0)
    ahead = predict_with_atoms(
        Pursuit(dictionary, num_atoms=2, stop=1.0), y, visible, torch.tensor([1e-6]), 1
    )
    assert (ahead[0] - h[4]).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda h: observe(h, torch.zeros_like(h, dtype=torch.bool), 0.0, generator()), "no visible element"),
        (lambda h: unmask(h, torch.zeros_like(h, dtype=torch.bool), 0.0, generator()), "no visible element"),
        (lambda h: observe(h, h.abs() >= 0, math.inf, generator()), "SNR of a pilot has to be finite"),
        (lambda h: observe(h, h.abs() >= 0, torch.zeros(3), generator()), "SNRs"),
        (lambda h: observe(h, h.abs(), 0.0, generator()), "complex and bool"),
        (lambda h: observe(h, h.abs()[:1] >= 0, 0.0, generator()), "don't match"),
        (lambda h: observe(h * math.nan, h.abs() >= 0, 0.0, generator()), "not finite"),
        (lambda h: fit_lmmse(h[:0]), "one or more"),
        (lambda h: fit_lmmse(h, 1.5), "not a share"),
        (lambda h: fit_linear_predictor(h[:, None], h, 2), "don't match"),
        (lambda h: fit_linear_predictor(h[:, None], h, 1).predict(h), "order 1 needs"),
        (lambda h: extrapolate_atoms(Sparse(h, h[:, None], h), 1), "no Doppler"),
        (
            lambda h: fit_lmmse(h).estimate(
                Observed(h, torch.zeros_like(h, dtype=torch.bool), torch.ones(4))
            ),
            "no visible element",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(make, match):
    with pytest.raises(SemcomError, match=match) as caught:
        make(noise(4, WIDTH))
    assert "\n" not in str(caught.value)
