"""Coarse versions of a model's difference as bytes: in halves, in levels, or only its largest numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nodes.training.rounding import BlockQuantiser
from semcom.codecs.stream_coding import StreamReader, StreamWriter
from semcom.contracts import SemcomError

_HALF_MAX = float(np.finfo(np.float16).max)


class HalfCoder:
    """Numbers as IEEE 754 binary16, big-endian, rounded to nearest and clamped to +-65504."""

    def pack(self, values: np.ndarray, generator: torch.Generator | None) -> tuple[bytes, np.ndarray]:
        """Returns the bytes of float32 values [P], and what `unpack` makes of them."""
        half = values.clip(-_HALF_MAX, _HALF_MAX).astype(">f2")
        return half.tobytes(), half.astype(np.float32)

    def unpack(self, body: bytes) -> np.ndarray:
        """Returns the numbers, float32 [P]."""
        return np.frombuffer(body, ">f2").astype(np.float32)


class LevelCoder:
    """Numbers as levels of a `BlockQuantiser`: the blocks' steps as binary32, then all symbols as a stream.

    Symbols take log2(levels) bits each, or with entropy coding what `StreamWriter.write_counted` says.
    """

    def __init__(
        self, block_sizes: Sequence[int], bits: int, *, is_stochastic: bool, is_entropy_coded: bool
    ) -> None:
        self._quantiser = BlockQuantiser(block_sizes, bits)
        self._is_stochastic, self._is_entropy_coded = is_stochastic, is_entropy_coded

    def pack(self, values: np.ndarray, generator: torch.Generator | None) -> tuple[bytes, np.ndarray]:
        """Returns the bytes of float32 values [P], and what `unpack` makes of them."""
        writer = StreamWriter()
        steps, sent = self.write(values, writer, generator)
        return steps + writer.payload(), sent

    def unpack(self, body: bytes) -> np.ndarray:
        """Returns the numbers, float32 [P]."""
        return self.read(*self.split(body))

    def write(
        self, values: np.ndarray, writer: StreamWriter, generator: torch.Generator | None
    ) -> tuple[bytes, np.ndarray]:
        """Adds the symbols of values [P] to a stream; returns the steps' bytes and what is read from them."""
        uniform = None
        if self._is_stochastic:
            if generator is None:
                raise SemcomError("stochastic rounding draws random numbers: give encode a generator")
            uniform = torch.rand(len(values), generator=generator).numpy()
        symbols, steps = self._quantiser.quantise(values, uniform)
        write = writer.write_counted if self._is_entropy_coded else writer.write_uniform
        write(symbols, self._quantiser.num_symbols)
        return steps.astype(">f4").tobytes(), self._quantiser.dequantise(symbols, steps)

    def split(self, body: bytes) -> tuple[np.ndarray, StreamReader]:
        """Returns the steps at the beginning of a body, float32 [blocks], and a reader of the rest."""
        steps = np.frombuffer(body, ">f4", self._quantiser.num_blocks).astype(np.float32)
        return steps, StreamReader(body[4 * len(steps) :])

    def read(self, steps: np.ndarray, reader: StreamReader) -> np.ndarray:
        """Returns the numbers of the next symbols in a stream, float32 [P]."""
        read = reader.read_counted if self._is_entropy_coded else reader.read_uniform
        symbols = read(self._quantiser.num_numbers, self._quantiser.num_symbols)
        return self._quantiser.dequantise(symbols, steps)


class LargestCoder:
    """The k numbers of largest magnitude among P, their places and values; the others come back as zero.

    Values are levels with one step for all, or binary32 where bits is None. Of equal magnitudes the first
    are taken.
    """

    def __init__(self, num_numbers: int, num_sent: int, bits: int | None) -> None:
        self._num_numbers, self._num_sent = num_numbers, num_sent
        self._levels = None
        if bits is not None:
            self._levels = LevelCoder([num_sent], bits, is_stochastic=False, is_entropy_coded=True)

    def pack(self, values: np.ndarray, generator: torch.Generator | None) -> tuple[bytes, np.ndarray]:
        """Returns the bytes of float32 values [P], and what `unpack` makes of them."""
        is_sent = self._largest(np.abs(values))
        writer, sent = StreamWriter(), np.zeros_like(values)
        writer.write_places(is_sent)
        if self._levels is None:
            sent[is_sent] = values[is_sent]
            head = values[is_sent].astype(">f4").tobytes()
        else:
            head, sent[is_sent] = self._levels.write(values[is_sent], writer, generator)
        return head + writer.payload(), sent

    def unpack(self, body: bytes) -> np.ndarray:
        """Returns the numbers, float32 [P]."""
        sent = np.zeros(self._num_numbers, dtype=np.float32)
        if self._levels is None:
            values = np.frombuffer(body, ">f4", self._num_sent)
            sent[StreamReader(body[values.nbytes :]).read_places(len(sent), self._num_sent)] = values
            return sent
        steps, reader = self._levels.split(body)
        is_sent = reader.read_places(len(sent), self._num_sent)
        sent[is_sent] = self._levels.read(steps, reader)
        return sent

    def _largest(self, magnitude: np.ndarray) -> np.ndarray:
        least = np.partition(magnitude, -self._num_sent)[-self._num_sent]
        is_sent = magnitude > least
        is_sent[np.flatnonzero(magnitude == least)[: self._num_sent - np.count_nonzero(is_sent)]] = True
        return is_sent
