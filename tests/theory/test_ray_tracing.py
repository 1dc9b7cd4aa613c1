"""Ray-traced channels against free space, the two-ray ground reflection, and tracing at every place."""

import numpy as np
import pytest

from analysis import theory
from channels.catalogue import make_channel
from channels.grid import GridConfig, ResourceGrid
from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.ray_tracer import RayTracer, Scene, load_scene
from channels.response import frequency_response
from channels.scenes import SCENES, RayTracedConfig, RayTracedSource
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())
CARRIER_HZ = 3.5e9
WAVELENGTH_M = SPEED_OF_LIGHT_M_PER_S / CARRIER_HZ
STATION_M = np.array([-20.0, 5.0, 10.0])
HALF_DB = 10**0.025  # of an amplitude
CHEAP = {"num_rays": 2000, "max_depth": 1, "diffraction": False}


def source(num_devices: int = 12, **settings: float | bool) -> RayTracedSource:
    config = RayTracedConfig.model_validate({"model": "street-canyon", **CHEAP, **settings})
    return RayTracedSource(config, num_devices, Streams(3))


@pytest.fixture(scope="module")
def floor() -> Scene:
    """The street canyon without its houses: a concrete floor."""
    load_scene("simple_street_canyon", "floor")  # which also sets Mitsuba up
    import sionna.rt as rt

    scene = rt.load_scene(rt.scene.simple_street_canyon, merge_shapes=False)
    scene.remove([name for name in scene.objects if name != "floor"])
    return Scene(scene, "floor")


def places(num_places: int, height_m: float = 1.5) -> np.ndarray:
    rng = np.random.default_rng(0)
    ground_m = rng.uniform([-60, -40], [60, 40], (num_places, 2))
    return np.column_stack([ground_m, np.full(num_places, height_m)])


def tracer(scene: Scene, max_depth: int, num_antennas: int = 1) -> RayTracer:
    return RayTracer(
        scene, STATION_M, CARRIER_HZ, num_antennas, max_depth=max_depth, reflection=True,
        diffraction=False, refraction=False, num_rays=1000,
    )  # fmt: skip


def test_in_free_space_the_gain_is_that_of_friis_and_the_delay_that_of_the_distance(floor):
    place_m = places(20)
    paths = tracer(floor, max_depth=0).trace(place_m)
    length_m = np.linalg.norm(paths.source_m - place_m[:, None], axis=-1)
    distance_m = np.linalg.norm(place_m - STATION_M, axis=1)
    expected = theory.free_space_gain(distance_m, CARRIER_HZ)
    assert paths.gain.shape == (20, 1, 1)
    np.testing.assert_allclose(length_m[:, 0], distance_m, atol=1e-4)
    np.testing.assert_allclose(paths.source_m[:, 0], np.broadcast_to(STATION_M, (20, 3)), atol=1e-3)
    np.testing.assert_allclose(np.abs(paths.gain[:, 0, 0]), expected, rtol=1e-4)
    assert (np.abs(paths.gain[:, 0, 0]) / expected < HALF_DB).all()  # what rtol would tell apart


def test_over_a_floor_two_rays_interfere_as_the_closed_form_says(floor):
    # Concrete of ITU-R P.2040: eta = 5.24, sigma = 0.0462 f^0.7822 S/m, here 0.1 m thick.
    place_m = places(40)
    paths = tracer(floor, max_depth=1).trace(place_m)
    length_m = np.linalg.norm(paths.source_m - place_m[:, None], axis=-1)
    level_m = float(floor.rt.mi_scene.bbox().min[2])
    below_m = STATION_M * [1, 1, -1] + [0, 0, 2 * level_m]
    direct_m, bounced_m = (np.linalg.norm(place_m - origin, axis=1) for origin in (STATION_M, below_m))
    sigma = 0.0462 * (CARRIER_HZ / 1e9) ** 0.7822
    eta = 5.24 - 1j * sigma / (2 * np.pi * CARRIER_HZ * 8.8541878128e-12)
    cos = (STATION_M[2] + place_m[:, 2] - 2 * level_m) / bounced_m
    reflection = theory.slab_reflection(cos, eta, 0.1, CARRIER_HZ)
    wave = 2j * np.pi / WAVELENGTH_M

    def closed_form(bounce: np.ndarray) -> np.ndarray:
        return theory.free_space_gain(direct_m, CARRIER_HZ) * np.exp(-wave * direct_m) + bounce * (
            theory.free_space_gain(bounced_m, CARRIER_HZ) * np.exp(-wave * bounced_m)
        )

    turned = paths.gain[:, 0] * np.exp(-wave * length_m)
    error = np.abs(turned.sum(axis=1) - closed_form(reflection)) / np.abs(turned).max(axis=1)
    assert length_m.shape == (40, 2)
    assert error.max() < 5e-3
    # The power check: half a dB of reflection is seen, and so is its sign.
    off = np.abs(turned.sum(axis=1) - closed_form(reflection * HALF_DB)) / np.abs(turned).max(axis=1)
    assert np.median(off) > 5e-3


def test_the_antennas_of_the_station_see_a_plane_wave(floor):
    place_m = places(20)
    gain = tracer(floor, max_depth=0, num_antennas=4).trace(place_m).gain[:, :, 0]
    towards = (place_m - STATION_M) / np.linalg.norm(place_m - STATION_M, axis=1, keepdims=True)
    step = np.exp(1j * np.pi * towards[:, 1])  # half a wavelength along y
    np.testing.assert_allclose(gain[:, 1:] / gain[:, :-1], np.repeat(step[:, None], 3, axis=1), atol=1e-3)


