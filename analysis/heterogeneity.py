"""Heterogeneity of clients' data: how far the labels at the clients are from those of all, and from iid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats


def label_distances(label: npt.ArrayLike, shards: Sequence[npt.ArrayLike]) -> np.ndarray:
    """Total variation distance of each client's labels from those of all N samples, float64 [K].

    d_k = 1/2 sum_l |n_kl / n_k - N_l / N|: 0 where a client has every label in the proportion of all, up to
    1 - min_l N_l / N where it has the rarest alone. label int [N]: classes, or areas of the ground. shards:
    each client's sample numbers, none of them empty. The mean over the clients is the usual summary.
    """
    group, num_labels = _groups(label)
    sizes = np.array([len(np.asarray(shard)) for shard in shards])
    samples = np.concatenate([np.asarray(shard, dtype=np.int64) for shard in shards])
    cell = np.repeat(np.arange(len(sizes)), sizes) * num_labels + group[samples]
    counts = np.bincount(cell, minlength=len(sizes) * num_labels).reshape(len(sizes), num_labels)
    whole = np.bincount(group) / len(group)
    return 0.5 * np.abs(counts / sizes[:, None] - whole).sum(axis=1)


def iid_label_distances(label: npt.ArrayLike, sizes: npt.ArrayLike) -> np.ndarray:
    """What label_distances is on average where clients' n_k samples are drawn at random, float64 [K]; exact.

    n_kl is hypergeometric of mean m = n_k N_l / N, and with v = floor(m) + 1 its mean deviation is
    E |n_kl - m| = 2 v (N - N_l - n_k + v) / N P(n_kl = v), by De Moivre's telescoping sum (Diaconis and
    Zabell 1991, Statistical Science 6(3), for the binomial). About sqrt(N_l / n_k / N) a label: what is not
    more than this says nothing against iid. sizes int [K]: the clients' numbers of samples.
    """
    group, num_labels = _groups(label)
    num_each, num = np.bincount(group, minlength=num_labels), len(group)
    size, of_client = np.unique(np.asarray(sizes, dtype=np.int64), return_inverse=True)
    drawn = size[:, None]
    above = drawn * num_each // num + 1
    mass = stats.hypergeom(num, num_each, drawn).pmf(above)
    deviation = 2 * above * ((num - num_each - drawn + above) / num) * mass
    return (0.5 * deviation.sum(axis=1) / size)[of_client.reshape(-1)]


def _groups(label: npt.ArrayLike) -> tuple[np.ndarray, int]:
    names, group = np.unique(np.asarray(label), return_inverse=True)
    return group.reshape(-1), len(names)
