"""The mean of each path's field over what its angle and distance may be, given what was observed.

Shapes: N channels, K paths, M elements, S slopes, C curvatures; R paths of any channels.
"""

from __future__ import annotations

import math

import torch

from scenarios.elaa.line_array import LineArray
from scenarios.elaa.nomp import Paths
from scenarios.elaa.observations import Observed
from scenarios.elaa.path_refinement import PathSet, Waves, path_units

_NUM_SLOPES, _NUM_CURVATURES = 25, 21
_REACH = 4.0
"""How far the grid reaches, in deviations by the Cramer-Rao bound."""
_LARGEST_DEVIATION_RAD = 3.0
_LARGEST_FLATNESS = 10.0
_FIRST_GAIN_VAR, _OTHER_GAIN_VAR = 0.8, 0.04
_BATCH = 16
"""What is made for so many channels stays in the cache."""


def posterior_fields(paths: Paths, observed: Observed) -> torch.Tensor:
    """Expected field of each path at all elements, complex64 [N, K, M]; 0 beyond a channel's count.

    Path p is looked at alone, in what the others leave: r_p = y - sum_(q != p) e_q. Its gain is
    CN(0, G) and its distance uniform, so that with a the response to slope and curvature,

        p(s, k | r_p) ~ p(k) exp(|m|^2 / (T sigma^2 (n + sigma^2 / G))), m = sum_visible conj(a) r_p
        E[g a | r_p] = sum_(s, k) p(s, k | r_p) m / (n + sigma^2 / G) a

    on a grid about the path that NOMP found, 4 deviations of the Cramer-Rao bound wide. Unlike the bound it
    knows that the likelihood is no bell curve: phases far from what is visible are uncertain by whole turns,
    and distances end. The others are not known either: the likelihood is as much flatter, by T (see
    `_flatness`), as the bound is wider than it were if they were. paths: what Nomp found of observed.
    """
    fields = torch.zeros((*paths.gain.shape, observed.y.shape[1]), dtype=torch.complex64)
    for i in range(0, len(observed), _BATCH):
        rows = slice(i, i + _BATCH)
        fields[rows] = _expected(paths[rows], observed[rows])
    return fields


def _expected(paths: Paths, observed: Observed) -> torch.Tensor:
    """`posterior_fields` of a batch: all that there is of K paths as one list of R."""
    array = paths.array
    waves = PathSet(paths.gain, paths.sine, paths.inverse_m).waves(array)
    others = waves.field.sum(dim=1, keepdim=True) - waves.field
    row, number = (paths.gain.abs() > 0).nonzero(as_tuple=True)
    seen, noise_var = observed.visible[row], observed.noise_var[row]
    wave = waves.field[row, number] / paths.gain[row, number].abs()[:, None]
    turned = torch.where(seen, (observed.y[row] - others[row, number]) * wave.conj(), 0)

    covariance = paths.covariance[row, number]
    curvature, log_prior = _curvatures(array, paths.inverse_m[row, number], covariance[:, 2, 2])
    # What slope goes with a curvature, and how far it may be from there.
    follows = covariance[:, 1, 2] / covariance[:, 2, 2].clamp_min(1e-9)
    left = covariance[:, 1, 1] - covariance[:, 1, 2] * follows
    slope = _REACH * torch.linspace(-1, 1, _NUM_SLOPES) * _deviation(left)[:, None]
    along = waves.along[row, number]
    bend = waves.across[row, number] + follows[:, None] * along
    bent = _phasors(curvature, bend)
    sloped = _phasors(slope, along)

    match = (turned[:, None] * bent.conj()) @ sloped.conj().mT
    gain_var = torch.where(number == 0, _FIRST_GAIN_VAR, _OTHER_GAIN_VAR)
    total = seen.sum(dim=1) + noise_var / gain_var
    flat = noise_var * total * _flatness(paths, waves, observed, row, number)
    likely = match.abs().square() / flat[:, None, None] + log_prior[:, :, None]
    weight = torch.softmax(likely.flatten(1), dim=1).view_as(likely)
    expected = (((weight * match / total[:, None, None]) @ sloped) * bent).sum(dim=1) * wave
    fields = torch.zeros_like(waves.field)
    fields[row, number] = expected
    return fields


def _flatness(
    paths: Paths, waves: Waves, observed: Observed, row: torch.Tensor, number: torch.Tensor
) -> torch.Tensor:
    """How much more uncertain paths are because the others of their channel are not known, float32 [R].

    sqrt(det C / det C_alone), from 1 to 10: C is the bound of a path's slope and curvature, and C_alone that
    of the path if it were the only one, its gain unknown. C has the prior of distances in it: where that is
    most of what is known of a curvature, it is 1.
    """
    seen = observed.visible[row].float()
    num = seen.sum(dim=1, keepdim=True)
    slopes = torch.stack((waves.along[row, number], waves.across[row, number]), dim=1)
    slopes = (slopes - (slopes @ seen[..., None]) / num[..., None]) * seen[:, None]
    snr = paths.gain[row, number].abs().square() / observed.noise_var[row]
    alone = 2 * snr[:, None, None] * (slopes @ slopes.mT) + 1e-6 * torch.eye(2)
    bound = paths.covariance[row, number, 1:, 1:]
    return (torch.linalg.det(alone) * torch.linalg.det(bound)).clamp(1, _LARGEST_FLATNESS**2).sqrt()


def _curvatures(
    array: LineArray, inverse_m: torch.Tensor, variance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Curvatures about those of paths [R], in path_units, and log p of them, both float32 [R, C].

    Distances uniform from a to b: p(k) ~ 1 / k^2, k from 1 / b to 1 / a; without b, k is uniform to 1 / a.
    """
    _, unit = path_units(array)
    nearest = 1 / array.min_distance_m
    farthest = 0.0 if math.isinf(array.max_distance_m) else 1 / array.max_distance_m
    reach = _REACH * variance.clamp_min(1e-8).sqrt() * unit
    middle = inverse_m.clamp(farthest, nearest)
    low, high = (middle - reach).clamp_min(farthest), (middle + reach).clamp_max(nearest)
    inverse = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, _NUM_CURVATURES)
    log_prior = -2 * inverse.log() if farthest > 0 else torch.zeros_like(inverse)
    return (inverse - inverse_m[:, None]) / unit, log_prior


def _deviation(variance: torch.Tensor) -> torch.Tensor:
    return variance.clamp_min(1e-6).sqrt().clamp_max(_LARGEST_DEVIATION_RAD)


def _phasors(value: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """exp(j value by) of values [R, G] and what they turn at each element [R, M]: complex64 [R, G, M]."""
    angle = value[:, :, None] * by[:, None]
    return torch.complex(angle.cos(), angle.sin())
