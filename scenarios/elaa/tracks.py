"""Paths that move: their phases turn from snapshot to snapshot, and how sure their field to come is.

Shapes: B channels, T snapshots, K paths, M elements. Time counts in snapshots from the last one, 0, back to
1 - T, and on to the look-ahead a. Each path has five real parameters: those of `path_refinement`, and its
phase's turn in a snapshot; the first one, the direct path, has a sixth: how its slope drifts with the user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scenarios.elaa.line_array import LineArray
from scenarios.elaa.path_refinement import PathSet, Prior, Waves, path_units

_DAMPING, _LEAST_DAMPING = 1e-2, 1e-6
_BATCH = 64
_NUM_PARAMETERS = 5
"""Of the phase at an element and a time: phase, slope, curvature, turn, drift."""


@dataclass(frozen=True)
class Heard:
    """Snapshots of B channels. y: complex64 [B, T, M], 0 where hidden; visible, noise_var: as Observed."""

    y: torch.Tensor
    visible: torch.Tensor
    noise_var: torch.Tensor

    def __len__(self) -> int:
        """Number of channels B."""
        return len(self.y)

    def __getitem__(self, rows: slice | torch.Tensor) -> Heard:
        """Those of some channels."""
        return Heard(self.y[rows], self.visible[rows], self.noise_var[rows])


@dataclass(frozen=True)
class MotionPrior:
    """What is known beforehand: of places and gains `paths`; turns are normal, and so are speeds across.

    turn_var (rad^2), of a path's phase from snapshot to snapshot; step_var_m2, of how far the user moves
    across its direction from snapshot to snapshot.
    """

    paths: Prior
    turn_var: float
    step_var_m2: float


@dataclass(frozen=True)
class Motion:
    """K moving paths of B channels as they are at the last snapshot.

    paths: places and gains. turn: float32 [B, K], rad a snapshot. drift: float32 [B], of the first path's
    slope, in rad at the last element a snapshot.
    """

    paths: PathSet
    turn: torch.Tensor
    drift: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> Motion:
        """Those of some channels."""
        return Motion(self.paths[rows], self.turn[rows], self.drift[rows])

    def with_one(self, other: PathSet, turn: torch.Tensor) -> Motion:
        """These paths, and one more after them; turn: float32 [B, 1]."""
        return Motion(self.paths.with_one(other), torch.cat([self.turn, turn], dim=1), self.drift)

    def at(self, array: LineArray, time: float) -> PathSet:
        """The paths at another time. The direct one's distance changes by its turn, a wavelength in 2 pi."""
        slope, _ = path_units(array)
        paths = self.paths
        sine, inverse_m = paths.sine.clone(), paths.inverse_m.clone()
        if sine.shape[1] > 0:
            limit = array.max_sine
            sine[:, 0] = (sine[:, 0] + slope * self.drift * time).clamp(-limit, limit)
            farther_m = -self.turn[:, 0] * time * array.wavelength_m / (2 * math.pi)
            inverse_m[:, 0] = inverse_m[:, 0] / (1 + inverse_m[:, 0] * farther_m)
        turned = torch.polar(torch.ones_like(self.turn), self.turn * time)
        return PathSet(paths.gain * turned, sine, inverse_m)


@dataclass(frozen=True)
class Tracks:
    """What is found of N channels' snapshots; beyond its count a channel's gains are 0.

    covariance: float32 [N, K, 5, 5], of the phase at the centre and the last snapshot, slope, curvature, turn
    and drift: the Cramer-Rao bound with the prior's information, in the units of `Paths`.
    """

    array: LineArray
    motion: Motion
    count: torch.Tensor
    covariance: torch.Tensor

    def field(self, look_ahead: float, temperature: float = 0.0) -> torch.Tensor:
        """The channels look_ahead snapshots on, complex64 [N, M].

            h_n(a) = sum_l g_l exp(j w_l a) a_l,n(a) exp(-temperature v_l,n(a) / 2)

        v_l,n(a) is the variance of path l's phase at element n then. temperature: 0 takes paths as they are.
        """
        return self.fields(look_ahead, (temperature,))[0]

    def fields(self, look_ahead: float, temperatures: Sequence[float]) -> list[torch.Tensor]:
        """`field` at several temperatures."""
        parts: list[list[torch.Tensor]] = [[] for _ in temperatures]
        for i in range(0, len(self.count), _BATCH):
            rows = torch.arange(i, min(i + _BATCH, len(self.count)))
            waves = self.motion[rows].at(self.array, look_ahead).waves(self.array)
            variance = _variance(waves, self.covariance[rows], look_ahead)
            for part, temperature in zip(parts, temperatures, strict=True):
                part.append((waves.field * torch.exp(-0.5 * temperature * variance)).sum(dim=1))
        return [torch.cat(part) for part in parts]


