"""The grammar of a JPEG scan: whether bytes are the Huffman-coded blocks of one frame, all and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semcom.contracts import SemcomError

_BLOCKS_PER_UNIT = 6
"""With 4:2:0 a unit of 16 x 16 pixels has four blocks of luma and one of each chroma."""
_LUMA_BLOCKS = 4
_MOST_BITS_OF_A_DIFFERENCE = 11
_MOST_BITS_OF_A_COEFFICIENT = 10
_SIXTEEN_ZEROS = 0xF0


@dataclass(frozen=True)
class HuffmanTable:
    """A table as JPEG transmits it: how many codes there are of 1 to 16 bits, and their symbols in order.

    Raises SemcomError for one that is no prefix code, or, for the differences of DC or the coefficients of
    AC, has symbols that an 8-bit frame can't need.
    """

    counts: bytes
    symbols: bytes
    is_dc: bool

    def __post_init__(self) -> None:
        if len(self.counts) != 16 or sum(self.counts) != len(self.symbols) or not self.symbols:
            raise SemcomError("a Huffman table is cut off or empty")
        if self.upper_bounds()[-1] >= 1 << 16 or len(set(self.symbols)) < len(self.symbols):
            raise SemcomError("a Huffman table is no prefix code")
        if any(not self._is_allowed(symbol) for symbol in self.symbols):
            raise SemcomError("a Huffman table has symbols that no 8-bit frame needs")

    def _is_allowed(self, symbol: int) -> bool:
        if self.is_dc:
            return symbol <= _MOST_BITS_OF_A_DIFFERENCE
        bits = symbol & 15
        return bits <= _MOST_BITS_OF_A_COEFFICIENT and (bits > 0 or symbol in (0, _SIXTEEN_ZEROS))

    def upper_bounds(self) -> np.ndarray:
        """First 16-bit word beyond all codes of up to 1 to 16 bits, int64 [16].

        Codes are dealt in rising order, so those of l bits take 2^(16 - l) words each after the shorter ones
        (ITU-T T.81, annex C).
        """
        return np.cumsum(np.frombuffer(self.counts, np.uint8).astype(np.int64) << np.arange(15, -1, -1))


class _Lookup:
    """The tables of several frames side by side; row 4 s + i is table i of the s-th set."""

    def __init__(self, tables: Sequence[HuffmanTable]) -> None:
        self.upper = np.stack([table.upper_bounds() for table in tables])
        self.lower = np.concatenate([np.zeros((len(tables), 1), np.int64), self.upper[:, :-1]], axis=1)
        counts = np.stack([np.frombuffer(table.counts, np.uint8) for table in tables]).astype(np.int64)
        self.first = np.cumsum(counts, axis=1) - counts
        self.symbols = np.zeros((len(tables), 256), np.int64)
        for row, table in enumerate(tables):
            self.symbols[row, : len(table.symbols)] = list(table.symbols)

    def read(self, row: np.ndarray, word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Symbol and length of the code that each 16-bit word begins with; length 0 where it is none."""
        length = (word[:, None] >= self.upper[row]).sum(axis=1)
        known = length < 16
        index = np.minimum(length, 15)
        offset = (word - self.lower[row, index]) >> (15 - index)
        place = np.where(known, self.first[row, index] + offset, 0)
        return self.symbols[row, place], np.where(known, length + 1, 0)


def check_scans(
    scans: Sequence[bytes], tables: Sequence[Sequence[HuffmanTable]], num_units: int
) -> list[str | None]:
    """Says for each scan what is wrong with it: None if it is num_units units of 4:2:0, padded with ones.

    scans: the bytes between a frame's header and its end, zeros stuffed after each 255; tables: for each
    scan the four tables of DC and AC of luma, DC and AC of chroma. All scans are read side by side, symbol
    by symbol (ITU-T T.81, F.2.2). Decoders make up what a scan lacks, and so can't be asked.
    """
    if not scans:
        return []
    problems: list[str | None] = [
        None if scan.count(b"\xff") == scan.count(b"\xff\x00") else "there is a marker in it"
        for scan in scans
    ]
    plain = [scan.replace(b"\xff\x00", b"\xff") for scan in scans]
    num_bits = np.array([8 * len(data) for data in plain])
    # Three bytes are looked at from any place on, and a code with its number is no longer than 26 bits.
    data = np.zeros((len(plain), max(map(len, plain)) + 8), np.int64)
    for row, text in enumerate(plain):
        data[row, : len(text)] = np.frombuffer(text, np.uint8)
    sets = list({id(four): four for four in tables}.values())
    set_of = {id(four): number for number, four in enumerate(sets)}
    lookup = _Lookup([table for four in sets for table in four])
    first_row = np.array([4 * set_of[id(four)] for four in tables])

    position, block, order = np.zeros((3, len(plain)), np.int64)
    left = np.flatnonzero([problem is None for problem in problems])
    while left.size:
        at = position[left]
        byte = at >> 3
        word = (data[left, byte] << 16) | (data[left, byte + 1] << 8) | data[left, byte + 2]
        word = (word >> (8 - (at & 7))) & 0xFFFF
        is_dc = order[left] == 0
        is_chroma = block[left] % _BLOCKS_PER_UNIT >= _LUMA_BLOCKS
        symbol, length = lookup.read(first_row[left] + 2 * is_chroma + ~is_dc, word)
        skipped = np.where(symbol == 0, 63, symbol >> 4)
        order[left] = np.where(is_dc, 1, np.where(symbol == 0, 64, order[left] + skipped + 1))
        position[left] += length + np.where(is_dc, symbol, symbol & 15)
        closed = left[order[left] == 64]
        block[closed] += 1
        order[closed] = 0
        bad = (length == 0) | (position[left] > num_bits[left]) | (order[left] > 64)
        for row in left[bad]:
            problems[row] = "it ends too early" if position[row] > num_bits[row] else "there is no such code"
        left = left[~bad & (block[left] < _BLOCKS_PER_UNIT * num_units)]
    for row, text in enumerate(plain):
        if problems[row] is None:
            over = int(num_bits[row] - position[row])
            if over > 7:
                problems[row] = f"{over // 8} bytes follow its end"
            elif over and (text[-1] + 1) & ((1 << over) - 1):
                problems[row] = "its last byte is not filled with ones"
    return problems
