"""Generated data sets: the same bits whoever makes them, interrupted or not, and no corrupt file is read."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from csi_setups import CANYON

from channels.csi_cache import open_cache
from channels.csi_generator import make_chunk, plan_chunks
from nodes.cluster import Cluster
from scenarios.charting.generation import obtain_dataset
from semcom.files import sha256

SEED = 5
NUM_TRAJECTORIES, NUM_STEPS = CANYON.num_trajectories, CANYON.num_steps


class Interruption(Exception):
    pass


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Path:
    """A data set that was made in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEMCOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return obtain_dataset(CANYON, SEED)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMCOM_CACHE", str(tmp_path / "cache"))
    return open_cache(CANYON, SEED)


def counting(made: list[int], interrupt_after: int = -1) -> Callable[[int, int], None]:
    def on_progress(done: int, total: int) -> None:
        assert total == NUM_TRAJECTORIES
        made.append(done)
        if len(made) == interrupt_after:
            raise Interruption

    return on_progress


def test_a_data_set_is_what_its_docstring_says(expected):
    with h5py.File(expected) as file:
        num = NUM_TRAJECTORIES * NUM_STEPS
        assert file["csi"].shape == (num, 2, CANYON.num_rows, CANYON.num_columns, CANYON.num_subcarriers)
        assert file["csi"].dtype == np.complex64
        assert file["position_m"].shape == file["velocity_m_s"].shape == (num, 3)
        np.testing.assert_array_equal(file["trajectory"], np.repeat(np.arange(NUM_TRAJECTORIES), NUM_STEPS))
        np.testing.assert_allclose(file["time_s"], np.tile(0.2 * np.arange(NUM_STEPS), NUM_TRAJECTORIES))
        assert file.attrs["carrier_hz"] == CANYON.carrier_hz
        assert file.attrs["bandwidth_hz"] == CANYON.bandwidth_hz
        assert file["csi"][:].any(axis=(1, 2, 3, 4)).all()  # no silent zeros
    manifest = json.loads(expected.with_suffix(".json").read_text())
    assert manifest["sha256"] == sha256(expected)
    assert manifest["num_positions"] == num
    assert manifest["config"] == CANYON.model_dump(mode="json")


def test_a_chunk_is_the_same_whatever_was_made_before(expected):
    chunks = plan_chunks(CANYON, SEED)
    part = make_chunk(chunks[3])
    rows = slice(3 * NUM_STEPS, 4 * NUM_STEPS)
    with h5py.File(expected) as file:
        np.testing.assert_array_equal(file["csi"][rows], part.csi)
        np.testing.assert_array_equal(file["position_m"][rows], part.position_m)
        assert (make_chunk(plan_chunks(CANYON, SEED + 1)[3]).csi != part.csi).any()
    # More trajectories, and those there were stay as they are.
    more = CANYON.model_copy(update={"num_trajectories": 9})
    np.testing.assert_array_equal(make_chunk(plan_chunks(more, SEED)[3]).csi, part.csi)


def test_what_was_interrupted_resumes(expected, cache):
    with pytest.raises(Interruption):
        obtain_dataset(CANYON, SEED, on_progress=counting([], interrupt_after=3))
    assert not cache.path.exists()
    assert cache.finished() == {0, 1, 2}
    # A part that broke off, and one that is gone.
    broken, gone = sorted(cache.parts.glob("*.npz"))[:2]
    broken.write_bytes(broken.read_bytes()[:-100])
    gone.unlink()
    made: list[int] = []
    path = obtain_dataset(CANYON, SEED, on_progress=counting(made))
    assert made == [2, 3, 4]
    assert path.read_bytes() == expected.read_bytes()
    assert not cache.parts.exists()


def test_a_whole_file_is_not_made_again_and_a_corrupt_one_is(expected, cache):
    made: list[int] = []
    cache.folder.mkdir(parents=True)
    cache.path.write_bytes(expected.read_bytes())
    cache.manifest_path.write_bytes(expected.with_suffix(".json").read_bytes())
    assert obtain_dataset(CANYON, SEED, on_progress=counting(made)) == cache.path
    assert made == []
    content = bytearray(expected.read_bytes())
    content[len(content) // 2] ^= 1
    cache.path.write_bytes(content)
    assert obtain_dataset(CANYON, SEED, on_progress=counting(made)) == cache.path
    assert made == [1, 2, 3, 4]
    assert cache.path.read_bytes() == expected.read_bytes()
    # Neither is a file without its manifest trusted.
    cache.manifest_path.unlink()
    assert not cache.is_whole()


def test_one_process_makes_a_data_set_while_others_wait(cache):
    def is_locked() -> bool:
        with open(cache.folder / f"{cache.name}.lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    seen: list[bool] = []
    obtain_dataset(CANYON, SEED, on_progress=lambda *_: seen.append(is_locked()))
    assert seen == [True] * NUM_TRAJECTORIES
    assert not is_locked()


def test_a_worker_makes_the_same(expected, cache, cluster):
    with Cluster(num_workers=1) as one:
        path = obtain_dataset(CANYON, SEED, one)
    assert path == cache.path
    assert path.read_bytes() == expected.read_bytes()


def test_a_data_set_has_a_name_of_its_own(cache):
    same = open_cache(CANYON.model_copy(), SEED)
    others = [
        open_cache(CANYON, SEED + 1),
        open_cache(CANYON.model_copy(update={"num_rays": 1001}), SEED),
        open_cache(CANYON.model_copy(update={"interval_s": 0.21}), SEED),
    ]
    assert same.path == cache.path
    assert len({cache.path, *(other.path for other in others)}) == 4
