"""Near-field channels against plain sums in double precision, plane waves, and their distributions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.near_field import (
    NearFieldChannels,
    NearFieldConfig,
    draw_channels,
    draw_users_m,
    element_positions_m,
    response,
    unit_vectors,
)
from semcom.rng import Streams

ONE_PATH = {"min_paths": 1, "max_paths": 1}


def draw(num: int, **settings: object) -> tuple[NearFieldConfig, NearFieldChannels]:
    config = NearFieldConfig.model_validate(settings)
    return config, draw_channels(config, num, Streams(0).torch_generator("channels"))


def error_db(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10((np.abs(found - expected) ** 2).sum() / (np.abs(expected) ** 2).sum()))


def plain_channels(config: NearFieldConfig, drawn: NearFieldChannels) -> np.ndarray:
    """Sums exp(-j 2 pi (f_c + f) way / c) over the ways that waves go, without the library's tricks."""
    element_m = element_positions_m(config).numpy()
    source_m = (drawn.distance_m[..., None] * unit_vectors(drawn.angle_rad, drawn.elevation_rad)).numpy()
    user_m = source_m[:, :, :1]
    way_m = np.linalg.norm(source_m[..., None, :] - element_m, axis=-1)
    amplitude = np.linalg.norm(source_m, axis=-1)[..., None] / way_m if config.spreading else np.ones(())
    way_m = way_m + np.linalg.norm(source_m - user_m, axis=-1)[..., None]  # [N, T, P, M]
    begin_m = drawn.length_m[:, :1].numpy()
    from_m = begin_m[..., :1] if config.synchronised else np.zeros(())
    h = []
    for offset_hz in config.offsets_hz().tolist():
        cycles = way_m * (config.carrier_hz + offset_hz) - begin_m[..., None] * config.carrier_hz
        cycles = (cycles - from_m[..., None] * offset_hz) / SPEED_OF_LIGHT_M_PER_S
        gain = drawn.gain.numpy().astype(np.complex128)[:, None, :, None]
        h.append((gain * amplitude * np.exp(-2j * np.pi * cycles)).sum(axis=2))
    return np.stack(h, axis=2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_rows": 8, "num_elements": 128, "spreading": True},
        {"num_subcarriers": 5, "num_snapshots": 3, "num_elements": 64},
        {"num_subcarriers": 3, "synchronised": False, "num_elements": 64, "far_share": 0.5},
        {"num_snapshots": 4, "interval_s": 0.01, "num_rows": 4, "num_elements": 64, "min_paths": 1},
    ],
)
def test_channels_are_sums_of_waves_over_exact_ways(settings):
    config, drawn = draw(40, **settings)
    expected = plain_channels(config, drawn)
    assert drawn.h.shape == expected.shape
    assert drawn.h.dtype == torch.complex64
    assert error_db(drawn.h.numpy(), expected) < -110
    # A hundredth of a wavelength would be seen.
    assert error_db(expected * np.exp(2j * np.pi * 0.01), expected) > -30


def test_the_response_is_that_of_one_path():
    config, drawn = draw(30, num_rows=4, num_elements=64, **ONE_PATH)
    place = (part[:, 0, 0] for part in (drawn.distance_m, drawn.angle_rad, drawn.elevation_rad))
    expected = (drawn.gain * response(config, *place)).numpy()
    assert error_db(drawn.h[:, 0, 0].numpy(), expected) < -110


