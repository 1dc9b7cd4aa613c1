"""Every scenario of the catalogue keeps the contract: presets, jobs, points, and repeatable records."""

import math
import pickle

import pytest

from nodes.cluster import Cluster
from scenarios.catalogue import SCENARIOS, load_scenario
from scenarios.contracts import Point
from scenarios.training import train_job
from semcom.contracts import SemcomError
from semcom.records import COLUMNS, point_id


@pytest.fixture(scope="module", params=SCENARIOS)
def scenario(request):
    return load_scenario(request.param)


@pytest.fixture(scope="module")
def simulated(scenario):
    """Trains the tiny preset for two seeds and simulates the first point of every result and method."""
    config = scenario.presets["tiny"]
    models = {
        job.key: dict(train_job(scenario, job, None).tensors)
        for seed in (0, 1)
        for job in scenario.training_jobs(config, seed, "central")
    }
    first: dict[tuple[str, str, int], Point] = {}
    for point in scenario.points(config, (0, 1)):
        first.setdefault((point.result, point.method, point.seed), point)
    points = list(first.values())
    return config, points, models, scenario.simulate(config, points, models, Cluster())


def test_presets_are_whole_and_frozen(scenario):
    assert {"tiny", "default", "paper"} <= scenario.presets.keys()
    for preset in scenario.presets.values():
        assert isinstance(preset, scenario.config_type)
        assert scenario.config_type.model_validate(preset.model_dump(mode="json")) == preset
        assert pickle.loads(pickle.dumps(preset)) == preset
        assert hash(preset) == hash(pickle.loads(pickle.dumps(preset)))
    assert scenario.presets["default"] == scenario.config_type()


def test_a_training_key_follows_the_seed_and_the_settings_it_depends_on(scenario):
    tiny, default = scenario.presets["tiny"], scenario.presets["default"]
    jobs = scenario.training_jobs(tiny, 0, "central")
    assert jobs or scenario.name == "links", "only the links have no weights"
    assert [job.key for job in jobs] == [job.key for job in scenario.training_jobs(tiny, 0, "central")]
    keys = {job.key for job in jobs}
    for others in (
        scenario.training_jobs(tiny, 1, "central"),
        scenario.training_jobs(default, 0, "central"),
    ):
        assert keys.isdisjoint(job.key for job in others)
    assert pickle.loads(pickle.dumps(jobs)) == jobs
    with pytest.raises(SemcomError, match="mode"):
        scenario.training_jobs(tiny, 0, "no such mode")


def test_points_are_distinct_and_seeds_alike(scenario):
    for preset in scenario.presets.values():
        points = scenario.points(preset, (3, 4))
        names = {point_id(p.result, p.method, p.seed, p.axes) for p in points}
        assert len(names) == len(points)
        of_seed = [[(p.result, p.method, p.axes) for p in points if p.seed == seed] for seed in (3, 4)]
        assert of_seed[0] == of_seed[1]
        for point in points:
            assert not set(point.axes) & set(COLUMNS)
        swept = scenario.sweep_points(preset, (3,))
        assert swept
        assert {p.method for p in swept} <= {p.method for p in points}
        assert all(not p.axes and p.seed == 3 for p in swept)


def test_records_name_their_point_and_hold_numbers(simulated):
    _, points, _, records = simulated
    assert len(records) == len(points)
    for point, rows in zip(points, records, strict=True):
        assert rows
        for row in rows:
            assert (row.method, row.seed) == (point.method, point.seed)
            assert row.num_samples >= 0
            assert math.isfinite(row.value) or row.num_samples == 0, (row.metric, point)
        assert len({(row.metric, *row.point.items()) for row in rows}) == len(rows)


def test_the_same_seed_gives_the_same_records_and_a_new_one_others(scenario, simulated):
    config, points, models, records = simulated
    assert scenario.simulate(config, points, models, Cluster()) == records
    of_seed = [
        {(p.result, p.method): [row.value for row in rows]
         for p, rows in zip(points, records, strict=True) if p.seed == seed}
        for seed in (0, 1)
    ]  # fmt: skip
    assert of_seed[0].keys() == of_seed[1].keys()
    # Scores that count steps of a tiny run may be the same by chance, and are on some processors.
    same = [key for key in of_seed[0] if of_seed[0][key] == of_seed[1][key]]
    assert len(same) <= len(of_seed[0]) // 10, same


def test_points_simulated_alone_give_what_they_give_together(scenario, simulated):
    config, points, models, records = simulated
    for index in range(0, len(points), 5):
        assert scenario.simulate(config, points[index : index + 1], models, Cluster()) == [records[index]]
