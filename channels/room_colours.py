"""What a room and the people in it look like: colours, the light on a surface, and its code in a frame."""

from __future__ import annotations

import numpy as np

from channels.room import RoomConfig

SKIN = (0.78, 0.54, 0.42)
WALL, FLOOR, CEILING = (0.72, 0.72, 0.68), (0.38, 0.28, 0.19), (0.85, 0.85, 0.85)
MATERIAL_COLOURS = {
    "wood": (0.48, 0.31, 0.16),
    "chipboard": (0.55, 0.38, 0.20),
    "plasterboard": (0.75, 0.73, 0.70),
    "glass": (0.45, 0.55, 0.58),
    "metal": (0.35, 0.36, 0.38),
}
"""Linear red, green, blue, as COLOURS."""

AMBIENT, LAMP_INTENSITY = 0.28, 5.0
_BELOW_CEILING_M = 0.02


def lamps_m(config: RoomConfig) -> np.ndarray:
    """Places of two lamps at the ceiling, float64 [2, 3]."""
    y, z = config.width_m / 2, config.height_m - _BELOW_CEILING_M
    return np.array([[share * config.length_m, y, z] for share in (0.25, 0.75)])


def light_on(
    point_m: np.ndarray, normal: np.ndarray, lamps_m: np.ndarray, is_lit: np.ndarray | None = None
) -> np.ndarray:
    """What a white surface at points [N, 3] shows (Lambert), [N]:

        A + sum_l I max(0, cos(angle between normal and lamp l)) / (pi r_l^2)

    A the ambient light, I the lamps' intensity, r_l the distance; is_lit [lamps, N]: whom each lamp sees.
    Normals may have any length.
    """
    light = np.full(len(point_m), AMBIENT)
    length = np.sqrt(np.einsum("ij,ij->i", normal, normal))
    for number, lamp_m in enumerate(lamps_m):
        way_m = lamp_m - point_m
        square_m2 = np.einsum("ij,ij->i", way_m, way_m)
        facing = np.einsum("ij,ij->i", normal, way_m) / np.maximum(
            length * square_m2 * np.sqrt(square_m2), 1e-12
        )
        shown = LAMP_INTENSITY / np.pi * np.maximum(facing, 0)
        light += shown if is_lit is None else np.where(is_lit[number], shown, 0.0)
    return light


def srgb(linear: np.ndarray) -> np.ndarray:
    """Codes light from 0 to 1 as numbers from 0 to 255, uint8 (IEC 61966-2-1)."""
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * curved), dtype=np.uint8)