def test_the_response_of_a_far_point_has_no_rounding():
    # Differences of ways of 100 km, which float64 knows to 1e-11 m, as 50 decimals have them.
    import decimal

    config = NearFieldConfig(num_elements=64)
    found = response(config, torch.tensor(1e5, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    with decimal.localcontext(prec=50):
        sine, exact = decimal.Decimal(math.sin(0.5)), decimal.Decimal("1e5")
        cosine = (1 - sine * sine).sqrt()
        nearer_m = [
            float((((exact * sine - decimal.Decimal(y)) ** 2 + (exact * cosine) ** 2).sqrt()) - exact)
            for y in element_positions_m(config)[:, 1].tolist()
        ]
    expected = np.exp(-2j * np.pi * np.array(nearer_m) / config.wavelength_m())
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("num_elements", [64, 256])
def test_beyond_the_rayleigh_distance_waves_are_plane(num_elements):
    config = NearFieldConfig(num_elements=num_elements)
    angle = torch.tensor([0.0, 0.4, -0.9], dtype=torch.float64)
    plane = response(config, torch.tensor(torch.inf), angle).numpy()
    towards = torch.sin(angle)[:, None] * element_positions_m(config)[:, 1]
    np.testing.assert_allclose(plane, torch.exp(2j * math.pi * towards / config.wavelength_m()), atol=1e-5)
    ends = []
    for times in (10.0, 0.1):
        distance_m = torch.tensor(times * config.rayleigh_distance_m(), dtype=torch.float64)
        ends.append(error_db(response(config, distance_m, angle).numpy(), plane))
    assert ends[0] < -35
    assert ends[1] > -5  # the power check: within it plane waves are wrong


def test_at_the_rayleigh_distance_the_edge_is_a_sixteenth_of_a_wavelength_late():
    # phase = pi/8 (2 d/D)^2, whose mean square is (pi/8)^2/5 up to the sampling of the aperture.
    config = NearFieldConfig(num_elements=2048)
    for times in (1.0, 4.0):
        distance_m = torch.tensor(times * config.rayleigh_distance_m(), dtype=torch.float64)
        late = -response(config, distance_m, torch.tensor(0.0)).numpy()
        assert np.angle(late[0] / late[1024]) == pytest.approx(-math.pi / 8 / times, rel=1e-3)
        expected_db = 10 * math.log10((math.pi / 8 / times) ** 2 / 5)
        assert error_db(-late, np.ones_like(late)) == pytest.approx(expected_db, abs=0.1)


def test_gains_have_unit_power_and_gaps_in_db_that_are_uniform():
    config, drawn = draw(6000, num_elements=16)
    power = drawn.gain.abs().square()
    np.testing.assert_allclose(power.sum(dim=1), 1, atol=1e-5)
    count = (power > 0).sum(dim=1).numpy()
    for number in range(config.min_paths, config.max_paths + 1):
        share = (count == number).mean()
        assert abs(share - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / 6000)
    gap_db = -10 * torch.log10(power[:, 1:3] / power[:, :1]).flatten().numpy()
    assert stats.kstest(gap_db, stats.uniform(7, 13).cdf).pvalue > 1e-4
    assert stats.kstest(gap_db, stats.uniform(7.5, 13).cdf).pvalue < 1e-4  # the power check
    phase = drawn.gain[:, :3].angle().flatten().numpy()
    assert stats.kstest(phase, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-4


def test_places_are_uniform_in_distance_and_angle_and_far_scatterers_beyond_the_rayleigh_distance():
    config, drawn = draw(4000, num_elements=64, num_rows=8, far_share=0.3, min_paths=3, max_paths=3)
    distance_m = drawn.distance_m[:, 0].numpy()
    assert stats.kstest(distance_m[:, 0], stats.uniform(5, 55).cdf).pvalue > 1e-4
    for part, most_deg in ((drawn.angle_rad, 60), (drawn.elevation_rad, 20)):
        degrees = np.degrees(part[:, 0].numpy().ravel())
        assert stats.kstest(degrees, stats.uniform(-most_deg, 2 * most_deg).cdf).pvalue > 1e-4
    config, drawn = draw(4000, num_elements=256, far_share=0.3, min_paths=3, max_paths=3)
    is_far = drawn.distance_m[:, 0].numpy() >= config.rayleigh_distance_m()
    assert not is_far[:, 0].any()
    assert abs(is_far[:, 1:].mean() - 0.3) < 4.5 * math.sqrt(0.3 * 0.7 / 8000)


def test_the_mean_power_of_a_channel_is_one():
    _, drawn = draw(4000, num_elements=64)
    power = drawn.h.abs().square().mean(dim=(1, 2, 3)).numpy()
    sigma = power.std() / math.sqrt(4000)
    assert abs(power.mean() - 1) < 4.5 * sigma
    assert abs(power.mean() - 10**0.05) > 4.5 * sigma  # half a dB would be seen


def test_users_keep_their_velocity_and_scatterers_stay():
    _, drawn = draw(2000, num_elements=4, num_snapshots=5, interval_s=0.01)
    user_m, time_s = drawn.user_m(), torch.arange(5)[:, None] * 0.01
    torch.testing.assert_close(user_m, user_m[:, :1] + time_s * drawn.velocity_m_s[:, None])
    assert bool((drawn.distance_m[:, 1:, 1:] == drawn.distance_m[:, :1, 1:]).all())
    speed = drawn.velocity_m_s.norm(dim=-1).numpy()
    assert stats.kstest(speed, stats.uniform(1, 9).cdf).pvalue > 1e-4
    heading = torch.atan2(drawn.velocity_m_s[:, 1], drawn.velocity_m_s[:, 0]).numpy()
    assert stats.kstest(heading, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-4


def test_the_direct_path_turns_by_its_doppler_shift():
    config, drawn = draw(200, num_elements=16, num_snapshots=2, **ONE_PATH)
    user_m = drawn.user_m()[:, 0]
    towards = user_m[:, None] - element_positions_m(config)
    radial_m_s = (towards * drawn.velocity_m_s[:, None]).sum(dim=-1) / towards.norm(dim=-1)
    turned = (drawn.h[:, 1, 0] / drawn.h[:, 0, 0]).angle()
    expected = -2 * math.pi * radial_m_s * config.interval_s / config.wavelength_m()
    assert float(expected.abs().max()) > 0.5
    np.testing.assert_allclose(turned, expected, atol=1e-3)


def test_a_synchronised_direct_path_is_flat_and_an_absolute_one_has_its_delay():
    settings = {"num_elements": 3, "num_subcarriers": 8, "spacing_wavelengths": 0.5, **ONE_PATH}
    config, drawn = draw(50, **settings)
    step_hz = config.bandwidth_hz / 8
    middle = drawn.h[:, 0, :, 1]  # the element at the centre
    assert float((middle[:, 1:] / middle[:, :-1]).angle().abs().max()) < 1e-5
    config, drawn = draw(50, synchronised=False, **settings)
    middle = drawn.h[:, 0, :, 1]
    expected = torch.exp(-2j * math.pi * step_hz * drawn.distance_m[:, 0] / SPEED_OF_LIGHT_M_PER_S)
    np.testing.assert_allclose(middle[:, 1:] / middle[:, :-1], expected.expand(-1, 7), atol=1e-5)


def test_with_spreading_the_nearer_end_is_stronger():
    config, drawn = draw(50, spreading=True, min_distance_m=5, max_distance_m=6, **ONE_PATH)
    towards = drawn.user_m() - element_positions_m(config)
    expected = drawn.distance_m[:, 0] / towards.norm(dim=-1)
    np.testing.assert_allclose(drawn.h[:, 0, 0].abs(), expected, rtol=1e-5)
    assert float((expected - 1).abs().max()) > 0.1


def test_users_are_drawn_as_channels_have_them():
    config = NearFieldConfig(num_rows=16)
    user_m = draw_users_m(config, 4000, Streams(0).torch_generator("users")).numpy()
    distance_m = np.linalg.norm(user_m, axis=1)
    assert stats.kstest(distance_m, stats.uniform(5, 55).cdf).pvalue > 1e-4
    angle_deg = np.degrees(np.arctan2(user_m[:, 1], user_m[:, 0]))
    assert stats.kstest(angle_deg, stats.uniform(-60, 120).cdf).pvalue > 1e-4
