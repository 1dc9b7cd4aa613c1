"""Interference against closed forms for known gains, the hexagonal layout, and a simulation of its own."""

import numpy as np
import pytest
import torch

from channels.catalogue import make_channel
from channels.grid import GridConfig, ResourceGrid
from channels.hexagons import is_in_hexagon, station_sites_m
from channels.interference import InterferedChannel
from channels.response import resource_block_centres_hz
from channels.sionna_scope import sionna_scope
from channels.system_level import CellConfig, SystemLevelSource
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())
NUM_BLOCKS, BANDWIDTH_HZ = GRID.num_resource_blocks, GRID.occupied_bandwidth_hz
HALF_DB = 10**0.05


class StillChannel:
    """A stub: each device keeps one response [K, M], whatever step, time and frequency."""

    def __init__(self, h: np.ndarray) -> None:
        self.h = h.astype(np.complex64)
        self.num_devices = len(h)

    def sinr(self, step: int) -> np.ndarray:
        power = (np.abs(self.h) ** 2).sum(axis=1)
        return np.repeat(power[:, None], NUM_BLOCKS, axis=1)

    def response(self, step, devices, frequency_hz, time_s):
        h = self.h[devices][:, :, None, None]
        return np.broadcast_to(h, (*h.shape[:2], len(time_s), frequency_hz.shape[1])).copy()


def still(h: list[list[complex]]) -> StillChannel:
    return StillChannel(np.array(h))


def interfered(
    serving: StillChannel, others: StillChannel, per_cell: int = 1, load: float = 1.0, seed: int = 4
) -> InterferedChannel:
    return InterferedChannel(serving, others, per_cell, load, NUM_BLOCKS, BANDWIDTH_HZ, Streams(seed))


def test_the_sinr_of_known_gains_by_hand():
    # Antenna 0: 9 / (1 + 4 + 1), antenna 1: 16 / (1 + 0.25 + 9); the second device 1 / 6 and 4 / 10.25.
    channel = interfered(still([[3, 4j], [1, 2]]), still([[2j, 0.5], [1, 3]]))
    expected = [9 / 6 + 16 / 10.25, 1 / 6 + 4 / 10.25]
    for step in (0, 5):
        sinr = channel.sinr(step)
        np.testing.assert_allclose(sinr, np.tile(np.array(expected)[:, None], NUM_BLOCKS), rtol=1e-6)
    # The power check: interferers half a dB stronger are seen.
    louder = interfered(still([[3, 4j], [1, 2]]), StillChannel(HALF_DB**0.5 * np.array([[2j, 0.5], [1, 3]])))
    assert (np.abs(louder.sinr(0)[:, 0] / expected - 1) > 0.05).all()


def test_the_response_keeps_its_phase_and_knows_the_edges_of_the_blocks():
    channel = interfered(still([[3 + 3j]]), still([[5.0]]), load=0.5)
    centres_hz = resource_block_centres_hz(NUM_BLOCKS, BANDWIDTH_HZ)
    width_hz = BANDWIDTH_HZ / NUM_BLOCKS
    for offset in (-0.499, 0.0, 0.499):
        frequency_hz = (centres_hz + offset * width_hz)[None]
        h = channel.response(2, np.array([0]), frequency_hz, np.array([0.0, 1e-4]))
        np.testing.assert_allclose(np.abs(h[0, 0, 0]) ** 2, channel.sinr(2)[0], rtol=1e-5)
        np.testing.assert_allclose(np.angle(h), np.pi / 4, rtol=1e-5)
    assert set(np.round(channel.sinr(2)[0], 4)) == {np.float32(18), np.float32(round(18 / 26, 4))}


