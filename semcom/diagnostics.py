"""Diagnostics of collapse: the embeddings' effective rank, their spread, and the predictor's worth."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from semcom.contracts import SemcomError
from semcom.distances import l2


class CollapseWarning(UserWarning):
    """Says that embeddings lost dimensions or spread, or that predicting them gains nothing."""


def rank_me(z: torch.Tensor) -> float:
    """Returns RankMe, the effective rank of z [N, D]: exp(-sum_k p_k log p_k), p_k = s_k / sum_j s_j.

    s_k are the singular values of z, not centred, so a batch of one repeated embedding has rank 1; a
    batch of zeros is given 0. Between 1 and min(N, D). Source: Garrido et al. 2023, section 3.
    """
    singular_values = torch.linalg.svdvals(z.detach().double())
    if singular_values.sum() == 0:
        return 0.0
    shares = singular_values / singular_values.sum()
    return float(torch.exp(torch.special.entr(shares).sum()))


def deviations(z: torch.Tensor) -> torch.Tensor:
    """Returns the standard deviation of each dimension of z [N, D] over its rows (N - 1), shape [D]."""
    return z.detach().std(dim=0)


def error_ratio(prediction: torch.Tensor, target: torch.Tensor, context: torch.Tensor) -> float:
    """Returns the predictor's squared error over that of the identity: |p - t|^2 / |c - t|^2, all [N, D].

    1 or more: repeating the context is as good. 0 / 0, a target that equals its context, is given as 1.
    """
    predicted = float(l2(prediction.detach(), target.detach()).mean())
    repeated = float(l2(context.detach(), target.detach()).mean())
    if repeated == 0:
        return 1.0 if predicted == 0 else float("inf")
    return predicted / repeated


@dataclass(frozen=True)
class CollapseReport:
    """The health of a batch of embeddings; error_ratio is None where no prediction was given.

    rank_me: effective rank, at most max_rank = min(N, D). std_min and std_median: over the dimensions.
    """

    rank_me: float
    max_rank: int
    std_min: float
    std_median: float
    error_ratio: float | None


def check_collapse(
    z: torch.Tensor,
    prediction: torch.Tensor | None = None,
    target: torch.Tensor | None = None,
    context: torch.Tensor | None = None,
    *,
    min_rank_share: float = 0.25,
    min_std: float = 0.01,
    max_error_ratio: float = 1.0,
) -> CollapseReport:
    """Measures embeddings z [N, D], and a prediction of `target` from `context` if all three are given.

    Issues a CollapseWarning for each of: RankMe under min_rank_share of min(N, D); the least deviation
    under min_std; the error ratio at max_error_ratio or more. Raises SemcomError for fewer than two rows,
    and for a prediction without its target and context.
    """
    if z.dim() != 2 or z.shape[0] < 2:
        raise SemcomError(f"check_collapse takes embeddings [N, D], N of 2 or more, got {tuple(z.shape)}")
    spread = deviations(z)
    ratio = None
    if prediction is not None and target is not None and context is not None:
        ratio = error_ratio(prediction, target, context)
    elif prediction is not None or target is not None or context is not None:
        raise SemcomError("check_collapse takes prediction, target and context together, or none of them")
    report = CollapseReport(
        rank_me=rank_me(z),
        max_rank=min(z.shape),
        std_min=float(spread.min()),
        std_median=float(spread.median()),
        error_ratio=ratio,
    )
    if report.rank_me < min_rank_share * report.max_rank:
        _warn(f"RankMe is {report.rank_me:.2f} of {report.max_rank}: embeddings fill too few dimensions")
    if report.std_min < min_std:
        num_dead = int((spread < min_std).sum())
        _warn(f"{num_dead} of {len(spread)} dimensions deviate by less than {min_std:g}: they carry nothing")
    if ratio is not None and ratio >= max_error_ratio:
        _warn(f"prediction error is {ratio:.2f} of the identity's: repeating the context does as well")
    return report


def _warn(text: str) -> None:
    warnings.warn(text, CollapseWarning, stacklevel=3)
