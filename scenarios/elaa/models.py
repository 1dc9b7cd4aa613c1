"""The transformer of the ELAA scenario: context encoder, narrow predictor, CSI decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from channels.near_field import NearFieldConfig
from scenarios.elaa.features import NUM_CONDITIONS, Dechirper
from scenarios.elaa.inputs import Shown, make_inputs, to_values
from scenarios.elaa.observations import Observed
from scenarios.elaa.patches import Patches
from semcom.vit import Positions, Transformer, gather_tokens, scatter_tokens, visible_first

_ROWS_AT_ONCE = 512
"""What is made for so many channels stays in the cache."""


class ModelConfig(BaseModel):
    """Sizes of the transformer; all learned estimators have the same."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    patch_size: int = Field(32, ge=1, le=1024, description="elements of a patch, which becomes a token")
    dim: int = Field(64, ge=8, le=4096, description="width of the context encoder")
    depth: int = Field(2, ge=1, le=48, description="blocks of the context encoder")
    num_heads: int = Field(1, ge=1, le=64, description="attention heads, everywhere")
    predictor_dim: int = Field(48, ge=8, le=4096, description="width of the predictor")
    predictor_depth: int = Field(2, ge=1, le=48, description="blocks of the predictor")
    decoder_depth: int = Field(1, ge=0, le=48, description="blocks of the CSI decoder")
    mlp_ratio: float = Field(2.0, gt=0, le=16, description="hidden width of a block's MLP, in widths")
    combiner_dim: int = Field(64, ge=8, le=4096, description="width of the hybrid's path network")
    combiner_depth: int = Field(2, ge=1, le=48, description="blocks of the hybrid's path network")


@dataclass(frozen=True)
class Window:
    """What a model of several snapshots, or subcarriers, looks at.

    num_more: numbers that describe them beside a Frame's. num_asked: those of what is asked for. num_told:
    how many of them, the last ones, it estimates.
    """

    num_snapshots: int = 1
    num_more: int = 0
    num_asked: int = 0
    num_told: int = 1


ONE_SNAPSHOT = Window()


class PatchEncoder(nn.Module):
    """The context encoder: visible patches and a condition to tokens, [N, L + 1, D] of N channels' inputs.

    A patch's token is made of all of a window's snapshots. Tokens of hidden patches are zero, and never enter
    the attention; the last token is the condition's.
    """

    def __init__(self, config: ModelConfig, patches: Patches, window: Window = ONE_SNAPSHOT) -> None:
        super().__init__()
        self.embedding_dim = config.dim
        self.embed = nn.Linear((2 * window.num_snapshots + 1) * patches.patch_size, config.dim)
        self.condition = nn.Linear(NUM_CONDITIONS + window.num_more, config.dim)
        self.positions = Positions(patches.position, config.dim)
        self.body = Transformer(config.dim, config.depth, config.num_heads, config.mlp_ratio)

    def forward(self, inputs: Shown) -> torch.Tensor:
        """Encodes inputs: see the class."""
        index, present = visible_first(inputs.visible)
        about = self.condition(inputs.condition)[:, None]
        features = gather_tokens(torch.cat((inputs.y, inputs.there), dim=2), index)
        tokens = self.embed(features) + self.positions()[index] + about
        there = torch.cat((present, present.new_ones(len(present), 1)), dim=1)
        z = self.body(torch.cat((tokens, about), dim=1), None if bool(there.all()) else there)
        spread = scatter_tokens(z[:, :-1], index, present, inputs.visible.shape[1])
        return torch.cat((spread, z[:, -1:]), dim=1)


