"""Near-field channels against Sionna RT, which traces to each element by itself (synthetic_array=False)."""

from typing import Any

import numpy as np
import pytest
import torch

from analysis import theory
from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.near_field import NearFieldConfig, element_positions_m
from channels.ray_tracer import sionna_rt
from channels.spherical_waves import Waves, sum_waves

USER_M = np.array([4.0, 3.0, 0.5])
# Where a wide mirror stands, how it is turned, and the sign of what it gives back of a vertical field.
MIRRORS = {
    "floor": ((5.0, 0.0, -1.0), (0.0, 0.0, 0.0), 1.0),
    "wall": ((5.0, -3.0, 0.0), (0.0, 0.0, np.pi / 2), -1.0),
}


@pytest.fixture(scope="module")
def rt() -> Any:
    return sionna_rt()


def traced(rt: Any, config: NearFieldConfig, mirror: str | None) -> np.ndarray:
    """Sionna RT's channel [F, M] from the user to an array at the origin, elements in our order."""
    import mitsuba as mi

    scene = rt.load_scene(rt.scene.simple_reflector, merge_shapes=False)
    reflector = scene.objects["reflector"]
    if mirror is None:
        scene.remove("reflector")
    else:
        place_m, turned, _ = MIRRORS[mirror]
        # All but a perfect conductor.
        reflector.radio_material = rt.RadioMaterial(
            f"mirror-{mirror}", thickness=0.1, relative_permittivity=1.0, conductivity=1e12
        )
        reflector.scaling = mi.Vector3f(100.0, 100.0, 1.0)
        reflector.orientation = mi.Point3f(*turned)
        reflector.position = mi.Point3f(*place_m)
    scene.frequency = config.carrier_hz
    settings = {"pattern": "iso", "polarization": "V"}
    num_columns = config.num_elements // config.num_rows
    scene.rx_array = rt.PlanarArray(num_rows=config.num_rows, num_cols=num_columns, **settings)
    scene.tx_array = rt.PlanarArray(num_rows=1, num_cols=1, **settings)
    scene.add(rt.Receiver("array", [0.0, 0.0, 0.0]))
    scene.add(rt.Transmitter("user", USER_M.tolist()))
    paths = rt.PathSolver()(
        scene, max_depth=int(mirror is not None), synthetic_array=False, samples_per_src=1000,
        refraction=False, diffuse_reflection=False, seed=1,
    )  # fmt: skip
    gain = (paths.a[0].numpy() + 1j * paths.a[1].numpy())[0, :, 0, 0]  # [M, P]
    delay_s = paths.tau.numpy().astype(np.float64)[0, :, 0, 0]
    frequency_hz = config.carrier_hz + config.offsets_hz().numpy()[:, None, None]
    h = (gain * np.exp(-2j * np.pi * frequency_hz * delay_s)).sum(axis=-1)
    place_m = scene.rx_array.positions(config.wavelength_m()).numpy().T
    assert gain.shape[1] == (1 if mirror is None else 2)
    return h[:, np.lexsort(place_m.round(6).T[:3])]


def computed(config: NearFieldConfig, mirror: str | None) -> np.ndarray:
    """The same by our sums: the user, and its image behind the mirror, at Friis' gain."""
    place_m, gain = [USER_M], [1.0]
    if mirror is not None:
        mirror_m, _, sign = MIRRORS[mirror]
        axis = 2 if mirror == "floor" else 1
        image_m = USER_M.copy()
        image_m[axis] = 2 * mirror_m[axis] - USER_M[axis]
        place_m.append(image_m)
        gain.append(sign)
    source_m = np.array(place_m)
    distance_m = np.linalg.norm(source_m, axis=1)
    turns = config.carrier_hz * distance_m / SPEED_OF_LIGHT_M_PER_S
    gain = gain * theory.free_space_gain(distance_m, config.carrier_hz) * np.exp(-2j * np.pi * turns)
    rows = (torch.from_numpy(part)[None] for part in (distance_m, source_m / distance_m[:, None]))
    away_m, direction = rows
    waves = Waves(torch.from_numpy(gain)[None], away_m, direction, lag_m=away_m)
    element_m = element_positions_m(config)
    return sum_waves(element_m, waves, config.carrier_hz, config.offsets_hz(), config.spreading)[0].numpy()


def error_db(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10((np.abs(found - expected) ** 2).sum() / (np.abs(expected) ** 2).sum()))


@pytest.mark.parametrize("mirror", [None, "floor", "wall"])
@pytest.mark.parametrize(
    "settings", [{"num_elements": 256}, {"num_elements": 128, "num_rows": 8, "num_subcarriers": 4}]
)
def test_channels_are_those_that_sionna_rt_traces_to_each_element(rt, mirror, settings):
    config = NearFieldConfig(spreading=True, **settings)
    expected = traced(rt, config, mirror)
    found = computed(config, mirror)
    assert found.shape == expected.shape
    assert error_db(found, expected) < -60
    # The power checks: elements in the reverse order, and a hundredth of a wavelength, would be seen.
    assert error_db(found[:, ::-1], expected) > -10
    assert error_db(found * np.exp(0.02j * np.pi), expected) > -30
    if mirror is not None:
        assert error_db(computed(config, None), expected) > -10


def test_without_spreading_phases_agree_and_amplitudes_are_those_at_the_centre(rt):
    config = NearFieldConfig()
    expected, found = traced(rt, config, None), computed(config, None)
    assert error_db(found * np.abs(expected) / np.abs(found), expected) < -60
    # 5 m away and 37 degrees off broadside the ends of 1.27 m are by 8 % nearer and farther.
    assert -30 < error_db(found, expected) < -25
