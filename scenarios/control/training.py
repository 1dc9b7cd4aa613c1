"""Training of the control scenario's three models: jepa, supervised and autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from scenarios.control.batches import Batches
from scenarios.control.camera import CameraConfig
from scenarios.control.dataset import DatasetConfig, Trajectories, collect
from scenarios.control.diagnosis import collapse_row, deployed_row, score
from scenarios.control.models import FrameDecoder, FrameMotionEncoder, ModelConfig, MotionModel, SkipMlp
from scenarios.control.plant import COMMAND_DIM, PlantConfig
from scenarios.control.teacher import TeacherConfig
from semcom.distances import DISTANCES
from semcom.encoders import KeypointStem
from semcom.jepa import InverseDynamics, Jepa
from semcom.predictors import FilmPredictor, rollout
from semcom.regularizers import SigReg, VicReg
from semcom.rng import Streams
from semcom.targets import EmaTarget, StopGradientTarget
from semcom.train import CENTRAL, BatchLoss, Stage, StageLog, Trainer
from semcom.weight_average import WeightAverage

Log = StageLog


class TrainingConfig(BaseModel):
    """How the models are trained; the baselines get the same data and batches as the JEPA."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_steps: int = Field(1800, ge=10, le=1_000_000, description="steps that train the JEPA's encoder")
    num_steps_actor: int = Field(1800, ge=10, le=1_000_000, description="steps for predictor and actor")
    num_steps_baseline: int = Field(1800, ge=10, le=1_000_000, description="steps of a baseline's encoder")
    batch_size: int = Field(48, ge=2, le=65_536, description="windows in a batch of the JEPA")
    actor_batch_size: int = Field(128, ge=2, le=65_536, description="rollouts in a batch of the actor")
    baseline_batch_size: int = Field(256, ge=2, le=65_536, description="samples in a baseline's batch")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="peak learning rate")
    rollout_steps: int = Field(10, ge=1, le=100, description="longest rollout that trains the encoder")
    actor_rollout_steps: int = Field(15, ge=1, le=100, description="horizon of predictor and actor")
    num_starts: int = Field(3, ge=1, le=100, description="starting points of rollouts in a window")
    distance: Literal["cosine", "l2", "smooth_l1", "l1"] = Field("l2", description="distance of prediction")
    target: Literal["joint", "stop_gradient", "ema"] = Field(
        "joint", description="joint: gradients pass the target too"
    )
    ema_momentum: float = Field(0.99, ge=0, le=1, description="momentum of an EMA target at the start")
    regularizer: Literal["vicreg", "sigreg"] = Field("vicreg", description="what keeps z from collapsing")
    variance_weight: float = Field(2.0, ge=0, description="weight of VICReg's variance term")
    covariance_weight: float = Field(0.05, ge=0, description="weight of VICReg's covariance term")
    sigreg_weight: float = Field(0.05, ge=0, description="weight of SIGReg")
    inverse_weight: float = Field(1.0, ge=0, description="weight of the inverse dynamics term")
    context_noise_std: float = Field(
        0.02, ge=0, description="noise on the embedding that a rollout starts at"
    )


@dataclass(frozen=True)
class TrainingInputs:
    """Everything that trained weights depend on besides the seed."""

    plant: PlantConfig
    teacher: TeacherConfig
    camera: CameraConfig
    dataset: DatasetConfig
    model: ModelConfig
    training: TrainingConfig


@dataclass(frozen=True)
class _Task:
    """One model in training: its data, its random stream, and where its stages are run."""

    model: MotionModel
    inputs: TrainingInputs
    train: Trajectories
    held_out: Trajectories
    batches: Batches
    generator: torch.Generator
    trainer: Trainer

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
        rate = self.inputs.training.learning_rate
        samples = self.batches.samples
        return self.trainer.fit(
            Stage(
                stage,
                module,
                batch_loss,
                num_steps,
                rate,
                self.generator,
                samples,
                after_step,
                on_device=on_device,
            )
        )

    def finish_encoder(self, predictor: nn.Module | None = None) -> tuple[torch.Tensor, Log]:
        """Freezes stem and encoder, diagnoses, whitens, and picks the calibration.

        Returns all training embeddings [N, T', D] and the row of diagnostics.
        """
        self.model.stem.requires_grad_(False)
        self.model.encoder.requires_grad_(False)
        row = collapse_row(Batches(self.model, self.held_out), predictor)
        self.model.encoder.whiten(self.batches.embed_all().flatten(0, 1))
        z = self.trainer.gather("embedding", self.batches.embed_all())
        calibration = self.model.calibration
        pick = torch.randint(0, z.shape[0] * z.shape[1], (len(calibration),), generator=self.generator)
        calibration.copy_(z.flatten(0, 1)[pick])
        return z, [{"stage": "embedding", "step": 0, **row}]


