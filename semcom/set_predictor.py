"""A predictor over a set of sensors: from the embeddings that arrived to those that did not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


class SetPredictor(nn.Module):
    """Predicts the embeddings of S sensors from whichever of them arrived in the last W steps.

    A transformer (Vaswani et al. 2017) with one token for each embedding that arrived: a linear map of it
    that all sensors of a modality share, plus a learned vector for its sensor and one for its age. S more
    tokens, a learned mask plus the sensor's vector, ask for the present embeddings (as the mask tokens of
    I-JEPA, Assran et al. 2023, ask for patches); each answers through its modality's linear map. What did not
    arrive is kept out of the attention. Where nothing at all arrived the answer depends on no sensor: it is
    the prior.

    dims: embedding dimension of each modality; modality: that of each sensor, its number in dims. Embeddings
    shorter than the longest are filled up with zeros at their end.
    """

    def __init__(
        self,
        dims: Sequence[int],
        modality: Sequence[int],
        num_lags: int,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        self.dims, self.modality, self.num_lags = tuple(dims), tuple(modality), num_lags
        self.embedding_dim = max(dims)
        num_sensors = len(self.modality)
        self.into = nn.ModuleList(nn.Linear(dim, hidden_dim) for dim in dims)
        self.out = nn.ModuleList(nn.Linear(hidden_dim, dim) for dim in dims)
        self.sensor = nn.Parameter(0.3 * torch.randn(num_sensors, hidden_dim))
        self.age = nn.Parameter(0.3 * torch.randn(num_lags, 1, hidden_dim))
        self.mask = nn.Parameter(0.3 * torch.randn(hidden_dim))
        layer = nn.TransformerEncoderLayer(
            hidden_dim,
            num_heads,
            2 * hidden_dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, context: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
        """Predicts from context [B, W, S, D], of which arrived [B, W, S] bool is known: [B, S, D].

        The newest step stands first. What stands in context where nothing arrived doesn't matter.
        """
        num_rows, num_lags, num_sensors, _ = context.shape
        context = torch.where(arrived[..., None], context, 0)
        tokens = self._mapped(self.into, context) + self.sensor + self.age[:num_lags]
        asking = (self.mask + self.sensor).expand(num_rows, -1, -1)
        known = torch.cat((arrived.new_ones(num_rows, num_sensors), arrived.flatten(1)), dim=1)
        h = self.layers(torch.cat((asking, tokens.flatten(1, 2)), dim=1), src_key_padding_mask=~known)
        return self._mapped(self.out, self.norm(h[:, :num_sensors]))

    def _mapped(self, maps: nn.ModuleList, rows: torch.Tensor) -> torch.Tensor:
        """Applies to each sensor, the last axis but one, the map of its modality."""
        parts, first = [], 0
        for modality, alike in itertools.groupby(self.modality):
            last, size = first + len(list(alike)), self.dims[modality]
            row = rows[..., first:last, :]
            if maps is self.into:
                parts.append(maps[modality](row[..., :size]))
            else:
                parts.append(nn.functional.pad(maps[modality](row), (0, self.embedding_dim - size)))
            first = last
        return torch.cat(parts, dim=-2)


def fill_in(context: torch.Tensor, arrived: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Completes the newest step of context [B, W, S, D] by predictions [B, S, D] where nothing arrived."""
    return torch.where(arrived[:, 0, :, None], context[:, 0], predicted)
