"""A predictor over a set of sensors: from the embeddings that arrived to those that did not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class SetPredictor(nn.Module):
    """Predicts the embeddings of S sensors from whichever of them arrived in the last W steps.

    h = b + sum over the arrived (w, s) of A_ws z_ws + t_ws,  z_hat_s = g_as * z_as + (B gelu(C gelu(h)))_s.

    Each sensor s and age w has its own map A_ws and its own token t_ws, which says that it arrived; what did
    not arrive adds nothing (a sum over a set: Zaheer et al. 2017, Deep Sets, with maps of each member's own).
    z_as is the newest that arrived from the sensor itself, of age a, and g_as a learned gain: predictions
    start from the last value. Where nothing at all arrived the answer depends on no sensor: it is the prior.

    dims [S]: each sensor's embedding dimension. D is the largest; shorter embeddings are filled up with
    zeros at their end.
    """

    real: torch.Tensor

    def __init__(self, dims: Sequence[int], num_lags: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_lags, self.num_sensors, self.embedding_dim = num_lags, len(dims), max(dims)
        num_tokens = num_lags * self.num_sensors
        # About half of the sensors are there at a time.
        scale = math.sqrt(2 / (num_lags * sum(dims)))
        self.maps = nn.Parameter(scale * torch.randn(num_tokens * self.embedding_dim, hidden_dim))
        self.tokens = nn.Parameter(torch.randn(num_tokens, hidden_dim) / math.sqrt(num_tokens))
        self.bias = nn.Parameter(torch.zeros(hidden_dim))
        self.hidden = nn.Linear(hidden_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, self.num_sensors * self.embedding_dim)
        # Values fade as they age.
        gain = (1 - torch.arange(num_lags) / num_lags)[:, None, None]
        self.gain = nn.Parameter(gain.repeat(1, self.num_sensors, self.embedding_dim))
        real = torch.zeros(self.num_sensors, self.embedding_dim)
        for sensor, dim in enumerate(dims):
            real[sensor, :dim] = 1
        self.register_buffer("real", real, persistent=False)

    def forward(self, context: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
        """Predicts from context [B, W, S, D], of which arrived [B, W, S] bool is known: [B, S, D].

        The newest step stands first; fewer than num_lags steps mean that nothing arrived before. What stands
        in context where nothing arrived doesn't matter.
        """
        known = torch.where(arrived[..., None], context, 0).flatten(1)
        there = arrived.flatten(1).to(context.dtype)
        h = known @ self.maps[: known.shape[1]] + there @ self.tokens[: there.shape[1]] + self.bias
        change = self.out(functional.gelu(self.hidden(functional.gelu(h))))
        held = torch.where(_is_newest(arrived)[..., None], context, 0) * self.gain[: context.shape[1]]
        return (held.sum(dim=1) + change.unflatten(1, (self.num_sensors, self.embedding_dim))) * self.real


def fill_in(context: torch.Tensor, arrived: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Completes the newest step of context [B, W, S, D] by predictions [B, S, D] where nothing arrived."""
    return torch.where(arrived[:, 0, :, None], context[:, 0], predicted)


def newest(context: torch.Tensor, arrived: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """The newest that arrived from each sensor of context [B, W, S, D], otherwise [S, D] if nothing did."""
    held = torch.where(_is_newest(arrived)[..., None], context, 0).sum(dim=1)
    return torch.where(arrived.any(dim=1)[..., None], held, otherwise)


def _is_newest(arrived: torch.Tensor) -> torch.Tensor:
    """Of arrived [B, W, S], newest first: it arrived, and nothing before it in this order did."""
    return arrived & (arrived.cumsum(dim=1) == 1)
