"""Muon: momentum whose every step is orthogonalised, for the matrices of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from semcom.contracts import SemcomError

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Jordan's coefficients: singular values between 0 and 1 arrive near 1 after few steps."""
_NUM_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Momentum B of the gradients G of matrices, orthogonalised (Jordan et al. 2024, Muon).

        B <- mu B + (1 - mu) G
        W <- W - lr 0.2 sqrt(max(rows, columns)) U V^T,   U S V^T = (1 - mu) G + mu B

    The factor gives updates the root mean square of AdamW's, so that both take the same rates (Liu et al.
    2025, Muon is scalable for LLM training, eq. 4). It is torch.optim.Muon in float32, with matrices of the
    same shape in one batch, which small networks need.
    """

    def __init__(self, matrices: Iterable[torch.Tensor], lr: float, momentum: float = 0.95) -> None:
        """Raises SemcomError for parameters that are no matrices."""
        super().__init__(matrices, {"lr": lr, "momentum": momentum})
        for parameter in self._parameters():
            if parameter.ndim != 2:
                raise SemcomError(f"Muon is for matrices, not for shape {list(parameter.shape)}: use AdamW")

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Takes one step; parameters without a gradient stay as they are."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(tuple(sorted(parameter.shape)), []).append(parameter)
            for (_, longest), parameters in alike.items():
                self._step(parameters, group["lr"] * 0.2 * math.sqrt(longest), group["momentum"])

    def _step(self, parameters: list[nn.Parameter], rate: float, momentum: float) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            buffers.append(state["momentum"])
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        wanted = torch._foreach_lerp(gradients, buffers, momentum)
        # A tall matrix lies down, so that there are fewer shapes.
        lying = torch.stack([each if each.shape[0] <= each.shape[1] else each.mT for each in wanted])
        for parameter, update in zip(parameters, orthogonalize(lying), strict=True):
            parameter.add_(update if update.shape == parameter.shape else update.mT, alpha=-rate)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Nearly U V^T of each matrix U S V^T [B, N, M], N at most M, its singular values between 0.5 and 1.5.

    Five steps of the quintic Newton-Schulz iteration X <- a X + (b A + c A^2) X, with A = X X^T.
    """
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    for _ in range(_NUM_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x


def matrices_of(model: nn.Module) -> list[torch.Tensor]:
    """The weights of a model's linear maps that are trained: those of one row or column are no matrices."""
    return [
        layer.weight
        for layer in model.modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad and min(layer.weight.shape) > 1
    ]
