"""Partitions: which training samples lie at which client."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from semcom.contracts import SemcomError

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
_MAX_DRAWS = 100


class IidPartition(BaseModel):
    """Samples are shuffled and dealt out: sizes are equal to within one."""

    model_config = _FROZEN

    kind: Literal["iid"] = "iid"


class DirichletPartition(BaseModel):
    """Each label's samples are shared out over the K clients by p ~ Dirichlet(alpha, ..., alpha).

    A client's share of a label has mean 1 / K and variance (1 / K) (1 - 1 / K) / (K alpha + 1): a small
    alpha gives each label to few clients, a large one to all alike. Sizes differ too. Where a client has
    fewer than min_samples, all shares are drawn again, 100 times at most; that favours even sizes.
    Source: Yurochkin et al. 2019 (ICML, Bayesian nonparametric federated learning), section 4. Hsu et al.
    2019 (arXiv 1909.06335) draw the other way round, a mixture of labels for each of equally large clients.
    """

    model_config = _FROZEN

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(0.5, gt=0, le=1e6, description="concentration: 0.1 is far from iid, 100 close to it")
    num_areas: int = Field(
        0,
        ge=0,
        le=100_000,
        description="areas of the ground that serve as labels; 0: the samples' own labels",
    )
    min_samples: int = Field(1, ge=1, description="samples that each client has at least")


class TrajectoryPartition(BaseModel):
    """Whole trajectories go to clients, the longest first, each to a client that has fewest samples.

    With more clients than trajectories each client has one run of successive samples: trajectories are cut
    so that the longest run is as short as can be, and the runs of one have lengths equal to within one. Where
    a run ends the next one begins, nothing is left out: windows of several steps have to be cut from a
    client's own samples, or they reach across.
    """

    model_config = _FROZEN

    kind: Literal["trajectory"] = "trajectory"


class AreaPartition(BaseModel):
    """Each client has the samples of one area of the ground (see areas); nothing is drawn."""

    model_config = _FROZEN

    kind: Literal["area"] = "area"


class QuantityPartition(BaseModel):
    """Samples are shuffled, and some clients have many: n_k = m + (N - K m) w_k / sum w, m = min_samples.

    Log-normal: log w_k ~ N(0, skew^2). Zipf: w_k = rank_k^-skew with the ranks in random order. Rounded by
    largest remainders; a skew of 0 is iid.
    """

    model_config = _FROZEN

    kind: Literal["quantity"] = "quantity"
    law: Literal["lognormal", "zipf"] = Field("lognormal", description="distribution of the clients' sizes")
    skew: float = Field(
        1.0, ge=0, le=5, description="standard deviation of the logarithms, or the exponent of the rank"
    )
    min_samples: int = Field(1, ge=1, description="samples that each client has at least")


PartitionConfig = Annotated[
    IidPartition | DirichletPartition | TrajectoryPartition | AreaPartition | QuantityPartition,
    Field(discriminator="kind"),
]


@dataclass(frozen=True)
class SampleInfo:
    """What is known of N training samples; all but the number may be None.

    label int [N]: a class. trajectory int [N]: the number of the trajectory it is of, whose samples follow
    each other in time by sample number. position_m float [N, 2], or [N, 3].
    """

    num_samples: int
    label: npt.ArrayLike | None = None
    trajectory: npt.ArrayLike | None = None
    position_m: npt.ArrayLike | None = None


def partition(
    config: PartitionConfig, num_clients: int, about: SampleInfo, generator: np.random.Generator
) -> list[np.ndarray]:
    """Deals out samples 0 .. N-1 to clients 0 .. K-1: int64 sample numbers of each, increasing.

    Every sample is at exactly one client, and no client is without. Raises SemcomError where there are more
    clients than samples, for a kind that needs what the data don't say, for information of another length or
    that is not finite, and where a Dirichlet draw doesn't give every client its least number of samples.
    """
    num_samples = about.num_samples
    if num_clients < 1:
        raise SemcomError(f"partition: num_clients = {num_clients}: take one client at least")
    if num_clients > num_samples:
        raise SemcomError(
            f"partition: num_clients = {num_clients} leaves client {num_samples} without any of the "
            f"{num_samples} samples: take at most {num_samples} clients, or more data"
        )
    if isinstance(config, IidPartition):
        sizes = _round_to(num_samples, np.ones(num_clients))
        owner = _shuffled(sizes, generator)
    elif isinstance(config, DirichletPartition):
        owner = _dirichlet(config, num_clients, about, generator)
    elif isinstance(config, TrajectoryPartition):
        owner = _by_trajectory(num_clients, _known(about, "trajectory", config.kind), generator)
    elif isinstance(config, AreaPartition):
        owner = areas(_known(about, "position_m", config.kind), num_clients)
    else:
        owner = _shuffled(_sizes(config, num_clients, num_samples, generator), generator)
    order = np.argsort(owner, kind="stable")
    return np.split(order, np.cumsum(np.bincount(owner, minlength=num_clients))[:-1])


def check_shards(shards: Sequence[npt.ArrayLike], num_samples: int) -> None:
    """Raises SemcomError, naming the client, unless each of 0 .. num_samples-1 is in exactly one shard and
    no shard is empty: for partitions from elsewhere, or after samples were left out."""
    owner = np.full(num_samples, -1, dtype=np.int64)
    for client, shard in enumerate(shards):
        numbers = np.asarray(shard, dtype=np.int64)
        if not numbers.size:
            raise SemcomError(f"client {client} has no sample: take fewer clients, or another partition")
        if numbers.min() < 0 or numbers.max() >= num_samples:
            raise SemcomError(
                f"client {client} has sample {numbers.min() if numbers.min() < 0 else numbers.max()} of "
                f"{num_samples}: number samples from 0"
            )
        twice = numbers[owner[numbers] >= 0]
        if twice.size or len(np.unique(numbers)) < len(numbers):
            other = int(owner[twice[0]]) if twice.size else client
            raise SemcomError(f"client {client} has a sample that client {other} has too: keep it at one")
        owner[numbers] = client
    if (owner < 0).any():
        raise SemcomError(f"sample {int((owner < 0).argmax())} is at no client: give it to one")


def areas(position_m: npt.ArrayLike, num_areas: int) -> np.ndarray:
    """Cuts the ground into areas of equally many samples, to within one; each one's area, int64 [N].

    A k-d tree (Bentley 1975): the samples are halved across the longer side of their bounding box, the
    halves again, until there are num_areas (N at most); an odd number is halved unevenly, samples in
    proportion. Nothing is drawn. Neighbouring numbers are near each other; samples at one place may be cut
    apart. position_m [N, 2 or 3].
    """
    place_m = np.asarray(position_m, dtype=np.float64)
    num_samples = len(place_m)
    num_areas = min(num_areas, num_samples)
    order, edges = np.arange(num_samples), np.array([0, num_areas])
    while len(edges) <= num_areas:
        # The samples of areas edges[i] .. edges[i + 1] - 1 lie side by side; each box is sorted, and cut.
        starts = edges[:-1] * num_samples // num_areas
        box = np.repeat(np.arange(len(starts)), np.diff(starts, append=num_samples))
        mine_m = place_m[order]
        size_m = np.maximum.reduceat(mine_m, starts) - np.minimum.reduceat(mine_m, starts)
        along_m = mine_m[np.arange(num_samples), size_m.argmax(axis=1)[box]]
        order = order[np.lexsort((along_m, box))]
        edges = np.union1d(edges, (edges[:-1] + edges[1:]) // 2)
    starts = edges[:-1] * num_samples // num_areas
    area = np.empty(num_samples, dtype=np.int64)
    area[order] = np.repeat(np.arange(num_areas), np.diff(starts, append=num_samples))
    return area


def _dirichlet(
    config: DirichletPartition, num_clients: int, about: SampleInfo, generator: np.random.Generator
) -> np.ndarray:
    if config.num_areas:
        label = areas(_known(about, "position_m", "dirichlet with num_areas"), config.num_areas)
    else:
        label = _known(about, "label", config.kind)
    _check_min_samples(config.min_samples, num_clients, len(label))
    group = np.unique(label, return_inverse=True)[1].reshape(-1)
    num_each = np.bincount(group)
    for _ in range(_MAX_DRAWS):
        shares = generator.dirichlet(np.full(num_clients, config.alpha), len(num_each))
        ends = np.rint(shares.cumsum(axis=1) * num_each[:, None]).astype(np.int64)
        ends[:, -1] = num_each
        counts = np.diff(ends, prepend=0)
        sizes = counts.sum(axis=0)
        if sizes.min() >= config.min_samples:
            break
    else:
        raise SemcomError(
            f"partition: alpha = {config.alpha:g} leaves client {int(sizes.argmin())} with {sizes.min()} of "
            f"{len(label)} samples after {_MAX_DRAWS} draws, min_samples = {config.min_samples}: "
            f"raise alpha, or lower num_clients = {num_clients}"
        )
    order = generator.permutation(len(label))
    order = order[np.argsort(group[order], kind="stable")]
    owner = np.empty(len(label), dtype=np.int64)
    owner[order] = np.repeat(np.tile(np.arange(num_clients), len(num_each)), counts.reshape(-1))
    return owner


def _by_trajectory(num_clients: int, trajectory: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    group = np.unique(trajectory, return_inverse=True)[1].reshape(-1)
    length = np.bincount(group)
    # Which client gets which part is drawn, or the lowest numbers would have the longest trajectories.
    client = generator.permutation(num_clients)
    if num_clients <= len(length):
        order = generator.permutation(len(length))
        order = order[np.argsort(-length[order], kind="stable")]
        part = np.empty(len(length), dtype=np.int64)
        sizes = [(0, number) for number in range(num_clients)]
        for number in order.tolist():
            size, emptiest = sizes[0]
            part[number] = emptiest
            heapq.heapreplace(sizes, (size + int(length[number]), emptiest))
        return client[part[group]]
    num_runs = np.ones(len(length), dtype=np.int64)
    longest = [(-float(steps), number) for number, steps in enumerate(length.tolist())]
    heapq.heapify(longest)
    for _ in range(num_clients - len(length)):
        number = longest[0][1]
        num_runs[number] += 1
        heapq.heapreplace(longest, (-float(length[number] / num_runs[number]), number))
    order = np.argsort(group, kind="stable")
    step = np.empty_like(order)
    step[order] = np.arange(len(order)) - np.repeat(np.cumsum(length) - length, length)
    run = (np.cumsum(num_runs) - num_runs)[group] + step * num_runs[group] // length[group]
    return client[run]


def _sizes(
    config: QuantityPartition, num_clients: int, num_samples: int, generator: np.random.Generator
) -> np.ndarray:
    _check_min_samples(config.min_samples, num_clients, num_samples)
    if config.law == "lognormal":
        weight = np.exp(config.skew * generator.standard_normal(num_clients))
    else:
        weight = (1.0 + generator.permutation(num_clients)) ** -config.skew
    return config.min_samples + _round_to(num_samples - num_clients * config.min_samples, weight)


def _check_min_samples(min_samples: int, num_clients: int, num_samples: int) -> None:
    if min_samples * num_clients > num_samples:
        raise SemcomError(
            f"partition: min_samples = {min_samples} for each of {num_clients} clients is more than the "
            f"{num_samples} samples that there are: lower it, or take fewer clients"
        )


def _round_to(total: int, weight: np.ndarray) -> np.ndarray:
    """Whole numbers of sum `total` in proportion to the weights, by largest remainders; int64 [K]."""
    quota = total * weight / weight.sum()
    whole = np.floor(quota).astype(np.int64)
    whole[np.argsort(whole - quota, kind="stable")[: total - int(whole.sum())]] += 1
    return whole


def _shuffled(sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return generator.permutation(np.repeat(np.arange(len(sizes)), sizes))


def _known(about: SampleInfo, name: Literal["label", "trajectory", "position_m"], kind: str) -> np.ndarray:
    """What is known of the samples under this name, or the line that says what is missing or wrong."""
    given = getattr(about, name)
    if given is None:
        raise SemcomError(
            f"partition: kind = {kind} needs each sample's {name}, which these data don't have: "
            "take kind = iid or quantity, or data with it"
        )
    values = np.asarray(given)
    shape = f"[{about.num_samples}, 2]" if name == "position_m" else f"[{about.num_samples}]"
    if values.shape[:1] != (about.num_samples,) or values.ndim != (2 if name == "position_m" else 1):
        raise SemcomError(f"partition: {name} is {list(values.shape)}: give one for each sample, {shape}")
    if not np.isfinite(values).all():
        wrong = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).argmax())
        raise SemcomError(f"partition: {name} of sample {wrong} is not finite: leave such samples out")
    return values
