"""An alarm for sensors that send what can't be: scores of what they send, and what these are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from pydantic import BaseModel, ConfigDict, Field

from scenarios.isac.models import CAMERA, RECEIVER, SensingModel
from scenarios.isac.swaps import SwapTest, accumulate
from semcom.contracts import SemcomError

SCORES: dict[str, str] = {
    "energy": "the residual of what all other sensors predict, in units of its covariance",
    "novelty": "the distance to the training embeddings next to it",
    "repeats": "how seldom a healthy sensor sends the same for as many steps",
    "swap": "how much better it and another one of its kind fit each other's places than their own",
    "combined": "energy and novelty, repeats, or swap, whichever is most surprising: the alarm",
}
NUM_FOLDS = 5


class AlarmConfig(BaseModel):
    """How the alarm judges."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    memory: float = Field(
        0.5, ge=0, lt=1, description="weight of the steps before in the running average of a score"
    )
    shrinkage: float = Field(
        0.1, ge=1e-3, le=1, description="share of the diagonal in covariances of embeddings and residuals"
    )
    num_neighbours: int = Field(
        5, ge=1, le=100, description="training embeddings whose distances are averaged for the novelty"
    )
    num_alike: int = Field(
        10, ge=1, le=1000, description="embeddings next to a repeated one that tell how seldom it repeats"
    )
    swap_memory: float = Field(0.9, ge=0, le=1, description="share of the evidence for a swap that is kept")


@dataclass(frozen=True)
class Evidence:
    """What an alarm looks at of one sensor, in U sequences of T steps.

    z [U, T, d]: what arrived of it. by_others [U, T, d]: what all other sensors predict of it. pairs
    [U, T, 2, M, d]: what arrived of it (first) and of each of the M others of its kind (second). expected
    [U, T, 2, M, d]: what is predicted of these without the present step of any sensor of their kind.
    """

    z: torch.Tensor
    by_others: torch.Tensor
    pairs: torch.Tensor
    expected: torch.Tensor

    def of(self, sequences: torch.Tensor) -> Evidence:
        """The same of some sequences alone, bool [U]."""
        return Evidence(*(getattr(self, field.name)[sequences] for field in fields(self)))


@dataclass(frozen=True)
class Healthy:
    """What an alarm is fitted to, of sequences without faults that the model was not trained on.

    swapped [U, T, 2, M, d]: what the sensor (first) and each of the M others (second) would have sent had
    they changed places: their encoders know. trained [n, d]: the sensor's training embeddings.
    """

    view: Evidence
    swapped: torch.Tensor
    trained: torch.Tensor

    def of(self, sequences: torch.Tensor) -> Healthy:
        """The same of some sequences alone, bool [U]."""
        return Healthy(self.view.of(sequences), self.swapped[sequences], self.trained)


def look(model: SensingModel, z: torch.Tensor, sensor: int, expected: torch.Tensor) -> Evidence:
    """Gathers what the alarm of one sensor looks at, of the embeddings z [U, T, S, D] that arrived.

    For by_others the sensor's own embeddings are kept from the predictor in all steps that it looks at.
    expected [U, T, S, D]: see expect.
    """
    dim, own = model.dim_of(sensor), model.modality[sensor]
    arrived = torch.ones(model.config.num_lags, model.num_sensors, dtype=torch.bool)
    arrived[:, sensor] = False
    by_others = predict(model, z, arrived)[:, :, sensor, :dim]
    others = [other for other, kind in enumerate(model.modality) if kind == own and other != sensor]
    first = [sensor] * len(others)
    pairs, of_pairs = (torch.stack((of[:, :, first], of[:, :, others]), dim=2) for of in (z, expected))
    return Evidence(z[:, :, sensor, :dim], by_others, pairs[..., :dim], of_pairs[..., :dim])


def expect(model: SensingModel, z: torch.Tensor, kind: Sequence[int]) -> torch.Tensor:
    """What is predicted of all sensors without the present step of those in `kind`: [U, T, S, D]."""
    arrived = torch.ones(model.config.num_lags, model.num_sensors, dtype=torch.bool)
    arrived[0, kind] = False
    return predict(model, z, arrived)


