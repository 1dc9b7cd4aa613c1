"""Arithmetic coding in exact whole numbers: short messages whose alphabets follow from earlier symbols."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from semcom.contracts import SemcomError


class IntervalWriter:
    """Codes symbols one by one, each under a table of its own; the payload is the shortest there is.

    A symbol with frequency f of a total t, those of smaller symbols adding up to s, narrows the message's
    interval [a, a + w) to [a + w s / t, a + w (s + f) / t). The payload is the fewest bytes that, read as a
    binary fraction, lie in it: about 2 bits more than the sum of log2(t / f) on average, for whole bytes.
    Nothing is rounded, so that cost grows as the square of the message: it is for hundreds of bits. For long
    messages under fixed tables take `SymbolCoder`. Source: Witten, Neal and Cleary 1987, Arithmetic coding
    for data compression.
    """

    def __init__(self) -> None:
        self._low, self._width, self._unit = 0, 1, 1

    def write(self, symbol: int, cumulative: Sequence[int]) -> None:
        """Adds a symbol; cumulative: rising whole numbers from 0 to the total, one more than symbols.

        Raises SemcomError for a symbol that the table has not, or with a frequency of 0.
        """
        if not 0 <= symbol < len(cumulative) - 1 or cumulative[symbol] >= cumulative[symbol + 1]:
            raise SemcomError(f"symbol {symbol} does not occur in a table of {len(cumulative) - 1} symbols")
        self._narrow(cumulative[symbol], cumulative[symbol + 1], cumulative[-1])

    def write_uniform(self, symbol: int, num_symbols: int) -> None:
        """Adds one of num_symbols symbols that are equally likely."""
        if not 0 <= symbol < num_symbols:
            raise SemcomError(f"symbol {symbol} is not one of 0 to {num_symbols - 1}")
        self._narrow(symbol, symbol + 1, num_symbols)

    def _narrow(self, start: int, stop: int, total: int) -> None:
        self._low = self._low * total + self._width * start
        self._width *= stop - start
        self._unit *= total

    def payload(self) -> bytes:
        """Returns the fewest bytes in the interval; none for a message of certain symbols."""
        num_bytes = max(0, (self._unit // self._width).bit_length() - 1) // 8
        while True:
            scale = 1 << 8 * num_bytes
            number = -(-self._low * scale // self._unit)
            if number * self._unit < (self._low + self._width) * scale:
                return number.to_bytes(num_bytes, "big")
            num_bytes += 1


class IntervalReader:
    """Reads what an `IntervalWriter` wrote, given the same tables in the same order.

    Nearly every byte string can be read: who wants to know that it was written so writes it again.
    """

    def __init__(self, payload: bytes) -> None:
        self._number, self._scale = int.from_bytes(payload, "big"), 1 << 8 * len(payload)
        self._low, self._width, self._unit = 0, 1, 1

    def read(self, cumulative: Sequence[int]) -> int:
        """Returns the next symbol under a table (see `IntervalWriter.write`)."""
        symbol = bisect_right(cumulative, self._slot(cumulative[-1])) - 1
        self._narrow(cumulative[symbol], cumulative[symbol + 1], cumulative[-1])
        return symbol

    def read_uniform(self, num_symbols: int) -> int:
        """Returns the next symbol, one of num_symbols that are equally likely."""
        symbol = self._slot(num_symbols)
        self._narrow(symbol, symbol + 1, num_symbols)
        return symbol

    def _slot(self, total: int) -> int:
        above = self._number * self._unit - self._low * self._scale
        return above * total // (self._width * self._scale)

    def _narrow(self, start: int, stop: int, total: int) -> None:
        self._low = self._low * total + self._width * start
        self._width *= stop - start
        self._unit *= total
