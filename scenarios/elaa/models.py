"""The learned estimators of the ELAA scenario: one transformer for all of them, and what it puts out."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from scenarios.elaa.features import NUM_CONDITIONS
from scenarios.elaa.inputs import Inputs, num_path_numbers, to_numbers, to_values
from scenarios.elaa.patches import Patches
from semcom.vit import Positions, Transformer, gather_tokens, scatter_tokens, visible_first


class ModelConfig(BaseModel):
    """Sizes of the transformer; all learned estimators have the same."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    patch_size: int = Field(16, ge=1, le=1024, description="elements of a sub-array's patch")
    dim: int = Field(64, ge=8, le=4096, description="width of the context encoder")
    depth: int = Field(2, ge=1, le=48, description="blocks of the context encoder")
    num_heads: int = Field(4, ge=1, le=64, description="attention heads, everywhere")
    predictor_dim: int = Field(48, ge=8, le=4096, description="width of the predictor")
    predictor_depth: int = Field(2, ge=1, le=48, description="blocks of the predictor")
    decoder_depth: int = Field(1, ge=0, le=48, description="blocks of the CSI decoder")
    mlp_ratio: float = Field(2.0, gt=0, le=16, description="hidden width of a block's MLP, in widths")


class PatchEncoder(nn.Module):
    """The context encoder: visible patches, paths if it has them, and a condition to tokens.

    Inputs of N channels to tokens [N, L + R, D], zero where a patch is hidden. The R others stand for the
    paths, if any, and for the condition, last. Hidden patches never enter the attention.
    """

    def __init__(self, config: ModelConfig, patches: Patches, with_paths: bool) -> None:
        super().__init__()
        self.embedding_dim, self.with_paths = config.dim, with_paths
        size, num_patches = patches.patch_size, patches.num_patches
        # y and where it is there; of a hybrid the paths' field and what they leave over, too.
        self.embed = nn.Linear((7 if with_paths else 3) * size, config.dim)
        self.path = nn.Linear(num_path_numbers(num_patches), config.dim) if with_paths else None
        self.condition = nn.Linear(NUM_CONDITIONS, config.dim)
        self.positions = Positions(patches.position, config.dim)
        self.body = Transformer(config.dim, config.depth, config.num_heads, config.mlp_ratio)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Encodes inputs: see the class."""
        index, present = visible_first(inputs.visible)
        about = self.condition(inputs.condition)[:, None]
        features = gather_tokens(self._features(inputs), index)
        tokens = [self.embed(features) + self.positions()[index] + about]
        there = [present]
        if self.path is not None:
            paths = inputs.paths
            if paths is None:
                # The whole and clean channel, which the target encoder sees, has no need of paths.
                pass
            else:
                tokens.append(self.path(paths.about) + about)
                there.append(paths.present)
        tokens.append(about)
        there.append(present.new_ones(len(present), 1))
        allowed = torch.cat(there, dim=1)
        z = self.body(torch.cat(tokens, dim=1), None if bool(allowed.all()) else allowed)
        width = index.shape[1]
        hidden = z.new_zeros(len(z), inputs.visible.shape[1], self.embedding_dim)
        return torch.cat((scatter_tokens(z[:, :width], index, present, hidden), z[:, width:]), dim=1)

    def _features(self, inputs: Inputs) -> torch.Tensor:
        if not self.with_paths:
            return torch.cat((inputs.y, inputs.there), dim=2)
        if inputs.paths is None:
            return torch.cat((inputs.y, inputs.there, inputs.y, torch.zeros_like(inputs.y)), dim=2)
        field = to_numbers(inputs.paths.total())
        rest = (inputs.y - field) * inputs.there.repeat_interleave(2, dim=2)
        return torch.cat((inputs.y, inputs.there, field, rest), dim=2)


class PatchPredictor(nn.Module):
    """The narrow predictor: context tokens, with mask tokens for hidden patches, to tokens of all patches.

    context [N, L + R, D] and its inputs to tokens [N, L + R, D]. Of a hybrid the paths' field and how sure it
    is are added to each patch's token.
    """

    def __init__(self, config: ModelConfig, patches: Patches, with_paths: bool) -> None:
        super().__init__()
        dim = config.predictor_dim
        self.embed = nn.Linear(config.dim, dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim))
        self.positions = Positions(patches.position, dim)
        self.hint = nn.Linear(2 * patches.patch_size + 1, dim) if with_paths else None
        self.body = Transformer(dim, config.predictor_depth, config.num_heads, config.mlp_ratio)
        self.out = nn.Linear(dim, config.dim)

    def forward(self, context: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """Predicts tokens: see the class."""
        visible, num_patches = inputs.visible, inputs.visible.shape[1]
        tokens = self.embed(context)
        patches = torch.where(visible[:, :, None], tokens[:, :num_patches], self.mask_token)
        patches = patches + self.positions()
        allowed = None
        if self.hint is not None and inputs.paths is not None:
            paths = inputs.paths
            patches = patches + self.hint(torch.cat((to_numbers(paths.total()), _sureness(inputs)), dim=2))
            ones = visible.new_ones(1, 1).expand(len(visible), num_patches)
            allowed = torch.cat((ones, paths.present, ones[:, :1]), dim=1)
        return self.out(self.body(torch.cat((patches, tokens[:, num_patches:]), dim=1), allowed))


class CsiDecoder(nn.Module):
    """The CSI decoder: predicted and context tokens, [N, L + R, D] each, to patches h' [N, L, 2 S].

    Of a hybrid: h' = w sum_p (1 + d_p) exp(-v_p / 2) e_p + (1 - w) r, with e_p the field of path p, v_p its
    phase's variance, d_p a complex factor for each path and patch, w in [0, 1] an element's reliability and r
    what is put in the place of what isn't reliable. It starts from the faded field: d = 0, w near 1.
    """

    def __init__(self, config: ModelConfig, patches: Patches, with_paths: bool) -> None:
        super().__init__()
        size, self.num_patches = patches.patch_size, patches.num_patches
        self.join = nn.Linear(2 * config.dim, config.dim)
        self.body = Transformer(config.dim, config.decoder_depth, config.num_heads, config.mlp_ratio)
        self.out = nn.Linear(config.dim, 2 * size)
        self.weight = nn.Linear(config.dim, size) if with_paths else None
        self.factor = nn.Linear(config.dim, 2 * self.num_patches) if with_paths else None
        with torch.no_grad():
            self.out.weight.mul_(0.5)
            if self.weight is not None and self.factor is not None:
                self.weight.weight.mul_(0.1)
                self.weight.bias.fill_(_SURE)
                self.factor.weight.mul_(0.02)
                self.factor.bias.zero_()

    def forward(self, predicted: torch.Tensor, context: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """Decodes tokens: see the class."""
        paths, num_patches = inputs.paths, self.num_patches
        allowed = None
        if paths is not None:
            ones = paths.present.new_ones(1, 1).expand(len(paths.present), num_patches)
            allowed = torch.cat((ones, paths.present, ones[:, :1]), dim=1)
        z = self.body(self.join(torch.cat((predicted, context), dim=2)), allowed)
        residual = self.out(z[:, :num_patches])
        if self.weight is None or self.factor is None or paths is None:
            return residual
        weight = torch.sigmoid(self.weight(z[:, :num_patches])).repeat_interleave(2, dim=2)
        factor = to_values(self.factor(z[:, num_patches:-1])) + 1
        faded = factor * (-paths.variance / 2).exp()
        field = to_numbers((paths.field * faded[..., None]).sum(dim=1))
        return weight * field + (1 - weight) * residual


_SURE = 4.0


class CsiModel(nn.Module):
    """Encoder, predictor and decoder: the estimate of a channel's patches from its inputs."""

    def __init__(self, config: ModelConfig, patches: Patches, *, with_paths: bool) -> None:
        super().__init__()
        self.config, self.with_paths, self.patches = config, with_paths, patches
        self.encoder = PatchEncoder(config, patches, with_paths)
        self.predictor = PatchPredictor(config, patches, with_paths)
        self.decoder = CsiDecoder(config, patches, with_paths)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Estimates patches [N, L, 2 S] in the frame."""
        context = self.encoder(inputs)
        return self.decoder(self.predictor(context, inputs), context, inputs)


def _sureness(inputs: Inputs) -> torch.Tensor:
    """Share of the paths' power that isn't lost to errors of their phase, [N, L, 1]."""
    assert inputs.paths is not None
    power = inputs.paths.field.abs().square().sum(dim=3)
    kept = power * (-inputs.paths.variance).exp()
    return (kept.sum(dim=1) / power.sum(dim=1).clamp_min(1e-9))[:, :, None]
