"""The frame that a channel is coded in: the strongest wave, rounded to a grid that the other end has too."""

from __future__ import annotations

import torch

from scenarios.elaa.examples import Examples, cells
from scenarios.elaa.features import ATOMS_SINE, NOISE_LEVEL, Frame, noise_level
from scenarios.elaa.inputs import Inputs, to_numbers, to_values
from scenarios.elaa.line_array import LineArray
from scenarios.elaa.observations import Observed
from scenarios.elaa.patches import Patches

_ROWS_AT_ONCE = 512
_RING, _ENERGY = ATOMS_SINE + 1, 4
"""Where more of a frame's conditions stand."""


class FrameGrid:
    """Waves that a frame can have: num_sines angles, num_rings curvatures, num_phases phases.

    Sines lie between those of the array's largest angles, curvatures (1 - s^2) / r between 0 and
    1 / min_distance_m, phases around the circle; all evenly. The frame's scale is 1: a channel's mean power
    is, and what differs from it is coded with all else. So a frame takes log2 of the three numbers at most.
    """

    def __init__(self, line: LineArray, num_sines: int, num_rings: int, num_phases: int) -> None:
        self.line, self.sizes = line, (num_sines, num_rings, num_phases)
        limit = min(line.max_sine, 0.999)
        self._sines = torch.linspace(-limit, limit, num_sines, dtype=torch.float64)
        self._curvatures = torch.linspace(0, 1 / line.min_distance_m, num_rings, dtype=torch.float64)

    def round(self, observed: Observed, frame: Frame) -> torch.Tensor:
        """The symbols of the frames found of N channels: sine, ring and phase, int64 [N, 3].

        The phase is that of what is visible against the rounded wave.
        """
        sine = frame.condition[:, ATOMS_SINE].double()
        curvature = frame.condition[:, _RING].double() / self.line.min_distance_m * (1 - sine.square())
        place = torch.stack((_nearest(self._sines, sine), _nearest(self._curvatures, curvature)), dim=1)
        turns = (observed.y * self._responses(place).conj()).sum(dim=1).angle().double() / (2 * torch.pi)
        phase = (turns * self.sizes[2]).round().long() % self.sizes[2]
        return torch.cat((place, phase[:, None]), dim=1)

    def rotation(self, symbols: torch.Tensor) -> torch.Tensor:
        """The waves of symbols int64 [N, 3]: complex64 [N, M] of modulus one."""
        angle = symbols[:, 2:] * (2 * torch.pi / self.sizes[2])
        return self._responses(symbols[:, :2]) * torch.polar(torch.ones_like(angle), angle)

    def place(self, symbols: torch.Tensor) -> torch.Tensor:
        """What both ends know of the waves, float32 [N, 2]: the sine, and 1 / r in units of its largest."""
        sine, inverse_m = self._from(symbols)
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

    def _from(self, symbols: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sine = self._sines[symbols[:, 0]]
        return sine, self._curvatures[symbols[:, 1]] / (1 - sine.square())

    def _responses(self, symbols: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.line.response(*self._from(part)) for part in symbols.split(_ROWS_AT_ONCE)])


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
