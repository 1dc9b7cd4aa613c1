"""The fading channels against hand-worked path losses, their distributions, and Sionna in one piece."""

import numpy as np
import pytest
from scipy import stats

from analysis import theory
from channels.block_fading import BlockFadingConfig
from channels.budget import los_probability, noise_power_w, path_loss_los_db, path_loss_nlos_db
from channels.catalogue import make_channel
from channels.delay_profiles import DelayProfileConfig
from channels.grid import GridConfig, ResourceGrid
from channels.indoor_factory import IndoorFactoryChannel, IndoorFactoryConfig
from channels.multipath import MultipathChannel
from channels.sionna_scope import sionna_scope
from channels.system_level import CellConfig, SystemLevelSource
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())
HALF_DB = 10**0.05
REJECTED = 1e-6  # a Kolmogorov-Smirnov p-value that chance gives once in a million seeds


def factory(num_devices: int, **settings: float | str) -> IndoorFactoryChannel:
    config = IndoorFactoryConfig.model_validate(settings)
    channel = make_channel(config, GRID, num_devices, num_steps=10, step_s=0.02, streams=Streams(3))
    assert isinstance(channel, IndoorFactoryChannel)
    return channel


def test_path_loss_by_hand():
    # log10(3.75) = 0.574031: 31.84 + 21.5 + 10.9066 and 33.63 + 21.9 + 11.4806 at 10 m.
    distance_m = np.array([10.0, 100.0])
    np.testing.assert_allclose(path_loss_los_db(distance_m, 3.75e9), [64.2466, 85.7466], atol=1e-4)
    np.testing.assert_allclose(path_loss_nlos_db(distance_m, 3.75e9), [67.0106, 88.9106], atol=1e-4)


def test_line_of_sight_probability_by_hand():
    # ln(1 - r) = -1 and heights (10 - 1) / (4 - 1) = 3 give k = 2 x 3 = 6 m.
    probability = los_probability(np.array([0.0, 6.0, 12.0]), 10.0, 1.0, 1 - np.exp(-1), 2.0, 4.0)
    np.testing.assert_allclose(probability, [1, np.exp(-1), np.exp(-2)])


def test_noise_power_by_hand():
    # k T = 4.00388e-21 W/Hz; 10 MHz and 10 dB add 80 dB.
    assert noise_power_w(1e7, 10.0) == pytest.approx(4.00388e-13, rel=1e-5)


def test_mean_snr_by_hand():
    # 10 dBm - 82.4536 dB of path loss at sqrt(50^2 + 8.5^2) m, noise -96.3365 dBm over 18.36 MHz.
    snr_db = 10 * np.log10(factory(1, shadowing_std_db=0.0).mean_snr)
    assert snr_db == pytest.approx(23.883, abs=2e-3)


def test_rayleigh_power_is_exponential():
    channel = factory(4000)
    power = np.concatenate([channel.sinr(step)[:, 0] / channel.mean_snr for step in range(5)])
    assert stats.kstest(power, theory.rayleigh_power_cdf).pvalue > REJECTED
    assert stats.kstest(power * HALF_DB, theory.rayleigh_power_cdf).pvalue < REJECTED
    assert stats.kstest(power / HALF_DB, theory.rayleigh_power_cdf).pvalue < REJECTED


def test_fading_is_flat_constant_in_a_block_and_independent_across_blocks():
    channel = factory(4000, coherence_steps=3)
    sinr = [channel.sinr(step) for step in range(4)]
    assert (sinr[0] == sinr[0][:, :1]).all()
    np.testing.assert_array_equal(sinr[0], sinr[2])
    ratio = [block[:, 0] / channel.mean_snr for block in (sinr[2], sinr[3])]
    correlation = np.corrcoef(*ratio)[0, 1]
    assert abs(correlation) < 4.5 / np.sqrt(4000)


