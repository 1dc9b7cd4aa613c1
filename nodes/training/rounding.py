"""Rounding numbers to a few equally spaced levels about zero, with a step of its own for each block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class BlockQuantiser:
    """Uniform quantiser of b bits for numbers x [P] in blocks, each scaled by what is in it.

    From 2 bits on zero is a level: with L = 2^(b - 1) - 1 and the block's step s = max |x| / L,
    q = round(x / s) in -L..L, symbol = q + L, x_hat = q s. Rounded to nearest the error is at most s / 2,
    s^2 / 12 in the mean square where cells are small (Gersho and Gray 1992, chapter 5), and at most |x|.
    Stochastic rounding, floor(x / s + u) with u uniform on [0, 1), has the mean x, and the variance
    s^2 f (1 - f) for a fraction f of x / s: QSGD in blocks, scaled by the largest magnitude (Alistarh et al.
    2017).

    1 bit is the sign, x_hat = +-s: s = mean |x| to nearest, the least squared error (Karimireddy et al. 2019,
    algorithm 1), and s = max |x| with P(+) = (1 + x / s) / 2 stochastically, which has the mean x again.
    """

    def __init__(self, block_sizes: Sequence[int], bits: int) -> None:
        self._sizes = np.array(block_sizes, dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._most = (1 << (bits - 1)) - 1
        self.num_numbers, self.num_blocks = int(self._sizes.sum()), len(self._sizes)
        self.num_symbols = 2 * self._most + 1 if bits > 1 else 2

    def quantise(self, values: np.ndarray, uniform: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns symbols int32 [P] and steps float32 [blocks] of float32 values [P].

        uniform [P]: what stochastic rounding draws, None for rounding to nearest.
        """
        magnitude = np.abs(values)
        if self._most == 0 and uniform is None:
            total = np.add.reduceat(magnitude, self._starts, dtype=np.float64)
            return (values >= 0).astype(np.int32), (total / self._sizes).astype(np.float32)
        steps = np.maximum.reduceat(magnitude, self._starts) / np.float32(max(self._most, 1))
        # In double precision: in single, x / s + u has few bits left for u where x / s has 15.
        ratio = values / np.repeat(np.where(steps > 0, steps, 1).astype(np.float64), self._sizes)
        if uniform is None:
            whole = np.rint(ratio)
        elif self._most:
            whole = np.floor(ratio + uniform)
        else:
            return (2 * uniform < 1 + ratio).astype(np.int32), steps
        return (whole.clip(-self._most, self._most) + self._most).astype(np.int32), steps

    def dequantise(self, symbols: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Returns the levels of symbols [P] under steps [blocks], float32 [P]."""
        whole = symbols - self._most if self._most else 2 * symbols - 1
        return whole.astype(np.float32) * np.repeat(steps, self._sizes)
