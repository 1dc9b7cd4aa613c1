"""Feedback by the trained bottleneck: what is observed to real bytes, and bytes to the whole channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch

from channels.near_field import NearFieldConfig
from scenarios.elaa.bottleneck import FINE_FROM, BottleneckModel
from scenarios.elaa.coding_frame import inputs_in
from scenarios.elaa.features import Dechirper
from scenarios.elaa.inputs import to_values
from scenarios.elaa.observations import Observed
from semcom.codecs.range_coding import SymbolCoder
from semcom.contracts import SemcomError

_WHOLE_BYTES_BITS = 2.0
_TOTAL_FREQUENCY = 1 << 20
_MOST_SYMBOLS = 1024
_FAR = 1e6
_FIRST_LEVEL, _LAST_LEVEL = -1.0, 1.5
"""Beyond 0 and 1, between which it is trained."""
_NUM_HALVINGS = 9
_JUST_BELOW = 1e-6


class BottleneckFeedback:
    """A trained bottleneck at one rate level: observed channels to payloads, payloads to channels [N, M].

    A message is the frame's sine, ring and phase, under the frequencies of training channels, then the
    numbers n of z, under the learned density, bounded to what training had (`SymbolCoder`).
    Every channel goes through the networks by itself, so that its bytes don't hang on its batch.
    """

    codec_id = 13
    name = "jepa-bottleneck"

    def __init__(self, model: BottleneckModel, array: NearFieldConfig, level: float) -> None:
        self.model, self.level = model.eval().requires_grad_(False), level
        self.number = model.grid_at(level)
        self.grid = model.grids[self.number]
        self.array = array
        self.step = model.step(level)
        table, self.lowest = self._tabulate()
        frames: torch.Tensor = getattr(model, f"frames{self.number}")
        width = max(frames.shape[1], table.shape[1])
        self.coder = SymbolCoder(3 + model.num_latents, width)
        pad = torch.nn.functional.pad
        self.coder.set_frequencies(
            torch.cat([pad(part, (0, width - part.shape[1])) for part in (frames, table)])
        )
        self._last = (table > 0).sum(dim=1) - 1

    @torch.no_grad()
    def _tabulate(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The frequencies of the numbers n of each z, int64 [R, A], and the lowest n, int64 [R]."""
        lowest = (self.model.least[self.number] / self.step).round().long()
        highest = (self.model.most[self.number] / self.step).round().long()
        highest = torch.minimum(highest, lowest + _MOST_SYMBOLS - 1)
        numbers = lowest[:, None] + torch.arange(int((highest - lowest).max()) + 1)
        low, high = (numbers.double() - 0.5) * self.step, (numbers.double() + 0.5) * self.step
        low = torch.where(numbers == lowest[:, None], -_FAR, low)
        high = torch.where(numbers == highest[:, None], _FAR, high)
        frequency = (self.model.density.probability(low, high) * _TOTAL_FREQUENCY).floor().long() + 1
        return torch.where(numbers <= highest[:, None], frequency, 0), lowest

    @cached_property
    def _dechirper(self) -> Dechirper:
        return Dechirper(self.array)

    @torch.no_grad()
    def look(self, observed: Observed) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames' symbols, int64 [N, 3], and the numbers z, float32 [N, R], of observed channels."""
        if not torch.isfinite(torch.view_as_real(observed.y)).all():
            raise SemcomError("observed channels hold NaN or infinity: only finite ones can be sent")
        frames, numbers = [], []
        for row in _each(observed):
            found = self._dechirper(row)
            symbols = self.grid.round(row, found)
            inputs = inputs_in(self.grid.frame(row, symbols, found), row, self.model.patches)
            frames.append(symbols)
            numbers.append(self.model.analyse(self.model.estimate(inputs)))
        if not frames:
            return torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, self.model.num_latents)
        return torch.cat(frames), torch.cat(numbers)

    def symbols(self, looked: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The symbols of what `look` found, int64 [N, 3 + R]."""
        frames, z = looked
        numbers = (z / self.step).round().long() - self.lowest
        return torch.cat((frames, torch.minimum(numbers.clamp_min(0), self._last)), dim=1)

    def quantise(self, observed: Observed) -> torch.Tensor:
        """The symbols of observed channels, int64 [N, 3 + R]."""
        return self.symbols(self.look(observed))

    @torch.no_grad()
    def dequantise(self, symbols: torch.Tensor) -> torch.Tensor:
        """The channels that symbols [N, 3 + R] stand for, complex64 [N, M]."""
        found = [torch.zeros(0, self.grid.line.num_elements, dtype=torch.complex64)]
        for row in symbols:
            frame, z_hat = row[None, :3].clone(), (row[None, 3:] + self.lowest) * self.step
            patches = self.model.synthesise(z_hat, self.grid.place(frame), self.level)
            found.append(self.model.patches.join(to_values(patches)) * self.grid.rotation(frame))
        return torch.cat(found)

    def encode(self, observed: Observed) -> list[bytes]:
        """Returns one payload for each of N observed channels."""
        return self.coder.encode(self.quantise(observed))

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the channels, complex64 [N, M]. Raises SemcomError for payloads `encode` never makes."""
        return self.dequantise(self.coder.decode(payloads))

    def entropy_bits(self, observed: Observed) -> torch.Tensor:
        """Returns the information in each payload under the learned frequencies, bits, float64 [N]."""
        return self.coder.cost_bits(self.quantise(observed))

    def max_payload_bits(self) -> int:
        """Returns the bits that no payload exceeds."""
        return self.coder.max_payload_bits()

    def __call__(self, observed: Observed) -> torch.Tensor:
        """Returns decode(encode(observed)), without the bytes."""
        return self.dequantise(self.quantise(observed))


def _each(observed: Observed) -> Iterator[Observed]:
    # Copies, since the order of summation depends on where in memory a row begins.
    for at in range(len(observed)):
        row = observed[at : at + 1]
        yield Observed(row.y.clone(), row.visible.clone(), row.noise_var.clone())


class RateControl:
    """Finds the rate level at which payloads of held-out channels take so many bits on average."""

    def __init__(self, model: BottleneckModel, array: NearFieldConfig, held_out: Observed) -> None:
        self.model, self.array = model, array
        ends = (0.0, FINE_FROM)
        # What the sender's network finds hangs on the frame's grid, and not on the level.
        self._looked = [BottleneckFeedback(model, array, level).look(held_out) for level in ends]

    def feedback(self, mean_bits: float) -> BottleneckFeedback:
        """The bottleneck at mean_bits. Raises SemcomError where its coarsest steps take more."""
        target = mean_bits - _WHOLE_BYTES_BITS
        if (least := self._entropy_bits(_FIRST_LEVEL)) > target:
            raise SemcomError(
                f"mean_bits {mean_bits:g} is too few for the bottleneck: at its coarsest it takes "
                f"{least + _WHOLE_BYTES_BITS:.1f}"
            )
        level = self._level(target)
        sizes = [8 * len(each) for each in self._payloads(level)]
        spent = sum(sizes) / len(sizes)
        return BottleneckFeedback(self.model, self.array, self._level(target + mean_bits - spent))

    def _level(self, target: float) -> float:
        """The largest level whose payloads have at most `target` bits of information on average."""
        low, high = (
            (FINE_FROM, _LAST_LEVEL)
            if self._entropy_bits(FINE_FROM) <= target
            else (_FIRST_LEVEL, FINE_FROM - _JUST_BELOW)
        )
        if self._entropy_bits(high) <= target:
            return high
        for _ in range(_NUM_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._entropy_bits(middle) <= target else (low, middle)
        return low

    def _entropy_bits(self, level: float) -> float:
        feedback = BottleneckFeedback(self.model, self.array, level)
        return float(feedback.coder.cost_bits(feedback.symbols(self._looked[feedback.number])).mean())

    def _payloads(self, level: float) -> list[bytes]:
        feedback = BottleneckFeedback(self.model, self.array, level)
        return feedback.coder.encode(feedback.symbols(self._looked[feedback.number]))
