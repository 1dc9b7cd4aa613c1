"""Walks over open ground: where they begin, where they may go, how fast, and that they are pure functions."""

import numpy as np
from scipy import stats

from channels.trajectories import OpenGround, Trajectories
from semcom.rng import Streams

CELL_M = 0.5


def ground() -> OpenGround:
    """Streets about four blocks of houses, and a closed courtyard; the ground rises by a tenth along x."""
    is_free = np.ones((80, 120), dtype=bool)
    for row, column in ((10, 10), (10, 70), (50, 10), (50, 70)):
        is_free[row : row + 25, column : column + 45] = False
    is_free[55:65, 80:95] = True
    centre_m = np.array([-20.0, 5.0])
    x_m = centre_m[0] + CELL_M * np.arange(120)
    return OpenGround(is_free, np.broadcast_to(x_m / 10, is_free.shape).copy(), centre_m, CELL_M)


def walks(num_devices: int, seed: int = 3, leg_length_m: float = 30.0) -> Trajectories:
    return Trajectories(ground(), num_devices, 1.5, leg_length_m, Streams(seed))


def test_walkers_keep_to_streets_and_out_of_courtyards():
    place, walk = ground(), walks(20)
    assert not place.walkable[55:65, 80:95].any()
    assert not place.walkable[9:36, 9:56].any()
    assert place.walkable[1:-1, 1:8].all()
    for distance_m in np.arange(0, 100, 0.07):
        at_m = walk.positions_m(distance_m)[:, None, :2]
        # A line may cut a corner by an eighth of a cell.
        shifts_m = CELL_M / 8 * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
        assert place.is_walkable(at_m + shifts_m).any(axis=1).all()


def test_walks_begin_evenly_over_the_walkable_ground():
    place, num_devices = ground(), 2000
    start_m = walks(num_devices).positions_m(0.0)[:, :2]
    in_the_west = np.mean(start_m[:, 0] < 10)
    columns = place.centre_m[0] + CELL_M * np.arange(place.walkable.shape[1])
    expected = place.walkable[:, columns < 10 - CELL_M / 4].sum() / place.walkable.sum()
    sigma = np.sqrt(expected * (1 - expected) / num_devices)
    assert abs(in_the_west - expected) < 4.5 * sigma + 1 / place.walkable.shape[1]
    within = (start_m - place.centre_m) / CELL_M + 0.5
    assert stats.kstest((within % 1).ravel(), stats.uniform.cdf).pvalue > 1e-6


def test_walkers_are_as_fast_as_they_should_be_and_stay_above_the_ground():
    walk = walks(100)
    before, after = walk.positions_m(50.0), walk.positions_m(50.01)
    moved_m = np.linalg.norm((after - before)[:, :2], axis=1)
    assert (moved_m < 0.01 + 1e-9).all()
    assert np.mean(moved_m > 0.01 - 1e-9) > 0.9  # the others turned
    np.testing.assert_allclose(after[:, 2], after[:, 0] / 10 + 1.5, atol=1e-9)


def test_walks_turn_and_lead_away():
    walk = walks(50)
    end_m = walk.positions_m(300.0)
    legs_m = np.concatenate([np.diff(walked_m) for walked_m in walk._walked_m])
    assert legs_m.max() <= 30.0
    assert legs_m.min() > 0
    assert np.mean(np.linalg.norm((end_m - walk.positions_m(0.0))[:, :2], axis=1) > 10) > 0.6


def test_a_walk_depends_on_seed_device_and_distance_alone():
    one, other = walks(12), walks(5)
    far = one.positions_m(250.0)
    near = one.positions_m(7.3)
    np.testing.assert_array_equal(other.positions_m(7.3), near[:5])
    np.testing.assert_array_equal(other.positions_m(250.0), far[:5])
    assert (walks(12, seed=4).positions_m(7.3) != near)[:, :2].all()
