"""Channels a few snapshots ahead: the last value, linear prediction, and atoms whose phases go on turning.

Shapes: T snapshots so far, M elements; look_ahead counts snapshots from the last one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from scenarios.elaa.dictionaries import Dictionary
from scenarios.elaa.pursuit import Pursuit, Sparse
from semcom.contracts import SemcomError

NUM_ATOMS = (2, 3, 4, 6, 8, 12)
"""Numbers of atoms that simultaneous pursuit is tuned among."""


def last_value(h: torch.Tensor) -> torch.Tensor:
    """The last of the snapshots [N, T, M]: [N, M]."""
    return h[:, -1]


@dataclass(frozen=True)
class LinearPredictor:
    """h_hat(t + a) = sum_(k < p) c_k h(t - k), the same coefficients at each element.

    coefficient: complex64 [p], of the latest snapshot first.
    """

    coefficient: torch.Tensor

    def predict(self, h: torch.Tensor) -> torch.Tensor:
        """Predicts from snapshots [N, T, M]: [N, M]. Raises SemcomError for fewer than p snapshots."""
        order = len(self.coefficient)
        if h.ndim != 3 or h.shape[1] < order:
            raise SemcomError(
                f"snapshots {tuple(h.shape)}: a prediction of order {order} needs [channels, {order} or "
                "more, elements]"
            )
        return torch.einsum("nkm,k->nm", h[:, -order:].flip(1), self.coefficient)


def fit_linear_predictor(
    h: torch.Tensor, target: torch.Tensor, order: int, ridge: float = 0.0
) -> LinearPredictor:
    """Fits the Wiener filter c = (R + ridge tr(R) / p I)^-1 r to estimated snapshots and what came after.

    R = E[x x^H] and r = E[x target^*] over channels and elements, x the last p values; where the snapshots
    are clean this is an autoregression by its covariance method. h: [N, T, M], as they will be given when
    predicting; target: [N, M], the channels look_ahead snapshots after the last one.
    Raises SemcomError for an order above T or shapes that don't match.
    Source: Kay, Fundamentals of statistical signal processing: estimation theory, 1993, 12.6.
    """
    if h.ndim != 3 or not 1 <= order <= h.shape[1] or target.shape != (h.shape[0], h.shape[2]):
        raise SemcomError(
            f"snapshots {tuple(h.shape)}, targets {tuple(target.shape)} and order {order} don't match: they "
            "are [N, T, M], [N, M] and from 1 to T"
        )
    past = h[:, -order:].flip(1).transpose(0, 1).flatten(1).to(torch.complex128)
    gram = past.conj() @ past.T / past.shape[1]
    cross = past.conj() @ target.flatten().to(torch.complex128) / past.shape[1]
    load = ridge * float(gram.diagonal().real.mean()) + 1e-12
    coefficient = torch.linalg.solve(gram + load * torch.eye(order), cross)
    return LinearPredictor(coefficient.to(torch.complex64))


def tune_linear_predictor(
    train: tuple[torch.Tensor, torch.Tensor],
    validation: tuple[torch.Tensor, torch.Tensor],
    orders: Sequence[int] | None = None,
    ridges: Sequence[float] = (0.0, 1e-3, 1e-2, 0.1),
) -> LinearPredictor:
    """Chooses order (all up to T) and ridge by validation data, and then fits to both.

    Each pair is snapshots and targets, as in `fit_linear_predictor`.
    """
    num_snapshots = train[0].shape[1]
    choices = list(itertools.product(orders or range(1, num_snapshots + 1), ridges))
    h, target = validation
    power = target.abs().square().sum(dim=1)

    def error(choice: tuple[int, float]) -> float:
        guess = fit_linear_predictor(*train, *choice).predict(h)
        return float(((guess - target).abs().square().sum(dim=1) / power).mean())

    order, ridge = min(choices, key=error)
    return fit_linear_predictor(torch.cat((train[0], h)), torch.cat((train[1], target)), order, ridge)


def extrapolate_atoms(sparse: Sparse, look_ahead: float) -> torch.Tensor:
    """Gains of atoms look_ahead snapshots on, complex64 [N, K], if their phases go on turning.

    Each atom's turn is w = arg sum_t g_t g_(t-1)^*, and g(T - 1 + a) = exp(j w a) mean_t exp(j w (T - 1 - t))
    g_t: exact for one path of constant Doppler on each atom. Raises SemcomError for a single snapshot.
    Source: the estimate of w as Kay, A fast and accurate single frequency estimator, IEEE Trans. Acoust.,
    Speech, Signal Process. 37(12), 1989, without weights.
    """
    gain = sparse.gain
    if gain.shape[1] < 2:
        raise SemcomError("one snapshot tells no Doppler: give two or more")
    turn = torch.angle((gain[:, 1:] * gain[:, :-1].conj()).sum(dim=1))
    last = gain.shape[1] - 1
    left = torch.arange(last, -1, -1, dtype=torch.float32)[:, None]
    aligned = (gain * torch.polar(torch.ones(()), turn[:, None] * left)).mean(dim=1)
    return aligned * torch.polar(torch.ones(()), turn * look_ahead)


def predict_with_atoms(
    pursuit: Pursuit,
    y: torch.Tensor,
    visible: torch.Tensor,
    noise_var: torch.Tensor,
    look_ahead: float,
    chosen: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """S-OMP over snapshots, then each atom's phase goes on turning: the channel ahead, complex64 [N, M].

    y: complex64 [N, T, M], 0 where hidden; visible: bool [N, M]; noise_var: float32 [N]. look_ahead = 0 is
    the last snapshot, smoothed by those before it. chosen: what `choose` of a pursuit with as many atoms or
    more has found of the same snapshots, where it is known.
    """
    support, energy = pursuit.choose(y, visible) if chosen is None else chosen
    sparse = pursuit.refit(y, visible, noise_var, support, energy)
    ahead = extrapolate_atoms(sparse, look_ahead)
    return pursuit.field(Sparse(sparse.support, ahead[:, None], sparse.count))[:, 0]


def tune_atoms(
    dictionary: Dictionary,
    y: torch.Tensor,
    visible: torch.Tensor,
    noise_var: torch.Tensor,
    targets: Mapping[int, torch.Tensor],
    num_atoms: Sequence[int] = NUM_ATOMS,
    stops: Sequence[float] = (0.0, 1.0, 1.2),
    ridges: Sequence[float] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
) -> dict[int, Pursuit]:
    """Chooses, for each look-ahead, the pursuit whose atoms, turned on, predict validation channels best.

    y: complex64 [N, T, M]; targets: complex64 [N, M] by look-ahead, so many snapshots after the last one; as
    `predict_with_atoms` and `tune_pursuit` otherwise.
    """
    longest = Pursuit(dictionary, min(max(num_atoms), len(dictionary)))
    support, energy = longest.choose(y, visible)
    best, least = dict.fromkeys(targets, longest), dict.fromkeys(targets, math.inf)
    for num, stop, ridge in itertools.product(num_atoms, stops, ridges):
        if num > len(dictionary):
            continue
        pursuit = replace(longest, num_atoms=num, stop=stop, ridge=ridge)
        sparse = pursuit.refit(y, visible, noise_var, support, energy)
        # The look-aheads stand in the snapshots' place.
        gains = torch.stack([extrapolate_atoms(sparse, ahead) for ahead in targets], dim=1)
        h_hat = pursuit.field(Sparse(sparse.support, gains, sparse.count)).unbind(dim=1)
        for (ahead, target), guess in zip(targets.items(), h_hat, strict=True):
            power = target.abs().square().sum(dim=1)
            error = float(((guess - target).abs().square().sum(dim=1) / power).mean())
            if error < least[ahead]:
                best[ahead], least[ahead] = pursuit, error
    return best


def user_turns(h: torch.Tensor) -> torch.Tensor:
    """How the channel of each user turns as a whole, arg sum_t,n h_t,n h_(t-1),n^*: float32 [N], rad.

    h: complex64 [N, T, M], T at least 2: the phase of an autoregression of order one of each user's own.
    """
    return torch.angle((h[:, 1:] * h[:, :-1].conj()).sum(dim=(1, 2)))


def turn_back(h: torch.Tensor, turn: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """Takes turns [N] out of snapshots [N, T, M] at times [T], in snapshots from the last one."""
    return h * torch.polar(torch.ones(()), -turn[:, None] * time)[..., None]
