"""How a run's points are cut into batches, after each of which its records are on disk."""

import pytest

from scenarios.contracts import Point
from scenarios.experiment import NUM_BATCHES, _batches


def points(num_places, methods, num_seeds=2):
    """Methods follow each other at each operating point, as scenarios list them; seeds are innermost."""
    return [
        Point("estimate", method, seed, {"snr_db": float(place), "visible_share": 0.5})
        for place in range(num_places)
        for method in methods
        for seed in range(num_seeds)
    ]


@pytest.mark.parametrize("num_places", [1, 3, 4, 5, 9, 40])
def test_operating_points_are_whole_and_batches_nearly_even(num_places):
    told = points(num_places, "abc")
    batches = _batches(told)
    assert [point for batch in batches for point in batch] == told
    assert len(batches) == min(num_places, NUM_BATCHES)
    homes = [{point.axes["snr_db"] for point in batch} for batch in batches]
    assert sum(len(home) for home in homes) == num_places
    sizes = [len(home) for home in homes]
    assert max(sizes) - min(sizes) <= 1


def test_seeds_that_lie_apart_are_put_together():
    told = sorted(points(4, "ab"), key=lambda point: point.seed)
    batches = _batches(told)
    assert [len(batch) for batch in batches] == [4] * 4
    assert {point.axes["snr_db"] for point in batches[0]} == {0.0}


def test_nothing_makes_no_batch():
    assert _batches([]) == []
