"""One training of the charting scenario: its settings, its data, its randomness, what trainings share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from scenarios.charting.data import ChartingData, Sequences
from scenarios.charting.features import FeatureConfig
from scenarios.charting.geodesics import Dissimilarities, training_dissimilarities
from scenarios.charting.models import ArrayModel, ModelConfig
from semcom.latent_layers import LatentLayers
from semcom.samples import Samples
from semcom.train import BatchLoss, Stage, StageLog, Trainer

Log = StageLog
NUM_ANCHORS = 512
"""Positions that clients' latent spaces are aligned by."""


class TrainingConfig(BaseModel):
    """How the models are trained: w-jepa on windows and pairs, the others on single positions or pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_steps: int = Field(1000, ge=10, le=1_000_000, description="training steps of w-jepa")
    num_steps_predictor: int = Field(
        600, ge=10, le=1_000_000, description="further steps of its predictor, on finished embeddings"
    )
    num_steps_baseline: int = Field(1500, ge=10, le=1_000_000, description="training steps of the others")
    batch_size: int = Field(24, ge=2, le=65_536, description="windows in a batch of w-jepa")
    num_pairs: int = Field(256, ge=2, le=65_536, description="pairs of positions in a batch, for charts")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak learning rate")
    feature_noise_std: float = Field(0.3, ge=0, le=10, description="noise on features in training")
    rollout_steps: int = Field(10, ge=1, le=100, description="longest rollout; it grows from 3 steps on")
    num_starts: int = Field(4, ge=1, le=100, description="starting points of rollouts in a window")
    distance: Literal["cosine", "l2", "smooth_l1", "l1"] = Field("l2", description="distance of prediction")
    ema_momentum: float = Field(0.99, ge=0, le=1, description="momentum of the EMA target at the start")
    regularizer: Literal["vicreg", "sigreg"] = Field("vicreg", description="what keeps z from collapsing")
    variance_weight: float = Field(1.0, ge=0, description="weight of VICReg's variance term")
    covariance_weight: float = Field(0.04, ge=0, description="weight of VICReg's covariance term")
    sigreg_weight: float = Field(0.05, ge=0, description="weight of SIGReg")
    chart_weight: float = Field(50.0, ge=0, description="weight of the chart's term in w-jepa")
    pretraining_share: float = Field(
        0.2, ge=0, lt=1, description="share of w-jepa's steps in which the chart fits the dissimilarity alone"
    )
    num_dissimilarity_points: int = Field(
        1500, ge=10, le=20_000, description="training positions between which dissimilarities are computed"
    )


@dataclass(frozen=True)
class TrainingInputs:
    """What trained weights depend on besides the data and the seed."""

    features: FeatureConfig
    model: ModelConfig
    training: TrainingConfig


@dataclass(frozen=True)
class Task:
    """One model in training: its data, its random stream, and where its stages are run.

    samples: the training trajectories.
    """

    model: ArrayModel
    inputs: TrainingInputs
    data: ChartingData
    features: torch.Tensor
    generator: torch.Generator
    trainer: Trainer
    samples: Samples

    def fit(
        self,
        stage: str,
        module: nn.Module,
        batch_loss: BatchLoss,
        num_steps: int,
        after_step: Callable[[int], None] | None = None,
        on_device: nn.Module | None = None,
        latent: LatentLayers | None = None,
    ) -> Log:
        """Runs one stage; returns its log."""
        rate = self.inputs.training.learning_rate
        return self.trainer.fit(
            Stage(
                stage,
                module,
                batch_loss,
                num_steps,
                rate,
                self.generator,
                self.samples,
                after_step,
                on_device=on_device,
                anchors=None if latent is None else self.embed_anchors,
                latent=latent,
            )
        )

    @torch.no_grad()
    def embed_anchors(self) -> torch.Tensor:
        """Embeds positions taken evenly from all training data, the same for all clients: [n, R D]."""
        features = self.features.flatten(0, 1)
        rows = torch.linspace(0, len(features) - 1, min(NUM_ANCHORS, len(features))).round().long()
        return self.model.encoder(features[rows]).flatten(1)

    def noisy(self, features: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Adds the noise of training to features."""
        noise = torch.randn(features.shape, generator=generator)
        return features + self.inputs.training.feature_noise_std * noise

    def embed_rows(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Embeds training positions, numbered over all trajectories, with noise: [n, R D]."""
        return self.model.encoder(self.noisy(self.features.flatten(0, 1)[rows], generator)).flatten(1)


def set_scales(task: Task) -> torch.Tensor:
    """Sets the model's speed and scale from training data; returns the way travelled, in the chart's units.

    The integral of the known velocities since each trajectory's first position, float32 [U, T, 2].
    """
    model, train = task.model, task.data.train
    speed = train.velocity_m_s.square().sum(dim=-1).mean().sqrt()
    model.speed_m_s.copy_(speed if speed > 0 else torch.ones(()))
    moved_m = torch.zeros_like(train.velocity_m_s)
    moved_m[:, 1:] = task.data.interval_s * train.velocity_m_s[:, :-1].cumsum(dim=1)
    spread_m = (moved_m - moved_m.mean(dim=1, keepdim=True)).square().sum(dim=-1).mean().sqrt()
    model.scale_m.copy_(spread_m if spread_m > 0 else torch.ones(()))
    return moved_m / model.scale_m


class KnownDissimilarities:
    """The dissimilarities of the trajectories that batches are drawn from, computed once for each share."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._of: dict[bytes, Dissimilarities] = {}

    def __call__(self) -> Dissimilarities:
        """Returns them; rows number the positions of all trajectories."""
        own = self._task.samples.own
        key = own.numpy().tobytes()
        if key not in self._of:
            self._of[key] = self._compute(own)
        return self._of[key]

    def _compute(self, own: torch.Tensor) -> Dissimilarities:
        task, train = self._task, self._task.data.train
        config, num_taps = task.inputs.training, task.inputs.features.num_taps
        if len(own) < train.num_trajectories:
            train = Sequences(train.csi[own], train.position_m[own], train.velocity_m_s[own])
        found = training_dissimilarities(
            train, task.data.interval_s, config.num_dissimilarity_points, num_taps
        )
        trajectory, step = found.rows // train.num_steps, found.rows % train.num_steps
        return Dissimilarities(own[trajectory] * train.num_steps + step, found.geodesic)


def pair_term(task: Task, known: Dissimilarities, generator: torch.Generator) -> torch.Tensor:
    """The Siamese loss: mean of (|c_i - c_j| - d_ij)^2 / (d_ij + epsilon) over random pairs.

    As Stephan et al. 2023 have it: the division weighs near pairs up.
    """
    first, second = torch.randint(
        0, len(known.rows), (2, 2 * task.inputs.training.num_pairs), generator=generator
    )
    chart = task.model.head(task.embed_rows(known.rows[torch.cat((first, second))], generator))
    one, other = chart.chunk(2)
    distance = ((one - other).square().sum(dim=-1) + 1e-12).sqrt()
    wanted = known.geodesic[first, second]
    return ((distance - wanted).square() / (wanted + 0.05)).mean()


def draw_rows(task: Task, generator: torch.Generator) -> torch.Tensor:
    num_steps = task.data.train.num_steps
    num = len(task.samples) * num_steps
    number = torch.randint(0, num, (2 * task.inputs.training.num_pairs,), generator=generator)
    return task.samples.own[number // num_steps] * num_steps + number % num_steps
