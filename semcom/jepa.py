"""The joint-embedding predictive architecture: encoder, target, predictor and regulariser in one loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from semcom.crossings import ToDevice, ToStation
from semcom.predictors import rollout
from semcom.targets import EmaTarget, StopGradientTarget

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class InverseDynamics(nn.Module):
    """Guesses the condition between two consecutive embeddings: ([..., D], [..., D]) to [..., A]."""

    def __init__(self, embedding_dim: int, condition_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2 * embedding_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, condition_dim)
        )

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Returns the guessed condition [..., A]."""
        return self.net(torch.cat((before, after), dim=-1))


class Jepa(nn.Module):
    """Predicts a sequence's later embeddings from its earlier ones, conditioned on what was done.

    loss = prediction + regulariser + inverse_weight * inverse, with

    prediction: the mean over K rollout steps and S starting points of distance(z_hat_(t+k), target_(t+k));
    regulariser: `regularizer` on the encoder's embeddings; inverse: the squared error of the command that
    `inverse` guesses from z_t and z_(t+1) (Pathak et al. 2017), which keeps what the command moves.

    target: an EmaTarget, a StopGradientTarget, or None: the encoder's own embeddings with their gradient,
    which needs a regulariser against collapse (LeJEPA, Balestriero and LeCun 2025).
    """

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module,
        regularizer: nn.Module,
        distance: Distance,
        *,
        target: EmaTarget | StopGradientTarget | None = None,
        inverse: InverseDynamics | None = None,
        inverse_weight: float = 1.0,
        context_noise_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.regularizer = regularizer
        self.distance = distance
        self.target = target
        self.inverse = inverse
        self.inverse_weight = inverse_weight
        self.context_noise_std = context_noise_std
        self.to_station, self.to_device = ToStation(), ToDevice()

    def loss(
        self,
        observation: Any,
        condition: torch.Tensor,
        num_steps: int,
        num_starts: int,
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Returns the named terms and their sum under "total", all scalars.

        observation: whatever the encoder turns into embeddings [B, T, D], T >= num_starts + num_steps.
        condition: [B, T, A], condition[:, t] acts between t and t + 1.
        """
        z = self.encoder(observation)
        goal = z if self.target is None else self.target(observation)
        context = z[:, :num_starts]
        noise = torch.randn(context.shape, generator=generator)
        windows = condition.unfold(1, num_steps, 1)[:, :num_starts].transpose(-1, -2)
        start = self.to_station(context + self.context_noise_std * noise)
        predicted = rollout(self.predictor, start, windows)
        prediction = torch.stack(
            [
                self.distance(self.to_device(z_hat), goal[:, step : step + num_starts]).mean()
                for step, z_hat in enumerate(predicted, start=1)
            ]
        ).mean()
        terms = self.regularizer(z.flatten(0, 1), generator)
        total = prediction + terms["total"]
        named = {"prediction": prediction, **{k: v for k, v in terms.items() if k != "total"}}
        if self.inverse is not None:
            guess = self.inverse(z[:, :-1], z[:, 1:])
            named["inverse"] = (guess - condition[:, : z.shape[1] - 1]).square().mean()
            total = total + self.inverse_weight * named["inverse"]
        return {**named, "total": total}

    def update_target(self, step: int) -> None:
        """Lets the target follow the encoder; call it after each optimiser step."""
        if self.target is not None:
            self.target.update(self.encoder, step)
