"""What the learned estimators of the ELAA scenario are shown: patches in the frame of the strongest path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from scenarios.elaa.features import ATOMS_SINE, NOISE_LEVEL, VISIBLE_SHARE, Dechirper, Frame
from scenarios.elaa.observations import Observed
from scenarios.elaa.patches import Patches

_NO_NOISE = -3.0


class Shown(Protocol):
    """What the networks read of inputs: see Inputs; asked, float32 [N, C], of a time that is asked for."""

    @property
    def y(self) -> torch.Tensor:
        """What was received, in patches."""

    @property
    def there(self) -> torch.Tensor:
        """Visible elements."""

    @property
    def visible(self) -> torch.Tensor:
        """Patches with a visible element."""

    @property
    def condition(self) -> torch.Tensor:
        """What the frame takes out."""

    @property
    def asked(self) -> torch.Tensor | None:
        """What is asked for besides."""


@dataclass(frozen=True)
class Inputs:
    """N channels as a network sees them: L patches of S elements in the frame.

    y: float32 [N, L, 2 S], real and imaginary parts in turn, 0 where hidden; there: float32 [N, L, S], 1 at
    visible elements; visible: bool [N, L], patches with a visible element; condition: float32
    [N, NUM_CONDITIONS], see Frame.
    """

    y: torch.Tensor
    there: torch.Tensor
    visible: torch.Tensor
    condition: torch.Tensor

    @property
    def asked(self) -> None:
        """Nothing: the channels are those that were observed."""
        return

    def __len__(self) -> int:
        """Number of channels N."""
        return len(self.y)

    def __getitem__(self, rows: slice | torch.Tensor) -> Inputs:
        """Those of some channels."""
        return Inputs(self.y[rows], self.there[rows], self.visible[rows], self.condition[rows])

    @property
    def place(self) -> torch.Tensor:
        """Where the frame's wave comes from, float32 [N, 2]: sine, and 1 / r in units of its largest."""
        return self.condition[:, ATOMS_SINE : ATOMS_SINE + 2]

    def mirrored(self) -> Inputs:
        """The same channels on a line of elements that is numbered from its other end."""
        condition = self.condition.clone()
        condition[:, ATOMS_SINE] *= -1
        return Inputs(mirror_patches(self.y), self.there.flip(1, 2), self.visible.flip(1), condition)

    def whole(self, clean: torch.Tensor) -> Inputs:
        """What a target encoder sees: all patches [N, L, 2 S] of the clean channels, and no noise."""
        condition = self.condition.clone()
        condition[:, NOISE_LEVEL] = _NO_NOISE
        condition[:, VISIBLE_SHARE] = 1.0
        return Inputs(clean, torch.ones_like(self.there), torch.ones_like(self.visible), condition)


def make_inputs(observed: Observed, dechirper: Dechirper, patches: Patches) -> tuple[Inputs, Frame]:
    """Turns what an array observed into a network's inputs, and the frame that takes estimates back."""
    frame = dechirper(observed)
    y = torch.where(observed.visible, frame.turn(observed.y), 0)
    there = patches.split(observed.visible)
    inputs = Inputs(to_numbers(patches.split(y)), there.float(), there.any(dim=2), frame.condition)
    return inputs, frame


def mirror_patches(numbers: torch.Tensor) -> torch.Tensor:
    """Numbers [N, L, 2 S] of patches of a line of elements that is numbered from its other end."""
    return numbers.unflatten(2, (-1, 2)).flip(1, 2).flatten(2)


def to_numbers(values: torch.Tensor) -> torch.Tensor:
    """Complex values [..., S] as real numbers [..., 2 S]."""
    return torch.view_as_real(values.contiguous()).flatten(-2)


def to_values(numbers: torch.Tensor) -> torch.Tensor:
    """Real numbers [..., 2 S] as complex values [..., S]."""
    return torch.view_as_complex(numbers.unflatten(-1, (-1, 2)).contiguous())
