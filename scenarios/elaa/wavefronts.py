"""Wavefronts on a grid that both ends of a feedback know, and a channel's strongest one among them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from scenarios.elaa.line_array import LineArray
from semcom.contracts import SemcomError

_BATCH = 512
_OVERSAMPLING = 4


class WavefrontGrid:
    """Wavefronts e^(j phi) a(s, k): num_sines sines, num_rings curvatures, num_phases phases.

    s lies between the sines of the array's largest angles, k (1 - s^2) from 0 to 1 / min_distance_m, phi all
    round the circle; all evenly. A channel's a(s, k) is the response on that grid with the largest |a^H h|
    (found on the Fresnel approximation of each ring by a Fourier transform, then among its exact neighbours),
    its phi the phase of a^H h, rounded.
    """

    def __init__(self, array: LineArray, num_sines: int, num_rings: int, num_phases: int) -> None:
        if min(num_sines, num_rings, num_phases) < 2:
            raise SemcomError(
                f"num_sines {num_sines}, num_rings {num_rings} and num_phases {num_phases}: "
                "each has to be 2 or more"
            )
        self.array, self.sizes = array, (num_sines, num_rings, num_phases)
        limit = min(array.max_sine, 0.999)
        self.sines = torch.linspace(-limit, limit, num_sines, dtype=torch.float64)
        self.curvatures = torch.linspace(0, 1 / array.min_distance_m, num_rings, dtype=torch.float64)
        self._last: tuple[tuple[Any, ...], torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # What the last channels were split into only saves the time of splitting them again.
        return {**self.__dict__, "_last": None}

    def directions(self, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sines and inverse distances (1/m) of places int64 [..., 2], sine and ring: float64 [...] each."""
        sine = self.sines[place[..., 0]]
        return sine, self.curvatures[place[..., 1]] / (1 - sine.square())

    def responses(self, place: torch.Tensor) -> torch.Tensor:
        """The responses at places int64 [N, ..., 2] of the grid, complex64 [N, ..., M]."""
        return torch.cat([self.array.response(*self.directions(part)) for part in place.split(_BATCH)])

    def phases(self, inner: torch.Tensor) -> torch.Tensor:
        """The phases of inner products [N], rounded: int64 [N]."""
        turns = torch.angle(inner).double() / (2 * torch.pi)
        return (turns * self.sizes[2]).round().long() % self.sizes[2]

    def wavefronts(self, head: torch.Tensor) -> torch.Tensor:
        """The wavefronts of symbols int64 [N, 3]: sine, ring and phase; complex64 [N, M]."""
        angle = head[:, 2:] * (2 * torch.pi / self.sizes[2])
        return self.responses(head[:, :2]) * torch.polar(torch.ones_like(angle), angle)

    def split(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The symbols of the wavefronts of channels [N, M], int64 [N, 3], and h without them, [N, M]."""
        heads = [torch.zeros(0, 3, dtype=torch.int64)]
        rest = [h[:0]]
        for part in h.split(_BATCH) if len(h) else ():
            place, inner = self._nearest(part)
            heads.append(torch.cat([place, self.phases(inner)[:, None]], dim=1))
            rest.append(part * self.wavefronts(heads[-1]).conj())
        return torch.cat(heads), torch.cat(rest)

    def split_training(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `split`, of the same tensor only once: codecs are fitted to it again for other bits."""
        mark = (h.data_ptr(), h.shape, h._version)
        last = self._last
        if last is None or last[0] != mark:
            # The tensor is kept so that its memory can't become another's.
            last = self._last = (mark, h, *self.split(h))
        return last[2], last[3]

    def _coarse(self, h: torch.Tensor) -> torch.Tensor:
        """The best place on the grid by the Fresnel approximation, int64 [n, 2]: sine, ring."""
        array = self.array
        size = _OVERSAMPLING * array.num_elements
        # (r_n - r) is about d^2 k (1 - s^2) / 2 - d s: a ring's chirp, then a frequency for each sine.
        turns = array.place_m**2 * self.curvatures[:, None] / (2 * array.wavelength_m)
        chirp = torch.polar(torch.ones_like(turns), 2 * torch.pi * (turns - turns.round())).to(h.dtype)
        spectrum = torch.fft.fft(h[:, None] * chirp, n=size, dim=2)
        limit, spacing = float(self.sines[-1]), array.spacing_wavelengths
        reach = min(int(limit * spacing * size), size // 2 - 1)
        bins = torch.arange(-reach, reach + 1)
        seen = torch.cat([spectrum[..., -reach:], spectrum[..., : reach + 1]], dim=2)
        best = torch.view_as_real(seen).square().sum(dim=3).flatten(1).argmax(dim=1)
        sine = bins[best % len(bins)] / (spacing * size)
        place = ((sine / limit + 1) / 2 * (self.sizes[0] - 1)).round().long()
        return torch.stack([place, best // len(bins)], dim=1)

    def _nearest(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Best place, int64 [n, 2], and a^H h, [n], of channels [n, M]: the coarse one's best neighbour."""
        coarse = self._coarse(h)
        steps = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-1, 2))
        places = coarse[:, None] + steps
        last = torch.tensor([self.sizes[0] - 1, self.sizes[1] - 1])
        places = torch.minimum(places.clamp_min(0), last)
        inner = (self.responses(places).conj() * h[:, None]).sum(dim=2)
        best = inner.abs().argmax(dim=1)
        rows = torch.arange(len(h))
        return places[rows, best], inner[rows, best]


@lru_cache(maxsize=4)
def wavefront_grid(array: LineArray, num_sines: int, num_rings: int, num_phases: int) -> WavefrontGrid:
    """The grid of an array, made once: what its training channels were split into is found again."""
    return WavefrontGrid(array, num_sines, num_rings, num_phases)
