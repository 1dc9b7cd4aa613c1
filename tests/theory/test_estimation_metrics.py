"""Metrics of channel estimates against hand-worked numbers, closed forms, and what must not change them."""

import numpy as np
import pytest

from analysis.estimation import (
    beamforming_gain_db,
    median_nmse_db,
    nmse_db,
    normalised_errors,
    spectral_efficiency,
    squared_cosines,
)
from analysis.sum_rate import sum_rate

# |h|^2 = 25, 4, 2, 1; errors |.|^2 = 1, 4 (an estimate of 0), 0, 0.04.
TRUTH = np.array([[3, 4j], [2, 0], [1, 1j], [0, 1]])
GUESS = np.array([[3, 5j], [0, 0], [1, 1j], [0, 0.8]])


def gaussian(num: int, num_antennas: int, seed: int) -> np.ndarray:
    parts = np.random.default_rng(seed).normal(size=(2, num, num_antennas)) / np.sqrt(2)
    return parts[0] + 1j * parts[1]


def test_errors_by_hand():
    np.testing.assert_allclose(normalised_errors(TRUTH, GUESS), [1 / 25, 1, 0, 0.04], atol=1e-15)
    # The mean of the ratios is 0.27; that of the errors over that of the powers would be 5.04 / 32.
    assert nmse_db(TRUTH, GUESS) == pytest.approx(10 * np.log10(0.27), abs=1e-12)
    assert median_nmse_db(TRUTH, GUESS) == pytest.approx(10 * np.log10(0.04), abs=1e-12)
    assert nmse_db(TRUTH, TRUTH) == -np.inf
    # Over more axes than one the norms run over all of them: (1 + 4) / (25 + 4).
    assert normalised_errors(TRUTH[None, :2], GUESS[None, :2]) == pytest.approx([5 / 29])


def test_directions_by_hand():
    # h^H h_hat = 9 + 20 = 29, |h|^2 = 25, |h_hat|^2 = 34.
    np.testing.assert_allclose(squared_cosines(TRUTH, GUESS), [841 / 850, 0, 1, 1], atol=1e-15)
    # Received: 841 / 34, 0, 2 and 1 of 25, 4, 2 and 1.
    gain = (841 / 34 + 3) / 32
    assert beamforming_gain_db(TRUTH, GUESS) == pytest.approx(10 * np.log10(gain), abs=1e-12)
    assert beamforming_gain_db(TRUTH, 0 * GUESS) == -np.inf
    # At 3 over the noise: log2(1 + 3 * 2) and log2(1 + 3 * 1).
    level_db = 10 * np.log10(3)
    expected = [np.log2(1 + 3 * 841 / 34), 0, np.log2(7), 2]
    np.testing.assert_allclose(spectral_efficiency(TRUTH, GUESS, level_db), expected, atol=1e-12)
    np.testing.assert_allclose(
        spectral_efficiency(TRUTH[2:], GUESS[2:], [level_db, -np.inf]), [np.log2(7), 0], atol=1e-12
    )


def test_phase_and_power_of_an_estimate_do_not_steer_a_beam():
    turned = GUESS * np.array([[2j], [1], [-0.1], [1e-9]])
    np.testing.assert_allclose(squared_cosines(TRUTH, turned), squared_cosines(TRUTH, GUESS), atol=1e-15)
    assert beamforming_gain_db(TRUTH, turned) == pytest.approx(beamforming_gain_db(TRUTH, GUESS))
    assert nmse_db(TRUTH, turned) > nmse_db(TRUTH, GUESS) + 3


def test_it_is_the_sum_rate_of_one_user():
    truth, guess = gaussian(50, 8, seed=1), gaussian(50, 8, seed=2)
    expected = sum_rate(truth[:, None], guess[:, None], 7.0, "matched")
    # That one sends along conj(h_hat) and receives h^T w: the same inner product.
    np.testing.assert_allclose(spectral_efficiency(truth, guess, 7.0), expected, rtol=1e-12)


@pytest.mark.parametrize("snr_db", [-5.0, 10.0])
def test_noise_on_channels_of_constant_power_errs_by_minus_the_snr(snr_db):
    num, num_antennas = 4000, 32
    truth = np.exp(2j * np.pi * np.random.default_rng(3).random((num, num_antennas)))
    guess = truth + 10 ** (-snr_db / 20) * gaussian(num, num_antennas, seed=4)
    # |n|^2 / M has mean 1 and variance 1 / M in each sample.
    sigma_db = 10 / np.log(10) / np.sqrt(num * num_antennas)
    assert abs(nmse_db(truth, guess) + snr_db) < 4.5 * sigma_db
    assert abs(nmse_db(truth, guess) + snr_db + 0.5) > 4.5 * sigma_db  # the power check


def test_directions_at_random_are_alike_by_one_over_their_number():
    num, num_antennas = 20_000, 16
    cosines = squared_cosines(gaussian(num, num_antennas, 5), gaussian(num, num_antennas, 6))
    # Beta(1, M - 1): mean 1 / M, variance (M - 1) / (M^2 (M + 1)).
    sigma = np.sqrt((num_antennas - 1) / (num_antennas + 1) / num) / num_antennas
    assert abs(cosines.mean() - 1 / num_antennas) < 4.5 * sigma
    assert abs(cosines.mean() - 1 / (num_antennas - 1)) > 4.5 * sigma  # the power check


@pytest.mark.parametrize(
    ("truth", "guess", "text"),
    [
        (TRUTH, GUESS[:3], "alike"),
        (1.0, 1.0, "alike"),
        (TRUTH * [[1], [0], [1], [1]], GUESS, "0 throughout"),
        (TRUTH, np.where(GUESS == 3, np.nan, GUESS), r"estimate holds NaN or infinity at \(0, 0\)"),
        (np.where(TRUTH == 2, np.inf, TRUTH), GUESS, r"channel holds NaN or infinity at \(1, 0\)"),
    ],
)
@pytest.mark.parametrize("metric", [nmse_db, squared_cosines, beamforming_gain_db])
def test_what_has_no_meaning_is_refused(metric, truth, guess, text):
    with pytest.raises(ValueError, match=text):
        metric(truth, guess)


def test_no_samples_and_no_snr_are_refused():
    for metric in (nmse_db, median_nmse_db, beamforming_gain_db):
        with pytest.raises(ValueError, match="no samples"):
            metric(TRUTH[:0], GUESS[:0])
    for level_db in (np.nan, np.inf):
        with pytest.raises(ValueError, match="SNR"):
            spectral_efficiency(TRUTH, GUESS, level_db)
