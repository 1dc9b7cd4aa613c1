"""The shadow that a screen between a point and an array casts on each element: Fresnel diffraction."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import fresnel


def screen_amplitude(
    element_m: torch.Tensor,
    user_m: torch.Tensor,
    aim_m: torch.Tensor,
    away_m: torch.Tensor,
    width_m: torch.Tensor,
    height_m: float,
    wavelength_m: float,
) -> torch.Tensor:
    """What an upright screen leaves of a user's amplitude at each element, float32 [N, M] in [0, 1].

        A = |1 - (j/2) I(v_1, v_2) I(w_1, w_2)|,    I(a, b) = integral from a to b of exp(-j pi t^2 / 2) dt
        v = +-2 sqrt((d_1 + d_2 - d) / lambda)

    d is the way from user to element, d_1 + d_2 that by the point of an upright edge beside the ray (of a
    level edge for w), and the sign tells on which side of the ray the edge is. At the border of the geometric
    shadow of a wide screen A = 1/2; in the light it would swing up to 1.17 and is cut at 1; the phase is left
    out.

    element_m: float64 [M, 3], the array around the origin in the plane x = 0; user_m: float64 [N, 3], in
    front of it; aim_m: float64 [N, 3], the point of the array that the shadow is centred on; away_m: float64
    [N], how far before the array's centre the screen stands, at a right angle to the way to the user;
    width_m: float64 [N]. Source: Fresnel-Kirchhoff diffraction by a rectangle, with Babinet's principle
    (Born and Wolf, Principles of Optics, sections 8.7 and 8.3).
    """
    ahead = user_m / user_m.norm(dim=-1, keepdim=True)
    across = torch.stack([-ahead[:, 1], ahead[:, 0], torch.zeros(len(ahead), dtype=torch.float64)], dim=-1)
    across = across / across.norm(dim=-1, keepdim=True)
    up = torch.linalg.cross(ahead, across)
    centre_m = _crossings(aim_m[:, None], user_m, ahead, away_m)
    crossing_m = _crossings(element_m.expand(len(user_m), -1, -1), user_m, ahead, away_m)
    way_m = (user_m[:, None] - element_m).norm(dim=-1)
    blocked = torch.full(way_m.shape, 0.5j, dtype=torch.complex128)
    for axis, half_m in ((across, width_m / 2), (up, torch.full_like(width_m, height_m / 2))):
        middle_m = ((centre_m - crossing_m) * axis[:, None]).sum(dim=-1)
        ends = []
        for side in (-1, 1):
            beside_m = middle_m + side * half_m[:, None]
            edge_m = crossing_m + beside_m[..., None] * axis[:, None]
            round_m = (user_m[:, None] - edge_m).norm(dim=-1) + (edge_m - element_m).norm(dim=-1) - way_m
            ends.append(_fresnel(2 * beside_m.sign() * (round_m.clamp(min=0) / wavelength_m).sqrt()))
        blocked *= ends[1] - ends[0]
    return (1 - blocked).abs().clamp(max=1.0).to(torch.float32)


def _crossings(
    start_m: torch.Tensor, user_m: torch.Tensor, ahead: torch.Tensor, away_m: torch.Tensor
) -> torch.Tensor:
    """Where rays from places [N, M, 3] to the users cross the screens' planes, [N, M, 3]."""
    way_m = user_m[:, None] - start_m
    before_m = away_m[:, None] - (start_m * ahead[:, None]).sum(dim=-1)
    return start_m + (before_m / (way_m * ahead[:, None]).sum(dim=-1))[..., None] * way_m


def _fresnel(end: torch.Tensor) -> torch.Tensor:
    """The integral of exp(-j pi t^2 / 2) from 0."""
    sine, cosine = fresnel(end.numpy())
    return torch.from_numpy(np.asarray(cosine - 1j * sine))
