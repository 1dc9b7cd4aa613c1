"""A model's tensors as one row of numbers: which names, shapes and types both ends expect, in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from math import prod

import numpy as np
import torch

from semcom.contracts import SemcomError

_WHOLE_TYPES = {
    torch.bool: ">u1",
    torch.uint8: ">u1",
    torch.int8: ">i1",
    torch.int16: ">i2",
    torch.int32: ">i4",
    torch.int64: ">i8",
}


class TensorLayout:
    """The float32 numbers of named tensors in a row, [P], and beside them the bytes of all other tensors.

    Tensors lie by name, each row by row; num_numbers is P, and sizes are the shares of it that the float32
    tensors have which are not empty. The others are integers and booleans, big-endian, a byte for a boolean.
    `digest` is of names, types and shapes: equal layouts have equal ones. A template's values don't matter.
    Raises SemcomError for tensors of another type, or a template without a single float32 number.
    """

    def __init__(self, template: Mapping[str, torch.Tensor]) -> None:
        self._names = list(template)
        self._form = {name: (template[name].dtype, tuple(template[name].shape)) for name in sorted(template)}
        for name, (dtype, _) in self._form.items():
            if dtype != torch.float32 and dtype not in _WHOLE_TYPES:
                raise SemcomError(
                    f"tensor {name!r} is {dtype}: convert it to float32, which an update carries"
                )
        self._floats = [name for name, (dtype, _) in self._form.items() if dtype == torch.float32]
        self._wholes = [name for name, (dtype, _) in self._form.items() if dtype != torch.float32]
        sizes = [prod(self._form[name][1]) for name in self._floats]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self.sizes = [size for size in sizes if size]
        self.num_numbers = sum(sizes)
        if not self.num_numbers:
            raise SemcomError(
                "a template without float32 numbers has nothing to train: give a model's tensors"
            )
        self.num_whole_bytes = sum(
            np.dtype(_WHOLE_TYPES[dtype]).itemsize * prod(shape)
            for dtype, shape in (self._form[name] for name in self._wholes)
        )
        self.digest = hashlib.blake2b(repr(list(self._form.items())).encode(), digest_size=8).digest()

    def check(self, tensors: Mapping[str, torch.Tensor], what: str) -> None:
        """Raises SemcomError naming the first tensor that is missing, of another form, or unknown."""
        for name, form in self._form.items():
            if name not in tensors:
                raise SemcomError(f"{what} lacks tensor {name!r}: give all of the template's")
            tensor = tensors[name]
            if (tensor.dtype, tuple(tensor.shape)) != form:
                raise SemcomError(
                    f"tensor {name!r} of {what} is {tensor.dtype} {list(tensor.shape)}: "
                    f"the template has {form[0]} {list(form[1])}"
                )
        if len(tensors) > len(self._form):
            name = min(tensors.keys() - self._form.keys())
            raise SemcomError(f"{what} has a tensor {name!r} that is not in the template: leave it out")

    def numbers(self, tensors: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Returns the float32 numbers [P] of tensors that `check` has passed; the row is a copy."""
        return np.concatenate([tensors[name].detach().cpu().numpy().reshape(-1) for name in self._floats])

    def name_at(self, place: int) -> str:
        """Returns the name of the tensor that the number at a place belongs to."""
        return self._floats[int(np.searchsorted(self._ends, place, side="right"))]

    def whole_bytes(self, tensors: Mapping[str, torch.Tensor]) -> bytes:
        """Returns the bytes of the tensors that are not float32, num_whole_bytes of them."""
        return b"".join(
            tensors[name].detach().cpu().numpy().astype(_WHOLE_TYPES[self._form[name][0]]).tobytes()
            for name in self._wholes
        )

    def tensors(self, numbers: np.ndarray, whole: bytes) -> dict[str, torch.Tensor]:
        """Returns the tensors of numbers [P] and whole bytes, on the CPU, each with memory of its own."""
        made: dict[str, torch.Tensor] = {}
        for name, part in zip(self._floats, np.split(numbers, self._ends[:-1]), strict=True):
            made[name] = torch.tensor(part).reshape(self._form[name][1])
        start = 0
        for name in self._wholes:
            dtype, shape = self._form[name]
            part = np.frombuffer(whole, _WHOLE_TYPES[dtype], prod(shape), start)
            start += part.nbytes
            made[name] = torch.tensor(part.astype(part.dtype.newbyteorder("="))).to(dtype).reshape(shape)
        return {name: made[name] for name in self._names}
