"""One training of the sensing scenario: its settings, its data, its randomness, what stages share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from scenarios.isac.data import Sequences
from scenarios.isac.heads import Matching, Scene, scene_loss
from scenarios.isac.mixing import ALONE, Draw, Partners
from scenarios.isac.models import ModelConfig, SensingModel
from scenarios.isac.scenes import TrainingScenes
from semcom.encoders import ParallelMlpEncoder
from semcom.masks import mask_links, mask_modalities
from semcom.rng import Streams
from semcom.samples import Samples
from semcom.train import BatchLoss, Stage, StageLog, Trainer

Log = StageLog


class TrainingConfig(BaseModel):
    """How the models are trained: encoders on single steps, predictors on windows of steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_steps: int = Field(800, ge=10, le=1_000_000, description="training steps of the encoders")
    num_steps_predictor: int = Field(
        600, ge=10, le=1_000_000, description="steps of the predictor on windows"
    )
    num_steps_head: int = Field(400, ge=10, le=1_000_000, description="steps of the heads")
    num_steps_decoder: int = Field(300, ge=10, le=1_000_000, description="steps of the decoder")
    batch_size: int = Field(64, ge=2, le=65_536, description="time steps in a batch of frames")
    num_windows: int = Field(128, ge=2, le=65_536, description="windows in a batch of the predictor")
    learning_rate: float = Field(5e-3, gt=0, le=1, description="peak learning rate")
    modality_probability: float = Field(0.3, ge=0, le=1, description="probability that a modality is hidden")
    link_probability: float = Field(
        0.5, ge=0, le=1, description="largest probability that a sensor is hidden"
    )
    whole_share: float = Field(0.25, ge=0, lt=1, description="share of the rows in which nothing is hidden")
    patch_share: float = Field(0.0, ge=0, le=1, description="share of a frame's patches that are hidden")
    patch_px: int = Field(16, ge=1, le=1024, description="side of a patch")
    jpeg_share: float = Field(
        0.3, ge=0, le=1, description="share of the frames that come through JPEG of any quality in training"
    )
    mix_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the training's scenes and walks that are two made one, if their people differ",
    )
    num_mixed_walks: int = Field(
        500, ge=0, le=100_000, description="walks made of two that predictors and heads learn from"
    )
    csi_noise_std: float = Field(0.3, ge=0, le=10, description="noise on the CSI's numbers in training")
    csi_dropout: float = Field(0.5, ge=0, lt=1, description="share of the CSI's numbers left out in training")
    distance: Literal["cosine", "l2", "smooth_l1", "l1"] = Field("l2", description="distance of prediction")
    ema_momentum: float = Field(0.99, ge=0, le=1, description="momentum of the EMA target")
    regularizer: Literal["vicreg", "sigreg"] = Field("vicreg", description="what keeps z from collapsing")
    variance_weight: float = Field(0.5, ge=0, description="weight of VICReg's variance term")
    covariance_weight: float = Field(0.02, ge=0, description="weight of VICReg's covariance term")
    sigreg_weight: float = Field(0.05, ge=0, description="weight of SIGReg")
    embedding_noise_std: float = Field(
        0.3, ge=0, le=10, description="noise on embeddings, in their deviations, for predictor and heads"
    )
    matching: Matching = Field(
        "identity",
        description="whom a head's place is to find: the same pedestrian always, or whoever is next",
    )
    label_weight: float = Field(
        4.0,
        ge=0,
        description="weight of the heads' error in training the JEPAs' encoders; 0: no labels, and no pixels",
    )
    pixel_weight: float = Field(2.0, ge=0, description="weight of the frame's error in supervised training")

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        if self.modality_probability == 0 and self.link_probability == 0:
            raise ValueError(
                "modality_probability = 0 and link_probability = 0 hide nothing, and a predictor learns from "
                "what is hidden: raise one of them"
            )
        return self


