"""One training of the sensing scenario: its settings, its data, its randomness, what stages share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from scenarios.isac.data import Sequences
from scenarios.isac.heads import Matching, Scene, scene_loss
from scenarios.isac.jpeg import through_jpeg
from scenarios.isac.mixing import Partners, mix_content, mix_csi, mix_labels
from scenarios.isac.models import ModelConfig, SensingModel
from semcom.encoders import ParallelMlpEncoder
from semcom.masks import mask_links, mask_modalities
from semcom.rng import Streams
from semcom.train import BatchLoss, fit

Log = list[dict[str, float | int | str]]


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
        description="share of the encoders' training scenes that are two in one, where their people differ",
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


@dataclass(frozen=True)
class Draw:
    """Training steps, numbered over all sequences: rows [n]; partner [n]: whom each is mixed with, or -1."""

    rows: torch.Tensor
    partner: torch.Tensor

    @cached_property
    def mixed(self) -> torch.Tensor:
        """The places of the rows that have a partner."""
        return torch.nonzero(self.partner >= 0)[:, 0]

    def every(self, interval: int) -> Draw:
        """Every so many of them."""
        return Draw(self.rows[::interval], self.partner[::interval])


class Task:
    """One model in training: its data, its random stream, where it leaves checkpoints, what stages share."""

    def __init__(
        self,
        model: SensingModel,
        config: TrainingConfig,
        train: Sequences,
        streams: Streams,
        generator: torch.Generator,
        scratch: Path | None,
    ) -> None:
        self.model, self.config, self.train = model, config, train
        self.streams, self.generator, self.scratch = streams, generator, scratch
        self.frame, self.csi = train.frame.flatten(0, 1), train.csi.flatten(0, 1)
        self.position_m = train.position_m.flatten(0, 1)
        self.visible = train.visible_share.flatten(0, 1).transpose(1, 2)
        self.partners = Partners(~self.position_m.isnan().any(dim=-1))
        self.encoder = SensorEncoder(model.camera_encoder, model.receiver_encoder, model.embedding_dim)
        # Rows of `dims` that are zeros count nowhere.
        self.real = torch.zeros(model.num_sensors, model.embedding_dim)
        for sensor in range(model.num_sensors):
            self.real[sensor, : model.dim_of(sensor)] = 1

    @cached_property
    def turned(self) -> torch.Tensor:
        """The CSI of all training steps in the phase of its mean, [N, R, F]."""
        return self.model.csi.turned(self.csi[:, : self.model.num_receivers])

    @cached_property
    def z(self) -> torch.Tensor:
        """Embeddings of all training steps, [U, T, S, D], once the encoders no longer change."""
        z = embed_all(self.model, self.train)
        self.deviation = z.flatten(0, 1).std(dim=0).clamp_min(1e-3)
        return z

    @cached_property
    def compressed(self) -> torch.Tensor:
        """All training frames once through JPEG of random quality and size, uint8 [N, C, 3, H, W]."""
        # A stream of its own: a training that goes on from a checkpoint meets the same ones.
        generator = self.streams.torch_generator("jpeg-quality")
        num = self.frame.shape[0] * self.frame.shape[1]
        quality = torch.randint(5, 96, (num,), generator=generator)
        downscale = 2 ** torch.randint(0, 3, (num,), generator=generator)
        frames = self.frame.flatten(0, 1).permute(0, 2, 3, 1).numpy()
        shown = through_jpeg(frames, quality.tolist(), downscale.tolist())
        return torch.from_numpy(shown).permute(0, 3, 1, 2).unflatten(0, self.frame.shape[:2])

    def draw(self, num: int, mix_share: float) -> Draw:
        """Draws training steps, a share of which is mixed with another one."""
        rows = torch.randint(0, len(self.frame), (num,), generator=self.generator)
        return Draw(rows, self.partners.draw(rows, mix_share, self.generator))

    def content(self, draw: Draw) -> torch.Tensor:
        """Normalised frames of training steps, [n, C, 3, H, W]."""
        return self._mixed(draw, lambda rows: self._normalised(self.frame[rows]))

    def content_seen(self, draw: Draw) -> torch.Tensor:
        """The same, of which some came through JPEG: encoders are to know its artefacts."""
        share = self.config.jpeg_share
        if share == 0:
            return self.content(draw)

        def seen(rows: torch.Tensor) -> torch.Tensor:
            through = torch.rand(len(rows), self.model.num_cameras, generator=self.generator) < share
            shown = torch.where(through[:, :, None, None, None], self.compressed[rows], self.frame[rows])
            return self._normalised(shown)

        return self._mixed(draw, seen)

    def numbers_seen(self, draw: Draw) -> torch.Tensor:
        """The CSI of training steps as numbers with noise, some left out, [n, R, input_dim]."""
        config, csi = self.config, self.turned[draw.rows]
        if len(mixed := draw.mixed):
            csi[mixed] = mix_csi(csi[mixed], self.turned[draw.partner[mixed]], self.model.csi.mean_csi)
        parts = [self.model.csi(csi[:, r], r) for r in range(self.model.num_receivers)]
        numbers = torch.stack(parts, dim=1) if parts else torch.zeros(len(csi), 0, 1)
        noise = torch.randn(numbers.shape, generator=self.generator)
        kept = torch.rand(numbers.shape, generator=self.generator) >= config.csi_dropout
        return (numbers + config.csi_noise_std * noise) * kept / (1 - config.csi_dropout)

    def _normalised(self, frame: torch.Tensor) -> torch.Tensor:
        parts = [self.model.frames(frame[:, c], c) for c in range(self.model.num_cameras)]
        return torch.stack(parts, dim=1)

    def _mixed(self, draw: Draw, content_of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        content = content_of(draw.rows)
        if len(mixed := draw.mixed):
            content[mixed] = mix_content(content[mixed], content_of(draw.partner[mixed]))
        return content

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

    def windows(self, num: int) -> tuple[torch.Tensor, Draw]:
        """Draws windows of embeddings, [n, W, S, D], newest first, with noise; and their newest steps."""
        num_lags, (num_seq, num_steps) = self.model.config.num_lags, self.z.shape[:2]
        seq = torch.randint(0, num_seq, (num, 1), generator=self.generator)
        last = torch.randint(0, num_steps, (num, 1), generator=self.generator)
        step = last - torch.arange(num_lags)
        z = self.noisy(self.z[seq, step.clamp_min(0)])
        rows = (seq * num_steps + last)[:, 0]
        known = (step >= 0)[..., None, None]
        return torch.where(known, z, torch.nan), Draw(rows, torch.full_like(rows, -1))

    def scene_loss(self, scene: Scene, draw: Draw) -> dict[str, torch.Tensor]:
        """Compares what was read with the labels of training steps."""
        scale_m = self.model.head.spread_m.mean()
        position_m, visible = self.position_m[draw.rows], self.visible[draw.rows]
        if len(mixed := draw.mixed):
            other = draw.partner[mixed]
            position_m[mixed], visible[mixed] = mix_labels(
                position_m[mixed], visible[mixed], self.position_m[other], self.visible[other]
            )
        return scene_loss(scene, position_m, visible, scale_m, self.config.matching)

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
    ) -> Log:
        """Runs one stage; returns its log."""
        checkpoint = None if self.scratch is None else self.scratch / f"{stage}.safetensors"
        rows = fit(
            module,
            batch_loss,
            num_steps,
            self.config.learning_rate,
            self.generator,
            after_step=after_step,
            checkpoint=checkpoint,
        )
        return [{"stage": stage, **row} for row in rows]


@torch.no_grad()
def embed_all(model: SensingModel, part: Sequences) -> torch.Tensor:
    """Embeddings of all steps of sequences, [U, T, S, D]."""
    frame, csi = part.frame.flatten(0, 1), part.csi.flatten(0, 1)
    csi = csi[:, : model.num_receivers]
    z = [model.embed(f, c) for f, c in zip(frame.split(256), csi.split(256), strict=True)]
    return torch.cat(z).unflatten(0, part.frame.shape[:2])
