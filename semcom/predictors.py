"""The predictor: one latent step ahead, the condition entering through feature-wise modulation (FiLM)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional


class FilmPredictor(nn.Module):
    """z_(t+1) = z_t + L [z_t, u_t] + nonlinearity * MLP(z_t | u_t).

    The condition u scales and shifts both hidden layers (FiLM: Perez et al. 2018), so it can't be
    ignored. The linear part L carries what dynamics are linear; the other starts at zero.
    """

    def __init__(self, embedding_dim: int, condition_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_dim + condition_dim, embedding_dim)
        self.layers = nn.ModuleList((nn.Linear(embedding_dim, hidden_dim), nn.Linear(hidden_dim, hidden_dim)))
        self.films = nn.ModuleList(nn.Linear(condition_dim, 2 * hidden_dim) for _ in self.layers)
        self.out = nn.Linear(hidden_dim, embedding_dim)
        for start in (self.linear.weight, self.linear.bias, self.out.weight, self.out.bias):
            nn.init.zeros_(start)
        self.nonlinearity = 1.0

    def forward(self, context: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Maps embeddings [..., D] and conditions [..., A] to the next step's embeddings [..., D]."""
        step = self.linear(torch.cat((context, condition), dim=-1))
        if self.nonlinearity == 0.0:
            return context + step
        h = context
        for layer, film in zip(self.layers, self.films, strict=True):
            scale, shift = film(condition).chunk(2, dim=-1)
            h = functional.gelu(layer(h) * (1 + scale) + shift)
        return context + step + self.nonlinearity * self.out(h)

    @torch.no_grad()
    def fit_linear(
        self, context: torch.Tensor, condition: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Sets the linear part by least squares; returns each dimension's unexplained share [D].

        Shapes [N, D], [N, A], [N, D].
        """
        ones = torch.ones(len(context), 1, dtype=torch.float64)
        rows = torch.cat((context.double(), condition.double(), ones), dim=1)
        solution = torch.linalg.lstsq(rows, (target - context).double()).solution
        self.linear.weight.copy_(solution[:-1].T)
        self.linear.bias.copy_(solution[-1])
        rest = (target - context).double() - rows @ solution
        return (rest.var(dim=0) / target.double().var(dim=0)).float()


def rollout(predictor: nn.Module, context: torch.Tensor, condition: torch.Tensor) -> Iterator[torch.Tensor]:
    """Rolls the predictor out under conditions [..., K, A]: yields K embeddings [..., D], step 1 to K."""
    z = context
    for step in range(condition.shape[-2]):
        z = predictor(z, condition[..., step, :])
        yield z
