"""A few snapshots of moving users as a network sees them: one wave and its turn taken out of all of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from scenarios.elaa.features import ATOMS_SINE, NOISE_LEVEL, VISIBLE_SHARE, Dechirper, Frame
from scenarios.elaa.inputs import mirror_patches, to_numbers
from scenarios.elaa.models import Window
from scenarios.elaa.observations import Observed
from scenarios.elaa.patches import Patches
from scenarios.elaa.tracks import Heard, times
from semcom.contracts import SemcomError

NUM_MORE, NUM_ASKED = 2, 3
"""Numbers of a window's condition beside a Frame's: turn and how steady it is; and of a look-ahead."""
_NO_NOISE = -3.0
_USUAL_LOOK_AHEAD = 8


@dataclass(frozen=True)
class WindowFrame:
    """What N channels are turned by at any time: frame's wave, and its turn from snapshot to snapshot.

    turn: float32 [N], rad; steadiness: float32 [N], 1 where the wave does nothing else.
    """

    frame: Frame
    turn: torch.Tensor
    steadiness: torch.Tensor

    def enter(self, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Takes channels complex64 [N, T, M] at times [T], in snapshots from the last one, into the frame."""
        back = torch.polar(torch.ones(()), -self.turn[:, None] * time)
        rotation = self.frame.rotation.conj() / self.frame.scale[:, None]
        return h * rotation[:, None] * back[..., None]

    def leave(self, turned: torch.Tensor, time: float) -> torch.Tensor:
        """Takes channels complex64 [N, M] at a time back out of the frame."""
        return self.frame.restore(turned) * torch.polar(torch.ones(()), self.turn * time)[:, None]


@dataclass(frozen=True)
class WindowInputs:
    """T snapshots of N channels: as Inputs, with a patch's snapshots side by side, the last one last.

    y: float32 [N, L, 2 S T]; asked: float32 [N, NUM_ASKED], the look-ahead.
    """

    y: torch.Tensor
    there: torch.Tensor
    visible: torch.Tensor
    condition: torch.Tensor
    asked: torch.Tensor

    def __len__(self) -> int:
        """Number of channels N."""
        return len(self.y)

    def __getitem__(self, rows: slice | torch.Tensor) -> WindowInputs:
        """Those of some channels."""
        return WindowInputs(*(getattr(self, part.name)[rows] for part in fields(self)))

    def at(self, look_ahead: torch.Tensor) -> WindowInputs:
        """The same, asked for look-aheads [N]."""
        return replace(self, asked=asked(look_ahead))

    def mirrored(self) -> WindowInputs:
        """The same channels on a line of elements that is numbered from its other end."""
        condition = self.condition.clone()
        condition[:, ATOMS_SINE] *= -1
        size = self.there.shape[2]
        y = self.y.unflatten(2, (-1, size, 2)).flip(1, 3).flatten(2)
        return WindowInputs(y, self.there.flip(1, 2), self.visible.flip(1), condition, self.asked)

    def whole(self, clean: torch.Tensor) -> WindowInputs:
        """What a target encoder sees: all patches of a clean window [N, T, L, 2 S], and no noise."""
        condition = self.condition.clone()
        condition[:, NOISE_LEVEL] = _NO_NOISE
        condition[:, VISIBLE_SHARE] = 1.0
        there, visible = torch.ones_like(self.there), torch.ones_like(self.visible)
        return WindowInputs(side_by_side(clean), there, visible, condition, self.asked)


def window_of(num_snapshots: int) -> Window:
    """The sizes of a model of windows."""
    return Window(num_snapshots, NUM_MORE, NUM_ASKED)


def asked(look_ahead: torch.Tensor) -> torch.Tensor:
    """Look-aheads [N] as numbers of order one, float32 [N, NUM_ASKED]."""
    a = look_ahead.float()
    return torch.stack((a / _USUAL_LOOK_AHEAD, torch.log2(1 + a) / 3, (a == 0).float()), dim=1)


def side_by_side(window: torch.Tensor) -> torch.Tensor:
    """Snapshots of patches [N, T, L, 2 S] as [N, L, 2 S T]."""
    return window.transpose(1, 2).flatten(2)


def mirror_window(window: torch.Tensor) -> torch.Tensor:
    """Windows [N, T, L, 2 S] of a line of elements that is numbered from its other end."""
    return mirror_patches(window.flatten(0, 1)).unflatten(0, window.shape[:2])


def find_frame(heard: Heard, dechirper: Dechirper) -> WindowFrame:
    """Finds the strongest path in all snapshots together, and how its phase turns.

    The last snapshot tells a first wave, that wave's turn w = arg sum_t s_t s_(t-1)^* with s_t = a^H y_t; the
    mean of the snapshots turned back, of a T-th of the noise, tells the final one. Raises SemcomError for a
    single snapshot.
    """
    num_snapshots = heard.y.shape[1]
    if num_snapshots < 2:
        raise SemcomError("one snapshot tells no turn: give two or more")
    first = dechirper(Observed(heard.y[:, -1], heard.visible, heard.noise_var))
    turn, _ = steady_turn(heard.y, first.rotation[:, None])
    back = torch.polar(torch.ones(()), -turn[:, None] * times(num_snapshots))
    mean = (heard.y * back[..., None]).mean(dim=1)
    frame = dechirper(Observed(mean, heard.visible, heard.noise_var / num_snapshots))
    turn, steadiness = steady_turn(heard.y, frame.rotation[:, None])
    return WindowFrame(frame, turn, steadiness)


def steady_turn(y: torch.Tensor, wave: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How a wave's phase turns from snapshot to snapshot, and how steadily (1 at most): float32 [N] each.

    y: complex64 [N, T, M]; wave: complex64 [N, T, M], or [N, 1, M] if it is the same in all.
    """
    match = (y * wave.conj()).sum(dim=2)
    step = (match[:, 1:] * match[:, :-1].conj()).sum(dim=1)
    power = match[:, 1:].abs() * match[:, :-1].abs()
    return step.angle(), step.abs() / power.sum(dim=1).clamp_min(1e-12)


def make_window_inputs(
    heard: Heard, dechirper: Dechirper, patches: Patches
) -> tuple[WindowInputs, WindowFrame]:
    """Turns snapshots into a network's inputs, look-ahead 0, and the frame that takes estimates back."""
    found = find_frame(heard, dechirper)
    turned = torch.where(heard.visible[:, None], found.enter(heard.y, times(heard.y.shape[1])), 0)
    there = patches.split(heard.visible)
    more = torch.stack((found.turn, found.steadiness), dim=1)
    inputs = WindowInputs(
        side_by_side(to_numbers(patches.split(turned))),
        there.float(),
        there.any(dim=2),
        torch.cat((found.frame.condition, more), dim=1),
        asked(torch.zeros(len(heard))),
    )
    return inputs, found
