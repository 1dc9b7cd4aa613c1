"""A model on its way through training, as real bytes and back: whole, or as a coarse difference."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nodes.training.differences import HalfCoder, LargestCoder, LevelCoder
from nodes.training.layout import TensorLayout
from semcom.contracts import SemcomError

_HEADER = struct.Struct(">HI")
UPDATE_HEADER_BITS = 8 * _HEADER.size
"""Of each update: 16 bits that name codec and template, and a CRC-32."""


class Float32Update(BaseModel):
    """The whole model, 32 bits a number: it comes back bit for bit, NaN and infinity too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["float32"] = "float32"


class Float16Update(BaseModel):
    """The difference, 16 bits a number, rounded to nearest and clamped to +-65504.

    The error is at most 2^-11 of a number, and 3e-8 where that is below 6e-5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["float16"] = "float16"
    error_feedback: bool = Field(False, description="remember what was not sent and add it next time")


class QuantisedUpdate(BaseModel):
    """The difference in uniform steps: see `BlockQuantiser`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["quantised"] = "quantised"
    bits: int = Field(8, ge=1, le=16, description="a number has 2^bits - 1 levels, with 1 bit two")
    block_size: int | None = Field(
        None, ge=1, le=1 << 24, description="numbers that share a step of 32 bits, instead of a whole tensor"
    )
    rounding: Literal["nearest", "stochastic"] = Field(
        "nearest", description="to the nearest level, or to one of the two beside it with the right mean"
    )
    entropy_coding: bool = Field(True, description="frequent levels take fewer bits than rare ones")
    error_feedback: bool = Field(False, description="remember what was not sent and add it next time")

    @model_validator(mode="after")
    def _check(self) -> QuantisedUpdate:
        if self.rounding == "stochastic" and self.error_feedback:
            # Its variance can exceed what is sent, and then what is remembered grows without bound.
            raise ValueError(
                "error_feedback = true needs rounding = nearest: stochastic rounding has no bias"
            )
        return self


