"""Recorded channels: what is played is what the file holds, at the SNR asked for, and no more is read."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from channels import csi_file
from channels.catalogue import make_channel
from channels.csi_file import open_csi, write_csi
from channels.grid import GridConfig, ResourceGrid
from channels.recorded import RecordedChannel, RecordedConfig
from channels.response import resource_block_centres_hz
from semcom.contracts import SemcomError
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())
WIDTH_HZ = GRID.occupied_bandwidth_hz
CENTRES_HZ = resource_block_centres_hz(GRID.num_resource_blocks, WIDTH_HZ)
HALF_DB = 10**0.05
REAL_FILE = Path(__file__).parents[3] / "shared" / "data" / "quadriga_uma_los.h5"


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    parts = np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)
    return (parts[..., 0] + 1j * parts[..., 1]).astype(np.complex64)


def played(path: Path, num_devices: int = 50, num_steps: int = 10, **settings) -> RecordedChannel:
    config = RecordedConfig(path=path, **settings)
    channel = make_channel(config, GRID, num_devices, num_steps, 0.02, Streams(3))
    assert isinstance(channel, RecordedChannel)
    return channel


def at_rest(channel: RecordedChannel, frequency_hz: np.ndarray, step: int = 0) -> np.ndarray:
    devices = np.arange(channel.num_devices)
    wanted = np.tile(frequency_hz, (len(devices), 1))
    return channel.response(step, devices, wanted, np.zeros(1))[:, :, 0]


def test_on_recorded_subcarriers_the_response_is_the_files_at_the_snr_asked_for(tmp_path):
    # The file's scale, here 1e-5, is taken out; one subcarrier a resource block.
    csi = 1e-5 * noise(6, 3, 51)
    write_csi(tmp_path / "a.h5", csi, bandwidth_hz=WIDTH_HZ)
    channel = played(tmp_path / "a.h5", snr_db=7.0)
    scale = np.sqrt(10**0.7 / np.mean(np.abs(csi.astype(np.complex128)) ** 2))
    h = at_rest(channel, CENTRES_HZ)
    np.testing.assert_allclose(h, scale * csi[channel.user], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(channel.sinr(4), (np.abs(h) ** 2).sum(axis=1), rtol=1e-6)
    assert set(channel.user) == set(range(6))


def test_over_all_users_the_mean_is_the_snr_asked_for(tmp_path):
    # Users drawn uniformly, ten to the power of two apart: their mean is that of the file within sampling.
    csi = noise(40, 1, 51) * np.logspace(-1, 1, 40)[:, None, None]
    write_csi(tmp_path / "a.h5", csi, bandwidth_hz=WIDTH_HZ)
    sinr = played(tmp_path / "a.h5", num_devices=20_000, snr_db=5.0).sinr(0).mean(axis=1) / 10**0.5
    tolerance = 4.5 * sinr.std() / np.sqrt(sinr.size)
    assert abs(sinr.mean() - 1) < tolerance
    assert abs(sinr.mean() * HALF_DB - 1) > tolerance


def test_between_subcarriers_it_is_linear_and_held_beyond_the_outermost(tmp_path):
    csi = noise(4, 2, 5)
    write_csi(tmp_path / "a.h5", csi, bandwidth_hz=WIDTH_HZ)
    channel = played(tmp_path / "a.h5", snr_db=0.0)
    at_hz = WIDTH_HZ / 5 * np.array([-2.4, -2.0, -1.75, 0.5, 2.0, 2.5])
    scale = 1 / np.sqrt(channel.file.mean_power)
    told = csi[channel.user] * scale
    expected = [
        told[..., 0],
        told[..., 0],
        0.75 * told[..., 0] + 0.25 * told[..., 1],
        0.5 * told[..., 2] + 0.5 * told[..., 3],
        told[..., 4],
        told[..., 4],
    ]
    np.testing.assert_allclose(at_rest(channel, at_hz), np.stack(expected, axis=-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("wide_hz", "num"), [(50e6, 1024), (WIDTH_HZ, 376)])
def test_a_path_comes_back_within_the_stated_error_of_the_interpolation(tmp_path, wide_hz, num):
    # One path of 400 ns, as DICHASUS would sample it: 48.8 kHz apart, a window of the 50 MHz.
    delay_s, spacing_hz = 400e-9, wide_hz / num
    recorded_hz = (np.arange(num) - (num - 1) / 2) * spacing_hz
    write_csi(
        tmp_path / "a.h5",
        np.exp(-2j * np.pi * recorded_hz * delay_s)[None, None].astype(np.complex64),
        bandwidth_hz=wide_hz,
    )
    channel = played(tmp_path / "a.h5", num_devices=1, snr_db=0.0)
    frequency_hz = np.linspace(-WIDTH_HZ / 2 + spacing_hz, WIDTH_HZ / 2 - spacing_hz, 999)
    error = np.abs(at_rest(channel, frequency_hz)[0, 0] - np.exp(-2j * np.pi * frequency_hz * delay_s))
    bound = (2 * np.pi * spacing_hz * delay_s) ** 2 / 8
    assert error.max() < bound * 1.02
    # The power check: the bound is met closely, and a subcarrier's shift would break it.
    assert error.max() > 0.9 * bound
    shifted = np.exp(-2j * np.pi * (frequency_hz + spacing_hz) * delay_s)
    assert np.abs(at_rest(channel, frequency_hz)[0, 0] - shifted).min() > bound


def test_a_single_subcarrier_is_flat_and_needs_no_bandwidth(tmp_path):
    csi = noise(9, 4, 1)
    write_csi(tmp_path / "a.h5", csi)
    channel = played(tmp_path / "a.h5")
    sinr = channel.sinr(0)
    assert (sinr == sinr[:, :1]).all()
    np.testing.assert_array_equal(channel.sinr(9), sinr)


def test_snapshots_hold_until_the_next_and_devices_start_where_they_may(tmp_path):
    # 20 ms steps on snapshots 8 ms apart: steps begin in snapshots 0, 2, 5, 7; ten steps need 25 of 40.
    csi = noise(5, 40, 1, 1)
    write_csi(tmp_path / "a.h5", csi, snapshot_interval_s=0.008)
    channel = played(tmp_path / "a.h5", num_devices=400)
    assert set(channel.start) == set(range(16))
    scale = channel._amplitude
    devices = np.arange(400)
    offset_s = np.array([0.0, 0.0039, 0.0041, 0.0119, 0.0121])
    for step, numbers in ((0, [0, 0, 0, 1, 1]), (1, [2, 2, 3, 3, 4]), (3, [7, 7, 8, 8, 9])):
        h = channel.response(step, devices, np.zeros((400, 1)), offset_s)[:, 0, :, 0]
        places = channel.start[:, None] + np.array(numbers)
        np.testing.assert_allclose(h, scale * csi[channel.user[:, None], places, 0, 0], rtol=1e-5)


def test_a_single_way_serves_all_devices_from_starts_of_their_own(tmp_path):
    csi = noise(60, 2, 1)
    write_csi(tmp_path / "way.h5", csi)
    channel = played(tmp_path / "way.h5", first_axis="time", snapshot_interval_s=0.02)
    assert channel.file.num_users == 1
    assert len(set(channel.start)) > 10
    h = at_rest(channel, np.zeros(1), step=7)[:, :, 0]
    np.testing.assert_allclose(h, channel._amplitude * csi[channel.start + 7, :, 0], rtol=1e-5)


def test_real_and_imaginary_parts_are_the_same_channel(tmp_path):
    csi = noise(5, 30, 2, 51)
    told = {"bandwidth_hz": WIDTH_HZ, "snapshot_interval_s": 0.02}
    write_csi(tmp_path / "a.h5", csi, **told)
    write_csi(tmp_path / "b.h5", np.stack([csi.real, csi.imag], axis=-1).astype(np.float64), **told)
    one, other = played(tmp_path / "a.h5"), played(tmp_path / "b.h5")
    np.testing.assert_allclose(other.sinr(3), one.sinr(3), rtol=1e-6)


def test_a_large_file_is_read_in_blocks_and_its_snapshots_alone(tmp_path, monkeypatch):
    read: list[int] = []
    whole = h5py.Dataset.__getitem__

    def counted(self, key, **more):
        found = whole(self, key, **more)
        read.append(found.nbytes)
        return found

    csi = noise(3, 100, 4, 16)
    write_csi(tmp_path / "a.h5", csi, bandwidth_hz=2 * WIDTH_HZ, snapshot_interval_s=0.02)
    monkeypatch.setattr(csi_file, "_BYTES_AT_ONCE", 10_000)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    channel = played(tmp_path / "a.h5", num_devices=7)
    assert max(read) <= 10_000
    assert sum(read) == csi.nbytes
    expected = np.mean(np.abs(csi.astype(np.complex128)) ** 2)
    assert channel.file.mean_power == pytest.approx(expected, rel=1e-9)
    read.clear()
    channel.sinr(0)
    channel.sinr(0)
    # Of each device one snapshot, once, and of that the half within the carrier and one subcarrier beside it.
    assert sum(read) == 7 * 4 * 10 * csi.itemsize
    read.clear()
    played(tmp_path / "a.h5", snr_db=3.0)
    assert not read  # it has not changed since


def test_a_file_that_has_changed_is_looked_through_again(tmp_path):
    write_csi(tmp_path / "a.h5", noise(4, 1, 1))
    before = open_csi(tmp_path / "a.h5").mean_power
    write_csi(tmp_path / "a.h5", 2 * noise(5, 1, 1, seed=2))
    assert open_csi(tmp_path / "a.h5").mean_power > 2 * before


def write_spoilt(path: Path, value: complex, *place: int) -> None:
    csi = noise(4, 30, 2, 8).astype(np.complex128)
    csi[place] = value
    write_csi(path, csi, bandwidth_hz=30e6, snapshot_interval_s=0.02)


def test_a_fault_in_a_later_block_has_its_place_in_the_whole(tmp_path, monkeypatch):
    write_spoilt(tmp_path / "a.h5", np.nan, 2, 17, 1, 3)
    write_spoilt(tmp_path / "b.h5", 0, 3, 28)
    monkeypatch.setattr(csi_file, "_BYTES_AT_ONCE", 5 * 2 * 8 * 16)  # five snapshots
    with pytest.raises(SemcomError, match=r"first at \[2, 17, 1, 3\]"):
        open_csi(tmp_path / "a.h5")
    with pytest.raises(SemcomError, match=r"throughout at \[3, 28\]"):
        open_csi(tmp_path / "b.h5")


def write_group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["csi/of_nothing"] = np.zeros(3)


@pytest.mark.parametrize(
    ("write", "settings", "told"),
    [
        (lambda path: None, {}, "there is no such file"),
        (lambda path: path.mkdir(), {}, "can't be read as HDF5"),
        (lambda path: path.write_text("not HDF5"), {}, "can't be read as HDF5"),
        (write_group, {}, "no dataset csi (it has csi/of_nothing): name one by channel.dataset"),
        (lambda path: write_csi(path, noise(4, 2, 1)), {"dataset": "h"}, "no dataset h (it has csi)"),
        (lambda path: write_csi(path, noise(4, 2)), {}, "shape (4, 2): store [users, antennas"),
        (lambda path: write_csi(path, np.ones((4, 3, 3, 3))), {}, "float64 and shape (4, 3, 3, 3): store"),
        (lambda path: write_csi(path, np.ones((4, 3, 3, 2), np.int32)), {}, "has type int32"),
        (lambda path: write_csi(path, noise(4, 2, 8)), {}, "no attribute bandwidth_hz"),
        (lambda path: write_csi(path, noise(4, 2, 8), bandwidth_hz=-1), {}, "bandwidth_hz is"),
        (lambda path: write_csi(path, noise(4, 2, 8)), {"bandwidth_hz": 10e6}, "smaller grid.bandwidth_hz"),
        (lambda path: write_csi(path, noise(4, 30, 2, 1)), {}, "no attribute snapshot_interval_s"),
        (
            lambda path: write_csi(path, noise(4, 30, 2, 1)),
            {"snapshot_interval_s": 0.004},
            "10 steps of 0.02 s need 50",
        ),
        (lambda path: write_spoilt(path, np.nan, 2, 17, 1, 3), {}, "first at [2, 17, 1, 3]"),
        (lambda path: write_spoilt(path, np.inf, 0, 0, 0, 0), {}, "first at [0, 0, 0, 0]"),
        (lambda path: write_spoilt(path, 0, 3, 5), {}, "zero throughout at [3, 5], which no path"),
        (lambda path: write_csi(path, 0 * noise(4, 2, 1)), {}, "zero throughout at [0]"),
        (lambda path: write_spoilt(path, 1e200, 0, 0), {}, "scale it down"),
    ],
)
def test_a_file_that_is_no_channel_is_refused_in_one_line(tmp_path, write, settings, told):
    write(tmp_path / "a.h5")
    with pytest.raises(SemcomError) as caught:
        played(tmp_path / "a.h5", **settings)
    assert told in str(caught.value)
    assert f"channel.path = {tmp_path / 'a.h5'}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not REAL_FILE.exists(), reason=f"{REAL_FILE} is not there: an optional measurement file")
def test_a_file_of_quadriga_plays_as_it_is():
    channel = played(REAL_FILE, num_devices=300, snr_db=10.0)
    assert (channel.file.num_users, channel.file.num_antennas) == (2048, 32)
    sinr = channel.sinr(0)[:, 0] / 32
    assert abs(sinr.mean() / 10 - 1) < 4.5 * sinr.std() / 10 / np.sqrt(300)
