"""The trained bottleneck: a JEPA's estimate as rounded numbers, for as many bits as are asked for."""

from __future__ import annotations

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
FINE_FROM = 0.25
"""The rate level from which frames are fine."""
_UNIT = 0.3
"""About the deviation of a coefficient of what the frame leaves: z is in units of it."""
_LEAST_PROBABILITY = 1e-9
_ANALYSIS_RATE, _SYNTHESIS_RATE = 0.05, 0.01
"""What a transform's weights move by, of a step that all others take."""


class BottleneckConfig(BaseModel):
    """How the bottleneck is trained: one network for all rates."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_steps_pretraining: int = Field(400, ge=10, le=10_000_000, description="steps of the JEPA alone")
    num_steps: int = Field(1500, ge=10, le=10_000_000, description="steps of JEPA and bottleneck together")
    num_steps_density: int = Field(300, ge=10, le=10_000_000, description="steps of the entropy model alone")
    first_step: float = Field(3.0, gt=0, le=1000, description="rounding step at rate level 0, the coarsest")
    last_step: float = Field(0.5, gt=0, le=1000, description="rounding step at rate level 1")
    price: float = Field(0.15, ge=0, le=10, description="what a bit costs, in squared steps of error")
    depth: int = Field(2, ge=1, le=48, description="blocks of the receiver's network")


class BottleneckModel(nn.Module):
    """Sender and receiver: a channel's observation to numbers z, [N, R], and rounded ones to its patches.

    Sender: z = A (h' - m), h' the CSI decoder's patches of context and predicted tokens. Receiver: x + f(x,
    z_hat), x = m + S z_hat, f a transformer over patches, each with a band of z_hat, told the rate and where
    the frame's wave comes from. A starts as the unitary DFT of the array, S as its inverse.

    At rate level t z_hat = step n, n = round(z / step), with step = first_step^(1 - t) last_step^t, the same
    for all z: one network for all rates, t from 0 to 1 and somewhat beyond. One density of each z is learned,
    for all rates too: p(n) = c((n + 1/2) step) - c((n - 1/2) step) (Balle et al. 2018).
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
        self.ends = told.first_step, told.last_step
        num, dim = 2 * array.num_elements, config.dim
        self.num_latents = num
        self.jepa = CsiModel(config, self.patches)
        analysis, synthesis = _fourier(array.num_elements)
        self.register_buffer("analysis", analysis / _UNIT, persistent=False)
        self.register_buffer("synthesis", synthesis * _UNIT, persistent=False)
        self.analysis_change = nn.Parameter(torch.zeros(num, num))
        self.synthesis_change = nn.Parameter(torch.zeros(num, num))
        self.mean = nn.Parameter(torch.zeros(num))
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

    def estimate(self, inputs: Inputs) -> torch.Tensor:
        """What the sender's JEPA makes of observed channels in their frames: patches [N, L, 2 S]."""
        estimate: torch.Tensor = self.jepa(inputs)
        return estimate

    def analyse(self, estimate: torch.Tensor) -> torch.Tensor:
        """The rest of the sender: estimated patches [N, L, 2 S] to the numbers z, [N, R]."""
        return (estimate.flatten(1) - self.mean) @ (self.analysis + _ANALYSIS_RATE * self.analysis_change).T

    def amplitude(self, level: float) -> float:
        """The rounding step at a rate level, as an amplitude of the unitary DFT's coefficients."""
        first, last = self.ends
        return first ** (1 - level) * last**level

    def step(self, level: float) -> float:
        """The rounding step of z at a rate level."""
        return self.amplitude(level) / _UNIT

    def round(self, z: torch.Tensor, level: float) -> torch.Tensor:
        """z_hat at a rate level, with the gradient of z."""
        step = self.step(level)
        return straight_through(z, step * (z / step).round())

    def bits(self, z_hat: torch.Tensor, level: float) -> torch.Tensor:
        """What rounded numbers [N, R] cost, bits [N]; at rounded ones, since most are 0 and cost nothing.

        With uniform noise in place of rounding hundreds of zeros seem to cost a part of a bit each.
        """
        half = self.step(level) / 2
        probability = self.density.probability((z_hat - half).T, (z_hat + half).T)
        return -probability.clamp_min(_LEAST_PROBABILITY).log2().sum(dim=0)

    def synthesise(self, z_hat: torch.Tensor, place: torch.Tensor, level: float) -> torch.Tensor:
        """The receiver: rounded numbers [N, R] and the frames' place [N, 2] to patches [N, L, 2 S]."""
        synthesis = self.synthesis + _SYNTHESIS_RATE * self.synthesis_change
        x = self.mean + z_hat @ synthesis.T
        shape = (self.patches.num_patches, -1)
        patches, bands = x.unflatten(1, shape), z_hat.unflatten(1, shape)
        # Below 0 nothing was trained: there it is told the coarsest.
        rate = torch.full_like(place[:, :1], max(level, 0.0))
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
