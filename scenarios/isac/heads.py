"""Heads: from the completed embeddings of all sensors to positions, number and occlusion of pedestrians."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from analysis.sensing import OCCLUDED_BELOW

Matching = Literal["identity", "best"]


@dataclass(frozen=True)
class Scene:
    """What heads read, or what labels say, of N rows with P places for pedestrians and C cameras.

    position_m: float32 [N, P, 2]; presence [N, P] and occlusion [N, P, C]: logits. count: logits of 0 to P
    pedestrians, [N, P + 1].
    """

    position_m: torch.Tensor
    presence: torch.Tensor
    occlusion: torch.Tensor
    count: torch.Tensor


class SceneHead(nn.Module):
    """Reads a scene off the embeddings of all sensors, [N, S, D]: two hidden layers.

    centre_m and spread_m [2]: mean and deviation of training positions, about which positions are learned.
    """

    centre_m: torch.Tensor
    spread_m: torch.Tensor

    def __init__(self, input_dim: int, hidden_dim: int, num_pedestrians: int, num_cameras: int) -> None:
        super().__init__()
        self.num_pedestrians, self.num_cameras = num_pedestrians, num_cameras
        sizes = [2 * num_pedestrians, num_pedestrians, num_pedestrians * num_cameras, num_pedestrians + 1]
        self.sizes = sizes
        self.net = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, sum(sizes)),
        )
        self.register_buffer("centre_m", torch.zeros(2))
        self.register_buffer("spread_m", torch.ones(2))

    @torch.no_grad()
    def calibrate(self, position_m: torch.Tensor) -> None:
        """Takes centre and spread from training positions [..., 2], NaN where nobody is."""
        known = position_m[~position_m.isnan().any(dim=-1)]
        self.centre_m.copy_(known.mean(dim=0))
        self.spread_m.copy_(known.std(dim=0).clamp_min(1e-3))

    def forward(self, z: torch.Tensor) -> Scene:
        """Reads the scene off z [N, S, D]."""
        position, presence, occlusion, count = self.net(z.flatten(1)).split(self.sizes, dim=1)
        places = self.num_pedestrians
        return Scene(
            self.centre_m + self.spread_m * position.unflatten(1, (places, 2)),
            presence,
            occlusion.unflatten(1, (places, self.num_cameras)),
            count,
        )


def scene_loss(
    scene: Scene,
    position_m: torch.Tensor,
    visible_share: torch.Tensor,
    scale_m: torch.Tensor,
    matching: Matching = "identity",
) -> dict[str, torch.Tensor]:
    """Compares a scene with labels, position_m [N, P, 2] and visible_share [N, P, C]; named scalar terms.

    matching: place p is pedestrian p (identity), or places go to pedestrians by the assignment of least cost,
    one of P! (best, as in DETR, Carion et al. 2020). position: mean distance to those who are there, in units
    of scale_m; presence, occlusion and count: cross-entropies. Unknown labels of occlusion (NaN) don't count.
    """
    there = ~position_m.isnan().any(dim=-1)
    target_m = torch.where(there[..., None], position_m, 0)
    places = list(itertools.permutations(range(position_m.shape[1])))
    order = torch.tensor(places if matching == "best" else places[:1], device=position_m.device)
    placed = scene.position_m[:, order]  # [N, orders, P, 2]
    distance = ((placed - target_m[:, None]).square().sum(dim=-1) + 1e-6).sqrt() / scale_m
    distance = (distance * there[:, None]).sum(dim=-1)
    wanted = there[:, None].expand(-1, len(order), -1).float()
    presence = functional.binary_cross_entropy_with_logits(
        scene.presence[:, order], wanted, reduction="none"
    ).sum(dim=-1)
    best = (distance + presence).detach().argmin(dim=1)
    row = torch.arange(len(best))
    seen = ~visible_share.isnan() & there[..., None]
    hidden = torch.where(seen, visible_share, 1) < OCCLUDED_BELOW
    logits = scene.occlusion[row[:, None], order[best]]
    occlusion = functional.binary_cross_entropy_with_logits(logits, hidden.float(), reduction="none")
    terms = {
        "position": distance[row, best].sum() / there.sum().clamp_min(1),
        "presence": presence[row, best].mean(),
        "occlusion": (occlusion * seen).sum() / seen.sum().clamp_min(1),
        "count": functional.cross_entropy(scene.count, there.sum(dim=-1)),
    }
    return terms | {
        "total": terms["position"] + 0.2 * (terms["presence"] + terms["occlusion"] + terms["count"])
    }