@pytest.mark.parametrize("load", [0.1, 0.5])
def test_the_mean_interference_is_proportional_to_the_load(load):
    powers = np.array([1.0, 4.0, 9.0])
    channel = interfered(still([[1]]), StillChannel(np.sqrt(powers)[:, None]), load=load)
    received = np.stack([channel.interference(step)[0] for step in range(400)])
    deviation = np.sqrt(load * (1 - load) * (powers**2).sum() / received.size)
    assert abs(received.mean() - load * powers.sum()) < 4.5 * deviation
    assert abs(received.mean() - load * HALF_DB * powers.sum()) > 4.5 * deviation
    # The cells, blocks and steps are independent: the variance is that of a sum of such coins.
    spread = received.var() / (load * (1 - load) * (powers**2).sum())
    assert abs(spread - 1) < 0.1
    for one, other in ((received[1:], received[:-1]), (received[:, 1:], received[:, :-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4.5 / np.sqrt(one.size)


def test_the_devices_of_a_cell_take_turns_equally_often():
    # Two cells of four; powers of two tell from a sum which two devices sent.
    powers = np.array([1.0, 2, 4, 8, 16, 32, 64, 128])
    channel = interfered(still([[1]]), StillChannel(np.sqrt(powers)[:, None]), per_cell=4)
    received = np.concatenate([np.rint(channel.interference(step)[0]) for step in range(200)]).astype(int)
    for cell in (received % 16, received // 16):
        counts = np.array([(cell == power).sum() for power in (1, 2, 4, 8)])
        assert counts.sum() == received.size
        deviation = np.sqrt(received.size * 0.25 * 0.75)
        assert (np.abs(counts - received.size / 4) < 4.5 * deviation).all()


def cell(num_devices: int = 40, seed: int = 3, **settings):
    config = CellConfig.model_validate(settings)
    return make_channel(config, GRID, num_devices, 10, 0.02, Streams(seed))


def test_without_load_a_network_is_the_single_cell_bit_for_bit():
    alone, silent, busy = (
        cell(model="umi", **more)
        for more in ({}, {"num_cells": 7, "load": 0}, {"num_cells": 7, "load": 1e-9})
    )
    devices, frequency_hz, time_s = np.arange(5), np.tile([-1e6, 2e6], (5, 1)), np.array([0.0, 1e-4])
    for step in (0, 3):
        np.testing.assert_array_equal(silent.sinr(step), alone.sinr(step))
        response = alone.response(step, devices, frequency_hz, time_s)
        np.testing.assert_array_equal(silent.response(step, devices, frequency_hz, time_s), response)
        # Neighbours that are there and silent change nothing either.
        assert isinstance(busy, InterferedChannel)
        assert not busy.interference(step).any()
        np.testing.assert_allclose(busy.sinr(step), alone.sinr(step), rtol=1e-5)
        np.testing.assert_array_equal(busy.response(step, devices, frequency_hz, time_s), response)


def test_neighbours_are_no_copies_of_our_own_devices():
    network = cell(60, model="umi", num_cells=7, devices_per_cell=10)
    assert isinstance(network, InterferedChannel)
    sources = (network._serving._source, network._interferers._source)  # type: ignore[attr-defined]
    own_m, others_m = (source._model._scenario.ut_loc[0, :, :2] for source in sources)
    with sionna_scope(0):
        sites_m = station_sites_m(7, 200.0)
    relative_m = others_m - sites_m[1:].repeat_interleave(10, dim=0)
    assert float((own_m - relative_m).norm(dim=1).min()) > 1e-2
    # Nor do their rays: delays relative to the first path are the same only with the same seed.
    assert sources[0]._ray_seed != sources[1]._ray_seed


def test_interference_never_helps_and_more_cells_are_worse():
    told = {"model": "umi", "num_base_station_antennas": 2}
    alone, ring = cell(**told), cell(num_cells=7, load=0.3, **told)
    assert (ring.sinr(2) <= alone.sinr(2) * (1 + 1e-5)).all()
    assert isinstance(ring, InterferedChannel)
    free = (ring.interference(2) == 0).all(axis=0)
    assert 0 < free.sum() < NUM_BLOCKS
    np.testing.assert_allclose(ring.sinr(2)[:, free], alone.sinr(2)[:, free], rtol=1e-5)
    assert (ring.sinr(2)[:, ~free] < 0.999 * alone.sinr(2)[:, ~free]).all()


def positions_m(config: CellConfig, num_devices: int, *, neighbours: bool) -> torch.Tensor:
    source = SystemLevelSource(config, num_devices, Streams(6), neighbours=neighbours)
    return source._model._scenario.ut_loc[0, :, :2].to(torch.float64)


@pytest.mark.parametrize("num_cells", [7, 19])
def test_devices_fill_the_hexagon_of_their_nearest_station(num_cells):
    apart_m, inner_m, per_cell = 200.0, 10.0, 60
    config = CellConfig(num_cells=num_cells, devices_per_cell=per_cell, max_distance_m=115)
    with sionna_scope(0):
        sites_m = station_sites_m(num_cells, apart_m).to(torch.float64)
    assert not sites_m[0].any()
    around = torch.cdist(sites_m, sites_m) + 1e9 * torch.eye(num_cells)
    np.testing.assert_allclose(around.min(dim=1).values, apart_m, rtol=1e-5)
    others = positions_m(config, per_cell * (num_cells - 1), neighbours=True)
    own = positions_m(config, 600, neighbours=False)
    nearest = torch.cdist(others, sites_m).argmin(dim=1)
    np.testing.assert_array_equal(nearest, 1 + np.arange(len(others)) // per_cell)
    assert (torch.cdist(own, sites_m).argmin(dim=1) == 0).all()
    # E r^2 of a hexagon is 5/36 of the square of its width; here the inner disc is left out.
    area, square = np.sqrt(3) / 2 * apart_m**2, 5 / 36 * apart_m**2
    disc = np.pi * inner_m**2
    expected = (area * square - disc * inner_m**2 / 2) / (area - disc)
    for relative in (own, others - sites_m[nearest]):
        radius = relative.square().sum(dim=1)
        deviation = float(radius.std()) / np.sqrt(len(radius))
        assert abs(float(radius.mean()) - expected) < 4.5 * deviation
        assert float(radius.min()) >= inner_m**2 * (1 - 1e-5)
        assert float(radius.max()) > (apart_m / 2) ** 2  # the corners are not left empty
        # The power check: a disc that reaches as far as the corners has E r^2 = 115^2 / 2.
        assert abs(float(radius.mean()) - 115**2 / 2) > 4.5 * deviation


def test_the_hexagon_by_hand():
    # Edges at 100 m towards 30, 90, ... degrees, corners at 115.47 m towards 0, 60, ...
    points = torch.tensor([[115.0, 0.0], [116.0, 0.0], [0.0, 99.0], [0.0, 101.0], [-57.0, -99.0]])
    assert is_in_hexagon(points, 200.0).tolist() == [True, False, True, False, True]


def test_the_median_sinr_falls_with_the_load_as_in_a_simulation_of_its_own():
    """The same gains of 60 UMa devices at rest and their neighbours, but coins that numpy throws."""
    num_steps, num_runs, per_cell = 60, 20, 8
    medians_db = []
    generator = np.random.default_rng(2)
    for load in (0.25, 0.5, 1.0):
        channel = cell(
            60,
            model="uma",
            num_cells=7,
            devices_per_cell=per_cell,
            max_distance_m=288,
            speed_m_per_s=0,
            load=load,
        )
        assert isinstance(channel, InterferedChannel)
        snr, gain = channel._serving.sinr(0), channel._interferers.sinr(0).reshape(6, per_cell, NUM_BLOCKS)
        shape = (num_runs, num_steps, 6, NUM_BLOCKS)
        sender = generator.integers(per_cell, size=shape)
        received = gain[np.arange(6)[:, None], sender, np.arange(NUM_BLOCKS)]
        total = ((generator.random(shape) < load) * received).sum(axis=2)
        sinr_db = 10 * np.log10(snr[:, None, None] / (1 + total))  # [K, runs, steps, R]
        of_runs_db = np.median(sinr_db, axis=(0, 2, 3))
        expected_db = np.median(sinr_db)
        tolerance_db = 4.5 * of_runs_db.std()
        found_db = np.median(10 * np.log10([channel.sinr(step) for step in range(num_steps)]))
        assert abs(found_db - expected_db) < tolerance_db < 0.5
        medians_db.append(found_db)
    # The power check: from load to load the median falls by more than the tolerance.
    assert medians_db[0] - medians_db[1] > 0.5
    assert medians_db[1] - medians_db[2] > 0.5
