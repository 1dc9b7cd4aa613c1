"""A frame in which near-field channels look alike: the strongest path's wave taken out, the scale one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from channels.near_field import NearFieldConfig
from scenarios.elaa.observations import Observed
from scenarios.elaa.wave_search import AtomSearch, WaveSearch

NUM_CONDITIONS = 6
NOISE_LEVEL, ATOMS_SINE, VISIBLE_SHARE = 0, 1, 5
"""Where some of a frame's conditions stand."""
_ROWS_AT_ONCE = 512
"""What is made for so many channels stays in the cache."""
_NEWTON_STEPS = 2
_NUM_BLOCKS = 32
_OTHER_PATHS = 0.3
"""Share of what isn't noise that no single wave explains: the other paths."""
_MOST_RINGS = 10


@dataclass(frozen=True)
class Frame:
    """What N channels were turned and scaled by: h' = conj(rotation) h / scale.

    rotation: complex64 [N, M] of modulus one, the strongest atom and its phase; scale: float32 [N], the root
    mean square of what is visible; noise_var: float32 [N], an element's, in the frame's scale.
    condition: float32 [N, NUM_CONDITIONS], what the turned channel no longer shows: the noise level, the
    atom's direction and curvature, how much of the energy it has, how much is visible.
    """

    rotation: torch.Tensor
    scale: torch.Tensor
    noise_var: torch.Tensor
    condition: torch.Tensor

    def turn(self, h: torch.Tensor) -> torch.Tensor:
        """Takes channels complex64 [N, M] into the frame."""
        return h * self.rotation.conj() / self.scale[:, None]

    def restore(self, turned: torch.Tensor) -> torch.Tensor:
        """Takes channels complex64 [N, M] back out of the frame."""
        return turned * self.rotation * self.scale[:, None]

    def __getitem__(self, rows: slice | torch.Tensor) -> Frame:
        """Those of some rows."""
        return Frame(self.rotation[rows], self.scale[rows], self.noise_var[rows], self.condition[rows])


