"""Training of the charting scenario's models: w-jepa, siamese, autoencoder and supervised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from scenarios.charting.data import ChartingData, Sequences
from scenarios.charting.dissimilarity import (
    adp_dissimilarity,
    fuse,
    geodesic_dissimilarity,
    time_dissimilarity,
    time_scale,
)
from scenarios.charting.features import FeatureConfig, delay_taps
from scenarios.charting.models import NUM_CALIBRATION, ArrayModel, ModelConfig, SequenceEncoder
from semcom.contracts import SemcomError
from semcom.diagnostics import error_ratio, rank_me
from semcom.distances import DISTANCES
from semcom.jepa import Jepa
from semcom.predictors import rollout
from semcom.regularizers import SigReg, VicReg
from semcom.rng import Streams
from semcom.targets import EmaTarget
from semcom.train import BatchLoss, fit

Log = list[dict[str, float | int | str]]
# What the chart's term weighs more where the predictor is trained alone: its latent term is larger there.
_FORECAST_FACTOR = 4
MODELS = ("w-jepa", "siamese", "autoencoder", "supervised")


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
class Dissimilarities:
    """Fused geodesic dissimilarities of some training positions; mean 1. rows, int64 [n]: which they are."""

    rows: torch.Tensor
    geodesic: torch.Tensor


def training_rows(train: Sequences, num_points: int) -> torch.Tensor:
    """Numbers of positions spread evenly over the training data, int64, at most num_points of them."""
    total = train.num_trajectories * train.num_steps
    return torch.linspace(0, total - 1, min(num_points, total), dtype=torch.float64).round().long()


def training_dissimilarities(
    train: Sequences, interval_s: float, num_points: int, num_taps: int
) -> Dissimilarities:
    """Computes them for positions spread evenly over the training data, at most num_points.

    rows number the positions of all trajectories, one after the other.
    """
    rows = training_rows(train, num_points)
    taps = delay_taps(train.csi.flatten(0, 1)[rows], num_taps).numpy()
    geodesic = fused_geodesics(taps, rows, train.num_steps, interval_s)
    return Dissimilarities(rows, torch.from_numpy(geodesic / geodesic.mean()))


def fused_geodesics(taps: np.ndarray, rows: torch.Tensor, num_steps: int, interval_s: float) -> np.ndarray:
    """Fused geodesic dissimilarities, float32 [n, n], of positions with taps [n, R, M, L].

    rows: what `training_rows` gave; num_steps: positions of a trajectory.
    """
    trajectory, step = np.divmod(rows.numpy(), num_steps)
    adp = adp_dissimilarity(taps)
    gap_s = time_dissimilarity(step * interval_s, trajectory)
    # Where positions are sparse, neighbours in time are farther apart than the scale's usual two seconds.
    next_s = float(np.median(gap_s[np.arange(len(rows) - 1), np.arange(1, len(rows))]))
    max_gap_s = max(2.0, 1.5 * next_s) if np.isfinite(next_s) else 2.0
    return geodesic_dissimilarity(fuse(adp, gap_s, time_scale(adp, gap_s, max_gap_s)))


@dataclass(frozen=True)
class _Task:
    """One model in training: its data, its random stream, and where it leaves its checkpoints."""

    model: ArrayModel
    inputs: TrainingInputs
    data: ChartingData
    features: torch.Tensor
    generator: torch.Generator
    scratch: Path | None

    def fit(
        self,
        stage: str,
        module: nn.Module,
        batch_loss: BatchLoss,
        num_steps: int,
        after_step: Callable[[int], None] | None = None,
    ) -> Log:
        """Runs one stage; returns its log."""
        checkpoint = None if self.scratch is None else self.scratch / f"{stage}.safetensors"
        rate = self.inputs.training.learning_rate
        rows = fit(
            module, batch_loss, num_steps, rate, self.generator, after_step=after_step, checkpoint=checkpoint
        )
        return [{"stage": stage, **row} for row in rows]

    def noisy(self, features: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Adds the noise of training to features."""
        noise = torch.randn(features.shape, generator=generator)
        return features + self.inputs.training.feature_noise_std * noise

    def embed_rows(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Embeds training positions, numbered over all trajectories, with noise: [n, R D]."""
        return self.model.encoder(self.noisy(self.features.flatten(0, 1)[rows], generator)).flatten(1)


def train_model(
    name: str, seed: int, data: ChartingData, inputs: TrainingInputs, scratch: Path | None = None
) -> tuple[ArrayModel, Log]:
    """Trains one of MODELS from scratch; returns it with its log and its diagnostics on validation data.

    Raises SemcomError where trajectories are too short for the rollouts.
    """
    streams, train = Streams(seed), data.train
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws its starting weights from the process-wide generator.
        torch.manual_seed(streams.seed(f"weights-{name}"))
        model = ArrayModel(
            inputs.model, inputs.features, data.csi_shape, data.num_rows, with_predictor=name == "w-jepa"
        )
        model.features.calibrate(train.csi.flatten(0, 1))
        with torch.no_grad():
            features = model.features(train.csi.flatten(0, 1)).unflatten(0, train.csi.shape[:2])
        generator = streams.torch_generator(f"train-{name}")
        task = _Task(model, inputs, data, features, generator, scratch)
        trainer = {
            "w-jepa": _train_jepa,
            "siamese": _train_siamese,
            "autoencoder": _train_autoencoder,
            "supervised": _train_supervised,
        }
        log = trainer[name](task)
    model.eval().requires_grad_(False)
    keep_calibration(model, features.flatten(0, 1))
    log.append({"stage": "validation", "step": 0, **_diagnose(model, data.validation)})
    return model, log


@torch.no_grad()
def keep_calibration(model: ArrayModel, features: torch.Tensor) -> None:
    """Keeps training embeddings for codecs to be fitted to, spread evenly over features [N, R, input_dim]."""
    rows = torch.linspace(0, len(features) - 1, NUM_CALIBRATION).round().long()
    model.calibration.copy_(model.encoder(features[rows]))


@torch.no_grad()
def _diagnose(model: ArrayModel, held_out: Sequences) -> dict[str, float]:
    """Effective rank of held-out embeddings, and the prediction's error against that of standing still."""
    z = model.embed(held_out.csi)
    row = {"rank_me": rank_me(z.flatten(2).flatten(0, 1))}
    if model.predictor is not None:
        predicted = model.predict(z[:, :-1], held_out.velocity_m_s[:, :-1])
        row["error_ratio"] = error_ratio(
            predicted.flatten(2).flatten(0, 1),
            z[:, 1:].flatten(2).flatten(0, 1),
            z[:, :-1].flatten(2).flatten(0, 1),
        )
    return row


def _train_jepa(task: _Task) -> Log:
    """Trains encoder, predictor and chart together.

    Where velocities are known the chart is held to them: between any two positions of a trajectory it has
    to move as the velocities in between add up to, in encoded and in predicted embeddings. Where they are
    not, and in pretraining, its distances are held to the fused geodesic dissimilarity.
    """
    model, config, data = task.model, task.inputs.training, task.data
    train, predictor = data.train, model.predictor
    assert predictor is not None
    length = config.num_starts + config.rollout_steps
    if train.num_steps < length:
        raise SemcomError(
            f"trajectories of {train.num_steps} positions are shorter than a training window of {length}: "
            "shorten training.rollout_steps or lengthen the trajectories"
        )
    speed = train.velocity_m_s.square().sum(dim=-1).mean().sqrt()
    model.speed_m_s.copy_(speed if speed > 0 else torch.ones(()))
    condition = train.velocity_m_s / model.speed_m_s
    moved_m = torch.zeros_like(train.velocity_m_s)
    moved_m[:, 1:] = data.interval_s * train.velocity_m_s[:, :-1].cumsum(dim=1)
    spread_m = (moved_m - moved_m.mean(dim=1, keepdim=True)).square().sum(dim=-1).mean().sqrt()
    model.scale_m.copy_(spread_m if spread_m > 0 else torch.ones(()))
    moved = moved_m / model.scale_m
    online = SequenceEncoder(model.encoder)
    jepa = Jepa(
        online,
        predictor,
        VicReg(config.variance_weight, config.covariance_weight)
        if config.regularizer == "vicreg"
        else SigReg(config.sigreg_weight, num_slices=128),
        DISTANCES[config.distance],
        target=EmaTarget(online, config.ema_momentum, 1.0, config.num_steps),
    )
    needs_dissimilarity = not data.knows_velocity or config.pretraining_share > 0
    known = _dissimilarities(task) if needs_dissimilarity else None

    def chart_terms(num_rollout: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """How far the chart is from the velocities: between encoded embeddings, and to predicted ones."""
        user = torch.randint(0, train.num_trajectories, (config.num_pairs, 1), generator=generator)
        first, last = torch.randint(0, train.num_steps, (2, config.num_pairs, 1), generator=generator)
        start = torch.randint(0, train.num_steps - num_rollout, (config.num_pairs, 1), generator=generator)
        steps = torch.cat((first, last, start), dim=1)
        z = online(task.noisy(task.features[user, steps], generator))
        at = model.head(z)
        far = (at[:, 1] - at[:, 0]) - (moved[user, steps[:, 1:2]] - moved[user, steps[:, :1]])[:, 0]
        windows = condition[user, start + torch.arange(num_rollout)]
        gone = moved[user, start + torch.arange(1, num_rollout + 1)] - moved[user, start]
        ahead = torch.stack(
            [
                (model.head(z_hat) - at[:, 2] - gone[:, step]).square().mean()
                for step, z_hat in enumerate(rollout(predictor, z[:, 2], windows))
                if step % 4 == 0
            ]
        ).mean()
        return {"odometry": far.square().mean(), "forecast": ahead}

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        progress = step / config.num_steps
        longest = config.rollout_steps
        num_rollout = min(longest, int(3 + 2 * progress * max(0, longest - 3)))
        user = torch.randint(0, train.num_trajectories, (config.batch_size, 1), generator=generator)
        start = torch.randint(0, train.num_steps - length + 1, (config.batch_size, 1), generator=generator)
        steps = start + torch.arange(length)
        window = task.noisy(task.features[user, steps], generator)
        terms = jepa.loss(window, condition[user, steps], num_rollout, config.num_starts, generator)
        if known is not None and (not data.knows_velocity or progress < config.pretraining_share):
            chart = {"dissimilarity": _pair_term(task, known, generator)}
        else:
            chart = chart_terms(num_rollout, generator)
        total = terms["total"] + config.chart_weight * torch.stack(list(chart.values())).sum()
        return {**terms, **chart, "total": total}

    module = nn.ModuleList((jepa, model.head))
    log = task.fit("encoder", module, batch_loss, config.num_steps, jepa.update_target)
    return log + _train_predictor(task, condition, moved)


def _train_predictor(task: _Task, condition: torch.Tensor, moved: torch.Tensor) -> Log:
    """Trains the predictor on, on embeddings that no longer change, with the chart's term where it has one.

    condition, moved [U, T, 2]: scaled velocities, and their integral in units of the chart.
    """
    model, config, num_steps = task.model, task.inputs.training, task.data.train.num_steps
    predictor = model.predictor
    assert predictor is not None
    model.encoder.requires_grad_(False)
    model.head.requires_grad_(False)
    with torch.no_grad():
        z = model.encoder(task.features.flatten(0, 1)).flatten(1).unflatten(0, task.features.shape[:2])
    variance = z.flatten(0, 1).var(dim=0).clamp_min(1e-6)
    num_rows, horizon = config.num_pairs, config.rollout_steps

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        user = torch.randint(0, len(z), (num_rows, 1), generator=generator)
        start = torch.randint(0, num_steps - horizon, (num_rows, 1), generator=generator)
        steps = start + torch.arange(horizon + 1)
        true = z[user, steps]
        rolled = rollout(predictor, true[:, 0], condition[user, steps[:, :-1]])
        predicted = torch.stack(tuple(rolled), dim=1)
        terms = {"prediction": ((predicted - true[:, 1:]).square() / variance).mean()}
        if task.data.knows_velocity:
            gone = moved[user, steps[:, 1:]] - moved[user, start]
            error = model.head(predicted) - model.head(true[:, :1]) - gone
            terms["forecast"] = _FORECAST_FACTOR * config.chart_weight * error.square().mean()
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    return task.fit("predictor", predictor, batch_loss, config.num_steps_predictor)


def _dissimilarities(task: _Task) -> Dissimilarities:
    config = task.inputs.training
    return training_dissimilarities(
        task.data.train,
        task.data.interval_s,
        config.num_dissimilarity_points,
        task.inputs.features.num_taps,
    )


def _pair_term(task: _Task, known: Dissimilarities, generator: torch.Generator) -> torch.Tensor:
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


def _train_siamese(task: _Task) -> Log:
    """Fits the distances on the chart to the fused geodesic dissimilarities of training positions."""
    known = _dissimilarities(task)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        term = _pair_term(task, known, generator)
        return {"dissimilarity": term, "total": term}

    return task.fit("model", task.model, batch_loss, task.inputs.training.num_steps_baseline)


def _train_autoencoder(task: _Task) -> Log:
    """Rebuilds the features of all arrays from the two dimensions of the chart."""
    size = task.features[0, 0].numel()
    hidden = 4 * task.inputs.model.head_dim
    decoder = nn.Sequential(nn.Linear(2, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
    decoder.append(nn.Linear(hidden, size))
    features = task.features.flatten(0, 1)
    # Components count by what they hold, and were scaled to unit deviation: that is undone.
    weight = task.model.features.projection.norm(dim=1).square().reciprocal().flatten()
    weight = weight / weight.mean()

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = _draw_rows(task, generator)
        chart = task.model.head(task.embed_rows(rows, generator))
        error = ((decoder(chart) - features[rows].flatten(1)).square() * weight).mean()
        return {"reconstruction": error, "total": error}

    module = nn.ModuleList((task.model, decoder))
    return task.fit("model", module, batch_loss, task.inputs.training.num_steps_baseline)


def _train_supervised(task: _Task) -> Log:
    """Regresses the position itself: the upper bound of what the encoders can tell."""
    position_m = task.data.train.position_m.flatten(0, 1)
    centre = position_m.mean(dim=0)
    scale = (position_m - centre).square().sum(dim=1).mean().sqrt()
    task.model.scale_m.copy_(scale)
    wanted = (position_m - centre) / scale

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = _draw_rows(task, generator)
        error = (task.model.head(task.embed_rows(rows, generator)) - wanted[rows]).square().mean()
        return {"position": error, "total": error}

    return task.fit("model", task.model, batch_loss, task.inputs.training.num_steps_baseline)


def _draw_rows(task: _Task, generator: torch.Generator) -> torch.Tensor:
    num = task.data.train.num_trajectories * task.data.train.num_steps
    return torch.randint(0, num, (2 * task.inputs.training.num_pairs,), generator=generator)
