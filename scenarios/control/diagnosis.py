"""What an embedding holds, measured on held-out trajectories: collapse diagnostics and a linear probe."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn

from analysis.probe import explained_share
from scenarios.control.batches import Batches
from scenarios.control.dataset import Trajectories
from semcom.diagnostics import CollapseWarning, check_collapse, error_ratio
from semcom.train import score_row


@torch.no_grad()
def collapse_row(batches: Batches, predictor: nn.Module | None) -> dict[str, float | int | str]:
    """Measures the encoder's embeddings as they are: RankMe, deviations, prediction against the identity.

    batches: held-out data. To be called before whitening, which gives any embedding unit variance. With a
    predictor, "warning" holds what there is to warn of; without one (the baselines) nothing was to be kept
    from collapsing.
    """
    z = batches.embed_all()
    before, after = z[:, :-1].flatten(0, 1), z[:, 1:].flatten(0, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CollapseWarning)
        if predictor is None:
            report = check_collapse(z.flatten(0, 1))
        else:
            gap = batches.model.encoder.gap_steps
            predicted = predictor(before, batches.command[:, gap:-1].flatten(0, 1))
            report = check_collapse(z.flatten(0, 1), predicted, after, before)
    row: dict[str, float | int | str] = {
        "rank_me": report.rank_me,
        "std_min": report.std_min,
        "std_median": report.std_median,
    }
    if report.error_ratio is not None:
        texts = [str(warning.message) for warning in caught if warning.category is CollapseWarning]
        row |= {"error_ratio": report.error_ratio, "warning": "; ".join(texts)}
    return row


@torch.no_grad()
def deployed_row(
    batches: Batches, z_train: torch.Tensor, train: Trajectories, held_out: Trajectories
) -> dict[str, float]:
    """Measures what is deployed, the whitened embedding: a linear probe, and the predictor if there is one.

    batches: held-out data. z_train [N, T - gap, D]: the training embeddings, to which the probe is fitted.
    """
    model, gap = batches.model, batches.model.encoder.gap_steps
    z = batches.embed_all()
    row = linear_probe(z_train, train.state[:, gap:], z, held_out.state[:, gap:])
    if model.predictor is not None:
        before, after = z[:, :-1].flatten(0, 1), z[:, 1:].flatten(0, 1)
        predicted = model.predictor(before, batches.command[:, gap:-1].flatten(0, 1))
        row["error_ratio"] = error_ratio(predicted, after, before)
    return row


@torch.no_grad()
def score(batches: Batches, probed: Mapping[str, float]) -> dict[str, float | int | str]:
    """The score row: R^2 of the linear probe for the state, the mean over its four parts.

    Beside it R^2 of the actor's commands against the teacher's in the same, true state. batches: held-out
    data, which no training sees. probed: of these, as `linear_probe` has it.
    """
    found = [value for name, value in probed.items() if name.startswith("probe_r2_")]
    row = score_row("state, linear probe", sum(found) / len(found))
    model, gap = batches.model, batches.model.encoder.gap_steps
    asked = batches.teacher_command[:, gap:].flatten(0, 1)
    row["command_r2"] = explained_share(asked.numpy(), model.actor(batches.embed_all()).flatten(0, 1).numpy())
    return row


def linear_probe(
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