def _variance(waves: Waves, covariance: torch.Tensor, time: float) -> torch.Tensor:
    """Variance of each path's phase at each element and a time, float32 [B, K, M]."""
    one = torch.ones_like(waves.along)
    weights = torch.stack([one, waves.along, waves.across, time * one, time * waves.along], dim=3)
    return ((weights @ covariance) * weights).sum(dim=3).clamp(min=0)


def _spread(array: LineArray, motion: Motion, heard: Heard) -> tuple[torch.Tensor, torch.Tensor]:
    """What paths make at all snapshots, complex64 [B, K, T M], 0 where hidden, and slopes [B, 2, K, T M]."""
    num_snapshots = heard.y.shape[1]
    waves = motion.paths.waves(array)
    time = times(num_snapshots)
    phase = motion.turn[:, :, None, None] * time[:, None] + torch.zeros(array.num_elements)
    phase[:, :1] += (motion.drift[:, None, None] * time[:, None] * waves.along[:, 0, None])[:, None]
    turned = torch.polar(heard.visible[:, None, None].float().expand_as(phase).contiguous(), phase)
    field = (waves.field[:, :, None] * turned).flatten(2)
    slopes = torch.stack([waves.along, waves.across], dim=1)[:, :, :, None]
    return field, slopes.expand(-1, -1, -1, num_snapshots, -1).flatten(3)


def times(num_snapshots: int) -> torch.Tensor:
    """When snapshots were: float32 [T], the last one at 0."""
    return torch.arange(1 - num_snapshots, 1, dtype=torch.float32)


def refine_motion(
    array: LineArray, prior: MotionPrior, motion: Motion, heard: Heard, num_steps: int, first: int = 0
) -> tuple[Motion, torch.Tensor]:
    """Levenberg-Marquardt steps on all parameters together, and the residual, complex64 [B, T, M].

    As `path_refinement.refine`, over all snapshots and with turns; the drift of the slope counts where the
    first path is among these. first: how many paths there are before these, which are not refined.
    """
    slope, curve = path_units(array)
    low, high = -0.1 / array.min_distance_m, 1.5 / array.min_distance_m
    load = heard.noise_var[:, None]
    y = heard.y.flatten(1)

    def cost_of(motion: Motion, residual: torch.Tensor) -> torch.Tensor:
        paths = motion.paths
        guess = paths.gain.abs().square() / _gain_var(prior, paths, first)
        guess = guess + (paths.inverse_m - prior.paths.inverse_mean).square() / (2 * prior.paths.inverse_var)
        guess = (guess + motion.turn.square() / (2 * prior.turn_var)).sum(dim=1)
        if first == 0:
            guess = guess + motion.drift.square() / (2 * _drift_var(array, prior, paths))
        return torch.view_as_real(residual).square().sum(dim=(1, 2)) + load[:, 0] * guess

    field, slopes = _spread(array, motion, heard)
    residual = y - field.sum(dim=1)
    cost = cost_of(motion, residual)
    damping = torch.full_like(cost, _DAMPING)
    for _ in range(num_steps):
        normal, right = _normal(array, prior, motion, field, slopes, residual, load, first)
        diagonal = normal.diagonal(dim1=1, dim2=2)
        diagonal += diagonal * damping[:, None] + 1e-9
        factor, failed = torch.linalg.cholesky_ex(normal)
        step = torch.cholesky_solve(right[..., None], factor)[..., 0].float()
        good = (failed == 0) & torch.isfinite(step).all(dim=1)
        step = torch.where(good[:, None], step, 0)
        num = motion.turn.shape[1]
        of_path = step[:, : _NUM_PARAMETERS * num].unflatten(1, (_NUM_PARAMETERS, num))
        paths = motion.paths
        tried = Motion(
            PathSet(
                paths.gain * torch.polar(torch.exp(of_path[:, 0].clamp(-1, 1)), of_path[:, 1]),
                (paths.sine + slope * of_path[:, 2]).clamp(-array.max_sine, array.max_sine),
                (paths.inverse_m + curve * of_path[:, 3]).clamp(low, high),
            ),
            motion.turn + of_path[:, 4],
            motion.drift + step[:, -1] if first == 0 else motion.drift,
        )
        tried_field, tried_slopes = _spread(array, tried, heard)
        tried_residual = y - tried_field.sum(dim=1)
        tried_cost = cost_of(tried, tried_residual)
        better = tried_cost < cost
        damping = torch.where(better, damping / 8, damping * 8).clamp(min=_LEAST_DAMPING)
        cost = torch.where(better, tried_cost, cost)
        one, two, three = better[:, None], better[:, None, None], better[:, None, None, None]
        residual = torch.where(one, tried_residual, residual)
        field = torch.where(two, tried_field, field)
        slopes = torch.where(three, tried_slopes, slopes)
        motion = Motion(
            PathSet(
                torch.where(one, tried.paths.gain, paths.gain),
                torch.where(one, tried.paths.sine, paths.sine),
                torch.where(one, tried.paths.inverse_m, paths.inverse_m),
            ),
            torch.where(one, tried.turn, motion.turn),
            torch.where(better, tried.drift, motion.drift),
        )
    return motion, residual.unflatten(1, heard.y.shape[1:])