class SensorEncoder(nn.Module):
    """All sensors' encoders as one: normalised frames and CSI numbers to z [N, S, D]."""

    def __init__(self, camera: nn.Module, receiver: ParallelMlpEncoder, embedding_dim: int) -> None:
        super().__init__()
        self.camera, self.receiver, self.embedding_dim = camera, receiver, embedding_dim

    def forward(self, observation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Encodes content [N, C, 3, H, W] and numbers [N, R, input_dim] into z [N, S, D]."""
        content, numbers = observation
        z_camera = self.camera(content.flatten(0, 1)).unflatten(0, content.shape[:2])
        parts = [z_camera, self.receiver(numbers)] if numbers.shape[1] else [z_camera]
        padded = [nn.functional.pad(z, (0, self.embedding_dim - z.shape[-1])) for z in parts]
        return torch.cat(padded, dim=1)


@dataclass(frozen=True)
class TrainingInputs:
    """What trained weights depend on besides the data and the seed."""

    model: ModelConfig
    training: TrainingConfig


class Task:
    """One model in training: its scenes, its walks, its randomness, where its stages are run."""

    def __init__(
        self,
        model: SensingModel,
        config: TrainingConfig,
        train: Sequences,
        streams: Streams,
        generator: torch.Generator,
        trainer: Trainer,
    ) -> None:
        self.model, self.config, self.train = model, config, train
        self.streams, self.generator, self.trainer = streams, generator, trainer
        # A walk is of as many people as it shows.
        people = (~train.position_m.isnan().any(dim=-1)).any(dim=1).sum(dim=1)
        self.samples = Samples(len(train.frame), label=people)
        self.scenes = TrainingScenes(
            model,
            train,
            self.samples,
            streams,
            generator,
            jpeg_share=config.jpeg_share,
            csi_noise_std=config.csi_noise_std,
            csi_dropout=config.csi_dropout,
        )
        self.encoder = SensorEncoder(model.camera_encoder, model.receiver_encoder, model.embedding_dim)

    @cached_property
    def z(self) -> torch.Tensor:
        """Embeddings of all training steps, [U, T, S, D], once the encoders no longer change."""
        return self.trainer.gather("embedding", embed_all(self.model, self.train))

    @cached_property
    def deviation(self) -> torch.Tensor:
        """Deviation of these embeddings, [S, D]."""
        return self.z.flatten(0, 1).std(dim=0).clamp_min(1e-3)

    @cached_property
    def pairs(self) -> Draw:
        """Walks that are made of two, by their numbers; none where nobody can be brought together."""
        # A stream of its own: a training that goes on from a checkpoint meets the same ones.
        generator = self.streams.torch_generator("walk-pairs")
        there = ~self.train.position_m.isnan().any(dim=-1).all(dim=1)
        num = self.config.num_mixed_walks if self.config.mix_share else 0
        walks = torch.randint(0, len(there), (8 * num,), generator=generator)
        partner = Partners(there).draw(walks, 1.0, generator)
        able = torch.nonzero(partner != ALONE)[:num, 0]
        return Draw(walks[able], partner[able])

    @cached_property
    @torch.no_grad()
    def z_mixed(self) -> torch.Tensor:
        """Embeddings of the walks that are made of two, [M, T, S, D]."""
        z = torch.zeros(len(self.pairs.rows), *self.z.shape[1:])
        step = torch.arange(self.train.num_steps)
        for number, pair in enumerate(torch.stack((self.pairs.rows, self.pairs.partner), dim=1)):
            draw = Draw(*(pair[:, None] * self.train.num_steps + step))
            z[number] = self.encoder((self.scenes.content(draw), self.scenes.numbers(draw)))
        return self.trainer.gather("embedding", z)

    def hidden(self, num_rows: int, num_lags: int = 1) -> torch.Tensor:
        """Draws what is missing, bool [n, W, S]: sensors since some time ago, or single packets at random."""
        config, model = self.config, self.model
        gone = mask_modalities(num_rows, model.modality, config.modality_probability, self.generator)
        out = mask_links(num_rows, model.num_sensors, config.link_probability, self.generator)
        lost = [
            mask_links(num_rows, model.num_sensors, config.link_probability, self.generator)
            for _ in range(num_lags)
        ]
        some = torch.rand(num_rows, 1, generator=self.generator) < 0.5
        since = torch.randint(1, num_lags + 1, (num_rows, 1, 1), generator=self.generator)
        broken = (gone | out & some)[:, None] & (torch.arange(num_lags)[:, None] < since)
        hidden = broken | torch.stack(lost, dim=1) & ~some[:, None]
        return hidden & (torch.rand(num_rows, 1, 1, generator=self.generator) >= config.whole_share)

    def windows(self, num: int) -> tuple[torch.Tensor, torch.Tensor, Draw]:
        """Draws windows of embeddings, [n, W, S, D], newest first, with noise; and their newest steps.

        Of these also the embeddings without noise, [n, S, D]. A share of the walks is made of two.
        """
        num_steps, pairs = self.z.shape[1], self.pairs
        able = torch.nonzero(self.samples.among(pairs.rows) & self.samples.among(pairs.partner))[:, 0]
        walk = self.samples.draw((num,), self.generator)
        last = torch.randint(0, num_steps, (num,), generator=self.generator)
        pair = torch.randint(0, max(1, len(able)), (num,), generator=self.generator)
        is_mixed = torch.rand(num, generator=self.generator) < self.config.mix_share * (len(able) > 0)
        pair = able[pair] if len(able) else pair
        step = last[:, None] - torch.arange(self.model.config.num_lags)
        known, step = (step >= 0)[..., None, None], step.clamp_min(0)
        z = self.z[walk[:, None], step]
        rows, partner = walk * num_steps + last, torch.full((num,), ALONE)
        if bool(is_mixed.any()):
            z[is_mixed] = self.z_mixed[pair[is_mixed, None], step[is_mixed]]
            chosen = self.pairs.rows[pair], self.pairs.partner[pair]
            rows, partner = (
                torch.where(is_mixed, of_pair * num_steps + last, otherwise)
                for of_pair, otherwise in zip(chosen, (rows, partner), strict=True)
            )
        return torch.where(known, self.noisy(z), torch.nan), z[:, 0], Draw(rows, partner)

    def scene_loss(
        self, scene: Scene, draw: Draw, matching: Matching | None = None
    ) -> dict[str, torch.Tensor]:
        """Compares what was read with the labels of training steps, by the configured matching or another."""
        position_m, visible = self.scenes.labels(draw)
        scale_m = self.model.head.spread_m.mean()
        return scene_loss(scene, position_m, visible, scale_m, matching or self.config.matching)

    def noisy(self, z: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(z.shape, generator=self.generator) * self.deviation
        return z + self.config.embedding_noise_std * noise

    def fit(
        self,
        stage: str,
        module: nn.Module,
        batch_loss: BatchLoss,
        num_steps: int,
        after_step: Callable[[int], None] | None = None,
        on_device: nn.Module | None = None,
    ) -> Log:
        """Runs one stage; returns its log."""
        rate = self.config.learning_rate
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
            )
        )


@torch.no_grad()
def embed_all(model: SensingModel, part: Sequences) -> torch.Tensor:
    """Embeddings of all steps of sequences, [U, T, S, D]."""
    frame, csi = part.frame.flatten(0, 1), part.csi.flatten(0, 1)
    csi = csi[:, : model.num_receivers]
    z = [model.embed(f, c) for f, c in zip(frame.split(256), csi.split(256), strict=True)]
    return torch.cat(z).unflatten(0, part.frame.shape[:2])
