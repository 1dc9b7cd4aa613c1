"""Refining the parameters of paths off any grid, and the bound on their errors.

Shapes: B channels, K paths, M elements. Each path has four real parameters: the logarithm of its gain's
amplitude, its phase at the array's centre, and slope and curvature, which are s and k in units that turn the
last element's phase by about a radian.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scenarios.elaa.line_array import LineArray
from scenarios.elaa.observations import Observed

_DAMPING, _LEAST_DAMPING = 1e-2, 1e-6


@dataclass(frozen=True)
class Prior:
    """What is known of paths beforehand: gains are CN(0, var), 1 / r is normal.

    first_gain_var, other_gain_var: of the path found first and of the others. inverse_mean (1/m),
    inverse_var (1/m^2): of 1 / r.
    """

    first_gain_var: float
    other_gain_var: float
    inverse_mean: float
    inverse_var: float


@dataclass(frozen=True)
class Waves:
    """Fields of paths at the elements: complex64 [B, K, M]; slopes of their phase: float32 [B, K, M].

    along, across: by how much slope and curvature turn the phase.
    """

    field: torch.Tensor
    along: torch.Tensor
    across: torch.Tensor

    def phase_variance(self, covariance: torch.Tensor) -> torch.Tensor:
        """Variance of each path's phase at each element, float32 [B, K, M], of covariances [B, K, 3, 3]."""
        part = covariance[..., None]
        along, across = self.along, self.across
        var = part[..., 0, 0, :] + along * (2 * part[..., 0, 1, :] + along * part[..., 1, 1, :])
        var = var + across * (2 * (part[..., 0, 2, :] + along * part[..., 1, 2, :]))
        return (var + across.square() * part[..., 2, 2, :]).clamp(min=0)


@dataclass(frozen=True)
class PathSet:
    """K paths of B channels. gain: complex64 [B, K]; sine, inverse_m: float32 [B, K]."""

    gain: torch.Tensor
    sine: torch.Tensor
    inverse_m: torch.Tensor

    @classmethod
    def none(cls, num: int) -> PathSet:
        """No path at all of `num` channels."""
        empty = torch.zeros((num, 0))
        return cls(empty.to(torch.complex64), empty, empty)

    def __getitem__(self, rows: torch.Tensor) -> PathSet:
        """Those of some channels."""
        return PathSet(self.gain[rows], self.sine[rows], self.inverse_m[rows])

    def with_one(self, other: PathSet) -> PathSet:
        """These paths, and others of the same channels after them."""
        return PathSet(
            torch.cat([self.gain, other.gain], dim=1),
            torch.cat([self.sine, other.sine], dim=1),
            torch.cat([self.inverse_m, other.inverse_m], dim=1),
        )

    def waves(self, array: LineArray) -> Waves:
        """Fields g a_n at all elements and the slopes of their phases: LineArray's formulas in float32."""
        d = array.place_m.float()
        slope, curve = path_units(array)
        s, k = self.sine[..., None], self.inverse_m[..., None]
        bent = d * k
        lag = bent - 2 * s
        q = torch.sqrt(1 + bent * lag)
        half = d / (1 + q)
        turns = half * lag * (1 / array.wavelength_m)
        angle = (torch.round(turns) - turns) * (2 * torch.pi)
        field = self.gain[..., None] * torch.complex(torch.cos(angle), torch.sin(angle))
        turn = -2 * torch.pi / array.wavelength_m
        along = (-turn * slope) * d / q
        across = (turn * curve) * half * (d - lag * half * (bent - s) / q)
        return Waves(field, along, across)


