"""Training of the control scenario's three models: jepa, supervised and autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from scenarios.control.camera import CameraConfig
from scenarios.control.dataset import DatasetConfig, Trajectories, collect
from scenarios.control.models import FrameDecoder, ModelConfig, MotionEncoder, SkipMlp, Window, make_stem
from scenarios.control.plant import COMMAND_DIM, PlantConfig
from scenarios.control.teacher import TeacherConfig
from semcom.diagnostics import check_collapse
from semcom.distances import DISTANCES
from semcom.encoders import KeypointStem
from semcom.jepa import InverseDynamics, Jepa
from semcom.predictors import FilmPredictor, rollout
from semcom.regularizers import SigReg, VicReg
from semcom.rng import Streams
from semcom.targets import EmaTarget, StopGradientTarget
from semcom.train import WeightAverage, fit

Log = list[dict[str, float | int | str]]


class TrainingConfig(BaseModel):
    """How the models are trained; the baselines get the same data and batches as the JEPA."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    distance: str = Field("l2", pattern="^(cosine|l2|smooth_l1|l1)$", description="cosine, l2, smooth_l1, l1")
    target: str = Field(
        "joint", pattern="^(joint|stop_gradient|ema)$", description="joint, stop_gradient, ema"
    )
    ema_momentum: float = Field(0.99, ge=0, le=1, description="momentum of an EMA target at the start")
    regularizer: str = Field("vicreg", pattern="^(vicreg|sigreg)$", description="vicreg or sigreg")
    variance_weight: float = Field(2.0, ge=0, description="weight of VICReg's variance term")
    covariance_weight: float = Field(0.1, ge=0, description="weight of VICReg's covariance term")
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


class MotionModel(nn.Module):
    """A stem, a motion encoder and an actor, and for the JEPA a predictor: what gets deployed."""

    calibration: torch.Tensor

    def __init__(self, inputs: TrainingInputs, streams: Streams, *, with_predictor: bool) -> None:
        super().__init__()
        model = inputs.model
        self.stem, num_features = make_stem(model, inputs.camera, streams)
        self.command_scale_n = inputs.plant.max_force_n / 4
        self.encoder = MotionEncoder(num_features, model, self.command_scale_n)
        self.actor = SkipMlp(model.embedding_dim, COMMAND_DIM, model.hidden_dim)
        self.predictor = (
            FilmPredictor(model.embedding_dim, COMMAND_DIM, model.hidden_dim) if with_predictor else None
        )
        # Training embeddings, from which codecs learn their ranges and symbol models.
        self.register_buffer("calibration", torch.zeros(_NUM_CALIBRATION, model.embedding_dim))


_NUM_CALIBRATION = 4096


def train_model(
    name: str, seed: int, inputs: TrainingInputs, scratch: Path | None = None
) -> tuple[MotionModel, Log]:
    """Trains "jepa", "supervised" or "autoencoder" from scratch; returns it with its diagnostics.

    scratch: a folder in which each stage leaves its checkpoints, and continues from those it finds.
    """
    streams = Streams(seed)
    train, held_out = collect(inputs.dataset, inputs.plant, inputs.teacher, inputs.camera, streams)
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws its starting weights from the process-wide generator.
        torch.manual_seed(streams.seed(f"weights-{name}"))
        model = MotionModel(inputs, streams, with_predictor=name == "jepa")
        trainer = {"jepa": _train_jepa, "supervised": _train_supervised, "autoencoder": _train_autoencoder}
        if isinstance(model.stem, KeypointStem):
            model.stem.calibrate(train.frame[::2, ::5].flatten(0, 1))
        log = trainer[name](model, inputs, train, held_out, streams, scratch)
    return model.eval(), log


def _stage_path(scratch: Path | None, stage: str) -> Path | None:
    return None if scratch is None else scratch / f"{stage}.safetensors"


def _features(model: MotionModel, data: Trajectories) -> torch.Tensor:
    """Returns the stem's features [N, T, F] of every frame; only a fixed stem may be run ahead like this."""
    with torch.no_grad():
        return torch.stack([model.stem(frames) for frames in data.frame])


