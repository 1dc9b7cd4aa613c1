"""Embeddings and isometries for the tests of alignment and consensus."""

import torch

from semcom.rng import Streams


def generator(seed: int) -> torch.Generator:
    return Streams(seed).torch_generator("alignment")


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def random_rotation(dim: int, seed: int, *, mirrored: bool = False) -> torch.Tensor:
    q = torch.linalg.qr(normal(dim, dim, seed=seed)).Q
    if bool(torch.linalg.det(q) < 0) != mirrored:
        q[:, 0] = -q[:, 0]
    return q


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
