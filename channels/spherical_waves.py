"""Spherical waves at the elements of an array: exact path differences and fast sums of many waves."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from channels.multipath import SPEED_OF_LIGHT_M_PER_S

# Elements at once: a few buffers of so many float64 fit the cache, and torch starts no threads for them.
_ELEMENTS_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Waves:
    """B sums of P waves, each from a point.

    gain: complex [B, P], at the array's centre and the carrier, 0 where there is no wave; distance_m:
    float64 [B, P], from the centre; direction: float64 [B, P, 3], unit vectors from the centre;
    lag_m: float64 [B, P], how far the wave has gone more than what a frequency's phase counts from.
    """

    gain: torch.Tensor
    distance_m: torch.Tensor
    direction: torch.Tensor
    lag_m: torch.Tensor


def differences_m(
    element_m: torch.Tensor, distance_m: torch.Tensor, direction: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much farther than the centre each element is from a point, and how far: float64 [..., M] each.

        r_n - r = (|p_n|^2 - 2 r u . p_n) / (r_n + r),    r_n = sqrt(r^2 + |p_n|^2 - 2 r u . p_n)

    r_n - r as it stands loses the digits that a wavelength needs; this form has no cancellation and no
    Fresnel approximation. element_m: p_n, float64 [M, 3]; distance_m: r, [...]; direction: u, [..., 3].
    """
    across = element_m.square().sum(dim=-1).expand(*distance_m.shape, -1).clone()
    scaled = -2 * distance_m[..., None] * direction
    # One axis after the other: a matrix product's last bits depend on how many rows it has.
    for axis in range(3):
        if bool(element_m[:, axis].any()):
            across.addcmul_(scaled[..., axis, None], element_m[:, axis])
    away_m = (across + distance_m.square()[..., None]).sqrt_()
    return across.div_(away_m + distance_m[..., None]), away_m


def sum_waves(
    element_m: torch.Tensor, waves: Waves, carrier_hz: float, offset_hz: torch.Tensor, spreading: bool
) -> torch.Tensor:
    """Sums waves at each element and frequency, complex64 [B, F, M].

        h[f, n] = sum_p g_p s_n exp(-j 2 pi [(f_c + f)(r_n - r_p) + f lag_p]/c)

    s_n is 1, or r_p/r_n with `spreading`. Path differences and phases modulo 2 pi are computed in float64,
    the rest in float32. Rows are computed in chunks that fit the cache, on torch's number of threads; a
    row doesn't depend on its company.
    """
    num_rows, (num_elements, num_offsets) = len(waves.gain), (len(element_m), len(offset_hz))
    h = torch.empty((num_rows, num_offsets, num_elements), dtype=torch.complex64)
    size = max(1, _ELEMENTS_AT_ONCE // (num_elements * min(num_offsets, 8)))

    def fill(first: int) -> None:
        some = slice(first, first + size)
        part = Waves(waves.gain[some], waves.distance_m[some], waves.direction[some], waves.lag_m[some])
        h[some] = _chunk(element_m, part, carrier_hz, offset_hz, spreading)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, range(0, num_rows, size)))
    return h


def _chunk(
    element_m: torch.Tensor, waves: Waves, carrier_hz: float, offset_hz: torch.Tensor, spreading: bool
) -> torch.Tensor:
    num_rows, num_waves = waves.gain.shape
    real, imaginary = torch.zeros((2, len(offset_hz), num_rows, len(element_m)))
    amplitude = waves.gain.abs().to(torch.float32)
    gain_turns = waves.gain.to(torch.complex128).angle() / (2 * math.pi)
    for wave in range(num_waves):
        rows = amplitude[:, wave].nonzero()[:, 0]
        if not len(rows):
            continue
        distance_m = waves.distance_m[rows, wave]
        nearer_m, away_m = differences_m(element_m, distance_m, waves.direction[rows, wave])
        size = amplitude[rows, wave, None]
        if spreading:
            size = size * (distance_m[:, None] / away_m).to(torch.float32)
        for number, hz in enumerate(offset_hz.tolist()):
            begin = gain_turns[rows, wave] - hz / SPEED_OF_LIGHT_M_PER_S * waves.lag_m[rows, wave]
            turns = torch.sub(begin[:, None], nearer_m, alpha=(carrier_hz + hz) / SPEED_OF_LIGHT_M_PER_S)
            phase = turns.sub_(turns.round()).to(torch.float32).mul_(2 * math.pi)
            for part, of_phase in ((real, phase.cos()), (imaginary, phase.sin_())):
                if len(rows) == num_rows:
                    part[number].addcmul_(of_phase, size)
                else:
                    part[number].index_add_(0, rows, of_phase.mul_(size))
    return torch.complex(real, imaginary).transpose(0, 1)
