"""The learned estimators of the ELAA scenario: one transformer for all of them, and what it puts out."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from scenarios.elaa.features import NUM_CONDITIONS
from semcom.vit import Positions, Transformer, gather_tokens, scatter_tokens, visible_first


class ModelConfig(BaseModel):
    """Sizes of the transformer; all learned estimators have the same."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    patch_size: int = Field(16, ge=1, le=1024, description="elements of a sub-array's patch")
    dim: int = Field(96, ge=8, le=4096, description="width of the context encoder")
    depth: int = Field(3, ge=1, le=48, description="blocks of the context encoder")
    num_heads: int = Field(4, ge=1, le=64, description="attention heads, everywhere")
    predictor_dim: int = Field(64, ge=8, le=4096, description="width of the predictor")
    predictor_depth: int = Field(2, ge=1, le=48, description="blocks of the predictor")
    decoder_depth: int = Field(1, ge=0, le=48, description="blocks of the CSI decoder")
    mlp_ratio: float = Field(2.0, gt=0, le=16, description="hidden width of a block's MLP, in widths")


class PatchEncoder(nn.Module):
    """The context encoder: visible patches' features and a condition to tokens.

    features [N, L, C], visible bool [N, L], condition [N, E] to tokens [N, L + 1, D], zero where hidden; the
    last token stands for the condition. Hidden patches never enter the attention.
    """

    def __init__(self, config: ModelConfig, num_channels: int, coordinates: torch.Tensor) -> None:
        super().__init__()
        self.embedding_dim = config.dim
        self.embed = nn.Linear(num_channels, config.dim)
        self.condition = nn.Linear(NUM_CONDITIONS, config.dim)
        self.positions = Positions(coordinates, config.dim)
        self.body = Transformer(config.dim, config.depth, config.num_heads, config.mlp_ratio)

    def forward(self, observation: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Encodes (features, visible, condition): see the class."""
        features, visible, condition = observation
        index, present = visible_first(visible)
        about = self.condition(condition)[:, None]
        tokens = self.embed(gather_tokens(features, index)) + self.positions()[index]
        tokens = torch.cat((tokens + about, about), dim=1)
        whole = bool(present.all())
        there = None if whole else torch.cat((present, present.new_ones(len(present), 1)), dim=1)
        z = self.body(tokens, there)
        otherwise = z.new_zeros(len(z), visible.shape[1], self.embedding_dim)
        return torch.cat((scatter_tokens(z[:, :-1], index, present, otherwise), z[:, -1:]), dim=1)


class PatchPredictor(nn.Module):
    """The narrow predictor: the context's tokens and mask tokens for hidden patches to all patches' tokens.

    context [N, L + 1, D], visible bool [N, L] to [N, L, D]. hints [N, L, C] or None: what is known of every
    patch beforehand, hidden ones too, added to the mask tokens.
    """

    def __init__(self, config: ModelConfig, coordinates: torch.Tensor, num_hints: int = 0) -> None:
        super().__init__()
        dim = config.predictor_dim
        self.embed = nn.Linear(config.dim, dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim))
        self.positions = Positions(coordinates, dim)
        self.hint = nn.Linear(num_hints, dim) if num_hints else None
        self.body = Transformer(dim, config.predictor_depth, config.num_heads, config.mlp_ratio)
        self.out = nn.Linear(dim, config.dim)

    def forward(
        self, context: torch.Tensor, visible: torch.Tensor, hints: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predicts the tokens of all patches [N, L, D]."""
        tokens = self.embed(context)
        patches = torch.where(visible[:, :, None], tokens[:, :-1], self.mask_token) + self.positions()
        if self.hint is not None and hints is not None:
            patches = patches + self.hint(hints)
        return self.out(self.body(torch.cat((patches, tokens[:, -1:]), dim=1))[:, :-1])


class PatchDecoder(nn.Module):
    """The CSI decoder: predicted and context tokens, [N, L, D] each, to numbers for each patch [N, L, C]."""

    def __init__(self, config: ModelConfig, num_outputs: int) -> None:
        super().__init__()
        self.join = nn.Linear(2 * config.dim, config.dim)
        self.body = Transformer(config.dim, config.decoder_depth, config.num_heads, config.mlp_ratio)
        self.out = nn.Linear(config.dim, num_outputs)

    def forward(self, predicted: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Decodes tokens to a patch's numbers."""
        return self.out(self.body(self.join(torch.cat((predicted, context), dim=2))))
