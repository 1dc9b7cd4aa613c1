"""Sub-arrays over the fronthaul: what is sent, what is missing, and what the central unit makes of it."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch

from channels.links.erasure import ErasureConfig, ErasureLink
from nodes.cluster import Cluster
from nodes.contracts import CellSpec
from nodes.schedulers import PeriodicConfig
from nodes.simulation import simulate
from scenarios.elaa.methods import (
    FusingReceiver,
    Patch,
    PatchFusion,
    SubArraySender,
    channels_of,
    raw_csi,
    raw_values,
)
from scenarios.elaa.world import SubArrayWorld
from semcom.codecs.floating import Float32Codec
from semcom.contracts import SemcomError
from semcom.rng import Streams

NUM_USERS, NUM_STEPS, NUM_SUB_ARRAYS, SIZE = 3, 4, 4, 2
NUM_DEVICES = NUM_USERS * NUM_SUB_ARRAYS


def pilots() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Channels with some sub-arrays hidden; the last user is hidden throughout in step 2."""
    shape = NUM_USERS, NUM_STEPS, NUM_SUB_ARRAYS * SIZE
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(shape, dtype=torch.complex64, generator=generator)
    hidden = torch.rand(NUM_USERS, NUM_STEPS, NUM_SUB_ARRAYS, generator=generator) < 0.4
    hidden[2, 2] = True
    visible = ~hidden.repeat_interleave(SIZE, dim=2)
    return torch.where(visible, y, 0), visible, torch.full(shape[:2], 0.1)


def zero_fill(y: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return torch.where(known, y, 0)


def make_world(shared, devices: np.ndarray) -> SubArrayWorld:
    return SubArrayWorld(*pilots(), devices, NUM_SUB_ARRAYS)


def make_sender(shared, devices: np.ndarray) -> SubArraySender:
    return SubArraySender(raw_csi, Float32Codec(2 * SIZE), 1)


def make_receiver(shared) -> FusingReceiver:
    codec = Float32Codec(2 * SIZE)
    return FusingReceiver(PatchFusion(raw_values, zero_fill), codec, 1, NUM_USERS, NUM_SUB_ARRAYS)


def cell(probability: float, group_size: int = 5) -> CellSpec:
    return CellSpec(
        num_devices=NUM_DEVICES,
        group_size=group_size,
        streams=Streams(0),
        scheduler=PeriodicConfig(interval_steps=1),
        make_world=make_world,
        make_sender=make_sender,
        make_receiver=make_receiver,
        make_link=partial(ErasureLink, ErasureConfig(probability=probability)),
    )


def believed(probability: float, group_size: int = 5) -> torch.Tensor:
    with Cluster(0) as cluster:
        outcome = simulate([cell(probability, group_size)], NUM_STEPS, cluster)[0]
    return channels_of(torch.from_numpy(outcome.world["belief"]), NUM_SUB_ARRAYS)


def test_without_erasures_it_is_what_the_array_sees():
    torch.testing.assert_close(believed(0.0), pilots()[0], atol=0, rtol=0)


def test_what_is_erased_is_missing_as_a_whole_and_the_rest_stays():
    y, visible, _ = pilots()
    h_hat = believed(0.5)
    parts, truth = (each.unflatten(2, (NUM_SUB_ARRAYS, SIZE)) for each in (h_hat, y))
    there = (parts == truth).all(dim=3)
    assert bool((there | (parts == 0).all(dim=3)).all())
    seen = visible[..., ::SIZE]
    lost = seen & ~there
    assert 0 < int(lost.sum()) < int(seen.sum())
    # However the devices are grouped.
    assert torch.equal(believed(0.5, group_size=12), h_hat)


def test_a_sub_array_that_sees_nothing_sends_nothing():
    _, visible, _ = pilots()
    world, sender = make_world({}, np.arange(NUM_DEVICES)), make_sender({}, np.arange(NUM_DEVICES))
    rows = np.arange(NUM_DEVICES)
    for step in range(NUM_STEPS):
        sent, payloads = sender.encode(step, rows, world.observe(step, rows))
        expected = visible[:, step, ::SIZE].flatten().nonzero()[:, 0]
        assert sent.tolist() == expected.tolist()
        assert len(payloads) == len(sent)
    hidden = world.observe(2, np.arange(8, 12))
    assert not hidden.visible.any()
    sent, payloads = sender.encode(2, np.arange(8, 12), hidden)
    assert (len(sent), payloads) == (0, [])


def test_a_fusion_is_told_which_tokens_arrived_and_an_unheard_user_s_channel_is_zero():
    calls = []

    def fuse(tokens: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
        calls.append((tokens.clone(), arrived.clone()))
        mean = tokens.sum(dim=1) / arrived.sum(dim=1, keepdim=True)  # NaN where none arrived
        return torch.complex(mean, mean).repeat(1, NUM_SUB_ARRAYS)

    codec = Float32Codec(3)
    receiver = FusingReceiver(fuse, codec, 1, NUM_USERS, NUM_SUB_ARRAYS)
    tokens = torch.arange(9.0).reshape(3, 3)
    bits = receiver.update(0, np.array([1, 6, 7]), codec.encode(tokens))
    assert bits.tolist() == [96.0] * 3
    command = receiver.command(0)
    assert command.shape == (NUM_DEVICES, 2 * 3)
    assert calls[0][1].nonzero().tolist() == [[0, 1], [1, 2], [1, 3]]
    assert torch.equal(calls[0][0][0, 1], tokens[0])
    assert torch.equal(command[4].reshape(3, 2)[:, 0], tokens[1:].mean(dim=0))
    assert float(command[8:].abs().max()) == 0
    # The next step begins with none.
    assert float(receiver.command(1).abs().max()) == 0
    assert not calls[1][1].any()


def test_shapes_that_do_not_match_are_refused():
    y, visible, noise_var = pilots()
    with pytest.raises(SemcomError, match="3 sub-arrays"):
        SubArrayWorld(y, visible, noise_var, np.arange(9), 3)
    with pytest.raises(SemcomError, match="don't match"):
        SubArrayWorld(y, visible[:, :2], noise_var, np.arange(12), 4)
    receiver = FusingReceiver(lambda t, a: torch.zeros(2, 8), Float32Codec(3), 1, NUM_USERS, NUM_SUB_ARRAYS)
    with pytest.raises(SemcomError, match=r"\[3, M\]"):
        receiver.command(0)


def test_both_sides_can_be_saved_in_the_middle():
    receiver, codec = make_receiver({}), Float32Codec(2 * SIZE)
    y = torch.tensor([[1 + 2j, 3j], [-1, 0.5]], dtype=torch.complex64)
    patch = Patch(y, y != 0, torch.ones(2), torch.arange(2))
    receiver.update(0, np.array([0, 5]), codec.encode(raw_csi(patch)))
    copy = pickle.loads(pickle.dumps(receiver))
    assert torch.equal(copy.command(0), receiver.command(0))
