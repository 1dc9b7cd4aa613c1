"""Regularisers that keep embeddings from collapsing: VICReg's variance and covariance terms, and SIGReg.

The convention: loss = prediction + total, where total = weight * regulariser is what `forward` returns
under the key "total", next to its unweighted terms. Neither looks at the prediction.
"""

from __future__ import annotations

import torch
from torch import nn

from semcom.contracts import SemcomError


def _check_batch(z: torch.Tensor, name: str) -> None:
    if z.dim() != 2 or z.shape[0] < 2:
        raise SemcomError(f"{name} takes embeddings [N, D] with N of 2 or more, got shape {tuple(z.shape)}")


class VicReg(nn.Module):
    """The variance and covariance terms of VICReg (Bardes, Ponce and LeCun 2022, eqs. 1 to 4).

    variance = 1/D sum_d max(0, gamma - sqrt(Var(z_d) + epsilon)),
    covariance = 1/D sum_{i != j} C_ij^2, C the covariance of z; both divide by N - 1.
    total = variance_weight * variance + covariance_weight * covariance. The defaults keep the paper's
    25 to 25 to 1 for a prediction of weight 1. The paper sums the terms over its two views: call this
    once for each, or on the views one below the other.
    """

    def __init__(
        self,
        variance_weight: float = 1.0,
        covariance_weight: float = 0.04,
        gamma: float = 1.0,
        epsilon: float = 1e-4,
    ) -> None:
        super().__init__()
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.gamma = gamma
        self.epsilon = epsilon

    def forward(self, z: torch.Tensor, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Returns the scalars "variance", "covariance" and "total" of z [N, D]; draws nothing.

        Raises SemcomError for fewer than two rows.
        """
        _check_batch(z, "VicReg")
        num_rows, embedding_dim = z.shape
        centred = z - z.mean(dim=0)
        covariances = centred.T @ centred / (num_rows - 1)
        variances = covariances.diagonal()
        variance = torch.relu(self.gamma - torch.sqrt(variances + self.epsilon)).mean()
        off_diagonal = covariances - torch.diag(variances)
        covariance = off_diagonal.square().sum() / embedding_dim
        total = self.variance_weight * variance + self.covariance_weight * covariance
        return {"variance": variance, "covariance": covariance, "total": total}


class SigReg(nn.Module):
    """SIGReg: embeddings are to be standard normal in every direction (LeJEPA, Balestriero and LeCun 2025).

    For each of S unit vectors a, with u = z a and phi(t) = exp(-t^2 / 2), the Epps-Pulley statistic
    T = N int_{-t_max}^{t_max} |1/N sum_n exp(i t u_n) - phi(t)|^2 phi(t) dt, by the trapezoidal rule on
    num_points points; epps_pulley is the mean of T over the directions, total = weight * epps_pulley.
    For standard normal z its mean is sqrt(2 pi) (1 - 1/sqrt(3)) = 1.06 whatever N; for z = 0 it is about
    0.409 N. The paper mixes (1 - w) prediction + w SIGReg with w = 0.05; ours is prediction + weight *
    SIGReg, which is the same up to a factor for weight = w / (1 - w). Time and memory are O(N S num_points).
    """

    points: torch.Tensor
    targets: torch.Tensor
    quadrature: torch.Tensor

    def __init__(
        self, weight: float = 0.05, num_slices: int = 1024, num_points: int = 17, t_max: float = 5.0
    ) -> None:
        super().__init__()
        if num_points < 3 or num_points % 2 == 0:
            raise SemcomError(f"num_points = {num_points} is out of range: it takes an odd number from 3")
        if num_slices < 1:
            raise SemcomError(f"num_slices = {num_slices} is out of range: it takes 1 or more")
        self.weight = weight
        self.num_slices = num_slices
        # The integrand is even: the points t >= 0, counted twice but for t = 0, give the same sum.
        points = torch.linspace(0.0, t_max, (num_points + 1) // 2)
        targets = torch.exp(-points.square() / 2)
        quadrature = torch.full_like(points, 2 * t_max / (len(points) - 1))
        quadrature[0] /= 2
        quadrature[-1] /= 2
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("quadrature", quadrature * targets, persistent=False)

    def statistics(self, projections: torch.Tensor) -> torch.Tensor:
        """Returns the Epps-Pulley statistic T of each column of projections [N, S], shape [S]."""
        angles = projections.unsqueeze(-1) * self.points
        real = torch.cos(angles).mean(dim=0) - self.targets
        imaginary = torch.sin(angles).mean(dim=0)
        return projections.shape[0] * ((real.square() + imaginary.square()) @ self.quadrature)

    def forward(self, z: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Returns the scalars "epps_pulley" and "total" of z [N, D]; the directions come from the generator.

        Raises SemcomError for fewer than two rows.
        """
        _check_batch(z, "SigReg")
        directions = torch.randn(z.shape[1], self.num_slices, generator=generator, device=generator.device)
        directions = directions / directions.norm(dim=0)
        epps_pulley = self.statistics(z @ directions.to(z)).mean()
        return {"epps_pulley": epps_pulley, "total": self.weight * epps_pulley}
