"""Data sets of a sensed room: the same bits whoever makes them, in whatever order, and all in its place."""

import json
from pathlib import Path

import numpy as np
import pytest
from room_setups import ROOM, PlainWorld

from channels import room_generator
from channels.room import RoomConfig
from channels.room_generator import make_sequence, open_room_cache, plan_sequences
from channels.sensing_dataset import read_sensing
from nodes.cluster import Cluster
from scenarios.isac.generation import obtain_room
from semcom.contracts import SemcomError
from semcom.files import sha256

SEED = 3
NUM_SEQUENCES, NUM_STEPS = ROOM.num_sequences, ROOM.num_steps


def room(**settings) -> RoomConfig:
    return RoomConfig.model_validate(ROOM.model_dump() | settings)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Path:
    """A data set that was made in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEMCOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return obtain_room(ROOM, SEED)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMCOM_CACHE", str(tmp_path / "cache"))
    return open_room_cache(ROOM, SEED)


def test_every_reading_stands_with_its_step(cache, monkeypatch):
    monkeypatch.setattr(room_generator, "load_world", PlainWorld)
    path = obtain_room(ROOM, SEED)
    found = read_sensing(path)
    num = NUM_SEQUENCES * NUM_STEPS
    assert found.frame.shape == (num, 2, 16, 18, 3)
    x_m, y_m = np.nanmean(found.position_m.astype(float), axis=1).T
    assert len(np.unique(x_m)) > num / 2  # the walks lead somewhere
    np.testing.assert_allclose(found.frame[:, 1, 7, 9, 2], 40 * x_m, atol=1)
    for receiver in range(ROOM.num_receivers):
        np.testing.assert_allclose(found.csi[:, receiver, 3], receiver * (x_m + 1j * y_m), rtol=1e-5)
    is_there = ~np.isnan(found.position_m[:, :, 0])
    assert found.visible_share is not None
    np.testing.assert_array_equal(found.visible_share[:, 0], np.where(is_there, 1.0, np.nan))
    np.testing.assert_array_equal(found.sequence, np.repeat(np.arange(NUM_SEQUENCES), NUM_STEPS))
    np.testing.assert_allclose(found.time_s, np.tile(ROOM.interval_s * np.arange(NUM_STEPS), NUM_SEQUENCES))
    assert (found.carrier_hz, found.bandwidth_hz) == (ROOM.carrier_hz, ROOM.bandwidth_hz)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["sha256"] == sha256(path)
    assert manifest["config"] == ROOM.model_dump(mode="json")
    assert manifest["num_steps"] == num
    assert manifest["steps_by_number_of_pedestrians"] == np.bincount(is_there.sum(1), minlength=4).tolist()
    assert manifest["share_without_path_by_receiver"] == [1.0, 0.0, 0.0, 0.0]


def test_a_sequence_is_the_same_whatever_was_made_before(expected):
    part = make_sequence(plan_sequences(ROOM, SEED)[2])
    rows = slice(2 * NUM_STEPS, 3 * NUM_STEPS)
    whole = read_sensing(expected)
    for name in room_generator.ARRAYS:
        np.testing.assert_array_equal(getattr(whole, name)[rows], getattr(part, name))
    other = make_sequence(plan_sequences(ROOM, SEED + 1)[2])
    assert (other.csi != part.csi).any()
    assert (other.frame != part.frame).any()
    # More sequences, and those there were stay as they are.
    more = make_sequence(plan_sequences(room(num_sequences=9), SEED)[2])
    np.testing.assert_array_equal(more.frame, part.frame)
    np.testing.assert_array_equal(more.csi, part.csi)


def test_the_order_of_making_leaves_no_trace(expected, cache):
    for chunk in reversed(plan_sequences(ROOM, SEED)[1:]):
        part = make_sequence(chunk)
        cache.write_part(chunk.number, {name: getattr(part, name) for name in room_generator.ARRAYS})
    made: list[int] = []
    path = obtain_room(ROOM, SEED, on_progress=lambda done, total: made.append(done))
    assert made == [NUM_SEQUENCES]
    assert path.read_bytes() == expected.read_bytes()
    assert not cache.parts.exists()


def test_two_workers_make_the_same(expected, cache, cluster):
    with Cluster(num_workers=2) as two:
        path = obtain_room(ROOM, SEED, two)
    assert path == cache.path
    assert path.read_bytes() == expected.read_bytes()


def test_a_data_set_is_named_by_all_that_its_numbers_depend_on(cache, monkeypatch):
    traced = open_room_cache(room(world="ray-traced"), SEED)
    others = [
        open_room_cache(ROOM, SEED + 1),
        open_room_cache(room(body={"relative_permittivity": 35.5}), SEED),
        open_room_cache(room(furniture=[]), SEED),
        traced,
    ]
    assert len({cache.path, *(other.path for other in others)}) == 5
    # Sionna and Mitsuba of other versions would trace other numbers; the analytic world knows neither.
    monkeypatch.setattr("importlib.metadata.version", lambda package: "0.0")
    assert open_room_cache(ROOM, SEED) == cache
    with monkeypatch.context() as changed:
        changed.setattr("channels.room_generator.GENERATOR_VERSION", 1_000)
        assert open_room_cache(ROOM, SEED) != cache
    assert open_room_cache(room(world="ray-traced"), SEED) != traced


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"device_height_m": 5.0}, "device_height_m = 5 is above the ceiling"),
        (
            {"num_steps": 10_000, "frame_height_px": 200, "frame_width_px": 300},
            "num_steps = 10000 steps of 2 frames and 4 receivers take 3434 MiB, more than a worker should",
        ),
    ],
)
def test_a_room_that_cannot_be_made_is_refused_before_anything_runs(settings, told, cache):
    with pytest.raises(SemcomError) as refused:
        obtain_room(room(**settings), SEED)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not cache.folder.exists()
