"""What a step costs a device: operations and bytes worked out by hand, and nothing moved by measuring."""

import pytest
import torch
from federated_setups import federated, make_stage, shares
from split_setups import split, split_stage
from torch import nn

from nodes.training.costs import stage_cost, step_cost
from semcom.contracts import SemcomError
from semcom.samples import Samples
from semcom.train import Stage

BATCH, INPUT, HIDDEN, OUTPUT = 16, 7, 11, 3


class TwoMaps(nn.Module):
    """A device's linear map and one that is elsewhere."""

    def __init__(self):
        super().__init__()
        self.device = nn.Linear(INPUT, HIDDEN)
        self.rest = nn.Linear(HIDDEN, OUTPUT)

    def forward(self, x):
        return self.rest(self.device(x))


def linear_stage(grows=False, optimizer="adamw"):
    module = TwoMaps()
    x = torch.randn(BATCH, INPUT, generator=torch.Generator().manual_seed(1))

    def batch_loss(step, generator):
        rows = torch.randint(0, BATCH, (BATCH * (step + 1 if grows else 1),), generator=generator)
        total = module(x[rows]).square().mean()
        return {"total": total}

    draws = torch.Generator().manual_seed(3)
    return Stage(
        "maps",
        module,
        batch_loss,
        8,
        1e-2,
        draws,
        Samples(BATCH),
        optimizer=optimizer,
        on_device=module.device,
    )


def test_operations_and_bytes_of_two_linear_maps():
    """Forward 2 B I O each; backward as much for the weights of both and for the input of the second."""
    cost = step_cost(linear_stage(), torch.Generator().manual_seed(0))
    first, second = 2 * BATCH * INPUT * HIDDEN, 2 * BATCH * HIDDEN * OUTPUT
    assert cost.flops == 2 * first + 3 * second
    num = INPUT * HIDDEN + HIDDEN + HIDDEN * OUTPUT + OUTPUT
    # Weights, gradients, two moments and a count of steps for each tensor; saved: both inputs and the output.
    held = 4 * (4 * num + 4)
    # The loss itself is kept for the question whether it is finite.
    assert cost.memory_bytes == held + 4 * BATCH * (INPUT + HIDDEN + OUTPUT) + 4


def test_a_part_costs_its_own_operations_and_twice_as_many_backward():
    stage = linear_stage()
    cost = step_cost(stage, torch.Generator().manual_seed(0), stage.on_device)
    assert cost.flops == 3 * 2 * BATCH * INPUT * HIDDEN
    num = INPUT * HIDDEN + HIDDEN
    assert cost.memory_bytes == 4 * (4 * num + 2) + 4 * BATCH * INPUT
    stage.on_device.requires_grad_(False)
    frozen = step_cost(stage, torch.Generator().manual_seed(0), stage.on_device)
    assert frozen.flops == 2 * BATCH * INPUT * HIDDEN
    both = step_cost(linear_stage(), torch.Generator().manual_seed(0), *(p for p in [stage.module]))
    assert both.flops == 0  # of another stage's module: it never runs


def test_inner_parts_are_not_counted_twice():
    stage = linear_stage()
    whole = step_cost(stage, torch.Generator().manual_seed(0), stage.module)
    assert whole == step_cost(stage, torch.Generator().manual_seed(0), stage.module, stage.module.device)


def test_steps_that_get_longer_are_measured_over_the_stage():
    """Batches of 1 to 8: the mean over the stage, and the memory of a late step."""
    short, grown = (step_cost(linear_stage(grows), torch.Generator()) for grows in (False, True))
    assert grown.flops / short.flops == pytest.approx((2 + 4 + 6 + 8) / 4)
    saved = 4 * BATCH * (INPUT + HIDDEN + OUTPUT)
    assert grown.memory_bytes - short.memory_bytes == 7 * saved


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_measuring_leaves_everything_as_it_was(optimizer):
    stage = make_stage(optimizer=optimizer)
    before = {name: tensor.clone() for name, tensor in stage.module.state_dict().items()}
    drawn, everywhere = stage.generator.get_state(), torch.get_rng_state()
    cost = stage_cost(stage, shares(4))
    assert cost.flops > 0
    assert cost.memory_bytes > 0
    assert torch.equal(drawn, stage.generator.get_state())
    assert torch.equal(everywhere, torch.get_rng_state())
    after = stage.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in stage.module.parameters())
    assert len(stage.samples) == stage.samples.num_all
    assert cost == stage_cost(stage, shares(4))


def test_a_client_that_can_take_no_step_leaves_it_to_the_next():
    stage = make_stage()
    inner, spoilt = stage.batch_loss, shares(4)[0]

    def broken(step, generator):
        if stage.samples.own[0] == spoilt[0]:
            raise SemcomError("no step here")
        return inner(step, generator)

    object.__setattr__(stage, "batch_loss", broken)
    assert stage_cost(stage, shares(4)) == stage_cost(make_stage(), shares(4)[1:])
    assert stage_cost(stage, [spoilt]).flops == 0


def test_a_federated_training_counts_the_steps_of_all_its_clients():
    trainer = federated(4)
    stage = make_stage()
    cost = stage_cost(stage, shares(4))
    trainer.fit(stage)
    assert trainer.ledger.device_flops == trainer.ledger.num_steps * cost.flops == 48 * cost.flops
    assert trainer.ledger.device_memory_bytes == cost.memory_bytes
    assert trainer.ledger.wall_s > 0
    nobody = federated(4, faults={"dropout_probability": 1.0})
    nobody.fit(make_stage())
    assert (nobody.ledger.device_flops, nobody.ledger.device_memory_bytes) == (0, 0)


@pytest.mark.parametrize("target", ["device", "station"])
def test_a_device_of_a_split_training_computes_its_encoders_alone(target):
    """With its target encoder, of no gradient, where that is the device's; without the predictor."""
    trainer = split(2, target=target)
    stage = split_stage()
    parts = [stage.on_device, stage.module.target] if target == "device" else [stage.on_device]
    cost = stage_cost(stage, shares(2), *parts)
    trainer.fit(stage)
    assert trainer.ledger.device_flops == trainer.ledger.num_steps * cost.flops > 0
    whole = stage_cost(split_stage(), shares(2))
    assert cost.flops < whole.flops
    around = split(2, shape="u")
    around.fit(split_stage())
    assert around.ledger.device_memory_bytes < whole.memory_bytes
    assert 0 < around.ledger.device_flops / around.ledger.num_steps < whole.flops
