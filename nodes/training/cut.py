"""The cut through a model in split training: what crosses it goes over the air, forth and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import nn

from semcom.contracts import SemcomError
from semcom.crossings import ToDevice, ToStation
from semcom.targets import EmaTarget
from semcom.train import Stage

Shape = Literal["straight", "u"]
TargetPlace = Literal["device", "station"]


class Lost(Exception):
    """Something that a training step needs did not arrive: the step can't be taken."""


class Carrier(Protocol):
    """Takes embeddings and gradients over the air; raises Lost for what does not arrive."""

    def up(self, values: torch.Tensor, kind: Literal["embedding", "gradient"]) -> torch.Tensor:
        """From the device to the base station; returns what arrived."""
        ...

    def down(self, values: torch.Tensor, kind: Literal["embedding", "gradient"]) -> torch.Tensor:
        """From the base station to the device; returns what arrived."""
        ...


class _Crossing(torch.autograd.Function):
    """Values go one way, their gradient comes back the other."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, carrier: Carrier, is_upward: bool) -> torch.Tensor:
        ctx.carrier, ctx.is_upward = carrier, is_upward
        move = carrier.up if is_upward else carrier.down
        return move(values, "embedding")

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        move = ctx.carrier.down if ctx.is_upward else ctx.carrier.up
        return move(gradients[0], "gradient"), None, None


class Cut:
    """Which part of a stage's module lies with the devices, and what crosses on the way through a loss.

    straight: the device holds the stage's on_device part. What that makes goes up, its gradient comes down.
    u: all but the predictor is the device's, the loss too. What the predictor starts from goes up and its
    predictions come down; of both the gradient goes the other way. A stage without a JEPA's places to pass at
    (semcom.crossings) is cut straight. EMA targets are the device's, and what they make goes up without a
    gradient where the loss is the base station's; or, with target = station, they are the base station's,
    which was given the observations, and nothing crosses.

    names: of the device's tensors in the module's state dict. weights: its parameters. on_device: the modules
    that run there if cut straight; predictors: those that don't if not.
    """

    def __init__(self, stage: Stage, shape: Shape, target: TargetPlace) -> None:
        if stage.on_device is None:
            raise SemcomError(f"stage {stage.name} has no part on devices: there is nothing to cut")
        self._module, self._encoder = stage.module, stage.on_device
        modules = list(stage.module.modules())
        passing = [m for m in modules if any(isinstance(each, ToStation) for each in m.children())]
        self.is_u = shape == "u" and bool(passing)
        self._targets = [each for each in modules if isinstance(each, EmaTarget)]
        self._target_place = target
        self.predictors = [m.get_submodule("predictor") for m in passing]
        self.on_device: list[nn.Module] = [stage.on_device]
        if target == "device":
            self.on_device += self._targets
        if self.is_u:
            station = {id(t) for m in passing for t in _tensors(m.get_submodule("predictor"))}
            held = {id(t) for t in _tensors(stage.module)} - station
        else:
            held = {id(t) for t in _tensors(stage.on_device)}
            if target == "device":
                held |= {id(t) for each in self._targets for t in _tensors(each)}
        state = stage.module.state_dict(keep_vars=True)
        self.names = [name for name, tensor in state.items() if id(tensor) in held]
        self.weights = [p for p in stage.module.parameters() if id(p) in held and p.requires_grad]
        if not self.names:
            raise SemcomError(f"stage {stage.name}: its part on devices is not in its module")

    def tensors(self) -> dict[str, torch.Tensor]:
        """The device's tensors as they are; copies."""
        state = self._module.state_dict()
        return {name: state[name].clone() for name in self.names}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Puts tensors into the device's place."""
        state = self._module.state_dict()
        for name in self.names:
            state[name].copy_(tensors[name])

    @contextmanager
    def carried_by(self, carrier: Carrier) -> Iterator[None]:
        """Lets everything that crosses go through a carrier, within the block."""

        def up(module: nn.Module, inputs: Any, values: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                return _crossed(values, carrier, is_upward=True)
            return carrier.up(values, "embedding")

        def down(module: nn.Module, inputs: Any, values: torch.Tensor) -> torch.Tensor:
            return _crossed(values, carrier, is_upward=False)

        hooks = []
        if self.is_u:
            for each in self._module.modules():
                if isinstance(each, ToStation | ToDevice):
                    hooks.append(each.register_forward_hook(up if isinstance(each, ToStation) else down))
        else:
            hooks.append(self._encoder.register_forward_hook(up))
            if self._target_place == "device":
                hooks += [each.register_forward_hook(up) for each in self._targets]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _crossed(values: torch.Tensor, carrier: Carrier, *, is_upward: bool) -> torch.Tensor:
    crossed: torch.Tensor = _Crossing.apply(values, carrier, is_upward)
    return crossed


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
