"""An alarm for sensors that send what can't be: scores of a sensor's embedding, and their calibration."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from pydantic import BaseModel, ConfigDict, Field

from scenarios.isac.models import CAMERA, SensingModel
from semcom.contracts import SemcomError

SCORES: dict[str, str] = {
    "energy": "the residual of what all other sensors predict, in units of its covariance",
    "likelihood": "how much better it fits its usual embeddings than what sensors of the other kind predict",
    "novelty": "the distance to the training embeddings next to it",
    "scene": "how far positions move where it is replaced by what all other sensors predict",
    "repeats": "for how many steps the sensor has sent the same again",
    "combined": "the least of the p-values of likelihood, novelty, scene and repeats",
}
COMBINED = ("likelihood", "novelty", "scene", "repeats")
"""The scores that are combined, as validation data chose them: each takes its share of the false alarms."""

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


@dataclass(frozen=True)
class View:
    """What an alarm looks at of one sensor, in U sequences of T steps.

    z [U, T, d]: what arrived of it. by_all, by_kind [U, T, d]: what all other sensors, and those of the other
    kind alone, predict of it. moved_m [U, T]: how far positions move where by_all takes its place.
    """

    z: torch.Tensor
    by_all: torch.Tensor
    by_kind: torch.Tensor
    moved_m: torch.Tensor

    def of(self, sequences: torch.Tensor) -> View:
        """The same of some sequences alone, bool [U]."""
        return View(*(getattr(self, field.name)[sequences] for field in fields(self)))


@torch.no_grad()
def look(model: SensingModel, z: torch.Tensor, sensor: int) -> View:
    """Gathers what the alarm of one sensor looks at, of the embeddings z [U, T, S, D] that arrived.

    The sensor's own embeddings are kept from the predictor in all steps that it looks at. Positions move by
    sum over places p of w_p |x_p - x'_p| / sum of w_p, w_p the mean probability that somebody is there.
    """
    dim = model.dim_of(sensor)
    by_all = predicted_by(model, z, sensor, [other for other in range(model.num_sensors) if other != sensor])
    kind = model.modality[sensor]
    strangers = [other for other, modality in enumerate(model.modality) if modality != kind]
    by_kind = predicted_by(model, z, sensor, strangers)
    replaced = z.clone()
    replaced[:, :, sensor] = by_all
    first, second = model.read(z.flatten(0, 1)), model.read(replaced.flatten(0, 1))
    weight = (first.presence.sigmoid() + second.presence.sigmoid()) / 2
    distance_m = (first.position_m - second.position_m).norm(dim=-1)
    moved_m = (weight * distance_m).sum(dim=-1) / weight.sum(dim=-1).clamp_min(1e-6)
    return View(
        z[:, :, sensor, :dim], by_all[..., :dim], by_kind[..., :dim], moved_m.unflatten(0, z.shape[:2])
    )


@torch.no_grad()
def predicted_by(model: SensingModel, z: torch.Tensor, sensor: int, heard: list[int]) -> torch.Tensor:
    """What the sensors in `heard` predict of one sensor's embedding: [U, T, D] of z [U, T, S, D]."""
    context, known = past_windows(z, model.config.num_lags)
    arrived = torch.zeros(context.shape[:-1], dtype=torch.bool)
    arrived[..., heard] = known[..., None]
    predicted = model.predictor(context.flatten(0, 1), arrived.flatten(0, 1))
    return predicted[:, sensor].unflatten(0, z.shape[:2])


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
    """The alarm of one sensor: densities of its embedding and residuals, and training embeddings [n, d]."""

    config: AlarmConfig
    by_all: Gaussian
    by_kind: Gaussian
    usual: Gaussian
    trained: torch.Tensor

    @classmethod
    def fit(cls, config: AlarmConfig, view: View, trained: torch.Tensor) -> Alarm:
        """Fits to sequences without faults, which the model was not trained on."""

        def of(rows: torch.Tensor) -> Gaussian:
            return Gaussian.fit(rows.flatten(0, 1), config.shrinkage)

        return cls(config, of(view.z - view.by_all), of(view.z - view.by_kind), of(view.z), trained)

    def scores(self, view: View) -> dict[str, torch.Tensor]:
        """Scores [U, T] by their names, all but the combined one; a larger one is more suspect.

        energy: e_all = r^T C^-1 r / d, r = z - z_hat less its mean without faults. likelihood:
        e_kind(z - z_hat_kind) - e(z), which is -2 / d log N(z; z_hat_kind, C_kind) / N(z; m, C) up to a
        constant. novelty: mean distance to the num_neighbours nearest training embeddings, in units of their
        deviations. scene: moved_m. Of these s_t there is the running average a_t = f a_(t-1) + (1 - f) s_t,
        f the memory. repeats: steps in a row in which the very same numbers came again.
        """
        single = {
            "energy": self.by_all.energy(view.z - view.by_all),
            "likelihood": self.by_kind.energy(view.z - view.by_kind) - self.usual.energy(view.z),
            "novelty": self._novelty(view.z),
            "scene": view.moved_m,
        }
        averaged = {name: running_average(score, self.config.memory) for name, score in single.items()}
        return averaged | {"repeats": num_repeats(view.z)}

    def _novelty(self, z: torch.Tensor) -> torch.Tensor:
        deviation = self.trained.std(dim=0).clamp_min(1e-6)
        distance = torch.cdist((z / deviation).flatten(0, 1), self.trained / deviation)
        nearest = distance.topk(min(self.config.num_neighbours, len(self.trained)), largest=False).values
        return nearest.mean(dim=1).unflatten(0, z.shape[:2])