class _Batches:
    """Draws windows of features (or of frames, where the stem is still trained) with their commands."""

    def __init__(self, model: MotionModel, data: Trajectories) -> None:
        self.model = model
        self.is_fixed = not any(p.requires_grad for p in model.stem.parameters())
        self.source = _features(model, data) if self.is_fixed else data.frame
        self.command = data.command / model.command_scale_n
        self.teacher_command = data.teacher_command / model.command_scale_n
        self.frame = data.frame

    def indices(
        self, size: int, length: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws `size` windows of `length` steps: trajectory [size, 1] and step [size, length] indices."""
        row = torch.randint(0, len(self.source), (size, 1), generator=generator)
        start = torch.randint(0, self.source.shape[1] - length + 1, (size, 1), generator=generator)
        return row, start + torch.arange(length)

    def window(self, row: torch.Tensor, step: torch.Tensor) -> Window:
        """Returns the features and commands of the indexed windows."""
        part = self.source[row, step]
        if not self.is_fixed:
            part = self.model.stem(part.flatten(0, 1)).unflatten(0, row.shape[:1] + step.shape[1:])
        return Window(part, self.command[row, step])

    @torch.no_grad()
    def embed_all(self) -> torch.Tensor:
        """Returns the embeddings [N, T - gap, D] of all trajectories."""
        steps = torch.arange(self.source.shape[1])[None]
        return torch.cat(
            [self.model.encoder(self.window(torch.tensor([[n]]), steps)) for n in range(len(self.source))]
        )


def _linear_probe(
    z: torch.Tensor, state: torch.Tensor, z_held_out: torch.Tensor, state_held_out: torch.Tensor
) -> dict[str, float]:
    """R^2 of a linear probe from the whitened embedding, before quantisation, on held-out trajectories."""
    flat, flat_held_out = z.flatten(0, 1).double(), z_held_out.flatten(0, 1).double()
    goal, goal_held_out = state.flatten(0, 1).double(), state_held_out.flatten(0, 1).double()
    one = torch.ones(len(flat), 1, dtype=torch.float64)
    solution = torch.linalg.lstsq(torch.cat((flat, one), dim=1), goal).solution
    error = flat_held_out @ solution[:-1] + solution[-1] - goal_held_out
    share = error.square().mean(dim=0) / goal_held_out.var(dim=0, correction=0)
    names = ("position", "velocity", "angle", "rate")
    return {f"probe_r2_{name}": 1 - float(s) for name, s in zip(names, share, strict=True)}


def _set_calibration(model: MotionModel, z: torch.Tensor, generator: torch.Generator) -> None:
    flat = z.flatten(0, 1)
    pick = torch.randint(0, len(flat), (_NUM_CALIBRATION,), generator=generator)
    model.calibration.copy_(flat[pick])


def _tag(stage: str, rows: list[dict[str, float | int]]) -> Log:
    return [{"stage": stage, **row} for row in rows]


def _train_jepa(
    model: MotionModel,
    inputs: TrainingInputs,
    train: Trajectories,
    held_out: Trajectories,
    streams: Streams,
    scratch: Path | None,
) -> Log:
    config, dim = inputs.training, inputs.model.embedding_dim
    batches = _Batches(model, train)
    targets: dict[str, Callable[[], EmaTarget | StopGradientTarget | None]] = {
        "joint": lambda: None,
        "stop_gradient": lambda: StopGradientTarget(model.encoder),
        "ema": lambda: EmaTarget(model.encoder, config.ema_momentum, 1.0, config.num_steps),
    }
    predictor = FilmPredictor(dim, COMMAND_DIM, inputs.model.hidden_dim)
    jepa = Jepa(
        model.encoder,
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
    trained = nn.ModuleList((jepa, model.stem))
    length = inputs.model.gap_steps + config.num_starts + config.rollout_steps

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        progress = step / config.num_steps
        # Rollouts grow from 3 steps, and the dynamics may bend only once a linear latent space has formed.
        num_rollout = int(min(config.rollout_steps, 3 + 2 * progress * (config.rollout_steps - 3)))
        predictor.nonlinearity = min(1.0, max(0.0, (progress - 0.4) / 0.1))
        window = batches.window(*batches.indices(config.batch_size, length, generator))
        condition = window.command[:, inputs.model.gap_steps :]
        return jepa.loss(window, condition, max(1, num_rollout), config.num_starts, generator)

    generator = streams.torch_generator("train-jepa")
    log = _tag(
        "encoder",
        fit(
            trained,
            batch_loss,
            config.num_steps,
            config.learning_rate,
            generator,
            after_step=jepa.update_target,
            checkpoint=_stage_path(scratch, "encoder"),
        ),
    )
    trained.requires_grad_(False)
    model.encoder.whiten(batches.embed_all().flatten(0, 1))
    z = batches.embed_all()
    _set_calibration(model, z, generator)
    log += _train_predictor_and_actor(model, inputs, batches, z, generator, scratch)
    return log + _diagnose(model, held_out, z, train)


def _train_predictor_and_actor(
    model: MotionModel,
    inputs: TrainingInputs,
    batches: _Batches,
    z: torch.Tensor,
    generator: torch.Generator,
    scratch: Path | None,
) -> Log:
    """Trains a predictor and an actor on the finished embeddings, both starting from least squares."""
    config, gap = inputs.training, inputs.model.gap_steps
    predictor, actor = model.predictor, model.actor
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
        row = torch.randint(0, len(z), (config.actor_batch_size, 1), generator=generator)
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

    log = fit(
        average,
        batch_loss,
        config.num_steps_actor,
        config.learning_rate,
        generator,
        after_step=average.update,
        checkpoint=_stage_path(scratch, "predictor"),
    )
    average.adopt()
    return _tag("predictor", log)


@torch.no_grad()
def _diagnose(model: MotionModel, held_out: Trajectories, z: torch.Tensor, train: Trajectories) -> Log:
    """Measures held-out embeddings: RankMe, deviations, linear probe, prediction against the identity."""
    batches = _Batches(model, held_out)
    z_held_out = batches.embed_all()
    gap = model.encoder.gap_steps
    before, after = z_held_out[:, :-1].flatten(0, 1), z_held_out[:, 1:].flatten(0, 1)
    if model.predictor is None:
        report = check_collapse(z_held_out.flatten(0, 1))
    else:
        predicted = model.predictor(before, batches.command[:, gap:-1].flatten(0, 1))
        report = check_collapse(z_held_out.flatten(0, 1), predicted, after, before)
    row: dict[str, float | int | str] = {
        "stage": "held_out",
        "step": 0,
        "rank_me": report.rank_me,
        "std_min": report.std_min,
        "std_median": report.std_median,
        **_linear_probe(z, train.state[:, gap:], z_held_out, held_out.state[:, gap:]),
    }
    if report.error_ratio is not None:
        row["error_ratio"] = report.error_ratio
    return [row]


def _train_supervised(
    model: MotionModel,
    inputs: TrainingInputs,
    train: Trajectories,
    held_out: Trajectories,
    streams: Streams,
    scratch: Path | None,
) -> Log:
    """Imitates the teacher end to end; no prediction."""
    config, batches = inputs.training, _Batches(model, train)
    length = inputs.model.gap_steps + 1

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        row, steps = batches.indices(config.baseline_batch_size, length, generator)
        z = model.encoder(batches.window(row, steps))[:, 0]
        imitation = (model.actor(z) - batches.teacher_command[row[:, 0], steps[:, -1]]).square().mean()
        return {"imitation": imitation, "total": imitation}

    return _train_baseline(
        model, model, inputs, batches, batch_loss, "supervised", train, held_out, streams, scratch
    )


def _train_autoencoder(
    model: MotionModel,
    inputs: TrainingInputs,
    train: Trajectories,
    held_out: Trajectories,
    streams: Streams,
    scratch: Path | None,
) -> Log:
    """Reconstructs the two frames; an actor is then trained on the embedding."""
    config, batches = inputs.training, _Batches(model, train)
    decoder = FrameDecoder(inputs.model.embedding_dim, inputs.camera, inputs.model.hidden_dim)
    length = inputs.model.gap_steps + 1
    deviation = train.frame[:, ::5].float().std() / 255

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        row, steps = batches.indices(config.baseline_batch_size, length, generator)
        z = model.encoder(batches.window(row, steps))[:, 0]
        frames = batches.frame[row, steps[:, [0, -1]]].float().flatten(1) / 255
        error = ((decoder(z) - frames) / deviation).square().mean()
        return {"reconstruction": error, "total": error}

    both = nn.ModuleList((model, decoder))
    return _train_baseline(
        both, model, inputs, batches, batch_loss, "autoencoder", train, held_out, streams, scratch
    )


def _train_baseline(
    trained: nn.Module,
    model: MotionModel,
    inputs: TrainingInputs,
    batches: _Batches,
    batch_loss: Callable[[int, torch.Generator], dict[str, torch.Tensor]],
    name: str,
    train: Trajectories,
    held_out: Trajectories,
    streams: Streams,
    scratch: Path | None,
) -> Log:
    """Trains a baseline's encoder, whitens it like the JEPA's, and trains its actor on what came out."""
    config, gap = inputs.training, inputs.model.gap_steps
    generator = streams.torch_generator(f"train-{name}")
    log = _tag(
        "encoder",
        fit(
            trained,
            batch_loss,
            config.num_steps_baseline,
            config.learning_rate,
            generator,
            checkpoint=_stage_path(scratch, "encoder"),
        ),
    )
    trained.requires_grad_(False)
    model.encoder.whiten(batches.embed_all().flatten(0, 1))
    z = batches.embed_all()
    _set_calibration(model, z, generator)
    flat, goal = z.flatten(0, 1), batches.teacher_command[:, gap:].flatten(0, 1)
    model.actor = SkipMlp(inputs.model.embedding_dim, COMMAND_DIM, inputs.model.hidden_dim)
    model.actor.fit_linear(flat, goal)
    average = WeightAverage(model.actor)

    def actor_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        size = config.actor_batch_size * (config.actor_rollout_steps + 1)
        pick = torch.randint(0, len(flat), (size,), generator=generator)
        imitation = (model.actor(flat[pick]) - goal[pick]).square().mean()
        return {"imitation": imitation, "total": imitation}

    rows = fit(
        average,
        actor_loss,
        config.num_steps_actor,
        config.learning_rate,
        generator,
        after_step=average.update,
        checkpoint=_stage_path(scratch, "actor"),
    )
    average.adopt()
    return log + _tag("actor", rows) + _diagnose(model, held_out, z, train)
