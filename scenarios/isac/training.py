"""The trainings of the sensing scenario: encoders, the cross-modal predictor, heads and decoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from scenarios.isac.data import SensingData, Sequences
from scenarios.isac.heads import Matching, Scene, scene_loss
from scenarios.isac.jpeg import through_jpeg
from scenarios.isac.models import NUM_CALIBRATION, ModelConfig, SensingModel
from semcom.diagnostics import rank_me
from semcom.distances import DISTANCES
from semcom.encoders import ParallelMlpEncoder
from semcom.masks import mask_links, mask_modalities, mask_patches
from semcom.regularizers import SigReg, VicReg
from semcom.rng import Streams
from semcom.set_jepa import SetJepa
from semcom.set_predictor import fill_in
from semcom.targets import EmaTarget
from semcom.train import BatchLoss, WeightAverage, fit

Log = list[dict[str, float | int | str]]
_SHOWN_EVERY = 4
MODELS = ("inpainting", "image-only", "supervised")


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
    whole_share: float = Field(0.25, ge=0, le=1, description="share of the rows in which nothing is hidden")
    patch_share: float = Field(0.0, ge=0, le=1, description="share of a frame's patches that are hidden")
    patch_px: int = Field(16, ge=1, le=1024, description="side of a patch")
    jpeg_share: float = Field(
        0.3, ge=0, le=1, description="share of the frames that come through JPEG of any quality in training"
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
    """One model in training: its data, its random stream, where it leaves checkpoints, what stages share."""

    def __init__(
        self,
        model: SensingModel,
        config: TrainingConfig,
        train: Sequences,
        generator: torch.Generator,
        scratch: Path | None,
    ) -> None:
        self.model, self.config, self.train = model, config, train
        self.generator, self.scratch = generator, scratch
        self.frame, self.csi = train.frame.flatten(0, 1), train.csi.flatten(0, 1)
        self.position_m = train.position_m.flatten(0, 1)
        self.visible = train.visible_share.flatten(0, 1).transpose(1, 2)
        self.encoder = SensorEncoder(model.camera_encoder, model.receiver_encoder, model.embedding_dim)
        # Rows of `dims` that are zeros count nowhere.
        self.real = torch.zeros(model.num_sensors, model.embedding_dim)
        for sensor in range(model.num_sensors):
            self.real[sensor, : model.dim_of(sensor)] = 1

    @cached_property
    def numbers(self) -> torch.Tensor:
        """The CSI of all training steps as the encoders are shown it, [N, R, input_dim]."""
        parts = [self.model.csi(self.csi[:, r], r) for r in range(self.model.num_receivers)]
        return torch.stack(parts, dim=1) if parts else torch.zeros(len(self.csi), 0, 1)

    @cached_property
    def z(self) -> torch.Tensor:
        """Embeddings of all training steps, [U, T, S, D], once the encoders no longer change."""
        z = embed_all(self.model, self.train)
        self.deviation = z.flatten(0, 1).std(dim=0).clamp_min(1e-3)
        return z

    @cached_property
    def compressed(self) -> torch.Tensor:
        """All training frames once through JPEG of a random quality, uint8 [N, C, 3, H, W]."""
        num = self.frame.shape[0] * self.frame.shape[1]
        quality = torch.randint(5, 96, (num,), generator=self.generator)
        frames = self.frame.flatten(0, 1).permute(0, 2, 3, 1).numpy()
        shown = through_jpeg(frames, quality.tolist())
        return torch.from_numpy(shown).permute(0, 3, 1, 2).unflatten(0, self.frame.shape[:2])

    def content(self, rows: torch.Tensor) -> torch.Tensor:
        """Normalised frames of training steps, [n, C, 3, H, W]."""
        parts = [self.model.frames(self.frame[rows, c], c) for c in range(self.model.num_cameras)]
        return torch.stack(parts, dim=1)

    def content_seen(self, rows: torch.Tensor) -> torch.Tensor:
        """The same, of which some came through JPEG: encoders are to know its artefacts."""
        share = self.config.jpeg_share
        if share == 0:
            return self.content(rows)
        through = torch.rand(len(rows), self.model.num_cameras, generator=self.generator) < share
        frame = torch.where(through[:, :, None, None, None], self.compressed[rows], self.frame[rows])
        parts = [self.model.frames(frame[:, c], c) for c in range(self.model.num_cameras)]
        return torch.stack(parts, dim=1)

    def spoilt(self, numbers: torch.Tensor) -> torch.Tensor:
        """Adds noise to the CSI's numbers, and leaves some out."""
        config = self.config
        noise = torch.randn(numbers.shape, generator=self.generator)
        kept = torch.rand(numbers.shape, generator=self.generator) >= config.csi_dropout
        return (numbers + config.csi_noise_std * noise) * kept / (1 - config.csi_dropout)

    def draw(self, num: int) -> torch.Tensor:
        """Draws training steps, numbered over all sequences."""
        return torch.randint(0, len(self.frame), (num,), generator=self.generator)

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

    def windows(self, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws windows of embeddings, [n, W, S, D], newest first, with noise; and their steps' numbers."""
        num_lags, (num_seq, num_steps) = self.model.config.num_lags, self.z.shape[:2]
        seq = torch.randint(0, num_seq, (num, 1), generator=self.generator)
        last = torch.randint(0, num_steps, (num, 1), generator=self.generator)
        step = last - torch.arange(num_lags)
        z = self.noisy(self.z[seq, step.clamp_min(0)])
        return torch.where((step >= 0)[..., None, None], z, torch.nan), (seq * num_steps + last)[:, 0]

    def scene_loss(self, scene: Scene, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compares what was read with the labels of training steps."""
        scale_m = self.model.head.spread_m.mean()
        return scene_loss(scene, self.position_m[rows], self.visible[rows], scale_m, self.config.matching)

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


def make_model(config: ModelConfig, data: SensingData, name: str) -> SensingModel:
    """Builds one of MODELS for the shapes of a data set, with PyTorch's starting weights."""
    train = data.train
    return SensingModel(
        config,
        (train.frame.shape[-2], train.frame.shape[-1]),
        data.num_cameras,
        0 if name == "image-only" else data.num_receivers,
        train.csi.shape[-1],
        train.position_m.shape[2],
        with_fusion=name == "inpainting",
    )


def train_model(
    name: str, seed: int, data: SensingData, inputs: TrainingInputs, scratch: Path | None = None
) -> tuple[SensingModel, Log]:
    """Trains one of MODELS from scratch; returns it with its log and diagnostics on validation data."""
    streams = Streams(seed)
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws its starting weights from the process-wide generator.
        torch.manual_seed(streams.seed(f"weights-{name}"))
        model = make_model(inputs.model, data, name)
        generator = streams.torch_generator(f"train-{name}")
        train = data.train
        model.frames.calibrate(train.frame.flatten(0, 1))
        model.csi.calibrate(train.csi.flatten(0, 1)[:, : model.num_receivers])
        model.head.calibrate(train.position_m)
        if name == "inpainting":
            model.fusion_head.calibrate(train.position_m)
        task = Task(model, inputs.training, train, generator, scratch)
        log = _train_supervised(task) if name == "supervised" else _train_jepa(task)
        if name == "inpainting":
            log += _train_fusion(task)
    model.eval().requires_grad_(False)
    z = task.z.flatten(0, 1)
    rows = torch.linspace(0, len(z) - 1, NUM_CALIBRATION).round().long()
    model.calibration.copy_(z[rows])
    model.mean.copy_(z.mean(dim=0))
    held_out = embed_all(model, data.validation).flatten(0, 1)
    row = {f"rank_me_{s}": rank_me(held_out[:, s, : model.dim_of(s)]) for s in range(model.num_sensors)}
    return model, [*log, {"stage": "validation", "step": 0, **row}]


def _train_jepa(task: Task) -> Log:
    log = _train_encoders(task)
    task.encoder.eval().requires_grad_(False)
    log += _train_predictor(task)
    log += _train_head(task)
    return log + _train_decoder(task)


def _train_encoders(task: Task) -> Log:
    """JEPA on single steps: modalities, links and patches are hidden, embeddings of the whole predicted."""
    model, config = task.model, task.config
    regularizer = (
        VicReg(config.variance_weight, config.covariance_weight)
        if config.regularizer == "vicreg"
        else SigReg(config.sigreg_weight, num_slices=128)
    )
    target = EmaTarget(task.encoder, config.ema_momentum, config.ema_momentum)
    jepa = SetJepa(
        task.encoder,
        model.predictor,
        regularizer,
        DISTANCES[config.distance],
        [model.dim_of(sensor) for sensor in range(model.num_sensors)],
        target=target,
    )
    module = nn.ModuleList((jepa, model.head))

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = task.draw(config.batch_size)
        content, numbers = task.content_seen(rows), task.spoilt(task.numbers[rows])
        hidden = task.hidden(len(rows))[:, 0]
        patches = mask_patches(
            len(rows) * model.num_cameras, *model.decoder.size, config.patch_px, config.patch_share, generator
        )
        seen = torch.where(patches.unflatten(0, content.shape[:2])[:, :, None], 0, content)
        wanted = hidden.clone()
        if config.patch_share:
            wanted[:, : model.num_cameras] = True
        terms, z, predicted = jepa.loss((seen, numbers), (content, numbers), ~hidden, wanted, generator)
        if config.label_weight:
            # Heads learn from what the predictor makes of hidden sensors, and the predictor not from heads.
            completed = torch.where(hidden[..., None], predicted.detach(), z)
            labels = task.scene_loss(model.read(completed), rows)
            terms |= {name: term for name, term in labels.items() if name != "total"}
            terms["total"] = terms["total"] + config.label_weight * labels["total"]
        return terms

    log = task.fit("encoders", module, batch_loss, config.num_steps, jepa.update_target)
    # The average of the last steps' weights does better on what it has not seen than the last of them.
    task.encoder.load_state_dict(target.encoder.state_dict())
    return log


def _train_predictor(task: Task) -> Log:
    """Trains the predictor on, on windows of embeddings that no longer change."""
    model, config = task.model, task.config
    variance = task.z.flatten(0, 1).var(dim=0).clamp_min(1e-6)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        context, rows = task.windows(config.num_windows)
        hidden = task.hidden(len(rows), context.shape[1]) | context[..., 0].isnan()
        predicted = model.predictor(context, ~hidden)
        target = task.z.flatten(0, 1)[rows]
        error = (predicted - target).square() / variance * task.real
        wanted = hidden[:, 0]
        total = (error.sum(dim=-1) / task.real.sum(dim=-1) * wanted).sum() / wanted.sum().clamp_min(1)
        return {"total": total}

    return task.fit("predictor", model.predictor, batch_loss, config.num_steps_predictor)


def _train_head(task: Task) -> Log:
    """Trains the heads on, on sets of embeddings that the predictor has completed."""
    model, config = task.model, task.config

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        context, rows = task.windows(2 * config.num_windows)
        arrived = ~(task.hidden(len(rows), context.shape[1]) | context[..., 0].isnan())
        with torch.no_grad():
            completed = fill_in(context, arrived, model.predictor(context, arrived))
        return task.scene_loss(model.read(completed), rows)

    return task.fit("head", model.head, batch_loss, config.num_steps_head)


def _train_fusion(task: Task) -> Log:
    """Trains a second predictor, with heads of its own, on labels and on embeddings that no longer change."""
    model, config = task.model, task.config

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        context, rows = task.windows(config.num_windows)
        arrived = ~(task.hidden(len(rows), context.shape[1]) | context[..., 0].isnan())
        completed = fill_in(context, arrived, model.fusion(context, arrived))
        return task.scene_loss(model.read_fused(completed), rows)

    module = nn.ModuleList((model.fusion, model.fusion_head))
    return task.fit("fusion", module, batch_loss, config.num_steps_predictor)


def _train_decoder(task: Task) -> Log:
    """Trains the decoder to show the frames that embeddings were made of."""
    model, config = task.model, task.config
    z = task.z.flatten(0, 1)

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = task.draw(config.batch_size // 2)
        content = task.content(rows).flatten(0, 1)
        shown = model.decoder(z[rows, : model.num_cameras, : model.config.camera_dim].flatten(0, 1))
        return {"total": (shown - content).square().mean()}

    return task.fit("decoder", model.decoder, batch_loss, config.num_steps_decoder)


def _train_supervised(task: Task) -> Log:
    """The same networks, trained end to end on positions and on the frames of hidden cameras."""
    model, config = task.model, task.config
    cameras = range(model.num_cameras)

    def terms_of(
        completed: torch.Tensor, rows: torch.Tensor, content: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        terms = task.scene_loss(model.read(completed), rows)
        # Enlarging is what takes time: a part of the batch shows its frames.
        part = completed[::_SHOWN_EVERY, cameras, : model.config.camera_dim].flatten(0, 1)
        terms["pixels"] = (model.decoder(part) - content.flatten(0, 1)).square().mean()
        return terms | {"total": terms["total"] + config.pixel_weight * terms["pixels"]}

    def step_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = task.draw(config.batch_size)
        z = task.encoder((task.content_seen(rows), task.spoilt(task.numbers[rows])))
        arrived = ~task.hidden(len(rows))
        completed = fill_in(z[:, None], arrived, model.predictor(z[:, None], arrived))
        return terms_of(completed, rows, task.content(rows[::_SHOWN_EVERY]))

    def window_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        context, rows = task.windows(config.num_windows)
        arrived = ~(task.hidden(len(rows), context.shape[1]) | context[..., 0].isnan())
        completed = fill_in(context, arrived, model.predictor(context, arrived))
        return terms_of(completed, rows, task.content(rows[::_SHOWN_EVERY]))

    averaged = WeightAverage(model)
    log = task.fit("encoders", averaged, step_loss, config.num_steps, averaged.update)
    averaged.adopt()
    task.encoder.eval().requires_grad_(False)
    # The decoder sees as many frames as that of the others, in the steps of the predictor.
    return log + task.fit("predictor", model, window_loss, config.num_steps_predictor)
