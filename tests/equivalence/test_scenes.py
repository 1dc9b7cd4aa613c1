"""Ray-traced channels: the same numbers in any process, on any number of threads, in any order of steps."""

import numpy as np
from scene_setups import sinr

STEPS = [0, 3, 40]


def test_the_number_of_threads_and_the_order_of_steps_change_no_bit():
    expected = sinr(STEPS)
    import drjit as dr

    before = dr.thread_count()
    try:
        for num_threads in (1, 3):
            dr.set_thread_count(num_threads)
            again = sinr([40, 0, 3])
            for step in STEPS:
                np.testing.assert_array_equal(again[step], expected[step])
    finally:
        dr.set_thread_count(before)
    assert (expected[0] != expected[3]).all()


def test_a_device_sees_the_same_whoever_else_is_there():
    # Candidates of many devices share a hash table: with enough of them one may lose a faint path.
    few, many = sinr([0, 40], num_devices=5), sinr([0, 40], num_devices=10)
    for step in (0, 40):
        np.testing.assert_allclose(many[step][:5], few[step], rtol=1e-5)


def test_a_worker_s_process_sees_the_same_radio(cluster):
    """It loads the scene and traces the paths once more, as an actor does that was restarted."""
    [there] = cluster.map(sinr, [STEPS])
    here = sinr(STEPS)
    for step in STEPS:
        np.testing.assert_array_equal(there[step], here[step])
