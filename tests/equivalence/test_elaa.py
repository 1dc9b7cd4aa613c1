"""The array scenario: the same records for any workers, and for any company of a point."""

from functools import cache

import pytest
import torch

from nodes.cluster import Cluster
from scenarios.contracts import Point
from scenarios.elaa.config import ElaaConfig
from scenarios.elaa.presets import TINY
from scenarios.elaa.scenario import SCENARIO

AT = {"visible_share": 0.5, "snr_db": 10.0}
LOST = {"codec": "uniform-4", "erasure_probability": 0.3, "visible_share": 0.75, "snr_db": 10.0}


@cache
def config() -> ElaaConfig:
    """The tiny preset with groups of five sub-arrays, which are several to a cell."""
    told = TINY.evaluation.model_copy(update={"group_size": 5})
    return TINY.model_copy(update={"evaluation": told})


@cache
def weights() -> dict[str, dict[str, torch.Tensor]]:
    """The shortest of the trainings, and the fronthaul's, by their keys."""
    torch.set_num_threads(1)
    jobs = SCENARIO.training_jobs(config(), 0, "central")
    wanted = ("supervised", "jepa-tokens")
    return {job.key: dict(SCENARIO.train(job).tensors) for job in jobs if job.model in wanted}


def test_records_are_the_same_with_workers_and_without(cluster_of):
    points = [
        Point("estimate", "supervised", 0, AT),
        Point("estimate", "nomp-bound-shrink", 0, AT),
        Point("ahead", "s-omp", 0, {"look_ahead": 1, "visible_share": 0.5, "snr_db": 10.0}),
        Point("feedback", "nomp-parameters", 0, {"bits": 64, "visible_share": 1.0, "snr_db": 20.0}),
        Point("loss", "raw-nomp", 0, LOST),
        Point("loss", "raw-ls", 1, LOST),
        Point("loss", "wave-nomp", 0, LOST | {"codec": "klt-24mean"}),
        Point("loss", "jepa-tokens", 0, LOST),
        Point("loss", "jepa-tokens-hybrid", 0, LOST | {"codec": "klt-24mean"}),
    ]
    expected = SCENARIO.simulate(config(), points, weights(), Cluster())
    assert SCENARIO.simulate(config(), points, weights(), cluster_of(3)) == expected


@pytest.mark.parametrize("result", ["estimate", "loss"])
def test_a_point_s_records_do_not_hang_on_its_company(result):
    """A resumed run asks for what is left: some of the seeds and methods that it asked for at first."""
    at, methods = (
        (AT, ("ls", "polar-omp")) if result == "estimate" else (LOST, ("raw-ls", "raw-nomp", "wave-nomp"))
    )
    points = [Point(result, method, seed, at) for method in methods for seed in (0, 1)]
    together = SCENARIO.simulate(config(), points, {}, Cluster())
    for point, rows in zip(points, together, strict=True):
        assert SCENARIO.simulate(config(), [point], {}, Cluster()) == [rows]


def test_training_leaves_the_process_s_random_state_alone_and_asks_nothing_of_it():
    job = next(job for job in SCENARIO.training_jobs(config(), 0, "central") if job.model == "supervised")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = SCENARIO.train(job).tensors
    assert torch.equal(torch.random.get_rng_state(), before)
    for key, tensor in weights()[job.key].items():
        assert torch.equal(again[key], tensor), key
