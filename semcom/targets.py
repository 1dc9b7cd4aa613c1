"""Target encoders: what the predictor's output is compared with, and never sends a gradient through."""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import nn

from semcom.contracts import SemcomError


class EmaTarget(nn.Module):
    """A copy of the encoder whose weights follow it slowly (Grill et al. 2020, BYOL).

    target <- m target + (1 - m) online, with m from momentum_start at step 0 to momentum_end at step
    num_steps and after: linearly, or as end - (end - start) (1 + cos(pi step / num_steps)) / 2. Buffers
    (a normalisation's running statistics) are averages already, so they are copied as they are. The copy
    stays in eval mode, so that looking at a target never moves them.
    Raises SemcomError for a momentum outside [0, 1] or num_steps below 1.
    """

    def __init__(
        self,
        encoder: nn.Module,
        momentum_start: float = 0.996,
        momentum_end: float = 1.0,
        num_steps: int = 1,
        schedule: Literal["cosine", "linear"] = "cosine",
    ) -> None:
        super().__init__()
        for name, momentum in (("momentum_start", momentum_start), ("momentum_end", momentum_end)):
            if not 0 <= momentum <= 1:
                raise SemcomError(f"{name} = {momentum} is out of range: it takes 0 to 1")
        if num_steps < 1:
            raise SemcomError(f"num_steps = {num_steps} is out of range: it takes 1 or more")
        if schedule not in ("cosine", "linear"):
            raise SemcomError(f"schedule = {schedule!r} is unknown: it takes cosine or linear")
        self.momentum_start = momentum_start
        self.momentum_end = momentum_end
        self.num_steps = num_steps
        self.schedule = schedule
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> EmaTarget:
        """Keeps the copy in eval mode whatever the mode of the whole."""
        self.training = mode
        return self

    def momentum(self, step: int) -> float:
        """Returns the momentum of an update after `step` training steps."""
        share = min(max(step / self.num_steps, 0.0), 1.0)
        if self.schedule == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.momentum_start + share * (self.momentum_end - self.momentum_start)

    @torch.no_grad()
    def update(self, online: nn.Module, step: int) -> None:
        """Moves the target towards the online encoder; call it after the optimiser's step."""
        momentum = self.momentum(step)
        targets: list[torch.Tensor] = list(self.encoder.parameters())
        sources: list[torch.Tensor] = list(online.parameters())
        torch._foreach_mul_(targets, momentum)
        torch._foreach_add_(targets, sources, alpha=1 - momentum)
        for average, latest in zip(self.encoder.buffers(), online.buffers(), strict=True):
            average.copy_(latest)

    @torch.no_grad()
    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns the target's embedding of observation [B, ...], without a gradient."""
        return self.encoder(observation)


class StopGradientTarget:
    """The online encoder itself, without its gradient (Chen and He 2021, SimSiam).

    Holds a reference and no weights, so a model that has it saves the encoder once.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder

    def update(self, online: nn.Module, step: int) -> None:
        """Refers to `online` from now on; its weights are shared, so there is nothing to average."""
        self.encoder = online

    @torch.no_grad()
    def __call__(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns the encoder's embedding of observation [B, ...], without a gradient."""
        return self.encoder(observation)
