"""The JEPA of single snapshots: what some antennas tell of the others, and a chart of the embedding."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from scenarios.charting.snapshot import FEATURE_DIM, Snapshots, describe_view, draw_views
from scenarios.charting.snapshot_places import RangeConfig, polar_places
from semcom.contracts import SemcomError
from semcom.diagnostics import error_ratio, rank_me
from semcom.distances import l2
from semcom.encoders import MlpEncoder
from semcom.jepa import Jepa
from semcom.predictors import FilmPredictor
from semcom.regularizers import VicReg
from semcom.rng import Streams
from semcom.targets import EmaTarget
from semcom.train import fit
from semcom.weight_average import WeightAverage

CHART_DIM = 2

Log = list[dict[str, float | int | str]]


class SnapshotTrainingConfig(BaseModel):
    """Sizes and training of the JEPA of snapshots and of its chart."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    embedding_dim: int = Field(8, ge=1, le=16, description="dimensions of the embedding")
    hidden_dim: int = Field(64, ge=1, le=4096, description="hidden units of encoder, predictor and head")
    num_context: int = Field(16, ge=2, le=4096, description="antennas that the context is seen by")
    num_target: int = Field(16, ge=2, le=4096, description="antennas that the target is seen by, other ones")
    num_view_pairs: int = Field(64, ge=1, le=4096, description="pairs of views drawn for a training")
    num_steps: int = Field(2000, ge=10, le=1_000_000, description="training steps")
    batch_size: int = Field(256, ge=4, le=65_536, description="users in a batch")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="peak learning rate")
    ema_momentum: float = Field(0.99, ge=0, le=1, description="momentum of the target encoder at the start")
    variance_weight: float = Field(1.0, ge=0, description="weight of VICReg's variance term")
    covariance_weight: float = Field(0.04, ge=0, description="weight of VICReg's covariance term")
    chart_weight: float = Field(10.0, ge=0, description="weight of the chart's distances beside the JEPA")
    embedding_noise_std: float = Field(0.05, ge=0, le=1, description="noise on what the chart is trained on")
    range: RangeConfig = RangeConfig()


class SnapshotModel(nn.Module):
    """Second moments of a linear array to an embedding, and the embedding to a place on the chart.

    noise_power: of the observations that it was trained on, which descriptions of views take off.
    calibration [N, D]: training embeddings, for codecs to be fitted to.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    calibration: torch.Tensor

    def __init__(self, config: SnapshotTrainingConfig, snapshots: Snapshots) -> None:
        super().__init__()
        self.noise_power = snapshots.noise_power
        self.encoder = MlpEncoder(FEATURE_DIM, config.embedding_dim, config.hidden_dim)
        self.head = MlpEncoder(config.embedding_dim, CHART_DIM, config.hidden_dim)
        self.register_buffer("mean", torch.zeros(FEATURE_DIM))
        self.register_buffer("deviation", torch.ones(FEATURE_DIM))
        self.register_buffer("calibration", torch.zeros(len(snapshots), config.embedding_dim))

    def describe(self, moments: torch.Tensor, antennas: torch.Tensor) -> torch.Tensor:
        """Describes what `antennas` [V] see of moments [N, M, M]: standardised features [N, FEATURE_DIM]."""
        return (describe_view(moments, antennas, self.noise_power) - self.mean) / self.deviation

    def encode(self, moments: torch.Tensor) -> torch.Tensor:
        """Encodes moments [N, M, M], seen by all antennas, into embeddings [N, D]."""
        return self.encoder(self.describe(moments, torch.arange(moments.shape[-1])))

    def chart(self, z: torch.Tensor) -> torch.Tensor:
        """Places embeddings [N, D] on the chart, [N, 2]."""
        return self.head(z)


def train_snapshot(
    snapshots: Snapshots, seed: int, config: SnapshotTrainingConfig
) -> tuple[SnapshotModel, Log]:
    """Trains encoder, predictor and chart together; returns the model and its log. No position is used.

    loss = JEPA + chart_weight * mean over pairs (|c_i - c_j| - |p_i - p_j|)^2, c the chart of an embedding,
    p `polar_places`. The JEPA predicts the embedding of the antennas of one view, by an EMA target encoder,
    from that of others (`draw_views`), told which antennas the target has; VICReg keeps it from collapsing.
    Raises SemcomError for too few antennas, and for fewer users than a batch has.
    """
    if len(snapshots) < config.batch_size:
        raise SemcomError(
            f"{len(snapshots)} snapshots are fewer than a batch: lower batch_size = {config.batch_size}"
        )
    streams = Streams(seed)
    generator = streams.torch_generator("snapshot-train")
    moments = snapshots.moments()
    num_users, num_antennas = moments.shape[:2]
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws its starting weights from the process-wide generator.
        torch.manual_seed(streams.seed("snapshot-weights"))
        model = SnapshotModel(config, snapshots)
        predictor = FilmPredictor(config.embedding_dim, num_antennas, config.hidden_dim)
    everything = describe_view(moments, torch.arange(num_antennas), snapshots.noise_power)
    places = polar_places(everything, config.range)
    model.mean.copy_(everything.mean(dim=0))
    # A feature that hardly varies must not be blown up to full scale.
    model.deviation.copy_(everything.std(dim=0).clamp(min=0.05))
    full = (everything - model.mean) / model.deviation
    # What a view tells doesn't depend on the weights: it is computed once for all users.
    views = [
        draw_views(num_antennas, config.num_context, config.num_target, generator)
        for _ in range(config.num_view_pairs)
    ]
    seen = torch.stack([torch.stack([model.describe(moments, v) for v in pair], dim=1) for pair in views])
    target_mask = torch.zeros(len(views), num_antennas)
    for mask, (_, target) in zip(target_mask, views, strict=True):
        mask[target] = 1.0
    jepa = Jepa(
        model.encoder,
        predictor,
        VicReg(config.variance_weight, config.covariance_weight),
        l2,
        target=EmaTarget(model.encoder, config.ema_momentum, 1.0, config.num_steps),
    )
    average = WeightAverage(nn.ModuleList((jepa, model.head)))

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        pair = torch.randint(0, len(views), (config.batch_size,), generator=generator)
        user = torch.randint(0, num_users, (config.batch_size,), generator=generator)
        terms = jepa.loss(seen[pair, user], target_mask[pair, None], 1, 1, generator)
        z = model.encoder(full[user])
        noise = config.embedding_noise_std * torch.randn(z.shape, generator=generator)
        chart = (functional.pdist(model.head(z + noise)) - functional.pdist(places[user])).square().mean()
        return {**terms, "chart": chart, "total": terms["total"] + config.chart_weight * chart}

    def after_step(step: int) -> None:
        jepa.update_target(step)
        average.update(step)

    log: Log = [
        {"stage": "snapshot", **row}
        for row in fit(
            average, batch_loss, config.num_steps, config.learning_rate, generator, after_step=after_step
        )
    ]
    average.adopt()
    model = model.eval().requires_grad_(False)
    model.calibration.copy_(model.encoder(full))
    context, target = model.encoder(seen[0]).unbind(dim=1)
    ratio = error_ratio(predictor(context, target_mask[0].expand(num_users, -1)), target, context)
    log.append({"stage": "embedding", "step": 0, "rank_me": rank_me(model.calibration), "error_ratio": ratio})
    return model, log
