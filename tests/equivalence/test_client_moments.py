"""What clients keep between rounds: put in place as state dicts put it, stacked in checkpoints."""

import pytest
import torch
from federated_setups import make_stage

from nodes.training.stacking import stack, unstack
from semcom.train import Training, copy_into


def _training(optimizer, num_done):
    stage = make_stage(optimizer=optimizer)
    training = Training(
        stage.module, stage.batch_loss, stage.num_steps, 1e-2, stage.generator, optimizer=optimizer
    )
    for _ in range(num_done):
        training.step()
    return training


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_moments_are_those_of_state_dicts(optimizer):
    """Named and numbered as in a state dict, bit for bit; none is left of a younger training."""
    training, other = _training(optimizer, 3), _training(optimizer, 1)
    state = training.state()
    other.load(state)
    for kind, each in training._optimizers.items():
        expected = each.state_dict()["state"]
        told = {
            f"{kind}.{index}.{name}": value
            for index, moments in expected.items()
            for name, value in moments.items()
        }
        assert told
        assert all(torch.equal(state[name], value) for name, value in told.items())
        found = other._optimizers[kind].state_dict()["state"]
        assert found.keys() == expected.keys()
        for index, moments in expected.items():
            assert all(torch.equal(found[index][name], value) for name, value in moments.items())
    training.step()
    other.load(_training(optimizer, 0).state())
    assert not any(each.state_dict()["state"] for each in other._optimizers.values())


def test_a_model_is_put_in_place_without_sharing_its_memory():
    module, given = make_stage().module, make_stage(seed=1).module
    tensors = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    copy_into(module, tensors)
    with torch.no_grad():
        next(given.parameters()).zero_()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, tensors[name])
        assert tensor.data_ptr() != tensors[name].data_ptr()
    with pytest.raises(KeyError):
        copy_into(module, {"other": torch.zeros(1)})


def test_stacks_come_apart_again():
    """Clients that keep different things, and the same thing in different shapes and types."""
    kept = {
        "0.training.generator": torch.Generator().manual_seed(0).get_state(),
        "12.training.generator": torch.Generator().manual_seed(1).get_state(),
        "3.memory": torch.tensor([1.0, 2.0]),
        "12.memory": torch.zeros(0),
        "0.memory": torch.tensor([3.0, 4.0]),
        "7.training.num_done": torch.tensor(5),
    }
    stacked = stack(kept)
    assert len(stacked) == 2 * 4
    back = unstack(stacked)
    assert back.keys() == kept.keys()
    assert all(
        torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in kept.items()
    )
    # A random stream reads a view from where the whole begins.
    assert all(tensor.storage_offset() == 0 for tensor in back.values())
    assert unstack(stack({})) == {}
