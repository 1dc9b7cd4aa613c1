"""What an embedding holds, measured on held-out trajectories: collapse diagnostics and a linear probe."""

from __future__ import annotations

import torch

from scenarios.control.batches import Batches
from scenarios.control.dataset import Trajectories
from scenarios.control.models import MotionModel
from semcom.diagnostics import check_collapse


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


@torch.no_grad()
def diagnose(
    model: MotionModel, z: torch.Tensor, train: Trajectories, held_out: Trajectories
) -> dict[str, float]:
    """Measures held-out embeddings: RankMe, deviations, linear probe, prediction against the identity.

    z [N, T - gap, D]: the training embeddings, to which the probe is fitted.
    """
    batches = Batches(model, held_out)
    z_held_out = batches.embed_all()
    gap = model.encoder.gap_steps
    before, after = z_held_out[:, :-1].flatten(0, 1), z_held_out[:, 1:].flatten(0, 1)
    if model.predictor is None:
        report = check_collapse(z_held_out.flatten(0, 1))
    else:
        predicted = model.predictor(before, batches.command[:, gap:-1].flatten(0, 1))
        report = check_collapse(z_held_out.flatten(0, 1), predicted, after, before)
    row = {
        "rank_me": report.rank_me,
        "std_min": report.std_min,
        "std_median": report.std_median,
        **linear_probe(z, train.state[:, gap:], z_held_out, held_out.state[:, gap:]),
    }
    if report.error_ratio is not None:
        row["error_ratio"] = report.error_ratio
    return row
