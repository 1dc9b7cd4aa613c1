"""A sub-array's embedding: the strongest plane wave on its own elements, and what that wave leaves.

Raw CSI of one sub-array has no frame in common with that of another, and most of its bits would tell one
wave's phase over and over. The unit takes that wave out and sends it as four numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scenarios.elaa.methods import Patch

NUM_OF_WAVE = 4
"""How many numbers stand for the wave."""
_BIN = 2 * math.pi / math.sqrt(12)
"""Root mean square, over the elements, of the field's change for a frequency that is off by one bin 1 / m."""
_OVERSAMPLING = 4
_NEWTON_STEPS = 3


@dataclass(frozen=True)
class LocalWave:
    """w_i = g exp(j 2 pi f x_i), x_i = i - (m - 1) / 2, on each of n sub-arrays of m elements.

    frequency: float32 [n], f in turns an element; gain: complex64 [n], g at the sub-array's centre.
    """

    frequency: torch.Tensor
    gain: torch.Tensor

    def turn(self, size: int) -> torch.Tensor:
        """The wave's phase factors, of modulus one at the centre's phase: complex64 [n, m]."""
        phase = 2 * math.pi * self.frequency[:, None] * places(size)
        return torch.complex(phase.cos(), phase.sin())

    def field(self, size: int) -> torch.Tensor:
        """The wave at the elements, complex64 [n, m]."""
        return self.gain[:, None] * self.turn(size)


def places(size: int) -> torch.Tensor:
    """Places x_i of a sub-array's elements around its centre, in spacings, float32 [m]."""
    return torch.arange(size) - (size - 1) / 2


def find_wave(y: torch.Tensor, visible: torch.Tensor) -> LocalWave:
    """Finds the wave of least squares: the peak of an oversampled FFT, then Newton's method on |s(f)|^2.

    s(f) = sum_i exp(-j 2 pi f x_i) y_i over visible elements; g = s / their number. y: complex64 [n, m],
    0 where hidden; visible: bool [n, m]. Where nothing is visible the gain is 0.
    """
    size = y.shape[1]
    length = _OVERSAMPLING * size
    squares = torch.view_as_real(torch.fft.fft(y, n=length)).square().sum(dim=2)
    frequency = (squares.argmax(dim=1) / length + 0.5) % 1 - 0.5
    x = places(size)
    powers = torch.stack((torch.ones_like(x), x, x.square())).to(y.dtype)
    radian = 2 * math.pi * frequency
    half_bin = math.pi / length
    least, most = radian - half_bin, radian + half_bin
    for _ in range(_NEWTON_STEPS):
        phase = radian[:, None] * x
        turned = y * torch.complex(phase.cos(), -phase.sin())
        s0, s1, s2 = ((turned * power).sum(dim=1) for power in powers)
        slope = 2 * (s0.conj() * s1).imag
        bend = 2 * (s1.abs().square() - (s0.conj() * s2).real)
        step = torch.where(bend < 0, -slope / bend.clamp_max(-1e-12), 0)
        radian = torch.maximum(torch.minimum(radian + step, most), least)
    phase = radian[:, None] * x
    peak = (y * torch.complex(phase.cos(), -phase.sin())).sum(dim=1)
    return LocalWave(radian / (2 * math.pi), peak / visible.sum(dim=1).clamp_min(1))


def embed_wave(patch: Patch) -> torch.Tensor:
    """Embeds what n sub-arrays receive: float32 [n, 4 + 2 m], the wave and the rest in the wave's frame.

    k u, (m f - k) u with k = round(m f), Re g, Im g; then (y_i - w_i) exp(-j 2 pi f x_i) / sqrt(m). So
    scaled, an error of 1 in any number is about one of 1 in an element's root mean square: what rounds all
    of them by one step shares its bits out well. u = 2 pi / sqrt(12).
    """
    size = patch.y.shape[1]
    wave = find_wave(patch.y, patch.visible)
    bins = size * wave.frequency
    whole = bins.round()
    told = torch.stack((whole * _BIN, (bins - whole) * _BIN, wave.gain.real, wave.gain.imag), dim=1)
    rest = (patch.y - wave.field(size)) * patch.visible * wave.turn(size).conj()
    return torch.cat((told, torch.view_as_real(rest / math.sqrt(size)).flatten(1)), dim=1)


def rebuild_wave(tokens: torch.Tensor) -> torch.Tensor:
    """What embeddings [..., 4 + 2 m] stand for, rounded or not: complex64 [..., m]."""
    flat = tokens.flatten(0, -2)
    size = (flat.shape[1] - NUM_OF_WAVE) // 2
    # The whole bin is a whole number: rounding that is coarse elsewhere is none here.
    bins = (flat[:, 0] / _BIN).round() + flat[:, 1] / _BIN
    wave = LocalWave(bins / size, torch.complex(flat[:, 2], flat[:, 3]))
    rest = torch.view_as_complex(flat[:, NUM_OF_WAVE:].unflatten(1, (-1, 2)).contiguous())
    field = wave.turn(size) * (wave.gain[:, None] + rest * math.sqrt(size))
    return field.unflatten(0, tokens.shape[:-1])
