"""The strongest wave that an array receives: by FFT on a line of elements, by products with a grid's else."""

from __future__ import annotations

import math

import torch

from channels.near_field import NearFieldConfig, response
from scenarios.elaa.chirps import Sharpener, places_to_touch, reach_of_chirps, third_order_rad, touching
from scenarios.elaa.line_array import LineArray

_RING_RAD = 2.0
"""Phase at the array's end from one ring to the next: half of it lies between a wave and its nearest ring."""
_NEGLIGIBLE_RAD = math.pi / 2
"""Of the third order's phase: up to it a frame that is looked for closely gains a network little."""
_CHUNK = 8
"""Channels at a time: what is made for them stays in the cache."""
_NOWHERE = -1e6
"""Logarithm of the prior where no waves come from."""
_NUMBERS_KEPT = 1 << 22
"""Heights that are kept of the whole grid, of as many channels as that makes."""


class WaveSearch:
    """Matched filters to second order in an element's place d, over a grid of angles and distances.

    To second order the phase of a wave is 2 pi (d s - d^2 c / 2) / lambda with s the sine of its angle and
    c = (1 - s^2) / r: for each c (a ring) the correlations with all s are an FFT. Rings of c are `ring_rad`
    of phase apart at the array's end, the grid has `oversampling` angles or more to a beam. The largest of
    |correlation|^2 + rest log p(1 / r) is taken, p Gaussian with the moments of distances that are uniform,
    and where the third order counts the likeliest of the waves that it may mean, see `chirps.Sharpener`.
    """

    def __init__(
        self, config: NearFieldConfig, oversampling: float, num_rings: int | None, ring_rad: float = _RING_RAD
    ) -> None:
        """Needs a line of elements of which no two angles look alike: see `suits`."""
        num = config.num_elements
        line = self._line = LineArray.of(config)
        half_m = (num - 1) / 2 * config.spacing_wavelengths * config.wavelength_m()
        bend = math.pi / config.wavelength_m() * half_m**2
        self._sharpen: Sharpener | None = None
        places = torch.zeros(1, dtype=torch.float64)
        if third_order_rad(line) > _NEGLIGIBLE_RAD:
            self._sharpen = Sharpener(line, num_kept=2)
            places = places_to_touch(line)
        largest, most_bent = reach_of_chirps(line, places)
        largest = min(largest, 0.5 / config.spacing_wavelengths)
        if num_rings is None:
            num_rings = math.ceil(bend * most_bent / ring_rad) + 1
        self._length = 1 << (math.ceil(oversampling * num) - 1).bit_length()
        # A step of the FFT in the slope; the grid starts at the smallest, so the wanted ones come first.
        step = 1 / (self._length * config.spacing_wavelengths)
        num_slopes = min(self._length, math.ceil(2 * largest / step) + 1)
        self._slope = -largest + step * torch.arange(num_slopes, dtype=torch.float64)
        self._curvature = torch.linspace(0, most_bent, num_rings, dtype=torch.float64)
        step_curvature = float(self._curvature[1]) if num_rings > 1 else most_bent
        number = torch.arange(num, dtype=torch.float64)
        start = 2 * math.pi * largest * config.spacing_wavelengths * number
        curved = bend * self._curvature[:, None] * torch.linspace(-1, 1, num, dtype=torch.float64).square()
        self._chirp = torch.polar(torch.ones_like(curved), start + curved).to(torch.complex64)
        self.prior_mean, self.prior_var = line.inverse_distance()
        log_prior = torch.full((num_rings, num_slopes), _NOWHERE, dtype=torch.float64)
        # Half a ring more, for what lies between.
        least = self._curvature[:, None] - step_curvature / 2
        for place in places:
            _, nearest = touching(line, self._slope, least, place)
            sine, inverse_m = touching(line, self._slope, self._curvature[:, None], place)
            inside = (nearest * config.min_distance_m <= 1) & (sine.abs() <= line.max_sine + step)
            likely = -(inverse_m - self.prior_mean).square() / (2 * self.prior_var)
            log_prior = torch.where(inside, torch.maximum(log_prior, likely), log_prior)
        self._log_prior = log_prior.float()
        self.cell = (2 * math.pi / config.wavelength_m() * half_m * step, bend * step_curvature)

    @staticmethod
    def suits(config: NearFieldConfig) -> bool:
        """Whether the array is a line whose spacing leaves no angle ambiguous."""
        largest = math.sin(math.radians(config.max_angle_deg))
        return config.num_rows == 1 and config.spacing_wavelengths * largest < 0.5

    def __call__(self, y: torch.Tensor, rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds the likeliest waves in y, complex64 [N, M]: what they are at the elements, complex64 [N, M].

        And where they come from, float32 [N, 3]: the angle's sine, the inverse of the distance in units of
        its largest, the elevation's sine. rest: float32 [N], the energy in y of what is not that wave.
        """
        rows = max(_CHUNK, _NUMBERS_KEPT // self._log_prior.numel())
        found = [self._best(y[at : at + rows], rest[at : at + rows]) for at in range(0, len(y), rows)]
        sine = self._slope[torch.cat([best for best, _ in found])]
        curvature = self._curvature[torch.cat([ring for _, ring in found])]
        inverse_m = curvature / (1 - sine.square())
        if self._sharpen is not None:
            sine, inverse_m, _ = self._sharpen(y, sine[:, None], curvature[:, None], rest)
        about = torch.stack((sine, inverse_m * self._line.min_distance_m, torch.zeros_like(sine)), dim=1)
        return self._line.response(sine, inverse_m), about.float()

    def _best(self, y: torch.Tensor, rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers of the best slope and ring of each of N channels, int64 [N] each."""
        num_rings, num_slopes = self._log_prior.shape
        padded = torch.zeros((min(_CHUNK, len(y)), num_rings, self._length), dtype=torch.complex64)
        match, peak = torch.empty((len(y), num_rings, num_slopes)), torch.empty((len(y), num_slopes))
        for at in range(0, len(y), _CHUNK):
            rows = slice(at, at + _CHUNK)
            part = y[rows, None]
            num = len(part)
            torch.mul(part, self._chirp, out=padded[:num, :, : y.shape[1]])
            # Told where to put it, the FFT copies its result there.
            spectrum = torch.fft.fft(padded[:num])
            squares = torch.view_as_real(spectrum[:, :, :num_slopes]).square_()
            power = torch.add(squares[..., 0], squares[..., 1], out=match[rows])
            power.addcmul_(rest[rows, None, None], self._log_prior)
            torch.amax(power, dim=1, out=peak[rows])
        best = _between(peak).argmax(dim=1)
        along = match.gather(2, best[:, None, None].expand(-1, num_rings, 1))[:, :, 0]
        return best, along.argmax(dim=1)


def _between(power: torch.Tensor) -> torch.Tensor:
    """Heights [N, S] of parabolas through each number and its neighbours where it is larger than both.

    Without them the largest peak is often one that happens to lie on the grid: of an array that is visible
    in two pieces the side lobes are nearly as high as the main one.
    """
    left, middle, right = power[:, :-2], power[:, 1:-1], power[:, 2:]
    fall = (2 * middle - left - right).clamp_min(1e-12)
    more = (right - left).square_().div_(fall).mul_(0.125)
    height = power.clone()
    height[:, 1:-1] += more * ((middle >= left) & (middle >= right))
    return height


class AtomSearch:
    """Matched filters for every place of a grid: for several rows of elements, or ambiguous angles.

    The grid is uniform in the sine of the angle, `oversampling` atoms to a beam width, and in the inverse of
    the distance (Cui and Dai 2022).
    """

    def __init__(self, config: NearFieldConfig, oversampling: float, num_rings: int) -> None:
        num_columns = config.num_elements // config.num_rows
        largest = math.sin(math.radians(config.max_angle_deg))
        num_beams = max(2, math.ceil(oversampling * num_columns * config.spacing_wavelengths * 2 * largest))
        sine = torch.linspace(-largest, largest, num_beams, dtype=torch.float64)
        ring = torch.linspace(
            1 / config.max_distance_m, 1 / config.min_distance_m, num_rings, dtype=torch.float64
        )
        elevation = torch.zeros(1, dtype=torch.float64)
        if config.num_rows > 1:
            top = math.sin(math.radians(config.max_elevation_deg))
            num_up = max(2, math.ceil(oversampling * config.num_rows * config.spacing_wavelengths * 2 * top))
            elevation = torch.asin(torch.linspace(-top, top, num_up, dtype=torch.float64))
        sines, rings, elevations = (
            part.flatten() for part in torch.meshgrid(sine, ring, elevation, indexing="ij")
        )
        self._atoms = response(config, 1 / rings, torch.asin(sines), elevations)
        self._about = torch.stack((sines, rings * config.min_distance_m, elevations.sin()), dim=1).float()
        half_m = (num_columns - 1) / 2 * config.spacing_wavelengths * config.wavelength_m()
        wave = 2 * math.pi / config.wavelength_m()
        # No prior beyond the grid's range.
        self.prior_mean, self.prior_var = 0.0, math.inf
        # Several rows keep to the grid.
        self.cell: tuple[float, float] | None = None
        if config.num_rows == 1:
            between = float(ring[1] - ring[0] if num_rings > 1 else ring[0])
            self.cell = (wave * half_m * float(sine[1] - sine[0]), wave * half_m**2 / 2 * between)

    def __call__(self, y: torch.Tensor, rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds the strongest waves in y: see WaveSearch; rest doesn't matter."""
        best = torch.view_as_real(y @ self._atoms.mH).square().sum(dim=2).argmax(dim=1)
        return self._atoms[best], self._about[best]
