"""The JEPA over patches: tokens of hidden patches are predicted from those of visible ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from semcom.crossings import ToDevice, ToStation
from semcom.jepa import Distance
from semcom.targets import EmaTarget, StopGradientTarget


class PatchJepa(nn.Module):
    """Predicts what the target encoder makes of the whole and clean observation, from a visible part of it.

    loss = prediction + regulariser, with prediction the mean of distance(z_hat_l, target_l) over the patches
    l that `wanted` names (Assran et al. 2023, I-JEPA). The regulariser looks at the encoder's tokens of
    visible patches.

    encoder: an observation to tokens [B, L + R, D], of which the first L are the patches'; the other R stand
    for what else is known. predictor: (context tokens, observation) to tokens [B, L + R, D].
    """

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module,
        regularizer: nn.Module | None,
        distance: Distance,
        *,
        target: EmaTarget | StopGradientTarget,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.regularizer = regularizer
        self.distance = distance
        self.target = target
        self.to_station, self.to_device = ToStation(), ToDevice()

    def loss(
        self,
        observed: Any,
        whole: Any,
        visible: torch.Tensor,
        wanted: torch.Tensor,
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Returns the named terms and their sum under "total", all scalars.

        observed, whole: the observation with hidden patches, and without. visible, wanted: bool [B, L].
        """
        num_patches = visible.shape[1]
        context = self.encoder(observed)
        goal = self.target(whole)[:, :num_patches]
        predicted = self.to_device(self.predictor(self.to_station(context), observed)[:, :num_patches])
        errors = self.distance(predicted, goal)
        prediction = (errors * wanted).sum() / wanted.sum().clamp_min(1)
        named = {"prediction": prediction}
        if self.regularizer is None:
            return {**named, "total": prediction}
        terms = self.regularizer(context[:, :num_patches][visible], generator)
        named |= {name: term for name, term in terms.items() if name != "total"}
        return {**named, "total": prediction + terms["total"]}

    def update_target(self, step: int) -> None:
        """Lets the target follow the encoder; call it after each optimiser step."""
        self.target.update(self.encoder, step)
