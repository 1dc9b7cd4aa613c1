"""Distances between a predicted embedding and its target, reduced over the embedding's dimension only.

Each takes prediction and target [..., D] and returns [...]: the caller averages over the batch, and can
weight or mask it first. All but the cosine are means over D, so their scale doesn't grow with D.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def cosine(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns 1 - <p, t> / (|p| |t|), in [0, 2]: 0 for the same direction, 1 if either is zero."""
    return 1 - F.cosine_similarity(prediction, target, dim=-1)


def l2(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the mean squared difference 1/D sum_d (p_d - t_d)^2, with neither a root nor a half."""
    return (prediction - target).square().mean(dim=-1)


def l1(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the mean absolute difference 1/D sum_d |p_d - t_d|."""
    return (prediction - target).abs().mean(dim=-1)


def smooth_l1(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the mean over D of e^2 / 2 where |e| < 1 and |e| - 1/2 elsewhere, e = p - t (Huber)."""
    return F.smooth_l1_loss(prediction, target, reduction="none", beta=1.0).mean(dim=-1)


DISTANCES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cosine": cosine,
    "l2": l2,
    "l1": l1,
    "smooth_l1": smooth_l1,
}
