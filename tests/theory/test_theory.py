"""The closed forms against Monte-Carlo runs of what they describe, and against hand-worked numbers."""

from math import sqrt

import numpy as np
import pytest

from analysis import theory


def assert_rate(errors: int, num_bits: int, expected: float, half_db_off: float) -> None:
    """Within 4.5 standard deviations of the closed form, and not of the one 0.5 dB away."""
    sigma = sqrt(expected * (1 - expected) / num_bits)
    assert abs(errors / num_bits - expected) < 4.5 * sigma
    assert abs(errors / num_bits - half_db_off) > 4.5 * sigma


def complex_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise of unit power per complex symbol."""
    return (rng.standard_normal(size) + 1j * rng.standard_normal(size)) / sqrt(2)


def gray_pam(bits: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return levels[bits[:, 0] * 2 + bits[:, 1]]


def test_bpsk_on_awgn_matches_the_closed_form():
    num_bits, ebno_db = 4_000_000, 4.0
    rng = np.random.default_rng(1)
    received = sqrt(10 ** (ebno_db / 10)) + rng.standard_normal(num_bits) / sqrt(2)
    errors = int((received < 0).sum())
    assert_rate(errors, num_bits, theory.ber_bpsk_awgn(ebno_db), theory.ber_bpsk_awgn(ebno_db + 0.5))


def test_qpsk_on_awgn_matches_the_closed_form():
    num_symbols, ebno_db = 1_000_000, 4.0
    rng = np.random.default_rng(2)
    symbol = rng.choice([-1, 1], num_symbols) + 1j * rng.choice([-1, 1], num_symbols)
    # Two bits a symbol: Es/N0 = 2 Eb/N0, on a symbol of power 2.
    received = symbol * sqrt(10 ** (ebno_db / 10)) + complex_noise(rng, num_symbols)
    errors = int((received.real * symbol.real < 0).sum() + (received.imag * symbol.imag < 0).sum())
    assert_rate(errors, 2 * num_symbols, theory.ber_qpsk_awgn(ebno_db), theory.ber_qpsk_awgn(ebno_db + 0.5))


def test_16qam_on_awgn_matches_the_closed_form():
    num_symbols, ebno_db = 500_000, 6.0
    rng = np.random.default_rng(3)
    levels = np.array([-3, -1, 3, 1]) / sqrt(10)  # indexed by the Gray label
    bits = rng.integers(0, 2, (2 * num_symbols, 2))
    amplitude_noise = sqrt(0.5 / (4 * 10 ** (ebno_db / 10))) * rng.standard_normal(2 * num_symbols)
    received = gray_pam(bits, levels) + amplitude_noise
    label = np.abs(received[:, None] - levels).argmin(axis=1)
    errors = int((label // 2 != bits[:, 0]).sum() + (label % 2 != bits[:, 1]).sum())
    # The two bits of a rail share a noise sample, but Gray labels make them fail together less often
    # than free bits would, so the binomial deviation is not too small.
    assert_rate(errors, 4 * num_symbols, theory.ber_16qam_awgn(ebno_db), theory.ber_16qam_awgn(ebno_db + 0.5))


@pytest.mark.parametrize(
    ("order", "closed_form"), [(1, theory.ber_bpsk_rayleigh), (2, theory.ber_qpsk_rayleigh)]
)
def test_psk_on_rayleigh_matches_the_closed_form(order, closed_form):
    num_symbols, ebno_db = 1_000_000, 10.0
    rng = np.random.default_rng(4 + order)
    fading = complex_noise(rng, num_symbols)
    symbol = rng.choice([-1, 1], num_symbols) + 1j * (order - 1) * rng.choice([-1, 1], num_symbols)
    received = fading * symbol * sqrt(10 ** (ebno_db / 10)) + complex_noise(rng, num_symbols)
    matched = received * fading.conj()
    errors = int((matched.real * symbol.real < 0).sum())
    assert_rate(errors, num_symbols, closed_form(ebno_db), closed_form(ebno_db + 0.5))


def test_rayleigh_distributions():
    power = np.abs(complex_noise(np.random.default_rng(7), 1_000_000)) ** 2
    for threshold in (0.1, 1.0, 3.0):
        expected = theory.rayleigh_power_cdf(threshold)
        errors = int((power <= threshold).sum())
        assert_rate(errors, power.size, expected, theory.rayleigh_power_cdf(threshold, 10**0.05))
        np.testing.assert_allclose(theory.rayleigh_amplitude_cdf(sqrt(threshold)), expected, rtol=1e-12)


def test_jakes_autocorrelation_of_isotropic_scattering():
    num_waves, doppler_hz, lag_s = 200_000, 20.0, np.array([0.0, 0.005, 0.02, 0.05])
    angle = np.random.default_rng(8).uniform(0, 2 * np.pi, num_waves)
    measured = np.cos(2 * np.pi * doppler_hz * np.cos(angle) * lag_s[:, None]).mean(axis=1)
    tolerance = 4.5 * sqrt(0.5 / num_waves)
    assert np.abs(measured - theory.jakes_autocorrelation(doppler_hz, lag_s)).max() < tolerance
    # 0.5 dB more on the Doppler shift shows.
    off = np.abs(measured - theory.jakes_autocorrelation(doppler_hz * 10**0.05, lag_s)).max()
    assert off > tolerance


def test_uniform_quantiser_error():
    step, num_samples = 0.37, 1_000_000
    value = np.random.default_rng(9).normal(size=num_samples) * 10
    error = np.square(value - step * np.round(value / step))
    expected = theory.uniform_quantiser_mse(step)
    # The fourth moment of a uniform error is step^4 / 80, so its square varies by step^4 / 180.
    sigma = step**2 / sqrt(180 * num_samples)
    assert abs(error.mean() - expected) < 4.5 * sigma
    assert abs(error.mean() - theory.uniform_quantiser_mse(step * 10 ** (0.5 / 20))) > 4.5 * sigma


def test_ls_nmse_is_minus_the_snr():
    num_coefficients, snr_db = 200_000, 7.0
    rng = np.random.default_rng(10)
    channel = complex_noise(rng, num_coefficients)
    estimate = channel + complex_noise(rng, num_coefficients) * 10 ** (-snr_db / 20)
    nmse = (np.abs(estimate - channel) ** 2).sum() / (np.abs(channel) ** 2).sum()
    # Numerator and denominator each vary by 1/sqrt(n) of themselves.
    tolerance_db = 4.5 * 10 / np.log(10) * sqrt(2 / num_coefficients)
    assert abs(10 * np.log10(nmse) - theory.ls_nmse_db(snr_db)) < tolerance_db < 0.5


def test_expected_transmissions():
    assert theory.expected_transmissions(0.0) == 1
    assert theory.expected_transmissions(0.5) == 2
    assert theory.expected_transmissions(0.5, max_transmissions=2) == pytest.approx(1 * 0.5 + 2 * 0.5)
    with pytest.raises(ValueError, match="must be in"):
        theory.expected_transmissions(1.0)


def test_burst_probability_by_counting_all_sequences():
    num_packets, p = 10, 0.3
    lost = (np.arange(2**num_packets)[:, None] >> np.arange(num_packets)) & 1
    weight = np.where(lost, p, 1 - p).prod(axis=1)
    for burst_length in (1, 2, 3, 10, 11):
        runs = np.array(["1" * burst_length in "".join(map(str, row)) for row in lost])
        assert theory.burst_probability(num_packets, burst_length, p) == pytest.approx(
            weight[runs].sum(), abs=1e-12
        )


def test_lqr_of_a_scalar_system_by_hand():
    # p = p - p^2 / (1 + p) + 1 has the golden ratio as its positive root.
    one = np.eye(1)
    golden = (1 + sqrt(5)) / 2
    assert theory.lqr_cost(one, one, one, one, np.array([2.0])) == pytest.approx(4 * golden)
    assert theory.lqr_gain(one, one, one, one)[0, 0] == pytest.approx(golden / (1 + golden))
    assert theory.lqr_average_cost(one, one, one, one, 0.25 * one) == pytest.approx(golden / 4)


def test_lqr_cost_is_what_the_closed_loop_pays_and_no_other_gain_pays_less():
    a = np.array([[1.0, 0.1], [0.2, 1.0]])
    b = np.array([[0.0], [0.1]])
    q, r, start = np.diag([2.0, 0.5]), np.array([[0.3]]), np.array([1.0, -0.4])

    def pay(gain: np.ndarray) -> float:
        state, cost = start, 0.0
        for _ in range(2000):
            action = -gain @ state
            cost += state @ q @ state + action @ r @ action
            state = a @ state + b @ action
        return float(cost)

    best = theory.lqr_gain(a, b, q, r)
    assert pay(best) == pytest.approx(theory.lqr_cost(a, b, q, r, start), rel=1e-9)
    assert pay(best * 1.06) > pay(best) * (1 + 1e-6)
    assert pay(best * 0.94) > pay(best) * (1 + 1e-6)


def test_capacities_are_those_of_the_channels():
    assert theory.capacity_awgn(0.0) == pytest.approx(1.0)
    power = np.abs(complex_noise(np.random.default_rng(8), 1_000_000)) ** 2
    for snr_db in (-5.0, 10.0):
        rates = np.log2(1 + 10 ** (snr_db / 10) * power)
        sigma = rates.std() / 1000
        assert abs(rates.mean() - theory.capacity_rayleigh(snr_db)) < 4.5 * sigma
        assert abs(rates.mean() - theory.capacity_rayleigh(snr_db + 0.5)) > 4.5 * sigma


def test_the_normal_approximation_meets_one_worked_by_hand_and_the_capacity():
    # n = 1000 real uses at 0 dB and an error rate of 1e-3: eq. 296 by hand, Q^-1(1e-3) = 3.0902.
    num_uses, snr_db, rate = 500.0, 0.0, 1e-3
    bits = np.arange(1, 500)
    largest = bits[theory.bler_awgn(bits, num_uses, snr_db) <= rate].max() / (2 * num_uses)
    dispersion = 1 * 3 / (2 * 4) * np.log2(np.e) ** 2
    by_hand = 0.5 - sqrt(dispersion / 1000) * 3.0902 + np.log2(1000) / 2000
    assert largest == pytest.approx(by_hand, abs=1e-3)
    # Ever longer blocks fail below capacity never, above it always.
    assert theory.bler_awgn(0.95e6, 1e6, 0.0) < 1e-9
    assert theory.bler_awgn(1.05e6, 1e6, 0.0) > 1 - 1e-9


def test_the_error_rate_on_rayleigh_is_the_mean_of_that_on_awgn():
    power_db = 10 * np.log10(np.abs(complex_noise(np.random.default_rng(9), 200_000)) ** 2)
    for snr_db in (0.0, 10.0):
        rates = theory.bler_awgn(256, 144, snr_db + power_db)
        sigma = rates.std() / sqrt(rates.size)
        assert abs(rates.mean() - theory.bler_rayleigh(256, 144, snr_db)) < 4.5 * sigma
        assert abs(rates.mean() - theory.bler_rayleigh(256, 144, snr_db + 0.5)) > 4.5 * sigma


def test_the_least_errors_of_uncoded_symbols():
    assert theory.mmse_awgn(0.0) == pytest.approx(0.5)
    power = np.abs(complex_noise(np.random.default_rng(10), 1_000_000)) ** 2
    for snr_db in (-5.0, 10.0):
        errors = 1 / (1 + 10 ** (snr_db / 10) * power)
        sigma = errors.std() / 1000
        assert abs(errors.mean() - theory.mmse_rayleigh(snr_db)) < 4.5 * sigma
        assert abs(errors.mean() - theory.mmse_rayleigh(snr_db + 0.5)) > 4.5 * sigma
