"""Dictionaries of steering vectors: on a grid of angles and distances, or of angles alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scenarios.elaa.line_array import LineArray
from semcom.contracts import SemcomError

MAX_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Dictionary:
    """Steering vectors of unit entries, and where each comes from.

    atoms: complex64 [A, M]. sine, inverse_m: float64 [A], the angle's sine and 1 / distance.
    """

    atoms: torch.Tensor
    sine: torch.Tensor
    inverse_m: torch.Tensor

    def __len__(self) -> int:
        """Number of atoms A."""
        return len(self.atoms)


def polar_dictionary(
    array: LineArray, oversampling: float = 4.0, coherence_scale: float = 1.2, max_bytes: int = MAX_BYTES
) -> Dictionary:
    """Polar-domain dictionary: angles uniform in their sine, distances uniform in (1 - s^2)^-1 / r.

    s = (2 i + 1 - S) / S for S = oversampling x M, as far as the array's max_sine; on each
    1 / r = k / (Z (1 - s^2)), k = 0, 1, ... to the array's min_distance_m, Z = (M d)^2 / (2 beta^2 lambda).
    coherence_scale: beta, larger for fewer rings. Raises SemcomError for one that takes more than max_bytes.
    Source: Cui and Dai, Channel estimation for extremely large-scale MIMO: far-field or near-field?, IEEE
    Trans. Commun. 70(4), 2022, section IV.
    """
    if oversampling <= 0 or coherence_scale <= 0:
        raise SemcomError(
            f"oversampling {oversampling} and coherence_scale {coherence_scale}: both have to be above 0"
        )
    sines, num_rings = _polar_grid(array, oversampling, coherence_scale)
    step, num_atoms = ring_spacing_per_m(array, coherence_scale), int(num_rings.sum())
    check_size(num_atoms, array.num_elements, max_bytes, "a smaller oversampling, a larger coherence_scale")
    sine = sines.repeat_interleave(num_rings)
    ring = torch.arange(num_atoms) - (num_rings.cumsum(0) - num_rings).repeat_interleave(num_rings)
    # The last ring lies at the nearest distance rather than before it, where no path comes from.
    inverse_m = (ring * step / (1 - sine**2)).clamp(max=1 / array.min_distance_m)
    # In parts, since the phases take several times what the atoms do.
    parts = zip(sine.split(4096), inverse_m.split(4096), strict=True)
    return Dictionary(torch.cat([array.response(s, k) for s, k in parts]), sine, inverse_m)


def polar_bytes(array: LineArray, oversampling: float = 4.0, coherence_scale: float = 1.2) -> int:
    """How many bytes the atoms of `polar_dictionary` take, which need not be made for it."""
    return 8 * int(_polar_grid(array, oversampling, coherence_scale)[1].sum()) * array.num_elements


def _polar_grid(
    array: LineArray, oversampling: float, coherence_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sines of the angles, float64 [S], and how many rings each has, int64 [S]."""
    num_angles = round(oversampling * array.num_elements)
    step = ring_spacing_per_m(array, coherence_scale)
    sines = (2 * torch.arange(num_angles, dtype=torch.float64) + 1 - num_angles) / num_angles
    sines = sines[sines.abs() <= array.max_sine + 1 / num_angles]
    return sines, ((1 - sines**2) / (array.min_distance_m * step)).long() + 2


def dft_dictionary(array: LineArray, oversampling: float = 1.0, max_bytes: int = MAX_BYTES) -> Dictionary:
    """Plane waves at angles uniform in their sine: the columns of an (oversampled) DFT.

    Raises SemcomError for one that takes more than max_bytes.
    """
    num_angles = round(oversampling * array.num_elements)
    if num_angles < 1:
        raise SemcomError(f"oversampling {oversampling}: a dictionary needs at least one angle, so raise it")
    check_size(num_angles, array.num_elements, max_bytes, "a smaller oversampling")
    sine = (2 * torch.arange(num_angles, dtype=torch.float64) + 1 - num_angles) / num_angles
    inverse_m = torch.zeros_like(sine)
    return Dictionary(array.response(sine, inverse_m), sine, inverse_m)


def ring_spacing_per_m(array: LineArray, coherence_scale: float) -> float:
    """Spacing of the rings in (1 - s^2) / r, 1/m: 1 / Z = 2 beta^2 lambda / (M d)^2 (Cui and Dai, IV)."""
    aperture_m = array.num_elements * array.spacing_wavelengths * array.wavelength_m
    return 2 * coherence_scale**2 * array.wavelength_m / aperture_m**2


def check_size(num_atoms: int, num_elements: int, max_bytes: int, remedy: str) -> None:
    """Raises SemcomError for a dictionary of more than max_bytes: it names the size and a remedy."""
    # An atom is complex64.
    num_bytes = 8 * num_atoms * num_elements
    if num_bytes > max_bytes:
        raise SemcomError(
            f"a dictionary of {num_atoms:,} atoms of {num_elements:,} elements takes "
            f"{num_bytes / 1e9:.2f} GB, above {max_bytes / 1e9:.2f} GB: take {remedy} or a larger max_bytes"
        )
