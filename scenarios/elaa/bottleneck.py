"""The trained bottleneck: a JEPA's estimate as rounded numbers, for as many bits as are asked for."""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from channels.near_field import NearFieldConfig
from scenarios.elaa.coding_frame import FrameGrid
from scenarios.elaa.inputs import Inputs
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.models import CsiModel, ModelConfig
from scenarios.elaa.patches import Patches
from semcom.codecs.checks import straight_through
from semcom.codecs.entropy_model import FactorisedDensity
from semcom.vit import Positions, Transformer

GRIDS = ((256, 4, 8), (1024, 16, 16))
"""Sines, rings and phases of frames at low rates and at high ones: 13 bits, and 18."""
FINE_FROM = 1.0
"""The rate level from which frames are fine."""
_FIRST_STEP, _LAST_STEP = 8.0, 1.5
_UNIT = 0.3
_LEAST_PROBABILITY = 1e-9
_ANALYSIS_RATE, _SYNTHESIS_RATE = 0.05, 0.01
"""What a transform's weights move by, of a step that all others take."""


class BottleneckConfig(BaseModel):
    """How the bottleneck is trained: one network for all rates."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_steps_pretraining: int = Field(500, ge=10, le=10_000_000, description="steps of the JEPA alone")
    num_steps: int = Field(1300, ge=10, le=10_000_000, description="steps of JEPA and bottleneck together")
    num_steps_density: int = Field(200, ge=10, le=10_000_000, description="steps of the entropy model alone")
    num_levels: int = Field(5, ge=2, le=64, description="rates that have rounding steps of their own")
    first_price: float = Field(
        0.03, gt=0, le=10, description="share of the NMSE that a bit is worth, low rate"
    )
    last_price: float = Field(0.0007, gt=0, le=10, description="the same at the highest rate")
    depth: int = Field(2, ge=1, le=48, description="blocks of the receiver's network")


class BottleneckModel(nn.Module):
    """Sender and receiver: a channel's observation to numbers z, [N, R], and rounded ones to its patches.

    Sender: z = A (h' - m), h' the CSI decoder's patches of context and predicted tokens. Receiver: x + f(x,
    z_hat), x = m + S z_hat, f a transformer over patches, each with a band of z_hat, told the rate and where
    the frame's wave comes from. A starts as the unitary DFT of the array, S as its inverse.

    At rate level t, 0 to num_levels - 1, z_hat = step n, n = round(z / step): the steps, R of them, are
    learned for whole t and interpolated in their logarithm in between and beyond (gains: Cui et al. 2021,
    Asymmetric gained deep image compression with continuous rate adaptation, CVPR). One density of each z is
    learned, the same for all rates: p(n) = c((n + 1/2) step) - c((n - 1/2) step) (Balle et al. 2018).
    """

    analysis: torch.Tensor
    synthesis: torch.Tensor
    least: torch.Tensor
    most: torch.Tensor

    def __init__(
        self,
        config: ModelConfig,
        told: BottleneckConfig,
        array: NearFieldConfig,
        generator: torch.Generator,
        grids: tuple[tuple[int, int, int], ...] = GRIDS,
    ) -> None:
        """Draws most weights from torch's own generator, as torch.nn does; densities from `generator`."""
        super().__init__()
        self.patches = Patches(array, config.patch_size)
        self.grids = [FrameGrid(LineArray.of(array), *grid) for grid in grids]
        self.num_levels = told.num_levels
        num, dim = 2 * array.num_elements, config.dim
        self.num_latents = num
        self.jepa = CsiModel(config, self.patches)
        analysis, synthesis = _fourier(array.num_elements)
        self.register_buffer("analysis", analysis / _UNIT, persistent=False)
        self.register_buffer("synthesis", synthesis * _UNIT, persistent=False)
        self.analysis_change = nn.Parameter(torch.zeros(num, num))
        self.synthesis_change = nn.Parameter(torch.zeros(num, num))
        self.mean = nn.Parameter(torch.zeros(num))
        steps = torch.linspace(math.log(_FIRST_STEP), math.log(_LAST_STEP), told.num_levels)
        self.log_step = nn.Parameter(steps[:, None].repeat(1, num))
        self.density = FactorisedDensity(num, generator)
        self.embed = nn.Linear(2 * config.patch_size, dim)
        self.embed_band = nn.Linear(2 * config.patch_size, dim)
        self.positions = Positions(self.patches.position, dim)
        self.about = nn.Linear(3, dim)
        self.body = Transformer(dim, told.depth, config.num_heads, config.mlp_ratio)
        self.out, self.out_band = (nn.Linear(dim, 2 * config.patch_size) for _ in range(2))
        with torch.no_grad():
            for layer in (self.out, self.out_band):
                layer.weight.mul_(0.1)
                layer.bias.zero_()
        # What training leaves for the coder: how often a frame's symbols occur, and the numbers' range.
        for number, grid in enumerate(grids):
            self.register_buffer(f"frames{number}", torch.ones(3, max(grid), dtype=torch.int64))
        self.register_buffer("least", torch.full((len(grids), num), -1.0))
        self.register_buffer("most", torch.full((len(grids), num), 1.0))

    def grid_at(self, level: float) -> int:
        """Number of the grid that frames are on at a rate level."""
        return int(level >= FINE_FROM)

    def analyse(self, inputs: Inputs) -> torch.Tensor:
        """The sender: observed channels in their rounded frames to the numbers z, [N, R]."""
        h = self.jepa(inputs).flatten(1) - self.mean
        return h @ (self.analysis + _ANALYSIS_RATE * self.analysis_change).T

    def steps(self, level: float) -> torch.Tensor:
        """Rounding steps [R] at a rate level; above the last one they go on as before it."""
        below = min(max(int(level), 0), self.num_levels - 2)
        return torch.lerp(self.log_step[below], self.log_step[below + 1], level - below).exp()

    def round(self, z: torch.Tensor, level: float) -> torch.Tensor:
        """z_hat at a rate level, with the gradient of z and of the steps' size."""
        steps = self.steps(level)
        return steps * straight_through(z / steps, (z / steps).round())

    def relaxed_bits(self, z: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
        """Bits [N] of z, with uniform noise in place of rounding (Balle et al. 2017)."""
        steps = self.steps(level)
        noisy = z + (torch.rand(z.shape, generator=generator) - 0.5) * steps
        probability = self.density.probability((noisy - steps / 2).T, (noisy + steps / 2).T)
        return -probability.clamp_min(_LEAST_PROBABILITY).log2().sum(dim=0)

    def synthesise(self, z_hat: torch.Tensor, place: torch.Tensor, level: float) -> torch.Tensor:
        """The receiver: rounded numbers [N, R] and the frames' place [N, 2] to patches [N, L, 2 S]."""
        synthesis = self.synthesis + _SYNTHESIS_RATE * self.synthesis_change
        x = self.mean + z_hat @ synthesis.T
        shape = (self.patches.num_patches, -1)
        patches, bands = x.unflatten(1, shape), z_hat.unflatten(1, shape)
        rate = torch.full_like(place[:, :1], level / (self.num_levels - 1))
        about = self.about(torch.cat((place, rate), dim=1))[:, None]
        tokens = self.body(self.embed(patches) + self.embed_band(bands) + self.positions() + about)
        return (
            patches + self.out(tokens) + (self.out_band(tokens).flatten(1) @ synthesis.T).unflatten(1, shape)
        )


def _fourier(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The unitary DFT on real and imaginary parts in turn, float32 [2 M, 2 M], and its inverse.

    Frequencies rise from the most negative to the largest, so that neighbours stand together.
    """
    number = torch.arange(num, dtype=torch.float64)
    turns = (number[:, None] - num // 2) * number / num
    values = torch.polar(torch.full_like(turns, num**-0.5), -2 * torch.pi * turns)
    rows = torch.stack((values.real, -values.imag, values.imag, values.real), dim=2)
    matrix = rows.view(num, num, 2, 2).permute(0, 2, 1, 3).reshape(2 * num, 2 * num).float()
    return matrix, matrix.T.contiguous()