def refine(
    array: LineArray, prior: Prior, paths: PathSet, observed: Observed, num_steps: int, first: int = 0
) -> tuple[PathSet, torch.Tensor]:
    """Levenberg-Marquardt steps on all paths of each channel together, and the residual, complex64 [B, M].

    They lower |y - sum_l g_l a_l|^2 / sigma^2 + |g_l|^2 / gain_var + (1/r - mean)^2 / (2 var); a step that
    doesn't is not taken. first: how many paths there are before these, for the prior. 1 / r may end a little
    outside of the array's distances, and below 0 (a wave that converges): kept within them, a path far from
    the visible elements' middle could not turn.
    Source: Marquardt, An algorithm for least-squares estimation of nonlinear parameters, 1963.
    """
    slope, curve = path_units(array)
    gain_var = _gain_var(prior, paths, first)
    load = observed.noise_var[:, None]
    seen = observed.visible[:, None]
    low, high = -0.1 / array.min_distance_m, 1.5 / array.min_distance_m

    def cost_of(paths: PathSet, residual: torch.Tensor) -> torch.Tensor:
        misfit = torch.view_as_real(residual).square().sum(dim=(1, 2))
        guess = paths.gain.abs().square() / gain_var
        guess = guess + (paths.inverse_m - prior.inverse_mean).square() / (2 * prior.inverse_var)
        return misfit + (load * guess).sum(dim=1)

    waves = _seen(paths.waves(array), seen)
    residual = observed.y - waves.field.sum(dim=1)
    cost = cost_of(paths, residual)
    damping = torch.full_like(cost, _DAMPING)
    for _ in range(num_steps):
        normal, right = _normal(array, prior, paths, waves, residual, load, gain_var)
        diagonal = normal.diagonal(dim1=1, dim2=2)
        diagonal += diagonal * damping[:, None] + 1e-9
        factor, failed = torch.linalg.cholesky_ex(normal)
        step = torch.cholesky_solve(right[..., None], factor)[..., 0].float()
        good = (failed == 0) & torch.isfinite(step).all(dim=1)
        step = torch.where(good[:, None], step, 0).unflatten(1, (4, -1))
        growth = torch.exp(step[:, 0].clamp(-1, 1))
        tried = PathSet(
            paths.gain * torch.polar(growth, step[:, 1]),
            (paths.sine + slope * step[:, 2]).clamp(-array.max_sine, array.max_sine),
            (paths.inverse_m + curve * step[:, 3]).clamp(low, high),
        )
        tried_waves = _seen(tried.waves(array), seen)
        tried_residual = observed.y - tried_waves.field.sum(dim=1)
        tried_cost = cost_of(tried, tried_residual)
        better = tried_cost < cost
        damping = torch.where(better, damping / 8, damping * 8).clamp(min=_LEAST_DAMPING)
        cost = torch.where(better, tried_cost, cost)
        residual = torch.where(better[:, None], tried_residual, residual)
        if bool(better.all()):
            paths, waves = tried, tried_waves
            continue
        one, two = better[:, None], better[:, None, None]
        paths = PathSet(
            torch.where(one, tried.gain, paths.gain),
            torch.where(one, tried.sine, paths.sine),
            torch.where(one, tried.inverse_m, paths.inverse_m),
        )
        waves = Waves(
            torch.where(two, tried_waves.field, waves.field),
            torch.where(two, tried_waves.along, waves.along),
            torch.where(two, tried_waves.across, waves.across),
        )
    return paths, residual


def uncertainty(array: LineArray, prior: Prior, paths: PathSet, observed: Observed) -> torch.Tensor:
    """Cramer-Rao bound of each path's phase, slope and curvature, all others unknown: float32 [B, K, 3, 3].

    The inverse of the Fisher information 2 Re(J^H J) / sigma^2 plus the prior's (a Bayesian bound).
    Source: Van Trees, Detection, estimation, and modulation theory I, 1968, 2.4.
    """
    load = observed.noise_var[:, None]
    waves = _seen(paths.waves(array), observed.visible[:, None])
    normal, _ = _normal(array, prior, paths, waves, observed.y, load, _gain_var(prior, paths, 0))
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal += 1e-9 * (1 + diagonal)
    inverse = torch.linalg.inv(normal) * (0.5 * load[..., None])
    num = paths.gain.shape[1]
    blocks = inverse.unflatten(2, (4, num)).unflatten(1, (4, num))[:, 1:, :, 1:]
    return blocks.diagonal(dim1=2, dim2=4).permute(0, 3, 1, 2).float()


def path_units(array: LineArray) -> tuple[float, float]:
    """What slope and curvature are in: s and k that turn the last element's phase by about a radian."""
    reach_m = max(array.num_elements - 1, 1) / 2 * array.spacing_wavelengths * array.wavelength_m
    radian_m = array.wavelength_m / (2 * torch.pi)
    return radian_m / reach_m, 2 * radian_m / reach_m**2


def _gain_var(prior: Prior, paths: PathSet, first: int) -> torch.Tensor:
    """Variance of each path's gain beforehand, float32 [K]."""
    var = torch.full((paths.gain.shape[1],), prior.other_gain_var)
    if first == 0:
        var[:1] = prior.first_gain_var
    return var


def _seen(waves: Waves, seen: torch.Tensor) -> Waves:
    """Waves of the visible elements alone."""
    return Waves(waves.field * seen, waves.along, waves.across)


def _normal(
    array: LineArray,
    prior: Prior,
    paths: PathSet,
    waves: Waves,
    residual: torch.Tensor,
    load: torch.Tensor,
    gain_var: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal equations of a step, times sigma^2: float64 [B, 4K, 4K] and [B, 4K], parameter by parameter."""
    turned = waves.field * 1j
    jacobian = torch.cat([waves.field, turned, turned * waves.along, turned * waves.across], dim=1)
    real = torch.view_as_real(jacobian).flatten(2)
    normal = (real @ real.mT).double()
    right = (real @ torch.view_as_real(residual).flatten(1)[..., None])[..., 0].double()
    num = paths.gain.shape[1]
    of_gain = (load * paths.gain.abs().square() / gain_var).double()
    _, curve = path_units(array)
    of_curve = (load * (curve**2 / (2 * prior.inverse_var))).double().expand(-1, num)
    normal.diagonal(dim1=1, dim2=2).add_(
        torch.cat([of_gain, of_gain, torch.zeros_like(of_gain), of_curve], dim=1)
    )
    right[:, :num] -= of_gain
    pull = (paths.inverse_m - prior.inverse_mean) / curve
    right[:, 3 * num :] -= of_curve * pull
    return normal, right