def motion_bound(array: LineArray, prior: MotionPrior, motion: Motion, heard: Heard) -> torch.Tensor:
    """Cramer-Rao bound of each path's phase parameters, all others unknown: float32 [B, K, 5, 5].

    As `path_refinement.uncertainty`; rows and columns of drift are 0 for paths after the first.
    """
    field, slopes = _spread(array, motion, heard)
    load = heard.noise_var[:, None]
    normal, _ = _normal(array, prior, motion, field, slopes, heard.y.flatten(1), load, 0)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal += 1e-9 * (1 + diagonal)
    inverse = (torch.linalg.inv(normal) * (0.5 * load[..., None])).float()
    num = motion.turn.shape[1]
    covariance = torch.zeros((len(heard), num, _NUM_PARAMETERS, _NUM_PARAMETERS))
    for path in range(num):
        at = [row * num + path for row in range(1, _NUM_PARAMETERS)] + ([-1] if path == 0 else [])
        covariance[:, path, : len(at), : len(at)] = inverse[:, at][:, :, at]
    return covariance


def _gain_var(prior: MotionPrior, paths: PathSet, first: int) -> torch.Tensor:
    var = torch.full((paths.gain.shape[1],), prior.paths.other_gain_var)
    if first == 0:
        var[:1] = prior.paths.first_gain_var
    return var


def _drift_var(array: LineArray, prior: MotionPrior, paths: PathSet) -> torch.Tensor:
    """Variance of the first path's drift beforehand, (step cos(theta) / r)^2 in units of slope, [B]."""
    slope, _ = path_units(array)
    sine, inverse_m = paths.sine[:, 0], paths.inverse_m[:, 0]
    across = (1 - sine.square()) * inverse_m.square().clamp(min=1e-6)
    return across * (prior.step_var_m2 / slope**2) + 1e-12


def _normal(
    array: LineArray,
    prior: MotionPrior,
    motion: Motion,
    field: torch.Tensor,
    slopes: torch.Tensor,
    residual: torch.Tensor,
    load: torch.Tensor,
    first: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal equations of a step, times sigma^2: float64, parameter by parameter, the drift last."""
    _, curve = path_units(array)
    paths, num = motion.paths, motion.turn.shape[1]
    turned = field * 1j
    time = times(field.shape[2] // array.num_elements).repeat_interleave(array.num_elements)
    columns = [field, turned, turned * slopes[:, 0], turned * slopes[:, 1], turned * time]
    if first == 0:
        columns.append(turned[:, :1] * slopes[:, 0, :1] * time)
    real = torch.view_as_real(torch.cat(columns, dim=1)).flatten(2)
    normal = (real @ real.mT).double()
    right = (real @ torch.view_as_real(residual).flatten(1)[..., None])[..., 0].double()
    of_gain = load * paths.gain.abs().square() / _gain_var(prior, paths, first)
    of_curve = (load * (curve**2 / (2 * prior.paths.inverse_var))).expand(-1, num)
    of_turn = (load / (2 * prior.turn_var)).expand(-1, num)
    pull = (paths.inverse_m - prior.paths.inverse_mean) / curve
    tight = [of_gain, of_gain, torch.zeros_like(of_gain), of_curve, of_turn]
    back = [
        of_gain,
        torch.zeros_like(of_gain),
        torch.zeros_like(of_gain),
        of_curve * pull,
        of_turn * motion.turn,
    ]
    if first == 0:
        of_drift = load / (2 * _drift_var(array, prior, paths)[:, None])
        tight.append(of_drift)
        back.append(of_drift * motion.drift[:, None])
    normal.diagonal(dim1=1, dim2=2).add_(torch.cat(tight, dim=1).double())
    return normal, right - torch.cat(back, dim=1).double()
