"""Target encoders: the moving average by hand, its schedule's ends, and no gradient."""

import copy
import pickle

import pytest
import torch
from torch import nn

from semcom.contracts import SemcomError
from semcom.targets import EmaTarget, StopGradientTarget


def make_encoder(weight: float) -> nn.Sequential:
    encoder = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    nn.init.constant_(encoder[0].weight, weight)
    return encoder


def test_an_update_is_the_moving_average():
    online = make_encoder(1.0)
    target = EmaTarget(online, momentum_start=0.9, momentum_end=0.9, num_steps=10)
    nn.init.constant_(online[0].weight, 2.0)
    target.update(online, step=0)
    torch.testing.assert_close(target.encoder[0].weight, torch.full((2, 2), 0.9 * 1 + 0.1 * 2))
    target.update(online, step=1)
    torch.testing.assert_close(target.encoder[0].weight, torch.full((2, 2), 0.9 * 1.1 + 0.1 * 2))


def test_buffers_are_copied_whole():
    online = make_encoder(1.0)
    target = EmaTarget(online, momentum_start=0.9, num_steps=10)
    online(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    assert not torch.equal(target.encoder[1].running_mean, online[1].running_mean)
    target.update(online, step=0)
    assert torch.equal(target.encoder[1].running_mean, online[1].running_mean)
    assert int(target.encoder[1].num_batches_tracked) == 1


@pytest.mark.parametrize(("schedule", "quarter"), [("linear", 0.9 + 0.25 * 0.1), ("cosine", 0.9146446609)])
def test_the_schedule_runs_from_start_to_end(schedule, quarter):
    target = EmaTarget(make_encoder(1.0), 0.9, 1.0, num_steps=100, schedule=schedule)
    assert target.momentum(0) == 0.9
    assert target.momentum(25) == pytest.approx(quarter)
    assert target.momentum(50) == pytest.approx(0.95)
    assert target.momentum(100) == target.momentum(1000) == 1.0


def test_momenta_of_zero_and_one_copy_and_freeze():
    online, start = make_encoder(2.0), make_encoder(1.0)
    follower, statue = EmaTarget(start, 0.0, 0.0, 1), EmaTarget(start, 1.0, 1.0, 1)
    for target in (follower, statue):
        target.update(online, step=0)
    assert torch.equal(follower.encoder[0].weight, online[0].weight)
    assert torch.equal(statue.encoder[0].weight, start[0].weight)


def test_the_copy_is_apart_from_the_online_encoder():
    online = make_encoder(1.0)
    target = EmaTarget(online, 0.5, 0.5, 1)
    observation = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    before = target(observation)
    nn.init.constant_(online[0].weight, 7.0)
    assert torch.equal(target(observation), before)
    assert all(parameter.requires_grad for parameter in online.parameters())
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_looking_at_a_target_does_not_move_its_statistics():
    target = EmaTarget(make_encoder(1.0), 0.5, 0.5, 1).train()
    state = copy.deepcopy(target.state_dict())
    target(torch.tensor([[1.0, -1.0], [0.5, 2.0]]))
    assert all(torch.equal(value, state[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize("make", [lambda encoder: EmaTarget(encoder, 0.9, 1.0, 5), StopGradientTarget])
def test_no_gradient_passes_a_target(make):
    online = make_encoder(1.0)
    observation = torch.tensor([[1.0, -1.0], [0.5, 2.0]], requires_grad=True)
    z = make(online)(observation)
    assert not z.requires_grad
    assert online(observation).requires_grad


def test_a_stop_gradient_target_is_the_online_encoder():
    online = make_encoder(1.0).eval()
    target = StopGradientTarget(online)
    nn.init.constant_(online[0].weight, 3.0)
    observation = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    assert torch.equal(target(observation), online(observation))
    other = make_encoder(-1.0).eval()
    target.update(other, step=0)
    assert torch.equal(target(observation), other(observation))


def test_an_ema_target_is_restored_from_its_state_and_pickled():
    online = make_encoder(1.0)
    target = EmaTarget(online, 0.9, 1.0, 5)
    twin = EmaTarget(make_encoder(5.0), 0.9, 1.0, 5)
    twin.load_state_dict(target.state_dict())
    nn.init.constant_(online[0].weight, 2.0)
    for copied in (target, twin, clone := pickle.loads(pickle.dumps(target))):
        copied.update(online, step=3)
    assert torch.equal(twin.encoder[0].weight, target.encoder[0].weight)
    assert torch.equal(clone.encoder[0].weight, target.encoder[0].weight)


@pytest.mark.parametrize(
    "wrong", [{"momentum_start": 1.1}, {"momentum_end": -0.1}, {"num_steps": 0}, {"schedule": "step"}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SemcomError, match=next(iter(wrong))):
        EmaTarget(make_encoder(1.0), **wrong)
