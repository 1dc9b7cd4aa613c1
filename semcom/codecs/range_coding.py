"""Range coding of symbols under one table of probabilities for each place in the message."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
import torch
from torch import nn

from semcom.contracts import SemcomError

# constriction rounds probabilities to multiples of 2^-24, and keeps at least 8 bits of its range
# below that, so a symbol costs at most this much more than its ideal length.
_PROBABILITY_STEP = 2.0**-24
_ROUNDING_BITS = -math.log2(1 - 2.0**-8)


@dataclass(frozen=True)
class _Models:
    """What follows from the frequencies: the coded places, their categorical models, the symbols' cost."""

    frequencies: torch.Tensor
    version: int
    places: list[int]
    categorical: list[Any]
    cost_bits: torch.Tensor
    max_bits: float


def _words(data: bytes) -> np.ndarray:
    return np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)


def _range_encode(symbols: list[int], models: list[Any]) -> bytes:
    encoder = constriction.stream.queue.RangeEncoder()
    encode = encoder.encode
    for symbol, model in zip(symbols, models, strict=True):
        encode(symbol, model)
    return encoder.get_compressed().astype(">u4").tobytes()


def _range_decode(payload: bytes, models: list[Any]) -> list[int]:
    decode = constriction.stream.queue.RangeDecoder(_words(payload)).decode
    return [decode(model) for model in models]


def _decodes_to(symbols: list[int], payload: bytes, models: list[Any]) -> bool:
    try:
        return _range_decode(payload, models) == symbols
    except AssertionError:
        return False


def _shortest_payload(symbols: list[int], models: list[Any], cost_bits: float) -> bytes:
    """Returns the fewest bytes that decode to the symbols.

    A range decoder reads zeros past the end, so any number in the message's interval will do, and of
    the numbers with k bytes only the two next to constriction's own can lie in it. The interval's width
    is 2^-cost: ceil(cost / 8) bytes always suffice, one fewer does in about a fifth of the messages.
    """
    data = _range_encode(symbols, models)
    number, num_bits = int.from_bytes(data, "big"), 8 * len(data)
    # One bit more than the width, for the rounding of the probabilities: it only saves hopeless trials.
    reach = 1 << max(0, math.ceil(num_bits - cost_bits) + 1)
    # Half a bit aside, or the last digit of a sum that should be a whole number of bytes would decide.
    for length in range(max(0, math.ceil((cost_bits - 0.5) / 8) - 1), len(data)):
        unit = 1 << (num_bits - 8 * length)
        below, rest = divmod(number, unit)
        for candidate, gap in ((below, rest), (below + 1, unit - rest)):
            if gap <= reach and candidate < 1 << (8 * length):
                payload = candidate.to_bytes(length, "big")
                if _decodes_to(symbols, payload, models):
                    return payload.rstrip(b"\0")
    return data.rstrip(b"\0")


