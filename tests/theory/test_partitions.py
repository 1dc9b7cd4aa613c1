"""Partitions deal out every sample once, as evenly or unevenly as their distributions promise."""

from math import sqrt

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from analysis.heterogeneity import label_distances
from nodes.training.partitions import (
    AreaPartition,
    DirichletPartition,
    IidPartition,
    PartitionConfig,
    QuantityPartition,
    SampleInfo,
    TrajectoryPartition,
    areas,
    check_shards,
    partition,
)
from semcom.contracts import SemcomError
from semcom.rng import Streams

EVERY_KIND = [
    IidPartition(),
    DirichletPartition(alpha=2.0),
    DirichletPartition(alpha=2.0, num_areas=5),
    TrajectoryPartition(),
    AreaPartition(),
    QuantityPartition(),
    QuantityPartition(law="zipf"),
]


def generator(seed: int = 0) -> np.random.Generator:
    return Streams(seed).numpy_generator("partition")


def example(num_samples: int, num_trajectories: int = 7) -> SampleInfo:
    drawn = np.random.default_rng(1)
    return SampleInfo(
        num_samples,
        label=drawn.integers(0, 10, num_samples),
        trajectory=np.sort(drawn.integers(0, num_trajectories, num_samples)),
        position_m=drawn.uniform(0, [30, 10], (num_samples, 2)),
    )


@pytest.mark.parametrize("config", EVERY_KIND, ids=str)
@pytest.mark.parametrize("num_clients", [1, 6, 20])
def test_every_sample_is_at_one_client_and_seeds_decide(config, num_clients):
    about = example(1003)
    shards = partition(config, num_clients, about, generator())
    check_shards(shards, 1003)
    assert len(shards) == num_clients
    assert all(shard.dtype == np.int64 and (np.diff(shard) > 0).all() for shard in shards)
    again = partition(config, num_clients, about, generator())
    assert all(map(np.array_equal, shards, again))
    other = partition(config, num_clients, about, generator(1))
    is_same = all(map(np.array_equal, shards, other))
    assert is_same == (config.kind == "area" or num_clients == 1)


@pytest.mark.parametrize("config", EVERY_KIND, ids=str)
def test_five_thousand_clients(config):
    shards = partition(config, 5000, example(50_000, num_trajectories=300), generator())
    assert len(shards) == 5000
    assert min(map(len, shards)) >= 1
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(50_000))


