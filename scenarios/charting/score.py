"""What a trained charting model is worth on test trajectories: how much of where users are it can tell."""

from __future__ import annotations

import torch

from analysis.charting import fit_affine
from analysis.probe import LinearProbe, explained_share
from scenarios.charting.data import ChartingData, Sequences
from scenarios.charting.models import ArrayModel
from semcom.predictors import rollout
from semcom.train import score_row

_AHEAD = 10
"""Sampling intervals that embeddings are predicted ahead."""


@torch.no_grad()
def score_model(model: ArrayModel, data: ChartingData) -> dict[str, float | int | str]:
    """The score row: R^2 of a linear probe for the position, fitted to the training embeddings.

    Beside it R^2 of the chart under the best affine map of training positions, and of the probe read off
    embeddings that were predicted some intervals ahead.
    """
    train, test = data.train, data.test
    z_train, z = (model.embed(part.csi) for part in (train, test))
    probe = LinearProbe(_rows(z_train), train.position_m.flatten(0, 1).numpy())
    row = score_row("position, linear probe", _explained(probe, z, test.position_m))
    affine = fit_affine(
        model.chart(z_train).flatten(0, 1).numpy(), train.position_m.flatten(0, 1).double().numpy()
    )
    placed = affine.apply(model.chart(z).flatten(0, 1).numpy())
    row["chart_r2"] = explained_share(test.position_m.flatten(0, 1).numpy(), placed)
    if model.predictor is not None and test.num_steps > _AHEAD:
        row["ahead_r2"] = _explained(probe, _ahead(model, z, test), test.position_m[:, _AHEAD:])
    return row


def _ahead(model: ArrayModel, z: torch.Tensor, part: Sequences) -> torch.Tensor:
    """Embeddings _AHEAD intervals after each, predicted from it: [U, T - _AHEAD, R, D]."""
    assert model.predictor is not None
    velocity = (part.velocity_m_s / model.speed_m_s).unfold(1, _AHEAD, 1)[:, :-1].transpose(2, 3)
    start = z[:, :-_AHEAD].flatten(2)
    *_, last = rollout(model.predictor, start, velocity)
    return last.unflatten(-1, z.shape[2:])


def _explained(probe: LinearProbe, z: torch.Tensor, position_m: torch.Tensor) -> float:
    return explained_share(position_m.flatten(0, 1).numpy(), probe.read(_rows(z)))


def _rows(z: torch.Tensor) -> torch.Tensor:
    return z.flatten(0, 1).flatten(1).double()
