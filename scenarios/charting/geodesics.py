"""Fused geodesic dissimilarities of training positions, which charts without positions are held to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from scenarios.charting.data import Sequences
from scenarios.charting.dissimilarity import (
    adp_dissimilarity,
    fuse,
    geodesic_dissimilarity,
    time_dissimilarity,
    time_scale,
)
from scenarios.charting.features import delay_taps


@dataclass(frozen=True)
class Dissimilarities:
    """Fused geodesic dissimilarities of some training positions; mean 1. rows, int64 [n]: which they are."""

    rows: torch.Tensor
    geodesic: torch.Tensor


def training_rows(train: Sequences, num_points: int) -> torch.Tensor:
    """Numbers of positions spread evenly over the training data, int64, at most num_points of them."""
    total = train.num_trajectories * train.num_steps
    return torch.linspace(0, total - 1, min(num_points, total), dtype=torch.float64).round().long()


def training_dissimilarities(
    train: Sequences, interval_s: float, num_points: int, num_taps: int
) -> Dissimilarities:
    """Computes them for positions spread evenly over the training data, at most num_points.

    rows number the positions of all trajectories, one after the other.
    """
    rows = training_rows(train, num_points)
    taps = delay_taps(train.csi.flatten(0, 1)[rows], num_taps).numpy()
    geodesic = fused_geodesics(taps, rows, train.num_steps, interval_s)
    return Dissimilarities(rows, torch.from_numpy(geodesic / geodesic.mean()))


def fused_geodesics(taps: np.ndarray, rows: torch.Tensor, num_steps: int, interval_s: float) -> np.ndarray:
    """Fused geodesic dissimilarities, float32 [n, n], of positions with taps [n, R, M, L].

    rows: what `training_rows` gave; num_steps: positions of a trajectory.
    """
    trajectory, step = np.divmod(rows.numpy(), num_steps)
    adp = adp_dissimilarity(taps)
    gap_s = time_dissimilarity(step * interval_s, trajectory)
    # Where positions are sparse, neighbours in time are farther apart than the scale's usual two seconds.
    next_s = float(np.median(gap_s[np.arange(len(rows) - 1), np.arange(1, len(rows))]))
    max_gap_s = max(2.0, 1.5 * next_s) if np.isfinite(next_s) else 2.0
    return geodesic_dissimilarity(fuse(adp, gap_s, time_scale(adp, gap_s, max_gap_s)))
