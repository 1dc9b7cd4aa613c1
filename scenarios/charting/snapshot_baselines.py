"""Charts of single snapshots that the learned one is held against: none of them is told a position.

`places` is where the dissimilarity that the learned chart is trained on puts users: what learning starts
from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, Isomap

from scenarios.charting.snapshot import Snapshots, describe_view
from scenarios.charting.snapshot_places import RangeConfig, polar_places
from semcom.contracts import SemcomError
from semcom.rng import Streams

FloatArray = npt.NDArray[np.float64]

PATH_LOSS_EXPONENT = 16.0
"""sigma of the feature of Studer et al.: how far its norm undoes the loss of power with the distance."""

RANGE_EXPONENT = 4.0
"""What the power falls with in the chart without learning: range = P^(-1/4)."""

LOG_FLOOR = 3e-4
"""Share of a user's power below which a beam's is not told from zero."""

LOG_POWER_WEIGHT = 4.5
"""Weight of the log power beside the 32 log shares of the beams."""

NUM_NEIGHBORS = 30


def beamspace_feature(snapshots: Snapshots, exponent: float = PATH_LOSS_EXPONENT) -> FloatArray:
    """Returns the absolute second moment in beamspace, scaled (Studer et al., IEEE Access 6, 2018): [N, M M].

    R = mean over s of M^(beta - 1) / |y_s y_s^H|_F^beta y_s y_s^H, beta = 1 + 1 / (2 exponent): each
    observation is scaled before the average. The feature is |F R F^H|, F the unitary DFT.
    """
    beams = torch.fft.fft(snapshots.samples.to(torch.complex128), dim=2, norm="ortho")
    beta = 1 + 1 / (2 * exponent)
    num_antennas = beams.shape[2]
    norm = beams.abs().square().sum(dim=2)
    scale = num_antennas ** (beta - 1) / norm**beta
    moment = torch.einsum("nsm,nsk->nmk", beams * scale[:, :, None], beams.conj()) / beams.shape[1]
    return moment.abs().flatten(1).numpy()


def log_beam_feature(snapshots: Snapshots) -> FloatArray:
    """Returns log(p_b + LOG_FLOOR), p_b a beam's share of the power, and LOG_POWER_WEIGHT log P: [N, M + 1].

    Powers are means over the observations, with their noise.
    """
    beams = torch.fft.fft(snapshots.samples.to(torch.complex128), dim=2, norm="ortho")
    power = beams.abs().square().mean(dim=1)
    total = power.sum(dim=1, keepdim=True)
    return torch.cat(((power / total + LOG_FLOOR).log(), LOG_POWER_WEIGHT * total.log()), dim=1).numpy()


def polar_chart(snapshots: Snapshots, exponent: float = RANGE_EXPONENT) -> FloatArray:
    """Places users by the phase of the lag-1 moment and the power P alone, no learning: [N, 2].

    sin(theta) = -arg(sum_m R_(m+1, m)) / pi for half a wavelength's spacing, range = P^(-1 / exponent); the
    chart is range (cos theta, sin theta): exact for a line of sight whose power falls with that exponent.
    """
    moments = snapshots.moments().to(torch.complex128)
    sine = -moments.diagonal(offset=-1, dim1=1, dim2=2).sum(dim=1).angle() / torch.pi
    distance = moments.diagonal(dim1=1, dim2=2).real.mean(dim=1) ** (-1 / exponent)
    cosine = (1 - sine.square()).clamp(min=0).sqrt()
    return torch.stack((distance * cosine, distance * sine), dim=1).numpy()


def _random(snapshots: Snapshots, seed: int) -> FloatArray:
    return Streams(seed).numpy_generator("snapshot-random").standard_normal((len(snapshots), 2))


def _pca(snapshots: Snapshots, seed: int) -> FloatArray:
    return PCA(2, svd_solver="covariance_eigh").fit_transform(beamspace_feature(snapshots))


def _isomap(snapshots: Snapshots, seed: int) -> FloatArray:
    return Isomap(n_neighbors=NUM_NEIGHBORS, n_components=2).fit_transform(log_beam_feature(snapshots))


def _tsne(snapshots: Snapshots, seed: int) -> FloatArray:
    state = Streams(seed).seed("snapshot-t-sne") % 2**32
    chart = TSNE(2, init="pca", random_state=state).fit_transform(log_beam_feature(snapshots))
    return chart.astype(np.float64)


def _polar(snapshots: Snapshots, seed: int) -> FloatArray:
    return polar_chart(snapshots)


def _places(snapshots: Snapshots, seed: int) -> FloatArray:
    moments = snapshots.moments()
    features = describe_view(moments, torch.arange(moments.shape[-1]), snapshots.noise_power)
    return polar_places(features, RangeConfig()).double().numpy()


BASELINES: dict[str, Callable[[Snapshots, int], FloatArray]] = {
    "random": _random,
    "pca": _pca,
    "isomap": _isomap,
    "t-sne": _tsne,
    "no-learning": _polar,
    "places": _places,
}


def snapshot_baseline(name: str, snapshots: Snapshots, seed: int) -> FloatArray:
    """Returns the chart [N, 2] of one of BASELINES; the seed matters to random and t-sne.

    Raises SemcomError for another name, and for too few snapshots for the neighbours that it needs.
    """
    if name not in BASELINES:
        raise SemcomError(f"baseline {name!r} is unknown: it takes {', '.join(BASELINES)}")
    if len(snapshots) < 4 * NUM_NEIGHBORS:
        raise SemcomError(
            f"{len(snapshots)} snapshots are too few: baselines take {4 * NUM_NEIGHBORS} and more"
        )
    return BASELINES[name](snapshots, seed)
