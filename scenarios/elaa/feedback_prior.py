"""Cells that numbers are rounded to one after the other, and what they cost under a learned distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from semcom.contracts import SemcomError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NUM_QUANTILES = 64
_FLAT_SHARE = 0.05
_TOTAL = 1 << 20


class Prior:
    """A distribution on an interval, from samples: 95 % their quantiles joined by lines, 5 % uniform.

    values: at least one, finite. The interval reaches from the least to the largest of them and of `bounds`.
    """

    def __init__(self, values: npt.ArrayLike, *bounds: float) -> None:
        samples = np.asarray(values, dtype=np.float64)
        if not samples.size or not np.isfinite(samples).all():
            raise SemcomError("a distribution is learned from finite numbers, at least one: give it some")
        share = np.linspace(0, 1, _NUM_QUANTILES + 1)
        knots = np.quantile(samples, share)
        ends = (*knots[[0, -1]].tolist(), *bounds)
        self.low, self.high = min(ends), max(ends)
        # Of equal quantiles the last one's share: a value that is often taken has its mass there.
        last = np.append(knots[1:] > knots[:-1], True)
        self._values = np.unique(np.concatenate([knots, np.linspace(self.low, self.high, len(share))]))
        learned = np.interp(self._values, knots[last], share[last])
        flat = (self._values - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        self._shares = (1 - _FLAT_SHARE) * learned + _FLAT_SHARE * flat

    def cdf(self, value: FloatArray) -> FloatArray:
        """Share of the distribution up to a value, in 0 to 1."""
        return np.asarray(np.interp(value, self._values, self._shares))

    def share_below(self, value: float) -> float:
        """`cdf` of one value."""
        return float(np.interp(value, self._values, self._shares))

    def quantile(self, share: FloatArray) -> FloatArray:
        """The value up to which a share of the distribution lies."""
        return np.asarray(np.interp(share, self._shares, self._values))


@dataclass(frozen=True)
class Cells:
    """For each of N numbers its own cells: the first from `low` to `first`, then each `step` on, to `high`.

    low, first, step, high: float64 [N]; num: int64 [N], how many there are.
    """

    prior: Prior
    low: FloatArray
    first: FloatArray
    step: FloatArray
    high: FloatArray
    num: IntArray

    @classmethod
    def even(cls, prior: Prior, largest_step: FloatArray) -> Cells:
        """Cells of the same size, at most largest_step [N], over the prior's interval."""
        width = prior.high - prior.low
        num = np.maximum(np.ceil(width / largest_step), 1).astype(np.int64)
        low = np.full(len(num), prior.low)
        step = width / num
        return cls(prior, low, low + step, step, np.full(len(num), prior.high), num)

    def symbols(self, value: FloatArray) -> IntArray:
        """Numbers of the cells that values [N] fall into, those beyond an end into its cell."""
        with np.errstate(divide="ignore", invalid="ignore"):
            cell = np.where(self.step > 0, np.floor((value - self.first) / self.step) + 1, 0)
        return np.clip(cell, 0, self.num - 1).astype(np.int64)

    def edges(self, cell: IntArray) -> FloatArray:
        """Lower edges of cells [N]; of cell `num` the upper end."""
        inner = self.first + (cell - 1) * self.step
        return np.where(cell <= 0, self.low, np.where(cell >= self.num, self.high, inner))

    def _shares(self, cell: IntArray) -> FloatArray:
        inner = self.prior.cdf(self.edges(cell))
        return np.where(cell <= 0, 0.0, np.where(cell >= self.num, 1.0, inner))

    def values(self, cell: IntArray) -> FloatArray:
        """What cells [N] stand for: the prior's median within them."""
        middle = self.prior.quantile((self._shares(cell) + self._shares(cell + 1)) / 2)
        return np.clip(middle, self.edges(cell), np.maximum(self.edges(cell + 1), self.edges(cell)))

    def cumulative(self, cell: IntArray) -> IntArray:
        """Frequencies of all cells below cells [N], whole numbers; every cell has at least 1."""
        return np.floor(self._shares(cell) * _TOTAL).astype(np.int64) + cell

    def cost_bits(self, cell: IntArray) -> FloatArray:
        """What cells [N] cost, -log2 of their frequency's share."""
        frequency = self.cumulative(cell + 1) - self.cumulative(cell)
        return np.log2((_TOTAL + self.num) / frequency)

    def table(self, row: int) -> Table:
        """The frequencies of one number's cells for the arithmetic coder."""
        return Table(self.prior, float(self.first[row]), float(self.step[row]), int(self.num[row]))


class Table(Sequence[int]):
    """The cumulative frequencies of one number's cells as a sequence that is worked out where it is read."""

    def __init__(self, prior: Prior, first: float, step: float, num: int) -> None:
        self._prior, self._first, self._step, self._num = prior, first, step, num
        # A coder reads the same places more than once.
        self._known: dict[int, int] = {}

    def __len__(self) -> int:
        """One more than there are cells."""
        return self._num + 1

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> list[int]: ...
    def __getitem__(self, place: int | slice) -> int | list[int]:
        """What comes before a cell. Raises IndexError beyond the ends."""
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"cell {place} of {len(self)}")
        place %= len(self)
        if place not in self._known:
            # As Cells.cumulative has it, with plain numbers: a coder reads thousands of tables.
            share = 1.0 if place >= self._num else 0.0
            if 0 < place < self._num:
                share = self._prior.share_below(self._first + (place - 1) * self._step)
            self._known[place] = math.floor(share * _TOTAL) + place
        return self._known[place]
