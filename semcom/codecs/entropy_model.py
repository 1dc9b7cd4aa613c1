"""A learned factorised entropy model, and the uniform quantiser whose steps are learned with it."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from semcom.codecs.checks import check_embeddings
from semcom.contracts import SemcomError
from semcom.rng import Streams

_WIDTHS = (1, 3, 3, 3, 1)
_NUM_STEPS = 200
_BATCH_SIZE = 512
_LEARNING_RATE = 0.02
# Probabilities become whole numbers that add up to about this.
_TOTAL_FREQUENCY = 1 << 20
_LEAST_PROBABILITY = 1e-9


class FactorisedDensity(nn.Module):
    """A cumulative distribution function learned for each of D dimensions, independent of the others.

    c(x) = sigmoid(f_K(... f_1(x))), f_k(x) = g_k(H_k x + b_k), g_k(x) = x + tanh(a_k) * tanh(x) and the last
    without g, H_k = softplus of the weights: it can only rise. Source: Balle et al. 2018,
    arXiv 1802.01436, appendix 6.1.
    """

    def __init__(self, num_dims: int, generator: torch.Generator) -> None:
        super().__init__()
        num_layers = len(_WIDTHS) - 1
        # At the start c is close to a logistic distribution of the scale of a standard normal one.
        scale = 0.6 ** (1 / num_layers)
        self.matrices, self.biases, self.factors = (nn.ParameterList() for _ in range(3))
        for before, after in pairwise(_WIDTHS):
            start = math.log(math.expm1(1 / scale / before))
            self.matrices.append(nn.Parameter(torch.full((num_dims, after, before), start)))
            bias = torch.rand(num_dims, after, 1, generator=generator) - 0.5
            self.biases.append(nn.Parameter(bias if after > 1 else torch.zeros_like(bias)))
            self.factors.append(nn.Parameter(torch.zeros(num_dims, after, 1)))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logit c_d(x), [D, N] for x [D, N], of the dtype of x."""
        h = x[:, None, :]
        for index, (matrix, bias, factor) in enumerate(
            zip(self.matrices, self.biases, self.factors, strict=True)
        ):
            h = F.softplus(matrix.to(x)) @ h + bias.to(x)
            if index < len(self.matrices) - 1:
                h = h + torch.tanh(factor.to(x)) * torch.tanh(h)
        return h[:, 0]

    def probability(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Returns c(high) - c(low), all [D, N], without cancellation in either tail."""
        below, above = self.logits(torch.cat((low, high), dim=1)).chunk(2, dim=1)
        # In the upper half, the difference of what is left above: 1 - c(x) = sigmoid(-logit).
        sign = -torch.sign((below + above).detach())
        sign = torch.where(sign == 0, 1.0, sign)
        return (torch.sigmoid(sign * above) - torch.sigmoid(sign * below)).abs()


class FactorisedQuantiser(nn.Module):
    """Rounds each dimension to multiples of a learned step; its symbols' probabilities are learned too.

    n = round((z - m) / step), z_hat = m + step n, with m the mean. `fit` minimises

        sum_d -log2 p_d(n_d) + lambda sum_d (z_d - z_hat_d)^2

    over the steps and the densities, with n replaced in the first term by (z - m) / step + u, u uniform on
    [-1/2, 1/2) (Balle et al. 2017, arXiv 1611.01704), and rounded straight through in the second. lambda is
    where Gaussian dimensions of the same variances would come to `bits` a dimension on average (reverse
    water-filling at high rate); what it does come to is measured, not set.

    Integers are clipped to the range that training embeddings reach, and one beyond at either end: the
    outermost probabilities take the tails. So the table is finite, no packet grows beyond bounds, and an
    embedding far outside is received at the edge, as with every quantiser here.

    Raises SemcomError before `fit` and for embeddings that are not finite [N, D].
    """

    center: torch.Tensor
    deviation: torch.Tensor
    lowest: torch.Tensor
    table: torch.Tensor

    def __init__(self, embedding_dim: int, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise SemcomError(f"bits = {bits} is out of range: a learned entropy model takes 1 to 8")
        self.embedding_dim = self.num_symbols = embedding_dim
        self.bits = bits
        self.alphabet_size = 1 << (bits + 6)
        self._streams = Streams(0)
        self.density = FactorisedDensity(
            embedding_dim, self._streams.torch_generator("entropy-model-weights")
        )
        self.log_step = nn.Parameter(torch.zeros(embedding_dim))
        # NaN says "not fitted", and a loaded state dict replaces it.
        self.register_buffer("center", torch.full((embedding_dim,), torch.nan))
        self.register_buffer("deviation", torch.ones(embedding_dim))
        self.register_buffer("lowest", torch.zeros(embedding_dim, dtype=torch.int64))
        table = torch.zeros(embedding_dim, self.alphabet_size, dtype=torch.int32)
        table[:, 0] = 1
        self.register_buffer("table", table)

    def fit(self, z: torch.Tensor) -> None:
        """Learns steps and densities from z [N, D], from scratch."""
        z = check_embeddings(z.detach(), self.embedding_dim).to(self.center.device)
        if z.shape[0] == 0:
            raise SemcomError("a codec can't be fitted on no embeddings: give it at least one row")
        generator = self._streams.torch_generator("entropy-model-training")
        fresh = FactorisedDensity(self.embedding_dim, self._streams.torch_generator("entropy-model-weights"))
        self.density.load_state_dict(fresh.state_dict())
        self.center.copy_(z.mean(dim=0))
        deviation = (z - self.center).square().mean(dim=0).sqrt()
        # A dimension that never varies is told apart from its mean by nothing.
        varies = deviation > 1e-6 * z.abs().amax(dim=0)
        self.deviation.copy_(torch.where(varies, deviation, 1.0))
        x = torch.where(varies, (z - self.center) / self.deviation, 0.0)
        variance = torch.where(varies, self.deviation.double().square(), 0.0)
        distortion = math.pi * math.e / 6 * _water_level(variance, self.bits * self.embedding_dim)
        price = (variance / (2 * math.log(2) * distortion)).to(x)
        reach = x.abs().amax(dim=0)
        # The step of a uniform quantiser with that distortion, in deviations.
        start = (12 * distortion / variance.clamp(min=1e-300)).sqrt().clamp(max=4.0).to(x)
        least = (2.2 * reach / (self.alphabet_size - 6)).clamp(min=1e-6)
        with torch.no_grad():
            self.log_step.copy_(torch.maximum(start, least).log())
        optimizer = torch.optim.Adam(self.parameters(), lr=_LEARNING_RATE)
        with torch.enable_grad():
            for step in range(_NUM_STEPS):
                optimizer.param_groups[0]["lr"] = _LEARNING_RATE * (1 - step / _NUM_STEPS)
                batch = x[torch.randint(0, len(x), (min(_BATCH_SIZE, 4 * len(x)),), generator=generator)]
                width = self.log_step.exp()
                rounded = (batch / width).detach().round()
                error = (batch - width * rounded).square()
                rate = self._relaxed_bits(batch, width, generator)
                optimizer.zero_grad()
                (rate + (price * error).sum(dim=1)).mean().backward()
                optimizer.step()
                with torch.no_grad():
                    self.log_step.copy_(torch.maximum(self.log_step, least.log()))
        optimizer.zero_grad()
        self._tabulate(x)

    def adapt(self, z: torch.Tensor) -> None:
        """Keeps steps and densities, and tabulates the probabilities over the range that z [N, D] reaches."""
        self._tabulate((check_embeddings(z.detach(), self.embedding_dim) - self.center) / self.deviation)

    @torch.no_grad()
    def _tabulate(self, x: torch.Tensor) -> None:
        """Sets the integers' range from standardised embeddings x [N, D], and their frequencies."""
        numbers = (x.double() / self.log_step.exp().double()).round().long()
        lowest = numbers.amin(dim=0) - 1
        highest = torch.minimum(numbers.amax(dim=0) + 1, lowest + self.alphabet_size - 1)
        numbers = lowest[:, None] + torch.arange(self.alphabet_size, device=x.device)
        width = self.log_step.exp().double()[:, None]
        low, high = (numbers - 0.5) * width, (numbers + 0.5) * width
        far = 1e6
        low = torch.where(numbers == lowest[:, None], -far, low)
        high = torch.where(numbers == highest[:, None], far, high)
        frequencies = (self.density.probability(low, high) * _TOTAL_FREQUENCY).floor() + 1
        self.lowest.copy_(lowest)
        self.table.copy_(torch.where(numbers <= highest[:, None], frequencies, 0.0))

    def _relaxed_bits(self, x: torch.Tensor, width: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Returns the bits [N] of standardised x [N, D] with uniform noise in place of rounding."""
        noise = torch.rand(x.shape, generator=generator).to(x) - 0.5
        noisy = x + noise * width
        probability = self.density.probability((noisy - width / 2).T, (noisy + width / 2).T)
        return -probability.clamp(min=_LEAST_PROBABILITY).log2().sum(dim=0)

    def loss(self, z: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Returns the mean bits of z [N, D] under the model, differentiable in z and in the densities.

        The steps stay as they are: rate alone would widen them without end.
        """
        x = (z - self.center) / self.deviation
        return {"rate_bits": self._relaxed_bits(x, self.log_step.exp().detach(), generator).mean()}

    def check_fitted(self) -> None:
        """Raises SemcomError if `fit` was not called and no fitted state was loaded."""
        if self.center.isnan().any():
            raise SemcomError("this codec has no steps yet: call fit(z) with training embeddings first")

    def _step(self) -> torch.Tensor:
        return self.log_step.detach().exp() * self.deviation

    def quantise(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the symbols of z [N, D], int64: the integers counted from the lowest."""
        self.check_fitted()
        z = check_embeddings(z.detach(), self.embedding_dim)
        symbols = ((z - self.center) / self._step()).round() - self.lowest
        return torch.minimum(symbols.clamp(min=0), (self.table > 0).sum(dim=1) - 1).long()

    def dequantise(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns m + step n for symbols [N, D], float32."""
        self.check_fitted()
        return self.center + self._step() * (symbols + self.lowest)

    def frequencies(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the tabulated probabilities as whole numbers, int32 [D, A]; z is not asked again."""
        return self.table


def _water_level(variance: torch.Tensor, total_bits: float) -> float:
    """Returns theta with sum_d max(0, 1/2 log2(variance_d / theta)) = total_bits."""
    ordered = variance[variance > 0].sort(descending=True).values
    level = 1.0
    for num in range(1, len(ordered) + 1):
        level = float(2 ** (ordered[:num].log2().mean() - 2 * total_bits / num))
        if num == len(ordered) or level >= float(ordered[num]):
            break
    return level
