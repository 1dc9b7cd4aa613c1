"""Spherical wavefronts on a line of elements, in the parameters that paths are estimated in.

A path comes from the sine of its angle s and the inverse of its distance k = 1 / r (1/m); k = 0 is a plane
wave. All is in float64 until a phase is left, in turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from semcom.contracts import SemcomError

if TYPE_CHECKING:
    from channels.near_field import NearFieldConfig


@dataclass(frozen=True)
class LineArray:
    """A uniform line of elements around its centre, and where its paths come from.

    max_sine: of the largest angle; min_distance_m, max_distance_m: of a path's origin.
    """

    num_elements: int
    wavelength_m: float
    spacing_wavelengths: float = 0.5
    max_sine: float = 1.0
    min_distance_m: float = 5.0
    max_distance_m: float = 60.0

    @classmethod
    def of(cls, config: NearFieldConfig) -> LineArray:
        """The array of generated channels. Raises SemcomError for a planar one."""
        if config.num_rows != 1:
            raise SemcomError(
                f"array.num_rows = {config.num_rows}: classical estimates are for one line, so take 1"
            )
        return cls(
            num_elements=config.num_elements,
            wavelength_m=config.wavelength_m(),
            spacing_wavelengths=config.spacing_wavelengths,
            max_sine=math.sin(math.radians(config.max_angle_deg)),
            min_distance_m=config.min_distance_m,
            # Far scatterers may be anywhere from there on.
            max_distance_m=math.inf if config.far_share > 0 else config.max_distance_m,
        )

    @property
    def place_m(self) -> torch.Tensor:
        """Places d_n of the elements along the line, float64 [M]."""
        number = torch.arange(self.num_elements, dtype=torch.float64)
        return (number - (self.num_elements - 1) / 2) * (self.spacing_wavelengths * self.wavelength_m)

    def inverse_distance(self) -> tuple[float, float]:
        """Mean (1/m) and variance (1/m^2) of k = 1 / r for distances that are uniform from a to b.

        E[k] = ln(b / a) / (b - a), E[k^2] = 1 / (a b); paths from infinity leave k uniform to 1 / a.
        """
        near, far = self.min_distance_m, self.max_distance_m
        if math.isinf(far):
            return 0.5 / near, 1 / (12 * near**2)
        mean = math.log(far / near) / (far - near) if far > near else 1 / near
        return mean, max(1 / (near * far) - mean**2, 1e-8)

    def delay(self, sine: torch.Tensor, inverse_m: torch.Tensor) -> torch.Tensor:
        """Path difference to the centre in wavelengths, float64 [..., M].

        (r_n - r) / lambda = (d^2 k - 2 d s) / (1 + q) / lambda, q = r_n / r = sqrt(1 + d^2 k^2 - 2 d k s),
        which cancels no large numbers and holds for k = 0. sine, inverse_m: float64 [...].
        """
        d = self.place_m
        s, k = sine.double()[..., None], inverse_m.double()[..., None]
        q = torch.sqrt(1 + d * k * (d * k - 2 * s))
        return d * (d * k - 2 * s) / ((1 + q) * self.wavelength_m)

    def response(self, sine: torch.Tensor, inverse_m: torch.Tensor) -> torch.Tensor:
        """Steering vectors a_n = exp(-j 2 pi (r_n - r) / lambda), complex64 [..., M]."""
        return phasor(self.delay(sine, inverse_m))

    def slopes(self, sine: torch.Tensor, inverse_m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Derivatives of a response's phase with respect to s and k, rad and rad m, float64 [..., M].

        d(r_n - r)/ds = -d / q; d(r_n - r)/dk = d^2 / (1 + q) - (d^2 k - 2 d s)(d^2 k - d s) / (q (1 + q)^2).
        """
        d = self.place_m
        s, k = sine.double()[..., None], inverse_m.double()[..., None]
        q = torch.sqrt(1 + d * k * (d * k - 2 * s))
        along = -d / q
        u = d * k - 2 * s
        across = d**2 / (1 + q) * (1 - u * (d * k - s) / (q * (1 + q)))
        turn = -2 * torch.pi / self.wavelength_m
        return turn * along, turn * across


def phasor(delay: torch.Tensor) -> torch.Tensor:
    """exp(-j 2 pi x) of delays x in turns, float64 to complex64 of the same shape."""
    # The whole turns go in float64; the rest is small enough for float32.
    angle = ((torch.round(delay) - delay) * (2 * torch.pi)).float()
    return torch.complex(torch.cos(angle), torch.sin(angle))
