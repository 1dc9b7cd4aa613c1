"""What a training step costs the device that takes it, measured: floating-point operations and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from semcom.contracts import SemcomError
from semcom.train import Stage, Training

_PLACES = (0.125, 0.375, 0.625, 0.875)
"""Where in a stage steps are measured: some get longer as a training goes on."""


@dataclass(frozen=True)
class StepCost:
    """One training step: floating-point operations, and bytes of memory at the most."""

    flops: int = 0
    memory_bytes: int = 0


FREE = StepCost()


def stage_cost(stage: Stage, shares: Sequence[torch.Tensor], *parts: nn.Module) -> StepCost:
    """What a step of a stage costs a client: `step_cost` with the samples of the first that can take one."""
    for share in shares:
        try:
            with stage.samples.only(share):
                return step_cost(stage, stage.generator, *parts)
        except SemcomError:
            # What is wrong with this client's samples is told where it trains.
            continue
    return StepCost()


def step_cost(stage: Stage, generator: torch.Generator, *parts: nn.Module) -> StepCost:
    """Measures steps of a stage, evenly spread over it: their mean operations, and the most of their bytes.

    Steps are really taken, forward, backward and update, and then undone: the module, the generators and the
    gradients are left as they were, bit for bit. Operations are those of matrix products, convolutions and
    attention (torch.utils.flop_counter: a product and a sum are two), element-wise ones are not counted.
    Memory is that of weights and buffers, gradients, the optimiser's moments, and of all that the forward
    pass saves for the backward one: distinct storages. The training samples are not in it, nor is what lives
    for an instant.

    generator: what batches are drawn with. parts: modules inside the stage's, such as stage.on_device, where
    a device has no more than these. Forward operations are counted while they run, and where gradients are
    asked for twice as many backward (a product for the activations and one for the weights); memory
    likewise. Where one part calls another, what happens inside is counted once.
    """
    steps = sorted({int(place * stage.num_steps) for place in _PLACES})
    with _undone(stage, generator):
        costs = [_one_step(stage, generator, step, parts) for step in steps]
    return StepCost(
        round(sum(cost.flops for cost in costs) / len(costs)), max(cost.memory_bytes for cost in costs)
    )


@contextmanager
def _undone(stage: Stage, generator: torch.Generator) -> Iterator[None]:
    """Puts everything that a training step changes back to where it was."""
    module = stage.module
    tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    # Some trainings draw from the stage's own generator, whatever they are given.
    states = [(each, each.get_state()) for each in (generator, stage.generator)]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            module.load_state_dict(tensors)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for each, state in states:
                each.set_state(state)


def _one_step(stage: Stage, generator: torch.Generator, step: int, parts: Sequence[nn.Module]) -> StepCost:
    """Takes one step, from wherever the module is."""
    saved = _Saved(stage.module)
    training = Training(
        stage.module, stage.batch_loss, stage.num_steps, 0.0, generator, optimizer=stage.optimizer
    )
    training.num_done = step
    counter = FlopCounterMode(display=False)
    meter = _Meter(counter, saved)
    with ExitStack() as stack:
        stack.enter_context(counter)
        stack.enter_context(saved_tensors_hooks(saved.pack, lambda tensor: tensor))
        if parts:
            saved.is_on = False
            stack.callback(meter.remove)
            meter.watch(parts)
        training.step()
    held = list(parts) or [stage.module]
    flops = meter.flops if parts else counter.get_total_flops()
    return StepCost(int(flops), _held_bytes(held, training) + saved.num_bytes)


class _Saved:
    """The bytes of distinct storages that autograd saves while it is on; a module's own are held anyway."""

    def __init__(self, module: nn.Module) -> None:
        self.is_on = True
        held = [*module.parameters(), *module.buffers()]
        self._held = {tensor.untyped_storage().data_ptr() for tensor in held}
        self._sizes: dict[int, int] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Notes a tensor that is saved."""
        storage = tensor.untyped_storage()
        if self.is_on and storage.data_ptr() not in self._held:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def num_bytes(self) -> int:
        """All of them together."""
        return sum(self._sizes.values())


class _Meter:
    """Counts the operations of parts of a module while they run, inner calls within outer ones once."""

    def __init__(self, counter: FlopCounterMode, saved: _Saved) -> None:
        self.flops = 0
        self._counter, self._saved = counter, saved
        self._depth, self._start = 0, 0
        self._handles: list[Any] = []

    def watch(self, parts: Sequence[nn.Module]) -> None:
        """Begins to count what these do."""
        for part in parts:
            learns = any(parameter.requires_grad for parameter in part.parameters())
            self._handles.append(part.register_forward_pre_hook(self._enter))
            self._handles.append(
                part.register_forward_hook(lambda *_, learns=learns: self._leave(learns), always_call=True)
            )

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, *_: Any) -> None:
        if self._depth == 0:
            self._start, self._saved.is_on = self._counter.get_total_flops(), True
        self._depth += 1

    def _leave(self, learns: bool) -> None:
        self._depth -= 1
        if self._depth == 0:
            forward = self._counter.get_total_flops() - self._start
            self.flops += forward * (3 if learns and torch.is_grad_enabled() else 1)
            self._saved.is_on = False


def _held_bytes(modules: Sequence[nn.Module], training: Training) -> int:
    """Weights and buffers, gradients and moments, each tensor once."""
    weights = {id(weight): weight for module in modules for weight in module.parameters()}
    tensors = [*weights.values(), *(buffer for module in modules for buffer in module.buffers())]
    tensors += [weight.grad for weight in weights.values() if weight.grad is not None]
    moments = training.moments_of(weights.values())
    tensors += [tensor for name, tensor in training.state().items() if name.startswith(moments)]
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())