def test_shadowing_is_normal_with_the_stated_deviation():
    num_devices, std_db = 20_000, 4.0
    shadowing_db = factory(num_devices, shadowing_std_db=std_db).shadowing_db
    tolerance = 4.5 / np.sqrt(2 * num_devices)
    assert abs(shadowing_db.std() / std_db - 1) < tolerance
    assert abs(shadowing_db.std() / (std_db + 0.5) - 1) > tolerance
    assert stats.kstest(shadowing_db, stats.norm(0, std_db).cdf).pvalue > REJECTED
    assert stats.kstest(shadowing_db, stats.norm(0.5, std_db).cdf).pvalue < REJECTED


def test_snr_is_lognormal_times_exponential():
    # In dB the mean is that of the hand calculation less 10 gamma / ln 10 = 2.507 dB (a log-exponential's
    # mean), and the variances of shadowing and fading (5.570 dB) add up.
    num_devices = 20_000
    snr_db = 10 * np.log10(factory(num_devices).sinr(0)[:, 0])
    deviation_db = np.sqrt(4.0**2 + 5.570**2)
    tolerance_db = 4.5 * deviation_db / np.sqrt(num_devices)
    assert abs(snr_db.mean() - (23.883 - 2.507)) < tolerance_db < 0.5
    assert abs(snr_db.std() - deviation_db) < 2 * tolerance_db


def test_uniform_placement_fills_the_hall():
    channel = factory(20_000, placement="uniform", line_of_sight="random", clutter_density=0.05)
    # A rectangle of sides a and b has E[d^2] = (a^2 + b^2) / 12 about its centre, here 9375 m^2.
    square = channel.ground_distance_m**2
    assert abs(square.mean() - 9375) < 4.5 * square.std() / np.sqrt(square.size)
    assert channel.ground_distance_m.max() < np.hypot(150, 75)
    distance_m = np.hypot(channel.ground_distance_m, 8.5)
    in_sight = channel.path_loss_db == path_loss_los_db(distance_m, 3.75e9)
    expected = los_probability(channel.ground_distance_m, 10.0, 1.5, 0.05, 2.0, 6.0)
    sigma = np.sqrt((expected * (1 - expected)).sum())
    assert abs(in_sight.sum() - expected.sum()) < 4.5 * sigma
    assert abs(in_sight.sum() - expected.sum() * HALF_DB) > 4.5 * sigma


def test_umi_steps_are_samples_of_one_sionna_realisation():
    from sionna.phy.channel import cir_to_ofdm_channel

    num_steps, step_s = 6, 0.02
    config = CellConfig(model="umi", speed_m_per_s=2.0, num_base_station_antennas=2)
    channel = make_channel(config, GRID, 4, num_steps, step_s, Streams(5))
    source = SystemLevelSource(config, 4, Streams(5))
    with sionna_scope(source._ray_seed):
        gains, delays_s = source._model(num_steps, 1 / step_s)
        centres_hz = (np.arange(51) - 25) * 12 * 30e3
        response = cir_to_ofdm_channel(gains.new_tensor(centres_hz).real, gains, delays_s)
    power = response[0, 0, :, :, 0].abs().square().sum(dim=0).numpy()  # [K, steps, R]
    snr = power * 10 ** (23 / 10) * 1e-3 / noise_power_w(51 * 12 * 30e3, 5.0)
    for step in range(num_steps):
        np.testing.assert_allclose(channel.sinr(step), snr[:, step], rtol=2e-2)
    # The power check: neighbouring steps and half a dB are farther apart than that tolerance.
    assert (np.abs(snr[:, 1] / snr[:, 0] - 1).max(axis=1) > 5e-2).all()
    assert HALF_DB - 1 > 5e-2


def test_umi_devices_at_rest_see_a_constant_channel():
    channel = make_channel(CellConfig(speed_m_per_s=0.0), GRID, 4, 10, 0.02, Streams(5))
    np.testing.assert_allclose(channel.sinr(0), channel.sinr(9), rtol=1e-4)


