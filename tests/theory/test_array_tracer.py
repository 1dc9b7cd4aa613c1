"""Channels of planar arrays against free space, plane waves, and Sionna's own frequency responses."""

from typing import Any

import numpy as np
import pytest

from analysis import theory
from channels import array_tracer
from channels.array_tracer import ArrayTracer, sorted_paths, sum_paths
from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.ray_tracer import load_scene
from channels.response import resource_block_centres_hz

CARRIER_HZ, BANDWIDTH_HZ, NUM_SUBCARRIERS = 3.5e9, 50e6, 10
ARRAY_M = np.array([[-25.0, 0.0, 10.0], [25.0, 0.0, 10.0]])
FACING_M = np.array([5.0, 3.0, 2.0])
OFFSET_HZ = resource_block_centres_hz(NUM_SUBCARRIERS, BANDWIDTH_HZ)


def tracer(**settings: Any) -> ArrayTracer:
    told = {
        "num_rows": 2, "num_columns": 3, "polarisation": "V", "pattern": "iso", "max_depth": 2,
        "reflection": True, "diffraction": True, "refraction": False, "num_rays": 2000,
    }  # fmt: skip
    scene = load_scene("simple_street_canyon", "floor")
    return ArrayTracer(scene, ARRAY_M, FACING_M, CARRIER_HZ, **{**told, **settings})


def places(num_places: int) -> np.ndarray:
    """In the street between the arrays, in sight of both."""
    rng = np.random.default_rng(0)
    return np.column_stack([rng.uniform([-15, -5], [15, 5], (num_places, 2)), np.full(num_places, 1.5)])


def csi(place_m: np.ndarray, **settings: Any) -> np.ndarray:
    return tracer(**settings).csi(place_m, NUM_SUBCARRIERS, BANDWIDTH_HZ)


def test_in_sight_a_channel_is_that_of_friis_at_every_subcarrier():
    # An array that faces a place of its own height isn't tilted, and its antenna radiates evenly.
    scene = load_scene("simple_street_canyon", "floor")
    settings = {"reflection": False, "diffraction": False, "refraction": False, "num_rays": 1000}
    level = ArrayTracer(
        scene, ARRAY_M, np.array([0.0, 0.0, 10.0]), CARRIER_HZ,
        num_rows=1, num_columns=1, polarisation="V", pattern="iso", max_depth=0, **settings,
    )  # fmt: skip
    place_m = places(10)
    found = level.csi(place_m, NUM_SUBCARRIERS, BANDWIDTH_HZ)
    distance_m = np.linalg.norm(place_m[:, None] - ARRAY_M, axis=-1)[..., None]
    turns = (CARRIER_HZ + OFFSET_HZ) * distance_m / SPEED_OF_LIGHT_M_PER_S
    expected = theory.free_space_gain(distance_m, CARRIER_HZ) * np.exp(-2j * np.pi * turns)
    assert found.shape == (10, 2, 1, 1, NUM_SUBCARRIERS)
    assert found.dtype == np.complex64
    # A tenth of a millimetre of way is 7e-3; delays are known to a hundredth of one.
    np.testing.assert_allclose(found[:, :, 0, 0], expected, atol=3e-3 * np.abs(expected).min())
    shifted = np.exp(-2j * np.pi * BANDWIDTH_HZ / NUM_SUBCARRIERS / 2 * distance_m / SPEED_OF_LIGHT_M_PER_S)
    assert (np.abs(shifted - 1) > 0.1).all()  # half a subcarrier would be seen


