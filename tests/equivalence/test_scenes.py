"""Ray-traced channels: the same numbers in any process, on any number of threads, in any order of steps."""

import numpy as np
from control_setups import CONFIG, trained

from channels.catalogue import make_channel
from channels.grid import GridConfig, ResourceGrid
from channels.links.nr import NrConfig
from channels.scenes import RayTracedConfig
from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.control.scenario import SCENARIO
from semcom.rng import Streams

CANYON = RayTracedConfig(model="street-canyon", num_rays=5000, max_depth=2, speed_m_per_s=10.0)


def sinr(steps: list[int], num_devices: int = 10) -> dict[int, np.ndarray]:
    channel = make_channel(CANYON, ResourceGrid(GridConfig()), num_devices, 100, 0.02, Streams(7))
    return {step: channel.sinr(step) for step in steps}


def test_the_number_of_threads_and_the_order_of_steps_change_no_bit():
    expected = sinr([0, 3, 40])
    import drjit as dr

    before = dr.thread_count()
    try:
        for num_threads in (1, 3):
            dr.set_thread_count(num_threads)
            again = sinr([40, 0, 3])
            for step, values in expected.items():
                np.testing.assert_array_equal(again[step], values)
    finally:
        dr.set_thread_count(before)
    assert (expected[0] != expected[3]).all()


def test_a_device_sees_the_same_whoever_else_is_there():
    # Candidates of many devices share a hash table: with enough of them one may lose a faint path.
    few, many = sinr([0, 40], num_devices=5), sinr([0, 40], num_devices=10)
    for step in (0, 40):
        np.testing.assert_allclose(many[step][:5], few[step], rtol=1e-5)


def test_control_in_a_scene_is_the_same_on_a_worker(cluster):
    """Besides, a worker is another process: the scene is loaded, and the paths traced, once more."""
    config = CONFIG.model_copy(update={"link": NrConfig(), "channel": CANYON})
    points = [Point("rate", "hold-last", 0, {"update_interval_ms": 80.0})]
    expected = SCENARIO.simulate(config, points, trained(), Cluster())
    value = {record.metric: record.value for record in expected[0]}
    assert 0 < value["packet_loss"] < 1
    with Cluster(1) as one:
        assert SCENARIO.simulate(config, points, trained(), one) == expected
