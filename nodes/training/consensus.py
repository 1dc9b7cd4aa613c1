"""Consensus: one frame for the embeddings of many clients, by generalised Procrustes analysis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from nodes.training.alignment import Alignment, nearest_rotation, prepare_anchors
from semcom.contracts import SemcomError


@dataclass(frozen=True)
class Consensus:
    """The frame that K clients agree on.

    reference: the anchors' mean configuration, float64 [N, D], in the frame of the client of the lowest
    number. alignments: by client, from its frame to the reference. residual: the share of all clients'
    variance that is not explained. num_iterations: rounds that it took.
    """

    reference: torch.Tensor
    alignments: dict[int, Alignment]
    residual: float
    num_iterations: int


def align_all(
    anchors: Mapping[int, torch.Tensor],
    *,
    centered: bool = True,
    scaled: bool = False,
    reflections: bool = True,
    max_iterations: int = 200,
    tolerance: float = 1e-12,
) -> Consensus:
    """Fits a common reference to many clients' embeddings of the same anchors, by client, [N, D] each.

    Generalised Procrustes: least sum_k |s_k A_k R_k - G|^2 with G = mean_k s_k A_k R_k. In turns each A_k is
    rotated to G, and G is their mean, until the unexplained share falls by less than `tolerance` in a round;
    it never grows. Scales keep sum_k |s_k A_k|^2 = sum_k |A_k|^2, or all would shrink. It starts from what
    no client's rotation changes, the D leading eigenvectors of sum_k A_k A_k^T, so clients may come in any
    order and other numbers only rotate the result. The client of the lowest number is not rotated.
    Sources: Gower 1975 (Psychometrika 40(1)); the scales: ten Berge 1977 (Psychometrika 42(2)).

    Raises SemcomError, naming the client, for what `align` refuses.
    """
    if max_iterations < 1:
        raise SemcomError(f"max_iterations = {max_iterations}: take one at least")
    if not anchors:
        raise SemcomError("no client's anchors to align: give one client's at least")
    numbers = sorted(anchors)
    first = numbers[0]
    for number in numbers:
        if anchors[number].shape != anchors[first].shape:
            raise SemcomError(
                f"client {number} has anchors {list(anchors[number].shape)}, client {first} "
                f"{list(anchors[first].shape)}: embed the same anchors by all, in as many dimensions"
            )
    prepared = [prepare_anchors(anchors[number].detach(), f"client {number}", centered) for number in numbers]
    x = torch.stack([centred for _, centred in prepared])
    size = x.square().sum(dim=(1, 2))
    target = _start(x, reflections)
    rotation, scale = torch.empty(0), torch.ones_like(size)
    residual, num_iterations = math.inf, 0
    while num_iterations < max_iterations:
        num_iterations += 1
        rotation, values = nearest_rotation(x.mT @ target, reflections)
        if scaled:
            # For s_k |A_k| = p_k of a fixed length, sum_k p_k tr S_k / |A_k| is largest along tr S_k / |A_k|.
            p = values.sum(dim=1).clamp(min=0) / size.sqrt()
            scale = p / p.norm() * size.sum().sqrt() / size.sqrt()
        target = (scale[:, None, None] * (x @ rotation)).mean(dim=0)
        before, residual = residual, 1 - float(len(x) * target.square().sum() / size.sum())
        if before - residual < tolerance:
            break
    back, first_mean = rotation[0].T, prepared[0][0]
    reference = target @ back + first_mean
    alignments: dict[int, Alignment] = {}
    for number, (mean, _), turn, factor in zip(numbers, prepared, rotation, scale.tolist(), strict=True):
        fitted = Alignment(turn @ back, factor, mean, first_mean, math.nan, reflections)
        alignments[number] = replace(fitted, residual=fitted.unexplained_share(anchors[number], reference))
    return Consensus(reference, alignments, max(residual, 0.0), num_iterations)


def _start(x: torch.Tensor, reflections: bool) -> torch.Tensor:
    """A first reference [N, D] that depends on no client's rotation; x: their anchors [K, N, D]."""
    dim = x.shape[2]
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    for rows in x:
        gram.addmm_(rows, rows.T)
    values, vectors = torch.linalg.eigh(gram / len(x))
    target = vectors[:, -dim:] * values[-dim:].clamp(min=0).sqrt()
    if reflections:
        return target
    # Eigenvectors have no handedness, but the clients have: take the one that suits them.
    mirrored = torch.cat((-target[:, :1], target[:, 1:]), dim=1)
    return max(target, mirrored, key=lambda each: float(nearest_rotation(x.mT @ each, False)[1].sum()))
