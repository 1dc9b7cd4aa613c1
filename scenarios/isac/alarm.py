"""An alarm for sensors that send what can't be: how far an embedding is from what the others predict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field

from scenarios.isac.models import CAMERA, SensingModel
from semcom.contracts import SemcomError

FAULTS: dict[str, str] = {
    "frozen": "the sensor repeats what it measured when the fault began",
    "noise": "the sensor measures noise of its usual mean and deviation",
    "swapped": "two sensors of a kind have changed places",
}

NUM_FOLDS = 5


class AlarmConfig(BaseModel):
    """How the alarm judges, and how faults are made."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_steps: int = Field(
        5, ge=1, le=1000, description="steps whose energies are averaged, the present last"
    )
    shrinkage: float = Field(
        0.1, ge=1e-3, le=1, description="share of the diagonal in the covariance of residuals"
    )


@dataclass(frozen=True)
class Alarm:
    """The energies of prediction residuals, calibrated on data without faults.

    mean [S, D] and precision [S, D, D] of each sensor's residual z - z_hat, z_hat what the other sensors
    predict in the absence of this one.
    """

    model: SensingModel
    config: AlarmConfig
    mean: torch.Tensor
    precision: torch.Tensor

    @classmethod
    def fit(cls, model: SensingModel, config: AlarmConfig, z: torch.Tensor) -> Alarm:
        """Calibrates on embeddings [U, T, S, D] without faults, which the model was not trained on."""
        return cls._of_residuals(model, config, residuals(model, z).flatten(0, 1))

    @classmethod
    def _of_residuals(cls, model: SensingModel, config: AlarmConfig, residual: torch.Tensor) -> Alarm:
        mean = residual.mean(dim=0)
        precision = torch.zeros(*mean.shape, mean.shape[1])
        for sensor in range(model.num_sensors):
            dim = model.dim_of(sensor)
            centred = (residual[:, sensor, :dim] - mean[sensor, :dim]).double()
            covariance = centred.T @ centred / (len(centred) - 1)
            diagonal = torch.diag(covariance.diagonal().clamp_min(1e-9))
            shrunk = (1 - config.shrinkage) * covariance + config.shrinkage * diagonal
            precision[sensor, :dim, :dim] = torch.linalg.inv(shrunk).float()
        return cls(model, config, mean, precision)

    def energy(self, z: torch.Tensor) -> torch.Tensor:
        """Mean of r^T C^-1 r / d over the last steps, of z [U, T, S, D]: [U, T, S].

        r is a sensor's residual less its mean without faults, C its covariance and d its dimension, so that
        without faults the mean is about 1.
        """
        return self._averaged(self._energy(residuals(self.model, z)))

    def energy_of(self, z: torch.Tensor, sensor: int) -> torch.Tensor:
        """The same of one sensor alone, [U, T]."""
        return self._averaged(self._energy(residuals(self.model, z, (sensor,)), (sensor,)))[..., 0]

    def _energy(self, residual: torch.Tensor, sensors: tuple[int, ...] | None = None) -> torch.Tensor:
        listed = list(range(self.model.num_sensors)) if sensors is None else list(sensors)
        centred = residual - self.mean[listed]
        energy = torch.einsum("utsd,sde,utse->uts", centred, self.precision[listed], centred)
        return energy / torch.tensor([self.model.dim_of(sensor) for sensor in listed])

    def _averaged(self, energy: torch.Tensor) -> torch.Tensor:
        """Averages over the present and the steps before, fewer at the beginning of a sequence."""
        total = energy.cumsum(dim=1)
        num = self.config.num_steps
        before = torch.cat((torch.zeros_like(total[:, :num]), total[:, :-num]), dim=1)[:, : total.shape[1]]
        count = torch.arange(1, total.shape[1] + 1).clamp_max(num)
        return (total - before) / count[:, None]


def calm_energy(model: SensingModel, config: AlarmConfig, z: torch.Tensor) -> torch.Tensor:
    """Energies of sequences without faults z [U, T, S, D], each by an alarm fitted to others: [U, T, S].

    Thresholds come from these: an alarm finds the sequences that it was fitted to calmer than new ones.
    They are dealt to NUM_FOLDS folds, or one each. Raises SemcomError for a single sequence.
    """
    if len(z) < 2:
        raise SemcomError(
            "an alarm's threshold takes 2 sequences without faults: raise split.validation_share"
        )
    residual = residuals(model, z)
    energy = torch.empty(residual.shape[:-1])
    fold = torch.arange(len(z)) % NUM_FOLDS
    for number in fold.unique():
        alarm = Alarm._of_residuals(model, config, residual[fold != number].flatten(0, 1))
        energy[fold == number] = alarm._averaged(alarm._energy(residual[fold == number]))
    return energy


@torch.no_grad()
def residuals(model: SensingModel, z: torch.Tensor, sensors: tuple[int, ...] | None = None) -> torch.Tensor:
    """What sensors sent less what the others predict of it: [U, T, n, D] of z [U, T, S, D].

    A sensor's own embeddings are kept from the predictor in all steps that it looks at.
    """
    context, known = past_windows(z, model.config.num_lags)
    parts = []
    for sensor in range(model.num_sensors) if sensors is None else sensors:
        arrived = known[..., None].expand(context.shape[:-1]).clone()
        arrived[..., sensor] = False
        predicted = model.predictor(context.flatten(0, 1), arrived.flatten(0, 1))
        parts.append(z[:, :, sensor] - predicted[:, sensor].unflatten(0, z.shape[:2]))
    return torch.stack(parts, dim=2)


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
