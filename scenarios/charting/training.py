"""Training of the charting scenario's models, w-jepa above all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from scenarios.charting.chart_training import (
    train_autoencoder,
    train_odometry,
    train_siamese,
    train_supervised,
)
from scenarios.charting.data import ChartingData, Sequences
from scenarios.charting.models import NUM_CALIBRATION, ArrayModel, SequenceEncoder
from scenarios.charting.score import score_model
from scenarios.charting.task import KnownDissimilarities, Log, Task, TrainingInputs, pair_term, set_scales
from semcom.contracts import SemcomError
from semcom.diagnostics import error_ratio, rank_me
from semcom.distances import DISTANCES
from semcom.jepa import Jepa
from semcom.latent_layers import LatentLayers
from semcom.predictors import rollout
from semcom.regularizers import SigReg, VicReg
from semcom.rng import Streams
from semcom.samples import Samples
from semcom.targets import EmaTarget
from semcom.train import CENTRAL, Trainer

# What the chart's term weighs more where the predictor is trained alone: its latent term is larger there.
_FORECAST_FACTOR = 4
MODELS = ("w-jepa", "siamese", "autoencoder", "supervised", "odometry")


def train_model(
    name: str, seed: int, data: ChartingData, inputs: TrainingInputs, trainer: Trainer = CENTRAL
) -> tuple[ArrayModel, Log]:
    """Trains one of MODELS from scratch; returns it with its log and its diagnostics on validation data.

    Raises SemcomError where trajectories are too short for the rollouts.
    """
    streams, data = Streams(seed), _gathered(data, trainer)
    train = data.train
    with torch.random.fork_rng(devices=[]):
        # torch.nn draws its starting weights from the process-wide generator.
        torch.manual_seed(trainer.starting_seed(streams.seed(f"weights-{name}")))
        model = ArrayModel(
            inputs.model, inputs.features, data.csi_shape, data.num_rows, with_predictor=name == "w-jepa"
        )
        model.features.calibrate(train.csi.flatten(0, 1))
        with torch.no_grad():
            features = model.features(train.csi.flatten(0, 1)).unflatten(0, train.csi.shape[:2])
        generator = streams.torch_generator(f"train-{name}")
        task = Task(
            model,
            inputs,
            data,
            features,
            generator,
            trainer,
            Samples(train.num_trajectories, position_m=train.position_m.mean(dim=1)),
        )
        train_one = {
            "w-jepa": _train_jepa,
            "siamese": train_siamese,
            "autoencoder": train_autoencoder,
            "supervised": train_supervised,
            "odometry": train_odometry,
        }
        log = train_one[name](task)
    model.eval().requires_grad_(False)
    keep_calibration(model, features.flatten(0, 1))
    log.append({"stage": "validation", "step": 0, **_diagnose(model, data.validation)})
    log.append(score_model(model, data))
    return model, log


def _gathered(data: ChartingData, trainer: Trainer) -> ChartingData:
    """The data with what a training has of them where it is."""
    train = data.train
    csi = trainer.gather("observation", train.csi)
    known = data.knows_velocity
    velocity = trainer.gather("condition", train.velocity_m_s) if known else train.velocity_m_s
    return replace(data, train=replace(train, csi=csi, velocity_m_s=velocity))


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


def _train_jepa(task: Task) -> Log:
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
    moved = set_scales(task)
    condition = train.velocity_m_s / model.speed_m_s
    online = SequenceEncoder(model.encoder)
    target = EmaTarget(online, config.ema_momentum, 1.0, config.num_steps)
    jepa = Jepa(
        online,
        predictor,
        VicReg(config.variance_weight, config.covariance_weight)
        if config.regularizer == "vicreg"
        else SigReg(config.sigreg_weight, num_slices=128),
        DISTANCES[config.distance],
        target=target,
    )
    needs_dissimilarity = not data.knows_velocity or config.pretraining_share > 0
    known = KnownDissimilarities(task) if needs_dissimilarity else None

    def chart_terms(num_rollout: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """How far the chart is from the velocities: between encoded embeddings, and to predicted ones."""
        user = task.samples.draw((config.num_pairs, 1), generator)
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
                (model.head(jepa.to_device(z_hat)) - at[:, 2] - gone[:, step]).square().mean()
                for step, z_hat in enumerate(rollout(predictor, jepa.to_station(z[:, 2]), windows))
                if step % 4 == 0
            ]
        ).mean()
        return {"odometry": far.square().mean(), "forecast": ahead}

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        progress = step / config.num_steps
        longest = config.rollout_steps
        num_rollout = min(longest, int(3 + 2 * progress * max(0, longest - 3)))
        user = task.samples.draw((config.batch_size, 1), generator)
        start = torch.randint(0, train.num_steps - length + 1, (config.batch_size, 1), generator=generator)
        steps = start + torch.arange(length)
        window = task.noisy(task.features[user, steps], generator)
        terms = jepa.loss(window, condition[user, steps], num_rollout, config.num_starts, generator)
        if known is not None and (not data.knows_velocity or progress < config.pretraining_share):
            chart = {"dissimilarity": pair_term(task, known(), generator)}
        else:
            chart = chart_terms(num_rollout, generator)
        total = terms["total"] + config.chart_weight * torch.stack(list(chart.values())).sum()
        return {**terms, **chart, "total": total}

    module = nn.ModuleList((jepa, model.head))
    log = task.fit(
        "encoder",
        module,
        batch_loss,
        config.num_steps,
        jepa.update_target,
        on_device=model.encoder,
        latent=latent_layers(model, target),
    )
    return log + _train_predictor(task, condition, moved)


def latent_layers(model: ArrayModel, target: EmaTarget) -> LatentLayers:
    """The layers at the embeddings of all arrays, side by side."""
    predictor, slow = model.predictor, target.encoder
    assert predictor is not None
    assert isinstance(slow, SequenceEncoder)
    first = [model.head.net[0], predictor.layers[0]]
    inputs = [predictor.linear, *(layer for layer in first if isinstance(layer, nn.Linear))]
    return LatentLayers(
        (model.encoder, slow.encoder), (predictor.linear, predictor.out), inputs, model.num_arrays
    )


def online_embeddings(task: Task) -> torch.Tensor:
    """Embeddings of all training positions, [U, T, R D]."""
    features = task.features
    return task.model.encoder(features.flatten(0, 1)).flatten(1).unflatten(0, features.shape[:2])


def _train_predictor(task: Task, condition: torch.Tensor, moved: torch.Tensor) -> Log:
    """Trains the predictor on, on embeddings that no longer change, with the chart's term where it has one.

    condition, moved [U, T, 2]: scaled velocities, and their integral in units of the chart.
    """
    model, config, num_steps = task.model, task.inputs.training, task.data.train.num_steps
    predictor = model.predictor
    assert predictor is not None
    model.encoder.requires_grad_(False)
    model.head.requires_grad_(False)
    with torch.no_grad():
        z = task.trainer.gather("embedding", online_embeddings(task))
    variance = z.flatten(0, 1).var(dim=0).clamp_min(1e-6)
    num_rows, horizon = config.num_pairs, config.rollout_steps

    def batch_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        user = task.samples.draw((num_rows, 1), generator)
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
