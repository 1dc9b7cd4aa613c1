"""NOMP over snapshots: places that all snapshots share, phases that turn, and the channel to come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from channels.near_field import NearFieldConfig
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.nomp import nomp_prior
from scenarios.elaa.observations import check_visible
from scenarios.elaa.path_refinement import PathSet
from scenarios.elaa.path_search import PathSearch, path_search
from scenarios.elaa.shrinking import EDGES, Shrink, fit_shrink
from scenarios.elaa.tracks import Heard, Motion, MotionPrior, Tracks, motion_bound, refine_motion, times
from semcom.contracts import SemcomError

_BATCH = 64


@dataclass(frozen=True)
class TrackNomp:
    """Newtonised orthogonal matching pursuit over T snapshots: see `nomp.Nomp`, and Tracks for what it finds.

    A path is looked for in sums of the residuals, turned back by each of a grid of turns up to max_turn, and
    then refined over all snapshots: gain, angle, distance and turn, the first path's drift as well.
    """

    array: LineArray
    prior: MotionPrior
    max_turn: float
    max_paths: int = 7
    stop: float = 13.0
    alone_steps: int = 1
    joint_steps: int = 2
    last_steps: int = 5

    @classmethod
    def of(cls, config: NearFieldConfig) -> TrackNomp:
        """For the users of generated channels: their speeds and the snapshots' interval are known."""
        array = LineArray.of(config)
        low, high = config.min_speed_m_s, config.max_speed_m_s
        # Of a speed that is uniform, in a direction that is, half of the mean square is along a path.
        step_var_m2 = (low * low + low * high + high * high) / 6 * config.interval_s**2
        a_metre = 2 * math.pi / config.wavelength_m()
        prior = MotionPrior(nomp_prior(array), max(step_var_m2 * a_metre**2, 1e-6), max(step_var_m2, 1e-12))
        return cls(array, prior, high * config.interval_s * a_metre)

    def tracks(self, heard: Heard) -> Tracks:
        """Finds the moving paths of each channel. Raises SemcomError where no element is visible."""
        check_visible(heard.visible)
        search = path_search(self.array, 4.0, 0.8)
        found = [self._batch(search, heard[i : i + _BATCH]) for i in range(0, len(heard), _BATCH)]
        width = max(each.motion.turn.shape[1] for each in found)
        return _join(self.array, found, width)

    def turns(self, num_snapshots: int) -> torch.Tensor:
        """The grid of turns that paths are looked for at: T + 1 or more in a whole turn."""
        if num_snapshots == 1 or self.max_turn == 0:
            return torch.zeros(1)
        reach = min(self.max_turn, math.pi)
        num = math.ceil(reach / math.pi * (num_snapshots + 1))
        return reach * (2 * torch.arange(num) + 1 - num) / num

    def _strongest(
        self, search: PathSearch, residual: torch.Tensor, visible: torch.Tensor
    ) -> tuple[PathSet, torch.Tensor, torch.Tensor]:
        """The strongest path of residuals [B, T, M], its turn [B, 1], and its peak in noise levels [B]."""
        num_snapshots = residual.shape[1]
        time = times(num_snapshots)
        turns = self.turns(num_snapshots)
        back = torch.polar(torch.ones(len(turns), num_snapshots), -turns[:, None] * time)
        sums = back @ residual / math.sqrt(num_snapshots)
        found = [search.strongest(sums[:, number], visible) for number in range(len(turns))]
        peaks = torch.stack([peak for _, peak in found], dim=1)
        best = peaks.argmax(dim=1, keepdim=True)

        def pick(parts: list[torch.Tensor]) -> torch.Tensor:
            return torch.cat(parts, dim=1).gather(1, best)

        paths = PathSet(
            pick([path.gain for path, _ in found]) / math.sqrt(num_snapshots),
            pick([path.sine for path, _ in found]),
            pick([path.inverse_m for path, _ in found]),
        )
        return paths, turns[best], peaks.amax(dim=1)

    def _batch(self, search: PathSearch, heard: Heard) -> Tracks:
        """`tracks` of a batch: a channel leaves it when its residual has no path any more."""
        num = len(heard)
        active = torch.arange(num)
        now, residual = Motion(PathSet.none(num), torch.zeros(num, 0), torch.zeros(num)), heard.y
        count = torch.zeros(num, dtype=torch.int64)
        ended: list[tuple[torch.Tensor, Motion, torch.Tensor]] = []
        for number in range(self.max_paths + 1):
            some = heard[active]
            more = torch.zeros(len(active), dtype=torch.bool)
            if number < self.max_paths:
                fresh, turn, peak = self._strongest(search, residual, some.visible)
                more = peak > self.stop * some.noise_var
            if not bool(more.all()):
                rows, over = active[~more], now[~more]
                if number > 0 and len(rows) > 0:
                    rest = heard[rows]
                    over, _ = refine_motion(self.array, self.prior, over, rest, self.last_steps)
                    ended.append((rows, over, motion_bound(self.array, self.prior, over, rest)))
                    count[rows] = number
                active, some = active[more], some[more]
                if len(active) == 0:
                    break
                now, residual = now[more], residual[more]
                fresh, turn = fresh[more], turn[more]
            alone = Heard(residual, some.visible, some.noise_var)
            one = Motion(fresh, turn, torch.zeros(len(active)))
            one, _ = refine_motion(self.array, self.prior, one, alone, self.alone_steps, first=number)
            now = now.with_one(one.paths, one.turn)
            now, residual = refine_motion(self.array, self.prior, now, some, self.joint_steps)
        return _scatter(self.array, ended, count)


