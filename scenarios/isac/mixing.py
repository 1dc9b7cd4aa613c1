"""Two scenes made one in training: what sensors would observe if the people of both were in the room."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

ALONE = -1
"""The partner of what is mixed with nothing."""


@dataclass(frozen=True)
class Draw:
    """Training steps, numbered over all sequences: rows [n], and whom each is mixed with, partner [n]."""

    rows: torch.Tensor
    partner: torch.Tensor

    @classmethod
    def alone(cls, rows: torch.Tensor) -> Draw:
        """Steps as they are."""
        return cls(rows, torch.full_like(rows, ALONE))

    @cached_property
    def mixed(self) -> torch.Tensor:
        """The places of the rows that have a partner."""
        return torch.nonzero(self.partner != ALONE)[:, 0]

    def every(self, interval: int) -> Draw:
        """Every so many of them."""
        return Draw(self.rows[::interval], self.partner[::interval])


class Partners:
    """Who can be brought together: for each row of there [N, P] bool, those with none of its people.

    Places that are taken are people; a row without any is nobody's partner.
    """

    def __init__(self, there: torch.Tensor) -> None:
        self._crowd = (there * 2 ** torch.arange(there.shape[1])).sum(dim=1)
        crowds = self._crowd.unique().tolist()
        self._others = {
            crowd: torch.nonzero((self._crowd != 0) & (self._crowd & crowd == 0))[:, 0] for crowd in crowds
        }

    def draw(self, rows: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
        """Draws partners for that share of the rows [n]; ALONE for the others, and where there is none."""
        wanted = torch.rand(len(rows), generator=generator) < share
        number = torch.rand(len(rows), generator=generator)
        partner = torch.full_like(rows, ALONE)
        for crowd, others in self._others.items():
            some = wanted & (self._crowd[rows] == crowd)
            if len(others):
                partner[some] = others[(number[some] * len(others)).long()]
        return partner


def mix_content(content: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Frames less their background, [..., 3, H, W]: of each pixel what differs more from the background."""
    is_other = other.abs().sum(dim=-3, keepdim=True) > content.abs().sum(dim=-3, keepdim=True)
    return torch.where(is_other, other, content)


def mix_csi(csi: torch.Tensor, other: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """CSI [..., F] in the phase of its mean m: what bodies add to the empty room's adds up, h + (h' - m).

    What one body does to the waves that another one meets is left out (the first Born approximation: Born
    and Wolf, Principles of Optics, section 13.1).
    """
    return csi + other - mean


def mix_labels(
    position_m: torch.Tensor, visible: torch.Tensor, other_m: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The people of both, position_m [n, P, 2]; who hides whom is not known: visible [n, P, C] is NaN."""
    absent = position_m.isnan().any(dim=-1, keepdim=True)
    return torch.where(absent, other_m, position_m), torch.full_like(visible, torch.nan)
