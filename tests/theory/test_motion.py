"""Users who speed up, brake and turn: the physics of it, and that trajectories are pure functions."""

import numpy as np
import pytest
from pydantic import ValidationError

from channels.motion import Motion, MotionConfig, make_motion
from channels.trajectories import OpenGround
from semcom.contracts import SemcomError
from semcom.rng import Streams

KINDS = ["random-waypoint", "street"]
CELL_M = 0.5
FINE_S = 0.01
ACCELERATION = 2.5


def ground() -> OpenGround:
    """Streets about four blocks of houses; the ground rises by a tenth along x."""
    is_free = np.ones((160, 240), dtype=bool)
    for row, column in ((20, 20), (20, 140), (100, 20), (100, 140)):
        is_free[row : row + 40, column : column + 80] = False
    centre_m = np.array([-20.0, 5.0])
    x_m = centre_m[0] + CELL_M * np.arange(240)
    return OpenGround(is_free, np.broadcast_to(x_m / 10, is_free.shape).copy(), centre_m, CELL_M)


def moved(kind: str, duration_s: float = 30.0, seed: int = 3, **settings: float) -> Motion:
    time_s = np.arange(0, duration_s, FINE_S)
    config = MotionConfig.model_validate({"kind": kind, **settings})
    return make_motion(config, ground(), list(range(12)), time_s, Streams(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_the_velocity_is_the_derivative_of_the_position(kind):
    motion = moved(kind)
    for step, tolerance in ((1, 1.0), (10, 1.0)):
        velocity, apart_s = motion.velocity_m_s[:, ::step], step * FINE_S
        way_m = apart_s * np.cumsum((velocity[:, 1:] + velocity[:, :-1]) / 2, axis=1)
        error_m = np.abs(motion.position_m[:, ::step][:, 1:] - motion.position_m[:, :1] - way_m)
        # Each kink of the velocity costs a trapezoid at most a dt^2 / 8, and there are some ten a leg.
        assert error_m.max() < tolerance * 200 * ACCELERATION * apart_s**2 / 8
    # The power check: a velocity that is a hundredth off would be seen.
    assert (0.01 * np.abs(motion.position_m[:, -1] - motion.position_m[:, 0])).max() > 200 * ACCELERATION * (
        FINE_S**2 / 8
    )


@pytest.mark.parametrize("kind", KINDS)
def test_users_accelerate_as_they_may_and_keep_to_the_streets(kind):
    motion = moved(kind)
    flat = motion.velocity_m_s[..., :2]
    speed = np.linalg.norm(flat, axis=-1)
    acceleration = np.linalg.norm(np.diff(flat, axis=1), axis=-1) / FINE_S
    assert speed.max() < 10 + 1e-9
    # Along the way and across it a each: at most sqrt(2) a together, and only in curves.
    assert acceleration.max() < (1 if kind == "random-waypoint" else np.sqrt(2)) * ACCELERATION + 1e-6
    assert ground().is_walkable(motion.position_m[..., :2]).all()
    np.testing.assert_allclose(motion.position_m[..., 2], motion.position_m[..., 0] / 10 + 1.5, atol=1e-9)
    np.testing.assert_allclose(motion.velocity_m_s[..., 2], motion.velocity_m_s[..., 0] / 10, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_velocity_of_now_is_a_poor_forecast(kind):
    motion = moved(kind)
    ahead = round(1 / FINE_S)
    later = motion.position_m[:, ahead:]
    straight = motion.position_m[:, :-ahead] + motion.velocity_m_s[:, :-ahead]
    error_m = np.linalg.norm(later - straight, axis=-1)
    assert error_m.mean() > 0.3
    # a t^2 / 2 if one accelerates all the time, twice that for who brakes to a stop and goes back.
    assert error_m.max() < 2 * ACCELERATION


def test_at_waypoints_one_stops_and_in_streets_one_goes_round_the_corner():
    speeds = {kind: np.linalg.norm(moved(kind, 60.0).velocity_m_s, axis=-1) for kind in KINDS}
    stops = {kind: (speed < 0.05).any(axis=1).mean() for kind, speed in speeds.items()}
    assert stops["random-waypoint"] == 1
    assert np.mean(speeds["street"] < 0.05) < 0.3 * np.mean(speeds["random-waypoint"] < 0.05)
    # In a curve the direction changes while the speed does not.
    velocity = moved("street").velocity_m_s[..., :2]
    heading = np.unwrap(np.arctan2(velocity[..., 1], velocity[..., 0]), axis=1)
    turning = np.abs(np.diff(heading, axis=1)) / FINE_S * speeds["street"][:, : heading.shape[1] - 1]
    assert np.mean((turning > 0.1) & (turning < ACCELERATION * 1.01)) > 0.1


def test_users_pause_as_long_as_they_may():
    still = np.linalg.norm(moved("random-waypoint", 60.0, max_pause_s=3.0).velocity_m_s, axis=-1) == 0
    begins = np.diff(still.astype(int), axis=1)
    lengths = [
        (np.flatnonzero(row == -1)[:n] - np.flatnonzero(row == 1)[:n]) * FINE_S
        for row, first in zip(begins, still[:, 0], strict=True)
        if not first and (n := int((row == -1).sum()))
    ]
    assert 2 < np.concatenate(lengths).max() <= 3 + FINE_S


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_depends_on_seed_number_and_time_alone(kind):
    config, times_s = MotionConfig(kind=kind), np.arange(0, 20, 0.2)
    all_of_them = make_motion(config, ground(), [0, 1, 2, 3], times_s, Streams(3))
    one = make_motion(config, ground(), [2], times_s, Streams(3))
    other = make_motion(config, ground(), [2], times_s, Streams(4))
    np.testing.assert_array_equal(one.position_m[0], all_of_them.position_m[2])
    np.testing.assert_array_equal(one.velocity_m_s[0], all_of_them.velocity_m_s[2])
    assert (one.position_m != other.position_m).any(axis=-1).all()
    assert (all_of_them.position_m[0] != all_of_them.position_m[1]).any(axis=-1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_trajectory_begins_like_a_shorter_one(kind):
    """Legs are drawn as they are needed, and braking looks ahead to them."""
    config, whole_s = MotionConfig(kind=kind), np.arange(0, 60, 0.2)
    longest = make_motion(config, ground(), [0, 1], whole_s, Streams(3))
    for num_steps in range(10, 300, 10):
        shorter = make_motion(config, ground(), [0, 1], whole_s[:num_steps], Streams(3))
        np.testing.assert_allclose(shorter.position_m, longest.position_m[:, :num_steps], atol=1e-9)


def test_who_cannot_go_anywhere_is_told_so():
    is_free = np.zeros((9, 9), dtype=bool)
    is_free[3:6, 3:6] = True
    cell = OpenGround(is_free, np.zeros((9, 9)), np.zeros(2), CELL_M)
    with pytest.raises(SemcomError, match="nowhere to go"):
        make_motion(MotionConfig(), cell, [0], np.arange(3.0), Streams(0))
    with pytest.raises(ValidationError, match="is above"):
        MotionConfig(min_speed_m_per_s=5, max_speed_m_per_s=4)
