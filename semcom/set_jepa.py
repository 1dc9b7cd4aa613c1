"""The JEPA over a set of sensors: what some of them see is predicted from what others see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from semcom.crossings import ToDevice, ToStation
from semcom.jepa import Distance
from semcom.targets import EmaTarget, StopGradientTarget


class SetJepa(nn.Module):
    """Predicts the embeddings of hidden sensors, and of frames of which patches are hidden.

    loss = prediction + regulariser, with prediction the mean of distance(z_hat_s, target_s) over the rows and
    sensors that `wanted` names: those hidden from the predictor, and those that the encoder saw with patches
    hidden. The regulariser looks at each sensor's embeddings for itself, and its terms are averaged.

    encoder: observations to embeddings [B, S, D]. dims: the dimensions of each sensor's embedding, of which D
    is the largest: what stands beyond them counts nowhere. target: as in Jepa.
    """

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module,
        regularizer: nn.Module,
        distance: Distance,
        dims: Sequence[int],
        *,
        target: EmaTarget | StopGradientTarget,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.regularizer = regularizer
        self.distance = distance
        self.dims = tuple(dims)
        self.target = target
        self.to_station, self.to_device = ToStation(), ToDevice()

    def loss(
        self,
        masked: Any,
        whole: Any,
        arrived: torch.Tensor,
        wanted: torch.Tensor,
        generator: torch.Generator,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Returns the named terms with their sum under "total", all scalars, and z and its prediction.

        masked, whole: the same observations with and without hidden patches. arrived [B, S] bool: the sensors
        that the predictor is given; wanted [B, S] bool: those whose prediction counts.
        """
        z, goal = self.encoder(masked), self.target(whole)
        predicted = self.to_device(self.predictor(self.to_station(z)[:, None], arrived[:, None]))
        errors = torch.stack(
            [
                self.distance(predicted[:, sensor, :dim], goal[:, sensor, :dim])
                for sensor, dim in enumerate(self.dims)
            ],
            dim=1,
        )
        prediction = (errors * wanted).sum() / wanted.sum().clamp_min(1)
        parts = [self.regularizer(z[:, sensor, :dim], generator) for sensor, dim in enumerate(self.dims)]
        terms = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        total = prediction + terms.pop("total")
        return {"prediction": prediction, **terms, "total": total}, z, predicted

    def update_target(self, step: int) -> None:
        """Lets the target follow the encoder; call it after each optimiser step."""
        self.target.update(self.encoder, step)