def test_iid_sizes_are_equal_to_within_one_and_who_has_what_is_uniform():
    shards = partition(IidPartition(), 4, SampleInfo(11), generator())
    assert [len(shard) for shard in shards] == [3, 3, 3, 2]
    num = 1500
    owner = np.zeros((11, 4))
    for seed in range(num):
        for client, shard in enumerate(partition(IidPartition(), 4, SampleInfo(11), generator(seed))):
            owner[shard, client] += 1
    # Each sample is at clients of 3, 3, 3 and 2 samples with 3, 3, 3 and 2 in 11.
    expected = num * np.array([3, 3, 3, 2]) / 11
    statistic = ((owner - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, 30) > 1e-4
    assert stats.chi2.sf(((owner - num / 4) ** 2 / (num / 4)).sum(), 30) < 1e-4  # the power check


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_dirichlet_shares_follow_their_marginal(alpha):
    num_labels, num_each, num_clients = 800, 500, 5
    label = np.repeat(np.arange(num_labels), num_each)
    shards = partition(
        DirichletPartition(alpha=alpha), num_clients, SampleInfo(len(label), label), generator()
    )
    shares = np.array([np.bincount(label[shard], minlength=num_labels) for shard in shards]) / num_each
    # Beta(alpha, (K - 1) alpha), smoothed over the rounding to whole samples.
    jitter = np.random.default_rng(0).uniform(-0.5, 0.5, shares.shape) / num_each
    for client in range(num_clients):
        values = (shares[client] + jitter[client]).clip(0, 1)
        far_from_zero = values[values > 0.01]
        marginal, wrong = (stats.beta(a, (num_clients - 1) * a) for a in (alpha, 2 * alpha))

        def cdf(x, law=marginal):
            return (law.cdf(x) - law.cdf(0.01)) / law.sf(0.01)

        assert stats.kstest(far_from_zero, cdf).pvalue > 1e-4
        assert abs((values > 0.01).mean() - marginal.sf(0.01)) < 4.5 * sqrt(0.25 / num_labels)
        seen = stats.kstest(values, wrong.cdf).pvalue
        assert seen < 1e-4  # the power check: twice the alpha is told apart
    variance = (1 / num_clients) * (1 - 1 / num_clients) / (num_clients * alpha + 1)
    squares = (shares - 1 / num_clients) ** 2
    sigma = squares.mean(axis=0).std() / sqrt(num_labels)
    assert abs(squares.mean() - variance) < 4.5 * sigma + 1 / num_each**2
    assert abs(squares.mean() - 1.5 * variance) > 4.5 * sigma


def test_the_samples_of_a_label_are_dealt_out_at_random():
    # With one label, sample 0 is as often at the client with most as the sizes say.
    hits, expected = [], []
    for seed in range(800):
        shards = partition(DirichletPartition(), 3, SampleInfo(30, np.zeros(30, int)), generator(seed))
        largest = max(shards, key=len)
        hits.append(0 in largest)
        expected.append(len(largest) / 30)
    sigma = sqrt(0.25 / 800)
    assert abs(np.mean(hits) - np.mean(expected)) < 4.5 * sigma
    assert abs(1 / 3 - np.mean(expected)) > 4.5 * sigma  # the power check


def test_whole_trajectories_go_to_the_emptiest_client():
    trajectory = np.repeat([4, 8, 15, 16, 23], [10, 7, 6, 5, 4])
    shards = partition(TrajectoryPartition(), 2, SampleInfo(32, trajectory=trajectory), generator())
    # 10 | 7, then 6 to the second, 5 to the first, 4 to the second.
    owned = sorted((sorted(set(trajectory[shard].tolist())) for shard in shards), key=len)
    assert owned == [[4, 16], [8, 15, 23]]
    assert sorted(map(len, shards)) == [15, 17]
    # Which client that is, is drawn.
    first = {
        len(partition(TrajectoryPartition(), 2, SampleInfo(32, trajectory=trajectory), generator(s))[0])
        for s in range(20)
    }
    assert first == {15, 17}


def test_more_clients_than_trajectories_have_runs_of_successive_steps():
    # Interleaved in the file: steps of trajectory 1 at the even numbers up to 20, those of 0 elsewhere.
    trajectory = np.zeros(30, dtype=int)
    trajectory[0:20:2] = 1
    shards = partition(TrajectoryPartition(), 7, SampleInfo(30, trajectory=trajectory), generator())
    # 20 and 10 steps: 5 runs of 4 and 2 of 5, as a sixth run for the one leaves 10 for the other.
    assert sorted(map(len, shards)) == [4, 4, 4, 4, 4, 5, 5]
    for shard in shards:
        (number,) = set(trajectory[shard].tolist())
        steps = np.flatnonzero(trajectory == number)
        assert (np.diff(np.searchsorted(steps, shard)) == 1).all()
    check_shards(partition(TrajectoryPartition(), 30, SampleInfo(30, trajectory=trajectory), generator()), 30)


def test_areas_worked_by_hand():
    # A strip 8 long and 1 high: the first cut is across its length, and so are those of the halves.
    position_m = np.array([[7, 0], [0, 1], [5, 1], [2, 0], [1, 0], [3, 1], [6, 0], [4, 1]])
    assert areas(position_m, 4).tolist() == [3, 0, 2, 1, 0, 1, 3, 2]
    # Five samples in three areas: of one, two and two.
    assert areas([[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]], 3).tolist() == [0, 1, 1, 2, 2]
    # A square, cut across x first where both sides are alike, then across y.
    assert areas([[0, 0], [0, 1], [1, 0], [1, 1]], 4).tolist() == [0, 1, 2, 3]
    assert areas([[2.0, 2.0]] * 4, 2).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("num_clients", [2, 7, 64])
def test_areas_are_balanced_boxes_that_keep_apart(num_clients):
    position_m = example(1003).position_m
    shards = partition(AreaPartition(), num_clients, SampleInfo(1003, position_m=position_m), generator())
    assert {len(shard) for shard in shards} <= {1003 // num_clients, 1003 // num_clients + 1}
    low = np.array([position_m[shard].min(axis=0) for shard in shards])
    high = np.array([position_m[shard].max(axis=0) for shard in shards])
    overlap = (low[:, None] < high[None]).all(axis=2) & (low[None] < high[:, None]).all(axis=2)
    assert (overlap.sum(axis=1) == 1).all()
    # Halving the longer side keeps boxes from growing thin.
    assert np.median((high - low).max(axis=1) / (high - low).min(axis=1)) < 3
    assert label_distances(areas(position_m, 8), shards).mean() > 0.45


def test_sizes_are_lognormal():
    config = QuantityPartition(skew=0.8)
    shards = partition(config, 2000, SampleInfo(400_000), generator())
    logarithm = np.log([len(shard) - 1 for shard in shards])
    values = (logarithm - logarithm.mean()) / 0.8
    assert stats.kstest(values, "norm").pvalue > 1e-4
    assert stats.kstest(values * 0.8 / 0.65, "norm").pvalue < 1e-4  # the power check


def test_sizes_follow_zipf_worked_by_hand():
    # m = 1 for each of 4, then 25 in proportion to 1, 1/2, 1/3 and 1/4: 12, 6, 4 and 3.
    sizes = [len(shard) for shard in partition(QuantityPartition(law="zipf"), 4, SampleInfo(29), generator())]
    assert sorted(sizes) == [4, 5, 7, 13]
    most = {
        int(
            np.argmax(
                [len(s) for s in partition(QuantityPartition(law="zipf"), 4, SampleInfo(29), generator(seed))]
            )
        )
        for seed in range(40)
    }
    assert most == {0, 1, 2, 3}
    # 12.5 : 6.25 : 6.25 of 25 has its remainder at the largest fraction.
    flat = partition(QuantityPartition(law="zipf", skew=0, min_samples=2), 4, SampleInfo(30), generator())
    assert sorted(map(len, flat)) == [7, 7, 8, 8]


def refuse(config, num_clients, about, text):
    with pytest.raises(SemcomError, match=text) as caught:
        partition(config, num_clients, about, generator())
    assert "\n" not in str(caught.value)


def test_refusals_name_key_value_and_remedy():
    about = example(50)
    for config in EVERY_KIND:
        refuse(
            config,
            51,
            about,
            r"num_clients = 51 leaves client 50 without any of the 50 samples: take at most 50",
        )
    refuse(IidPartition(), 0, about, "num_clients = 0")
    bare = SampleInfo(50)
    refuse(DirichletPartition(), 5, bare, "kind = dirichlet needs each sample's label")
    refuse(DirichletPartition(num_areas=3), 5, bare, "kind = dirichlet with num_areas needs .* position_m")
    refuse(TrajectoryPartition(), 5, bare, "kind = trajectory needs each sample's trajectory")
    refuse(AreaPartition(), 5, bare, "kind = area needs each sample's position_m")
    refuse(
        DirichletPartition(alpha=0.01),
        40,
        about,
        r"alpha = 0.01 leaves client \d+ with 0 of 50 samples .* raise",
    )
    refuse(QuantityPartition(min_samples=11), 5, about, "min_samples = 11 for each of 5 clients")
    refuse(DirichletPartition(min_samples=11), 5, about, "min_samples = 11 for each of 5 clients")
    refuse(DirichletPartition(), 5, SampleInfo(50, label=[1] * 49), r"label is \[49\]: .* \[50\]")
    refuse(AreaPartition(), 5, SampleInfo(50, position_m=np.zeros(50)), r"position_m is \[50\]: .* \[50, 2\]")
    refuse(AreaPartition(), 5, SampleInfo(2, position_m=[[0, 0], [0, np.nan]]), "num_clients = 5")
    refuse(
        AreaPartition(),
        2,
        SampleInfo(2, position_m=[[0, 0], [0, np.nan]]),
        "position_m of sample 1 is not finite",
    )


@pytest.mark.parametrize(
    ("shards", "text"),
    [
        ([[0, 1], [], [2]], "client 1 has no sample"),
        ([[0, 1], [1, 2]], "client 1 has a sample that client 0 has too"),
        ([[0, 0], [1, 2]], "client 0 has a sample that client 0 has too"),
        ([[0], [2]], "sample 1 is at no client"),
        ([[0, 1], [2, 3]], "client 1 has sample 3 of 3"),
        ([[0, 1], [2, -1]], "client 1 has sample -1 of 3"),
    ],
)
def test_shards_from_elsewhere_are_checked(shards, text):
    with pytest.raises(SemcomError, match=text):
        check_shards(shards, 3)


def test_kinds_are_told_apart_in_settings():
    adapter = TypeAdapter(PartitionConfig)
    assert adapter.validate_python({"kind": "dirichlet", "alpha": 0.1}) == DirichletPartition(alpha=0.1)
    for wrong in ({"kind": "iid", "alpha": 1}, {"kind": "dirichlet", "alpha": 0}, {"kind": "by-taste"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
