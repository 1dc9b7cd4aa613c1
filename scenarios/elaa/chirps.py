"""Spherical waves that look like a chirp, a phase of second order, about some place of a line of elements.

Matched filters that are FFTs know a wave's phase to second order in an element's place d about the centre
(Fresnel), 2 pi (d s' - d^2 c / 2) / lambda, with s' the slope and c the curvature. At the ends of a long
array, or for near waves, what is left out is whole turns: a filter then matches a wave about some place d_0
alone, and means as many waves as there are places. Shapes: B channels, C chirps, P places.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from scenarios.elaa.line_array import LineArray

_NUM_BLOCKS = 64
_BENDS_RAD = torch.linspace(-8, 8, 23, dtype=torch.float64)
"""Other curvatures that are tried about a chirp's place, as phases at half an array's length from it."""
_TURN_RAD, _TURN_STEP_RAD = 1.4, 0.7
"""Other slopes that are tried with each curvature, as phases at an array's end: least reach, and step."""
_LEAST_LEFT = 0.8
"""Of a wave's match, below which what was found about it is not taken."""
_LONG_RAD = math.pi / 2
_NUM_MATCHED = 16
"""So many of the waves found are matched exactly, on arrays whose third order is above that."""
_ROWS_AT_ONCE = 16
"""What is made for so many channels stays in the cache."""


def third_order_rad(array: LineArray) -> float:
    """The largest phase at the array's ends that the second order leaves out, of the nearest wave.

    It is pi d^3 s (1 - s^2) / (lambda r^2), largest at s^2 = 1/3 or as far from broadside as waves come.
    """
    reach_m = float(array.place_m[-1])
    sine = min(array.max_sine, math.sqrt(1 / 3))
    return math.pi * reach_m**3 * sine * (1 - sine**2) / (array.wavelength_m * array.min_distance_m**2)


def places_to_touch(array: LineArray) -> torch.Tensor:
    """The places d_0 (m) about which a chirp may match a wave, float64 [P]: centre, ends, and between.

    With phi the third order's phase at the ends, chirp and wave stay within a radian over phi^(-1/3) of the
    array's half: places lie twice as close.
    """
    phase = third_order_rad(array)
    num_each_way = math.ceil(2 * phase ** (1 / 3))
    return float(array.place_m[-1]) * torch.linspace(-1, 1, 2 * num_each_way + 1, dtype=torch.float64)