def fixed_snr(num_devices: int, num_steps: int = 10, **settings: float | str) -> np.ndarray:
    """SNR on the middle resource block, [steps, K]."""
    kind = BlockFadingConfig if settings["model"] in ("awgn", "rayleigh", "rician") else DelayProfileConfig
    channel = make_channel(kind.model_validate(settings), GRID, num_devices, num_steps, 0.02, Streams(3))
    return np.stack([channel.sinr(step)[:, 25] for step in range(num_steps)])


def test_awgn_has_the_snr_that_was_asked_for():
    snr_db = 10 * np.log10(fixed_snr(5, model="awgn", snr_db=7.0))
    np.testing.assert_allclose(snr_db, 7.0, atol=1e-4)


@pytest.mark.parametrize("k_db", [-40.0, 3.0])
def test_rician_power_follows_its_distribution(k_db):
    # 2 (K + 1) |h|^2 is noncentral chi-square with 2 degrees of freedom and noncentrality 2 K.
    k = 10 ** (k_db / 10)
    power = fixed_snr(2000, num_steps=5, model="rician", snr_db=0.0, rician_k_db=k_db).ravel()
    expected = stats.ncx2(2, 2 * k).cdf
    assert stats.kstest(2 * (k + 1) * power, expected).pvalue > REJECTED
    assert stats.kstest(2 * (k + 1) * power * HALF_DB, expected).pvalue < REJECTED


@pytest.mark.parametrize("model", ["rayleigh", "tdl-a", "tdl-c"])
def test_without_line_of_sight_the_power_is_exponential(model):
    power = fixed_snr(10_000, num_steps=1, model=model, snr_db=0.0).ravel()
    assert stats.kstest(power, theory.rayleigh_power_cdf).pvalue > REJECTED
    assert stats.kstest(power * HALF_DB, theory.rayleigh_power_cdf).pvalue < REJECTED


@pytest.mark.parametrize("model", ["tdl-a", "tdl-d", "cdl-a", "cdl-d"])
def test_the_mean_snr_is_the_one_that_was_asked_for(model):
    snr = fixed_snr(10_000, num_steps=1, model=model, snr_db=5.0).ravel() / 10**0.5
    tolerance = 4.5 * snr.std() / np.sqrt(snr.size)
    assert abs(snr.mean() - 1) < tolerance
    assert abs(snr.mean() * HALF_DB - 1) > tolerance


def test_the_taps_of_a_tdl_age_by_j0_of_the_doppler_shift():
    # 10 m/s at 3.5 GHz: 116.7 Hz; offsets up to a zero of J0 and beyond.
    num_devices, speed, carrier_hz = 20_000, 10.0, 3.5e9
    config = DelayProfileConfig(model="tdl-a", speed_m_per_s=speed, carrier_hz=carrier_hz, delay_spread_s=0)
    channel = make_channel(config, GRID, num_devices, 10, 0.02, Streams(3))
    offset_s = np.array([0.0, 1e-3, 2e-3, 3.3e-3, 5e-3])
    h = channel.response(1, np.arange(num_devices), np.zeros((num_devices, 1)), offset_s)[:, 0, :, 0]
    measured = (h * h[:, :1].conj()).mean(axis=0).real / (np.abs(h[:, 0]) ** 2).mean()
    doppler_hz = speed * carrier_hz / 299_792_458
    expected = theory.jakes_autocorrelation(doppler_hz, offset_s)
    tolerance = 4.5 / np.sqrt(num_devices)
    assert np.abs(measured - expected).max() < tolerance
    # The power check: half a dB of Doppler is seen.
    wrong = theory.jakes_autocorrelation(doppler_hz * HALF_DB, offset_s)
    assert np.abs(measured - wrong).max() > tolerance


