"""A frame in which near-field channels look alike: the strongest path's wave taken out, the scale one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from channels.near_field import NearFieldConfig, response
from scenarios.elaa.observations import Observed

NUM_CONDITIONS = 6
NOISE_LEVEL, ATOMS_SINE, VISIBLE_SHARE = 0, 1, 5
"""Where some of a frame's conditions stand."""
_ROWS_AT_ONCE = 1024
_NEWTON_STEPS = 3


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
    """Finds the strongest path on what is visible: the best atom of a polar grid, then Newton's method.

    The grid is uniform in the sine of the angle, `oversampling` atoms to a beam width, and in the inverse of
    the distance (Cui and Dai 2022). From the best atom a the phase polynomial that makes |sum_n conj(a_n)
    exp(-j (w x_n + k x_n^2)) y_n| largest is found within the grid's cell; x_n is the element's place along
    the array from -1 to 1. Arrays of several rows keep to the grid.
    """

    def __init__(self, config: NearFieldConfig, oversampling: float = 2.0, num_rings: int = 10) -> None:
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
        self.atoms = response(config, 1 / rings, torch.asin(sines), elevations)
        self._about = torch.stack((sines, rings / rings.max(), elevations.sin()), dim=1).float()
        self._refines = config.num_rows == 1
        place = torch.linspace(-1, 1, num_columns).repeat(config.num_rows)
        self._powers = torch.stack([place**power for power in range(5)], dim=1)
        half_m = (num_columns - 1) / 2 * config.spacing_wavelengths * config.wavelength_m()
        wave = 2 * math.pi / config.wavelength_m()
        # Phase at the array's end for a unit of the sine, and of the inverse distance at broadside.
        self._slope, self._bend = wave * half_m, wave * half_m**2 / 2
        self._largest_ring = float(ring[-1])
        self._cell = (
            self._slope * float(sine[1] - sine[0]),
            self._bend * float(ring[1] - ring[0] if num_rings > 1 else ring[0]),
        )

    def __call__(self, observed: Observed) -> Frame:
        """Finds the frames of N observed channels."""
        parts = [
            self._find(observed[at : at + _ROWS_AT_ONCE]) for at in range(0, len(observed), _ROWS_AT_ONCE)
        ]
        rotation, scale, condition = (torch.cat(part) for part in zip(*parts, strict=True))
        noise_var = observed.noise_var / scale.square()
        return Frame(rotation, scale, noise_var, torch.cat((_level(noise_var)[:, None], condition), dim=1))

    def _find(self, observed: Observed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y, num_visible = observed.y, observed.visible.sum(dim=1)
        best = (y @ self.atoms.mH).abs().argmax(dim=1)
        atom, about = self.atoms[best], self._about[best]
        if self._refines:
            fine = self._refine(y * atom.conj())
            atom = atom * torch.polar(torch.ones_like(y.real), fine @ self._powers[:, 1:3].T)
            sine = about[:, 0] + fine[:, 0] / self._slope
            # The wave's front bends the phase backwards.
            ring = about[:, 1] - fine[:, 1] / (self._bend * self._largest_ring * (1 - sine.square()))
            about = torch.stack((sine, ring, about[:, 2]), dim=1)
        peak = (y * atom.conj()).sum(dim=1)
        energy = y.abs().square().sum(dim=1).clamp_min(1e-12)
        rotation = atom * torch.polar(torch.ones_like(peak.abs()), peak.angle())[:, None]
        share = peak.abs().square() / (num_visible * energy)
        visible_share = num_visible / y.shape[1]
        condition = torch.cat((about, share[:, None], visible_share[:, None]), dim=1)
        return rotation, (energy / num_visible).sqrt(), condition

    def _refine(self, turned: torch.Tensor) -> torch.Tensor:
        """The phase polynomial's (w, k), float32 [N, 2], that brings turned [N, M] most into step.

        Newton's method on |s|^2, s = sum_n exp(-j (w x_n + k x_n^2)) turned_n, with s expanded about the
        last polynomial; steps that aren't uphill are left out, and none leaves the grid's cell.
        """
        found = torch.zeros(len(turned), 2)
        limit = torch.tensor(self._cell)
        for _ in range(_NEWTON_STEPS):
            phase = found @ self._powers[:, 1:3].T
            m = (turned * torch.polar(torch.ones_like(phase), -phase)) @ self._powers.to(turned.dtype)
            m0, m1, m2, m3, m4 = m.unbind(dim=1)
            gradient = 2 * torch.stack(((m0.conj() * m1).imag, (m0.conj() * m2).imag), dim=1)
            ww = 2 * (m1.abs().square() - (m0.conj() * m2).real)
            wk = 2 * ((m1.conj() * m2).real - (m0.conj() * m3).real)
            kk = 2 * (m2.abs().square() - (m0.conj() * m4).real)
            # Damped, so that a direction in which the sum hardly changes takes no large step.
            damping = 1e-3 * m0.abs().square() + 1e-12
            ww, kk = ww - damping, kk - damping
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


def _level(noise_var: torch.Tensor) -> torch.Tensor:
    """Noise levels as numbers of order one: 0 where the noise is as strong as the signal."""
    return noise_var.clamp_min(1e-6).log10() / 2
