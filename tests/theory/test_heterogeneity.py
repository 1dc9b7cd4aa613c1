"""How far clients' labels are from those of all, by hand and against what chance alone makes of it."""

from math import sqrt

import numpy as np
import pytest

from analysis.heterogeneity import iid_label_distances, label_distances
from nodes.training.partitions import (
    DirichletPartition,
    IidPartition,
    PartitionConfig,
    SampleInfo,
    partition,
)
from semcom.rng import Streams


def test_the_distance_from_iid_worked_by_hand():
    # Of all, half are 0; client 0 has 2 of 2, client 1 has 1 of 4: distances 1/2 and 1/4.
    label = [7, 7, 7, 9, 9, 9]
    assert label_distances(label, [[0, 1], [2, 3, 4, 5]]).tolist() == [0.5, 0.25]
    # A client with one sample of three labels in 1:2:3 has TV 1 - p: the mean is sum p (1 - p) = 22/36.
    assert iid_label_distances([0, 1, 1, 2, 2, 2], [1]) == pytest.approx([22 / 36])
    # With all samples there is no distance.
    assert iid_label_distances(label, [6, 3]) == pytest.approx([0, 0.2])  # 2 in 20 draws are 3:0, 18 are 2:1


def distance(config: PartitionConfig, label: np.ndarray, seed: int = 0) -> float:
    """The mean distance of forty clients."""
    generator = Streams(seed).numpy_generator("partition")
    shards = partition(config, 40, SampleInfo(len(label), label), generator)
    return float(label_distances(label, shards).mean())


def test_iid_partitions_are_as_far_from_the_whole_as_chance_alone_makes_them():
    label = np.random.default_rng(2).choice(10, 3000, p=np.arange(1, 11) / 55)
    found = np.array([distance(IidPartition(), label, seed) for seed in range(60)])
    expected = iid_label_distances(label, np.full(40, 75)).mean()
    sigma = found.std(ddof=1) / sqrt(60)
    assert abs(found.mean() - expected) < 4.5 * sigma
    # The power check: one sample in ten fewer at a client would be seen.
    assert abs(found.mean() - iid_label_distances(label, [68]).mean()) > 4.5 * sigma
    assert distance(DirichletPartition(alpha=0.5), label) > 3 * expected
    # Dirichlet's shares, unlike iid draws, are nearly those of the whole as alpha grows.
    assert distance(DirichletPartition(alpha=1e4), label) < expected
