"""Estimating with an unknown mask: the visible region is detected first, sub-array by sub-array.

Where the mask is unknown, hidden elements give noise and no one says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from scenarios.elaa.observations import Observed, check_visible, observe
from semcom.contracts import SemcomError

DETECTED_SIZE = 16
"""Elements of the sub-arrays that are detected where the visibility itself has none."""


class Estimator(Protocol):
    """Anything that estimates whole channels, complex64 [N, M], from what is visible: a pursuit, NOMP."""

    def estimate(self, observed: Observed) -> torch.Tensor: ...


def unmask(
    h: torch.Tensor, visible: torch.Tensor, snr_db: float | torch.Tensor, generator: torch.Generator
) -> Observed:
    """What an array receives that isn't told what it sees: y = v h + n, each element taken as visible.

    As `observe` otherwise, and raises what it raises. The noise is the same from the same generator state.
    """
    check_visible(visible)
    return observe(torch.where(visible, h, 0), torch.ones_like(visible), snr_db, generator)


@dataclass(frozen=True)
class RegionDetector:
    """Detects the visible sub-arrays by their energy, then again by how well a first estimate explains them.

    First: e_g + fusing (e_(g-1) + e_(g+1)) > (1 + 2 fusing) (1 + threshold) with e_g the mean |y|^2 /
    noise_var of sub-array g; beyond the ends stands the one at the end. Then, rounds times: with h_hat
    from the visible elements so far, sum of (|y|^2 - |y - h_hat|^2) / noise_var > margin, which is the
    log-likelihood ratio of seen against hidden. The strongest sub-array is always taken as visible.
    Source: energy detection as Urkowitz, Energy detection of unknown deterministic signals, Proc. IEEE 55(4),
    1967; a region before pursuit as Han, Jin, Wen and Ma, Channel estimation for extremely large-scale
    massive MIMO systems, IEEE Wireless Commun. Lett. 9(5), 2020.
    """

    pursuit: Estimator
    subarray_size: int = 16
    threshold: float = 0.5
    fusing: float = 0.5
    rounds: int = 1
    margin: float = 3.0

    def detect(self, observed: Observed) -> torch.Tensor:
        """Tells which elements are visible, bool [N, M]. Raises SemcomError for sub-arrays that don't fit."""
        visible = self._by_energy(observed)
        for _ in range(self.rounds):
            visible = self._by_fit(observed, visible)
        return visible

    def estimate(self, observed: Observed) -> torch.Tensor:
        """Detects and estimates the channels at all elements, complex64 [N, M]."""
        return self.pursuit.estimate(restrict(observed, self.detect(observed)))

    def _by_energy(self, observed: Observed) -> torch.Tensor:
        energy = self._sums(observed.y.abs().square(), observed) / self.subarray_size
        padded = torch.cat([energy[:, :1], energy, energy[:, -1:]], dim=1)
        fused = energy + self.fusing * (padded[:, :-2] + padded[:, 2:])
        seen = fused > (1 + 2 * self.fusing) * (1 + self.threshold)
        return self._whole(seen, energy)

    def _by_fit(self, observed: Observed, visible: torch.Tensor) -> torch.Tensor:
        return self.explained(observed, self.pursuit.estimate(restrict(observed, visible)))

    def explained(self, observed: Observed, h_hat: torch.Tensor) -> torch.Tensor:
        """Which elements' sub-arrays a first estimate [N, M] explains, bool [N, M]."""
        gain = observed.y.abs().square() - (observed.y - h_hat).abs().square()
        ratio = self._sums(gain, observed)
        return self._whole(ratio > self.margin, ratio)

    def _sums(self, values: torch.Tensor, observed: Observed) -> torch.Tensor:
        """Sums over sub-arrays in units of the noise, float32 [N, G]."""
        if values.shape[1] % self.subarray_size:
            raise SemcomError(
                f"sub-arrays of {self.subarray_size} don't divide {values.shape[1]} elements: change it"
            )
        return values.unflatten(1, (-1, self.subarray_size)).sum(dim=2) / observed.noise_var[:, None]

    def _whole(self, seen: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        strongest = torch.zeros_like(seen).scatter(1, strength.argmax(dim=1, keepdim=True), True)
        return (seen | strongest).repeat_interleave(self.subarray_size, dim=1)


def fit_region_detector(
    pursuit: Estimator,
    observed: Observed,
    visible: torch.Tensor,
    truth: torch.Tensor,
    subarray_size: int = 16,
    thresholds: Sequence[float] = (0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0),
    fusings: Sequence[float] = (0.0, 0.25, 0.5, 1.0),
    margins: Sequence[float] = (0.0, 2.0, 4.0),
) -> RegionDetector:
    """Tunes a detector on validation channels of known visibility.

    threshold and fusing are those of the fewest wrong elements, rounds (0 to 2) and margin of the least mean
    |h_hat - h|^2 / |h|^2. observed: as by `unmask`; visible: bool [N, M]; truth: complex64 [N, M].
    """
    by_energy = [
        RegionDetector(pursuit, subarray_size, threshold, fusing, rounds=0)
        for threshold, fusing in itertools.product(thresholds, fusings)
    ]
    wrong = [int((each.detect(observed) != visible).sum()) for each in by_energy]
    first = by_energy[min(range(len(wrong)), key=wrong.__getitem__)]
    power = truth.abs().square().sum(dim=1)

    def error(h_hat: torch.Tensor) -> float:
        return float(((h_hat - truth).abs().square().sum(dim=1) / power).mean())

    h_first = pursuit.estimate(restrict(observed, first.detect(observed)))
    tried = [(error(h_first), first)]
    for margin in margins:
        h_hat = h_first
        for rounds in (1, 2):
            # Each round starts from the estimate that the one before it ends with: none is made twice.
            detector = replace(first, rounds=rounds, margin=margin)
            h_hat = pursuit.estimate(restrict(observed, detector.explained(observed, h_hat)))
            tried.append((error(h_hat), detector))
    return min(tried, key=lambda each: (each[0], each[1].rounds))[1]


def restrict(observed: Observed, visible: torch.Tensor) -> Observed:
    """What is left of an observation where only these elements are taken as visible."""
    return Observed(torch.where(visible, observed.y, 0), visible, observed.noise_var)
