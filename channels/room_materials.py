"""What walls, furniture and bodies do to a wave that meets them: reflection and transmission of layers."""

from __future__ import annotations

import numpy as np

from channels.multipath import SPEED_OF_LIGHT_M_PER_S
from channels.room import BodyMaterial

_VACUUM_F_PER_M = 8.8541878128e-12

# Relative permittivity a f^b, conductivity c f^d in S/m, f in GHz: (a, b, c, d) of ITU-R P.2040-3, table 3.
_ITU_R_P2040 = {
    "concrete": (5.24, 0.0, 0.0462, 0.7822),
    "plasterboard": (2.73, 0.0, 0.0085, 0.9395),
    "wood": (1.99, 0.0, 0.0047, 1.0718),
    "chipboard": (2.58, 0.0, 0.0217, 0.7800),
    "glass": (6.31, 0.0, 0.0036, 1.3394),
    "metal": (1.0, 0.0, 1e7, 0.0),
}


def permittivity(material: str, carrier_hz: float) -> complex:
    """Complex relative permittivity of a material by its name in ITU-R P.2040-3 (section 2.1.4)."""
    a, b, c, d = _ITU_R_P2040[material]
    return _complex(a * (carrier_hz / 1e9) ** b, c * (carrier_hz / 1e9) ** d, carrier_hz)


def body_permittivity(body: BodyMaterial, carrier_hz: float) -> complex:
    """Complex relative permittivity of a body."""
    return _complex(body.relative_permittivity, body.conductivity_s_per_m, carrier_hz)


def _complex(real: float, conductivity_s_per_m: float, carrier_hz: float) -> complex:
    return complex(real, -conductivity_s_per_m / (2 * np.pi * carrier_hz * _VACUUM_F_PER_M))


def reflection(cosine: np.ndarray, eta: complex, *, across: bool) -> np.ndarray:
    """Fresnel's coefficient of a half-space at incidence cos(angle) [...], complex128.

    across: the electric field is perpendicular to the plane of incidence (TE), else within it (TM):

        TE (c - s) / (c + s),   TM (eta c - s) / (eta c + s),   s = sqrt(eta - 1 + c^2)

    (ITU-R P.2040-3, section 2.2).
    """
    inside = np.sqrt(eta - 1 + cosine**2)
    outside = cosine if across else eta * cosine
    return np.asarray((outside - inside) / (outside + inside))


def slab(
    cosine: np.ndarray, eta: complex, thickness_m: np.ndarray | float, carrier_hz: float, *, across: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Reflection and transmission of a layer in air at incidence cos(angle) [...], complex128.

        R = r (1 - e^(-2jq)) / (1 - r^2 e^(-2jq)),   T = (1 - r^2) e^(-jq) / (1 - r^2 e^(-2jq))

    with r as in `reflection` and q = 2 pi thickness / lambda sqrt(eta - 1 + c^2) (ITU-R P.2040-3,
    section 2.2).
    """
    single = reflection(cosine, eta, across=across)
    inside = np.sqrt(eta - 1 + np.asarray(cosine) ** 2)
    turned = np.exp(-2j * np.pi * thickness_m * carrier_hz / SPEED_OF_LIGHT_M_PER_S * inside)
    echoes = 1 - (single * turned) ** 2
    return single * (1 - turned**2) / echoes, (1 - single**2) * turned / echoes
