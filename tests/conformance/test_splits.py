"""Splits of positions: whole trajectories or blocks, and nothing held out has a neighbour in training."""

import numpy as np
import pytest

from scenarios.splits import split_by_block, split_by_trajectory
from semcom.contracts import SemcomError
from semcom.rng import Streams

# Forty walks of 25 to 64 positions each, numbered anyhow.
TRAJECTORY = np.repeat(np.random.default_rng(4).permutation(40) * 3, np.arange(25, 65))
POSITION_M = np.random.default_rng(5).uniform([-50, 20, 0], [50, 100, 2], size=(3000, 3))


def parts(split):
    return split.train, split.validation, split.test


def smallest_distance_m(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.linalg.norm(first[:, None, :2] - second[None, :, :2], axis=-1).min())


def test_no_trajectory_is_in_two_parts_and_none_is_left_out():
    found = parts(split_by_trajectory(TRAJECTORY, Streams(1)))
    walks = [set(TRAJECTORY[part]) for part in found]
    assert set.union(*walks) == set(TRAJECTORY)
    assert sum(map(len, walks)) == 40
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(TRAJECTORY.size))
    assert all((np.diff(part) > 0).all() for part in found)
    # The power check: split at random, every walk is in training and in the test.
    mixed = np.random.default_rng(6).permutation(TRAJECTORY.size)
    assert set(TRAJECTORY[mixed[: found[0].size]]) & set(TRAJECTORY[mixed[found[0].size :]])


@pytest.mark.parametrize(
    ("validation_share", "test_share"), [(0.15, 0.15), (0.1, 0.3), (0.0, 0.2), (0.2, 0.0)]
)
def test_the_shares_are_met_as_closely_as_whole_groups_allow(validation_share, test_share):
    shares = {"validation_share": validation_share, "test_share": test_share}
    walks = split_by_trajectory(TRAJECTORY, Streams(2), **shares)
    blocks = split_by_block(POSITION_M, Streams(2), block_m=10, **shares)
    for split, num, group in ((walks, TRAJECTORY.size, 64), (blocks, 3000, 70)):
        # Off by half of the group that crosses the share's end at most.
        assert abs(split.validation.size - validation_share * num) <= group / 2
        assert abs(split.test.size - test_share * num) <= group / 2
        assert sum(part.size for part in parts(split)) == num


def test_blocks_are_held_out_whole():
    found = split_by_block(POSITION_M, Streams(3), block_m=20)
    part = np.empty(3000, dtype=int)
    for number, places in enumerate(parts(found)):
        part[places] = number
    corner = POSITION_M[:, :2].min(axis=0)
    for column in range(5):
        for row in range(4):
            inside = ((POSITION_M[:, :2] - corner) // 20 == [column, row]).all(axis=1)
            assert len(set(part[inside])) == 1


def test_within_the_guard_of_what_is_held_out_nothing_is_trained_on():
    bare = split_by_block(POSITION_M, Streams(3), block_m=10)
    kept = split_by_block(POSITION_M, Streams(3), block_m=10, guard_m=3.0)
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        near, far = (
            smallest_distance_m(POSITION_M[getattr(split, first)], POSITION_M[getattr(split, second)])
            for split in (bare, kept)
        )
        # Without the guard some stand side by side; with it none does, nor is more left out than must be.
        assert near < 1.0
        assert 3.0 < far < 4.0
    np.testing.assert_array_equal(bare.test, kept.test)
    held = POSITION_M[np.concatenate([bare.validation, bare.test])]
    gone = POSITION_M[np.setdiff1d(bare.train, kept.train)]
    assert gone.size
    assert all(smallest_distance_m(place[None], held) <= 3.0 for place in gone)


@pytest.mark.parametrize(
    "split",
    [
        lambda streams: split_by_trajectory(TRAJECTORY, streams),
        lambda streams: split_by_block(POSITION_M, streams, block_m=10, guard_m=1.0),
    ],
)
def test_a_split_depends_on_its_seed_alone(split):
    first, again, other = split(Streams(7)), split(Streams(7)), split(Streams(8))
    np.testing.assert_array_equal(first.test, again.test)
    np.testing.assert_array_equal(first.train, again.train)
    assert set(first.test) != set(other.test)


@pytest.mark.parametrize(
    ("split", "told"),
    [
        (
            lambda streams: split_by_trajectory(np.zeros(9, int), streams),
            "are in 1 trajectories, and training",
        ),
        (lambda streams: split_by_trajectory(np.arange(9) // 5, streams), "record more, or split by block"),
        (
            lambda streams: split_by_block(POSITION_M, streams, block_m=200),
            "are in 1 blocks of 200 m, and training and what is held out need one each: take smaller blocks",
        ),
        (
            lambda streams: split_by_block(POSITION_M, streams, block_m=10, guard_m=50),
            "the guard of 50 m around blocks of 10 m leaves no train position: take a smaller guard",
        ),
        (
            lambda streams: split_by_trajectory(TRAJECTORY, streams, validation_share=0.5, test_share=0.5),
            "shares of 0.5 for validation and 0.5 for the test leave nothing to train on",
        ),
        (lambda streams: split_by_trajectory(TRAJECTORY, streams, test_share=-0.1), "take shares from 0"),
    ],
)
def test_a_part_that_would_be_empty_is_refused_in_one_line(split, told):
    with pytest.raises(SemcomError) as caught:
        split(Streams(1))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
