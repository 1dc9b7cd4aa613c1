"""Random streams: named by purpose, device and step, and by nothing else."""

from itertools import product
from math import sqrt

import numpy as np
import pytest
import torch
from scipy import stats

from semcom.rng import Streams, stream_seed


def test_every_part_of_the_name_makes_another_stream():
    names = list(product((0, 1), ("noise", "noise2"), (0, 1), (0, 1), (0, 1, -1), (0, 1, 2**40)))
    seeds = {
        stream_seed(base, purpose, cell=cell, replicate=replicate, device=device, step=step)
        for base, purpose, cell, replicate, device, step in names
    }
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_stream_is_the_same_today_as_when_its_records_were_made():
    assert stream_seed(0, "noise") == 5523759850365926236
    assert Streams(0).seed("noise") == 5523759850365926236


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_rows_depend_on_their_device_alone(draw):
    streams = Streams(base_seed=7, cell=1, replicate=2)
    whole = getattr(streams, draw)("noise", [0, 1, 2, 3], 5, (8,))
    parts = getattr(Streams(7, 1, 2), draw)("noise", [3, 1], 5, (8,))
    assert torch.equal(parts, whole[[3, 1]])
    assert len({tuple(row.tolist()) for row in whole}) == 4
    for other in (Streams(8, 1, 2), Streams(7, 2, 2), Streams(7, 1, 3)):
        assert not torch.equal(getattr(other, draw)("noise", [0, 1, 2, 3], 5, (8,)), whole)
    assert not torch.equal(getattr(streams, draw)("noise", [0, 1, 2, 3], 6, (8,)), whole)
    assert not torch.equal(getattr(streams, draw)("fading", [0, 1, 2, 3], 5, (8,)), whole)


def test_drawing_touches_no_global_generator():
    torch_state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 the global generator is what is watched
    streams = Streams(1)
    streams.normal("noise", [0], 0, (3,))
    streams.uniform("noise", [0], 0)
    streams.torch_generator("noise")
    streams.numpy_generator("noise").normal()
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_generators_of_one_name_agree():
    streams = Streams(3)
    first, second = (torch.rand(4, generator=streams.torch_generator("init", 2)) for _ in range(2))
    assert torch.equal(first, second)
    assert streams.numpy_generator("init").integers(2**60) == streams.numpy_generator("init").integers(2**60)


def ks_distance(draws: torch.Tensor, cdf) -> float:
    return float(stats.kstest(draws.flatten().double().numpy(), cdf).statistic)


@pytest.mark.parametrize("per_device", [1, 40])
def test_draws_have_their_distribution(per_device):
    # One draw from each of many streams shows the seeds' quality, many from each the generator's.
    num_devices = 4000
    critical = 2.0 / sqrt(num_devices * per_device)  # P(KS > 2.0 / sqrt(n)) = 7e-4
    devices = range(num_devices)
    streams = Streams(11)
    normal = streams.normal("noise", devices, 3, (per_device,))
    uniform = streams.uniform("noise", devices, 3, (per_device,))
    assert ks_distance(normal, stats.norm.cdf) < critical
    assert ks_distance(uniform, stats.uniform.cdf) < critical
    # The power check: a shift of a tenth of a deviation and a tenth of the range missing are seen.
    assert ks_distance(normal + 0.1, stats.norm.cdf) > critical
    assert ks_distance(0.9 * uniform, stats.uniform.cdf) > critical


def test_neighbouring_devices_and_steps_are_uncorrelated():
    num_draws = 4000
    streams = Streams(5)
    here = streams.normal("noise", range(num_draws), 0, ())
    next_step = streams.normal("noise", range(num_draws), 1, ())
    limit = 4.5 / sqrt(num_draws)
    assert abs(float((here * next_step).mean())) < limit
    assert abs(float((here[1:] * here[:-1]).mean())) < limit
    assert abs(float((here * (here + next_step)).mean())) > limit  # the power check


def test_a_devices_indexed_number_does_not_depend_on_who_else_is_asked_for():
    streams = Streams(5)
    together = streams.indexed_uniform("luck", np.arange(1000), 3)
    assert together.dtype == np.float64
    chosen = np.array([999, 0, 17])
    np.testing.assert_array_equal(streams.indexed_uniform("luck", chosen, 3), together[chosen])
    assert streams.indexed_uniform("luck", np.arange(0), 3).shape == (0,)
    for other in (
        streams.indexed_uniform("luck", np.arange(1000), 4),
        streams.indexed_uniform("other", np.arange(1000), 3),
        Streams(6).indexed_uniform("luck", np.arange(1000), 3),
    ):
        assert (other != together).all()
        assert abs(np.corrcoef(together, other)[0, 1]) < 4.5 / sqrt(1000)
    critical = 2.0 / sqrt(1000)
    assert ks_distance(torch.from_numpy(together), stats.uniform.cdf) < critical
    assert ks_distance(torch.from_numpy(0.9 * together), stats.uniform.cdf) > critical


def test_a_substream_is_named_and_shares_nothing_with_what_it_came_from():
    streams = Streams(3, cell=1, replicate=2)
    downlink = streams.substream("downlink")
    assert downlink == Streams(3, 1, 2).substream("downlink")
    others = [
        streams,
        streams.substream("transfer"),
        downlink.substream("downlink"),
        *(other.substream("downlink") for other in (Streams(4, 1, 2), Streams(3, 0, 2), Streams(3, 1, 0))),
    ]
    mine = downlink.uniform("nr-tb", range(500), 3).numpy()
    for other in others:
        # Uncorrelated too: |r| of 500 pairs has a standard deviation of 0.045.
        assert abs(np.corrcoef(mine, other.uniform("nr-tb", range(500), 3).numpy())[0, 1]) < 4.5 * 0.045
