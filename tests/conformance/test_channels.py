"""Every channel of the catalogue keeps the Channel contract and leaves the process as it found it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from channels.catalogue import CHANNELS, ChannelConfig, make_channel
from channels.csi_file import write_csi
from channels.downlink import DownlinkChannel
from channels.grid import GridConfig, ResourceGrid
from channels.response import resource_block_centres_hz
from channels.scenes import SCENES
from channels.sionna_scope import sionna_scope
from semcom.contracts import Channel
from semcom.rng import Streams

GRID = ResourceGrid(GridConfig())
NUM_DEVICES = 9
STREAMS = Streams(7)
# Uniform placement and random line of sight, so that each random part of a channel is exercised.
VARIED: dict[str, dict[str, float | str]] = {
    "indoor-factory": {"placement": "uniform", "line_of_sight": "random"},
    "umi": {"indoor_probability": 0.3, "num_base_station_antennas": 2},
    "uma": {"num_cells": 7, "devices_per_cell": 2, "max_distance_m": 250, "num_base_station_antennas": 2},
    "rician": {"num_base_station_antennas": 2},
    "tdl-c": {"num_base_station_antennas": 2},
    "cdl-c": {"num_base_station_antennas": 2},
    "inf-sh": {"num_base_station_antennas": 2},
    "recorded": {},  # and the file that the fixture writes, which has two antennas
    "street-canyon": {"num_base_station_antennas": 2, "num_rays": 5000, "max_depth": 2},
}
# The other scenes are the same code over larger meshes: tests/conformance/test_scenes.py loads them.
MODELS = [name for name in CHANNELS if name == "street-canyon" or name not in SCENES]

# The way back over one channel of each kind: flat, of taps, of a cell.
DOWNLINKS = tuple(f"downlink of {name}" for name in ("indoor-factory", "tdl-c", "umi"))
NAMES = (*MODELS, *DOWNLINKS)

every_channel = pytest.mark.parametrize("name", NAMES)
every_fading_channel = pytest.mark.parametrize("name", [name for name in NAMES if name != "awgn"])


@pytest.fixture(scope="module", autouse=True)
def recorded_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "csi.h5"
    generator = np.random.default_rng(1)
    csi = generator.normal(size=(32, 64, 2, 12, 2)).astype(np.float32)
    write_csi(path, csi, bandwidth_hz=GRID.occupied_bandwidth_hz, snapshot_interval_s=0.02)
    VARIED["recorded"]["path"] = str(path)


def channel_of(name: str, streams: Streams = STREAMS) -> Channel:
    if name in DOWNLINKS:
        return DownlinkChannel(channel_of(name.removeprefix("downlink of "), streams), snr_offset_db=7.0)
    config = TypeAdapter(ChannelConfig).validate_python({"model": name, **VARIED.get(name, {})})
    return make_channel(config, GRID, NUM_DEVICES, num_steps=50, step_s=0.02, streams=streams)


def process_state() -> list[bytes]:
    """The state of every generator that Sionna may touch, and its settings."""
    from sionna.phy import config

    return [
        torch.get_rng_state().numpy().tobytes(),
        config.torch_rng("cpu").get_state().numpy().tobytes(),
        repr(config.np_rng.bit_generator.state).encode(),
        repr(config.py_rng.getstate()).encode(),
        repr(np.random.get_state()).encode(),  # noqa: NPY002
        repr((config.seed, config.device, config.precision)).encode(),
    ]


def fail_inside_a_scope() -> None:
    from sionna.phy import config

    with sionna_scope(12):
        torch.rand(1)
        config.precision = "double"
        raise RuntimeError("inside")


@every_channel
def test_sinr_has_the_promised_shape_and_type(name):
    channel = channel_of(name)
    assert isinstance(channel, Channel)
    assert channel.num_devices == NUM_DEVICES
    sinr = channel.sinr(3)
    assert sinr.shape == (NUM_DEVICES, GRID.num_resource_blocks)
    assert sinr.dtype == np.float32
    assert np.isfinite(sinr).all()
    assert (sinr > 0).all()


@every_channel
def test_the_response_has_the_promised_shape_and_is_what_the_sinr_says(name):
    channel = channel_of(name)
    devices = np.array([7, 2, 2])
    centres_hz = resource_block_centres_hz(GRID.num_resource_blocks, GRID.occupied_bandwidth_hz)
    frequency_hz = np.stack([centres_hz[:4], centres_hz[10:14], centres_hz[:4]])
    for step in (0, 3):
        h = channel.response(step, devices, frequency_hz, np.array([0.0, 3e-4]))
        assert h.dtype == np.complex64
        told = VARIED.get(name, {}).get("num_base_station_antennas", 1)
        num_antennas = 2 if name == "recorded" else int(told)
        assert h.shape == (3, num_antennas, 2, 4)
        power = (np.abs(h[:, :, 0]) ** 2).sum(axis=1)
        sinr = channel.sinr(step)
        np.testing.assert_allclose(power[0], sinr[7, :4], rtol=1e-4)
        np.testing.assert_allclose(power[1], sinr[2, 10:14], rtol=1e-4)
        np.testing.assert_array_equal(power[2], (np.abs(h[2, :, 0]) ** 2).sum(axis=0))
        again = channel_of(name).response(step, devices, frequency_hz, np.array([0.0, 3e-4]))
        np.testing.assert_array_equal(again, h)


@every_channel
def test_sinr_is_a_pure_function_of_the_step(name):
    steps = (0, 1, 5, 17)
    channel = channel_of(name)
    forward = {step: channel.sinr(step) for step in steps}
    again = channel_of(name)
    torch.manual_seed(99)
    for step in reversed(steps):
        np.testing.assert_array_equal(again.sinr(step), forward[step])
    for one, other in pairwise(steps):
        assert (forward[one] != forward[other]).any() or name == "awgn"


@every_fading_channel
def test_a_new_seed_replicate_or_cell_gives_a_new_channel(name):
    reference = channel_of(name).sinr(0)
    for streams in (Streams(8), Streams(7, replicate=1), Streams(7, cell=1)):
        assert (channel_of(name, streams).sinr(0) != reference).all()


@every_channel
def test_the_caller_may_write_into_the_result(name):
    channel = channel_of(name)
    first = channel.sinr(2)
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(channel.sinr(2), kept)


@every_channel
@pytest.mark.parametrize("sionna_seed", [None, 42])
def test_the_process_wide_generators_do_not_move(name, sionna_seed):
    from sionna.phy import config

    with sionna_scope(0):  # puts Sionna back as it was when this test ends
        config.seed = sionna_seed
        torch.manual_seed(5)
        torch.rand(3)
        torch.rand(3, generator=config.torch_rng("cpu"))
        before = process_state()
        channel = channel_of(name)
        channel.sinr(0)
        channel.sinr(4)
        assert process_state() == before


def test_the_scope_seeds_inside_and_restores_after_an_error():
    from sionna.phy import config

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        with sionna_scope(11):
            return torch.rand(4, generator=config.torch_rng("cpu")), torch.rand(4)

    first = draw()
    torch.rand(5)
    before = process_state()
    assert all(torch.equal(*pair) for pair in zip(first, draw(), strict=True))
    with pytest.raises(RuntimeError, match="inside"):
        fail_inside_a_scope()
    assert process_state() == before


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "umi", "min_distance_m": 50, "max_distance_m": 40},
        {"model": "rma", "carrier_hz": 60e9},
        {"model": "uma", "num_cells": 3},
        {"model": "umi", "num_cells": 7, "max_distance_m": 120},
        {"model": "umi", "num_cells": 7, "inter_site_distance_m": 30, "min_distance_m": 15},
        {"model": "recorded"},
        {"model": "indoor-factory", "base_station_height_m": 1.0},
        {"model": "indoor-factory", "snr_db": 3},
        {"model": "tdl-f"},
        {"model": "munich", "carrier_hz": 60e9},
        {"model": "munich", "speed_m_per_s": 51},
        {"model": "munich", "base_station_m": [0, 0]},
        {"model": "munich", "base_station_m": [0, 0, 3000]},
    ],
)
def test_a_wrong_configuration_is_refused(settings):
    with pytest.raises(ValidationError):
        TypeAdapter(ChannelConfig).validate_python(settings)