class Dechirper:
    """Finds the strongest path on what is visible: the likeliest place of a grid, then Newton's method.

    The grid is WaveSearch's, or AtomSearch's for arrays of several rows, or ambiguous angles: `oversampling`
    places to a beam width, and num_rings distances. From the best place, of wave a, the phase polynomial that
    makes |sum_n conj(a_n) exp(-j (w x_n + k x_n^2)) y_n| largest is found within the grid's cell; x_n is the
    element's place along the array from -1 to 1. Arrays of several rows keep to the grid.
    """

    def __init__(
        self, config: NearFieldConfig, oversampling: float = 2.0, num_rings: int | None = None
    ) -> None:
        self._search: WaveSearch | AtomSearch
        if WaveSearch.suits(config):
            self._search = WaveSearch(config, oversampling, num_rings)
        else:
            self._search = AtomSearch(config, oversampling, _MOST_RINGS if num_rings is None else num_rings)
        num_columns = config.num_elements // config.num_rows
        half_m = (num_columns - 1) / 2 * config.spacing_wavelengths * config.wavelength_m()
        wave = 2 * math.pi / config.wavelength_m()
        # Phase at the array's end for a unit of the sine, and of the inverse distance at broadside.
        self._slope, self._bend = wave * half_m, wave * half_m**2 / 2
        self._largest_ring = 1 / config.min_distance_m
        place = torch.linspace(-1, 1, num_columns)
        self._phases = torch.stack((place, place.square()))
        # Within the grid's cell the phase hardly turns over a few elements: they are summed first.
        self._block = math.ceil(num_columns / _NUM_BLOCKS)
        self._padding = -num_columns % self._block
        middle = torch.stack([part.mean() for part in place.split(self._block)])
        self._powers = torch.stack([middle**power for power in range(5)], dim=1)

    def __call__(self, observed: Observed) -> Frame:
        """Finds the frames of N observed channels."""
        parts = [
            self._find(observed[at : at + _ROWS_AT_ONCE]) for at in range(0, len(observed), _ROWS_AT_ONCE)
        ]
        rotation, scale, condition = (torch.cat(part) for part in zip(*parts, strict=True))
        noise_var = observed.noise_var / scale.square()
        return Frame(
            rotation, scale, noise_var, torch.cat((noise_level(noise_var)[:, None], condition), dim=1)
        )

    def _find(self, observed: Observed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y, num_visible = observed.y, observed.visible.sum(dim=1)
        energy = torch.view_as_real(y).square().sum(dim=(1, 2)).clamp_min(1e-12)
        noise = num_visible * observed.noise_var
        rest = noise + _OTHER_PATHS * (energy - noise).clamp_min(0)
        atom, about = self._search(y, rest)
        if self._search.cell is not None:
            fine = self._refine(y * atom.conj(), self._search.cell, about, rest)
            phase = fine @ self._phases
            atom = atom * torch.complex(phase.cos(), phase.sin())
            sine = about[:, 0] + fine[:, 0] / self._slope
            # The wave's front bends the phase backwards.
            ring = about[:, 1] - fine[:, 1] / (self._bend * self._largest_ring * (1 - sine.square()))
            about = torch.stack((sine, ring, about[:, 2]), dim=1)
        peak = (y * atom.conj()).sum(dim=1)
        rotation = atom * torch.polar(torch.ones_like(peak.abs()), peak.angle())[:, None]
        share = peak.abs().square() / (num_visible * energy)
        visible_share = num_visible / y.shape[1]
        condition = torch.cat((about, share[:, None], visible_share[:, None]), dim=1)
        return rotation, (energy / num_visible).sqrt(), condition

    def _refine(
        self, turned: torch.Tensor, cell: tuple[float, float], about: torch.Tensor, rest: torch.Tensor
    ) -> torch.Tensor:
        """The phase polynomial's (w, k), float32 [N, 2], that brings turned [N, M] most into step.

        Newton's method on log |s|^2, s = sum_n exp(-j (w x_n + k x_n^2)) turned_n, with s expanded about the
        last polynomial; steps that aren't uphill are left out, and none leaves the grid's cell.
        about: float32 [N, 3], where the grid's wave comes from; rest: float32 [N], the energy of all else.
        """
        # A prior of the curvature: of few visible elements it can hardly be told.
        across = self._bend * (1 - about[:, 0].square())
        likely = across * (about[:, 1] * self._largest_ring - self._search.prior_mean)
        tightness = rest / (self._search.prior_var * across.square())
        sums = functional.pad(turned, (0, self._padding)).unflatten(1, (-1, self._block)).sum(dim=2)
        found = torch.zeros(len(turned), 2)
        limit = torch.tensor(cell)
        powers = self._powers.to(turned.dtype)
        for _ in range(_NEWTON_STEPS):
            phase = found @ self._powers[:, 1:3].T
            m = (sums * torch.complex(phase.cos(), -phase.sin())) @ powers
            m0, m1, m2, m3, m4 = m.unbind(dim=1)
            gradient = 2 * torch.stack(((m0.conj() * m1).imag, (m0.conj() * m2).imag), dim=1)
            ww = 2 * (m1.abs().square() - (m0.conj() * m2).real)
            wk = 2 * ((m1.conj() * m2).real - (m0.conj() * m3).real)
            kk = 2 * (m2.abs().square() - (m0.conj() * m4).real)
            power = m0.abs().square() + 1e-12
            # Of the logarithm, which bends down further out; damped, so that a direction in which the sum
            # hardly changes takes no large step.
            ww = ww - gradient[:, 0].square() / power - 1e-3 * power
            kk = kk - gradient[:, 1].square() / power - 1e-3 * power
            wk = wk - gradient[:, 0] * gradient[:, 1] / power
            gradient[:, 1] -= tightness * (found[:, 1] - likely)
            kk = kk - tightness
            determinant = ww * kk - wk * wk
            step = (
                -torch.stack(
                    (kk * gradient[:, 0] - wk * gradient[:, 1], ww * gradient[:, 1] - wk * gradient[:, 0]),
                    dim=1,
                )
                / determinant[:, None]
            )
            uphill = (determinant > 0) & (ww < 0)
            moved = torch.maximum(torch.minimum(found + step, limit), -limit)
            found = torch.where(uphill[:, None], moved, found)
        return found


def noise_level(noise_var: torch.Tensor) -> torch.Tensor:
    """Noise levels as numbers of order one: 0 where the noise is as strong as the signal."""
    return noise_var.clamp_min(1e-6).log10() / 2
