"""Walks: everybody keeps to the free floor, apart, at the speed, evenly over floor and slots."""

import numpy as np
import pytest

from channels.room import SHAPES, Furniture, RoomConfig
from channels.room_walks import make_floor, make_walk
from semcom.contracts import SemcomError
from semcom.rng import Streams

CONFIG = RoomConfig()
NUM_WALKS = 400


@pytest.fixture(scope="module")
def position_m() -> np.ndarray:
    """Walks [N, T, P, 2] of the default room."""
    return np.stack([make_walk(CONFIG, number, Streams(3)).position_m for number in range(NUM_WALKS)])


def test_bodies_keep_off_walls_furniture_devices_and_each_other(position_m):
    radius_m = np.array([SHAPES[name].width_m / 2 for name in CONFIG.shapes])
    x, y = position_m[..., 0], position_m[..., 1]
    assert np.nanmin([x, y, CONFIG.length_m - x, CONFIG.width_m - y]) >= 0.3
    (box,) = CONFIG.furniture
    out_m = [np.abs(at - box.centre_m[axis]) - box.size_m[axis] / 2 for axis, at in enumerate((x, y))]
    assert np.nanmin(np.hypot(*np.maximum(out_m, 0)) - radius_m) >= 0
    devices_m = np.stack([*CONFIG.receivers_m(), CONFIG.transmitter_m()])[:, :2]
    away_m = np.linalg.norm(position_m[..., None, :] - devices_m, axis=-1).min(axis=-1)
    assert np.nanmin(away_m - radius_m) >= 0.1 - 1e-9
    for one, two in ((0, 1), (0, 2), (1, 2)):
        apart_m = np.linalg.norm(position_m[..., one, :] - position_m[..., two, :], axis=-1)
        assert np.nanmin(apart_m) >= radius_m[one] + radius_m[two]
        # They do meet: the nearest come within a step of touching.
        assert np.nanmin(apart_m) < radius_m[one] + radius_m[two] + 0.2


@pytest.mark.parametrize("speed_m_s", [0.4, 0.9, 1.5])
def test_walkers_cover_the_mean_speed_and_face_where_they_go(speed_m_s):
    config = RoomConfig(speed_m_s=speed_m_s, interval_s=0.2, num_steps=24)
    walks = [make_walk(config, number, Streams(5)) for number in range(120)]
    moved_m = np.concatenate([np.diff(walk.position_m, axis=0).reshape(-1, 2) for walk in walks])
    heading = np.concatenate([walk.heading_rad[1:].ravel() for walk in walks])
    there = np.isfinite(heading)
    speed = np.linalg.norm(moved_m[there], axis=1) / config.interval_s
    assert speed.mean() == pytest.approx(speed_m_s, rel=0.1)
    assert speed.max() < 1.7 * speed_m_s
    off = np.angle(np.exp(1j * (np.arctan2(moved_m[there, 1], moved_m[there, 0]) - heading[there])))
    assert np.quantile(np.abs(off[speed > 0.5 * speed_m_s]), 0.9) < np.deg2rad(30)


def test_numbers_and_slots_are_even():
    config, number = RoomConfig(num_steps=1), 1500
    there = np.array(
        [np.isfinite(make_walk(config, sequence, Streams(1)).heading_rad[0]) for sequence in range(number)]
    )
    counts = np.bincount(there.sum(axis=1), minlength=4) / number
    four_sigma = 4 * np.sqrt(2 / 9 / number)
    assert counts == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=four_sigma)
    assert there.mean(axis=0) == pytest.approx(np.full(3, 2 / 3), abs=four_sigma)
    assert four_sigma < 1 / 3 - 1 / 4  # the power check: numbers from 0 to 3 would fail


def test_walks_are_even_over_the_floor(position_m):
    """Corners, walls and the middle, against their parts of the free floor; walkers who gather fail."""

    def share(place_m: np.ndarray) -> np.ndarray:
        near_m = np.minimum(place_m, [CONFIG.length_m, CONFIG.width_m] - place_m) - 0.3
        corner, wall = (near_m < 0.6).all(axis=-1), (near_m < 0.4).any(axis=-1)
        zones = np.stack([corner, wall & ~corner, (near_m > 0.9).all(axis=-1)], axis=-1)
        return np.where(np.isfinite(place_m[..., :1]), zones, np.nan)

    floor = np.mean([share(make_floor(CONFIG, slot).start_m).mean(axis=0) for slot in range(3)], axis=0)
    walked = np.nanmean(share(position_m), axis=(1, 2))  # of each walk
    error = walked.std(axis=0) / np.sqrt(NUM_WALKS)
    assert np.all(np.abs(walked.mean(axis=0) / floor - 1) < 0.1 + 4 * error / floor)
    assert np.all(0.1 + 4 * error / floor < [0.5, 0.4, 0.4])  # halved or doubled, a zone would be noticed


def test_a_walk_is_a_pure_function_of_configuration_sequence_and_seed():
    first = make_walk(CONFIG, 7, Streams(2))
    make_walk(CONFIG, 8, Streams(2))
    again = make_walk(CONFIG, 7, Streams(2))
    np.testing.assert_array_equal(first.position_m, again.position_m)
    np.testing.assert_array_equal(first.heading_rad, again.heading_rad)
    np.testing.assert_array_equal(np.isnan(first.heading_rad), np.isnan(first.position_m[..., 0]))
    for other in (make_walk(CONFIG, 8, Streams(2)), make_walk(CONFIG, 7, Streams(3))):
        assert not np.array_equal(first.position_m, other.position_m, equal_nan=True)


def test_a_full_room_is_refused():
    full = Furniture(centre_m=(1.0, 1.0), size_m=(1.9, 1.9, 1.0))
    with pytest.raises(SemcomError, match="no free floor"):
        make_walk(RoomConfig(length_m=2, width_m=2, furniture=(full,)), 0, Streams(0))
    around = (
        Furniture(centre_m=(0.65, 1.0), size_m=(1.3, 2.0, 1.0)),
        Furniture(centre_m=(1.65, 0.5), size_m=(0.7, 1.0, 1.0)),
    )
    tight = RoomConfig(length_m=2, width_m=2, furniture=around, num_receivers=1)
    with pytest.raises(SemcomError, match=r"no room for [23] pedestrians"):
        [make_walk(tight, sequence, Streams(0)) for sequence in range(20)]
    make_walk(tight.model_copy(update={"max_pedestrians": 1}), 0, Streams(0))
