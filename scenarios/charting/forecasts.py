"""Forecasts of test users by every method, as positions through the same chart and map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from analysis.charting import AffineMap, fit_affine
from scenarios.charting.data import ChartingData, Sequences
from scenarios.charting.models import ArrayModel

FloatArray = np.ndarray


@dataclass(frozen=True)
class Frame:
    """What all forecasts of one seed share: the model, its data, the map from chart to space, the origins.

    origins: steps of the test trajectories at which a forecast starts, the same for every method and
    look-ahead. look_ahead: in steps, at least 1. The map is fitted on validation trajectories.
    """

    model: ArrayModel
    data: ChartingData
    to_space: AffineMap
    origins: np.ndarray
    look_ahead: tuple[int, ...]


def make_frame(
    model: ArrayModel, data: ChartingData, look_aheads_s: Sequence[float], num_history: int
) -> Frame:
    """Fits the map and lists origins: as early as num_history allows, as late as the farthest look-ahead."""
    look_ahead = tuple(max(1, round(s / data.interval_s)) for s in look_aheads_s)
    chart = embed(model, data.validation)
    to_space = fit_affine(
        chart_points(model, chart).reshape(-1, 2), data.validation.position_m.reshape(-1, 2).numpy()
    )
    origins = np.arange(num_history, data.test.num_steps - max(look_ahead))
    return Frame(model, data, to_space, origins, look_ahead)


@torch.no_grad()
def embed(model: ArrayModel, part: Sequences) -> torch.Tensor:
    """Embeddings of a part's observations, [U, T, R, D]."""
    return model.embed(part.csi)


@torch.no_grad()
def chart_points(model: ArrayModel, z: torch.Tensor) -> FloatArray:
    """Chart points, float64 [..., 2], of embeddings [..., R, D]."""
    return model.chart(z).double().numpy()


@torch.no_grad()
def roll_ahead(
    model: ArrayModel, z: torch.Tensor, part: Sequences, origins: np.ndarray, look_ahead: Sequence[int]
) -> torch.Tensor:
    """Predicts embeddings [U, O, H, R, D] from those believed, z [U, T, R, D], under the known velocities."""
    wanted, found = set(look_ahead), {}
    state = z[:, origins]
    for step in range(1, max(look_ahead) + 1):
        state = model.predict(state, part.velocity_m_s[:, origins + step - 1])
        if step in wanted:
            found[step] = state
    return torch.stack([found[steps] for steps in look_ahead], dim=2)
