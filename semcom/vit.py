"""A small vision transformer: tokens of patches, of which only the visible ones enter the encoder."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from semcom.contracts import SemcomError


class TransformerBlock(nn.Module):
    """A pre-norm block: x + attention(norm(x)), then x + MLP(norm(x)) (Xiong et al. 2020)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise SemcomError(f"a width of {dim} can't be divided among {num_heads} heads: choose a multiple")
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, int(mlp_ratio * dim))
        self.down = nn.Linear(int(mlp_ratio * dim), dim)

    def forward(self, x: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """Maps tokens [B, L, D]; present [B, L] bool: those that may be attended to, all if None."""
        num_rows, num_tokens, dim = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(num_rows, num_tokens, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        allowed = None if present is None else present[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        x = self.out(mixed.transpose(1, 2).reshape(num_rows, num_tokens, dim)).add_(x)
        return self.down(functional.gelu(self.up(self.norm_mlp(x)))).add_(x)


class Transformer(nn.Module):
    """`depth` pre-norm blocks and a last normalisation: tokens [B, L, D] to [B, L, D]."""

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            # Each block adds to the residual stream: its share shrinks as their number grows (GPT-2).
            for layer in (block.out, block.down):
                nn.init.normal_(layer.weight, std=1 / math.sqrt(2 * depth * layer.in_features))
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """Maps tokens [B, L, D]; present [B, L] bool: those that may be attended to, all if None."""
        for block in self.blocks:
            x = block(x, present)
        return self.norm(x)


class Positions(nn.Module):
    """Positional embeddings of L tokens: a learned table that starts from Fourier features.

    e_l = [cos(2 pi f_k . p_l), sin(2 pi f_k . p_l)], with p_l the token's coordinates in [0, 1]^P and f_k
    drawn once (Tancik et al. 2020): tokens that lie near each other start alike. coordinates: [L, P].
    """

    def __init__(self, coordinates: torch.Tensor, dim: int, max_frequency: float = 4.0) -> None:
        super().__init__()
        if dim % 2:
            raise SemcomError(f"positional embeddings of {dim} dimensions: take an even number")
        frequency = max_frequency * (2 * torch.rand(coordinates.shape[1], dim // 2) - 1)
        angle = 2 * math.pi * coordinates.float() @ frequency
        self.table = nn.Parameter(0.5 * torch.cat((angle.cos(), angle.sin()), dim=1))

    def forward(self) -> torch.Tensor:
        """Returns the embeddings [L, D]."""
        return self.table


def visible_first(visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the visible tokens of each row stand: index [B, K] and present [B, K], K the most of any row.

    visible: bool [B, L]. The index lists visible tokens in their order; rows with fewer than K are filled up
    with hidden ones, which `present` marks as False.
    """
    count = visible.sum(dim=1)
    most = int(count.max())
    index = visible.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return index, torch.arange(most) < count[:, None]


def gather_tokens(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Takes tokens [B, L, D] at index [B, K]: [B, K, D]."""
    rows = _flat(index, tokens.shape[1])
    return tokens.flatten(0, 1).index_select(0, rows).view(*index.shape, tokens.shape[2])


def scatter_tokens(
    tokens: torch.Tensor, index: torch.Tensor, present: torch.Tensor, num_tokens: int
) -> torch.Tensor:
    """Puts tokens [B, K, D] where index [B, K] says and they are present, of L = num_tokens; 0 elsewhere."""
    kept = torch.where(present[:, :, None], tokens, 0.0).flatten(0, 1)
    spread = kept.new_zeros(len(index) * num_tokens, tokens.shape[2])
    return spread.index_copy(0, _flat(index, num_tokens), kept).view(len(index), num_tokens, -1)


def _flat(index: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Numbers of the tokens at index [B, K] among those of all rows: whole tokens are copied faster so."""
    return (index + num_tokens * torch.arange(len(index), device=index.device)[:, None]).flatten()
