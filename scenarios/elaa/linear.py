"""Linear estimates of the whole array: least squares with zero fill, and MMSE with a sample covariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scenarios.elaa.observations import Observed, check_visible
from semcom.contracts import SemcomError

_BATCH = 64


def least_squares(observed: Observed) -> torch.Tensor:
    """What was received, and zero where nothing was: h_hat = y, complex64 [N, M].

    Its NMSE on a whole array is the noise_var where |h|^2 is 1: minus the SNR in dB.
    """
    return observed.y.clone()


@dataclass(frozen=True)
class Lmmse:
    """Linear MMSE estimate of a Gaussian channel of known mean and covariance.

    h_hat = m + R_(:,v) (R_vv + sigma^2 I)^-1 (y_v - m_v), v the visible elements.
    covariance: complex64 [M, M], R; mean: complex64 [M].
    Source: Kay, Fundamentals of statistical signal processing: estimation theory, 1993, 12.5.
    """

    covariance: torch.Tensor
    mean: torch.Tensor

    def estimate(self, observed: Observed) -> torch.Tensor:
        """Estimates the channels, complex64 [N, M]. Raises SemcomError where no element is visible."""
        check_visible(observed.visible)
        return torch.cat([self._some(observed[i : i + _BATCH]) for i in range(0, len(observed), _BATCH)])

    def _some(self, observed: Observed) -> torch.Tensor:
        """Estimates a batch: on the visible elements, in order and padded by ones that tell nothing."""
        count = observed.visible.sum(dim=1)
        width = int(count.max())
        order = torch.argsort(observed.visible.to(torch.int8), dim=1, descending=True, stable=True)[:, :width]
        present = torch.arange(width) < count[:, None]
        block = self.covariance[order[:, :, None], order[:, None, :]]
        block = block * (present[:, :, None] & present[:, None, :])
        # A padded row is an equation 1 x = 0.
        diagonal = torch.where(present, observed.noise_var[:, None], 1.0)
        block.diagonal(dim1=1, dim2=2).add_(diagonal)
        innovation = torch.where(present, observed.y.gather(1, order) - self.mean[order], 0)
        weights = torch.cholesky_solve(innovation[:, :, None], torch.linalg.cholesky(block))[:, :, 0]
        spread = torch.zeros_like(observed.y).scatter(1, order, torch.where(present, weights, 0))
        return self.mean + spread @ self.covariance.T


def fit_lmmse(h: torch.Tensor, shrinkage: float | None = None) -> Lmmse:
    """Fits the covariance of training channels h [N, M], of zero mean because their phase is uniform.

    R = (1 - rho) S + rho tr(S) / M I, S = mean of h h^H. shrinkage: rho; by default the one that is best in
    mean square for Gaussian samples (oracle-approximating shrinkage). Raises SemcomError for no channels.
    Source: Chen, Wiesel, Eldar and Hero, Shrinkage algorithms for MMSE covariance estimation, IEEE Trans.
    Signal Process. 58(10), 2010, without its terms of order 1 / M.
    """
    if h.ndim != 2 or len(h) == 0:
        raise SemcomError(
            f"training channels {tuple(h.shape)}: a covariance needs [channels, elements], one or more"
        )
    num, width = h.shape
    sample = h.T @ h.conj() / num
    power = float(torch.trace(sample).real)
    if shrinkage is None:
        squared = float((sample.abs() ** 2).sum())
        excess = (num + 1) * (squared - power**2 / width)
        shrinkage = 1.0 if excess <= 0 else min(1.0, (power**2 + squared) / excess)
    if not 0 <= shrinkage <= 1:
        raise SemcomError(f"shrinkage {shrinkage} is not a share: take one from 0 to 1")
    load = shrinkage * power / width
    covariance = (1 - shrinkage) * sample + load * torch.eye(width)
    return Lmmse(covariance.to(torch.complex64), torch.zeros(width, dtype=torch.complex64))


def tune_lmmse(
    h: torch.Tensor,
    observed: Observed,
    truth: torch.Tensor,
    shrinkages: Sequence[float] = (1e-4, 1e-3, 1e-2, 0.03, 0.1),
) -> Lmmse:
    """Fits to training channels h with the shrinkage that is best on validation data, `fit_lmmse`'s own too.

    observed, truth [N, M]: validation channels. The best one is that of the least mean |h_hat - h|^2.
    """
    fitted = [fit_lmmse(h, shrinkage) for shrinkage in (None, *shrinkages)]
    errors = [float((each.estimate(observed) - truth).abs().square().mean()) for each in fitted]
    return fitted[min(range(len(errors)), key=errors.__getitem__)]
