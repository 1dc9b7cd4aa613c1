"""Spherical waves that look like a chirp, a phase of second order, about some place of a line of elements.

Matched filters that are FFTs know a wave's phase to second order in an element's place d about the centre
(Fresnel), 2 pi (d s' - d^2 c / 2) / lambda, with s' the slope and c the curvature. At the ends of a long
array, or for near waves, what is left out is whole turns: a filter then matches a wave about some place d_0
alone, and means as many waves as there are places. Shapes: B channels, C chirps, P places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from scenarios.elaa.line_array import LineArray

_NEGLIGIBLE_RAD = math.pi / 2
_NUM_BLOCKS = 64
_BENDS_RAD = torch.linspace(-8, 8, 23, dtype=torch.float64)
"""Other curvatures that are tried about a chirp's place, as phases at half an array's length from it."""
_ROWS_AT_ONCE = 32
"""What is made for so many channels stays in the cache."""


def third_order_rad(array: LineArray) -> float:
    """The largest phase at the array's ends that the second order leaves out, of the nearest wave.

    It is pi d^3 s (1 - s^2) / (lambda r^2), largest at s^2 = 1/3 or as far from broadside as waves come.
    """
    reach_m = float(array.place_m[-1])
    sine = min(array.max_sine, math.sqrt(1 / 3))
    return math.pi * reach_m**3 * sine * (1 - sine**2) / (array.wavelength_m * array.min_distance_m**2)


def places_to_touch(array: LineArray) -> torch.Tensor:
    """The places d_0 (m) about which a chirp may match a wave, float64 [P]: of short arrays the centre alone.

    With phi the third order's phase at the ends, chirp and wave stay within a radian over phi^(-1/3) of the
    array's half: places lie twice as close.
    """
    phase = third_order_rad(array)
    if phase <= _NEGLIGIBLE_RAD:
        return torch.zeros(1, dtype=torch.float64)
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


def reach_of_chirps(array: LineArray) -> tuple[float, float]:
    """The largest slope and curvature (1/m) of chirps that touch a wave of the array at one of its places."""
    sine = array.max_sine * torch.linspace(-1, 1, 201, dtype=torch.float64)
    nearest = torch.tensor(1 / array.min_distance_m, dtype=torch.float64)
    slope, curvature = chirp_of(sine[:, None], nearest, places_to_touch(array))
    return float(slope.abs().max()), float(curvature.max())


@dataclass(frozen=True)
class Sharpening:
    """How the wave is found that a filter's peaks mean: num_kept of all are looked at closely.

    turn_rad, num_turns: other slopes that are tried with each curvature, as phases at an array's end.
    """

    num_kept: int
    turn_rad: float
    num_turns: int


def sharpen(
    array: LineArray,
    seen: torch.Tensor,
    slope: torch.Tensor,
    curvature: torch.Tensor,
    how: Sharpening,
    rest: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The wave that matches best of those that chirps may mean: sine, inverse distance and |a^H seen|^2, [B].

    Each chirp touches a wave at each of the array's places. About the best ones others are looked at, of a
    little other slope and curvature at that place: of an array that is seen in two pieces one tells them by
    itself, and both together only where they fit to a fraction of a turn. seen: complex64 [B, M], 0 where
    hidden; slope, curvature: float64 [B, C]. rest: float32 [B], the energy in `seen` of what is not that
    wave; with it |a^H seen|^2 + rest log p(1 / r) is compared, p Gaussian with the moments of distances that
    are uniform.
    """
    found = []
    for at in range(0, len(seen), _ROWS_AT_ONCE):
        rows = slice(at, at + _ROWS_AT_ONCE)
        chirps = _at_places(array, slope[rows], curvature[rows])
        prior = None if rest is None else rest[rows]
        found.append(_sharpen(array, seen[rows], chirps, how, prior))
    sine, inverse_m, match = (torch.cat(part) for part in zip(*found, strict=True))
    return sine, inverse_m, match


