"""Two scenes made one in training: what sensors would observe if the people of both were in the room."""

from __future__ import annotations

import torch


class Partners:
    """Who can be brought together: for each training step, the steps in which none of its people are.

    there: bool [N, P], which places of the labels are taken in each step.
    """

    def __init__(self, there: torch.Tensor) -> None:
        place = 2 ** torch.arange(there.shape[1])
        self._crowd = (there * place).sum(dim=1)
        crowds = self._crowd.unique().tolist()
        self._others = {
            crowd: torch.cat(
                [torch.nonzero(self._crowd == other)[:, 0] for other in crowds if other and not other & crowd]
                or [torch.zeros(0, dtype=torch.long)]
            )
            for crowd in crowds
        }

    def draw(self, rows: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
        """Draws a partner for that share of the rows [n]; -1 for the others, and where there is none."""
        wanted = torch.rand(len(rows), generator=generator) < share
        number = torch.rand(len(rows), generator=generator)
        partner = torch.full_like(rows, -1)
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
    """CSI [..., F] of one phase each, and that of the empty room: what scatters adds up, h + (h' - m).

    That is the first Born approximation: what one body does to the waves that another one meets is left out.
    """
    return csi + other - mean


def mix_labels(
    position_m: torch.Tensor, visible: torch.Tensor, other_m: torch.Tensor, other_visible: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The people of both, position_m [n, P, 2] and visible [n, P, C]; who hides whom is not known: NaN."""
    absent = position_m.isnan().any(dim=-1, keepdim=True)
    return torch.where(absent, other_m, position_m), torch.full_like(visible, torch.nan)
