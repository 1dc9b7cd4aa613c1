"""Raw data on their way to a base station: as they are, or in uniform levels."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from nodes.training.differences import LevelCoder
from semcom.codecs.stream_coding import StreamReader, StreamWriter
from semcom.contracts import SemcomError

_LEAST_BLOCK = 256
"""Numbers that share a step of 32 bits, at least: the steps are an eighth of a bit a number then."""


class LosslessRaw(BaseModel):
    """Data as they are: 32 bits a real number, 64 a complex one, 8 a pixel's colour."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["lossless"] = "lossless"


class QuantisedRaw(BaseModel):
    """Data in uniform levels, range coded under the counts of those before: see `RawCoder`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["quantised"] = "quantised"
    bits: int = Field(8, ge=2, le=16, description="a number has 2^bits - 1 levels, a pixel's colour 2^bits")


RawConfig = Annotated[LosslessRaw | QuantisedRaw, Field(discriminator="kind")]


class RawCoder:
    """Data of any number of samples as bytes, and back.

    lossless: float32 and complex64 as big-endian numbers of 32 bits, uint8 as bytes. quantised: float32 and
    complex64 by `LevelCoder`, with a step for each block of one sample (its last dimensions, as few as hold
    256 numbers); uint8 rounded to 2^bits equally spaced levels, with 8 bits and more as they are; symbols as
    `StreamWriter.write_counted` has them. What is decoded does not hang on how samples are shared out.
    """

    def __init__(self, config: RawConfig, data: torch.Tensor) -> None:
        """data [N, ...]: of the type and shape of what is encoded. Raises SemcomError for other types."""
        if data.dtype not in (torch.float32, torch.complex64, torch.uint8):
            raise SemcomError(f"raw data are {data.dtype}: convert them to float32, complex64 or uint8")
        self._bits = config.bits if isinstance(config, QuantisedRaw) else None
        self._dtype, self._shape = data.dtype, tuple(data.shape[1:])
        parts = 2 if data.is_complex() else 1
        self._sample = math.prod(self._shape) * parts
        self._block = parts
        for size in reversed(self._shape):
            if self._block >= _LEAST_BLOCK:
                break
            self._block *= size

    def encode(self, data: torch.Tensor, generator: torch.Generator | None = None) -> bytes:
        """Returns the bytes of data [n, ...]. Raises SemcomError where NaN or infinity is to be quantised."""
        numbers = self._numbers(data)
        if self._bits is None:
            return numbers.tobytes() if numbers.dtype == np.uint8 else numbers.astype(">f4").tobytes()
        if numbers.dtype == np.uint8:
            writer = StreamWriter()
            writer.write_counted(self._to_levels(numbers), self._num_colours)
            return writer.payload()
        if not np.isfinite(numbers).all():
            raise SemcomError("raw data hold NaN or infinity: collaboration.central.raw.kind = lossless only")
        return self._levels(len(data)).pack(numbers, None)[0]

    def decode(self, payload: bytes, like: torch.Tensor) -> torch.Tensor:
        """Returns the data that a payload holds, of as many samples as like [num, ...]."""
        num = len(like)
        if self._dtype == torch.uint8:
            return torch.from_numpy(self._colours(payload, num)).reshape(num, *self._shape)
        if self._bits is None:
            numbers = np.frombuffer(payload, ">f4").astype(np.float32)
        else:
            numbers = self._levels(num).unpack(payload)
        data = torch.from_numpy(numbers)
        if self._dtype == torch.complex64:
            data = torch.view_as_complex(data.reshape(-1, 2))
        return data.reshape(num, *self._shape)

    def _numbers(self, data: torch.Tensor) -> np.ndarray:
        real = torch.view_as_real(data.resolve_conj()) if data.is_complex() else data
        return real.contiguous().numpy().reshape(-1)

    def _levels(self, num: int) -> LevelCoder:
        sizes = [self._block] * (num * self._sample // self._block)
        assert self._bits is not None
        return LevelCoder(sizes, self._bits, is_stochastic=False, is_entropy_coded=True)

    @property
    def _num_colours(self) -> int:
        assert self._bits is not None
        return 1 << min(8, self._bits)

    def _to_levels(self, pixels: np.ndarray) -> np.ndarray:
        table = np.rint(np.arange(256) * ((self._num_colours - 1) / 255)).astype(np.int32)
        return table[pixels]

    def _colours(self, payload: bytes, num: int) -> np.ndarray:
        if self._bits is None:
            return np.frombuffer(payload, np.uint8).copy()
        table = np.rint(np.arange(self._num_colours) * (255 / (self._num_colours - 1))).astype(np.uint8)
        return table[StreamReader(payload).read_counted(num * self._sample, self._num_colours)]
