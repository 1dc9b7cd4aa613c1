"""Shrinking an estimate towards 0 where it is extrapolated: by how much is learned from validation data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scenarios.elaa.nomp import Nomp, Paths
from scenarios.elaa.observations import Observed
from semcom.contracts import SemcomError

EDGES = (0.5, 8.5, 16.5, 32.5, 64.5, 128.5)
"""Distances to the nearest visible element, in elements, at which another factor begins."""
_TWO_CLASSES = (0.5,)
NOMP_SHRINK = ((0.0,), _TWO_CLASSES)
"""Temperatures and edges of what the literature calls shrinking: one factor for all that is hidden."""


@dataclass(frozen=True)
class Shrink:
    """h_tilde_n = f(b_n) h_hat_n, b_n the class of element n's distance to the nearest visible one.

    edges: where the classes end but the last one's; factor: float32 [classes], from 0 to 1.
    """

    edges: tuple[float, ...]
    factor: torch.Tensor

    def apply(self, h_hat: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Shrinks estimates complex64 [N, M]; visible: bool [N, M]."""
        return h_hat * self.factor[_classes(visible, self.edges)]


def fit_shrink(
    h_hat: torch.Tensor,
    visible: torch.Tensor,
    truth: torch.Tensor,
    edges: Sequence[float] = EDGES,
    power: torch.Tensor | None = None,
) -> Shrink:
    """Fits the factors f = sum Re(h_hat^* h) / P / sum |h_hat|^2 / P of each class, from 0 to 1.

    They give the least mean |f h_hat - h|^2 / P on validation data. h_hat, truth: complex64 [N, M]; visible:
    bool [N, M]; edges: (0.5,) gives one factor to what is visible and one to what is hidden. A class without
    an element keeps the factor of the one before it. power: float32 [N], P of each channel, |h|^2 if None.
    Raises SemcomError for shapes that don't match.
    """
    if h_hat.shape != truth.shape or visible.shape != truth.shape:
        raise SemcomError(
            f"estimates {tuple(h_hat.shape)}, visible elements {tuple(visible.shape)} and channels "
            f"{tuple(truth.shape)} don't match: all are [channels, elements]"
        )
    weight = 1 / (truth.abs().square().sum(dim=1) if power is None else power)[:, None]
    bins = _classes(visible, tuple(edges))
    zero = torch.zeros(len(edges) + 1)
    match = zero.scatter_add(0, bins.flatten(), ((h_hat.conj() * truth).real * weight).flatten())
    own = zero.scatter_add(0, bins.flatten(), (h_hat.abs().square() * weight).flatten())
    factor, last = [], 1.0
    for up, down in zip(match.tolist(), own.tolist(), strict=True):
        last = min(max(up / down, 0.0), 1.0) if down > 0 else last
        factor.append(last)
    return Shrink(tuple(edges), torch.tensor(factor))


@dataclass(frozen=True)
class ShrunkNomp:
    """NOMP, then shrink: by the Cramer-Rao bound of its phases at a temperature, and by learned factors."""

    nomp: Nomp
    temperature: float
    shrink: Shrink

    def estimate(self, observed: Observed) -> torch.Tensor:
        """Estimates the channels at all elements, complex64 [N, M]."""
        return self.field(self.nomp.paths(observed), observed)

    def field(self, paths: Paths, observed: Observed) -> torch.Tensor:
        """The channels that paths make, shrunk, complex64 [N, M]."""
        return self.shrink.apply(paths.field(self.temperature), observed.visible)


def tune_shrink(
    nomp: Nomp,
    observed: Observed,
    truth: torch.Tensor,
    temperatures: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0),
    edges: Sequence[float] = EDGES,
    paths: Paths | None = None,
) -> ShrunkNomp:
    """Chooses the temperature whose fields, with the factors fitted to them, are best on validation data.

    truth: complex64 [N, M]; paths: what nomp found of them, if known. See NOMP_SHRINK.
    """
    paths = nomp.paths(observed) if paths is None else paths
    power = truth.abs().square().sum(dim=1)
    best, least = None, math.inf
    for temperature in temperatures:
        h_hat = paths.field(temperature)
        shrink = fit_shrink(h_hat, observed.visible, truth, edges)
        error = (shrink.apply(h_hat, observed.visible) - truth).abs().square().sum(dim=1)
        if float((error / power).mean()) < least:
            best, least = ShrunkNomp(nomp, temperature, shrink), float((error / power).mean())
    if best is None:
        raise SemcomError("no finite error at any temperature: look at the validation channels")
    return best


def fit_change(
    base: torch.Tensor, changed: torch.Tensor, visible: torch.Tensor, truth: torch.Tensor
) -> Shrink:
    """How much of what one estimate changes in another is to be believed: h = base + f (changed - base).

    One factor f for what is visible and one for what is hidden, as `fit_shrink` fits them: on validation
    data, from 0 to 1, for the least mean |h_hat - h|^2 / |h|^2. So on these channels neither estimate alone
    is better. All complex64 [N, M], but for visible, bool [N, M]. Raises SemcomError for shapes that don't
    match. Source: Breiman, Stacked regressions, Machine Learning 24, 1996.
    """
    if base.shape != truth.shape or changed.shape != truth.shape:
        raise SemcomError(
            f"estimates {tuple(base.shape)}, {tuple(changed.shape)} and channels {tuple(truth.shape)} don't "
            "match: all are [channels, elements]"
        )
    power = truth.abs().square().sum(dim=1)
    return fit_shrink(changed - base, visible, truth - base, _TWO_CLASSES, power)


def _classes(visible: torch.Tensor, edges: tuple[float, ...]) -> torch.Tensor:
    """Class of each element's distance to the nearest visible one: int64 [N, M]."""
    width = visible.shape[1]
    number = torch.arange(width).expand(visible.shape)
    before = torch.where(visible, number, -4 * width).cummax(dim=1).values
    after = torch.where(visible, number, 5 * width).flip(1).cummin(dim=1).values.flip(1)
    away = torch.minimum(number - before, after - number)
    return torch.bucketize(away.float(), torch.tensor(edges))