class SymbolCoder(nn.Module):
    """Range codes messages of S symbols; the symbol at place s is one of 0 .. A - 1.

    Its probability is frequencies[s, symbol] / sum over the row; a frequency of zero says that the symbol
    does not occur there. Frequencies are whole numbers, so that sender and receiver have the same table
    to the last bit. A place with one symbol costs nothing. The payload is the shortest whole number of
    bytes in the message's interval: its length is left to the packet, so no end mark is sent.

    A message costs on average about 2 bits more than its cross-entropy, for whole bytes (see docs/codecs.md).
    Raises SemcomError for payloads that `encode` never makes. Coder: constriction (Bamler 2022,
    arXiv 2201.01741).
    """

    frequencies: torch.Tensor

    def __init__(self, num_symbols: int, alphabet_size: int) -> None:
        super().__init__()
        self.num_symbols = num_symbols
        self.register_buffer("frequencies", torch.zeros(num_symbols, alphabet_size, dtype=torch.int32))
        self.frequencies[:, 0] = 1
        self._cached: _Models | None = None

    def __getstate__(self) -> dict[str, Any]:
        # constriction's models can't be pickled, and follow from the frequencies.
        return {**self.__dict__, "_cached": None}

    def set_frequencies(self, frequencies: torch.Tensor) -> None:
        """Takes over a table [S, A] of whole numbers, each row with at least one above zero."""
        self.frequencies.copy_(frequencies)

    def _models(self) -> _Models:
        table, cached = self.frequencies, self._cached
        if cached is not None and cached.frequencies is table and cached.version == table._version:
            return cached
        counts = table.cpu().numpy().astype(np.float64)
        probabilities = counts / counts.sum(axis=1, keepdims=True)
        sizes = counts.shape[1] - (counts[:, ::-1] > 0).argmax(axis=1)
        places = [place for place, size in enumerate(sizes) if size > 1]
        make = constriction.stream.model.Categorical
        least = np.array([row[row > 0].min() for row in probabilities[places]])
        least = np.maximum(least - 2 * _PROBABILITY_STEP, _PROBABILITY_STEP)
        with np.errstate(divide="ignore"):
            cost_bits = -np.log2(probabilities)
        self._cached = _Models(
            frequencies=table,
            version=table._version,
            places=places,
            categorical=[
                make(np.ascontiguousarray(probabilities[place, : sizes[place]]), perfect=False, lazy=False)
                for place in places
            ],
            cost_bits=torch.from_numpy(cost_bits).to(table.device),
            max_bits=float(-np.log2(least).sum()) + len(places) * _ROUNDING_BITS,
        )
        return self._cached

    def cost_bits(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns the cross-entropy -sum_s log2 p_s(symbol_s) of each row of symbols [N, S], float64 [N]."""
        places = torch.arange(self.num_symbols, device=symbols.device)
        return self._models().cost_bits[places, symbols].sum(dim=1)

    def encode(self, symbols: torch.Tensor) -> list[bytes]:
        """Returns one payload for each row of symbols [N, S]: the shortest that decodes to it."""
        models, costs = self._models(), self.cost_bits(symbols).tolist()
        rows = symbols[:, models.places].tolist()
        return [
            _shortest_payload(row, models.categorical, cost) for row, cost in zip(rows, costs, strict=True)
        ]

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the symbols, int64 [N, S].

        Nearly every byte string decodes to something, so what was decoded is encoded again and has to
        give the same payload.
        """
        symbols = self.decode_unchecked(payloads)
        for index, (payload, made) in enumerate(zip(payloads, self.encode(symbols), strict=True)):
            if payload != made:
                raise SemcomError(f"payload {index} is not what this codec makes of the symbols in it")
        return symbols

    def decode_unchecked(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the symbols, int64 [N, S], of payloads that `decode` has taken before."""
        models, max_bytes = self._models(), self.max_payload_bits() // 8
        symbols = torch.zeros(len(payloads), self.num_symbols, dtype=torch.int64)
        for index, payload in enumerate(payloads):
            if len(payload) > max_bytes:
                raise SemcomError(
                    f"payload {index} has {len(payload)} bytes: this codec makes {max_bytes} at most"
                )
            try:
                row = _range_decode(payload, models.categorical)
            except AssertionError:
                raise SemcomError(f"payload {index} can't be decoded with this codec's models") from None
            symbols[index, models.places] = torch.tensor(row, dtype=torch.int64)
        return symbols.to(self.frequencies.device)

    def encode_together(self, symbols: torch.Tensor) -> bytes:
        """Returns one payload for all rows of symbols [N, S]: the whole bytes are paid for once."""
        models = self._models()
        row = symbols[:, models.places].flatten().tolist()
        return _shortest_payload(row, models.categorical * len(symbols), float(self.cost_bits(symbols).sum()))

    def decode_together(self, payload: bytes, num_rows: int) -> torch.Tensor:
        """Returns the symbols [num_rows, S] of what `encode_together` made."""
        models = self._models()
        if 8 * len(payload) > num_rows * models.max_bits + 8:
            raise SemcomError(f"a payload of {len(payload)} bytes is too long for {num_rows} rows")
        try:
            row = _range_decode(payload, models.categorical * num_rows)
        except AssertionError:
            raise SemcomError("a payload can't be decoded with this codec's models") from None
        symbols = torch.zeros(num_rows, self.num_symbols, dtype=torch.int64, device=self.frequencies.device)
        symbols[:, models.places] = torch.tensor(row, dtype=torch.int64).reshape(num_rows, -1).to(symbols)
        if self.encode_together(symbols) != payload:
            raise SemcomError("a payload is not what this codec makes of the symbols in it")
        return symbols

    def max_payload_bits(self) -> int:
        """Returns the bits that no payload exceeds: every place at its least likely symbol."""
        return 8 * math.ceil(self._models().max_bits / 8)


def count_symbols(symbols: torch.Tensor, sizes: torch.Tensor, alphabet_size: int) -> torch.Tensor:
    """Counts symbols [N, S] into frequencies [S, A]: how often each occurs, plus one (Laplace's rule).

    sizes [S]: place s has the symbols 0 .. sizes[s] - 1, every one of which can then be coded; with many
    symbols against N the ones added outweigh the counts.
    """
    places = torch.arange(len(sizes), device=symbols.device)
    cells = (symbols + places * alphabet_size).flatten()
    counts = torch.bincount(cells, minlength=len(sizes) * alphabet_size).reshape(len(sizes), alphabet_size)
    exists = torch.arange(alphabet_size, device=symbols.device) < sizes.to(symbols.device)[:, None]
    return torch.where(exists, counts + 1, 0)