@torch.no_grad()
def predict(model: SensingModel, z: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
    """What is predicted of all sensors in each step, [U, T, S, D], of z [U, T, S, D].

    arrived [W, S] bool: what the predictor is shown of its window, newest step first.
    """
    context, known = past_windows(z, model.config.num_lags)
    shown = known[..., None] & arrived
    return model.predictor(context.flatten(0, 1), shown.flatten(0, 1)).unflatten(0, z.shape[:2])


@dataclass(frozen=True)
class Gaussian:
    """A normal density's mean [d] and precision [d, d]."""

    mean: torch.Tensor
    precision: torch.Tensor

    @classmethod
    def fit(cls, rows: torch.Tensor, shrinkage: float) -> Gaussian:
        """Fits to rows [n, d]; the covariance shrinks towards its diagonal."""
        mean = rows.double().mean(dim=0)
        centred = rows.double() - mean
        covariance = centred.T @ centred / (len(rows) - 1)
        diagonal = torch.diag(covariance.diagonal().clamp_min(1e-9))
        precision = torch.linalg.inv((1 - shrinkage) * covariance + shrinkage * diagonal)
        return cls(mean.float(), precision.float())

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (x - m)^T C^-1 (x - m) / d of x [..., d], with a mean of 1 over the density."""
        centred = x - self.mean
        return torch.einsum("...d,de,...e->...", centred, self.precision, centred) / x.shape[-1]


@dataclass(frozen=True)
class Alarm:
    """The alarm of one sensor: densities of its residual and of swaps, and what it is fitted to."""

    config: AlarmConfig
    residual: Gaussian
    swap: SwapTest
    healthy: Healthy

    @classmethod
    def fit(cls, config: AlarmConfig, healthy: Healthy) -> Alarm:
        """Fits to sequences without faults, which the model was not trained on."""
        view = healthy.view
        residual = Gaussian.fit((view.z - view.by_others).flatten(0, 1), config.shrinkage)
        return cls(config, residual, SwapTest.fit(view.pairs, view.expected, healthy.swapped), healthy)

    def scores(self, view: Evidence) -> dict[str, torch.Tensor]:
        """Scores [U, T] by their names, all but the combined one; a larger one is more suspect.

        energy: r^T C^-1 r / d, r = z - z_hat less its mean without faults. novelty: mean distance to the
        num_neighbours nearest training embeddings, in units of their deviations. Of these s_t there is the
        running average a_t = f a_(t-1) + (1 - f) s_t, f the memory. repeats: see run_surprise. swap: the
        evidence that a sensor and another one of its kind have changed places, as it accumulates, of
        whichever other has the most (see SwapTest).
        """
        energy, novelty = self.residual.energy(view.z - view.by_others), self._novelty(view.z)
        evidence = accumulate(self.swap.evidence(view.pairs, view.expected), self.config.swap_memory)
        return {
            "energy": running_average(energy, self.config.memory),
            "novelty": running_average(novelty, self.config.memory),
            "repeats": run_surprise(view.z, self.healthy.view.z, self.config.num_alike),
            # Of a kind's only sensor there is nothing to tell.
            "swap": evidence.amax(dim=2) if evidence.shape[2] else torch.zeros(view.z.shape[:2]),
        }

    def _novelty(self, z: torch.Tensor) -> torch.Tensor:
        trained = self.healthy.trained
        deviation = trained.std(dim=0).clamp_min(1e-6)
        distance = torch.cdist((z / deviation).flatten(0, 1), trained / deviation)
        nearest = distance.topk(min(self.config.num_neighbours, len(trained)), largest=False).values
        return nearest.mean(dim=1).unflatten(0, z.shape[:2])


def calm_scores(config: AlarmConfig, healthy: Healthy) -> dict[str, torch.Tensor]:
    """Scores [U, T] of sequences without faults, each by an alarm fitted to others.

    Thresholds come from these: an alarm finds the sequences that it was fitted to calmer than new ones.
    They are dealt to NUM_FOLDS folds, or one each. Raises SemcomError for a single sequence.
    """
    num, num_steps = healthy.view.z.shape[:2]
    if num < 2:
        raise SemcomError(
            "an alarm's threshold takes 2 sequences without faults: raise split.validation_share"
        )
    fold = torch.arange(num) % NUM_FOLDS
    found: dict[str, torch.Tensor] = {}
    for number in fold.unique():
        judged = fold == number
        scores = Alarm.fit(config, healthy.of(~judged)).scores(healthy.view.of(judged))
        for name, score in scores.items():
            found.setdefault(name, torch.zeros(num, num_steps))[judged] = score
    return found


def running_average(score: torch.Tensor, memory: float) -> torch.Tensor:
    """Returns a_t = f a_(t-1) + (1 - f) s_t of scores [U, T], a_0 = s_0, f the memory."""
    steps = [score[:, 0]]
    for step in range(1, score.shape[1]):
        steps.append(memory * steps[-1] + (1 - memory) * score[:, step])
    return torch.stack(steps, dim=1)


def run_surprise(z: torch.Tensor, healthy: torch.Tensor, num_alike: int) -> torch.Tensor:
    """Adds up how surprising it is that the very same numbers came again, of z [U, T, d]: float [U, T].

    Each step that brings what the one before brought adds -log p, any other one starts again at zero.
    p = (k + 1/2) / (K + 1): of the K = num_alike embeddings next to it among healthy [V, T', d] k were sent
    again in the next step (Krichevsky and Trofimov 1981). A sensor's noise changes its payload almost always,
    but a camera that sees nobody, of which a codec of few levels leaves the same again and again.
    """
    deviation = healthy.flatten(0, 1).std(dim=0).clamp_min(1e-6)
    came_again = (healthy[:, 1:] == healthy[:, :-1]).all(dim=-1).flatten().float()
    before = (healthy[:, :-1] / deviation).flatten(0, 1)
    num = min(num_alike, len(before))
    distance = torch.cdist((z[:, :-1] / deviation).flatten(0, 1), before)
    alike = came_again[distance.topk(num, largest=False).indices].sum(dim=1)
    surprise = -((alike + 0.5) / (num + 1)).log().unflatten(0, (len(z), -1))
    same = (z[:, 1:] == z[:, :-1]).all(dim=-1)
    steps = [torch.zeros(len(z))]
    for step in range(same.shape[1]):
        steps.append((steps[-1] + surprise[:, step]) * same[:, step])
    return torch.stack(steps, dim=1)


def past_windows(z: torch.Tensor, num_lags: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cuts sequences [U, T, ...] into windows [U, T, W, ...], newest first, and tells what is in them.

    known [U, T, W] bool is False before a sequence's beginning, where its first step is repeated.
    """
    step = torch.arange(z.shape[1])[:, None] - torch.arange(num_lags)
    return z[:, step.clamp_min(0)], (step >= 0).expand(z.shape[0], -1, -1)


def spoil(
    observed: torch.Tensor, others: torch.Tensor, fault: str, first: int, generator: torch.Generator
) -> torch.Tensor:
    """Injects a fault into what one sensor observes, [U, T, ...], from step `first` on; returns a copy.

    others: what a sensor of the same kind observes, which takes its place where they are swapped. Noise is
    Gaussian with the mean and deviation that the sensor's values have before; bytes stay within 0 to 255.
    """
    spoiled = observed.clone()
    if fault == "frozen":
        spoiled[:, first:] = observed[:, first - 1 : first]
    elif fault == "swapped":
        spoiled[:, first:] = others[:, first:]
    elif observed.is_complex():
        power = observed.abs().square().mean()
        noise = torch.randn((*observed[:, first:].shape, 2), generator=generator)
        spoiled[:, first:] = (power / 2).sqrt() * torch.view_as_complex(noise)
    else:
        mean, deviation = observed.float().mean(), observed.float().std()
        noise = torch.randn(observed[:, first:].shape, generator=generator)
        spoiled[:, first:] = (mean + deviation * noise).round().clamp(0, 255).to(observed.dtype)
    return spoiled


def sensors_of_kind(model: SensingModel, kind: str) -> list[int]:
    """Sensors of a kind, camera or receiver, that a fault is injected into, in turn."""
    wanted = CAMERA if kind == "camera" else RECEIVER
    return [sensor for sensor, modality in enumerate(model.modality) if modality == wanted]