class PatchPredictor(nn.Module):
    """The narrow predictor: context tokens, with mask tokens for hidden patches, to tokens of all patches.

    context [N, L + 1, D] and the inputs that it is of to tokens [N, L + 1, D]. What is asked for, where a
    window's inputs ask for another time, is added to all tokens.
    """

    def __init__(self, config: ModelConfig, patches: Patches, window: Window = ONE_SNAPSHOT) -> None:
        super().__init__()
        dim = config.predictor_dim
        self.embed = nn.Linear(config.dim, dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim))
        self.positions = Positions(patches.position, dim)
        self.body = Transformer(dim, config.predictor_depth, config.num_heads, config.mlp_ratio)
        self.out = nn.Linear(dim, config.dim)
        self.asked = nn.Linear(window.num_asked, dim) if window.num_asked else None

    def forward(self, context: torch.Tensor, inputs: Shown) -> torch.Tensor:
        """Predicts tokens: see the class."""
        tokens = self.embed(context)
        if self.asked is not None and inputs.asked is not None:
            tokens = tokens + self.asked(inputs.asked)[:, None]
        known = torch.where(inputs.visible[:, :, None], tokens[:, :-1], self.mask_token)
        return self.out(self.body(torch.cat((known + self.positions(), tokens[:, -1:]), dim=1)))


class CsiDecoder(nn.Module):
    """The CSI decoder: predicted and context tokens, [N, L + 1, D] each, and inputs to patches [N, L, 2 S].

    It is shown what was received of the visible patches again, and hands it on as far as it can be relied on:

        h_l = g_l y_l + o_l

    with g_l in [0, 1] and o_l read off patch l's token. At high SNRs the estimate is never far from y. Of a
    window's snapshots it is the last num_told, side by side.
    """

    def __init__(self, config: ModelConfig, patches: Patches, window: Window = ONE_SNAPSHOT) -> None:
        super().__init__()
        self.num_numbers = 2 * patches.patch_size * window.num_told
        self.join = nn.Linear(2 * config.dim, config.dim)
        self.look = nn.Linear((2 * window.num_snapshots + 1) * patches.patch_size, config.dim)
        self.body = Transformer(config.dim, config.decoder_depth, config.num_heads, config.mlp_ratio)
        self.out = nn.Linear(config.dim, self.num_numbers)
        self.gate = nn.Linear(config.dim, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.5)

    def forward(self, predicted: torch.Tensor, context: torch.Tensor, inputs: Shown) -> torch.Tensor:
        """Decodes tokens: see the class."""
        tokens = self.join(torch.cat((predicted, context), dim=2))
        y = inputs.y * inputs.visible[:, :, None]
        seen = self.look(torch.cat((y, inputs.there), dim=2))
        tokens = torch.cat((tokens[:, :-1] + seen, tokens[:, -1:]), dim=1)
        z = self.body(tokens)[:, :-1]
        return self.out(z) + torch.sigmoid(self.gate(z)) * y[..., -self.num_numbers :]


class CsiModel(nn.Module):
    """Encoder, predictor and decoder: a channel's patches [N, L, 2 S] in the frame, from its inputs."""

    def __init__(self, config: ModelConfig, patches: Patches, window: Window = ONE_SNAPSHOT) -> None:
        super().__init__()
        self.encoder = PatchEncoder(config, patches, window)
        self.predictor = PatchPredictor(config, patches, window)
        self.decoder = CsiDecoder(config, patches, window)

    def forward(self, inputs: Shown) -> torch.Tensor:
        """Estimates patches: see the class."""
        context = self.encoder(inputs)
        return self.decoder(self.predictor(context, inputs), context, inputs)


class LearnedEstimator:
    """A trained CsiModel as an estimator: what is observed to channels."""

    def __init__(self, model: CsiModel, config: NearFieldConfig, patch_size: int) -> None:
        self.model = model
        self.patches = Patches(config, patch_size)
        self.dechirper = Dechirper(config)

    @torch.no_grad()
    def estimate(self, observed: Observed) -> torch.Tensor:
        """Estimates the channels at all elements, complex64 [N, M]."""
        parts = []
        for at in range(0, len(observed), _ROWS_AT_ONCE):
            inputs, frame = make_inputs(observed[at : at + _ROWS_AT_ONCE], self.dechirper, self.patches)
            parts.append(frame.restore(self.patches.join(to_values(self.model(inputs)))))
        return torch.cat(parts)
