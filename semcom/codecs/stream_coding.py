"""Range coding of long messages in whole arrays, with no table sent: what came before says what is likely."""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np

from semcom.contracts import SemcomError

_FIRST_PART = 64
_LONGEST_PART = 1024
_MOST_COUNTED = 256


class StreamWriter:
    """Codes arrays of symbols one after the other; the payload is some four bytes longer than their cost.

    For tens of thousands of symbols at once: for short messages, where whole bytes matter, take
    `SymbolCoder` or `IntervalWriter`. Coder: constriction (Bamler 2022, arXiv 2201.01741).
    """

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def write_uniform(self, symbols: np.ndarray, num_symbols: int) -> None:
        """Adds symbols [N] of num_symbols (at most 2^16) that are equally likely: log2(num_symbols) each."""
        if num_symbols > 1:
            self._encoder.encode(symbols.astype(np.int32), _uniform(num_symbols))

    def write_counted(self, symbols: np.ndarray, num_symbols: int) -> None:
        """Adds symbols [N] of num_symbols (at most 2^16), each part of them under the counts of those before.

        The message goes in parts, first of 64 symbols, then of as many as there were before, at most 1024. A
        symbol of an alphabet of A that occurred c times in the n before its part has the probability
        (c + 1/2) / (n + A/2) (Krichevsky and Trofimov 1981). Learning that costs about (A - 1)/2 log2(N) bits
        at most. Of more than 256 symbols the leading 8 bits are counted, and the others go as they are.
        """
        if num_symbols == 1:
            return
        low_bits, num_counted = _counted(num_symbols)
        counts = np.zeros(num_counted, dtype=np.int64)
        high = symbols.astype(np.int32) >> low_bits
        for start, stop in _parts(len(symbols)):
            part = high[start:stop]
            self._encoder.encode(part, _categorical(2 * counts + 1))
            counts += np.bincount(part, minlength=num_counted)
        self.write_uniform(symbols & ((1 << low_bits) - 1), 1 << low_bits)

    def write_places(self, is_chosen: np.ndarray) -> None:
        """Adds which places are chosen, bool [N]; the reader is told how many, k.

        Places are independent, of probability k / N each, so that the cost is N h(k / N): no more than
        log2(N + 1) bits above log2 binomial(N, k), which any code needs on average (Cover and Thomas 2006,
        theorem 11.1.3). They are coded eight at a time.
        """
        num_chosen = int(np.count_nonzero(is_chosen))
        if 0 < num_chosen < len(is_chosen):
            model = _eight_places(num_chosen, len(is_chosen))
            self._encoder.encode(np.packbits(is_chosen).astype(np.int32), model)

    def payload(self) -> bytes:
        """Returns the bytes; zeros at the end are left out, since a reader finds zeros past the end."""
        return bytes(self._encoder.get_compressed().astype(">u4").tobytes()).rstrip(b"\0")


class StreamReader:
    """Reads what a `StreamWriter` wrote, array by array in the same order.

    Nearly every byte string can be read, so guard it by a checksum. Raises SemcomError for one that can't.
    """

    def __init__(self, payload: bytes) -> None:
        words = np.frombuffer(payload + bytes(-len(payload) % 4), ">u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)

    def read_uniform(self, length: int, num_symbols: int) -> np.ndarray:
        """Returns `length` symbols of num_symbols that are equally likely, int32."""
        if num_symbols == 1:
            return np.zeros(length, dtype=np.int32)
        return self._decode(_uniform(num_symbols), length)

    def read_counted(self, length: int, num_symbols: int) -> np.ndarray:
        """Returns `length` symbols that `StreamWriter.write_counted` wrote, int32."""
        if num_symbols == 1:
            return np.zeros(length, dtype=np.int32)
        low_bits, num_counted = _counted(num_symbols)
        counts = np.zeros(num_counted, dtype=np.int64)
        high = np.zeros(length, dtype=np.int32)
        for start, stop in _parts(length):
            high[start:stop] = part = self._decode(_categorical(2 * counts + 1), stop - start)
            counts += np.bincount(part, minlength=num_counted)
        return (high << low_bits) | self.read_uniform(length, 1 << low_bits)

    def read_places(self, length: int, num_chosen: int) -> np.ndarray:
        """Returns which of `length` places are chosen, bool; raises SemcomError for another number."""
        if not 0 < num_chosen < length:
            return np.full(length, num_chosen > 0)
        packed = self._decode(_eight_places(num_chosen, length), -(-length // 8))
        is_chosen = np.unpackbits(packed.astype(np.uint8)).astype(bool)
        if np.count_nonzero(is_chosen[:length]) != num_chosen or is_chosen[length:].any():
            raise SemcomError(f"a payload does not choose {num_chosen} of {length} places")
        return is_chosen[:length]

    def _decode(self, model: Any, length: int) -> np.ndarray:
        try:
            return np.asarray(self._decoder.decode(model, length), dtype=np.int32)
        except AssertionError:
            raise SemcomError("a payload can't be decoded with the tables it should be made of") from None


def _counted(num_symbols: int) -> tuple[int, int]:
    """The number of bits that go uncounted, and of symbols without them."""
    low_bits = max(0, (num_symbols - 1).bit_length() - _MOST_COUNTED.bit_length() + 1)
    return low_bits, ((num_symbols - 1) >> low_bits) + 1


def _parts(length: int) -> list[tuple[int, int]]:
    parts, start = [], 0
    while start < length:
        stop = min(length, start + min(max(start, _FIRST_PART), _LONGEST_PART))
        parts.append((start, stop))
        start = stop
    return parts


def _uniform(num_symbols: int) -> Any:
    return constriction.stream.model.Uniform(num_symbols)


def _categorical(frequencies: np.ndarray) -> Any:
    # From whole numbers by one correctly rounded division, so that both ends have the same table.
    probabilities = frequencies / frequencies.sum()
    return constriction.stream.model.Categorical(probabilities, perfect=False, lazy=False)


def _eight_places(num_chosen: int, num_places: int) -> Any:
    whole = num_places**8
    by_weight = [num_chosen**w * (num_places - num_chosen) ** (8 - w) / whole for w in range(9)]
    probabilities = np.array([by_weight[octet.bit_count()] for octet in range(256)])
    return constriction.stream.model.Categorical(probabilities, perfect=False, lazy=False)
