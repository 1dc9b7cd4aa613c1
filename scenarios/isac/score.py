"""What a trained sensing model is worth on test sequences: how much of where people are it can tell."""

from __future__ import annotations

import torch

from analysis.probe import explained_share
from analysis.sensing import assigned_estimates, count_accuracy, num_present
from scenarios.isac.data import Sequences
from scenarios.isac.models import SensingModel
from scenarios.isac.task import Log, embed_all
from semcom.train import score_row


@torch.no_grad()
def score_model(model: SensingModel, test: Sequences) -> Log:
    """The score row: R^2 of the positions that heads read off all sensors, each of whom it is held for.

    People are matched to what is read as `analysis.sensing.localisation_error_m` does. Beside it the share of
    steps in which their number is right. No row where nobody's position is known.
    """
    scene = model.read(embed_all(model, test).flatten(0, 1))
    true_m, estimate_m = test.position_m.flatten(0, 1).numpy(), scene.position_m.numpy()
    place = assigned_estimates(true_m, estimate_m, scene.presence.numpy())
    step, person = (place >= 0).nonzero()
    if not len(step):
        return []
    share = explained_share(true_m[step, person], estimate_m[step, place[step, person]])
    count = count_accuracy(num_present(true_m), scene.count.argmax(dim=1).numpy())
    return [{**score_row("positions read off all sensors", share), "count_accuracy": count}]
