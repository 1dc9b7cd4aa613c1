"""Codecs that send embeddings as floating-point numbers: 32 bits a dimension, or 16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from semcom.codecs.checks import check_embeddings, check_lengths, straight_through
from semcom.contracts import SemcomError

_HALF_MAX = float(torch.finfo(torch.float16).max)


def _pack(z: np.ndarray, dtype: str) -> list[bytes]:
    return [row.tobytes() for row in z.astype(dtype)]


def _unpack(payloads: Sequence[bytes], embedding_dim: int, dtype: str) -> torch.Tensor:
    check_lengths(payloads, embedding_dim * np.dtype(dtype).itemsize)
    z = np.frombuffer(b"".join(payloads), dtype).astype(np.float32).reshape(-1, embedding_dim)
    bad = ~np.isfinite(z).all(axis=1)
    if bad.any():
        raise SemcomError(f"payload {int(bad.argmax())} holds NaN or infinity: no codec sends that")
    return torch.from_numpy(z)


class Float32Codec(nn.Module):
    """Sends each dimension as an IEEE 754 binary32 number, big-endian: 32 D bits, no loss.

    encode: z float32 [N, D] to N payloads of 4 D bytes; decode: back to float32 [N, D] on the CPU.
    Raises SemcomError for embeddings that are not finite [N, D], and payloads of another length.
    """

    codec_id = 1
    name = "float32"

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    def encode(self, z: torch.Tensor) -> list[bytes]:
        """Returns one payload of 4 D bytes for each row of z [N, D]."""
        return _pack(check_embeddings(z, self.embedding_dim).detach().cpu().numpy(), ">f4")

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the embeddings, float32 [N, D]."""
        return _unpack(payloads, self.embedding_dim, ">f4")

    def entropy_bits(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the payload's bits [N], since nothing is entropy coded."""
        return torch.full((z.shape[0],), float(self.max_payload_bits()), device=z.device)

    def payload_entropy_bits(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the payloads' bits [N], since nothing is entropy coded."""
        return torch.full((len(payloads),), float(self.max_payload_bits()))

    def max_payload_bits(self) -> int:
        """Returns 32 D, the bits of every payload."""
        return 32 * self.embedding_dim

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Returns z [N, D] as float32."""
        return check_embeddings(z, self.embedding_dim)


class Float16Codec(nn.Module):
    """Sends each dimension as an IEEE 754 binary16 number, big-endian: 16 D bits.

    Rounds to nearest, and clamps to the largest finite number, 65504. encode: z float32 [N, D] to N
    payloads of 2 D bytes; decode: back to float32 [N, D] on the CPU.
    Raises SemcomError for embeddings that are not finite [N, D], and payloads of another length.
    """

    codec_id = 2
    name = "float16"

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    def _round(self, z: torch.Tensor) -> torch.Tensor:
        return z.clamp(-_HALF_MAX, _HALF_MAX).half()

    def encode(self, z: torch.Tensor) -> list[bytes]:
        """Returns one payload of 2 D bytes for each row of z [N, D]."""
        z = check_embeddings(z, self.embedding_dim)
        return _pack(self._round(z).detach().cpu().numpy(), ">f2")

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the embeddings, float32 [N, D]."""
        return _unpack(payloads, self.embedding_dim, ">f2")

    def entropy_bits(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the payload's bits [N], since nothing is entropy coded."""
        return torch.full((z.shape[0],), float(self.max_payload_bits()), device=z.device)

    def payload_entropy_bits(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the payloads' bits [N], since nothing is entropy coded."""
        return torch.full((len(payloads),), float(self.max_payload_bits()))

    def max_payload_bits(self) -> int:
        """Returns 16 D, the bits of every payload."""
        return 16 * self.embedding_dim

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the rounded z [N, D], float32; in training mode with the gradient of z."""
        z = check_embeddings(z, self.embedding_dim)
        z_hat = self._round(z).float()
        return straight_through(z, z_hat) if self.training else z_hat
