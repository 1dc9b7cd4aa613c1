"""What a body does to a wave: where its round sides reflect, and how much of the field it hides."""

from __future__ import annotations

import numpy as np
from scipy.special import fresnel

_SEARCHES = 3


def mirror(
    place_m: np.ndarray,
    heading_rad: np.ndarray,
    width_m: np.ndarray | float,
    depth_m: np.ndarray | float,
    *ends_m: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where elliptic columns at [..., 2] reflect from one end to another, both [..., 2], seen from above.

    Returns the points, float64 [..., 2], at which the normal halves the angle between the ways to both
    ends, the radius of curvature there [...], and the cosine of the angle of incidence [...].
    """
    forward = np.stack([np.cos(heading_rad), np.sin(heading_rad)], axis=-1)
    sideways = np.stack([-np.sin(heading_rad), np.cos(heading_rad)], axis=-1)
    half_depth, half_width = np.asarray(depth_m) / 2, np.asarray(width_m) / 2
    point_m = place_m
    for _ in range(_SEARCHES):
        ways = sum(_unit(end_m - point_m) for end_m in ends_m)
        normal = _unit(np.asarray(ways))
        fore, side = (normal * forward).sum(axis=-1), (normal * sideways).sum(axis=-1)
        reach_m = np.sqrt((half_depth * fore) ** 2 + (half_width * side) ** 2)
        ahead_m, left_m = half_depth**2 * fore / reach_m, half_width**2 * side / reach_m
        point_m = place_m + ahead_m[..., None] * forward + left_m[..., None] * sideways
    cosine = np.linalg.norm(ways, axis=-1).clip(1e-6, 2) / 2
    return point_m, (half_depth * half_width) ** 2 / reach_m**3, cosine


def strip(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The share of a wave's field that passes between two edges, complex128.

    (1 + j) / 2 times the integral of exp(-j pi v^2 / 2) from low to high, v the distance from the line
    of sight times sqrt(2 d / (lambda d1 d2)): 1 without edges, and the field of knife-edge diffraction
    with one (ITU-R P.526-15, section 4.1). A screen leaves 1 less its own share.
    """
    (sine_high, cosine_high), (sine_low, cosine_low) = fresnel(high), fresnel(low)
    return (0.5 + 0.5j) * ((cosine_high - cosine_low) - 1j * (sine_high - sine_low))


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9))
