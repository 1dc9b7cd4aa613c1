"""One training of the ELAA scenario: its settings, its examples, its randomness, what trainings share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from scenarios.elaa.examples import NUM_CELLS, Examples
from scenarios.elaa.inputs import Inputs, mirror_patches
from scenarios.elaa.models import ModelConfig
from semcom.train import BatchLoss, OptimizerName, Stage, StageLog, Trainer

Log = StageLog
_LEAST_OWN_SHARE = 0.01


class TrainingConfig(BaseModel):
    """How the learned estimators are trained: all on the same examples, with the same number of steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_steps_pretraining: int = Field(800, ge=10, le=10_000_000, description="steps of JEPA and of MAE")
    num_steps_decoder: int = Field(
        600,
        ge=10,
        le=10_000_000,
        description="steps of a decoder on what was pretrained and no longer changes",
    )
    num_steps_tuning: int = Field(2000, ge=10, le=10_000_000, description="steps of fine-tuning on NMSE")
    num_steps_combiner: int = Field(1500, ge=10, le=10_000_000, description="steps of the hybrid's network")
    batch_size: int = Field(112, ge=2, le=65_536, description="channels in a batch")
    combiner_batch_size: int = Field(192, ge=2, le=65_536, description="channels in a batch of the hybrid")
    optimizer: OptimizerName = Field("muon", description="AdamW, or Muon for matrices and AdamW for the rest")
    learning_rate: float = Field(5e-3, gt=0, le=1, description="peak learning rate")
    combiner_learning_rate: float = Field(4e-3, gt=0, le=1, description="peak learning rate of the hybrid")
    distance: Literal["cosine", "l2", "smooth_l1", "l1"] = Field("l2", description="distance of prediction")
    ema_momentum: float = Field(0.99, ge=0, le=1, description="momentum of the EMA target at the start")
    regularizer: Literal["none", "vicreg"] = Field("none", description="what else keeps z from collapsing")
    variance_weight: float = Field(1.0, ge=0, description="weight of VICReg's variance term")
    covariance_weight: float = Field(0.04, ge=0, description="weight of VICReg's covariance term")


@dataclass(frozen=True)
class TrainingInputs:
    """What trained weights depend on besides the examples and the seed."""

    model: ModelConfig
    training: TrainingConfig


class CellLevels(nn.Module):
    """The mean of errors divided by what is usual in their cell: channels of like share and SNR.

    loss = mean_n e_n / level_c(n), with level_c a running mean of the errors of cell c. Errors span 40 dB
    between cells: without this the easy ones would not count. It is the relative error in each cell that is
    made small, and in it the plain mean: outliers count as they do in what is reported.

    Of noisy targets a share `noise` of the error is theirs, which no estimate can lower. Divided by all of
    it, cells whose own error is far below would not count; divided by their own error alone, they would bring
    the targets' noise into every step. It is divided by own^(3/4) all^(1/4).
    """

    level: torch.Tensor

    def __init__(
        self,
        start: torch.Tensor | None = None,
        momentum: float = 0.95,
        num_cells: int = NUM_CELLS,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.momentum, self.noise = momentum, noise
        self.register_buffer("level", torch.ones(num_cells) if start is None else start.clone())

    def forward(self, errors: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """The loss of errors [N] in cells [N]; takes them into the levels."""
        with torch.no_grad():
            mean, met = cell_means(errors.detach(), cell, len(self.level))
            kept = self.momentum * self.level + (1 - self.momentum) * mean
            self.level.copy_(torch.where(met, kept, self.level).clamp_min(1e-9))
        level = self.level[cell]
        if self.noise > 0:
            own = torch.maximum(level - self.noise, _LEAST_OWN_SHARE * level)
            level = own**0.75 * level**0.25
        return (errors / level).mean()


def cell_means(
    errors: torch.Tensor, cell: torch.Tensor, num_cells: int = NUM_CELLS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean error of each cell, float32 [num_cells], and which cells were met."""
    count = torch.bincount(cell, minlength=num_cells)
    return torch.zeros(num_cells).index_add(0, cell, errors) / count.clamp_min(1), count > 0


def nmse(estimate: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """|h_hat - h|^2 / |h|^2 of patches [N, L, 2 S], over the whole array: [N]."""
    return (estimate - clean).square().sum(dim=(1, 2)) / clean.square().sum(dim=(1, 2)).clamp_min(1e-12)


@dataclass(frozen=True)
class Task:
    """One model in training: its examples, its random stream, and where its stages are run."""

    inputs: TrainingInputs
    examples: Examples
    generator: torch.Generator
    trainer: Trainer
    may_mirror: bool

    def draw(self, generator: torch.Generator) -> tuple[Inputs, torch.Tensor, torch.Tensor]:
        """Draws a batch: inputs, the whole and clean channel's patches, cells. Half of them are mirrored."""
        rows = self.examples.draw_rows(self.inputs.training.batch_size, generator)
        inputs, clean = self.examples.inputs[rows], self.examples.clean[rows]
        if self.may_mirror and bool(torch.rand((), generator=generator) < 0.5):
            inputs, clean = inputs.mirrored(), mirror_patches(clean)
        return inputs, clean, self.examples.cell[rows]

    def fit(
        self,
        stage: str,
        module: nn.Module,
        batch_loss: BatchLoss,
        num_steps: int,
        after_step: Callable[[int], None] | None = None,
        rate: float | None = None,
        on_device: nn.Module | None = None,
    ) -> Log:
        """Runs one stage; returns its log."""
        config = self.inputs.training
        return self.trainer.fit(
            Stage(
                stage,
                module,
                batch_loss,
                num_steps,
                config.learning_rate if rate is None else rate,
                self.generator,
                self.examples.samples,
                after_step,
                config.optimizer,
                on_device,
            )
        )