def touching(
    array: LineArray, slope: torch.Tensor, curvature: torch.Tensor, place_m: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The wave with a chirp's slope and curvature at a place: sine s and inverse distance k, from the centre.

    A chirp of s' and c (1/m) has at d_0 the slope s_0 = s' - d_0 c, which is the sine of the wave's angle as
    seen from there, and k_0 = c / (1 - s_0^2). From the centre, with w = sqrt((s_0 + d_0 k_0)^2 + 1 - s_0^2),

        s = (s_0 + d_0 k_0) / w,  k = k_0 / w

    Slopes are alike that differ by 1 / spacing: the one of least size is taken. Where it is no sine, k is
    infinite. Float64 tensors that broadcast.
    """
    period = 1 / array.spacing_wavelengths
    local = slope - place_m * curvature
    local = local - period * torch.round(local / period)
    across = 1 - local.square()
    near = curvature / across.clamp_min(1e-9)
    shifted = local + place_m * near
    far = (shifted.square() + across).clamp_min(1e-18).sqrt()
    return shifted / far, torch.where(across > 1e-6, near / far, torch.inf)


def chirp_of(
    sine: torch.Tensor, inverse_m: torch.Tensor, place_m: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The chirp that touches a wave at a place: slope and curvature (1/m). The inverse of `touching`."""
    bent = place_m * inverse_m
    w = (1 - 2 * bent * sine + bent.square()).sqrt()
    local = (sine - bent) / w
    curvature = (1 - local.square()) * inverse_m / w
    return local + place_m * curvature, curvature


def reach_of_chirps(array: LineArray, places: torch.Tensor) -> tuple[float, float]:
    """The largest slope and curvature (1/m) of chirps that touch a wave of the array at one of `places`."""
    sine = array.max_sine * torch.linspace(-1, 1, 201, dtype=torch.float64)
    nearest = torch.tensor(1 / array.min_distance_m, dtype=torch.float64)
    slope, curvature = chirp_of(sine[:, None], nearest, places)
    return float(slope.abs().max()), float(curvature.max())


class Sharpener:
    """Finds the waves that a filter's peaks mean, which know phases to second order about one place alone.

    Each peak's chirp touches a wave at each of the array's places. About the num_kept best ones others are
    looked at, of a little other slope and curvature at that place: of an array that is seen in two pieces one
    tells them by itself, and both together only where they fit to a fraction of a turn.
    """

    def __init__(self, array: LineArray, num_kept: int) -> None:
        self.array, self.num_kept = array, num_kept
        self._places = places_to_touch(array)
        self._element_m = array.place_m.float()
        self._block = math.ceil(array.num_elements / _NUM_BLOCKS)
        self._block_m = torch.stack([part.mean() for part in self._element_m.split(self._block)])
        reach_m = max(float(array.place_m[-1]), array.spacing_wavelengths * array.wavelength_m / 2)
        self._bend = array.wavelength_m / (math.pi * reach_m**2) * _BENDS_RAD
        # A peak is as much wider as its chirp is not the wave, which a turn then tells less exactly.
        third = third_order_rad(array)
        largest = max(_TURN_RAD, third ** (1 / 3))
        self._num_matched = _NUM_MATCHED if third > _LONG_RAD else 1
        num_turns = 2 * round(largest / _TURN_STEP_RAD) + 1
        turns = torch.linspace(-largest, largest, num_turns, dtype=torch.float64)
        self._turn = array.wavelength_m / (2 * math.pi * reach_m) * turns
        angle = -turns[:, None] * self._block_m.double() / reach_m
        self._turned = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)

    def __call__(
        self,
        seen: torch.Tensor,
        slope: torch.Tensor,
        curvature: torch.Tensor,
        rest: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best match of what chirps may mean, all [B]: its sine, inverse distance and |a^H seen|^2.

        seen: complex64 [B, M], 0 where hidden; slope, curvature: float64 [B, C]. rest: float32 [B], the
        energy in `seen` of what is not that wave; with it |a^H seen|^2 + rest log p(1 / r) is compared, p
        Gaussian with the moments of distances that are uniform.
        """
        found = []
        for at in range(0, len(seen), _ROWS_AT_ONCE):
            rows = slice(at, at + _ROWS_AT_ONCE)
            prior = None if rest is None else rest[rows]
            found.append(self._sharpen(seen[rows], slope[rows], curvature[rows], prior))
        sine, inverse_m, match = (torch.cat(part) for part in zip(*found, strict=True))
        return sine, inverse_m, match

    def _sharpen(
        self, seen: torch.Tensor, slope: torch.Tensor, curvature: torch.Tensor, rest: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        chirps = torch.broadcast_tensors(slope[..., None], curvature[..., None], self._places)
        slope, curvature, place_m = (part.flatten(1) for part in chirps)
        sine, inverse_m = self._waves(slope, curvature, place_m)
        exact = self._match(seen, sine, inverse_m)
        kept = self._best(exact, inverse_m, rest, self.num_kept)
        about, exact = (sine.gather(1, kept), inverse_m.gather(1, kept)), exact.gather(1, kept)
        slope, curvature, place_m = (part.gather(1, kept)[..., None] for part in (slope, curvature, place_m))
        # Bent about its place, a chirp has another slope at the centre.
        slope, curvature = slope + place_m * self._bend, curvature + self._bend
        match = self._match_turned(seen, about, self._waves(slope, curvature, place_m))
        slope, curvature, place_m = torch.broadcast_tensors(
            slope[..., None] + self._turn, curvature[..., None], place_m[..., None]
        )
        sine, inverse_m = self._waves(slope.flatten(1), curvature.flatten(1), place_m.flatten(1))
        best = self._best(match.flatten(1), inverse_m, rest, self._num_matched)
        sine, inverse_m = sine.gather(1, best), inverse_m.gather(1, best)
        exact_found = self._match(seen, sine, inverse_m)
        best = self._best(exact_found, inverse_m, rest, 1)
        sine, inverse_m, found = (part.gather(1, best)[:, 0] for part in (sine, inverse_m, exact_found))
        # Moved to where waves come from, it may be another wave than the one that was looked at.
        best = self._best(exact, about[1], rest, 1)
        before = exact.gather(1, best)[:, 0]
        lost = found < _LEAST_LEFT * before
        sine = torch.where(lost, about[0].gather(1, best)[:, 0], sine)
        inverse_m = torch.where(lost, about[1].gather(1, best)[:, 0], inverse_m)
        return sine, inverse_m, torch.where(lost, before, found)

    def _best(
        self, match: torch.Tensor, inverse_m: torch.Tensor, rest: torch.Tensor | None, num: int
    ) -> torch.Tensor:
        """Numbers of the likeliest of waves [B, C]: int64 [B, num], or of all where there are fewer."""
        if rest is not None:
            mean, var = self.array.inverse_distance()
            match = match - rest[:, None] * (inverse_m - mean).square() / (2 * var)
        return match.topk(min(num, match.shape[1]), dim=1).indices

    def _waves(
        self, slope: torch.Tensor, curvature: torch.Tensor, place_m: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sines and inverse distances, float32, of what chirps touch, moved to where waves come from."""
        array = self.array
        sine, inverse_m = touching(array, slope, curvature, place_m)
        near, far = 1 / array.min_distance_m, 1 / array.max_distance_m
        return sine.clamp(-array.max_sine, array.max_sine).float(), inverse_m.clamp(far, near).float()

    def _turns(self, place_m: torch.Tensor, sine: torch.Tensor, inverse_m: torch.Tensor) -> torch.Tensor:
        """LineArray.delay at any places, float32 [..., places]."""
        bent = place_m * inverse_m[..., None]
        lag = bent - 2 * sine[..., None]
        root = bent.mul_(lag).add_(1).sqrt_().add_(1).mul_(self.array.wavelength_m)
        return lag.mul_(place_m).div_(root)

    def _match(self, seen: torch.Tensor, sine: torch.Tensor, inverse_m: torch.Tensor) -> torch.Tensor:
        """|a^H seen|^2 of waves [B, C]."""
        return _match_of(self._turns(self._element_m, sine, inverse_m), seen[:, None])[..., 0]

    def _match_turned(
        self,
        seen: torch.Tensor,
        about: tuple[torch.Tensor, torch.Tensor],
        bent: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """|a^H seen|^2, [B, C, G, T], of waves [B, C, G] near to waves `about` [B, C], at each of the turns.

        In what the latter leave of a channel's phase the others turn slowly: elements are summed in blocks
        first. So little a turn is taken as the same phase for all of them.
        """
        turns = self._turns(self._element_m, *about)
        angle = turns.sub_(torch.round(turns)).mul_(2 * torch.pi)
        left = torch.complex(angle.cos(), angle.sin()) * seen[:, None]
        padding = -self.array.num_elements % self._block
        sums = functional.pad(left, (0, padding)).unflatten(2, (-1, self._block)).sum(dim=3)
        middle = self._turns(self._block_m, *about)[:, :, None]
        away = self._turns(self._block_m, *bent).sub_(middle)
        turned = (sums[:, :, None] * self._turned).flatten(0, 1)
        return _match_of(away.flatten(0, 1), turned).unflatten(0, about[0].shape)


def _match_of(turns: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """|sum_n exp(2 pi j t_n) y_n|^2 [B, C, T] of turns t [B, C, n], which are used up, and y [B, T, n]."""
    angle = turns.sub_(torch.round(turns)).mul_(2 * torch.pi)
    parts = torch.cat((seen.real, seen.imag), dim=1).mT
    cosines = (torch.cos(angle) @ parts).unflatten(2, (2, -1))
    sines = (angle.sin_() @ parts).unflatten(2, (2, -1))
    re, im = cosines[:, :, 0] - sines[:, :, 1], cosines[:, :, 1] + sines[:, :, 0]
    return re.square_().add_(im.square_())
