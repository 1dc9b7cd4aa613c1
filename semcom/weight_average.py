"""Averages of weights over training steps."""

from __future__ import annotations

import torch
from torch import nn


class WeightAverage(nn.Module):
    """A model and the moving average of its weights (Polyak and Juditsky 1992; Izmailov et al. 2018).

    `adopt` puts the average into the model at the end of training; early steps are averaged over fewer.
    Give this to a training in the model's place, so that checkpoints hold the average too.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.99) -> None:
        super().__init__()
        self.model = model
        self.momentum = momentum
        self.average = nn.ParameterList(
            nn.Parameter(parameter.detach().clone(), requires_grad=False) for parameter in model.parameters()
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after training step `step`."""
        momentum = min(self.momentum, (step + 1) / (step + 10))
        for average, parameter in zip(self.average, self.model.parameters(), strict=True):
            average.lerp_(parameter, 1 - momentum)

    @torch.no_grad()
    def adopt(self) -> None:
        """Puts the average into the model."""
        for average, parameter in zip(self.average, self.model.parameters(), strict=True):
            parameter.copy_(average)
