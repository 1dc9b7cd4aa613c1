"""JPEG scans: whether bytes are the Huffman codes of one frame, all and no more; their tables changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from semcom.contracts import SemcomError

_BLOCKS_PER_UNIT = 6
"""With 4:2:0 a unit of 16 x 16 pixels has four blocks of luma and one of each chroma."""
_LUMA_BLOCKS = 4
_MOST_BITS_OF_A_DIFFERENCE = 11
_MOST_BITS_OF_A_COEFFICIENT = 10
_SIXTEEN_ZEROS = 0xF0
_TO_THE_END, _NO_CODE = 128, 256
"""Numbers of coefficients that none passes: what the symbol of no more of them does, and what is no code."""
_BYTES_AHEAD = 2 + 212
"""A block is looked at as a whole, of at most 27 bits of DC and 63 times 26 of AC; words have 16 bits."""


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


@dataclass(frozen=True)
class _Lookup:
    """A table both ways.

    Of each 16-bit word the code that it begins with: symbol, uint8 [65536]; step, uint16 [65536]: how many
    bits it takes, its number included, and 32 times how many coefficients it passes; _TO_THE_END of them
    where the others are zero, _NO_CODE where there is none. Of each symbol code and num_bits, int64 [256];
    0 bits where it has none.
    """

    symbol: np.ndarray
    step: np.ndarray
    code: np.ndarray
    num_bits: np.ndarray


@lru_cache(maxsize=64)
def _lookup(table: HuffmanTable) -> _Lookup:
    symbol = np.array(list(table.symbols))
    length = np.repeat(np.arange(1, 17), list(table.counts))
    passed = np.where(symbol == 0, _TO_THE_END, (symbol >> 4) + 1)
    if table.is_dc:
        passed = np.ones_like(symbol)
    step = (passed << 5) + length + _num_extra_bits(symbol, table.is_dc)
    words = 1 << (16 - length)
    code, num_bits = np.zeros((2, 256), np.int64)
    code[symbol] = (np.cumsum(words) - words) >> (16 - length)
    num_bits[symbol] = length
    words = np.append(words, (1 << 16) - table.upper_bounds()[-1])
    return _Lookup(
        np.repeat(np.append(symbol, 0).astype(np.uint8), words),
        np.repeat(np.append(step, _NO_CODE << 5).astype(np.uint16), words),
        code,
        num_bits,
    )


@dataclass(frozen=True)
class _Reading:
    """A scan read symbol by symbol (ITU-T T.81, F.2.2).

    words: the 16 bits from each place on, uint16; at: where each symbol's code begins; first: which symbols
    are a block's first; problem: what is wrong, with which the other fields are those up to there.
    """

    words: np.ndarray
    at: list[int]
    first: list[int]
    problem: str | None


def _read(scan: bytes, tables: Sequence[HuffmanTable], num_units: int) -> _Reading:
    text = scan.replace(b"\xff\x00", b"\xff")
    data = np.frombuffer(text + bytes(_BYTES_AHEAD), np.uint8).astype(np.uint32)
    three = (data[:-2] << 16) | (data[1:-1] << 8) | data[2:]
    words = (three[:, None] >> np.arange(8, 0, -1, dtype=np.uint32)).astype(np.uint16).ravel()
    at: list[int] = []
    first: list[int] = []
    if scan.count(b"\xff") != scan.count(b"\xff\x00"):
        return _Reading(words, at, first, "there is a marker in it")
    # Items of a memoryview are Python's own integers, in a loop several times faster than numpy's.
    word = words.data
    steps = [_lookup(table).step.data for table in tables]
    last_of_sixteen = _lookup(tables[1]).symbol, _lookup(tables[3]).symbol
    place, num_bits = 0, 8 * len(text)
    for block in range(_BLOCKS_PER_UNIT * num_units):
        is_chroma = block % _BLOCKS_PER_UNIT >= _LUMA_BLOCKS
        dc, ac = steps[2:] if is_chroma else steps[:2]
        first.append(len(at))
        at.append(place)
        step = dc[word[place]]
        place += step & 31
        order = step >> 5
        while order < 64:
            at.append(place)
            step = ac[word[place]]
            place += step & 31
            order += step >> 5
        if place > num_bits:
            return _Reading(words, at, first, "it ends too early")
        # Sixteen zeros are written only before a coefficient.
        is_full = order == 64 and last_of_sixteen[is_chroma][word[at[-1]]] != _SIXTEEN_ZEROS
        if not is_full and not _TO_THE_END <= order < _NO_CODE:
            return _Reading(words, at, first, "there is no such code")
    return _Reading(words, at, first, _what_follows(text, num_bits - place))


def _what_follows(text: bytes, num_bits: int) -> str | None:
    """What is wrong with the last bits, which aren't codes."""
    if num_bits > 7:
        return f"{num_bits // 8} bytes follow its end"
    if num_bits and (text[-1] + 1) & ((1 << num_bits) - 1):
        return "its last byte is not filled with ones"
    return None


def _num_extra_bits(symbol: np.ndarray, is_dc: bool) -> np.ndarray:
    """Bits of the number that follows a symbol."""
    return symbol if is_dc else symbol & 15


def check_scan(scan: bytes, tables: Sequence[HuffmanTable], num_units: int) -> str | None:
    """Says what is wrong with a scan: None if it is num_units units of 4:2:0, filled with ones.

    scan: the bytes between a frame's header and its end, zeros stuffed after each 255; tables: the four of
    DC and AC of luma, DC and AC of chroma. Decoders make up what a scan lacks, and so can't be asked.
    """
    return _read(scan, tables, num_units).problem


def transcode(
    scan: bytes, old: Sequence[HuffmanTable], new: Sequence[HuffmanTable], num_units: int
) -> bytes | None:
    """Writes a scan with other tables, the coefficients being the same; None where these lack a symbol.

    Tables as for `check_scan`; raises SemcomError for a scan that it would complain of.
    """
    reading = _read(scan, old, num_units)
    if reading.problem:
        raise SemcomError(f"a scan can't be written with other tables: {reading.problem}")
    at, num_symbols = np.array(reading.at), len(reading.at)
    # Of each block the first symbol is of DC.
    block = np.arange(_BLOCKS_PER_UNIT * num_units)
    size = np.diff(np.append(reading.first, num_symbols))
    table = np.repeat(np.where(block % _BLOCKS_PER_UNIT < _LUMA_BLOCKS, 1, 3), size)
    table[reading.first] -= 1
    value, length = np.empty((2, num_symbols), np.int64)
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        chosen = np.flatnonzero(table == number)
        read, write, word = _lookup(before), _lookup(after), reading.words[at[chosen]]
        symbol = read.symbol[word].astype(np.int64)
        if not write.num_bits[symbol].all():
            return None
        extra = _num_extra_bits(symbol, before.is_dc)
        end = at[chosen] + (read.step[word] & 31)
        value[chosen] = (write.code[symbol] << extra) | (reading.words[end - extra] >> (16 - extra))
        length[chosen] = write.num_bits[symbol] + extra
    return _to_bytes(value, length)


def _to_bytes(value: np.ndarray, length: np.ndarray) -> bytes:
    """Numbers of so many bits each, most significant first, filled with ones and stuffed."""
    ends = np.cumsum(length)
    place = np.repeat(ends, length) - 1 - np.arange(ends[-1])
    bits = (np.repeat(value, length) >> place) & 1
    filled = np.append(bits, np.ones(-len(bits) % 8, bits.dtype)).astype(np.uint8)
    return np.packbits(filled).tobytes().replace(b"\xff", b"\xff\x00")