def test_along_a_walk_in_sight_phase_and_delay_follow_the_distance():
    """Half a wavelength of way is half a turn, whatever the place between two traces."""
    walk = source(16, max_depth=0, speed_m_per_s=2.0)
    scene = load_scene(SCENES["street-canyon"].name, SCENES["street-canyon"].ground)
    station_m = RayTracedConfig(model="street-canyon").station_m()
    frequency_hz = np.array([-8e6, 0.0, 8e6])
    num_compared = 0
    for time_s in (0.0, 0.01, 0.1234, 0.49, 0.51, 3.3):
        traced_s = np.array([np.floor(time_s / 0.25), np.ceil(time_s / 0.25)]) * 0.25  # 0.5 m at 2 m/s
        around_m = [walk.positions_m(at_s) for at_s in traced_s]
        in_sight = np.all([scene.sees(at_m, np.broadcast_to(station_m, at_m.shape)) for at_m in around_m], 0)
        h = frequency_response(*walk.paths(time_s), frequency_hz)[in_sight, 0]
        distance_m = np.linalg.norm(walk.positions_m(time_s)[in_sight] - station_m, axis=1)[:, None]
        wave = 2j * np.pi * (CARRIER_HZ + frequency_hz) / SPEED_OF_LIGHT_M_PER_S
        expected = theory.free_space_gain(distance_m, CARRIER_HZ) * np.exp(-wave * distance_m)
        # A tenth of a millimetre of way, or 0.05 dB, would be seen.
        assert (np.abs(h - expected) < 5e-3 * np.abs(expected)).all()
        num_compared += int(in_sight.sum())
    assert num_compared > 12


def test_between_traces_the_channel_is_what_tracing_there_gives():
    apart_m, times_s = 0.5, [0.13, 0.74, 1.26, 1.9]
    settings = {"max_depth": 2, "speed_m_per_s": 1.0, "num_rays": 10_000}
    coarse = source(**settings, retrace_distance_m=apart_m)

    def response(walk: RayTracedSource, time_s: float) -> np.ndarray:
        return frequency_response(*walk.paths(time_s), np.array([0.0, 6e6]))[:, 0]

    def mismatch_db(h: np.ndarray, exact: np.ndarray) -> np.ndarray:
        reached = np.abs(exact).sum(axis=(0, 2)) > 0
        error = (np.abs(h - exact) ** 2).mean(axis=(0, 2)) / (np.abs(exact) ** 2).mean(axis=(0, 2)).clip(
            1e-30
        )
        return 10 * np.log10(error[reached] + 1e-12)

    # At 1 m/s that retrace distance ends just where the walker is: traced, not followed.
    exact = np.stack([response(source(**settings, retrace_distance_m=t), t) for t in times_s])
    followed = mismatch_db(np.stack([response(coarse, time_s) for time_s in times_s]), exact)
    frozen = mismatch_db(
        np.stack([response(coarse, apart_m * round(time_s / apart_m)) for time_s in times_s]), exact
    )
    # Most see the same paths in between; for a few one begins or ends there.
    assert np.median(followed) < -40
    assert np.median(frozen) > -10


def test_the_channel_of_a_walker_does_not_jump():
    """Across a traced place, where paths begin and end, a millimetre changes as little as anywhere else."""
    walk = source(24, max_depth=2, speed_m_per_s=1.0)

    def response(time_s: float) -> np.ndarray:
        return frequency_response(*walk.paths(time_s), np.zeros(1))[:, 0, 0]

    scale = np.abs(response(0.5))
    reached = scale > 0
    way_m = 1e-5
    turn = 2 * np.pi * way_m / WAVELENGTH_M
    for time_s in (0.25, 0.5, 1.0):
        change = np.abs(response(time_s + way_m) - response(time_s - way_m))
        largest = np.abs(walk.paths(time_s)[0]).sum(axis=(1, 2))
        assert (change[reached] <= 3 * turn * largest[reached]).all()


def test_who_has_no_path_has_no_sinr_and_hears_nothing():
    channel = make_channel(
        RayTracedConfig(model="street-canyon", **{**CHEAP, "max_depth": 0}), GRID, 16, 10, 0.02, Streams(3)
    )
    sinr = channel.sinr(0)
    dark = sinr[:, 0] == 0
    assert 0 < dark.sum() < 16
    assert (sinr[dark] == 0).all()
    assert (sinr[~dark] > 0).all()


def test_sinr_is_power_over_noise_times_gain():
    station_m = RayTracedConfig(model="street-canyon").station_m()
    settings = {**CHEAP, "max_depth": 0, "tx_power_dbm": 10.0, "noise_figure_db": 7.0}
    config = RayTracedConfig(model="street-canyon", num_base_station_antennas=4, **settings)
    sinr = make_channel(config, GRID, 16, 10, 0.02, Streams(3)).sinr(0)
    distance_m = np.linalg.norm(source(16).positions_m(0.0) - station_m, axis=1)
    # -173.975 dBm/Hz + 72.638 dB Hz + 7 dB of noise; four antennas of equal power.
    snr_db = 10 + 20 * np.log10(theory.free_space_gain(distance_m, CARRIER_HZ)) + 94.337 + 6.021
    reached = sinr[:, 0] > 0
    np.testing.assert_allclose(10 * np.log10(sinr[reached, 0]), snr_db[reached], atol=0.01)
