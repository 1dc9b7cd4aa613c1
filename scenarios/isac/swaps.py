"""Whether two sensors of a kind have changed places: a likelihood ratio of what both of them send."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_RIDGE = 0.1


@dataclass(frozen=True)
class SwapTest:
    """Densities of what a sensor and each of M others send, in their own places and in each other's.

    In its own place a sensor sends what is expected of it and a residual, N(mean, variance) [2, M, d]. In the
    other's it sends N(offset + slope x, spread), x what is expected of the other: [2, M, d], slope
    [2, M, d, d]. The dimensions' residuals count as independent.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    offset: torch.Tensor
    slope: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def fit(cls, pairs: torch.Tensor, expected: torch.Tensor, swapped: torch.Tensor) -> SwapTest:
        """Fits to sequences without faults.

        pairs, expected, swapped [U, T, 2, M, d]: what the sensor (first) and each of the others (second) have
        sent, what was expected of them, and what they would have sent in each other's place. Slopes are by
        ridge regression (Hoerl and Kennard 1970).
        """
        pairs, expected, swapped = (part.flatten(0, 1) for part in (pairs, expected, swapped))
        x = expected.flip(1)
        scale = _variance(x).sqrt()
        standard, centred = (x - x.mean(dim=0)) / scale, swapped - swapped.mean(dim=0)
        gram = torch.einsum("npmd,npme->pmde", standard, standard) / len(x)
        product = torch.einsum("npmd,npme->pmde", standard, centred) / len(x)
        slope = torch.linalg.solve(gram + _RIDGE * torch.eye(x.shape[-1]), product) / scale[..., None]
        own, moved = pairs - expected, swapped - torch.einsum("npmd,pmde->npme", x, slope)
        return cls(own.mean(dim=0), _variance(own), moved.mean(dim=0), slope, _variance(moved))

    def evidence(self, pairs: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Returns log p(pairs | swapped) - log p(pairs | not swapped), with each of the others: [U, T, M]."""
        moved = self.offset + torch.einsum("utpmd,pmde->utpme", expected.flip(2), self.slope)
        own = _log_density(pairs - expected - self.mean, self.variance)
        return (_log_density(pairs - moved, self.spread) - own).sum(dim=(2, 4))


def accumulate(evidence: torch.Tensor, memory: float) -> torch.Tensor:
    """Returns a_t = max(l_t, f a_(t-1) + max(l_t, 0)) of evidence l [U, T, ...], f the memory.

    Evidence against is not added: a sensor that has changed places goes on as the other would, and once its
    new place is its past, nothing stands out any more. a_0 = l_0.
    """
    steps = [evidence[:, 0]]
    for step in range(1, evidence.shape[1]):
        new = evidence[:, step]
        steps.append(torch.maximum(new, memory * steps[-1] + new.clamp_min(0)))
    return torch.stack(steps, dim=1)


def _variance(rows: torch.Tensor) -> torch.Tensor:
    return (rows - rows.mean(dim=0)).square().mean(dim=0).clamp_min(1e-6)


def _log_density(x: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Log of the normal density N(0, variance), less a constant."""
    return -(x.square() / variance + variance.log()) / 2