def test_the_delay_spread_sets_the_correlation_over_frequency():
    # TDL-A's profile, normalised to a delay spread of one (TR 38.901, table 7.7.2-1), gives
    # R(f) = sum_p P_p exp(-j 2 pi f tau_p): the model's own powers and delays, half a dB apart.
    num_devices, spread_s = 60_000, 100e-9
    config = DelayProfileConfig(model="tdl-a", delay_spread_s=spread_s, speed_m_per_s=0)
    channel = make_channel(config, GRID, num_devices, 10, 0.02, Streams(3))
    assert isinstance(channel, MultipathChannel)
    frequency_hz = np.array([0.0, 0.3e6, 1e6, 3e6])
    h = channel.response(0, np.arange(num_devices), np.tile(frequency_hz, (num_devices, 1)), np.zeros(1))[
        :, 0, 0
    ]
    measured = (h * h[:, :1].conj()).mean(axis=0) / (np.abs(h[:, 0]) ** 2).mean()
    model = channel._source._model  # type: ignore[attr-defined]
    powers, delays_s = model.mean_powers.numpy(), model.delays.numpy()
    spread = np.sqrt((powers * delays_s**2).sum() - (powers * delays_s).sum() ** 2)
    assert spread == pytest.approx(spread_s, rel=2e-2)

    def expected(stretch: float) -> np.ndarray:
        return (powers * np.exp(-2j * np.pi * frequency_hz[:, None] * delays_s * stretch)).sum(axis=1)

    tolerance = 4.5 * np.sqrt(2 / num_devices)
    assert np.abs(measured - expected(1)).max() < tolerance
    assert np.abs(measured - expected(HALF_DB)).max() > tolerance


@pytest.mark.parametrize(("model", "station_m"), [("uma", 25.0), ("rma", 35.0)])
def test_the_outdoor_cells_lose_what_their_line_of_sight_formula_says(model, station_m):
    # Below the breakpoint: UMa 28 + 22 log d + 20 log f; RMa of table 7.4.1-1 with h = 5 m.
    config = CellConfig(
        model=model,
        min_distance_m=80,
        max_distance_m=80.01,
        tx_power_dbm=0,
        noise_figure_db=0,
        device_height_m=1.5,
    )
    source = SystemLevelSource(config, 400, Streams(3))
    scenario = source._model._scenario
    distance_m = np.hypot(80.0, station_m - 1.5)
    if model == "uma":
        expected = 28 + 22 * np.log10(distance_m) + 20 * np.log10(3.5)
    else:
        h = 5.0
        expected = (
            20 * np.log10(40 * np.pi * distance_m * 3.5 / 3)
            + min(0.03 * h**1.72, 10) * np.log10(distance_m)
            - min(0.044 * h**1.72, 14.77)
            + 0.002 * np.log10(h) * distance_m
        )
    in_sight = scenario.los[0, 0].numpy()
    loss_db = scenario.basic_pathloss[0, 0].numpy()[in_sight]
    assert in_sight.sum() > 100
    np.testing.assert_allclose(loss_db, expected, atol=0.02)


@pytest.mark.parametrize(("model", "speed"), [("tdl-a", 20.0), ("cdl-d", 20.0)])
def test_gains_between_the_sampled_instants_are_right(model, speed):
    # 233 Hz turn by 0.7 rad in a slot: cubic in between, against each instant by itself.
    config = DelayProfileConfig(model=model, speed_m_per_s=speed, snr_db=0.0)
    channel = make_channel(config, GRID, 50, 10, 0.02, Streams(3))
    devices, frequency_hz = np.arange(50), np.tile([-2e6, 3e6], (50, 1))
    time_s = np.arange(14) * 0.5e-3 / 14
    together = channel.response(3, devices, frequency_hz, time_s)
    alone = np.concatenate(
        [channel.response(3, devices, frequency_hz, time_s[i : i + 1]) for i in range(14)], axis=2
    )
    assert np.abs(together - alone).max() < 1e-3 * np.abs(alone).max()
    assert np.abs(alone[:, :, :1] - alone).max() > 0.1
