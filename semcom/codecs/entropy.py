"""The entropy-coded scalar codec: uniform symbols, range coded into as few bytes as they need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
import torch
from torch import nn

from semcom.codecs.scalar import UniformQuantiser
from semcom.contracts import SemcomError

# constriction rounds probabilities to multiples of 2^-24, and keeps at least 8 bits of its range
# below that, so a symbol costs at most this much more than its ideal length.
_PROBABILITY_STEP = 2.0**-24
_ROUNDING_BITS = -math.log2(1 - 2.0**-8)


@dataclass(frozen=True)
class _Models:
    """What follows from the counts: one categorical model per dimension, and the cost of its symbols."""

    counts: torch.Tensor
    version: int
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


class EntropyCodedScalarCodec(nn.Module):
    """Quantises each dimension uniformly and range codes the symbols, each packet on its own.

    The quantiser is that of `UniformScalarCodec`, so both have the same error and differ only in bits.
    Dimension d's symbol s has the probability (count[d, s] + 1) / (N + 2^b) of the N training
    embeddings (Laplace's rule of succession), so every symbol can be coded; b large against log2 N
    makes the smoothing outweigh the counts. The payload is the shortest whole number of bytes in the
    message's interval: its length is left to the packet, so no end mark is sent.

    encode: z float32 [N, D] to N payloads of different lengths; decode: back to float32 [N, D]. Call
    `fit` first. Raises SemcomError before `fit`, for embeddings that are not finite [N, D], and for
    payloads that encode never makes. Coder: constriction (Bamler 2022, arXiv 2201.01741).
    """

    codec_id = 4
    name = "entropy"
    counts: torch.Tensor

    def __init__(self, embedding_dim: int, bits: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.bits = bits
        self.quantiser = UniformQuantiser(embedding_dim, bits)
        self.register_buffer("counts", torch.zeros(embedding_dim, 1 << bits, dtype=torch.int32))
        self._cached_models: _Models | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The coder's models can't be pickled, and follow from the counts.
        return {**self.__dict__, "_cached_models": None}

    def fit(self, z: torch.Tensor) -> None:
        """Learns the ranges and the symbols' probabilities from embeddings z [N, D]."""
        self.quantiser.fit(z)
        symbols = self.quantiser.quantise(z.detach().to(self.counts.device))
        for dimension in range(self.embedding_dim):
            self.counts[dimension] = torch.bincount(symbols[:, dimension], minlength=1 << self.bits)

    def _models(self) -> _Models:
        cached = self._cached_models
        if cached is not None and cached.counts is self.counts and cached.version == self.counts._version:
            return cached
        counts = self.counts.cpu().numpy().astype(np.float64)
        probabilities = (counts + 1) / (counts + 1).sum(axis=1, keepdims=True)
        make = constriction.stream.model.Categorical
        least = np.maximum(probabilities.min(axis=1) - 2 * _PROBABILITY_STEP, _PROBABILITY_STEP)
        self._cached_models = _Models(
            counts=self.counts,
            version=self.counts._version,
            categorical=[make(row, perfect=False, lazy=False) for row in probabilities],
            cost_bits=torch.from_numpy(-np.log2(probabilities)).to(self.counts.device),
            max_bits=float(-np.log2(least).sum()) + self.embedding_dim * _ROUNDING_BITS,
        )
        return self._cached_models

    def _cost_bits(self, symbols: torch.Tensor) -> torch.Tensor:
        dimensions = torch.arange(self.embedding_dim, device=symbols.device)
        return self._models().cost_bits[dimensions, symbols].sum(dim=1)

    def _encode_symbols(self, symbols: torch.Tensor) -> list[bytes]:
        models = self._models().categorical
        costs = self._cost_bits(symbols).tolist()
        return [
            _shortest_payload(row, models, cost) for row, cost in zip(symbols.tolist(), costs, strict=True)
        ]

    def encode(self, z: torch.Tensor) -> list[bytes]:
        """Returns one payload for each row of z [N, D]: the shortest that decodes to its symbols."""
        return self._encode_symbols(self.quantiser.quantise(z))

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the embeddings, float32 [N, D].

        Nearly every byte string decodes to something, so what was decoded is encoded again and has to
        give the same payload.
        """
        self.quantiser.check_fitted()
        models, max_bytes = self._models().categorical, self.max_payload_bits() // 8
        rows = []
        for index, payload in enumerate(payloads):
            if len(payload) > max_bytes:
                raise SemcomError(
                    f"payload {index} has {len(payload)} bytes: this codec makes {max_bytes} at most"
                )
            try:
                rows.append(_range_decode(payload, models))
            except AssertionError:
                raise SemcomError(f"payload {index} can't be decoded with this codec's models") from None
        symbols = torch.tensor(rows, dtype=torch.int64, device=self.counts.device)
        symbols = symbols.reshape(-1, self.embedding_dim)
        for index, (payload, made) in enumerate(zip(payloads, self._encode_symbols(symbols), strict=True)):
            if payload != made:
                raise SemcomError(f"payload {index} is not what this codec makes of the symbols in it")
        return self.quantiser.dequantise(symbols)

    def entropy_bits(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the cross-entropy -sum_d log2 p_d(symbol_d) of each row of z [N, D], bits, float64 [N]."""
        return self._cost_bits(self.quantiser.quantise(z))

    def max_payload_bits(self) -> int:
        """Returns the bits that no payload exceeds: every dimension at its least likely symbol."""
        self.quantiser.check_fitted()
        return 8 * math.ceil(self._models().max_bits / 8)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the quantised z [N, D], float32; in training mode with the gradient of z."""
        return self.quantiser(z)
