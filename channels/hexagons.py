"""The hexagonal layout of TR 38.901: where the stations stand, and what belongs to which of them."""

from __future__ import annotations

import math

import torch

NUM_RINGS = {1: 0, 7: 1, 19: 2}


def station_sites_m(num_cells: int, inter_site_distance_m: float) -> torch.Tensor:
    """Ground positions of 1, 7 or 19 stations, ours first, at the origin, float32 [num_cells, 2].

    The other rings follow from inside out; a station's six neighbours are inter_site_distance_m away.
    Source: Sionna's HexGrid (a regular hexagonal grid, TR 38.901, table 7.2-1); call it in a sionna_scope.
    """
    if num_cells == 1:
        return torch.zeros(1, 2)
    from sionna.sys import HexGrid

    sites: torch.Tensor = HexGrid(NUM_RINGS[num_cells], isd=inter_site_distance_m).cell_loc[:, :2]
    return sites


def is_in_hexagon(ground_m: torch.Tensor, inter_site_distance_m: float) -> torch.Tensor:
    """Whether points [N, 2], relative to a station, are nearer to it than to its neighbours: bool [N].

    The neighbours of HexGrid lie at 30, 90, ..., 330 degrees; half way to each runs an edge of the hexagon.
    """
    bearing = math.pi / 6 + math.pi / 3 * torch.arange(6)
    towards = torch.stack([bearing.cos(), bearing.sin()])
    return (ground_m @ towards.to(ground_m.dtype)).amax(dim=1) <= inter_site_distance_m / 2
