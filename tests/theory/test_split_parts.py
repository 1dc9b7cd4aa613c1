"""The devices' part of a model as bytes: whole or as differences, and second moments never at nothing."""

import pytest
import torch

from nodes.training.split_parts import MOMENTS, PartCoder
from nodes.training.updates import Float32Update, QuantisedUpdate

SECOND = f"{MOMENTS}optimizer.0.exp_avg_sq"


def part(seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(30, 10, generator=generator)
    # From 1e-12 to about 10: the roots differ by six orders of magnitude.
    second = torch.logspace(-12, 1, 300).reshape(30, 10) * spread
    return {"w": weight, f"{MOMENTS}optimizer.0.exp_avg": 0.1 * weight, SECOND: second}


def test_without_loss_a_part_comes_back_bit_for_bit():
    coder = PartCoder(Float32Update())
    for held in (None, part(0)):
        payload = coder.encode(part(1), held, torch.Generator())
        found = coder.decode(payload, held, part(1))
        assert all(torch.equal(found[name], tensor) for name, tensor in part(1).items())


def test_who_holds_nothing_like_it_is_sent_the_whole():
    coder, generator = PartCoder(QuantisedUpdate(bits=8)), torch.Generator()
    bare = {"w": part(0)["w"]}
    whole, again = (coder.encode(part(1), held, generator) for held in (None, bare))
    assert whole == again
    assert len(coder.encode(part(1), part(0), generator)) < len(whole) / 2
    found = coder.decode(whole, bare, part(1))
    assert torch.equal(found["w"], part(1)["w"])


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_second_moments_stay_near_and_above_nothing(spread):
    coder, generator = PartCoder(QuantisedUpdate(bits=8)), torch.Generator()
    held, wanted = part(0), part(1, spread)
    found = coder.decode(coder.encode(wanted, held, generator), held, wanted)
    roots, goal = found[SECOND].sqrt(), wanted[SECOND].sqrt()
    # Half a step of 8 bits over the largest difference, or the floor.
    assert (roots - goal).abs().max() <= goal.max() / 254 + 1e-6
    assert roots.min() >= roots.max() / 254 * (1 - 1e-5)
    assert torch.allclose(found["w"], wanted["w"], atol=float((wanted["w"] - held["w"]).abs().max()) / 250)
