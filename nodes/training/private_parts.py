"""Private parts: what of a stage's module stays with each client."""

from __future__ import annotations

from typing import Literal

from semcom.targets import EmaTarget
from semcom.train import Stage


def private_names(stage: Stage, sharing: Literal["all", "predictor", "nothing"]) -> set[str]:
    """The names of a module's tensors that stay with each client.

    predictor: those on the device, and of EMA target encoders; all, where no floating-point tensor is left.
    """
    tensors = stage.module.state_dict(keep_vars=True)
    if sharing == "all":
        return set()
    if sharing == "nothing":
        return set(tensors)
    own = [] if stage.on_device is None else [stage.on_device]
    own += [module for module in stage.module.modules() if isinstance(module, EmaTarget)]
    held = {id(tensor) for module in own for tensor in module.state_dict(keep_vars=True).values()}
    private = {name for name, tensor in tensors.items() if id(tensor) in held}
    left = any(tensor.is_floating_point() for name, tensor in tensors.items() if name not in private)
    return private if left else set(tensors)
