"""Finite scalar quantisation: a bounded embedding rounded to a few levels in each dimension."""

from __future__ import annotations

import math

import torch
from torch import nn

from semcom.codecs.checks import check_embeddings
from semcom.codecs.range_coding import count_symbols
from semcom.contracts import SemcomError

MAX_LEVELS = 256
_MAX_FIT_ROWS = 4096
_NUM_SCALES = 28
# Every number of levels up to 8, then four an octave.
_LEVEL_CHOICES = (*range(2, 8), *(round(2 ** (n / 4)) for n in range(12, 33)))


class FiniteScalarQuantiser(nn.Module):
    """FSQ (Mentzer et al. 2023, arXiv 2309.15505) with a scale of its own for each of D dimensions.

    symbol = floor((L - 1) (tanh((z - c) / s) + 1) / 2 + 1/2), one of L levels: the rounding of FSQ's bound
    in its symmetric form (Parker et al. 2024, arXiv 2411.19842, section 3.2). z_hat is the mean of the
    embeddings that were rounded to the level. tanh has to meet an embedding at the right size: c is its
    mean, and s is fitted for the least squared error. The cells are finest at the mean and widen outwards.

    shared_out: instead of L levels everywhere, D log2 L bits of entropy are shared out among the
    dimensions. Each has the L_d (1 to 256) and the s_d of least squared error plus lambda times
    cross-entropy, one lambda for all: reverse water-filling (Cover and Thomas 2006, theorem 10.3.3) with
    real quantisers. It pays where the dimensions' variances differ.

    Levels need be neither powers of two nor equally likely: the symbols are for a range coder, which spends
    -log2 p on each. As digits of one number of mixed radix they would take log2 L_d, whatever their
    probabilities. Raises SemcomError before `fit` and for embeddings that are not finite [N, D].
    """

    center: torch.Tensor
    scale: torch.Tensor
    num_levels: torch.Tensor
    points: torch.Tensor

    def __init__(self, embedding_dim: int, levels: int, *, shared_out: bool = False) -> None:
        super().__init__()
        if not 2 <= levels <= MAX_LEVELS:
            raise SemcomError(f"levels = {levels} is out of range: FSQ takes 2 to {MAX_LEVELS}")
        self.embedding_dim = self.num_symbols = embedding_dim
        self.levels, self.shared_out = levels, shared_out
        self.alphabet_size = MAX_LEVELS if shared_out else levels
        # NaN says "not fitted", and a loaded state dict replaces it.
        self.register_buffer("center", torch.full((embedding_dim,), torch.nan, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(embedding_dim, dtype=torch.float64))
        self.register_buffer("num_levels", torch.full((embedding_dim,), levels))
        self.register_buffer("points", torch.zeros(embedding_dim, self.alphabet_size))

    def fit(self, z: torch.Tensor) -> None:
        """Sets centres, scales and levels from z [N, D] (of more than 4096 rows, evenly spaced ones)."""
        z = check_embeddings(z.detach(), self.embedding_dim).double().to(self.center.device)
        if z.shape[0] == 0:
            raise SemcomError("a codec can't be fitted on no embeddings: give it at least one row")
        rows = torch.linspace(0, z.shape[0] - 1, min(z.shape[0], _MAX_FIT_ROWS), dtype=torch.float64)
        self.center.copy_(z.mean(dim=0))
        centred = z[rows.round().long().to(z.device)] - self.center
        deviation = centred.square().mean(dim=0).sqrt()
        deviation = torch.where(deviation > 0, deviation, 1.0)
        choices = _LEVEL_CHOICES if self.shared_out else (self.levels,)
        tried = [
            (levels, float(multiple))
            for levels in choices
            for multiple in torch.linspace(math.log(0.4), math.log(3.6 * levels**0.5), _NUM_SCALES).exp()
        ]
        measured = [_error_and_bits(centred, *choice, deviation) for choice in tried]
        error = torch.stack([error for error, _ in measured])
        bits = torch.stack([bits for _, bits in measured])
        if self.shared_out:
            # One level costs nothing and errs by the variance.
            tried.append((1, 1.0))
            error = torch.cat((error, centred.square().mean(dim=0, keepdim=True)))
            bits = torch.cat((bits, torch.zeros_like(bits[:1])))
            best = _share_out(error, bits, self.embedding_dim * math.log2(self.levels))
        else:
            best = error.argmin(dim=0)
        self.num_levels.copy_(torch.tensor([tried[index][0] for index in best.tolist()]))
        self.scale.copy_(torch.tensor([tried[index][1] for index in best.tolist()]).to(deviation) * deviation)
        self._set_points(z)

    def adapt(self, z: torch.Tensor) -> None:
        """Keeps centres, scales and levels, and sets each level to the mean of what is rounded to it."""
        self._set_points(check_embeddings(z.detach(), self.embedding_dim).double().to(self.center.device))

    def _set_points(self, z: torch.Tensor) -> None:
        symbols = _round(z - self.center, self.num_levels, self.scale)
        mean, count = _cell_means(z - self.center, symbols, self.alphabet_size)
        # A level that nothing was rounded to stands for what tanh maps into the middle of its cell.
        level = torch.arange(self.alphabet_size, device=z.device)
        bounded = (2 * level + 1 - self.num_levels[:, None]) / self.num_levels[:, None]
        inside = level < self.num_levels[:, None]
        middle = torch.atanh(torch.where(inside, bounded, 0.0)) * self.scale[:, None]
        self.points.copy_(torch.where(count > 0, mean, middle) + self.center[:, None])

    def check_fitted(self) -> None:
        """Raises SemcomError if `fit` was not called and no fitted state was loaded."""
        if self.center.isnan().any():
            raise SemcomError("this codec has no scales yet: call fit(z) with training embeddings first")

    def quantise(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the symbols of z [N, D], int64 in 0 .. L_d - 1."""
        self.check_fitted()
        z = check_embeddings(z, self.embedding_dim).double()
        return _round(z - self.center, self.num_levels, self.scale)

    def dequantise(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns the levels that symbols [N, D] stand for, float32."""
        self.check_fitted()
        return self.points[torch.arange(self.embedding_dim, device=symbols.device), symbols]

    def frequencies(self, z: torch.Tensor) -> torch.Tensor:
        """Counts the symbols of z [N, D], plus one each: int64 [D, A]."""
        return count_symbols(self.quantise(z), self.num_levels, self.alphabet_size)

    def loss(self, z: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Returns the mean squared distance of z [N, D] from its levels.

        FSQ as published needs no such term, as its gradient goes through the bound and dies out beyond it.
        Here it goes straight through the whole codec, and the term keeps z within the bound.
        """
        return {"commitment": (z - self.dequantise(self.quantise(z.detach()))).square().mean()}


def _round(centred: torch.Tensor, levels: torch.Tensor | int, scale: torch.Tensor) -> torch.Tensor:
    bounded = (levels - 1) * (torch.tanh(centred / scale) + 1) / 2
    return (bounded + 0.5).floor().long()


def _cell_means(
    values: torch.Tensor, symbols: torch.Tensor, alphabet_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and number of the values [N, D] with each symbol, both float64 [D, A]."""
    num_dims = values.shape[1]
    cells = (symbols + torch.arange(num_dims, device=values.device) * alphabet_size).flatten()
    size = num_dims * alphabet_size
    count = torch.bincount(cells, minlength=size).double().reshape(num_dims, -1)
    total = torch.bincount(cells, weights=values.flatten(), minlength=size).reshape(num_dims, -1)
    return total / count.clamp(min=1), count


def _error_and_bits(
    centred: torch.Tensor, levels: int, multiple: float, deviation: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns squared error and cross-entropy in bits of each dimension of `centred` [N, D], both [D]."""
    mean, count = _cell_means(centred, _round(centred, levels, multiple * deviation), levels)
    share = count / len(centred)
    error = centred.square().mean(dim=0) - (share * mean.square()).sum(dim=1)
    return error, -(share * ((count + 1) / (len(centred) + levels)).log2()).sum(dim=1)


def _share_out(error: torch.Tensor, bits: torch.Tensor, budget_bits: float) -> torch.Tensor:
    """Chooses a row of error and bits [C, D] for each dimension: least error within the budget."""
    low, high = 0.0, float(error.max()) * 1e6 + 1.0

    def choose(price: float) -> torch.Tensor:
        return (error + price * bits).argmin(dim=0)

    for _ in range(100):
        price = math.sqrt(max(low, 1e-12 * high) * high)
        within = float(bits.gather(0, choose(price)[None]).sum()) <= budget_bits
        low, high = (low, price) if within else (price, high)
    return choose(high)