def _at_places(
    array: LineArray, slope: torch.Tensor, curvature: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Chirps [B, C] at each of the array's places: slopes, curvatures and places, [B, C P]."""
    places = places_to_touch(array).expand(*slope.shape, -1)
    slope, curvature, places = torch.broadcast_tensors(slope[..., None], curvature[..., None], places)
    return slope.flatten(1), curvature.flatten(1), places.flatten(1)


def _sharpen(
    array: LineArray,
    seen: torch.Tensor,
    chirps: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    how: Sharpening,
    rest: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`sharpen` of a few channels, their chirps at places they touch."""
    sine, inverse_m = _waves(array, *chirps)
    match = _match(array, seen, sine, inverse_m)
    kept = _best(array, match, inverse_m, rest, min(how.num_kept, match.shape[1]))
    about = (sine.gather(1, kept), inverse_m.gather(1, kept))
    slope, curvature, place_m = (part.gather(1, kept)[..., None, None] for part in chirps)

    reach_m = (array.num_elements - 1) / 2 * array.spacing_wavelengths * array.wavelength_m
    bend = array.wavelength_m / (math.pi * reach_m**2) * _BENDS_RAD[:, None]
    turns = torch.linspace(-how.turn_rad, how.turn_rad, how.num_turns, dtype=torch.float64)
    turn = array.wavelength_m / (2 * math.pi * reach_m) * turns
    # Bent about its place, a chirp has another slope at the centre.
    others = _waves(array, slope + place_m * bend + turn, curvature + bend + 0 * turn, place_m)
    match = _match_in_blocks(array, seen, about, others).flatten(1)
    sine, inverse_m = (part.flatten(1) for part in others)
    best = _best(array, match, inverse_m, rest, 1)
    sine, inverse_m = sine.gather(1, best), inverse_m.gather(1, best)
    return sine[:, 0], inverse_m[:, 0], _match(array, seen, sine, inverse_m)[:, 0]


def _best(
    array: LineArray, match: torch.Tensor, inverse_m: torch.Tensor, rest: torch.Tensor | None, num: int
) -> torch.Tensor:
    """Numbers of the likeliest of waves [B, C]: int64 [B, num]."""
    if rest is not None:
        mean, var = array.inverse_distance()
        match = match - rest[:, None] * (inverse_m - mean).square() / (2 * var)
    return match.topk(num, dim=1).indices


def _waves(
    array: LineArray, slope: torch.Tensor, curvature: torch.Tensor, place_m: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sines and inverse distances, float32, of what chirps touch, moved to where waves come from."""
    sine, inverse_m = touching(array, slope, curvature, place_m)
    near, far = 1 / array.min_distance_m, 1 / array.max_distance_m
    return sine.clamp(-array.max_sine, array.max_sine).float(), inverse_m.clamp(far, near).float()


def _turns(
    array: LineArray, place_m: torch.Tensor, sine: torch.Tensor, inverse_m: torch.Tensor
) -> torch.Tensor:
    """LineArray.delay at any places, float32 [..., places]."""
    bent = place_m * inverse_m[..., None]
    lag = bent - 2 * sine[..., None]
    return place_m * lag / ((1 + torch.sqrt(1 + bent * lag)) * array.wavelength_m)


def _phasors(turns: torch.Tensor) -> torch.Tensor:
    angle = (torch.round(turns) - turns) * (2 * torch.pi)
    return torch.complex(torch.cos(angle), torch.sin(angle))


def _fields(array: LineArray, sine: torch.Tensor, inverse_m: torch.Tensor) -> torch.Tensor:
    return _phasors(_turns(array, array.place_m.float(), sine, inverse_m))


def _match(array: LineArray, seen: torch.Tensor, sine: torch.Tensor, inverse_m: torch.Tensor) -> torch.Tensor:
    """|a^H seen|^2 of waves [B, C]."""
    return (_fields(array, sine, inverse_m).conj() @ seen[..., None])[..., 0].abs().square()


def _match_in_blocks(
    array: LineArray,
    seen: torch.Tensor,
    about: tuple[torch.Tensor, torch.Tensor],
    others: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """|a^H seen|^2, [B, C, ...], of waves [B, C, ...] near to waves `about` [B, C].

    In what the latter leave of a channel's phase the others turn slowly: elements are summed in blocks first.
    """
    block = math.ceil(array.num_elements / _NUM_BLOCKS)
    padding = -array.num_elements % block
    left = _fields(array, *about).conj() * seen[:, None]
    sums = functional.pad(left, (0, padding)).unflatten(2, (-1, block)).sum(dim=3)
    place_m = torch.stack([part.mean() for part in array.place_m.float().split(block)])
    middle = _turns(array, place_m, *about)[:, :, None, None]
    turned = _phasors(_turns(array, place_m, *others) - middle)
    return (turned.conj() @ sums[:, :, None, :, None])[..., 0].abs().square()
