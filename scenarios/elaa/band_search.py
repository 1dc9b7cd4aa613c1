"""NOMP over a wide band: places and delays that all subcarriers share, found off the grid.

Shapes: B channels, F subcarriers, M elements, K paths, A places of a dictionary. A path's phase at element n
of subcarrier f is (1 + o_f) phi_n + w f: phi_n of the carrier's wave, o_f how far the subcarrier is from the
carrier, as a share of it (beam squint), and w the turn from subcarrier to subcarrier, which tells the delay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from channels.near_field import NearFieldConfig
from scenarios.elaa.dictionaries import Dictionary, polar_dictionary
from scenarios.elaa.line_array import LineArray, phasor
from scenarios.elaa.nomp import nomp_prior
from scenarios.elaa.observations import check_visible
from scenarios.elaa.path_refinement import Prior, path_units
from scenarios.elaa.pursuit import subcarrier_atoms
from scenarios.elaa.tracks import Heard

_BATCH = 32
OVERSAMPLING, COHERENCE_SCALE = 2.0, 0.8
_DAMPING, _LEAST_DAMPING = 1e-2, 1e-6
_ALIKE = 0.7
"""Two places whose waves are more alike than this on what is visible are one peak."""
_NUM_PARAMETERS = 5
"""Of a path: level, phase, turn, angle, distance."""


@dataclass(frozen=True)
class BandPaths:
    """K paths of B channels: gain complex64 [B, K] at the array's centre and the band's middle subcarrier.

    sine, inverse_m: float32 [B, K], as Paths; turn: float32 [B, K], rad from subcarrier to subcarrier.
    """

    gain: torch.Tensor
    sine: torch.Tensor
    inverse_m: torch.Tensor
    turn: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> BandPaths:
        """Those of some channels."""
        return BandPaths(self.gain[rows], self.sine[rows], self.inverse_m[rows], self.turn[rows])

    @classmethod
    def none(cls, num: int) -> BandPaths:
        """No path at all of `num` channels."""
        empty = torch.zeros((num, 0))
        return cls(empty.to(torch.complex64), empty, empty, empty)

    def with_one(self, other: BandPaths) -> BandPaths:
        """These paths, and others of the same channels after them."""
        return BandPaths(
            torch.cat([self.gain, other.gain], dim=1),
            torch.cat([self.sine, other.sine], dim=1),
            torch.cat([self.inverse_m, other.inverse_m], dim=1),
            torch.cat([self.turn, other.turn], dim=1),
        )

    def where(self, good: torch.Tensor, other: BandPaths) -> BandPaths:
        """Those of `good` channels, bool [B], and the other's of the rest."""
        keep = good[:, None]
        return BandPaths(
            torch.where(keep, self.gain, other.gain),
            torch.where(keep, self.sine, other.sine),
            torch.where(keep, self.inverse_m, other.inverse_m),
            torch.where(keep, self.turn, other.turn),
        )


