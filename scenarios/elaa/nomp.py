"""NOMP: paths found one by one off any grid, all refined together, and how sure their field is.

Shapes: K paths, R rings of distance, S angles. A path has a gain g, a sine of its angle s and an inverse
distance k = 1 / r; see `scenarios.elaa.line_array`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from scenarios.elaa.line_array import LineArray
from scenarios.elaa.observations import Observed, check_visible
from scenarios.elaa.path_refinement import PathSet, Prior, refine, uncertainty
from scenarios.elaa.path_search import PathSearch, path_search
from semcom.contracts import SemcomError

_BATCH = 64


@dataclass(frozen=True)
class Paths:
    """What NOMP finds of N channels, K the largest count of paths; beyond its count a channel's gains are 0.

    gain: complex64 [N, K], at the array's centre; sine, inverse_m: float32 [N, K], the latter from a little
    below 0 to 1.5 times the inverse of the array's smallest distance; count: int64 [N].
    covariance: float32 [N, K, 3, 3], of the path's phase at the centre, its slope and its curvature (in
    rad at `array`'s last element), the Cramer-Rao bound with the prior's information.
    """

    array: LineArray
    gain: torch.Tensor
    sine: torch.Tensor
    inverse_m: torch.Tensor
    count: torch.Tensor
    covariance: torch.Tensor

    def __getitem__(self, rows: slice | torch.Tensor) -> Paths:
        """Those of some channels."""
        return Paths(
            self.array,
            self.gain[rows],
            self.sine[rows],
            self.inverse_m[rows],
            self.count[rows],
            self.covariance[rows],
        )

    def field(self, temperature: float = 0.0) -> torch.Tensor:
        """The channels at all elements, complex64 [N, M]: sum of g_l a_l,n exp(-temperature v_l,n / 2).

        v_l,n is the variance of path l's phase at element n. temperature: 0 takes the paths as they are; 1
        is the mean over what Gaussian errors of the bound make of them (Cramer-Rao shrink).
        """
        return self._sum(temperature)[0]

    def reliability(self, temperature: float = 1.0) -> torch.Tensor:
        """Share of the power that isn't lost to phase errors, float32 [N, M], in [0, 1].

        sum_l |g_l|^2 exp(-temperature v_l,n) / sum_l |g_l|^2; 0 where there is no path.
        """
        return self._sum(temperature)[1]

    def _sum(self, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        fields, shares = [], []
        for i in range(0, len(self.gain), _BATCH):
            rows = slice(i, i + _BATCH)
            waves = PathSet(self.gain[rows], self.sine[rows], self.inverse_m[rows]).waves(self.array)
            kept = torch.exp(-0.5 * temperature * waves.phase_variance(self.covariance[rows]))
            fields.append((waves.field * kept).sum(dim=1))
            power = self.gain[rows].abs().square()
            total = power.sum(dim=1, keepdim=True)
            share = (power[:, None] @ kept.square())[:, 0] / total.clamp(min=1e-30)
            shares.append(share.clamp(max=1))
        return torch.cat(fields), torch.cat(shares)


@dataclass(frozen=True)
class Nomp:
    """Newtonised orthogonal matching pursuit in the polar domain, with all paths refined after each new one.

    A path is added at the residual's largest correlation, over angles and rings of distance, as long as
    |a^H residual|^2 / (visible elements x noise_var) is above `stop` and there are fewer than max_paths; then
    Levenberg-Marquardt steps refine it alone (alone_steps) and all together (joint_steps, and last_steps when
    no path is added any more), for the largest posterior under `prior`.
    Source: Mamandipoor, Ramasamy and Madhow, Newtonized orthogonal matching pursuit, IEEE Trans. Signal
    Process. 64(19), 2016; here with distances, and with joint steps in place of cyclic ones.
    """

    array: LineArray
    prior: Prior
    max_paths: int = 7
    stop: float = 12.0
    alone_steps: int = 1
    joint_steps: int = 2
    last_steps: int = 5
    oversampling: float = 4.0
    coherence_scale: float = 0.8

    def __post_init__(self) -> None:
        """Raises SemcomError for numbers out of range."""
        if (
            self.max_paths < 1
            or min(self.alone_steps, self.joint_steps, self.last_steps) < 0
            or self.stop < 0
        ):
            raise SemcomError(
                f"max_paths {self.max_paths}, stop {self.stop}, steps {self.alone_steps}, "
                f"{self.joint_steps}, {self.last_steps}: NOMP needs one path or more, and nothing below 0"
            )

    def estimate(self, observed: Observed) -> torch.Tensor:
        """Estimates the channels at all elements, complex64 [N, M], without shrinking."""
        return self.paths(observed).field()

    def paths(self, observed: Observed) -> Paths:
        """Finds the paths of each channel. Raises SemcomError where no element is visible.

        float32 does: at 1,024 elements of half a wavelength its phases err by some 1e-4 rad.
        """
        check_visible(observed.visible)
        search = path_search(self.array, self.oversampling, self.coherence_scale)
        found = [self._batch(search, observed[i : i + _BATCH]) for i in range(0, len(observed), _BATCH)]
        width = max(1, max(each.gain.shape[1] for each in found))
        return Paths(
            array=self.array,
            gain=_stack([each.gain for each in found], width),
            sine=_stack([each.sine for each in found], width),
            inverse_m=_stack([each.inverse_m for each in found], width),
            count=torch.cat([each.count for each in found]),
            covariance=_stack([each.covariance for each in found], width),
        )

    def _batch(self, search: PathSearch, observed: Observed) -> Paths:
        """`paths` of a batch: a channel leaves it when its residual has no path any more."""
        num = len(observed)
        active = torch.arange(num)
        now, residual = PathSet.none(num), observed.y
        count = torch.zeros(num, dtype=torch.int64)
        ended: list[tuple[torch.Tensor, PathSet, torch.Tensor]] = []
        for number in range(self.max_paths + 1):
            some = observed[active]
            if number < self.max_paths:
                fresh, peak = search.strongest(residual, some.visible)
                more = peak > self.stop * some.noise_var
            else:
                more = torch.zeros(len(active), dtype=torch.bool)
            if not bool(more.all()):
                rows, over = active[~more], now[~more]
                if number > 0 and len(rows) > 0:
                    rest = observed[rows]
                    over, _ = refine(self.array, self.prior, over, rest, self.last_steps)
                    ended.append((rows, over, uncertainty(self.array, self.prior, over, rest)))
                    count[rows] = number
                active, some = active[more], some[more]
                if len(active) == 0:
                    break
                now, fresh, residual = now[more], fresh[more], residual[more]
            alone = Observed(residual, some.visible, some.noise_var)
            fresh, _ = refine(self.array, self.prior, fresh, alone, self.alone_steps, first=number)
            now, residual = refine(self.array, self.prior, now.with_one(fresh), some, self.joint_steps)
        return _scatter(self.array, ended, count)


def nomp_prior(array: LineArray, other_gain_var: float = 0.1) -> Prior:
    """Prior of paths from the array's range of distances, uniform in r: the mean and variance of 1 / r.

    other_gain_var: variance of a gain after the first, which has 1. Raises SemcomError unless above 0.
    """
    if not other_gain_var > 0:
        raise SemcomError(f"other_gain_var {other_gain_var}: a variance of gains has to be above 0")
    mean, var = array.inverse_distance()
    return Prior(first_gain_var=1.0, other_gain_var=other_gain_var, inverse_mean=mean, inverse_var=var)


def tune_nomp(
    array: LineArray,
    observed: Observed,
    truth: torch.Tensor,
    max_paths: Sequence[int] = (3, 5, 7),
    stops: Sequence[float] = (10.0, 12.0, 14.0),
    other_gain_vars: Sequence[float] = (0.03, 0.1),
    temperature: float = 1.0,
) -> Nomp:
    """Chooses how many paths, when to stop and the ridge noise_var / other_gain_var on validation data.

    truth: complex64 [N, M]; the best ones are those of the least mean |h_hat - h|^2 / |h|^2, h_hat at the
    temperature (see Paths.field).
    """
    power = truth.abs().square().sum(dim=1)
    best, least = None, math.inf
    for num, stop, var in itertools.product(max_paths, stops, other_gain_vars):
        nomp = replace(Nomp(array, nomp_prior(array, var)), max_paths=num, stop=stop)
        error = (nomp.paths(observed).field(temperature) - truth).abs().square().sum(dim=1)
        if float((error / power).mean()) < least:
            best, least = nomp, float((error / power).mean())
    if best is None:
        raise SemcomError("no finite error among the settings of NOMP: look at the validation channels")
    return best


def _scatter(
    array: LineArray, ended: list[tuple[torch.Tensor, PathSet, torch.Tensor]], count: torch.Tensor
) -> Paths:
    """Puts the channels that ended at different counts back in their order."""
    num, width = len(count), int(count.max())
    gain = torch.zeros((num, width), dtype=torch.complex64)
    sine, inverse_m = torch.zeros((num, width)), torch.zeros((num, width))
    covariance = torch.zeros((num, width, 3, 3))
    for rows, paths, var in ended:
        each = paths.gain.shape[1]
        gain[rows, :each] = paths.gain
        sine[rows, :each] = paths.sine
        inverse_m[rows, :each] = paths.inverse_m
        covariance[rows, :each] = var
    return Paths(array, gain, sine, inverse_m, count, covariance)


def _stack(parts: list[torch.Tensor], width: int) -> torch.Tensor:
    """Joins batches that have found different numbers of paths, padded by 0."""
    whole = torch.zeros((sum(map(len, parts)), width, *parts[0].shape[2:]), dtype=parts[0].dtype)
    begin = 0
    for part in parts:
        whole[begin : begin + len(part), : part.shape[1]] = part
        begin += len(part)
    return whole
