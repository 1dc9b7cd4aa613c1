"""Forecasts against processes whose best forecast is known, and sum rates worked by hand."""

from math import log2, sqrt

import numpy as np
import pytest
import torch

from analysis.sum_rate import LinearProbe, principal_channel, sum_rate
from scenarios.charting.forecasting import (
    constant_velocity,
    dead_reckoning,
    displacement,
    last_value,
    tune_window,
    values_ahead,
)
from scenarios.charting.lstm import LstmConfig, Sequences, train_lstm
from scenarios.charting.wiener import align_phase, fit_wiener, lost_gain, tune_wiener
from semcom.contracts import SemcomError
from semcom.rng import Streams

A1, A2 = 1.2 * np.exp(0.3j), -0.6 * np.exp(0.6j)
"""Poles of modulus sqrt 0.6, turned by 0.3 rad a step."""


def autoregressive(num: int, num_steps: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Complex AR(2) processes [U, T, *shape] with innovations of power 1, long after their start."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(2, num_steps + 100, num, *shape)) / sqrt(2)
    values = np.zeros((num_steps + 100, num, *shape), dtype=complex)
    for t in range(2, len(values)):
        values[t] = A1 * values[t - 1] + A2 * values[t - 2] + noise[0, t] + 1j * noise[1, t]
    return np.moveaxis(values[100:], 0, 1).astype(np.complex64)


def lines(num: int, num_steps: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    start, velocity = generator.normal(size=(2, num, 1, 2))
    return start + velocity * np.arange(num_steps)[None, :, None]


def test_constant_velocity_is_exact_on_straight_lines_and_the_last_value_is_not():
    points = lines(5, 20)
    truth = values_ahead(points, [6, 9], [1, 4, 10])
    for window in (2, 3, 7):
        np.testing.assert_allclose(constant_velocity(points, [6, 9], [1, 4, 10], window), truth, atol=1e-9)
    last = last_value(points, [6, 9], [1, 4, 10])
    np.testing.assert_array_equal(constant_velocity(points, [6, 9], [1, 4, 10], 1), last)
    np.testing.assert_allclose((truth - last)[:, 0, 2], 10 * (points[:, 1] - points[:, 0]))


def test_the_error_of_constant_velocity_in_noise_is_that_of_the_regression_line():
    # Noise s^2 on W points: the line's value h steps after the last has variance
    # s^2 (1 / W + (h + (W - 1) / 2)^2 / (W (W^2 - 1) / 12)) in each coordinate.
    width, ahead, num = 5, 3, 20_000
    points = lines(num, 12)
    noisy = points + 0.1 * np.random.default_rng(1).normal(size=points.shape)
    error = constant_velocity(noisy, [6], [ahead], width)[:, 0, 0] - points[:, 6 + ahead]
    expected = 0.01 * (1 / width + (ahead + (width - 1) / 2) ** 2 / (width * (width**2 - 1) / 12))
    sigma = expected * sqrt(2 / (2 * num))
    assert abs(np.mean(error**2) - expected) < 4.5 * sigma
    assert abs(np.mean((error[:, :1] * 1.05) ** 2) - expected) > 4.5 * sigma  # the power check


def test_the_window_is_tuned_for_each_look_ahead():
    # Noise asks for a long window where users go straight; users who stand are best held.
    noisy = lines(200, 40) + np.random.default_rng(1).normal(size=(200, 40, 2))
    truth = values_ahead(lines(200, 40), [20], [1, 10])
    chosen = tune_window(lambda width: constant_velocity(noisy, [20], [1, 10], width), truth, [1, 2, 5, 20])
    assert chosen == [20, 20]
    standing = np.random.default_rng(1).normal(size=(200, 40, 2))
    hold = tune_window(
        lambda width: constant_velocity(standing, [20], [1, 10], width),
        values_ahead(np.zeros((200, 40, 2)), [20], [1, 10]),
        [1, 2, 5],
    )
    assert hold == [1, 1]


def test_dead_reckoning_integrates_the_velocity():
    # x = t^2, whose mean velocity from t to t + s is 2 t + s.
    step_s, num_steps = 0.5, 12
    time = step_s * np.arange(num_steps)
    velocity = np.stack([2 * time + step_s, 0 * time], axis=-1)[None]
    position = np.stack([time**2, 0 * time], axis=-1)[None]
    truth = values_ahead(position, [3, 5], [1, 4])
    np.testing.assert_allclose(dead_reckoning(position, velocity, step_s, [3, 5], [1, 4]), truth, atol=1e-12)
    np.testing.assert_allclose(
        dead_reckoning(position, velocity, step_s, [3, 5], [1, 4], window=[3, 4]), truth, atol=1e-12
    )
    late = np.roll(velocity, 1, axis=1)
    missed = truth - dead_reckoning(position, late, step_s, [3, 5], [1, 4])
    np.testing.assert_allclose(missed[0, 0, :, 0], [2 * step_s**2, 8 * step_s**2], atol=1e-12)
    assert displacement(velocity, step_s)[0, -1, 0] == pytest.approx(time[-1] ** 2)


def test_averaging_over_a_window_makes_dead_reckoning_more_exact():
    position = lines(4000, 12)
    velocity = np.broadcast_to(np.diff(position, axis=1)[:, :1], position.shape)
    noisy = position + np.random.default_rng(1).normal(size=position.shape)
    for window in (1, 4):
        error = dead_reckoning(noisy, velocity, 1.0, [5], [3], window)[:, 0, 0] - position[:, 8]
        assert np.mean(error**2) == pytest.approx(1 / window, abs=4.5 / window * sqrt(2 / 8000))


def test_the_wiener_filter_of_an_autoregressive_process_has_its_least_error():
    # One step ahead the error is the innovation, 1; two ahead 1 + |a1|^2; with one value less to go by,
    # 1 / (1 - |a2|^2), a2 being the partial autocorrelation of lag 2 (turning the poles changes no modulus).
    look_ahead, origins = [1, 2], np.arange(4, 390)
    train, test = (autoregressive(20, 400, (1, 2, 2), seed) for seed in (0, 1))
    truth = values_ahead(test, origins, look_ahead)
    errors = {}
    for predictor in fit_wiener(train, look_ahead, "taps", [1, 2, 3], [1e-6]):
        miss = np.abs(predictor.predict(test, origins) - truth) ** 2
        errors[predictor.order] = miss.mean(axis=(0, 1, 3, 4, 5))
        if predictor.order == 2:
            np.testing.assert_allclose(predictor.coefficients[0][0, 0, :, 0], [A1, A2], atol=0.02)
    # |e|^2 is exponential, its deviation is its mean; errors that share innovations are worth fewer.
    expected, short = np.array([1, 1 + abs(A1) ** 2]), 1 / (1 - abs(A2) ** 2)
    sigma = expected * np.array([1, 1.5]) / sqrt(truth[:, :, 0].size)
    assert (np.abs(errors[2] - expected) < 4.5 * sigma).all()
    assert (np.abs(errors[3] - expected) < 4.5 * sigma).all()
    assert abs(errors[1][0] - short) < 4.5 * 1.5 * short * sigma[0]
    assert abs(errors[1][0] - 1) > 4.5 * sigma[0]  # the power check
    held = np.mean(np.abs(last_value(test, origins, look_ahead) - truth) ** 2, axis=(0, 1, 3, 4, 5))
    assert (held > errors[1]).all()


def test_components_with_cross_terms_see_what_single_taps_cannot():
    # The second antenna shows what the first will be one step later, so that only the second's innovation, 1
    # of the two powers of 1 / ((1 - 0.75^2) (1 - 0.36)) = 3.6 each, is unknown.
    source = autoregressive(20, 301, (1, 1, 1), 0)
    taps = np.concatenate([source[:, :-1], source[:, 1:]], axis=3)
    origins = np.arange(4, 290)
    truth = values_ahead(taps, origins, [1])
    lost = {}
    for structure in ("aligned-taps", "components"):
        (predictor,) = fit_wiener(taps, [1], structure, [3], [1e-6])
        lost[structure] = lost_gain(predictor.predict(taps, origins), truth)
    assert lost["components"] < 0.7 * lost["aligned-taps"]


def test_the_covariance_structure_does_not_see_phases_and_finds_a_turning_direction():
    # One path whose direction turns at a constant rate; the phase is random at every step.
    generator = np.random.default_rng(0)
    sine = 0.02 * np.arange(60)[None, :, None] + generator.uniform(-1, -0.5, size=(12, 1, 1))
    steering = np.exp(1j * np.pi * sine * np.arange(4))
    phase = np.exp(2j * np.pi * generator.random((12, 60, 1)))
    taps = (steering * phase)[:, :, None, :, None].astype(np.complex64)
    origins = np.arange(8, 45)
    truth = values_ahead(taps[8:], origins, [10])
    errors = {}
    for structure in ("taps", "aligned-taps", "covariance"):
        (predictor,) = fit_wiener(taps[:8], [10], structure, [4], [1e-5])
        errors[structure] = lost_gain(predictor.predict(taps[8:], origins), truth)
    held = lost_gain(last_value(taps[8:], origins, [10]), truth)
    assert errors["covariance"] < 0.05 < 0.1 < held
    assert errors["taps"] > held
    assert errors["aligned-taps"] < 0.1
    best = tune_wiener(taps[:8], taps[8:], [10], origins, ("taps", "covariance"), (2, 4), (1e-5,))
    assert best[0][0].structure == "covariance"
    assert best[0][1] <= errors["covariance"] + 1e-12
    # It keeps the phase of the tap at the origin.
    last = last_value(taps[8:], origins, [10])
    prediction = best[0][0].predict(taps[8:], origins)
    assert np.angle(np.sum(prediction.conj() * last, axis=-2)) == pytest.approx(0, abs=1e-3)


def test_a_covariance_that_only_fluctuates_is_best_predicted_by_its_mean():
    # A fixed direction and noise that is new at every step: the last value tells nothing of the next.
    noise = np.random.default_rng(0).normal(size=(2, 16, 50, 1, 4, 1))
    taps = (1 + noise[0] + 1j * noise[1]).astype(np.complex64)
    origins = np.arange(5, 45)
    truth = values_ahead(taps[8:], origins, [2])
    (predictor,) = fit_wiener(taps[:8], [2], "covariance", [1], [1e-3])
    lost = lost_gain(predictor.predict(taps[8:], origins), truth)
    constant = lost_gain(np.ones_like(truth), truth)
    held = lost_gain(last_value(taps[8:], origins, [2]), truth)
    assert constant == pytest.approx(lost, abs=0.1 * (held - constant))
    assert held > 1.2 * constant


def test_a_predictor_tuned_for_each_look_ahead_is_the_best_of_all():
    train, validation = (autoregressive(6, 60, (1, 3, 2), seed) for seed in (0, 1))
    origins, look_ahead = np.arange(5, 40), [1, 3]
    truth = values_ahead(validation, origins, look_ahead)
    tuned = tune_wiener(train, validation, look_ahead, origins, ("taps", "components"), (1, 2), (1e-3,), (4,))
    for index, (predictor, value) in enumerate(tuned):
        prediction = predictor.predict(validation, origins)
        assert predictor.look_ahead == (look_ahead[index],)
        assert prediction.shape[2] == 1
        assert lost_gain(prediction[:, :, 0], truth[:, :, index]) == pytest.approx(value)
        for structure in ("taps", "components"):
            for other in fit_wiener(train, look_ahead, structure, (1, 2), (1e-3,), 4):
                assert value <= lost_gain(other.predict(validation, origins)[:, :, index], truth[:, :, index])


def test_predictions_do_not_look_ahead():
    train, taps = autoregressive(6, 60, (2, 3, 2), 0), autoregressive(3, 60, (2, 3, 2), 1)
    changed = taps.copy()
    changed[:, 31:] = 7
    for structure in ("taps", "aligned-taps", "components", "covariance"):
        (predictor,) = fit_wiener(train, [1, 5], structure, [3], [1e-3], num_components=4)
        prediction = predictor.predict(taps, [30])
        assert prediction.shape == (3, 1, 2, 2, 3, 2)
        np.testing.assert_array_equal(prediction, predictor.predict(changed, [30]))
        assert np.abs(prediction - predictor.predict(changed, [31])).max() > 1e-3


def test_aligned_phases_undo_what_an_oscillator_turns():
    taps = autoregressive(3, 40, (2, 4, 3), 0)
    turned = taps * np.exp(2j * np.pi * np.random.default_rng(0).random((3, 40, 2, 1, 1)))
    first = turned[:, :1] / taps[:, :1] * align_phase(taps)
    np.testing.assert_allclose(align_phase(turned), first, atol=1e-4)
    aligned = align_phase(taps)
    overlap = np.einsum("utrml,utrml->utr", aligned[:, 1:].conj(), aligned[:, :-1])
    np.testing.assert_allclose(np.angle(overlap), 0, atol=1e-4)


def test_lost_gain_by_hand():
    # Two taps of power 2 and 1: the first predicted but for phase and power, the second at right angles.
    truth = np.array([[1, 1], [1j, 0]])[None]
    prediction = np.array([[5j, 0], [-5, 1]])[None]
    assert lost_gain(prediction, truth) == pytest.approx(1 / 3, abs=1e-12)


def test_an_empty_tap_is_predicted_to_be_empty():
    taps = autoregressive(4, 40, (1, 2, 2), 0)
    taps[..., 1] = 0
    for structure in ("taps", "covariance"):
        (predictor,) = fit_wiener(taps, [1], structure, [2], [1e-3])
        prediction = predictor.predict(taps, [5])
        assert np.isfinite(prediction).all()
        assert not prediction[..., 1].any()


def test_the_lstm_learns_to_go_round_in_circles_as_the_last_value_can_not():
    generator = np.random.default_rng(0)
    phase = generator.uniform(0, 2 * np.pi, (80, 1)) + 0.4 * np.arange(30)
    circle = torch.tensor(np.stack([np.cos(phase), np.sin(phase)], axis=-1), dtype=torch.float32)
    train, validation, test = circle[:48], circle[48:64], circle[64:]
    config = LstmConfig(hidden_dim=24, num_steps=150, batch_size=16, peak_rate=1e-2, dropout=0)
    model, log = train_lstm(
        Sequences(train, 10 * train), Sequences(validation, 10 * validation), [2, 5], config, Streams(0), 3
    )
    origins = [5, 10, 20]
    truth = values_ahead(10 * test.numpy(), origins, [2, 5])
    error = np.linalg.norm(model.predict(test, origins).numpy() - truth, axis=-1).mean(axis=(0, 1))
    held = np.linalg.norm(last_value(10 * test.numpy(), origins, [2, 5]) - truth, axis=-1).mean(axis=(0, 1))
    assert (error < 0.2 * held).all()
    assert log[-1]["total"] < log[0]["total"]
    # A forecast does not look ahead, and another seed learns other weights.
    changed = test.clone()
    changed[:, 11:] = 3
    torch.testing.assert_close(model.predict(changed, [10]), model.predict(test, [10]))
    short = config.model_copy(update={"num_steps": 2})
    again = [
        train_lstm(Sequences(train, train), Sequences(validation, validation), [2], short, Streams(s))[0]
        for s in (0, 0, 1)
    ]
    weights = [model.lstm.weight_hh_l0.detach() for model in again]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_of_all_the_weights_those_best_on_validation_are_kept():
    # Targets that have nothing to do with the inputs can be learnt by heart alone, which helps nobody.
    values = torch.tensor(np.random.default_rng(0).normal(size=(2, 8, 12, 2)), dtype=torch.float32)
    train, validation = Sequences(values[0, :4], values[1, :4]), Sequences(values[0, 4:], values[1, 4:])
    config = LstmConfig(
        hidden_dim=32, num_steps=120, batch_size=4, peak_rate=3e-2, dropout=0, validate_every=10
    )
    model, log = train_lstm(train, validation, [1], config, Streams(0))
    forecast = model.predict(train.inputs, range(11)).numpy()[:, :, 0]
    error = np.linalg.norm(forecast - train.targets[:, 1:].numpy(), axis=-1).mean()
    assert error > 2 * log[-1]["total"] * float(model.target_scale.mean())


def test_told_velocities_the_lstm_goes_where_they_lead():
    generator = np.random.default_rng(0)
    velocity = generator.normal(size=(80, 20, 2))
    way = torch.tensor(displacement(velocity, 1.0), dtype=torch.float32)
    start = torch.tensor(generator.normal(size=(80, 1, 2)), dtype=torch.float32)
    parts = [
        Sequences((start + way)[rows], (start + way)[rows], way[rows]) for rows in (slice(60), slice(60, 80))
    ]
    blind = [part._replace(displacement=None) for part in parts]
    config = LstmConfig(hidden_dim=24, num_steps=150, batch_size=20, peak_rate=1e-2, dropout=0)
    errors = []
    for train, validation in (parts, blind):
        model, _ = train_lstm(train, validation, [4], config, Streams(0))
        forecast = model.predict(validation.inputs, [6, 12], validation.displacement).numpy()
        truth = values_ahead(validation.targets.numpy(), [6, 12], [4])
        errors.append(np.linalg.norm(forecast - truth, axis=-1).mean())
    # Without them the rest of a random walk, about 2 sqrt(pi / 2), is left.
    assert errors[0] < 0.5 < 1.5 < errors[1]


def test_the_sum_rate_of_two_users_by_hand():
    # h_1 = (1, 0), h_2 = (1, 1), total power 2: p = 1. Zero-forcing: w_1 along (1, -1) / sqrt 2, as
    # h_2^T w_1 = 0, w_2 along (0, 1): |h_1^T w_1|^2 = 1/2, |h_2^T w_2|^2 = 1: log2(3/2) + 1.
    channel = np.array([[1, 0], [1, 1]])
    snr_db = 10 * np.log10(2)
    assert sum_rate(channel, channel, snr_db) == pytest.approx(log2(1.5) + 1, abs=1e-12)
    # Matched: w_1 = (1, 0), w_2 = (1, 1) / sqrt 2. User 1: 1 / (1 + 1/2); user 2: 2 / (1 + 1).
    assert sum_rate(channel, channel, snr_db, "matched") == pytest.approx(log2(1 + 2 / 3) + 1, abs=1e-12)
    # Outdated: both thought to be the other. Zero-forcing with h_hat = (h_2, h_1): w_1 = (0, 1),
    # w_2 = (1, -1) / sqrt 2. User 1: 0 / (1 + 1/2); user 2: 0 / (1 + 1).
    assert sum_rate(channel, channel[::-1], snr_db) == pytest.approx(0, abs=1e-12)
    # Neither phase nor power of a prediction counts; complex channels: h^T w.
    turned = np.array([[2j], [-0.3]]) * channel
    assert sum_rate(channel, turned, snr_db) == pytest.approx(log2(1.5) + 1, abs=1e-12)
    skewed = np.array([[1, 1j], [0, 1]])  # w_1 along (1, 0): 1; w_2 along (1, i) / sqrt 2: 1/2
    assert sum_rate(skewed, skewed, snr_db) == pytest.approx(1 + log2(1.5), abs=1e-12)


def test_one_user_gets_the_logarithm_of_its_beamforming_gain():
    generator = np.random.default_rng(0)
    h, guess = generator.normal(size=(2, 7, 1, 4)) + 1j * generator.normal(size=(2, 7, 1, 4))
    gain = np.abs(np.sum(h.conj() * guess, -1)) ** 2 / np.sum(np.abs(guess) ** 2, -1)
    for precoder in ("matched", "zero-forcing"):
        rate = sum_rate(h, guess, 10.0, precoder)
        np.testing.assert_allclose(rate, np.log2(1 + 10 * gain[:, 0]), atol=1e-9)


def test_better_predictions_give_more_and_users_thought_alike_do_not_break_it():
    generator = np.random.default_rng(0)
    h, noise = generator.normal(size=(2, 500, 3, 8)) + 1j * generator.normal(size=(2, 500, 3, 8))
    rates = [sum_rate(h, h + error * noise, 10.0).mean() for error in (0, 0.1, 0.5, 5)]
    assert rates == sorted(rates, reverse=True)
    alike = np.repeat(h[:, :1], 3, axis=1)
    assert np.isfinite(sum_rate(h, alike, 10.0)).all()
    assert sum_rate(h, np.zeros_like(h), 10.0) == pytest.approx(0)
    with pytest.raises(ValueError, match="9 users can't be kept apart"):
        sum_rate(np.ones((9, 8)), np.ones((9, 8)), 0.0)


def test_a_linear_probe_reads_what_is_linear_in_the_embedding():
    generator = np.random.default_rng(0)
    z = generator.normal(size=(400, 3)) * [1, 100, 0.01]
    weight = generator.normal(size=(3, 2, 4)) + 1j * generator.normal(size=(3, 2, 4))
    target = np.einsum("nd,drm->nrm", z, weight) + 2 - 1j
    probe = LinearProbe.fit(z[:300], target[:300], ridge=1e-9)
    np.testing.assert_allclose(probe.predict(z[300:]), target[300:], atol=1e-5)
    assert np.abs(LinearProbe.fit(z[:300], target[:300], ridge=1.0).predict(z[300:]) - target[300:]).max() > 1


def test_the_principal_channel_of_a_covariance():
    h = np.array([1, 2j, -1])
    found = principal_channel(np.outer(h, h.conj()) + 0.1 * np.eye(3))
    np.testing.assert_allclose(np.outer(found, found.conj()), np.outer(h, h.conj()) * (6.1 / 6), atol=1e-12)
    assert not principal_channel(-np.eye(3)).any()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: constant_velocity(lines(2, 9), [1], [1], 3), "has 2 points to go by and needs 3"),
        (lambda: values_ahead(lines(2, 9), [5], [4]), "ends? at step 8"),
        (lambda: last_value(lines(2, 9), [9], [1]), "0 to 8"),
        (lambda: dead_reckoning(lines(2, 9), lines(2, 8), 1.0, [3], [1]), "have to be alike"),
        (lambda: list(fit_wiener(autoregressive(2, 5, (1, 1, 1), 0), [3], "taps", [3], [0.1])), "6 steps"),
    ],
)
def test_bad_input_is_refused_in_one_clear_line(call, text: str):
    with pytest.raises(SemcomError, match=text) as error:
        call()
    assert "\n" not in str(error.value)