def train_model(
    name: str, seed: int, inputs: TrainingInputs, trainer: Trainer = CENTRAL
) -> tuple[MotionModel, Log]:
    """Trains "jepa", "supervised" or "autoencoder" from scratch; returns it with its diagnostics.

    trainer: where its stages are run.
    """
    streams = Streams(seed)
    train, held_out = collect(inputs.dataset, inputs.plant, inputs.teacher, inputs.camera, streams)
    train = replace(train, frame=trainer.gather("observation", train.frame))
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws its starting weights from the process-wide generator.
        torch.manual_seed(trainer.starting_seed(streams.seed(f"weights-{name}")))
        model = MotionModel(inputs.model, inputs.camera, inputs.plant, streams, with_predictor=name == "jepa")
        if isinstance(model.stem, KeypointStem):
            model.stem.calibrate(train.frame[::2, ::5].flatten(0, 1))
        generator = streams.torch_generator(f"train-{name}")
        task = _Task(model, inputs, train, held_out, Batches(model, train), generator, trainer)
        train_one = {"jepa": _train_jepa, "supervised": _train_supervised, "autoencoder": _train_autoencoder}
        z, log = train_one[name](task)
        row = deployed_row(Batches(model, held_out), z, train, held_out)
        log.append({"stage": "held_out", "step": 0, **row})
        if name == "jepa":
            log.append(score(Batches(model, held_out), row))
    return model.eval(), log


def _train_jepa(task: _Task) -> tuple[torch.Tensor, Log]:
    """Trains encoder and first predictor together; on the finished embeddings, predictor and actor."""
    model, inputs, batches = task.model, task.inputs, task.batches
    config, dim = inputs.training, inputs.model.embedding_dim
    online = model.encoder if batches.is_fixed else FrameMotionEncoder(model.stem, model.encoder)
    targets: dict[str, Callable[[], EmaTarget | StopGradientTarget | None]] = {
        "joint": lambda: None,
        "stop_gradient": lambda: StopGradientTarget(online),
        "ema": lambda: EmaTarget(online, config.ema_momentum, 1.0, config.num_steps),
    }
    predictor = FilmPredictor(dim, COMMAND_DIM, inputs.model.hidden_dim)
    jepa = Jepa(
        online,
        predictor,
        VicReg(config.variance_weight, config.covariance_weight)
        if config.regularizer == "vicreg"
        else SigReg(config.sigreg_weight, num_slices=128),
        DISTANCES[config.distance],
        target=targets[config.target](),
        inverse=InverseDynamics(dim, COMMAND_DIM, inputs.model.hidden_dim),
        inverse_weight=config.inverse_weight,
        context_noise_std=config.context_noise_std,
    )
    length = inputs.model.gap_steps + config.num_starts + config.rollout_steps

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        progress = step / config.num_steps
        # Rollouts grow from 3 steps, and the dynamics may bend only once a linear latent space has formed.
        num_rollout = int(min(config.rollout_steps, 3 + 2 * progress * (config.rollout_steps - 3)))
        predictor.nonlinearity = min(1.0, max(0.0, (progress - 0.4) / 0.1))
        window = batches.raw_window(*batches.indices(config.batch_size, length, generator))
        condition = window.command[:, inputs.model.gap_steps :]
        return jepa.loss(window, condition, max(1, num_rollout), config.num_starts, generator)

    log = task.fit("encoder", jepa, batch_loss, config.num_steps, jepa.update_target, on_device=online)
    z, row = task.finish_encoder(predictor.requires_grad_(False))
    return z, log + row + _train_predictor_and_actor(task, z)