def calm_scores(config: AlarmConfig, view: View, trained: torch.Tensor) -> dict[str, torch.Tensor]:
    """Scores [U, T] of sequences without faults, each by an alarm fitted to others.

    Thresholds come from these: an alarm finds the sequences that it was fitted to calmer than new ones.
    They are dealt to NUM_FOLDS folds, or one each. Raises SemcomError for a single sequence.
    """
    num = len(view.z)
    if num < 2:
        raise SemcomError(
            "an alarm's threshold takes 2 sequences without faults: raise split.validation_share"
        )
    fold = torch.arange(num) % NUM_FOLDS
    found: dict[str, torch.Tensor] = {}
    for number in fold.unique():
        judged = fold == number
        scores = Alarm.fit(config, view.of(~judged), trained).scores(view.of(judged))
        for name, score in scores.items():
            found.setdefault(name, torch.zeros(view.z.shape[:2]))[judged] = score
    return found


def combined(calm: dict[str, torch.Tensor], scores: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Returns the largest of the scores COMBINED in terms of p-values, -log p, in the shape of one of them.

    p = (1 + number of calm scores that are at least as large) / (1 + number of calm scores). Scores above all
    calm ones go on as the tail of an exponential density would, by (s - largest) / mean excess of the highest
    tenth over the others; they would be tied else. Without scores: of the calm ones themselves, each among
    the others, to set the threshold by.
    """
    surprise = []
    for name in COMBINED:
        reference = calm[name].flatten().sort().values
        judged = calm[name] if scores is None else scores[name]
        num_above = len(reference) - torch.searchsorted(reference, judged.contiguous())
        is_new = 0 if scores is None else 1
        p_value = (num_above + is_new) / (len(reference) + is_new)
        num_tail = max(1, len(reference) // 10)
        excess = (reference[-num_tail:] - reference[-num_tail - 1]).mean().clamp_min(1e-6)
        surprise.append((judged - reference[-1]).clamp_min(0) / excess - p_value.log())
    return torch.stack(surprise).amax(dim=0)


def running_average(score: torch.Tensor, memory: float) -> torch.Tensor:
    """Returns a_t = f a_(t-1) + (1 - f) s_t of scores [U, T], a_0 = s_0, f the memory."""
    steps = [score[:, 0]]
    for step in range(1, score.shape[1]):
        steps.append(memory * steps[-1] + (1 - memory) * score[:, step])
    return torch.stack(steps, dim=1)


def num_repeats(z: torch.Tensor) -> torch.Tensor:
    """Counts for how many steps in a row the same numbers came again, of z [U, T, d]: float [U, T].

    A sensor's noise changes its payload almost always, unless its codec has few levels; then a healthy one
    repeats itself too, and a threshold above zero lets a frozen one pass for as many steps.
    """
    same = (z[:, 1:] == z[:, :-1]).all(dim=-1)
    steps = [torch.zeros(len(z))]
    for step in range(same.shape[1]):
        steps.append((steps[-1] + 1) * same[:, step])
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
    wanted = CAMERA if kind == "camera" else 1 - CAMERA
    return [sensor for sensor, modality in enumerate(model.modality) if modality == wanted]
