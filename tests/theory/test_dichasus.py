"""Calibration of DICHASUS and the choice of taps: a channel of known paths comes back."""

import numpy as np
import pytest

from channels.dichasus import calibrate, keep_taps

F = 64
# Two antennas, three paths each: delays in samples of 1 / bandwidth.
DELAY = np.array([[0.0, 2.3, 5.0], [-1.7, 0.4, 9.1]])
GAIN = np.array([[1.0, -0.5j, 0.2], [0.3 + 0.3j, 1.0, 0.1j]])
CPO = np.array([0.7, -2.1])
STO = np.array([3.4, -0.6])


def response_at(frequency: np.ndarray, delay: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """The paths' response at frequencies from the carrier, in units of the bandwidth: [antennas, F]."""
    return np.einsum("ap,apf->af", gain, np.exp(-2j * np.pi * delay[..., None] * frequency))


def test_delays_and_phases_of_the_reference_transmitter_are_undone():
    # As recorded: from the carrier upwards, then the lower half; each path later by sto, and turned by the
    # phase at the carrier, which is half the bandwidth above the lowest subcarrier, where cpo is told.
    recorded = response_at(np.fft.fftfreq(F), DELAY + STO[:, None], GAIN)
    recorded *= np.exp(-1j * (CPO + np.pi * STO))[:, None]
    expected = response_at((np.arange(F) - F // 2) / F, DELAY, GAIN)
    found = calibrate(recorded, CPO, STO)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    # The power check: a degree, or a fiftieth of a sample, would show, and so would either sign.
    for cpo, sto in ((CPO + np.pi / 180, STO), (CPO, STO + 0.02), (-CPO, STO), (CPO, -STO)):
        assert np.abs(calibrate(recorded, cpo, sto) - expected).max() > 0.01


@pytest.mark.parametrize(("first", "last"), [(-5, 7), (-2, 5), (0, 0)])
def test_the_taps_kept_are_the_paths_within_them(first, last):
    delay = np.array([[0, 3, 5, 9], [-5, -2, 7, -6]])
    gain = np.array([[1, -0.5j, 0.2, 0.4], [0.3, 1j, -0.1, 0.7]])
    inside = np.where((delay >= first) & (delay <= last), gain, 0)
    num = last - first + 1
    centres = (np.arange(num) + 0.5) / num - 0.5
    kept = keep_taps(response_at((np.arange(F) - F // 2) / F, delay, gain), first, last)
    np.testing.assert_allclose(kept, response_at(centres, delay, inside), atol=1e-12)
    np.testing.assert_allclose(
        (np.abs(kept) ** 2).mean(axis=1), (np.abs(inside) ** 2).sum(axis=1), atol=1e-12
    )


def test_the_thirteen_taps_of_the_published_charts_come_back_from_as_many_subcarriers():
    rng = np.random.default_rng(3)
    response = rng.normal(size=(4, 1024)) + 1j * rng.normal(size=(4, 1024))
    published = np.fft.fftshift(np.fft.ifft(np.fft.fftshift(response, axes=1)), axes=1)[:, 507:520]
    taps = np.fft.ifft(np.fft.ifftshift(keep_taps(response, -5, 7), axes=1), axis=1)
    np.testing.assert_allclose(np.roll(taps, 5, axis=1), published, atol=1e-12)
