"""Vector quantisation: groups of dimensions rounded to a learned codeword, once or in residual stages."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from semcom.codecs.checks import check_embeddings
from semcom.codecs.range_coding import count_symbols
from semcom.contracts import SemcomError
from semcom.rng import Streams

MAX_BITS = 8
"""Of one codebook: 256 codewords, which a few thousand embeddings can still place."""
_MAX_STAGED_DIM = 16
_KMEANS_ITERATIONS = 40
_DECAY = 0.99
# Uses in a batch, as a moving average, below which a codeword is given another place. The library's
# own default of 2 would move half the codewords in each batch that is no larger than the codebook.
_DEAD_USES = 0.01


def product_structure(embedding_dim: int, bits: int) -> tuple[int, tuple[int, ...]]:
    """Returns group size g and (g b,) for VQ at b bits a dimension: one codebook of 2^(g b) for each group.

    A codebook over all D dimensions would need 2^(D b) codewords. The dimensions are cut into the largest
    equal groups for which 2^(g b) is at most 256: D = 10 at 1, 2, 4 and 8 bits gives g = 5, 2, 2 and 1.
    """
    size = max(
        g for g in range(1, embedding_dim + 1) if embedding_dim % g == 0 and (g == 1 or g * bits <= MAX_BITS)
    )
    return size, (size * bits,)


def residual_structure(embedding_dim: int, bits: int) -> tuple[int, tuple[int, ...]]:
    """Returns group size g and the bits of the residual stages at b bits a dimension.

    g is the largest divisor of D up to 16, so that one group is usual; its g b bits are spread evenly
    over the fewest stages of at most 8: D = 10 at 1, 2 and 4 bits gives (5, 5), (7, 7, 6) and (8,) * 5.
    """
    size = max(g for g in range(1, min(embedding_dim, _MAX_STAGED_DIM) + 1) if embedding_dim % g == 0)
    num_stages = -(-size * bits // MAX_BITS)
    spread = [size * bits // num_stages + (stage < size * bits % num_stages) for stage in range(num_stages)]
    return size, tuple(spread)


class VectorQuantiser(nn.Module):
    """Cuts z [N, D] into groups, and rounds each to the nearest codeword, stage after stage.

    With residuals r_0 = z_group and r_(q+1) = r_q - e_q[k_q], k_q = argmin_k |r_q - e_q[k]|^2, and
    z_hat = sum_q e_q[k_q]: one stage is VQ (van den Oord et al. 2017, arXiv 1711.00937), more are residual VQ
    (Zeghidour et al. 2021, arXiv 2107.03312). Symbols: the k_q, groups in order, stages within them.

    vector-quantize-pytorch trains the codewords: `fit` by its k-means, `loss` by its moving averages, with
    the replacement of dead codewords and the commitment term. It draws from torch's process-wide
    generator, which is seeded for that and restored. Coding is done here, by sums of fixed order, so that
    a row's symbols do not depend on its batch. Raises SemcomError before `fit` and for embeddings that
    are not finite [N, D].
    """

    codewords: torch.Tensor

    def __init__(self, embedding_dim: int, group_dim: int, stage_bits: tuple[int, ...]) -> None:
        super().__init__()
        if max(stage_bits) > MAX_BITS:
            raise SemcomError(
                f"a codebook of {max(stage_bits)} bits is too large: it takes {MAX_BITS} at most"
            )
        self.embedding_dim, self.group_dim, self.stage_bits = embedding_dim, group_dim, stage_bits
        self.num_groups = embedding_dim // group_dim
        self.num_symbols = self.num_groups * len(stage_bits)
        self.alphabet_size = 1 << max(stage_bits)
        shape = (self.num_groups, len(stage_bits), self.alphabet_size, group_dim)
        # NaN says "not fitted". Stages with fewer codewords than the largest are filled up by infinity.
        self.register_buffer("codewords", torch.full(shape, torch.nan))
        self.trainers = self._make_trainers()

    def _make_trainers(self) -> nn.ModuleList:
        """Makes one residual quantiser of the library for each group, not trained yet."""
        # Imported here: it takes a while, and nothing else needs it.
        from vector_quantize_pytorch import ResidualVQ

        with torch.random.fork_rng(devices=[]):
            trainers = [
                ResidualVQ(
                    dim=self.group_dim,
                    codebook_size=tuple(1 << bits for bits in self.stage_bits),
                    kmeans_init=True,
                    kmeans_iters=_KMEANS_ITERATIONS,
                    decay=_DECAY,
                    threshold_ema_dead_code=_DEAD_USES,
                    commitment_weight=1.0,
                    rotation_trick=False,
                )
                for _ in range(self.num_groups)
            ]
        return nn.ModuleList(trainers).to(self.codewords.device)

    def fit(self, z: torch.Tensor) -> None:
        """Places the codewords by k-means on z [N, D], each stage on what the one before left over."""
        z = check_embeddings(z.detach(), self.embedding_dim).to(self.codewords.device)
        if z.shape[0] == 0:
            raise SemcomError("a codec can't be fitted on no embeddings: give it at least one row")
        # The library wants as many rows as codewords.
        z = z.repeat(-(-self.alphabet_size // len(z)), 1)
        self.trainers = self._make_trainers()
        generator = Streams(0).torch_generator("vector-quantiser")
        with torch.no_grad():
            self._train(z, generator)

    def adapt(self, z: torch.Tensor) -> None:
        """Keeps the codewords as they were trained."""

    def loss(self, z: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Returns the commitment term, mean over stages and groups; moves the codewords towards z [N, D]."""
        return {"commitment": self._train(z, generator)}

    def _train(self, z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seed = int(torch.randint(0, 2**62, (), generator=generator))
        losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for trainer, part in zip(self.trainers, z.split(self.group_dim, dim=1), strict=True):
                trainer.train()
                losses.append(trainer(part)[2])
                trainer.train(self.training)
        codewords = torch.full_like(self.codewords, torch.inf)
        for group, trainer in enumerate(self.trainers):
            for stage, codebook in enumerate(cast(Any, trainer).codebooks):
                codewords[group, stage, : len(codebook)] = codebook.detach()
        self.codewords.copy_(codewords)
        return torch.stack(losses).mean()

    def check_fitted(self) -> None:
        """Raises SemcomError if `fit` was not called and no fitted state was loaded."""
        if self.codewords[0, 0, 0].isnan().any():
            raise SemcomError("this codec has no codewords yet: call fit(z) with training embeddings first")

    def quantise(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the codewords' numbers of z [N, D], int64 [N, S]."""
        self.check_fitted()
        z = check_embeddings(z.detach(), self.embedding_dim)
        symbols = []
        for books, part in zip(self.codewords, z.split(self.group_dim, dim=1), strict=True):
            rest = part
            for book in books:
                symbols.append(_nearest(rest, book))
                rest = rest - book[symbols[-1]]
        return torch.stack(symbols, dim=1)

    def dequantise(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns the sums of the codewords that symbols [N, S] name, float32 [N, D]."""
        self.check_fitted()
        parts = []
        for books, numbers in zip(self.codewords, symbols.split(len(self.stage_bits), dim=1), strict=True):
            total = torch.zeros(len(symbols), self.group_dim, device=self.codewords.device)
            for book, number in zip(books, numbers.unbind(dim=1), strict=True):
                total = total + book[number]
            parts.append(total)
        return torch.cat(parts, dim=1)

    def frequencies(self, z: torch.Tensor) -> torch.Tensor:
        """Counts the codewords that z [N, D] is rounded to, plus one each: int64 [S, A]."""
        sizes = torch.tensor([1 << bits for bits in self.stage_bits]).repeat(self.num_groups)
        return count_symbols(self.quantise(z), sizes, self.alphabet_size)


def _nearest(rows: torch.Tensor, book: torch.Tensor) -> torch.Tensor:
    """Returns the number of the codeword [K, g] next to each row [N, g], the first of equals."""
    distance = torch.zeros(len(rows), len(book), device=rows.device)
    for column, entries in zip(rows.unbind(dim=1), book.unbind(dim=1), strict=True):
        distance = distance + (column[:, None] - entries).square()
    return distance.argmin(dim=1)