@dataclass(frozen=True)
class ShrunkTracks:
    """Tracks some snapshots ahead, shrunk: by the bound of their phases at a temperature, and by factors."""

    look_ahead: float
    temperature: float
    shrink: Shrink

    def field(self, tracks: Tracks, visible: torch.Tensor) -> torch.Tensor:
        """The channels to come, complex64 [N, M]; visible: bool [N, M], at the snapshots."""
        return self.shrink.apply(tracks.field(self.look_ahead, self.temperature), visible)


def tune_tracks(
    tracks: Tracks,
    visible: torch.Tensor,
    truth: torch.Tensor,
    look_ahead: float,
    temperatures: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0),
    edges: Sequence[float] = EDGES,
) -> ShrunkTracks:
    """Chooses temperature and factors that are best on validation channels to come, complex64 [N, M]."""
    power = truth.abs().square().sum(dim=1)
    best, least = None, math.inf
    fields = tracks.fields(look_ahead, temperatures)
    for temperature, h_hat in zip(temperatures, fields, strict=True):
        shrink = fit_shrink(h_hat, visible, truth, edges)
        error = (shrink.apply(h_hat, visible) - truth).abs().square().sum(dim=1)
        if float((error / power).mean()) < least:
            best = ShrunkTracks(look_ahead, temperature, shrink)
            least = float((error / power).mean())
    if best is None:
        raise SemcomError("no finite error at any temperature: look at the validation channels")
    return best


def _empty(array: LineArray, num: int, width: int) -> Tracks:
    paths = PathSet(
        torch.zeros((num, width), dtype=torch.complex64), torch.zeros(num, width), torch.zeros(num, width)
    )
    motion = Motion(paths, torch.zeros(num, width), torch.zeros(num))
    return Tracks(array, motion, torch.zeros(num, dtype=torch.int64), torch.zeros(num, width, 5, 5))


def _put(into: Tracks, rows: torch.Tensor, motion: Motion, covariance: torch.Tensor) -> None:
    num = motion.turn.shape[1]
    for name in ("gain", "sine", "inverse_m"):
        getattr(into.motion.paths, name)[rows, :num] = getattr(motion.paths, name)
    into.motion.turn[rows, :num] = motion.turn
    into.motion.drift[rows] = motion.drift
    into.covariance[rows, :num] = covariance


def _scatter(
    array: LineArray, ended: list[tuple[torch.Tensor, Motion, torch.Tensor]], count: torch.Tensor
) -> Tracks:
    """Puts the channels that ended at different counts back in their order."""
    whole = _empty(array, len(count), max(1, int(count.max())))
    whole.count.copy_(count)
    for rows, motion, covariance in ended:
        _put(whole, rows, motion, covariance)
    return whole


def _join(array: LineArray, parts: Sequence[Tracks], width: int) -> Tracks:
    """Joins batches that have found different numbers of paths."""
    whole = _empty(array, sum(len(part.count) for part in parts), width)
    begin = 0
    for part in parts:
        rows = torch.arange(begin, begin + len(part.count))
        _put(whole, rows, part.motion, part.covariance)
        whole.count[rows] = part.count
        begin += len(part.count)
    return whole
