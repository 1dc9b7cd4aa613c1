"""JPEG scans: whether bytes are the Huffman codes of one frame, all and no more; their tables changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Code and its length for each of 256 symbols, int64; length 0 for those that have none."""
        lengths = np.repeat(np.arange(1, 17), list(self.counts))
        words = 1 << (16 - lengths)
        code, length = np.zeros((2, 256), np.int64)
        code[list(self.symbols)] = (np.cumsum(words) - words) >> (16 - lengths)
        length[list(self.symbols)] = lengths
        return code, length


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


class _Reading:
    """Scans read side by side, symbol by symbol (ITU-T T.81, F.2.2); problems holds what is wrong."""

    def __init__(
        self, scans: Sequence[bytes], tables: Sequence[Sequence[HuffmanTable]], num_units: int
    ) -> None:
        self.problems: list[str | None] = [
            None if scan.count(b"\xff") == scan.count(b"\xff\x00") else "there is a marker in it"
            for scan in scans
        ]
        self._plain = [scan.replace(b"\xff\x00", b"\xff") for scan in scans]
        self._num_blocks = _BLOCKS_PER_UNIT * num_units
        # Three bytes are looked at from any place on, and a code with its number is no longer than 27 bits.
        self._data = np.zeros((len(scans), max(map(len, self._plain)) + 8), np.uint8)
        for row, text in enumerate(self._plain):
            self._data[row, : len(text)] = np.frombuffer(text, np.uint8)
        sets = list({id(four): four for four in tables}.values())
        set_of = {id(four): number for number, four in enumerate(sets)}
        self._lookup = _Lookup([table for four in sets for table in four])
        self._first_row = np.array([4 * set_of[id(four)] for four in tables])

    def words(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The 16 bits from each place on, int64."""
        first, second, third = (self._data[rows, (at >> 3) + ahead].astype(np.int64) for ahead in range(3))
        return (((first << 16) | (second << 8) | third) >> (8 - (at & 7))) & 0xFFFF

    def symbols(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Yields the next symbol of each scan that goes on: row, table, symbol, where its number begins."""
        num_bits = np.array([8 * len(text) for text in self._plain])
        position, block, order = np.zeros((3, len(self._plain)), np.int64)
        left = np.flatnonzero([problem is None for problem in self.problems])
        while left.size:
            is_dc = order[left] == 0
            table = np.where(block[left] % _BLOCKS_PER_UNIT < _LUMA_BLOCKS, 0, 2) + ~is_dc
            symbol, length = self._lookup.read(
                self._first_row[left] + table, self.words(left, position[left])
            )
            yield left, table, symbol, position[left] + length
            reached = np.where(is_dc, 1, np.where(symbol == 0, 64, order[left] + (symbol >> 4) + 1))
            position[left] += length + num_extra_bits(table, symbol)
            # Sixteen zeros are written only before a coefficient.
            bad = (length == 0) | (reached > np.where(symbol == _SIXTEEN_ZEROS, 63, 64))
            cut = position[left] > num_bits[left]
            for row, is_cut in zip(left[bad | cut], cut[bad | cut], strict=True):
                self.problems[row] = "it ends too early" if is_cut else "there is no such code"
            block[left] += reached == 64
            order[left] = np.where(reached == 64, 0, reached)
            left = left[~bad & ~cut & (block[left] < self._num_blocks)]
        for row, text in enumerate(self._plain):
            over = int(num_bits[row] - position[row])
            if self.problems[row] is None and over > 7:
                self.problems[row] = f"{over // 8} bytes follow its end"
            elif self.problems[row] is None and over and (text[-1] + 1) & ((1 << over) - 1):
                self.problems[row] = "its last byte is not filled with ones"


def num_extra_bits(table: np.ndarray, symbol: np.ndarray) -> np.ndarray:
    """Bits of the number that follows a symbol of tables 0 to 3, DC and AC of luma and of chroma."""
    return np.where(table % 2 == 0, symbol, symbol & 15)


def check_scans(
    scans: Sequence[bytes], tables: Sequence[Sequence[HuffmanTable]], num_units: int
) -> list[str | None]:
    """Says for each scan what is wrong with it: None if it is num_units units of 4:2:0, padded with ones.

    scans: the bytes between a frame's header and its end, zeros stuffed after each 255; tables: for each
    scan the four tables of DC and AC of luma, DC and AC of chroma. Decoders make up what a scan lacks, and
    so can't be asked.
    """
    if not scans:
        return []
    reading = _Reading(scans, tables, num_units)
    for _ in reading.symbols():
        pass
    return reading.problems


def transcode(
    scans: Sequence[bytes], old: Sequence[HuffmanTable], new: Sequence[HuffmanTable], num_units: int
) -> list[bytes | None]:
    """Writes scans with other tables, the coefficients being the same; None where these lack a symbol.

    Tables and errors as for `check_scans`; raises SemcomError for a scan that it would complain of.
    """
    if not scans:
        return []
    codes, lengths = (np.stack(parts) for parts in zip(*(table.codes() for table in new), strict=True))
    reading, parts = _Reading(scans, [old] * len(scans), num_units), []
    for rows, table, symbol, at in reading.symbols():
        extra = num_extra_bits(table, symbol)
        number = reading.words(rows, at) >> (16 - extra)
        length = np.where(lengths[table, symbol] > 0, lengths[table, symbol] + extra, 0)
        parts.append((rows, (codes[table, symbol] << extra) | number, length))
    for number_of, problem in enumerate(reading.problems):
        if problem:
            raise SemcomError(f"scan {number_of} can't be written with other tables: {problem}")
    row, value, length = (np.concatenate(column) for column in zip(*parts, strict=True))
    of_scan = np.argsort(row, kind="stable")
    ends = np.cumsum(np.bincount(row, minlength=len(scans)))
    return [
        None if (length[chosen] == 0).any() else _to_bytes(value[chosen], length[chosen])
        for chosen in np.split(of_scan, ends[:-1])
    ]


def _to_bytes(value: np.ndarray, length: np.ndarray) -> bytes:
    """Numbers of so many bits each, most significant first, filled with ones and stuffed."""
    ends = np.cumsum(length)
    place = np.repeat(ends, length) - 1 - np.arange(ends[-1])
    bits = (np.repeat(value, length) >> place) & 1
    filled = np.append(bits, np.ones(-len(bits) % 8, bits.dtype)).astype(np.uint8)
    return np.packbits(filled).tobytes().replace(b"\xff", b"\xff\x00")
