"""The strongest path in a residual: matched filters over all angles by FFT, on rings of distance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from scenarios.elaa.chirps import Sharpener, places_to_touch, reach_of_chirps, touching
from scenarios.elaa.dictionaries import MAX_BYTES, check_size, ring_spacing_per_m
from scenarios.elaa.line_array import LineArray, phasor
from scenarios.elaa.path_refinement import PathSet
from semcom.contracts import SemcomError

_NUM_CANDIDATES = 8
_CHUNK = 8
"""Channels at a time: what is made for them stays in the cache."""
_NUMBERS_AT_ONCE = 1 << 26
"""Correlations at a time, where a single channel has so many that a chunk would not fit in memory."""


@dataclass(frozen=True)
class PathSearch:
    """Matched filters to second order in the elements' places (Fresnel), exact enough to start from.

    (r_n - r) is about -d s + d^2 c / 2 with c = (1 - s^2) / r: for each c (a ring) the correlation over all s
    is an FFT. Of the waves that look like one of the largest peaks about some place of the array the one that
    matches best is taken: `sharpen`. chirp: complex64 [R, M], exp(+j pi d^2 c / lambda); curvature: float32
    [R]; slope: float32 [S]; allowed: float32 [R, S], 0 where waves would come from nearer than the smallest
    distance, else 1.
    """

    array: LineArray
    chirp: torch.Tensor
    curvature: torch.Tensor
    slope: torch.Tensor
    allowed: torch.Tensor
    sharpen: Sharpener

    def strongest(self, residual: torch.Tensor, visible: torch.Tensor) -> tuple[PathSet, torch.Tensor]:
        """The path of the largest |a^H residual|, and |a^H residual|^2 / visible elements, float32 [B].

        residual: complex64 [B, M]; visible: bool [B, M].
        """
        seen = torch.where(visible, residual, 0)
        chunk = max(1, min(_CHUNK, _NUMBERS_AT_ONCE // self.allowed.numel()))
        padded = torch.zeros((chunk, *self.allowed.shape), dtype=torch.complex64)
        peaks = [self._peaks(seen[i : i + chunk], padded) for i in range(0, len(seen), chunk)]
        ring, number = (torch.cat(part) for part in zip(*peaks, strict=True))
        slope, curvature = self._slopes(number.double()), ring.double() * float(self.curvature[1])
        sine, inverse_m, peak = self.sharpen(seen, slope, curvature)
        num_seen = visible.sum(dim=1)
        unit = PathSet(torch.ones((len(seen), 1), dtype=torch.complex64), sine[:, None], inverse_m[:, None])
        gain = (unit.waves(self.array).field[:, 0].conj() * seen).sum(dim=1) / num_seen
        return PathSet(gain[:, None], unit.sine, unit.inverse_m), peak / num_seen

    def _slopes(self, number: torch.Tensor) -> torch.Tensor:
        """The slopes at angles' numbers, which are sines where a chirp touches at the centre."""
        turns = torch.where(number < len(self.slope) / 2, number, number - len(self.slope)) / len(self.slope)
        return turns / self.array.spacing_wavelengths

    def _peaks(self, seen: torch.Tensor, padded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rings and angles [B, C] of the largest peaks; padded is 0 beyond the elements."""
        part = padded[: len(seen)]
        torch.mul(seen[:, None], self.chirp, out=part[..., : seen.shape[1]])
        parts = torch.view_as_real(torch.fft.fft(part))
        match = parts[..., 0].square().addcmul_(parts[..., 1], parts[..., 1]).mul_(self.allowed)
        by_angle = match.amax(dim=1)
        is_peak = (by_angle >= by_angle.roll(1, dims=1)) & (by_angle >= by_angle.roll(-1, dims=1))
        num = min(_NUM_CANDIDATES, by_angle.shape[1])
        number = (by_angle * is_peak).topk(num, dim=1).indices
        ring = match.gather(2, number[:, None].expand(-1, match.shape[1], -1)).argmax(dim=1)
        return self._between(match, ring, number)

    def _between(
        self, match: torch.Tensor, ring: torch.Tensor, number: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Moves peaks [B, C] to where parabolas through their neighbours have them: rings and angles."""
        num_rings, num_angles = self.allowed.shape
        flat = match.flatten(1)
        rows = [part.clamp(0, num_rings - 1) * num_angles for part in (ring - 1, ring, ring + 1)]
        columns = [part % num_angles for part in (number - 1, number, number + 1)]
        at = [[flat.gather(1, row + column) for column in columns] for row in rows]
        middle = at[1][1]
        slope_x, slope_y = (at[1][2] - at[1][0]) / 2, (at[2][1] - at[0][1]) / 2
        bend_x = at[1][2] + at[1][0] - 2 * middle
        bend_y = at[2][1] + at[0][1] - 2 * middle
        twist = (at[2][2] - at[2][0] - at[0][2] + at[0][0]) / 4
        area = bend_x * bend_y - twist**2
        # At an edge of what is allowed there is no neighbour, and no parabola where they don't bend down.
        inside = torch.stack([each for row in at for each in row]).amin(dim=0) > 0
        inside &= (ring > 0) & (ring < num_rings - 1) & (bend_x < 0) & (area > 1e-3 * bend_x * bend_y)
        area = torch.where(inside, area, 1)
        over = torch.where(inside, (twist * slope_y - bend_y * slope_x) / area, 0).clamp(-1, 1)
        up = torch.where(inside, (twist * slope_x - bend_x * slope_y) / area, 0).clamp(-1, 1)
        return ring + up, number + over


@lru_cache(maxsize=8)
def path_search(array: LineArray, oversampling: float, coherence_scale: float) -> PathSearch:
    """Makes the matched filters of an array; rings as in `polar_dictionary`.

    Raises SemcomError as `check_search`.
    """
    num_rings, num_angles = check_search(array, oversampling, coherence_scale)
    step = ring_spacing_per_m(array, coherence_scale)
    curvature = torch.arange(num_rings, dtype=torch.float64) * step
    chirp = phasor(-curvature[:, None] * array.place_m**2 / (2 * array.wavelength_m))
    number = torch.arange(num_angles, dtype=torch.float64)
    turns = torch.where(number < num_angles / 2, number, number - num_angles) / num_angles
    slope = turns / array.spacing_wavelengths
    # Half a ring more, for what lies between.
    near = curvature[:, None] - step / 2
    allowed = torch.zeros((num_rings, num_angles), dtype=torch.bool)
    for place in places_to_touch(array):
        sine, inverse_m = touching(array, slope, near, place)
        inside = (sine.abs() <= array.max_sine + 1 / array.num_elements) & (sine.abs() < 0.999)
        allowed |= inside & (inverse_m * array.min_distance_m <= 1)
    sharpen = Sharpener(array, num_kept=8)
    return PathSearch(array, chirp, curvature.float(), slope.float(), allowed.float(), sharpen)


def check_search(array: LineArray, oversampling: float, coherence_scale: float) -> tuple[int, int]:
    """How many rings and angles a search has.

    Raises SemcomError where elements are so far apart that angles are ambiguous, and for too large a search.
    """
    if array.spacing_wavelengths * array.max_sine > 0.5:
        raise SemcomError(
            f"spacing of {array.spacing_wavelengths} wavelengths: angles to {array.max_sine:.2f} in sine are "
            "ambiguous, so take 0.5 or less"
        )
    if oversampling < 1 or coherence_scale <= 0:
        raise SemcomError(
            f"oversampling {oversampling} and coherence_scale {coherence_scale}: take 1 or more, and above 0"
        )
    step = ring_spacing_per_m(array, coherence_scale)
    _, largest = reach_of_chirps(array, places_to_touch(array))
    num_rings = int(largest / step) + 2
    num_angles = 1 << (round(oversampling * array.num_elements) - 1).bit_length()
    check_size(num_rings, num_angles, MAX_BYTES, "a larger coherence_scale")
    return num_rings, num_angles