@dataclass(frozen=True)
class BandNomp:
    """Newtonised orthogonal matching pursuit over F subcarriers: see `nomp.Nomp`.

    Paths are looked for where |sum_f exp(-j w f) a_f^H r_f|^2 of the residual is largest, and one is added as
    long as it lowers the residual by more than `stop` noise levels; then Levenberg-Marquardt steps refine all
    paths together.
    offset: float64 [F], o_f. atoms: complex64 [F, A, M], the dictionary's places on each subcarrier.
    Source: Mamandipoor, Ramasamy and Madhow 2016 for one subcarrier; for several, in polar coordinates,
    compare P-SIGW of Cui and Dai, IEEE Trans. Commun. 70(4), 2022, whose gains are free on each of them.
    """

    array: LineArray
    offset: torch.Tensor
    dictionary: Dictionary
    atoms: torch.Tensor
    max_paths: int = 7
    stop: float = 18.0
    num_tried: int = 16
    alone_steps: int = 5
    joint_steps: int = 3
    last_steps: int = 8

    @classmethod
    def of(cls, config: NearFieldConfig) -> BandNomp:
        """For generated channels: half-beam angles, and as many rings of distance as `nomp.Nomp` looks at."""
        array = LineArray.of(config)
        return cls(array, subcarrier_shares(config), *_places(array, config.offsets_hz()))

    @property
    def index(self) -> torch.Tensor:
        """Places of the subcarriers from the band's middle, float32 [F]."""
        num = len(self.offset)
        return torch.arange(num, dtype=torch.float32) - (num - 1) / 2

    def estimate(self, heard: Heard) -> torch.Tensor:
        """Estimates the channels at all elements, complex64 [N, F, M], without shrinking.

        Raises SemcomError where no element is visible.
        """
        check_visible(heard.visible)
        prior = nomp_prior(self.array)
        parts = [self._batch(prior, heard[at : at + _BATCH]) for at in range(0, len(heard), _BATCH)]
        return torch.cat(parts)

    def field(self, paths: BandPaths) -> torch.Tensor:
        """The field of each path, complex64 [B, K, F, M]."""
        delay = self.array.delay(paths.sine, paths.inverse_m)[:, :, None] * (1 + self.offset)[:, None]
        turn = torch.polar(torch.ones(()), paths.turn[..., None] * self.index)
        return phasor(delay) * (paths.gain[..., None] * turn)[..., None]

    def _batch(self, prior: Prior, heard: Heard) -> torch.Tensor:
        """`estimate` of a batch: a channel keeps its paths when its residual has no other any more."""
        h_hat, paths, residual = torch.zeros_like(heard.y), BandPaths.none(len(heard)), heard.y
        active = torch.arange(len(heard))
        for number in range(self.max_paths + 1):
            goes_on = torch.zeros(len(active), dtype=torch.bool)
            if number < self.max_paths:
                fresh, fall = self._strongest(prior, residual, heard[active], number)
                goes_on = fall > self.stop
            ended, _ = self.refine(prior, paths[~goes_on], heard[active[~goes_on]], self.last_steps)
            h_hat[active[~goes_on]] = self.field(ended).sum(dim=1)
            active = active[goes_on]
            if not len(active):
                break
            more = paths[goes_on].with_one(fresh[goes_on])
            paths, residual = self.refine(prior, more, heard[active], self.joint_steps)
        return h_hat

    def _strongest(
        self, prior: Prior, residual: torch.Tensor, heard: Heard, first: int
    ) -> tuple[BandPaths, torch.Tensor]:
        """A path [B, 1] of residuals [B, F, M], and by how many noise levels it lowers them, [B].

        An array that is seen in pieces has many peaks near the largest: so many as num_tried, which are
        unlike each other, are each refined alone, and the one that leaves least is taken. first: how many
        paths there are before.
        """
        tried = self._peaks(residual, heard)
        again = torch.arange(len(heard)).repeat_interleave(self.num_tried)
        alone = Heard(residual[again], heard.visible[again], heard.noise_var[again])
        tried, left = self.refine(prior, tried, alone, self.alone_steps, first)
        energy = torch.view_as_real(left).square().sum(dim=(1, 2, 3)).view(-1, self.num_tried)
        least, best = energy.min(dim=1)
        before = torch.view_as_real(residual).square().sum(dim=(1, 2, 3))
        row = torch.arange(len(heard)) * self.num_tried + best
        return tried[row], (before - least) / heard.noise_var

    def _peaks(self, residual: torch.Tensor, heard: Heard) -> BandPaths:
        """Places and turns of the largest correlations with residuals [B, F, M]: paths [B num_tried, 1]."""
        num_subcarriers = residual.shape[1]
        match = (residual.transpose(0, 1) @ self.atoms.mH).permute(1, 2, 0)
        num_turns = 4 * num_subcarriers
        turned = torch.fft.fft(match, n=num_turns, dim=2)
        power, number = turned.abs().square().max(dim=2)
        total = heard.visible.sum(dim=1) * num_subcarriers
        found = []
        for _ in range(self.num_tried):
            place = power.argmax(dim=1, keepdim=True)
            bin_ = number.gather(1, place)
            turn = 2 * math.pi * bin_.float() / num_turns
            turn = torch.where(turn > math.pi, turn - 2 * math.pi, turn)
            # The transform counts subcarriers from the first one.
            middle = torch.polar(torch.ones(()), turn * (num_subcarriers - 1) / 2)
            peak = turned[torch.arange(len(heard))[:, None], place, bin_]
            sine, inverse_m = self.dictionary.sine[place].float(), self.dictionary.inverse_m[place].float()
            found.append(BandPaths(peak / total[:, None] * middle, sine, inverse_m, turn))
            own = torch.where(heard.visible, self.dictionary.atoms[place[:, 0]], 0)
            likeness = (own @ self.dictionary.atoms.mH).abs() / heard.visible.sum(dim=1, keepdim=True)
            power = torch.where(likeness > _ALIKE, -1.0, power)
        return BandPaths(
            *(
                torch.stack([getattr(each, part) for each in found], dim=1).flatten(0, 1)
                for part in ("gain", "sine", "inverse_m", "turn")
            )
        )

    def refine(
        self, prior: Prior, paths: BandPaths, heard: Heard, num_steps: int, first: int = 0
    ) -> tuple[BandPaths, torch.Tensor]:
        """Levenberg-Marquardt steps on all paths together, and the residual, complex64 [B, F, M].

        They lower |y - sum_l e_l|^2 / sigma^2 + |g_l|^2 / gain_var + (1/r - mean)^2 / (2 var); a step that
        doesn't is not taken. first: how many paths there are before these, for the prior.
        """
        if not paths.gain.shape[1]:
            return paths, heard.y
        seen, load = heard.visible[:, None, None], heard.noise_var[:, None]
        gain_var = torch.full((paths.gain.shape[1],), prior.other_gain_var)
        if first == 0:
            gain_var[0] = prior.first_gain_var
        slope, curve = path_units(self.array)
        low, high = -0.1 / self.array.min_distance_m, 1.5 / self.array.min_distance_m

        def cost_of(paths: BandPaths, residual: torch.Tensor) -> torch.Tensor:
            misfit = torch.view_as_real(residual).square().sum(dim=(1, 2, 3))
            guess = paths.gain.abs().square() / gain_var
            guess = guess + (paths.inverse_m - prior.inverse_mean).square() / (2 * prior.inverse_var)
            return misfit + (load * guess).sum(dim=1)

        field = torch.where(seen, self.field(paths), 0)
        residual = heard.y - field.sum(dim=1)
        cost, damping = cost_of(paths, residual), torch.full((len(heard),), _DAMPING)
        for _ in range(num_steps):
            normal, right = self._normal(prior, paths, field, residual, load, gain_var, slope, curve)
            diagonal = normal.diagonal(dim1=1, dim2=2)
            diagonal += diagonal * damping[:, None] + 1e-9
            factor, failed = torch.linalg.cholesky_ex(normal)
            step = torch.cholesky_solve(right[..., None], factor)[..., 0].float()
            good = (failed == 0) & torch.isfinite(step).all(dim=1)
            step = torch.where(good[:, None], step, 0).unflatten(1, (_NUM_PARAMETERS, -1))
            growth = torch.exp(step[:, 0].clamp(-1, 1))
            tried = BandPaths(
                paths.gain * torch.polar(growth, step[:, 1]),
                (paths.sine + step[:, 3] * slope).clamp(-1, 1),
                (paths.inverse_m + step[:, 4] * curve).clamp(low, high),
                paths.turn + step[:, 2],
            )
            there = torch.where(seen, self.field(tried), 0)
            left = heard.y - there.sum(dim=1)
            reached = cost_of(tried, left)
            good = good & (reached < cost)
            paths = tried.where(good, paths)
            field = torch.where(good[:, None, None, None], there, field)
            residual = torch.where(good[:, None, None], left, residual)
            cost = torch.where(good, reached, cost)
            damping = torch.where(good, damping / 10, damping * 10).clamp_min(_LEAST_DAMPING)
        return paths, residual

    def _normal(
        self,
        prior: Prior,
        paths: BandPaths,
        field: torch.Tensor,
        residual: torch.Tensor,
        load: torch.Tensor,
        gain_var: torch.Tensor,
        slope: float,
        curve: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The normal equations of a step, float64 [B, 5 K, 5 K] and [B, 5 K]; K paths in one parameter first.

        A field's derivatives are itself, and j times itself times what its phase follows a parameter by.
        """
        along, across = self.array.slopes(paths.sine, paths.inverse_m)
        ratio = (1 + self.offset)[:, None].float()
        along = (along * slope).float()[:, :, None] * ratio
        across = (across * curve).float()[:, :, None] * ratio
        turned = 1j * field
        by_turn = turned * self.index[:, None]
        parts = torch.stack((field, turned, by_turn, turned * along, turned * across), dim=1)
        columns = torch.view_as_real(parts.flatten(1, 2).flatten(2)).flatten(2)
        normal = (columns @ columns.mT).double()
        right = (columns @ torch.view_as_real(residual.flatten(1)).flatten(1)[..., None])[..., 0].double()
        count = paths.gain.shape[1]
        # The priors: of levels, |g|^2 / var about what it is; of inverse distances.
        power = paths.gain.abs().square() / gain_var * load
        spread = curve**2 / (2 * prior.inverse_var) * load
        off = (paths.inverse_m - prior.inverse_mean) * curve / (2 * prior.inverse_var) * load
        right[:, :count] -= power
        right[:, -count:] -= off
        diagonal = normal.diagonal(dim1=1, dim2=2)
        diagonal[:, :count] += 2 * power
        diagonal[:, -count:] += spread
        return normal, right


def subcarrier_shares(array: NearFieldConfig) -> torch.Tensor:
    """How far the subcarriers are from the carrier, as shares of it: float64 [F]."""
    return array.offsets_hz() / array.carrier_hz


@lru_cache(maxsize=2)
def _cached_places(array: LineArray, offsets_hz: tuple[float, ...]) -> tuple[Dictionary, torch.Tensor]:
    dictionary = polar_dictionary(array, OVERSAMPLING, COHERENCE_SCALE)
    return dictionary, subcarrier_atoms(array, dictionary, torch.tensor(offsets_hz, dtype=torch.float64))


def _places(array: LineArray, offsets_hz: torch.Tensor) -> tuple[Dictionary, torch.Tensor]:
    return _cached_places(array, tuple(offsets_hz.tolist()))
