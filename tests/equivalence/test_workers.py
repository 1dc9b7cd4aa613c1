"""The records don't depend on the number of workers, nor on workers that die on the way."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_cells import fail, mendable, refusing_link, threads_and_square, toy_cell, toy_model

from nodes.cluster import Cluster
from nodes.contracts import CellOutcome, CellSpec
from nodes.process import one_thread
from nodes.schedulers import AgeConfig, MaxSnrConfig, RoundRobinConfig
from nodes.simulation import plan_lanes, restore, save, simulate
from semcom.contracts import SemcomError

NUM_STEPS = 40


def cells() -> list[CellSpec]:
    return [
        toy_cell(0, scheduler=AgeConfig(max_mean_age_steps=2)),
        toy_cell(1),
        toy_cell(2, num_devices=7, scheduler=MaxSnrConfig(min_interval_steps=3), threshold=0.1),
        toy_cell(3, num_devices=3, scheduler=RoundRobinConfig()),
    ]


def run(
    cluster: Cluster, some: list[CellSpec], on_step: Callable[[int], None] | None = None
) -> list[CellOutcome]:
    return simulate(
        some, NUM_STEPS, cluster, shared={"model": toy_model()}, snapshot_steps=8, on_step=on_step
    )


def assert_same(one: list[CellOutcome], other: list[CellOutcome]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for left, right in ((a.counters, b.counters), (a.world, b.world)):
            assert left.keys() == right.keys()
            for name in left:
                assert left[name].dtype == right[name].dtype
                np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.fixture(scope="module")
def expected() -> list[CellOutcome]:
    return run(Cluster(), cells())


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(cluster_of, expected, num_workers):
    assert_same(run(cluster_of(num_workers), cells()), expected)


def test_a_single_cell_is_spread_over_several_device_actors(cluster, expected):
    pids = []
    some = cells()[:1]
    outcomes = run(cluster, some, lambda step: pids.append(len(cluster.actor_pids())) if step == 0 else None)
    assert pids == [4]
    assert_same(outcomes, expected[:1])


@pytest.mark.parametrize("victim", ["device-0-1", "cell-0"])
def test_a_killed_actor_changes_nothing(cluster, expected, victim):
    some, steps = cells()[:1], []

    def kill_once(step: int) -> None:
        steps.append(step)
        if step == 19:  # a few steps are in flight, the last snapshot is that of step 16
            os.kill(cluster.actor_pids()[victim], signal.SIGKILL)

    num_deaths = cluster.num_deaths
    assert_same(run(cluster, some, kill_once), expected[:1])
    assert cluster.num_deaths == num_deaths + 1
    assert steps == list(range(NUM_STEPS))


def test_an_actor_that_keeps_dying_is_given_up(cluster):
    def kill(step: int) -> None:
        os.kill(cluster.actor_pids()["device-0-0"], signal.SIGKILL)

    with pytest.raises(SemcomError, match=r"actor device-0-0 died 2 times") as caught:
        simulate(
            [toy_cell(0, group_size=12)],
            400,
            cluster,
            shared={"model": toy_model()},
            snapshot_steps=4,
            max_restarts=1,
            on_step=kill,
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [False, True])
def test_a_cell_that_cannot_be_made_says_why(cluster, workers):
    broken = replace(toy_cell(0), make_link=refusing_link)
    with pytest.raises(SemcomError) as caught:
        run(cluster if workers else Cluster(), [broken])
    assert type(caught.value) is SemcomError
    assert str(caught.value) == "this link can't be made: choose another"


def test_the_outcome_depends_on_the_streams(expected):
    assert not np.array_equal(expected[0].world["x"], run(Cluster(), [toy_cell(9)])[0].world["x"])


def test_plans_leave_nothing_out_and_need_no_more_actors_than_workers():
    some = [toy_cell(number, num_devices=3 + 4 * number) for number in range(5)]
    for num_workers in range(1, 9):
        plans = plan_lanes(some, NUM_STEPS, num_workers)
        assert len(plans) == min(num_workers, len(some))
        assert sum(len(plan.make_devices) for plan in plans) <= num_workers
        assert sorted(cell for plan in plans for cell in plan.make_stations.args[0]) == list(range(5))
        keys = sorted(key for plan in plans for make in plan.make_devices for key in make.args[1])
        assert keys == [
            (cell, group) for cell, spec in enumerate(some) for group in range(len(spec.groups()))
        ]


def test_a_saved_state_holds_names_of_shared_objects_instead_of_the_objects():
    model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(2, 2))
    weights = {"w": torch.ones(1000)}
    shared = {"model": model, "weights": weights}
    state = {
        "whole": model,
        "part": model[0],
        "tensor": model[0].weight,
        "w": weights["w"],
        "own": torch.ones(3),
    }
    data = save(state, shared)
    assert len(data) < 2000
    back = restore(data, shared)
    assert back["whole"] is model
    assert back["part"] is model[0]
    assert back["tensor"] is model[0].weight
    assert back["w"] is weights["w"]
    assert torch.equal(back["own"], state["own"])
    assert back["own"] is not state["own"]


def test_map_gives_results_in_order_and_errors_as_they_were(cluster):
    for some in (Cluster(), cluster):
        seen = {}
        results = some.map(threads_and_square, range(7), seen.__setitem__)
        assert results == [(1, n * n) for n in range(7)]
        assert seen == dict(enumerate(results))
        with pytest.raises(SemcomError) as caught:
            some.map(mendable, [1])
        assert type(caught.value) is SemcomError
        assert str(caught.value) == "bits = 1 is out of range: it takes 2 or more"
        with pytest.raises(ZeroDivisionError) as other:
            some.map(fail, [1])
        assert type(other.value) is ZeroDivisionError


def test_workers_end_after_their_jobs(cluster):
    def process(_number: int) -> int:
        return os.getpid()

    with Cluster(num_workers=1) as one:
        assert len(set(one.map(process, range(4), jobs_per_worker=1))) == 4
        # Of the three workers' processes that there may be, some then do more than one job.
        assert len(set(one.map(process, range(4)))) < 4


def test_one_thread_is_undone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_cluster_that_cannot_be_had_is_refused_in_one_line():
    with pytest.raises(SemcomError, match="address auto was given without workers"):
        Cluster(0, address="auto")
    with pytest.raises(SemcomError, match="num_workers = -1 is out of range"):
        Cluster(-1)
    with (
        pytest.raises(SemcomError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 .*ray start") as caught,
        Cluster(1, address="127.0.0.1:1") as nowhere,
    ):
        nowhere.map(abs, [1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"num_steps": 0}, {"num_steps": 1, "snapshot_steps": 0}])
def test_a_simulation_of_no_steps_is_refused(settings):
    with pytest.raises(SemcomError, match=r"_steps = 0 is out of range: a simulation takes 1 or more"):
        simulate([toy_cell(0)], cluster=Cluster(), **settings)