def _train_predictor_and_actor(task: _Task, z: torch.Tensor) -> Log:
    """Trains a predictor and an actor on the finished embeddings, both starting from least squares."""
    config, gap, batches = task.inputs.training, task.inputs.model.gap_steps, task.batches
    predictor, actor = task.model.predictor, task.model.actor
    assert predictor is not None
    command, teacher_command = batches.command[:, gap:], batches.teacher_command[:, gap:]
    unexplained = predictor.fit_linear(
        z[:, :-1].flatten(0, 1), command[:, :-1].flatten(0, 1), z[:, 1:].flatten(0, 1)
    )
    actor.fit_linear(z.flatten(0, 1), teacher_command.flatten(0, 1))
    # Whitening blows noise up to full scale: a dimension counts by the share that can be predicted.
    weight = (1 - unexplained).clamp(0, 1) / z.flatten(0, 1).var(dim=0)
    horizon = config.actor_rollout_steps
    average = WeightAverage(nn.ModuleList((predictor, actor)))

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        row = batches.samples.draw((config.actor_batch_size, 1), generator)
        start = torch.randint(0, z.shape[1] - horizon, (config.actor_batch_size, 1), generator=generator)
        steps = start + torch.arange(horizon + 1)
        true = z[row, steps]
        predicted = torch.stack(
            (true[:, 0], *rollout(predictor, true[:, 0], command[row, steps[:, :-1]])), dim=1
        )
        prediction = ((predicted - true).square() * weight)[:, 1:].mean()
        # The actor learns on predictions as they are; it doesn't bend the predictor to its needs.
        imitation = (actor(predicted.detach()) - teacher_command[row, steps]).square().mean()
        return {"prediction": prediction, "imitation": imitation, "total": prediction + imitation}

    log = task.fit("predictor", average, batch_loss, config.num_steps_actor, average.update)
    average.adopt()
    return log


def _train_supervised(task: _Task) -> tuple[torch.Tensor, Log]:
    """Imitates the teacher end to end; no prediction."""
    model, batches, config = task.model, task.batches, task.inputs.training

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        row, steps = batches.indices(config.baseline_batch_size, model.encoder.gap_steps + 1, generator)
        z = model.encoder(batches.window(row, steps))[:, 0]
        imitation = (model.actor(z) - batches.teacher_command[row[:, 0], steps[:, -1]]).square().mean()
        return {"imitation": imitation, "total": imitation}

    return _train_baseline(task, model, batch_loss)


def _train_autoencoder(task: _Task) -> tuple[torch.Tensor, Log]:
    """Reconstructs the two frames; an actor is then trained on the embedding."""
    model, batches, config = task.model, task.batches, task.inputs.training
    decoder = FrameDecoder(model.encoder.embedding_dim, task.inputs.camera, task.inputs.model.hidden_dim)
    deviation = task.train.frame[:, ::5].float().std() / 255

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        row, steps = batches.indices(config.baseline_batch_size, model.encoder.gap_steps + 1, generator)
        z = model.encoder(batches.window(row, steps))[:, 0]
        frames = batches.frame[row, steps[:, [0, -1]]].float().flatten(1) / 255
        error = ((decoder(z) - frames) / deviation).square().mean()
        return {"reconstruction": error, "total": error}

    return _train_baseline(task, nn.ModuleList((model, decoder)), batch_loss)


def _train_baseline(task: _Task, trained: nn.Module, batch_loss: BatchLoss) -> tuple[torch.Tensor, Log]:
    """Trains a baseline's encoder, whitens it like the JEPA's, and trains its actor on what came out."""
    model, config, gap = task.model, task.inputs.training, task.inputs.model.gap_steps
    log = task.fit("encoder", trained, batch_loss, config.num_steps_baseline)
    z, row = task.finish_encoder()
    log += row
    flat, goal = z.flatten(0, 1), task.batches.teacher_command[:, gap:].flatten(0, 1)
    model.actor = SkipMlp(model.encoder.embedding_dim, COMMAND_DIM, task.inputs.model.hidden_dim)
    model.actor.fit_linear(flat, goal)
    average = WeightAverage(model.actor)

    def actor_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        size = config.actor_batch_size * (config.actor_rollout_steps + 1)
        pick = torch.randint(0, len(flat), (size,), generator=generator)
        imitation = (model.actor(flat[pick]) - goal[pick]).square().mean()
        return {"imitation": imitation, "total": imitation}

    log += task.fit("actor", average, actor_loss, config.num_steps_actor, average.update)
    average.adopt()
    return z, log
