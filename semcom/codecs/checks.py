"""What every codec refuses: embeddings that are no numbers, and payloads of a length it never makes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from semcom.contracts import SemcomError


def check_embeddings(z: torch.Tensor, embedding_dim: int) -> torch.Tensor:
    """Returns z [N, D] as float32; raises SemcomError for another shape, or naming a row not finite."""
    if z.dim() != 2 or z.shape[1] != embedding_dim:
        raise SemcomError(f"embeddings of shape {tuple(z.shape)}: this codec takes [N, {embedding_dim}]")
    finite = torch.isfinite(z)
    if not finite.all():
        row = int((~finite.all(dim=1)).nonzero()[0])
        raise SemcomError(f"embedding row {row} holds NaN or infinity: only finite embeddings can be sent")
    return z.float()


def check_lengths(payloads: Sequence[bytes], num_bytes: int) -> None:
    """Raises SemcomError naming the first payload that is not of num_bytes bytes."""
    for index, payload in enumerate(payloads):
        if len(payload) != num_bytes:
            raise SemcomError(f"payload {index} has {len(payload)} bytes: this codec makes {num_bytes}")


def straight_through(z: torch.Tensor, z_hat: torch.Tensor) -> torch.Tensor:
    """Returns z_hat, to the last digit of a sum, with the gradient of z (Bengio et al. 2013, section 2)."""
    return z + (z_hat - z).detach()