class TopKUpdate(BaseModel):
    """The k numbers of largest magnitude in the difference, k = round(share P), at least 1; others as zero.

    Where magnitudes are equal, the first in the layout's order are taken. Sparse ternary compression is this
    with 1 bit and error feedback (Sattler et al. 2020, Robust and communication-efficient federated learning
    from non-IID data).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["top-k"] = "top-k"
    share: float = Field(0.01, gt=0, le=1, description="share of the model's numbers that are sent")
    bits: int | None = Field(
        8, ge=1, le=16, description="as of quantised, one step for all numbers sent; none: float32"
    )
    error_feedback: bool = Field(True, description="remember what was not sent and add it next time")


UpdateCodecConfig = Annotated[
    Float32Update | Float16Update | QuantisedUpdate | TopKUpdate, Field(discriminator="kind")
]


class UpdateCodec:
    """Turns a model, as named tensors, into one payload for the radio, and back.

    float32 sends the tensors themselves. The others send the float32 numbers' difference from the reference,
    which both ends know: with w the model, r the reference, m the memory and Q(d) what a payload holds of d,

        d = w - r + m,    decoded r + Q(d),    new memory d - Q(d)

    without error feedback m = 0 (Seide et al. 2014, 1-bit stochastic gradient descent; Karimireddy et al.
    2019, Error feedback fixes SignSGD). Integers and booleans go beside as they are. A payload begins with
    UPDATE_HEADER_BITS. Nothing is kept between calls: whoever hears that a payload was lost, and lets its
    training go, goes on with the memory from before it.

    template: tensors with the names, types and shapes of every model sent; see `TensorLayout`.
    """

    def __init__(self, config: UpdateCodecConfig, template: Mapping[str, torch.Tensor]) -> None:
        self.config = config
        self.layout = TensorLayout(template)
        self._coder = _coder(config, self.layout)
        remembers = not isinstance(config, Float32Update) and config.error_feedback
        self._memory_size = self.layout.num_numbers if remembers else 0
        digest = hashlib.blake2b(self.layout.digest + config.model_dump_json().encode()).digest()
        self._mark, self._crc_start = int.from_bytes(digest[:2], "big"), zlib.crc32(digest)

    def initial_memory(self) -> torch.Tensor:
        """Returns what is remembered before the first update: zeros [P], or [0] without error feedback."""
        return torch.zeros(self._memory_size)

    def encode(
        self,
        tensors: Mapping[str, torch.Tensor],
        reference: Mapping[str, torch.Tensor],
        memory: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[bytes, torch.Tensor]:
        """Returns the payload and the memory for the next one, float32 like `initial_memory`.

        generator: of the numbers that stochastic rounding draws, [P] an update; others draw none. float32
        reads neither reference nor memory. Raises SemcomError for tensors unlike the template, a memory of
        another shape, a missing generator, and with all but float32 for numbers that are not finite.
        """
        self.layout.check(tensors, "the model")
        whole = self.layout.whole_bytes(tensors)
        numbers = self.layout.numbers(tensors)
        if self._coder is None:
            return self._sealed(whole + numbers.view(np.uint32).astype(">u4").tobytes()), memory
        if memory.shape != (self._memory_size,) or memory.dtype != torch.float32:
            raise SemcomError(
                f"memory is {memory.dtype} {list(memory.shape)}: begin with initial_memory(), "
                f"float32 [{self._memory_size}]"
            )
        difference = self._difference(numbers, reference, memory)
        body, sent = self._coder.pack(difference, generator)
        left = torch.from_numpy(difference - sent) if self._memory_size else memory
        return self._sealed(whole + body), left

    def decode(self, payload: bytes, reference: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the model that a payload holds, on the CPU; the reference is the one that it was made with.

        Raises SemcomError for a payload that is truncated, corrupt, or of another template or configuration,
        and for a reference unlike the template.
        """
        if len(payload) < _HEADER.size:
            raise SemcomError(
                f"update is truncated: {len(payload)} bytes, the header alone has {_HEADER.size}"
            )
        mark, crc = _HEADER.unpack_from(payload)
        body = payload[_HEADER.size :]
        if mark != self._mark:
            raise SemcomError(
                "update is of another template or codec: give both ends the same model and codec"
            )
        if zlib.crc32(body, self._crc_start) != crc:
            raise SemcomError(
                f"update of {len(payload)} bytes is truncated or corrupt: its CRC does not match"
            )
        whole, body = body[: self.layout.num_whole_bytes], body[self.layout.num_whole_bytes :]
        if self._coder is None:
            numbers = np.frombuffer(body, ">u4").astype(np.uint32).view(np.float32)
        else:
            self.layout.check(reference, "the reference")
            numbers = self.layout.numbers(reference) + self._coder.unpack(body)
        return self.layout.tensors(numbers, whole)

    def _sealed(self, body: bytes) -> bytes:
        return _HEADER.pack(self._mark, zlib.crc32(body, self._crc_start)) + body

    def _difference(
        self, numbers: np.ndarray, reference: Mapping[str, torch.Tensor], memory: torch.Tensor
    ) -> np.ndarray:
        self.layout.check(reference, "the reference")
        with np.errstate(invalid="ignore", over="ignore"):
            difference = numbers - self.layout.numbers(reference)
            if self._memory_size:
                difference += memory.numpy()
        finite = np.isfinite(difference)
        if not finite.all():
            name = self.layout.name_at(int(finite.argmin()))
            raise SemcomError(
                f"tensor {name!r} differs from the reference by NaN or infinity: only float32 carries that"
            )
        return difference


def _coder(config: UpdateCodecConfig, layout: TensorLayout) -> HalfCoder | LevelCoder | LargestCoder | None:
    if isinstance(config, Float16Update):
        return HalfCoder()
    if isinstance(config, QuantisedUpdate):
        return LevelCoder(
            _block_sizes(layout.sizes, config.block_size),
            config.bits,
            is_stochastic=config.rounding == "stochastic",
            is_entropy_coded=config.entropy_coding,
        )
    if isinstance(config, TopKUpdate):
        num_sent = max(1, round(config.share * layout.num_numbers))
        return LargestCoder(layout.num_numbers, num_sent, config.bits)
    return None


def _block_sizes(tensor_sizes: Sequence[int], block_size: int | None) -> list[int]:
    """Each tensor in blocks of that size, the last with what is left over; a tensor is one without a size."""
    sizes: list[int] = []
    for size in tensor_sizes:
        whole, rest = divmod(size, block_size or size)
        sizes += [block_size or size] * whole + [rest] * (rest > 0)
    return sizes