@pytest.mark.parametrize("polarisation", ["V", "cross"])
def test_rows_and_columns_see_a_plane_wave(polarisation):
    place_m = places(12)
    num = 2 if polarisation == "cross" else 1
    found = csi(place_m, max_depth=0, polarisation=polarisation)
    assert found.shape == (12, 2, 2, 3 * num, NUM_SUBCARRIERS)
    for array, array_m in enumerate(ARRAY_M):
        normal = (FACING_M - array_m) / np.linalg.norm(FACING_M - array_m)
        along = np.cross([0.0, 0.0, 1.0], normal)
        along /= np.linalg.norm(along)
        up = np.cross(normal, along)
        towards = (place_m - array_m) / np.linalg.norm(place_m - array_m, axis=1, keepdims=True)
        # Half a wavelength nearer is half a turn less delay.
        by_column = np.exp(1j * np.pi * towards @ along)
        by_row = np.exp(-1j * np.pi * towards @ up)
        h = found[:, array].reshape(12, 2, 3, num, NUM_SUBCARRIERS)
        for ratio, expected in ((h[:, :, 1:] / h[:, :, :-1], by_column), (h[:, 1:] / h[:, :-1], by_row)):
            assert np.abs(ratio - expected[:, None, None, None, None]).max() < 2e-3
        for expected in (by_column, by_row):  # the other way round would be seen
            assert np.abs(expected - 1 / expected).max() > 0.5
    if polarisation == "cross":
        # Antennas at -45 and +45 degrees share a vertical user's power, up to the array's tilt.
        power = (np.abs(found.reshape(12, 2, 2, 3, 2, NUM_SUBCARRIERS)) ** 2).sum(axis=(2, 3, 5))
        vertical = (np.abs(csi(place_m, max_depth=0)) ** 2).sum(axis=(2, 3, 4))
        assert (np.abs(power.sum(axis=-1) / vertical - 1) < 0.3).all()
        assert (power.min(axis=-1) > 0.1 * vertical).all()


def test_the_pattern_of_3gpp_looks_ahead():
    # TR 38.901: 8 dBi ahead, 3 dB less 32.5 degrees off.
    place_m = np.array([FACING_M])
    gain = np.abs(csi(place_m, max_depth=0, pattern="tr38901")) / np.abs(csi(place_m, max_depth=0))
    np.testing.assert_allclose(20 * np.log10(gain), 8.0, atol=0.1)


def test_the_sum_over_paths_is_sionna_s_own():
    import mitsuba as mi

    place_m = places(8)
    traced = tracer(num_rays=5000)
    traced._set_up(8)
    paths = traced._solve(place_m)
    gain, delay_s = sorted_paths(paths)
    found = sum_paths(gain, delay_s, CARRIER_HZ, NUM_SUBCARRIERS, BANDWIDTH_HZ)
    direct = np.einsum(
        "krmp,krpf->krmf", gain.astype(np.complex128),
        np.exp(-2j * np.pi * delay_s[..., None] * (CARRIER_HZ + OFFSET_HZ)),
    )  # fmt: skip
    frequencies = mi.Float(OFFSET_HZ.astype(np.float32))
    sionna = paths.cfr(frequencies=frequencies, normalize_delays=False, out_type="numpy")[:, 0, :, :, 0]

    def error(one: np.ndarray, other: np.ndarray) -> float:
        return float((np.linalg.norm(one - other, axis=(2, 3)) / np.linalg.norm(other, axis=(2, 3))).max())

    assert gain.shape[3] > 5
    assert error(found, direct) < 2e-6
    # Sionna turns phases in float32: those of the carrier, 2 pi f_c tau, are off by some 2^-24 of themselves.
    rounding = 2 * np.pi * CARRIER_HZ * delay_s.max() * 2.0**-24
    assert error(found, sionna) < 2 * rounding < 2e-3


def test_the_number_of_subcarriers_may_be_any():
    rng = np.random.default_rng(0)
    gain = (rng.standard_normal((3, 2, 4, 70)) + 1j * rng.standard_normal((3, 2, 4, 70))).astype(np.complex64)
    delay_s = rng.uniform(0, 1e-6, (3, 2, 70))
    for number in (1, 2, 7, 64):
        offset_hz = resource_block_centres_hz(number, BANDWIDTH_HZ)
        phasor = np.exp(-2j * np.pi * delay_s[..., None] * (CARRIER_HZ + offset_hz))
        expected = gain.astype(np.complex128) @ phasor
        found = sum_paths(gain, delay_s, CARRIER_HZ, number, BANDWIDTH_HZ)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("slots", [None, 256])
def test_a_place_s_channel_has_the_same_bits_in_any_company(slots, monkeypatch):
    """Even where the table is so small that most paths are lost."""
    whole = csi(places(12))
    if slots:
        monkeypatch.setattr(array_tracer, "_SLOTS_PER_PLACE", slots)
    place_m = places(12)
    together = csi(place_m)
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_array_equal(csi(place_m[order]), together[order])
    np.testing.assert_array_equal(csi(place_m[5:8]), together[5:8])
    assert (together != whole).any() == bool(slots)
