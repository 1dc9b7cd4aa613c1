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
        h_hat = torch.empty_like(observed.y)
        # Channels that see the same elements through the same noise share one factorisation.
        _, which = _kinds(observed)
        for rows in which.argsort(stable=True).split(_BATCH):
            h_hat[rows] = self._some(observed[rows])
        return h_hat

    def _some(self, observed: Observed) -> torch.Tensor:
        """Estimates a batch: on the visible elements, in order and padded by ones that tell nothing."""
        kinds, which = _kinds(observed)
        noise_var, visible = kinds[:, 0], kinds[:, 1:] > 0
        count = visible.sum(dim=1)
        width = int(count.max())
        order = torch.argsort(visible.to(torch.int8), dim=1, descending=True, stable=True)[:, :width]
        present = torch.arange(width) < count[:, None]
        block = self.covariance[order[:, :, None], order[:, None, :]]
        block = block * (present[:, :, None] & present[:, None, :])
        # A padded row is an equation 1 x = 0.
        block.diagonal(dim1=1, dim2=2).add_(torch.where(present, noise_var[:, None], 1.0))
        order, present = order[which], present[which]
        innovation = torch.where(present, observed.y.gather(1, order) - self.mean[order], 0)
        # As many right-hand sides a factorisation as the most common kind of channel has.
        place = _place_among(which)
        sides = innovation.new_zeros(len(kinds), int(place.max()) + 1, width)
        sides[which, place] = innovation
        solved = torch.cholesky_solve(sides.mT, torch.linalg.cholesky(block)).mT
        weights = torch.where(present, solved[which, place], 0)
        return self.mean + torch.zeros_like(observed.y).scatter(1, order, weights) @ self.covariance.T


def _kinds(observed: Observed) -> tuple[torch.Tensor, torch.Tensor]:
    """Kinds of channels: noise variance and visible elements float32 [K, 1 + M], and each channel's [N]."""
    about = torch.cat((observed.noise_var[:, None], observed.visible.float()), dim=1)
    return about.unique(dim=0, return_inverse=True)


def _place_among(which: torch.Tensor) -> torch.Tensor:
    """How many of the same number [N] come before each: int64 [N]."""
    order = which.argsort(stable=True)
    ordered = which[order]
    begin = torch.searchsorted(ordered, ordered)
    return torch.empty_like(which).scatter(0, order, torch.arange(len(which)) - begin)


def fit_lmmse(h: torch.Tensor, shrinkage: float | None = None) -> Lmmse:
    """Fits the covariance of training channels h [N, M], of zero mean because their phase is uniform.

    R = (1 - rho) S + rho tr(S) / M I, S = mean of h h^H. shrinkage: rho; by default the one that is best in
    mean square for Gaussian samples (oracle-approximating shrinkage). Raises SemcomError for no channels.
    Source: Chen, Wiesel, Eldar and Hero, Shrinkage algorithms for MMSE covariance estimation, IEEE Trans.
    Signal Process. 58(10), 2010, without its terms of order 1 / M.
    """
    return _shrunk(*_sample_covariance(h), shrinkage)


def _sample_covariance(h: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Mean of h h^H over channels h [N, M], and N. Raises SemcomError for none."""
    if h.ndim != 2 or len(h) == 0:
        raise SemcomError(
            f"training channels {tuple(h.shape)}: a covariance needs [channels, elements], one or more"
        )
    return h.T @ h.conj() / len(h), len(h)


def _shrunk(sample: torch.Tensor, num: int, shrinkage: float | None) -> Lmmse:
    """`fit_lmmse` of the sample covariance of num channels."""
    width = len(sample)
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
    sample, num = _sample_covariance(h)
    fitted = [_shrunk(sample, num, shrinkage) for shrinkage in (None, *shrinkages)]
    errors = [float((each.estimate(observed) - truth).abs().square().mean()) for each in fitted]
    return fitted[min(range(len(errors)), key=errors.__getitem__)]
