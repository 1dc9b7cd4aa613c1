"""Krum's scores: how far each client's model lies from those most like it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nodes.training.tensors import Tensors, column_blocks, flatten

_ROWS = 1024


def krum_scores(
    models: Sequence[Tensors], names: Sequence[str], origin: Tensors, num_malicious: int
) -> np.ndarray:
    """Returns s_i = sum over the n - f - 2 models nearest to model i of |w_i - w_j|^2, float64 [n].

    The model itself isn't among its neighbours. f: num_malicious; n >= 2 f + 3, which the caller sees to.
    origin: a model near them all, from which they are measured, since |a - b|^2 = |a|^2 + |b|^2 - 2 a b
    loses digits far from zero. Source: Blanchard et al. 2017, section 4.
    """
    distances = squared_distances(models, names, origin)
    np.fill_diagonal(distances, np.inf)
    # Sorted, so that equal distances have equal sums, whoever they are to.
    distances.sort(axis=1)
    nearest: np.ndarray = distances[:, : len(models) - num_malicious - 2]
    return nearest.sum(axis=1)


def squared_distances(models: Sequence[Tensors], names: Sequence[str], origin: Tensors) -> np.ndarray:
    """Returns |w_i - w_j|^2 of all pairs of n models, float64 [n, n], by their Gram matrix."""
    num = len(models)
    gram = torch.zeros((num, num), dtype=torch.float64)
    centre, start = flatten(origin, names), 0
    for block in column_blocks(models, names):
        block -= centre[start : start + block.shape[1]]
        start += block.shape[1]
        # The part above the diagonal, in stripes, is half the work of the whole.
        for top in range(0, num, _ROWS):
            gram[top : top + _ROWS, top:] += block[top : top + _ROWS] @ block[top:].T
    squares = gram.diagonal().clone()
    upper = gram.mul_(-2).add_(squares[:, None]).add_(squares).clamp_(min=0).triu_(1)
    return (upper + upper.T).numpy()
