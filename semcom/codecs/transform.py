"""Transform coding: the Karhunen-Loeve transform, one step for all coefficients, as many as pay their way."""

from __future__ import annotations

import torch
from torch import nn

from semcom.codecs.checks import check_embeddings
from semcom.codecs.range_coding import count_symbols
from semcom.contracts import SemcomError

_MAX_SYMBOL = 127
_MAX_FIT_ROWS = 8192
_NUM_HALVINGS = 24


class TransformQuantiser(nn.Module):
    """Rounds the coefficients of the Karhunen-Loeve transform to multiples of one step.

    c = V^T (z - mean), V the eigenvectors of the covariance of z; symbol = round(c / step), bounded to what
    training embeddings had. z_hat = mean + V c_hat, c_hat the mean of the coefficients that had the symbol.
    Coefficients that deviate by less than about half a step become 0 and cost next to nothing: with one step
    for all of them this is reverse water-filling with real quantisers (Cover and Thomas 2006, theorem 10.3.3;
    Gersho and Gray 1992, chapter 8). `fit` chooses the step at which training embeddings cost mean_bits on
    average under the range coder's own table, or less where mean_bits would need a step below 1/127 of the
    largest coefficient.

    Raises SemcomError before `fit` and for embeddings that are not finite [N, D].
    """

    mean: torch.Tensor
    basis: torch.Tensor
    step: torch.Tensor
    bound: torch.Tensor
    points: torch.Tensor

    def __init__(self, embedding_dim: int, mean_bits: float) -> None:
        super().__init__()
        self.embedding_dim = self.num_symbols = embedding_dim
        self.mean_bits = mean_bits
        self.alphabet_size = 2 * _MAX_SYMBOL + 1
        self.register_buffer("mean", torch.zeros(embedding_dim, dtype=torch.float64))
        self.register_buffer("basis", torch.zeros(embedding_dim, embedding_dim, dtype=torch.float64))
        # NaN says "not fitted", and a loaded state dict replaces it.
        self.register_buffer("step", torch.tensor(torch.nan, dtype=torch.float64))
        self.register_buffer("bound", torch.zeros(embedding_dim, dtype=torch.int64))
        self.register_buffer("points", torch.zeros(embedding_dim, self.alphabet_size, dtype=torch.float64))

    def fit(self, z: torch.Tensor) -> None:
        """Sets transform, step and what symbols stand for from z [N, D] (8192 rows at most)."""
        z = check_embeddings(z.detach(), self.embedding_dim).double().to(self.mean.device)
        if z.shape[0] == 0:
            raise SemcomError("a codec can't be fitted on no embeddings: give it at least one row")
        rows = torch.linspace(0, z.shape[0] - 1, min(z.shape[0], _MAX_FIT_ROWS), dtype=torch.float64)
        z = z[rows.round().long().to(z.device)]
        self.mean.copy_(z.mean(dim=0))
        centred = z - self.mean
        _, vectors = torch.linalg.eigh(centred.T @ centred / len(z))
        vectors = vectors.flip(1)
        # An eigenvector's sign is arbitrary: the same embeddings are to give the same codec.
        self.basis.copy_(vectors * torch.sign(vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))))
        coefficients = centred @ self.basis
        extent = coefficients.abs().amax(dim=0)
        largest = float(extent.max())
        # At the largest step every symbol is 0; at the smallest the largest coefficient is in bounds.
        low, high = largest / _MAX_SYMBOL, 4 * largest
        if largest > 0:
            rising = coefficients.T.contiguous().sort(dim=1).values
            for _ in range(_NUM_HALVINGS):
                step = (low * high) ** 0.5
                too_many = _cost_bits(rising, extent, step) > self.mean_bits
                low, high = (step, high) if too_many else (low, step)
        self.step.fill_(high if largest > 0 else 1.0)
        self._set_points(coefficients)

    def adapt(self, z: torch.Tensor) -> None:
        """Keeps transform and step, and sets each symbol to the mean of what is rounded to it."""
        self._set_points(self._quick_coefficients(z))

    def _quick_coefficients(self, z: torch.Tensor) -> torch.Tensor:
        z = check_embeddings(z.detach(), self.embedding_dim).double().to(self.mean.device)
        return (z - self.mean) @ self.basis

    def _set_points(self, coefficients: torch.Tensor) -> None:
        symbols = (coefficients / self.step).round().clamp(-_MAX_SYMBOL, _MAX_SYMBOL).long()
        self.bound.copy_(symbols.abs().amax(dim=0))
        place = torch.arange(self.embedding_dim, device=symbols.device) * self.alphabet_size
        cells = (symbols + self.bound + place).flatten()
        size = self.embedding_dim * self.alphabet_size
        count = torch.bincount(cells, minlength=size)
        total = torch.bincount(cells, weights=coefficients.flatten(), minlength=size)
        middle = (torch.arange(self.alphabet_size, device=symbols.device) - self.bound[:, None]) * self.step
        mean = (total / count.clamp(min=1)).reshape(self.embedding_dim, -1)
        self.points.copy_(torch.where(count.reshape(mean.shape) > 0, mean, middle))

    def check_fitted(self) -> None:
        """Raises SemcomError if `fit` was not called and no fitted state was loaded."""
        if self.step.isnan():
            raise SemcomError("this codec has no transform yet: call fit(z) with training embeddings first")

    def _bounded(self, coefficients: torch.Tensor) -> torch.Tensor:
        symbols = (coefficients / self.step).round().long()
        return torch.minimum(torch.maximum(symbols, -self.bound), self.bound) + self.bound

    def quantise(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the symbols of z [N, D], int64 in 0 .. 2 bound."""
        self.check_fitted()
        z = check_embeddings(z, self.embedding_dim).double()
        return self._bounded(_each_times(z - self.mean, self.basis))

    def dequantise(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings that symbols [N, D] stand for, float32."""
        self.check_fitted()
        coefficients = self.points[torch.arange(self.embedding_dim, device=symbols.device), symbols]
        return (_each_times(coefficients, self.basis.T) + self.mean).float()

    def frequencies(self, z: torch.Tensor) -> torch.Tensor:
        """Counts the symbols of z [N, D], plus one each: int64 [D, A]."""
        symbols = self._bounded(self._quick_coefficients(z))
        return count_symbols(symbols, 2 * self.bound + 1, self.alphabet_size)

    def loss(self, z: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Adds nothing: the transform is fitted, not trained."""
        return {}


def _each_times(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Multiplies rows [N, I] by a matrix [I, O], each on its own: its batch must not show in the result."""
    # A copy, since the order of summation depends on where in memory a row begins.
    return (
        torch.stack([row.clone() @ matrix for row in rows])
        if len(rows)
        else rows.new_zeros(0, matrix.shape[1])
    )


def _cost_bits(rising: torch.Tensor, extent: torch.Tensor, step: float) -> float:
    """Mean cross-entropy of rounded coefficients under their own counts plus one each, bits.

    rising: the coefficients [D, N], each in rising order: how many round to a symbol is found by bisection.
    extent: the largest of each [D], in absolute value; those that are 0 everywhere cost nothing.
    """
    bound = (extent / step).round().clamp(max=_MAX_SYMBOL)
    used = bound > 0
    if not used.any():
        return 0.0
    bound, num = bound[used, None], rising.shape[1]
    largest = int(bound.max())
    edges = (torch.arange(-largest, largest, dtype=torch.float64, device=rising.device) + 0.5) * step
    below = torch.searchsorted(rising[used], edges.expand(len(bound), -1).contiguous())
    counts = torch.diff(below, dim=1, prepend=below.new_zeros(len(bound), 1))
    counts = torch.cat((counts, num - below[:, -1:]), dim=1)
    # A place's own symbols alone have one more; none beyond them was met.
    share = (counts + 1) / (num + 2 * bound + 1)
    return -float((counts * share.log2()).sum()) / num
