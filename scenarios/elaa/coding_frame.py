"""The frame that a channel is coded in: the strongest wave, rounded to a grid that the other end has too."""

from __future__ import annotations

import torch

from scenarios.elaa.examples import Examples, cells
from scenarios.elaa.features import ATOMS_SINE, NOISE_LEVEL, Frame, noise_level
from scenarios.elaa.inputs import Inputs, to_numbers, to_values
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.observations import Observed
from scenarios.elaa.patches import Patches
from scenarios.elaa.wavefronts import WavefrontGrid

_RING, _ENERGY = ATOMS_SINE + 1, 4
"""Where more of a frame's conditions stand."""


class FrameGrid:
    """Waves that a frame can have: those of a `WavefrontGrid`.

    The frame's scale is 1: a channel's mean power is, and what differs from it is coded with all else. So a
    frame takes log2 of the grid's three sizes at most.
    """

    def __init__(self, line: LineArray, num_sines: int, num_rings: int, num_phases: int) -> None:
        self.grid = WavefrontGrid(line, num_sines, num_rings, num_phases)
        self.line, self.sizes = line, self.grid.sizes

    def round(self, observed: Observed, frame: Frame) -> torch.Tensor:
        """The symbols of the frames found of N channels: sine, ring and phase, int64 [N, 3].

        The phase is that of what is visible against the rounded wave.
        """
        sine = frame.condition[:, ATOMS_SINE].double()
        curvature = frame.condition[:, _RING].double() / self.line.min_distance_m * (1 - sine.square())
        rounded = _nearest(self.grid.sines, sine), _nearest(self.grid.curvatures, curvature)
        place = torch.stack(rounded, dim=1)
        phase = self.grid.phases((observed.y * self.grid.responses(place).conj()).sum(dim=1))
        return torch.cat((place, phase[:, None]), dim=1)

    def rotation(self, symbols: torch.Tensor) -> torch.Tensor:
        """The waves of symbols int64 [N, 3]: complex64 [N, M] of modulus one."""
        return self.grid.wavefronts(symbols)

    def place(self, symbols: torch.Tensor) -> torch.Tensor:
        """What both ends know of the waves, float32 [N, 2]: the sine, and 1 / r in units of its largest."""
        sine, inverse_m = self.grid.directions(symbols)
        return torch.stack((sine, inverse_m * self.line.min_distance_m), dim=1).float()

    def frame(self, observed: Observed, symbols: torch.Tensor, found: Frame) -> Frame:
        """The rounded frames of N observed channels, of which `found` are those that are not rounded."""
        rotation = self.rotation(symbols)
        energy = observed.y.abs().square().sum(dim=1).clamp_min(1e-12)
        peak = (observed.y * rotation.conj()).sum(dim=1).abs().square()
        condition = found.condition.clone()
        condition[:, NOISE_LEVEL] = noise_level(observed.noise_var)
        condition[:, ATOMS_SINE : _RING + 1] = self.place(symbols)
        condition[:, _ENERGY] = peak / (observed.visible.sum(dim=1) * energy)
        return Frame(rotation, torch.ones_like(observed.noise_var), observed.noise_var, condition)


def _nearest(grid: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    step = grid[1] - grid[0]
    return ((value - grid[0]) / step).round().long().clamp(0, len(grid) - 1)


def inputs_in(frame: Frame, observed: Observed, patches: Patches) -> Inputs:
    """What a network sees of observed channels in a frame."""
    y = torch.where(observed.visible, frame.turn(observed.y), 0)
    there = patches.split(observed.visible)
    return Inputs(to_numbers(patches.split(y)), there.float(), there.any(dim=2), frame.condition)


def examples_in(grid: FrameGrid, shown: Examples, patches: Patches) -> tuple[Examples, torch.Tensor]:
    """The same examples in their rounded frames, and the frames' symbols, int64 [N, 3]."""
    symbols = grid.round(shown.observed, shown.frame)
    frame = grid.frame(shown.observed, symbols, shown.frame)
    target = shown.frame.restore(patches.join(to_values(shown.clean)))
    inputs = inputs_in(frame, shown.observed, patches)
    clean = to_numbers(patches.split(frame.turn(target)))
    examples = Examples(
        shown.observed, frame, inputs, clean, cells(shown.observed), shown.order, shown.noise_share
    )
    return examples, symbols
